"""What is claimed of the mirror's speed, the bar of each claim, and whether a measurement meets it. Pure.

Each bench says by a function ``claims`` of its result which claims its figures decide; a result file and the table in
docs/benchmarks.md both come from these, so that neither says anything that was not measured.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

Result = Mapping[str, Any]


class Holds(Enum):
    """How a figure is held against its limit."""

    AT_MOST = "≤"
    AT_LEAST = "≥"
    MORE_THAN = ">"


@dataclass(frozen=True, slots=True)
class Bar:
    """``of_peer``: what is held against the limit is ours divided by the best peer's, otherwise ours itself.

    MORE_THAN is decided at two digits, as what is equal there is a tie. ``aim``: what is hoped for beyond the bar.
    """

    holds: Holds
    limit: float
    of_peer: bool = False
    aim: float | None = None

    def is_met(self, value: float) -> bool:
        match self.holds:
            case Holds.AT_MOST:
                return value <= self.limit
            case Holds.AT_LEAST:
                return value >= self.limit
            case Holds.MORE_THAN:
                return round(value, 2) > self.limit

    def __str__(self) -> str:
        aim = "" if self.aim is None else f", aim {self.aim:g}"
        return f"{'ratio ' if self.of_peer else ''}{self.holds.value} {self.limit:g}{aim}"


@dataclass(frozen=True, slots=True)
class Peer:
    """The best of the others in the same run."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Claim:
    """One line of the table. ``unit`` is of our figure and the peer's; ``bar`` None: measured, and no bar is set."""

    claim: str
    case: str
    ours: float
    unit: str
    bar: Bar | None
    peer: Peer | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to the best peer's."""
        return None if self.peer is None or not self.peer.value else round(self.ours / self.peer.value, 3)

    @property
    def met(self) -> bool | None:
        """None where there is no bar, or no peer to compare with."""
        value = self.ratio if self.bar is not None and self.bar.of_peer else self.ours
        return None if self.bar is None or value is None else self.bar.is_met(value)

    def as_json(self) -> dict[str, object]:
        return {
            "claim": self.claim,
            "case": self.case,
            "ours": self.ours,
            "unit": self.unit,
            "best peer": None if self.peer is None else {"name": self.peer.name, "is": self.peer.value},
            "ratio": self.ratio,
            "bar": None if self.bar is None else str(self.bar),
            "met": self.met,
        }

    def as_row(self) -> tuple[str, ...]:
        """As in HEAD."""
        peer = "" if self.peer is None else f"{said(self.peer.value, self.unit)} ({self.peer.name})"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (
            self.claim,
            self.case,
            said(self.ours, self.unit),
            peer,
            ratio,
            "none set" if self.bar is None else str(self.bar),
            {None: "", True: "met", False: "missed"}[self.met],
        )


HEAD = ("claim", "case", "ours", "best peer", "ratio", "bar", "")


def said(value: float, unit: str) -> str:
    """A figure with its unit."""
    digits = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3f}".rstrip("0")
    return f"{digits} {unit}".strip()


def best(values: Mapping[str, float], peers: Iterable[str], *, largest: bool) -> Peer | None:
    """The best of these peers that were there."""
    there = {name: values[name] for name in peers if name in values}
    if not there:
        return None
    name = (max if largest else min)(there, key=there.__getitem__)
    return Peer(name, there[name])


def held(value: float, bar: float, *, digits: int = 3, at_least: bool = False) -> dict[str, object]:
    """A figure beside its bar, where it stands within a result."""
    return {"is": round(value, digits), "bar": bar, "met": value >= bar if at_least else value <= bar}


def found(result: Result, *path: str) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All that `held` has put into a result, by its path."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            if {"is", "bar", "met"} == value.keys():
                yield (*path, name), value
            else:
                yield from found(value, *path, name)

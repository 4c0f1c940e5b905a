"""Meters: what each rule of each session decided. Whose one is, and what becomes of figures when rules change. Pure.

A session's meters lie side by side, in the order of bpf/abi.h (METER_…) and then of its filter's rules; their names, as
bytes, say whose each is. A session whose rules change gets other meters. What the former ones had counted goes on under
the same rule, direction and action, and under FORMER_RULES where there is none.
"""

import ctypes
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pktmirror.agent import abi
from pktmirror.agent.classifier import rule_lists
from pktmirror.model.filter import Action, Direction, Filter, Rule
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES, Tally

NAME_BYTES = ctypes.sizeof(abi.MeterName)
RULE_ID_BYTES_MAX = abi.MeterName.rule_id.size
DIGEST_BYTES = abi.MeterRangeEntry.digest.size


@dataclass(frozen=True, slots=True)
class Meter:
    """Whose a meter is."""

    rule_id: str
    direction: Direction
    action: Action


@dataclass(frozen=True, slots=True)
class MeterRange:
    """The meters of a session, the `digest_of` their names, and whether all that its rules decided is in them."""

    first: int
    count: int
    digest: bytes
    is_whole: bool = True


def meter_names(filter_: Filter, rule_ids: Sequence[str | None]) -> bytes:
    """The names of the meters of a session with this filter; ``rule_ids`` in the order of its rules.

    A rule without an id goes by its number. Raises ValueError for an id that no meter can bear.
    """
    ids = {id(rule): rule_id or f"number {rule.number}" for rule, rule_id in zip(filter_.rules, rule_ids, strict=True)}
    names = bytearray()
    for meter in _fixed():
        names += _name(meter)
    for rules in rule_lists(filter_).values():
        for rule in rules:
            names += _name(_meter_of(rule, ids[id(rule)]))
    return bytes(names)


@functools.lru_cache(maxsize=1024)  # they are asked for with each plan
def digest_of(names: bytes) -> bytes:
    """Equal for the same names in the same order."""
    return hashlib.sha256(names).digest()[:DIGEST_BYTES]


def meters_of(names: bytes) -> tuple[Meter, ...]:
    """The meters by their names."""
    return tuple(
        Meter(
            names[at : at + RULE_ID_BYTES_MAX].rstrip(b"\0").decode("ascii", errors="replace") or FORMER_RULES,
            abi.DIRECTIONS[names[at + RULE_ID_BYTES_MAX] & 1],
            Action.ACCEPT if names[at + RULE_ID_BYTES_MAX + 1] else Action.REJECT,
        )
        for at in range(0, len(names), NAME_BYTES)
    )


def carried(meters: Iterable[Meter], tallies: Iterable[Tally], to: Sequence[Meter]) -> list[Tally]:
    """What meters had counted, as the meters that come after them begin with: nothing is lost or doubled."""
    places = {meter: place for place, meter in enumerate(to)}
    begin = [Tally()] * len(to)
    for meter, tally in zip(meters, tallies, strict=True):
        if tally != Tally():
            place = places.get(meter)
            if place is None:
                place = places[Meter(FORMER_RULES, meter.direction, meter.action)]
            begin[place] += tally
    return begin


def summed(rows: Iterable[bytes]) -> list[Tally]:
    """The sums of tallies that stand side by side in each of the rows.

    Each row is added as one long number: no tally of 64 bits overflows, so none carries into its neighbour.
    """
    rows = list(rows)
    sum_ = sum(int.from_bytes(row, "little") for row in rows).to_bytes(len(rows[0]), "little")
    figures = memoryview(sum_).cast("Q")
    return [Tally(figures[at], figures[at + 1]) for at in range(0, len(figures), 2)]


def _fixed() -> list[Meter]:
    """The meters below METER_RULES."""
    meters = [Meter(AMAZON_DNS_RULE, direction, Action.ACCEPT) for direction in abi.DIRECTIONS]
    return meters + [
        Meter(FORMER_RULES, direction, action)
        for direction in abi.DIRECTIONS
        for action in (Action.REJECT, Action.ACCEPT)
    ]


def _meter_of(rule: Rule, rule_id: str) -> Meter:
    return Meter(rule_id, rule.direction, rule.action)


def _name(meter: Meter) -> bytes:
    rule_id = b"" if meter.rule_id == FORMER_RULES else meter.rule_id.encode("ascii", errors="replace")
    if len(rule_id) > RULE_ID_BYTES_MAX:
        raise ValueError(f"the rule id {meter.rule_id} is longer than {RULE_ID_BYTES_MAX} bytes")
    ends = bytes((abi.DIRECTIONS.index(meter.direction), meter.action is Action.ACCEPT))
    return rule_id.ljust(RULE_ID_BYTES_MAX, b"\0") + ends

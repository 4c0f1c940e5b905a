"""What an engine is: it says which instances it has. The values, and what of an engine's words is kept. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pktmirror.desired import LABELS_MAX, WORD_CHARACTERS_MAX

ANSWER_BYTES_MAX = 32 << 20
"""An answer that is longer is none: some 20,000 containers."""

ANSWER_WITHIN_S = 10.0
"""So long an engine may take for the whole of its answer."""


LABELS_BYTES_MAX = 4096
"""Of one instance: whoever makes containers could fill the reports of their host."""


class NoAnswer(Exception):
    """An engine cannot be asked, or answers nonsense; the text says which and what."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap of a virtual machine: the device on the host, and the machine's own MAC address.

    ``generated``: the engine has made up the device's name, and gives it to another machine later.
    """

    device: str
    mac: str
    generated: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """A container, a virtual machine or a pod. ``instance_id`` is its engine's, and never another's."""

    instance_id: str
    name: str
    owner: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[Tap, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """All instances that an engine has, running or not, by their ids.

    ``asked_at_s`` is from before the question was sent: what the host got later is not in the answer.
    """

    instances: Mapping[str, Instance]
    asked_at_s: float = field(default=float("-inf"), compare=False)


class Engine(Protocol):
    """``name`` is the engine's kind, ``provider`` begins the keys of what it runs, ``where`` is what is asked.

    ``ask_every_s``: how often, without an event on the host.
    """

    @property
    def name(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def where(self) -> str: ...

    @property
    def ask_every_s(self) -> float: ...

    def is_there(self) -> bool:
        """Whether there is anything to ask; what was neither configured nor installed is no failure."""

    def ask(self) -> Told:
        """All instances. Raises NoAnswer, within ANSWER_WITHIN_S and the time of one read."""


def word(text: str) -> str:
    """A name as it is kept: what cannot be shown is left out, and the rest cut to WORD_CHARACTERS_MAX."""
    return "".join(filter(str.isprintable, text))[:WORD_CHARACTERS_MAX]


def labels(told: Mapping[str, str] | None) -> dict[str, str]:
    """The labels that are kept, in the order of their keys: no more than LABELS_MAX and LABELS_BYTES_MAX, and none that
    is cut or cannot be shown."""
    kept: dict[str, str] = {}
    bytes_left = LABELS_BYTES_MAX
    for key, value in sorted((told or {}).items()):
        size_bytes = len(key.encode(errors="replace")) + len(value.encode(errors="replace"))
        if key and _fits(key) and _fits(value) and size_bytes <= bytes_left and len(kept) < LABELS_MAX:
            kept[key] = value
            bytes_left -= size_bytes
    return kept


def _fits(text: str) -> bool:
    return len(text) <= WORD_CHARACTERS_MAX and text.isprintable()

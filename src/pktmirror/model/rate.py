"""How much may be copied: a limit of one session, or the budget of a host (spec 1.9). Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """Packets on the wire and their bits a second, each counted as in the ledger; None is no limit."""

    packets_per_s: int | None = None
    bits_per_s: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("packets", self.packets_per_s), ("bits", self.bits_per_s)):
            if value is not None and value < 1:
                raise ValueError(f"{value} {name} a second is no rate; the least is 1")


UNLIMITED = Rate()

"""How much may be copied: the cap of one session, or the budget of a host (spec 1.9). Pure."""

from dataclasses import dataclass

PACKETS_PER_S_MAX = 300_000_000
BITS_PER_S_MAX = 100_000_000_000  # the kernel counts in 1/64 ns: up to here a rate is held to within 3 %

BUDGET_PACKETS_PER_S_OF_A_CPU = 10_000  # 2 to 4 % of its time (docs/decisions/0009, 0011)


@dataclass(frozen=True, slots=True)
class Rate:
    """Packets on the wire and their bits a second, each counted as in the ledger; None is no limit."""

    packets_per_s: int | None = None
    bits_per_s: int | None = None

    def __post_init__(self) -> None:
        for name, value, most in (
            ("packets", self.packets_per_s, PACKETS_PER_S_MAX),
            ("bits", self.bits_per_s, BITS_PER_S_MAX),
        ):
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{value} {name} a second is no rate; the least is 1, the most {most}")

    def __str__(self) -> str:
        packets = None if self.packets_per_s is None else f"{self.packets_per_s:,} packets/s"
        bits = None if self.bits_per_s is None else f"{self.bits_per_s:,} bits/s"
        return " and ".join(part for part in (packets, bits) if part) or "none"


UNLIMITED = Rate()


def default_budget(cpus: int) -> Rate:
    """What a host may copy unless its operator says otherwise: a few hundredths of its CPUs go into copies at most."""
    return Rate(packets_per_s=BUDGET_PACKETS_PER_S_OF_A_CPU * cpus)

"""The ledger: every packet has one outcome, and the outcomes add up.

Figures are wire packets and bytes (a segmentation-offload super-packet counts as the packets it becomes), so that
both ends can be compared. The same names stand in the kernel's counters (bpf/abi.h), the CLI and the reports.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction


class InterfaceOutcome(Enum):
    """What became of a packet at a mirrored interface; exactly one each."""

    TAKEN = "taken by a session"
    NOT_TAKEN = "no session took it"
    NEVER_MIRRORED = "never mirrored (ARP, DHCP, metadata, …)"
    NOT_IP = "not IP"
    MALFORMED = "malformed headers"
    NOT_FOR_THIS_INTERFACE = "not for this interface"
    OWN_COPY = "own copy"
    TARGET_REFUSED = "target refused"


AMAZON_DNS_RULE = "amazon-dns"
"""In the place of a rule's id: the network service by which a filter lets Amazon DNS through beside its rules."""
FORMER_RULES = "former rules"
"""In the place of a rule's id: all rules that a session's filter had before."""


class Stage(Enum):
    """What became of a packet that a session took: ``taken`` is all but BESIDE_SENT, and the hops' losses.

    CUT and TARGET_REFUSED count beside SENT: copies that are shorter than the session asks for, because the target's
    MTU is too small, and the errors with which the target, or a router on the way, answered to copies (spec 5.17).
    Probes (model/probe.py) are no packets that a session took: what becomes of them counts in two stages of their own.
    """

    CAPPED = "capped"
    LEASE_ENDED = "lease ended"
    CLONE_FAILED = "clone failed"
    STALE = "session changed on the way"
    NO_ROUTE = "no route to the target"
    NEIGHBOUR_UNRESOLVED = "neighbour unresolved"
    UNDELIVERABLE = "target not deliverable"
    ENCAPSULATION_FAILED = "encapsulation failed"
    SENT = "sent"
    CUT = "cut to the target's MTU"
    TARGET_REFUSED = "target refused"
    PROBE_SENT = "probes sent"
    PROBE_LOST = "probes lost"


BESIDE_SENT = frozenset({Stage.CUT, Stage.TARGET_REFUSED, Stage.PROBE_SENT, Stage.PROBE_LOST})


@dataclass(frozen=True, slots=True)
class Tally:
    """Packets on the wire and their bytes, from the Ethernet header on, without the frame check sequence."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.packets + other.packets, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class SessionLedger:
    """One session's figures in one direction, as the kernel counts them."""

    verdicts: Mapping[Verdict, Tally] = field(default_factory=dict)
    stages: Mapping[Stage, Tally] = field(default_factory=dict)

    def verdict(self, verdict: Verdict) -> Tally:
        return self.verdicts.get(verdict, Tally())

    def stage(self, stage: Stage) -> Tally:
        return self.stages.get(stage, Tally())

    @property
    def offered(self) -> Tally:
        return sum(self.verdicts.values(), Tally())

    @property
    def lost_in_hop_packets(self) -> int:
        """Taken, but neither sent nor lost for a counted reason: in flight, or dropped between the hops."""
        accounted = sum(self.stage(stage).packets for stage in Stage if stage not in BESIDE_SENT)
        return self.verdict(Verdict.TAKEN).packets - accounted


@dataclass(frozen=True, slots=True)
class RuleLedger:
    """What one rule of a session's filter decided: the packets that it was the first to match.

    ``rule_id`` is AMAZON_DNS_RULE or FORMER_RULES in the place of a rule's. A rule that was changed may have a line for
    each direction and action that it ever had.
    """

    rule_id: str
    direction: Direction
    action: Action
    matched: Tally


def matched(rules: Iterable[RuleLedger], direction: Direction, verdict: Verdict) -> Tally:
    """The sum over the rules that give a session's packets this verdict; no rule does but TAKEN and REJECTED_BY_RULE.

    Where all rules of a session are counted it is what the session's own ledger has of the verdict.
    """
    action = {Verdict.TAKEN: Action.ACCEPT, Verdict.REJECTED_BY_RULE: Action.REJECT}.get(verdict)
    return sum((rule.matched for rule in rules if (rule.direction, rule.action) == (direction, action)), Tally())


@dataclass(frozen=True, slots=True)
class InterfaceLedger:
    """One interface's figures in one direction: ``seen`` is the sum of all outcomes."""

    outcomes: Mapping[InterfaceOutcome, Tally] = field(default_factory=dict)

    def outcome(self, outcome: InterfaceOutcome) -> Tally:
        return self.outcomes.get(outcome, Tally())

    @property
    def seen(self) -> Tally:
        return sum(self.outcomes.values(), Tally())

"""Does the ledger add up? The figures as the control plane hands them out, and what must be equal in them. Pure.

Figures of two places are read at two moments: what is between them counts as missing, so they are compared at rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import BESIDE_SENT, InterfaceOutcome, Stage, Tally
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.refusal import Refusal

LOSSES = tuple(stage for stage in Stage if stage is not Stage.SENT and stage not in BESIDE_SENT)
"""The stages in which a packet that was taken ends before it is sent."""
_KNOWN = frozenset(stage.value for stage in Stage)
_BESIDE = frozenset(stage.value for stage in BESIDE_SENT)


class DirectionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One session, one direction, at the source.

    ``stages`` are by `Stage`'s words: a control plane of a later version knows more of them, each taken for a loss.
    """

    offered: Tally
    verdicts: dict[Verdict, Tally]
    stages: dict[str, Tally]
    lost_in_hop_packets: int
    by_rules: dict[Action, Tally] = {}

    def verdict(self, verdict: Verdict) -> Tally:
        return self.verdicts.get(verdict, Tally())

    def stage(self, stage: Stage) -> Tally:
        return self.stages.get(stage.value, Tally())

    @property
    def later_stages(self) -> frozenset[str]:
        """Those that this version does not know."""
        return frozenset(self.stages) - _KNOWN


class RuleFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule matched. ``number`` None: no rule of the filter has it; ``in_force`` false: it counts no more."""

    rule_id: str
    number: int | None
    direction: Direction
    action: Action
    matched: Tally
    in_force: bool


class Collected(msgspec.Struct, frozen=True, kw_only=True, tag="collected"):
    """The far end, of all streams that the session has used.

    A stream is shared where sessions have or had one VNI, source and target; then these figures are of all of them.
    """

    monitors: tuple[str, ...]
    received: Tally
    written: Tally
    not_written: Tally
    lost_on_wire_packets: int
    shared_with: tuple[str, ...]


class Uncollected(msgspec.Struct, frozen=True, kw_only=True, tag="uncollected"):
    """Nobody counts at the far end, or the two ends cannot be compared: that is no difference."""

    reason: str


class SessionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One session from offer to file; ``problem`` None: it mirrors."""

    session_id: str
    interface_id: str
    target_id: str
    vni: int
    number: int
    outer_source: str | None
    outer_destination: str | None
    problem: str | None
    cap: Rate = UNLIMITED
    directions: dict[Direction, DirectionFigures]
    rules: tuple[RuleFigures, ...] | None = None  # None: they were not asked for
    rules_lack: str | None = "the control plane does not tell what rules matched: it is of an older version"
    sent: Tally
    collector: Collected | Uncollected

    @property
    def capped(self) -> Tally:
        return sum((figures.stage(Stage.CAPPED) for figures in self.directions.values()), Tally())


class InterfaceDirection(msgspec.Struct, frozen=True, kw_only=True):
    """``bypassed_packets`` were never seen: the device's own counters tell of them. None: they are not compared."""

    seen: Tally
    outcomes: dict[InterfaceOutcome, Tally]
    bypassed_packets: int | None = None

    def outcome(self, outcome: InterfaceOutcome) -> Tally:
        return self.outcomes.get(outcome, Tally())


class InterfaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One mirrored interface; ``interface_id`` None: the control plane does not know it (any more)."""

    interface_id: str | None
    host_id: str
    key: str
    directions: dict[Direction, InterfaceDirection]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /pktmirror/v1/ledger`` answers."""

    sessions: tuple[SessionFigures, ...]
    interfaces: tuple[InterfaceFigures, ...]


def of_session(ledger: Ledger, session_id: str | None) -> Ledger:
    """The ledger of one session and its interface; all of it for None. Raises `Refusal` for one that is not there."""
    if session_id is None:
        return ledger
    sessions = tuple(session for session in ledger.sessions if session.session_id == session_id)
    if not sessions:
        known = ", ".join(session.session_id for session in ledger.sessions) or "no session at all"
        raise Refusal(
            f"There is no session {session_id}.", found=known, do="name one of these, or none for all of them"
        )
    mirrored = {session.interface_id for session in sessions}
    return Ledger(
        sessions=sessions,
        interfaces=tuple(interface for interface in ledger.interfaces if interface.interface_id in mirrored),
    )


def differences(session: SessionFigures) -> list[str]:
    """Where a session's figures do not add up, a sentence each; empty: they do."""
    return [*_at_the_source(session), *_by_rules(session), *_on_the_way(session)]


def interface_differences(interface: InterfaceFigures) -> list[str]:
    """Where an interface's outcomes are not what it saw; empty: they are."""
    return [
        f"{direction.value}: {_unequal('seen', figures.seen, 'the outcomes', _sum(figures.outcomes))}"
        for direction, figures in interface.directions.items()
        if figures.seen != _sum(figures.outcomes)
    ]


def bypassed(packets: Mapping[Direction, int]) -> str | None:
    """What it means that packets went past the hooks, by direction; None where none did."""
    counts = [f"{_packets(packets[each])} of {each.value}" for each in Direction if packets.get(each)]
    if not counts:
        return None
    return (
        f"{' and '.join(counts)} went past the hooks, so no session was offered them: XDP, AF_XDP, bpf_redirect_peer "
        "(Cilium), a tc program before ours, or a packet socket with PACKET_QDISC_BYPASS takes or sends them; "
        "LIMITATIONS.md, Past the hooks, says how to find out"
    )


def document(ledger: Ledger) -> dict[str, Any]:
    """The ledger for scripts: the exact figures, and beside each session and interface whether it adds up."""
    sessions = [_judged(session, differences(session)) for session in ledger.sessions]
    interfaces = [_judged(interface, interface_differences(interface)) for interface in ledger.interfaces]
    return {
        "adds_up": all(judged["adds_up"] for judged in (*sessions, *interfaces)),
        "sessions": sessions,
        "interfaces": interfaces,
    }


def _judged(figures: SessionFigures | InterfaceFigures, found: list[str]) -> dict[str, Any]:
    return {**msgspec.to_builtins(figures), "adds_up": not found, "differences": found}


def _at_the_source(session: SessionFigures) -> Iterator[str]:
    for direction, figures in session.directions.items():
        if figures.offered != _sum(figures.verdicts):
            unequal = _unequal("offered", figures.offered, "the verdicts", _sum(figures.verdicts))
            yield f"{direction.value}: {unequal}"
        missing = figures.verdict(Verdict.TAKEN).packets - sum(
            tally.packets for stage, tally in figures.stages.items() if stage not in _BESIDE
        )
        if missing > 0:
            yield (
                f"{direction.value}: {_packets(missing)} taken and neither sent nor lost for a counted reason: "
                "in flight, or dropped between the hops"
            )
        elif missing < 0:
            yield f"{direction.value}: {_packets(-missing)} more sent or lost than were taken"
    sent = sum((figures.stage(Stage.SENT) for figures in session.directions.values()), Tally())
    if sent != session.sent:
        yield _unequal("sent", session.sent, "both directions", sent)


def _by_rules(session: SessionFigures) -> Iterator[str]:
    """What a session took or rejected by rule is what its rules matched, unless these are known to lack something."""
    if session.rules_lack is not None:
        return
    for direction, figures in session.directions.items():
        for verdict, action in ((Verdict.TAKEN, Action.ACCEPT), (Verdict.REJECTED_BY_RULE, Action.REJECT)):
            by_rules = figures.by_rules.get(action, Tally())
            if figures.verdict(verdict) != by_rules:
                unequal = _unequal(verdict.value, figures.verdict(verdict), f"the {action.value} rules", by_rules)
                yield f"{direction.value}: {unequal}"


def _on_the_way(session: SessionFigures) -> Iterator[str]:
    collector = session.collector
    if isinstance(collector, Uncollected):
        return
    of_all = f" (with {', '.join(collector.shared_with)})" if collector.shared_with else ""
    missing = collector.lost_on_wire_packets
    if missing > 0:
        yield f"{_packets(missing)} sent{of_all} and not received: in flight, or lost between host and collector"
    elif missing < 0:
        yield (
            f"{_packets(-missing)} more received than sent{of_all}: "
            "somebody else sends with this VNI, or counters began anew while the control plane was down"
        )
    elif not collector.shared_with and session.sent.bytes != collector.received.bytes:
        yield _unequal("sent", session.sent, "received", collector.received)
    unwritten = collector.received.packets - collector.written.packets
    if unwritten:
        yield f"{_packets(unwritten)} received and not written: the monitor's report says why"


def _sum(tallies: Mapping[Any, Tally]) -> Tally:
    return sum(tallies.values(), Tally())


def _packets(count: int) -> str:
    return f"{count:,} {'packet' if count == 1 else 'packets'}"


def _unequal(name: str, tally: Tally, other_name: str, other: Tally) -> str:
    return (
        f"{name} is {_packets(tally.packets)}, {tally.bytes:,} bytes, "
        f"and {other_name} {_packets(other.packets)}, {other.bytes:,} bytes"
    )

"""The ledger across both ends: what agents took and sent beside what monitors received and wrote. Pure.

A monitor sees streams, not sessions: a VNI between two outer addresses. Sessions of one interface with one VNI and
one target share a stream, and then the stream stands with each of them and names the others.
"""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from pktmirror.control.placement import Resources, delivery
from pktmirror.control.records import SessionRecord
from pktmirror.control.reports import Reports
from pktmirror.desired import Destination, Undeliverable
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally

NO_MONITOR = "no monitor reports this target"
NO_FIGURES = "no agent reports this session"

Stream = tuple[int, str, str]
"""VNI, outer source, outer destination."""


class DirectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One direction at the source: ``offered`` is the sum of the verdicts; taken = lost in hop + the stages."""

    offered: Tally
    verdicts: Mapping[str, Tally]
    stages: Mapping[str, Tally]
    lost_in_hop_packets: int


class CollectorRow(msgspec.Struct, frozen=True, kw_only=True, tag="collected"):
    """The far end. ``lost_on_wire_packets`` = sent - received, which counts what is still in flight as lost."""

    monitors: tuple[str, ...]
    received: Tally
    written: Tally
    not_written: Tally
    lost_on_wire_packets: int
    shared_with: tuple[str, ...]


class Uncollected(msgspec.Struct, frozen=True, kw_only=True, tag="uncollected"):
    """Nobody counts at the far end; ``reason`` says why."""

    reason: str


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session's line of the ledger; ``problem`` is its status, None while it mirrors."""

    session_id: str
    interface_id: str
    target_id: str
    vni: int
    number: int
    outer_source: str | None
    outer_destination: str | None
    problem: str | None
    directions: Mapping[str, DirectionRow]
    sent: Tally
    collector: CollectorRow | Uncollected


class _Collected(msgspec.Struct):
    monitors: list[str]
    received: Tally = Tally()
    written: Tally = Tally()


def rows(resources: Resources, reports: Reports, problems: Mapping[str, str | None]) -> list[SessionRow]:
    """A row for each session, by id."""
    figures = {
        session.session_id: session.directions for told in reports.agents.values() for session in told.report.sessions
    }
    streams = {session.session_id: _stream(session, resources) for session in resources.sessions}
    sharing: dict[Stream, list[str]] = defaultdict(list)
    for session_id, stream in streams.items():
        if isinstance(stream, tuple):
            sharing[stream].append(session_id)
    sent = {session_id: _sent(figures.get(session_id, {})) for session_id in streams}
    collected = _collected(reports)
    for stream in sharing:
        _count_silence(stream, collected, reports)
    return [
        _row(session, figures.get(session.session_id), streams, sent, sharing, collected, problems)
        for session in sorted(resources.sessions, key=lambda session: session.session_id)
    ]


def _row(
    session: SessionRecord,
    figures: Mapping[Direction, SessionLedger] | None,
    streams: Mapping[str, Stream | Undeliverable],
    sent: Mapping[str, Tally],
    sharing: Mapping[Stream, list[str]],
    collected: Mapping[Stream, _Collected],
    problems: Mapping[str, str | None],
) -> SessionRow:
    stream = streams[session.session_id]
    collector: CollectorRow | Uncollected
    if isinstance(stream, Undeliverable):
        collector = Uncollected(reason=stream.reason)
    elif stream not in collected:
        collector = Uncollected(reason=NO_MONITOR)
    else:
        collector = _collector(session.session_id, sharing[stream], sent, collected[stream])
    problem = problems.get(session.session_id)
    return SessionRow(
        session_id=session.session_id,
        interface_id=session.interface_id,
        target_id=session.target_id,
        vni=session.vni,
        number=session.number,
        outer_source=stream[1] if isinstance(stream, tuple) else None,
        outer_destination=stream[2] if isinstance(stream, tuple) else None,
        problem=NO_FIGURES if problem is None and figures is None else problem,
        directions={
            direction.value: _direction((figures or {}).get(direction, SessionLedger())) for direction in Direction
        },
        sent=sent[session.session_id],
        collector=collector,
    )


def _direction(ledger: SessionLedger) -> DirectionRow:
    return DirectionRow(
        offered=ledger.offered,
        verdicts={verdict.value: ledger.verdict(verdict) for verdict in Verdict},
        stages={stage.value: ledger.stage(stage) for stage in Stage},
        lost_in_hop_packets=ledger.lost_in_hop_packets,
    )


def _collector(session_id: str, sharing: list[str], sent: Mapping[str, Tally], collected: _Collected) -> CollectorRow:
    received, written = collected.received, collected.written
    sent_packets = sum(sent[other].packets for other in sharing)
    return CollectorRow(
        monitors=tuple(collected.monitors),
        received=received,
        written=written,
        not_written=Tally(received.packets - written.packets, received.bytes - written.bytes),
        lost_on_wire_packets=sent_packets - received.packets,
        shared_with=tuple(other for other in sharing if other != session_id),
    )


def _sent(directions: Mapping[Direction, SessionLedger]) -> Tally:
    return sum((ledger.stage(Stage.SENT) for ledger in directions.values()), Tally())


def _stream(session: SessionRecord, resources: Resources) -> Stream | Undeliverable:
    where = delivery(session, resources)
    source = resources.interfaces[session.interface_id].primary_address
    match where:
        case Destination(address=address):
            return session.vni, str(source), address
        case Undeliverable():
            return where


def _collected(reports: Reports) -> dict[Stream, _Collected]:
    """Every stream that a monitor reports, summed over the monitors."""
    collected: dict[Stream, _Collected] = {}
    for monitor_id, told in sorted(reports.monitors.items()):
        for stream in told.report.streams:
            key = (stream.vni, stream.outer_source, stream.outer_destination)
            sum_ = collected.setdefault(key, _Collected([]))
            sum_.monitors.append(monitor_id)
            sum_.received += Tally(stream.received_packets, stream.received_bytes)
            sum_.written += Tally(stream.written_packets, stream.written_bytes)
    return collected


def _count_silence(stream: Stream, collected: dict[Stream, _Collected], reports: Reports) -> None:
    """A monitor that listens at the target's own address and has not seen the stream has received nothing of it."""
    if stream in collected:
        return
    listening = [
        monitor_id
        for monitor_id, told in sorted(reports.monitors.items())
        if told.report.listening.rpartition(":")[0].strip("[]") == stream[2]
    ]
    if listening:
        collected[stream] = _Collected(listening)

"""What the ledger must remember: which streams each session has used, what ended sessions sent, what counters lost.

A session's counters are for its life, and a monitor counts by stream: a VNI between two outer addresses. So the store
keeps, in the transaction that makes the change, every stream that a session has had; when a session is deleted, what
its agent last reported of it; and when counters begin anew (a monitor is restarted, an agent's host is purged), what
they had come to before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pktmirror.control.placement import Resources, Stream, stream_of
from pktmirror.control.records import (
    CarriedRecord,
    EndedSessionRecord,
    InterfaceRecord,
    SessionRecord,
    StreamRecord,
    UnconfirmedEndRecord,
)
from pktmirror.control.reports import MonitorReport, StreamReport, sent
from pktmirror.control.store import Transaction
from pktmirror.desired import Report
from pktmirror.model.ledger import Tally

ENDED_MAX = 10_000
"""So many ended sessions are remembered; the oldest are forgotten first, and then count for no stream any more."""
WAYS_MAX = 32
"""So many pairs of outer addresses of a session are noted on the word of agents, who could go on for ever: each is kept
as long as the session, and told to all hosts. Those of an operator's changes are noted always."""


@dataclass(frozen=True, slots=True)
class History:
    """``streams`` and ``ended`` are by session id, ``carried`` by session id or `subject` of a stream."""

    streams: Mapping[str, frozenset[Stream]] = field(default_factory=dict)
    ended: Mapping[str, Tally] = field(default_factory=dict)
    carried: Mapping[str, CarriedRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, transaction: Transaction) -> "History":
        streams: dict[str, set[Stream]] = {}
        for record in transaction.streams.where():
            streams.setdefault(record.session_id, set()).add(
                (record.vni, record.outer_source, record.outer_destination)
            )
        return cls(
            {session_id: frozenset(used) for session_id, used in streams.items()},
            {
                record.session_id: Tally(record.sent_packets, record.sent_bytes)
                for record in transaction.ended_sessions.where()
            },
            {record.subject: record for record in transaction.carried.where()},
        )


def subject(stream: Stream) -> str:
    """The name of a stream."""
    return " ".join(map(str, stream))


def ways_of(streams: Iterable[Stream]) -> set[tuple[str, str]]:
    """The pairs of outer addresses that are in use."""
    return {(outer_source, outer_destination) for _, outer_source, outer_destination in streams}


def sessions_changed(
    transaction: Transaction, sessions: Iterable[SessionRecord], *, ways_max: int | None = None
) -> None:
    """Note the streams that these sessions use from now on; where there are ``ways_max`` already, no other ones.

    Where the outer source is the host's, each that the session is known to have had; `agent_told` adds to them.
    """
    for session in sessions:
        _note(transaction, session, None, ways_max)
        for stream in transaction.streams.where(session_id=session.session_id):
            _note(transaction, session, stream.outer_source, ways_max)


def agent_told(transaction: Transaction, outer_sources: Mapping[str, str]) -> dict[str, str]:
    """Note the streams of sessions whose agent says which outer source they use, by session id; those that are noted,
    or never will be as there are too many of the session."""
    noted: dict[str, str] = {}
    for session_id, outer_source in outer_sources.items():
        session = transaction.sessions.get(session_id)
        if session is not None and _note(transaction, session, outer_source, WAYS_MAX):
            noted[session_id] = outer_source
    return noted


def interfaces_changed(
    transaction: Transaction, interfaces: Iterable[InterfaceRecord], *, ways_max: int | None = None
) -> None:
    """Note the streams of all sessions from or to these interfaces, as `sessions_changed` does."""
    for interface in interfaces:
        changed = transaction.sessions.where(interface_id=interface.interface_id)
        for target in transaction.targets.where(resource=interface.interface_id):
            changed += transaction.sessions.where(target_id=target.target_id)
        sessions_changed(transaction, changed, ways_max=ways_max)


def sessions_ended(transaction: Transaction, sent_by: Mapping[str, Tally], now_s: float) -> None:
    """Keep what the sessions that this transaction has removed had sent, by session id, and that their hosts have not
    confirmed it yet. A host that is forgotten confirms nothing. Call it when the revision is the transaction's last."""
    for session_id, host_id in transaction.removed_sessions.items():
        known = sent_by.get(session_id, Tally())
        transaction.ended_sessions.put(EndedSessionRecord(session_id, known.packets, known.bytes, now_s))
        if transaction.hosts.get(host_id) is not None:
            transaction.unconfirmed_ends.put(UnconfirmedEndRecord(session_id, host_id, transaction.revision, now_s))
    if transaction.ended_sessions.count() > ENDED_MAX:
        oldest = sorted(transaction.ended_sessions.where(), key=lambda record: record.ended_at_s)
        for record in oldest[: len(oldest) - ENDED_MAX]:
            _forget(transaction, record.session_id)


def ends_confirmed(transaction: Transaction, report: Report) -> list[UnconfirmedEndRecord]:
    """The deletions that an agent has made true by now."""
    unconfirmed = transaction.unconfirmed_ends.where(host_id=report.host_id)
    return [record for record in unconfirmed if record.revision <= report.applied_revision]


def agent_began_anew(before: Mapping[str, Tally], now: Report) -> dict[str, Tally]:
    """What sessions had sent, by id, of those whose counters are smaller than they were."""
    return {
        session.session_id: before[session.session_id]
        for session in now.sessions
        if session.session_id in before and sent(session.directions).packets < before[session.session_id].packets
    }


def monitor_began_anew(before: MonitorReport, now: MonitorReport) -> list[StreamReport]:
    """The last figures of the streams that a monitor no longer counts, or counts again from zero."""
    current = {_key(stream): stream for stream in now.streams}
    return [
        stream
        for stream in before.streams
        if stream.received_packets and not _goes_on(stream, current.get(_key(stream)))
    ]


def carry_session(transaction: Transaction, session_id: str, sent_: Tally) -> None:
    """The session's counters begin anew: keep what they had come to."""
    _carry(transaction, CarriedRecord(session_id, sent_.packets, sent_.bytes, 0, 0))


def carry_stream(transaction: Transaction, stream: StreamReport) -> None:
    """A monitor counts the stream anew: keep what it had come to. Streams of no session are nobody's loss."""
    if transaction.streams.count(
        vni=stream.vni, outer_source=stream.outer_source, outer_destination=stream.outer_destination
    ):
        _carry(
            transaction,
            CarriedRecord(
                subject(_key(stream)),
                stream.received_packets,
                stream.received_bytes,
                stream.written_packets,
                stream.written_bytes,
            ),
        )


def _note(transaction: Transaction, session: SessionRecord, told: str | None, ways_max: int | None) -> bool:
    """Whether the session uses a stream, which is noted then, unless it would be one way more than ``ways_max``."""
    source = transaction.interfaces.get(session.interface_id)
    target = transaction.targets.get(session.target_id)
    if source is None or target is None or source.primary_address is None:
        return False
    ids = {source.interface_id: source}
    aimed = transaction.interfaces.get(getattr(target.target, "interface_id", ""))
    if aimed is not None:
        ids[aimed.interface_id] = aimed
    around = Resources(0, ids, {target.target_id: target}, {}, (), (session,), transaction.networks)
    match stream_of(session, around, told):
        case (vni, outer_source, outer_destination) as stream:
            if ways_max is not None:
                noted = transaction.streams.where(session_id=session.session_id)
                ways = ways_of((known.vni, known.outer_source, known.outer_destination) for known in noted)
                if len(ways) >= ways_max and (outer_source, outer_destination) not in ways:
                    return True
            entry = f"{session.session_id} {subject(stream)}"
            transaction.streams.put(StreamRecord(entry, session.session_id, vni, outer_source, outer_destination))
            return True
    return False


def _forget(transaction: Transaction, session_id: str) -> None:
    transaction.ended_sessions.remove(session_id)
    transaction.carried.remove(session_id)
    for stream in transaction.streams.where(session_id=session_id):
        transaction.streams.remove(stream.entry)


def _carry(transaction: Transaction, more: CarriedRecord) -> None:
    known = transaction.carried.get(more.subject) or CarriedRecord(more.subject, 0, 0, 0, 0)
    transaction.carried.put(
        CarriedRecord(
            more.subject,
            known.packets + more.packets,
            known.bytes + more.bytes,
            known.written_packets + more.written_packets,
            known.written_bytes + more.written_bytes,
        )
    )


def _key(stream: StreamReport) -> Stream:
    return stream.vni, stream.outer_source, stream.outer_destination


def _goes_on(before: StreamReport, now: StreamReport | None) -> bool:
    return (
        now is not None
        and now.first_seen_ns == before.first_seen_ns
        and now.received_packets >= before.received_packets
    )

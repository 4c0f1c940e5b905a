"""What the ledger must remember: which streams each session has used, what ended sessions sent, what counters lost.

A session's counters are for its life, and a monitor counts by stream: a VNI between two outer addresses. So the store
keeps, in the transaction that makes the change, every stream that a session has had; when a session is deleted, what
its agent last reported of it; and when counters begin anew (a monitor is restarted, an agent's host is purged), what
they had come to before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pktmirror.control import sharing
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
"""So many pairs of outer addresses of a session are kept when an agent tells one more, and could go on for ever: all of
them are told to all hosts. Those of an operator's changes are noted always."""


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


def restless(transaction: Transaction) -> set[str]:
    """The sessions, by id, of which so many ways are known that others may have been forgotten."""
    ways: dict[str, set[tuple[str, str]]] = {}
    for stream in transaction.streams.where():
        ways.setdefault(stream.session_id, set()).add((stream.outer_source, stream.outer_destination))
    return {session_id for session_id, known in ways.items() if len(known) >= WAYS_MAX}


def sessions_changed(
    transaction: Transaction, sessions: Iterable[SessionRecord], *, ways_max: int | None = None
) -> None:
    """Note the streams that these sessions use from now on; of no more than ``ways_max`` ways, where it is given.

    Where the outer source is the host's, each that the session is known to have had; `agent_told` adds to them.
    """
    for session in sessions:
        told = {stream.outer_source for stream in transaction.streams.where(session_id=session.session_id)}
        for outer_source in (None, *sorted(told)):
            _note(transaction, session, outer_source, ways_max)


def agent_told(transaction: Transaction, outer_sources: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """Note the streams of sessions whose agent says which outer source they use, by session id; those that are noted,
    and whether any of them is new."""
    noted: dict[str, str] = {}
    is_any_new = False
    for session_id, outer_source in outer_sources.items():
        session = transaction.sessions.get(session_id)
        is_new = None if session is None else _note(transaction, session, outer_source, WAYS_MAX)
        if is_new is not None:
            noted[session_id] = outer_source
            is_any_new |= is_new
    return noted, is_any_new


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
    if transaction.removed_sessions and transaction.ended_sessions.count() > ENDED_MAX:
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


def _note(transaction: Transaction, session: SessionRecord, told: str | None, ways_max: int | None) -> bool | None:
    """Note the stream that the session uses: whether it is new, or None where there is none.

    Where its way would be one more than ``ways_max``, others are forgotten.
    """
    found = sharing.ends(transaction, session)
    if found is None or found.source.primary_address is None:
        return None
    target, ids = found.target, {record.interface_id: record for record in (found.source, found.aimed) if record}
    lapsed = sharing.lapsed(transaction, [session])
    around = Resources(0, ids, {target.target_id: target}, {}, (), (session,), transaction.networks, lapsed=lapsed)
    match stream_of(session, around, told):
        case (vni, outer_source, outer_destination) as stream:
            entry = f"{session.session_id} {subject(stream)}"
            if transaction.streams.get(entry) is not None:
                return False
            if ways_max is not None:
                _make_room(transaction, session.session_id, (outer_source, outer_destination), ways_max)
            transaction.streams.put(StreamRecord(entry, session.session_id, vni, outer_source, outer_destination))
            return True
    return None


def _make_room(transaction: Transaction, session_id: str, way: tuple[str, str], ways_max: int) -> None:
    """Forget ways of a session until there is room for this one: none is in use any more, as a session has but one.

    First those to another target: of those to the same one the agent may be told to use any, but says it then.
    """
    known = transaction.streams.where(session_id=session_id)
    ways = ways_of((stream.vni, stream.outer_source, stream.outer_destination) for stream in known)
    if way in ways:
        return
    kept_last = sorted(ways, key=lambda other: (other[1] == way[1], other))
    forgotten = set(kept_last[: max(0, len(ways) - ways_max + 1)])
    for stream in known:
        if (stream.outer_source, stream.outer_destination) in forgotten:
            transaction.streams.remove(stream.entry)


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

"""The ledger across both ends: what agents took and sent beside what monitors received and wrote. Pure.

A session's figures are of its whole life, and a monitor sees streams: a VNI between two outer addresses. So all that a
session has sent is compared with all that came in of every stream it has used (`history`). Sessions that have used one
stream, at one time or one after the other, also a deleted one, are compared together, and each names the others.

At rest this is right after any number of changes. What it cannot know is said as a reason in place of figures, never
as a loss: what a deleted session sent after its agent's last report (reports come each second); what a monitor that
was killed received after its last report. A monitor that is restarted, or that reports for the last time, while the
control plane is down cannot be told from a loss.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pktmirror.control.history import WAYS_MAX, History, subject, ways_of
from pktmirror.control.matches import RuleRow, rule_rows, rules_by_filter
from pktmirror.control.placement import Resources, Stream, stream_of
from pktmirror.control.records import RuleRecord, SessionRecord
from pktmirror.control.reports import Reports, outer_sources, sent
from pktmirror.desired import SessionFigures, Undeliverable
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import RuleLedger, SessionLedger, Stage, Tally, matched
from pktmirror.model.rate import UNLIMITED, Rate

NO_MONITOR = "no monitor reports this target"
NO_FIGURES = "no agent reports this session"


class DirectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One direction at the source: ``offered`` is the sum of the verdicts; taken = lost in hop + the stages.

    ``by_rules``: by their action, the sum over all rules; accepted = taken, and rejected likewise.
    """

    offered: Tally
    verdicts: Mapping[str, Tally]
    stages: Mapping[str, Tally]
    lost_in_hop_packets: int
    by_rules: Mapping[str, Tally]


class CollectorRow(msgspec.Struct, frozen=True, kw_only=True, tag="collected"):
    """The far end, over all streams of the session and of those in ``shared_with``.

    ``lost_on_wire_packets`` = all that these sent - received, which counts what is still in flight as lost.
    """

    monitors: tuple[str, ...]
    received: Tally
    written: Tally
    not_written: Tally
    lost_on_wire_packets: int
    shared_with: tuple[str, ...]


class Uncollected(msgspec.Struct, frozen=True, kw_only=True, tag="uncollected"):
    """Nobody counts at the far end, or the ends cannot be compared; ``reason`` says why."""

    reason: str


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session's line of the ledger; ``problem`` is its status, None while it mirrors.

    ``rules`` None: nobody asked for them. ``rules_lack``: why the rules' figures do not sum up to the session's; None:
    they do.
    """

    session_id: str
    interface_id: str
    target_id: str
    vni: int
    number: int
    outer_source: str | None
    outer_destination: str | None
    problem: str | None
    cap: Rate
    directions: Mapping[str, DirectionRow]
    rules: tuple[RuleRow, ...] | None
    rules_lack: str | None
    sent: Tally
    collector: CollectorRow | Uncollected


_NOTHING_TOLD = SessionFigures(session_id="", directions={}, rules_lack=NO_FIGURES)


class _Collected(msgspec.Struct):
    monitors: list[str]
    received: Tally = Tally()
    written: Tally = Tally()


@dataclass(frozen=True, slots=True)
class _Group:
    """Sessions that are compared together, and all streams that they have used."""

    session_ids: tuple[str, ...]
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class _Books:
    """What both ends count: ``sent`` by session id, None where no agent reports a session that is there."""

    sent: Mapping[str, Tally | None]
    collected: Mapping[Stream, _Collected]
    counted_destinations: Mapping[str, list[str]]
    history: History


def rows(
    resources: Resources,
    reports: Reports,
    problems: Mapping[str, str | None],
    history: History,
    *,
    with_rules: bool = False,
) -> list[SessionRow]:
    """A row for each session, by id; the rules of its filter only where they are asked for: there may be thousands."""
    figures = {session.session_id: session for told in reports.agents.values() for session in told.report.sessions}
    rules = rules_by_filter(resources) if with_rules else None
    told = outer_sources(reports)
    current = {
        session.session_id: stream_of(session, resources, told.get(session.session_id))
        for session in resources.sessions
    }
    sent_by: dict[str, Tally | None] = dict(history.ended)
    for session_id in current:
        sent_by[session_id] = sent(figures[session_id].directions) if session_id in figures else None
    used = {session_id: set(streams) for session_id, streams in history.streams.items() if session_id in sent_by}
    for session_id, stream in current.items():
        used.setdefault(session_id, set())
        if isinstance(stream, tuple):
            used[session_id].add(stream)
    groups = _groups(used)
    books = _Books(sent_by, _collected(reports), _counted_destinations(reports), history)
    return [
        _row(
            session,
            resources.caps.get(session.session_id, UNLIMITED),
            told_of := figures.get(session.session_id, _NOTHING_TOLD),
            None if rules is None else _rules(session, resources, rules, told_of),
            current[session.session_id],
            groups,
            books,
            problems,
        )
        for session in sorted(resources.sessions, key=lambda session: session.session_id)
    ]


def _row(
    session: SessionRecord,
    cap: Rate,
    figures: SessionFigures,
    rules: tuple[RuleRow, ...] | None,
    stream: Stream | Undeliverable,
    groups: Mapping[str, _Group],
    books: _Books,
    problems: Mapping[str, str | None],
) -> SessionRow:
    group = groups[session.session_id]
    collector: CollectorRow | Uncollected
    if isinstance(stream, Undeliverable) and not group.streams:
        collector = Uncollected(reason=stream.reason)
    else:
        collector = _collector(session.session_id, group, books)
    problem = problems.get(session.session_id)
    by_rule = [rule.ledger() for rule in figures.rules]
    return SessionRow(
        session_id=session.session_id,
        interface_id=session.interface_id,
        target_id=session.target_id,
        vni=session.vni,
        number=session.number,
        outer_source=stream[1] if isinstance(stream, tuple) else None,
        outer_destination=stream[2] if isinstance(stream, tuple) else None,
        problem=NO_FIGURES if problem is None and figures is _NOTHING_TOLD else problem,
        cap=cap,
        directions={direction.value: _direction(direction, figures, by_rule) for direction in Direction},
        rules=rules,
        rules_lack=figures.rules_lack,
        sent=sent(figures.directions),
        collector=collector,
    )


def _rules(
    session: SessionRecord, resources: Resources, rules: Mapping[str, Sequence[RuleRecord]], figures: SessionFigures
) -> tuple[RuleRow, ...]:
    services = resources.filters[session.filter_id].services
    return rule_rows(rules.get(session.filter_id, ()), services, (rule.ledger() for rule in figures.rules))


def _direction(direction: Direction, figures: SessionFigures, by_rule: Sequence[RuleLedger]) -> DirectionRow:
    ledger = figures.directions.get(direction, SessionLedger())
    return DirectionRow(
        offered=ledger.offered,
        verdicts={verdict.value: ledger.verdict(verdict) for verdict in Verdict},
        stages={stage.value: ledger.stage(stage) for stage in Stage},
        lost_in_hop_packets=ledger.lost_in_hop_packets,
        by_rules={
            Action.ACCEPT.value: matched(by_rule, direction, Verdict.TAKEN),
            Action.REJECT.value: matched(by_rule, direction, Verdict.REJECTED_BY_RULE),
        },
    )


def _collector(session_id: str, group: _Group, books: _Books) -> CollectorRow | Uncollected:
    """The far end of a group, or why it cannot be compared."""
    for member in group.session_ids:
        if len(ways_of(books.history.streams.get(member, ()))) >= WAYS_MAX:
            reason = f"{member} has had {WAYS_MAX} pairs of outer addresses or more, and not all of them are remembered"
            return Uncollected(reason=reason)
    monitors: set[str] = set()
    received, written = Tally(), Tally()
    for stream in group.streams:
        carried = books.history.carried.get(subject(stream))
        found = books.collected.get(stream)
        counting = books.counted_destinations.get(stream[2], []) if found is None else found.monitors
        if not counting:
            reason = NO_MONITOR if len(group.streams) == 1 else f"no monitor reports {stream[2]}, one of its targets"
            return Uncollected(reason=reason)
        monitors.update(counting)
        if found is not None:
            received, written = received + found.received, written + found.written
        if carried is not None:
            received += Tally(carried.packets, carried.bytes)
            written += Tally(carried.written_packets, carried.written_bytes)
    sent_by_all = Tally()
    for member in group.session_ids:
        told = books.sent[member]
        if told is None:
            return Uncollected(reason=NO_FIGURES if member == session_id else f"no agent reports {member}")
        before = books.history.carried.get(member)
        sent_by_all += told if before is None else told + Tally(before.packets, before.bytes)
    lost = sent_by_all.packets - received.packets
    unknown = _unknown(lost, group, books)
    if unknown is not None:
        return Uncollected(reason=unknown)
    return CollectorRow(
        monitors=tuple(sorted(monitors)),
        received=received,
        written=written,
        not_written=Tally(received.packets - written.packets, received.bytes - written.bytes),
        lost_on_wire_packets=lost,
        shared_with=tuple(other for other in group.session_ids if other != session_id),
    )


def _unknown(lost_packets: int, group: _Group, books: _Books) -> str | None:
    """Why a difference may be one of counters that ended, and not of packets; None where it cannot."""
    if lost_packets > 0:
        if any(subject(stream) in books.history.carried for stream in group.streams):
            return (
                f"a monitor began to count anew, and {lost_packets} sent packets are in none of its reports: "
                "lost, or received after its last report"
            )
    elif lost_packets < 0:
        ended = [member for member in group.session_ids if member in books.history.ended]
        anew = [member for member in group.session_ids if member in books.history.carried]
        if ended:
            return (
                f"{-lost_packets} packets more received than are known to be sent: what {', '.join(ended)} sent "
                "between its agent's last report and its end is not known"
            )
        if anew:
            return (
                f"{-lost_packets} packets more received than are known to be sent: the counters of {', '.join(anew)} "
                "began anew, and what they counted after the last report is not known"
            )
    return None


def _groups(used: Mapping[str, Iterable[Stream]]) -> dict[str, _Group]:
    """By session id: the sessions that are joined by streams, directly or through others."""
    users: dict[Stream, list[str]] = defaultdict(list)
    for session_id, streams in used.items():
        for stream in streams:
            users[stream].append(session_id)
    groups: dict[str, _Group] = {}
    for first in used:
        if first in groups:
            continue
        members, streams_, left = {first}, set[Stream](), [first]
        while left:
            for stream in used[left.pop()]:
                if stream not in streams_:
                    streams_.add(stream)
                    left += [user for user in users[stream] if user not in members]
                    members.update(users[stream])
        group = _Group(tuple(sorted(members)), tuple(sorted(streams_)))
        groups.update(dict.fromkeys(members, group))
    return groups


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


def _counted_destinations(reports: Reports) -> dict[str, list[str]]:
    """The addresses at which monitors count, with who does: one that has not seen a stream there received nothing.

    A monitor counts at the address on which it listens, and at each at which it has received anything.
    """
    counted: dict[str, list[str]] = defaultdict(list)
    for monitor_id, told in sorted(reports.monitors.items()):
        addresses = {stream.outer_destination for stream in told.report.streams}
        for address in sorted(addresses | {told.report.listening.rpartition(":")[0].strip("[]")}):
            counted[address].append(monitor_id)
    return counted

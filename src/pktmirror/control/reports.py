"""What agents and monitors told last. It lives in memory: after a restart they tell it again within seconds.

A report is checked before anything of it is kept: what is stored must be readable for all afterwards.
"""

import itertools
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Generic, TypeVar

import msgspec

from pktmirror.desired import (
    LABELS_MAX,
    WORD_CHARACTERS_MAX,
    FoundInterface,
    InstanceFacts,
    PathFacts,
    Report,
)
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)

FIGURE_MAX = (1 << 60) - 1  # an exabyte; sums of a few still fit into the 64 bits of SQLite


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor has of one stream: all copies of one VNI between two outer addresses.

    Bytes are of the mirrored frames as they arrived, from the inner Ethernet header on.
    """

    vni: int
    outer_source: str
    outer_destination: str
    received_packets: int
    received_bytes: int
    written_packets: int
    written_bytes: int
    first_seen_ns: int = 0
    """When the monitor began to count it: another time, and it has begun anew."""


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A probe that reached a monitor: its token in hexadecimal, the outer headers it had, when in Unix time."""

    token: str
    vni: int
    outer_source: str
    outer_destination: str
    arrived_at_ns: int


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's figures since its start. It may tell more than is read here."""

    listening: str
    streams: tuple[StreamReport, ...] = ()
    refused: Mapping[str, int] = {}
    socket_queue_full: int = 0
    probes: tuple[ProbeReport, ...] = ()
    probes_received: int = 0
    addresses: tuple[str, ...] = ()  # where it listens on all: those that it can be reached at
    clock: str = ""  # whose times it tells
    stopped: bool = False  # the last one: it receives nothing any more


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """A report and when it came, in Unix seconds."""

    report: T
    received_at_s: float


@dataclass(slots=True)
class Reports:
    """The last report of each agent by host id, and of each monitor by its id.

    ``sent`` is what each session is last known to have sent, by its id, also while its agent does not say.
    ``began_at_s``: since when reports are taken in, in Unix time.
    """

    agents: dict[str, Received[Report]] = field(default_factory=dict)
    monitors: dict[str, Received[MonitorReport]] = field(default_factory=dict)
    sent: dict[str, Tally] = field(default_factory=dict)
    began_at_s: float = 0.0

    def silent_s(self, host_id: str, now_s: float) -> float:
        """For how long a host's agent is known to have said nothing: at most since reports are taken in."""
        told = self.agents.get(host_id)
        return now_s - (self.began_at_s if told is None else told.received_at_s)


def sessions_told(report: Report) -> set[str]:
    """The sessions of which a report says anything."""
    return {figures.session_id for figures in report.sessions} | {status.session_id for status in report.statuses}


def of_sessions(report: Report, session_ids: Container[str]) -> Report:
    """The report without what it says of other sessions than these."""
    return msgspec.structs.replace(
        report,
        sessions=tuple(each for each in report.sessions if each.session_id in session_ids),
        statuses=tuple(each for each in report.statuses if each.session_id in session_ids),
    )


def sent(directions: Mapping[Direction, SessionLedger]) -> Tally:
    """What a session has sent in both directions."""
    return sum((ledger.stage(Stage.SENT) for ledger in directions.values()), Tally())


def capped(reports: Reports) -> dict[str, Tally]:
    """By session id: what was over its cap, or over the budget of its host, in both directions."""
    return {
        figures.session_id: sum((ledger.stage(Stage.CAPPED) for ledger in figures.directions.values()), Tally())
        for told in reports.agents.values()
        for figures in told.report.sessions
    }


def bypassed(reports: Reports) -> dict[tuple[str, str], Mapping[Direction, int]]:
    """By host and key: how many packets went past the hooks of an interface, where any did."""
    return {
        (host_id, figures.key): figures.bypassed_packets
        for host_id, told in sorted(reports.agents.items())
        for figures in told.report.mirrored_interfaces
        if any(figures.bypassed_packets.values())
    }


def outer_sources(reports: Reports) -> dict[str, str]:
    """By session id: the outer source that its agent says its copies carry."""
    return {
        status.session_id: status.outer_source
        for told in reports.agents.values()
        for status in told.report.statuses
        if status.outer_source is not None
    }


def paths(reports: Reports) -> dict[str, PathFacts]:
    """By session id: the way of its copies, as its agent finds it."""
    return {
        status.session_id: status.path
        for told in reports.agents.values()
        for status in told.report.statuses
        if status.path is not None
    }


def agent_nonsense(report: Report) -> str | None:
    """What makes no sense in an agent's report, in a sentence; None: it can be kept."""
    if not 0 <= report.applied_revision <= FIGURE_MAX:
        return f"applied_revision is {_short(report.applied_revision)}, and a revision is 0 or more"
    keys = [found.key for found in report.interfaces]
    for what, names in (
        ("interface", keys),
        ("session's figures", [figures.session_id for figures in report.sessions]),
        ("session's status", [status.session_id for status in report.statuses]),
        ("interface's figures", [figures.key for figures in report.mirrored_interfaces]),
    ):
        twice = _first_twice(names)
        if twice is not None:
            return f"the {what} {_short(twice)} stands in it twice"
    for found in report.interfaces:
        wrong = _interface_nonsense(found)
        if wrong is not None:
            return f"the interface {_short(found.key)} has {wrong}"
    for status in report.statuses:
        if status.outer_source is not None and not _is_address(status.outer_source):
            return f"the outer source of {_short(status.session_id)} is no address: {_short(status.outer_source)}"
    for session in report.sessions:
        same = _first_twice((rule.rule_id, rule.direction, rule.action) for rule in session.rules)
        if same is not None:
            return f"the rule {_short(same[0])} of {_short(session.session_id)} stands in it twice"
    for name, tally in _tallies(report):
        for figure in (tally.packets, tally.bytes):
            if not 0 <= figure <= FIGURE_MAX:
                return f"{_short(name)} counts {_short(figure)}"
    return None


def monitor_nonsense(report: MonitorReport) -> str | None:
    """What makes no sense in a monitor's report, in a sentence; None: it can be kept."""
    for stream in report.streams:
        for name in (
            "vni",
            "received_packets",
            "received_bytes",
            "written_packets",
            "written_bytes",
            "first_seen_ns",
        ):
            most = (1 << 24) - 1 if name == "vni" else (1 << 63) - 1 if name == "first_seen_ns" else FIGURE_MAX
            if not 0 <= getattr(stream, name) <= most:
                return f"{name} of the stream of VNI {_short(stream.vni)} is {_short(getattr(stream, name))}"
    for probe in report.probes:
        if not 0 <= probe.arrived_at_ns < 1 << 63:
            return f"a probe arrived at {_short(probe.arrived_at_ns)} ns"
    figures = ("socket_queue_full", report.socket_queue_full), ("probes_received", report.probes_received)
    for name, figure in (*report.refused.items(), *figures):
        if not 0 <= figure <= FIGURE_MAX:
            return f"{_short(name)} counts {_short(figure)}"
    return None


def _interface_nonsense(found: FoundInterface) -> str | None:
    if not found.key:
        return "no key"
    if not 0 <= found.mtu <= 0xFFFFFFFF:
        return f"an MTU of {_short(found.mtu)}"
    for address in (*found.addresses, *found.neighbours):
        if not _is_address(address):
            return f"an address that is none: {_short(address)}"
    return None if found.facts is None else _facts_nonsense(found.facts)


def _facts_nonsense(facts: InstanceFacts) -> str | None:
    if len(facts.labels) > LABELS_MAX:
        return f"{len(facts.labels)} labels, and an instance has {LABELS_MAX} at most"
    for text in (
        facts.engine,
        facts.instance_id,
        facts.name,
        facts.owner or "",
        *itertools.chain(*facts.labels.items()),
    ):
        if len(text) > WORD_CHARACTERS_MAX or not text.isprintable():
            return f"a word of its engine that is too long or cannot be shown: {_short(ascii(text))}"
    return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _tallies(report: Report) -> Iterator[tuple[str, Tally]]:
    yield "strays", report.strays
    for session in report.sessions:
        for ledger in session.directions.values():
            for tally in (*ledger.verdicts.values(), *ledger.stages.values()):
                yield session.session_id, tally
        for rule in session.rules:
            yield rule.rule_id, Tally(rule.packets, rule.bytes)
    for interface in report.mirrored_interfaces:
        for seen in interface.directions.values():
            for tally in seen.outcomes.values():
                yield interface.key, tally
        for packets in interface.bypassed_packets.values():
            yield interface.key, Tally(packets)


def _first_twice(names: Iterable[H]) -> H | None:
    seen: set[H] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

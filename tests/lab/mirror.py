"""A mirror on a lab: an agent for each host, the test as their control plane, and eyes where copies arrive.

``with Mirror(lab(DEMO)) as mirror`` ends by asserting that everything adds up, and takes all of it out of the kernel.
"""

import contextlib
import hashlib
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Self

from pktmirror.agent.apply import OBJECT, DataPlane, pins_of, purge
from pktmirror.agent.host import Host
from pktmirror.agent.locks import forget_killed
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    Report,
    SessionFigures,
    StreamDocument,
    Undeliverable,
    Underlay,
)
from pktmirror.kernel import bpffs, netns
from pktmirror.kernel.netlink import Netlink
from pktmirror.lab import Lab
from pktmirror.model.evaluation import Verdict
from pktmirror.model.exclusions import NEVER_MIRRORED, Exclusion
from pktmirror.model.filter import Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Stage, Tally, matched
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.underlay import OuterSource
from tests.lab.arrivals import Collector, Copy, Tap
from tests.waiting import wait_until

BPFFS = Path("/run/pktmirror-tests")
OF_A_KILLED_RUN = re.compile(r"t(?P<pid>[0-9]+)-.*")
WITHIN_S = 5.0
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
BOTH = (Direction.INGRESS, Direction.EGRESS)


def accepting(
    *protocols: int | None,
    directions: Sequence[Direction] = BOTH,
    families: Sequence[int] = (4, 6),
    to_ports: PortRange | None = None,
    source: str | None = None,
    destination: str | None = None,
) -> Filter:
    """Accepts the protocols (none named: all of them), in these directions and families."""
    rules = [
        (direction, anywhere, protocol)
        for direction in directions
        for anywhere in ANYWHERE
        if anywhere.version in families
        for protocol in (protocols or (None,))
    ]
    return Filter(
        tuple(
            Rule(
                number,
                direction,
                Action.ACCEPT,
                anywhere if source is None else ip_network(source),
                anywhere if destination is None else ip_network(destination),
                protocol,
                None,
                to_ports,
            )
            for number, (direction, anywhere, protocol) in enumerate(rules, 100)
        )
    )


EVERYTHING = accepting()


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a source. ``target`` is an instance of the lab; an address that is none has no collector."""

    target: str
    filter: Filter = EVERYTHING
    number: int = 1
    vni: int = 7
    packet_bytes_max: int | None = None
    undeliverable: str | None = None
    cap: Rate = UNLIMITED
    family: int = 4  # of the outer headers
    rule_ids: tuple[str, ...] = ()  # in the order of the filter's rules; none: they go by their numbers

    def session_id(self, source: str) -> str:
        """By source and VNI, so that a session stays the same when its number, filter or target changes."""
        return "tms-" + hashlib.sha256(f"{source} {self.vni}".encode()).hexdigest()[:17]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A source that is no instance of the lab: its key and address, and the host that has it."""

    key: str
    address: str
    host: str = "host"


@dataclass(slots=True)
class Desk:
    """What an agent asks for its desired state, and hands its report to."""

    desired: DesiredState | None = None
    heard_ns: int | None = None
    last: Report | None = None

    def report(self, report: Report) -> None:
        self.last = report


class Agent:
    """An agent in a host's namespace, that works when the test lets it, and within a budget when the test sets one."""

    def __init__(self, inside: netns.Visitor, bpffs_root: Path, host_id: str, object_path: Path) -> None:
        self.budget = UNLIMITED
        self.lease_s = 0
        self.looks_share = 1.0  # every event is followed by a look
        self.host_id = host_id
        self.bpffs_root = bpffs_root
        self.desk = Desk()
        self._inside = inside
        self.object_path = object_path
        self.start()

    def start(self) -> None:
        netlink = self._inside.run(Netlink)
        data_plane = self._inside.run(DataPlane, netlink, self.bpffs_root, self.host_id, self.object_path)
        self.host = Host(
            netlink,
            data_plane,
            self.host_id,
            budget=self.budget,
            lease_s=self.lease_s,
            looks_share=self.looks_share,
        )
        self._inside.run(netlink.watch)

    def stop(self) -> None:
        self._inside.run(self.host.close)

    def turn(self) -> Report:
        self._inside.run(self.host.turn, self.desk)  # type: ignore[arg-type]
        assert self.desk.last is not None
        return self.desk.last

    @property
    def pins(self) -> set[str]:
        """The names of all that is pinned."""
        root = pins_of(self.bpffs_root, self.host_id)
        return {path.name for path in root.rglob("*") if path.is_file()} if root.is_dir() else set()

    def purge(self) -> None:
        with self._inside.run(Netlink) as netlink:
            self._inside.run(purge, netlink, self.bpffs_root, self.host_id)
        forget_killed(self.bpffs_root, self.host_id)


class Mirror:
    """A lab whose hosts have agents."""

    def __init__(self, lab: Lab, *, object_path: Path = OBJECT) -> None:
        self.lab = lab
        self.sources: Mapping[str, Sequence[Session]] = {}
        self.elsewhere: dict[str, Elsewhere] = {}
        self.unheard: set[int] = set()  # VNIs whose copies no collector hears
        self.lost_in_hop: dict[int, int] = {}  # by VNI, where a test breaks a hop: how many packets of egress
        self.agents: dict[str, Agent] = {}
        self._visitors: dict[str, netns.Visitor] = {}
        self._collectors: dict[str, Collector] = {}
        self._gone: Counter[int] = Counter()
        self.underlay = Underlay()
        self.rearranged: set[str] = set()  # sources whose sessions' figures are of different times
        self.around: set[str] = set()  # sources of which a test leads something past the hooks
        self._stack = contextlib.ExitStack()
        self._revision = 0
        _forget_killed_runs()
        self._bpffs = BPFFS / lab.name
        try:
            bpffs.mount(self._bpffs)
            self._stack.callback(_unmount, self._bpffs)
            for host in lab.topology.hosts:
                agent = Agent(self.inside(host.name), self._bpffs, f"{lab.name}-{host.name}", object_path)
                self.agents[host.name] = agent
                self._stack.callback(agent.purge)
                self._stack.callback(agent.stop)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.assert_everything_adds_up()
        finally:
            self.close()

    def close(self) -> None:
        for collector in self._collectors.values():
            collector.close()
        self._stack.close()
        for visitor in self._visitors.values():
            visitor.close()

    # --- places

    def inside(self, place: str) -> netns.Visitor:
        if place not in self._visitors:
            self._visitors[place] = self.lab.inside(place)
        return self._visitors[place]

    def mac(self, place: str) -> str:
        return self.lab.topology.mac_address(place)

    def host_of(self, place: str) -> str:
        return self.elsewhere[place].host if place in self.elsewhere else self.lab.topology.host_of(place)

    def address(self, place: str) -> str:
        if place in self.elsewhere:
            return self.elsewhere[place].address
        return str(self.lab.topology.instance(place).address)

    def address6(self, place: str) -> str:
        return str(self.lab.topology.instance(place).ipv6_address)

    def collector(self, place: str) -> Collector:
        if place not in self._collectors:
            self._collectors[place] = Collector(self.inside(place))
        return self._collectors[place]

    @contextlib.contextmanager
    def tap(self, place: str, device: str = "eth0") -> Iterator[Tap]:
        tap = Tap(self.inside(place), device)
        try:
            yield tap
        finally:
            tap.close()

    def send(self, place: str, frames: Sequence[bytes], *, priority: int | None = None) -> None:
        """Send frames as they are from the place's own interface."""
        raw = self.inside(place).run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        with raw:
            if priority is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
            raw.bind(("eth0", 0))
            for frame in frames:
                self.inside(place).run(raw.send, frame)

    # --- what is desired

    def mirror(
        self,
        sources: Mapping[str, Sequence[Session]],
        *,
        exclusions: Sequence[Exclusion] = NEVER_MIRRORED,
        resolvers: Sequence[str] = (),
    ) -> None:
        """Desire these sessions and no others, and let every agent make it true."""
        for sessions in sources.values():
            for session in sessions:
                if session.target in self.lab.topology.places:
                    self.collector(session.target)
        self._keep_figures_of_the_gone(sources)
        for source, sessions in self.sources.items():
            if _order(sessions) != _order(sources.get(source, ())):
                self.rearranged.add(source)
        self.sources = sources
        self._revision += 1
        for name, agent in self.agents.items():
            agent.desk.desired = self._state_of(name, agent.host_id, exclusions, resolvers)
            report = agent.turn()
            assert (report.problems, report.applied_revision) == ((), self._revision)

    def _keep_figures_of_the_gone(self, sources: Mapping[str, Sequence[Session]]) -> None:
        stays = {session.session_id(source) for source, sessions in sources.items() for session in sessions}
        for source, sessions in self.sources.items():
            for session in sessions:
                if session.session_id(source) not in stays:
                    self._gone[session.vni] += self.sent(source, session.vni)

    def _state_of(
        self, host: str, host_id: str, exclusions: Sequence[Exclusion], resolvers: Sequence[str]
    ) -> DesiredState:
        here = {name: sessions for name, sessions in self.sources.items() if self.host_of(name) == host}
        return DesiredState(
            host_id=host_id,
            revision=self._revision,
            interfaces=tuple(
                DesiredInterface(
                    key=self.key(name),
                    interface_id=f"eni-{name}",
                    primary_address=self.address(name),
                    underlay=self.underlay,
                    resolvers=tuple(resolvers),
                    sessions=tuple(self._desired(name, session) for session in sessions),
                )
                for name, sessions in here.items()
            ),
            filters={
                _filter_id(session): FilterDocument.of(session.filter, session.rule_ids)
                for sessions in here.values()
                for session in sessions
            },
            exclusions=tuple(ExclusionDocument.of(line) for line in exclusions),
            streams=self._streams_of_others(host) if here else (),
            knows_plain_keys=True,
        )

    def _streams_of_others(self, host: str) -> tuple[StreamDocument, ...]:
        """As the control plane says them; an outer source that is the host's, as its agent last told it."""
        streams: set[tuple[str, str, int]] = set()
        for name, sessions in self.sources.items():
            owner = self.host_of(name)
            if owner == host:
                continue
            told = self.agents[owner].desk.last
            by_id = {status.session_id: status.outer_source for status in told.statuses} if told else {}
            for session in sessions:
                delivery = self._desired(name, session).delivery
                of_eni = self.underlay.outer_source is OuterSource.ENI
                if isinstance(delivery, Destination):
                    source = delivery.outer_source if of_eni else by_id.get(session.session_id(name))
                    if source is not None:
                        streams.add((source, delivery.address, session.vni))
        return tuple(StreamDocument(*stream) for stream in sorted(streams))

    def outer_address(self, place: str, family: int) -> str:
        return self.address(place) if family == 4 else self.address6(place)

    def _desired(self, source: str, session: Session) -> DesiredSession:
        delivery: Destination | Undeliverable
        if session.undeliverable is not None:
            delivery = Undeliverable(reason=session.undeliverable)
        elif session.target in self.lab.topology.places:
            delivery = Destination(
                address=self.outer_address(session.target, session.family),
                outer_source=self.outer_address(source, session.family),
                mtu=self.lab.topology.mtu(session.target),
            )
        else:
            delivery = Destination(
                address=session.target, outer_source=self.outer_address(source, 6 if ":" in session.target else 4)
            )
        return DesiredSession(
            session_id=session.session_id(source),
            number=session.number,
            vni=session.vni,
            filter_id=_filter_id(session),
            packet_bytes_max=session.packet_bytes_max,
            delivery=delivery,
            cap=session.cap,
        )

    def key(self, source: str) -> str:
        if source in self.elsewhere:
            return self.elsewhere[source].key
        return f"netns:{self.lab.namespace(source)}/eth0"

    # --- what was done

    def report(self, source: str) -> Report:
        """The fresh report of the agent at the source's host."""
        return self.agents[self.host_of(source)].turn()

    def status(self, source: str, vni: int | None = None) -> str | None:
        session = self._session(source, vni)
        [status] = [each for each in self.report(source).statuses if each.session_id == session.session_id(source)]
        return status.problem

    def ledger(self, source: str, vni: int | None = None) -> Mapping[Direction, SessionLedger]:
        session_id = self._session(source, vni).session_id(source)
        found = [each for each in self.report(source).sessions if each.session_id == session_id]
        return found[0].directions if found else {}

    def interface(self, source: str) -> Mapping[Direction, InterfaceLedger]:
        found = [each for each in self.report(source).mirrored_interfaces if each.key == self.key(source)]
        return found[0].directions if found else {}

    def sent(self, source: str, vni: int | None = None) -> int:
        return sum(ledger.stage(Stage.SENT).packets for ledger in self.ledger(source, vni).values())

    def stages(self, source: str, direction: Direction, vni: int | None = None) -> dict[Stage, int]:
        """All stages of a session that counted anything."""
        stages = self.ledger(source, vni)[direction].stages
        return {stage: tally.packets for stage, tally in stages.items() if tally.packets}

    def verdicts(self, source: str, direction: Direction, vni: int | None = None) -> dict[Verdict, int]:
        verdicts = self.ledger(source, vni)[direction].verdicts
        return {verdict: tally.packets for verdict, tally in verdicts.items() if tally.packets}

    def matched(self, source: str, vni: int | None = None) -> dict[tuple[str, Direction, Action], int]:
        """The packets that each rule of a session matched, of those that matched any."""
        session_id = self._session(source, vni).session_id(source)
        [figures] = [each for each in self.report(source).sessions if each.session_id == session_id]
        assert figures.rules_lack is None
        return {(rule.rule_id, rule.direction, rule.action): rule.packets for rule in figures.rules}

    def outcomes(self, source: str, direction: Direction) -> dict[InterfaceOutcome, int]:
        outcomes = self.interface(source)[direction].outcomes
        return {outcome: tally.packets for outcome, tally in outcomes.items() if tally.packets}

    def _session(self, source: str, vni: int | None) -> Session:
        """The source's session of that VNI; None is for a source that has one session only."""
        [session] = [each for each in self.sources[source] if vni is None or each.vni == vni]
        return session

    def seen(self, source: str, direction: Direction) -> int:
        return self.interface(source)[direction].seen.packets

    def wait_for_seen(self, source: str, direction: Direction, packets: int) -> None:
        """Until the interface has seen so many packets, and all of the ledger is at rest."""
        wait_until(
            lambda: self.seen(source, direction) >= packets,
            WITHIN_S,
            lambda: f"{source} has seen {self.seen(source, direction)} of {packets} {direction.value} packets",
        )
        self.assert_everything_adds_up()

    def wait_for_copies(self, place: str, count: int, vni: int | None = None) -> list[Copy]:
        """Until so many copies have arrived; AssertionError if there are more once the ledger is at rest."""
        collector = self.collector(place)
        wait_until(
            lambda: len(collector.copies(vni)) >= count,
            WITHIN_S,
            lambda: f"{len(collector.copies(vni))} of {count} copies at {place}; {self.imbalances()}",
        )
        self.assert_everything_adds_up()
        copies = collector.copies(vni)
        assert len(copies) == count
        return copies

    def assert_everything_adds_up(self) -> None:
        """At rest no packet is in flight: sender's figures equal the receiver's, and nothing is unaccounted for."""
        wait_until(lambda: not self.imbalances(), WITHIN_S, lambda: "; ".join(self.imbalances()))

    def imbalances(self) -> list[str]:
        """What does not add up, now."""
        received: Counter[int] = Counter()
        for collector in self._collectors.values():
            received.update(copy.vni for copy in collector.copies())
        reports = {name: agent.turn() for name, agent in self.agents.items()}
        sent = Counter(self._gone)
        found: list[str] = []
        for source, sessions in self.sources.items():
            report = reports[self.host_of(source)]
            ledgers = {each.session_id: each.directions for each in report.sessions}
            found += [
                f"{source}: {problem}"
                for figures in report.sessions
                if figures.session_id in {session.session_id(source) for session in sessions}
                for problem in _sums_over_rules_that_differ(figures)
            ]
            interfaces = {each.key: each.directions for each in report.mirrored_interfaces}
            past = {each.key: sum(each.bypassed_packets.values()) for each in report.mirrored_interfaces}
            if source not in self.around and past.get(self.key(source), 0):
                found.append(f"{source}: {past[self.key(source)]} packets went past the hooks, says the device")
            for direction, interface in interfaces.get(self.key(source), {}).items():
                by_session = [ledgers[session.session_id(source)][direction] for session in _by_number(sessions)]
                expected = [
                    self.lost_in_hop.get(session.vni, 0) if direction is Direction.EGRESS else 0
                    for session in _by_number(sessions)
                ]
                problems = _losses(by_session, expected) + (
                    [] if source in self.rearranged else _sums_that_differ(interface, by_session)
                )
                found += [f"{source} {direction.value}: {problem}" for problem in problems]
            for session in sessions:
                ledger = ledgers.get(session.session_id(source), {})
                sent[session.vni] += sum(
                    each.stage(stage).packets for each in ledger.values() for stage in (Stage.SENT, Stage.PROBE_SENT)
                )
        found += [
            f"VNI {vni}: {sent[vni]} sent, {received[vni]} received"
            for vni in sorted(sent.keys() | received.keys())
            if sent[vni] != received[vni] and vni not in self.unheard
        ]
        return found


def _by_number(sessions: Sequence[Session]) -> list[Session]:
    return sorted(sessions, key=lambda session: session.number)


def _order(sessions: Sequence[Session]) -> list[int]:
    return [session.vni for session in _by_number(sessions)]


def _losses(sessions: Sequence[SessionLedger], expected: Sequence[int]) -> list[str]:
    return [
        f"session {position} took {ledger.lost_in_hop_packets} packets that no stage accounts for"
        for position, (ledger, lost) in enumerate(zip(sessions, expected, strict=True), 1)
        if ledger.lost_in_hop_packets != lost
    ]


def _sums_that_differ(interface: InterfaceLedger, sessions: Sequence[SessionLedger]) -> list[str]:
    """Each session is offered what the ones before it left, and together they took what the interface says."""
    found: list[str] = []
    taken = interface.outcome(InterfaceOutcome.TAKEN)
    left = taken + interface.outcome(InterfaceOutcome.NOT_TAKEN)
    by_sessions = Tally()
    for position, ledger in enumerate(sessions, 1):
        if ledger.offered != left:
            found.append(f"session {position} was offered {ledger.offered}, not {left}")
        took = ledger.verdict(Verdict.TAKEN)
        by_sessions += took
        left = Tally(left.packets - took.packets, left.bytes - took.bytes)
    if by_sessions != taken:
        found.append(f"the sessions took {by_sessions}, the interface says {taken}")
    return found


def _sums_over_rules_that_differ(figures: SessionFigures) -> list[str]:
    """What a session took and what its rules rejected is what these rules matched, each packet one."""
    found = [] if figures.rules_lack is None else [f"the rules' figures lack something: {figures.rules_lack}"]
    rules = [rule.ledger() for rule in figures.rules]
    for direction, ledger in figures.directions.items():
        for verdict in (Verdict.TAKEN, Verdict.REJECTED_BY_RULE):
            by_rules = matched(rules, direction, verdict)
            if by_rules != ledger.verdict(verdict):
                found.append(f"{direction.value} {verdict.value}: {ledger.verdict(verdict)}, by the rules {by_rules}")
    return found


def _filter_id(session: Session) -> str:
    return "tmf-" + hashlib.sha256(repr((session.filter, session.rule_ids)).encode()).hexdigest()[:17]


def _unmount(root: Path) -> None:
    if bpffs.is_mounted(root):
        bpffs.unmount(root)
    if root.is_dir():
        root.rmdir()


def _forget_killed_runs() -> None:
    if BPFFS.is_dir():
        for root in BPFFS.iterdir():
            found = OF_A_KILLED_RUN.fullmatch(root.name)
            if found and not Path("/proc", found["pid"]).exists():
                _unmount(root)

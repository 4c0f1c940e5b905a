"""The agent's loop: look, compile, plan, apply, report. An edge module; the decisions are in the rooms it calls.

It wakes when the control plane desires something else, when a link, route or neighbour changes, and once a second.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from pktmirror import __version__
from pktmirror.agent.apply import DataPlane, is_agent_id, pins_of, purge, remove_pins
from pktmirror.agent.audit import Audit
from pktmirror.agent.compile import (
    CompiledFilters,
    RouteQuery,
    Uncompilable,
    Wanted,
    Way,
    compile_state,
    route_queries,
)
from pktmirror.agent.containers import Owner
from pktmirror.agent.controller import Controller
from pktmirror.agent.departures import NAMESPACE_GONE_S, Departures
from pktmirror.agent.figures import session_figures
from pktmirror.agent.identity import Identity
from pktmirror.agent.inventory import Device
from pktmirror.agent.line import Uplink, refuse_bad_url
from pktmirror.agent.listeners import Listeners
from pktmirror.agent.locks import alone, end, forget_killed, wait_until_ended
from pktmirror.agent.looks import LOOKS_SHARE, Looks
from pktmirror.agent.paths import Sight, paths, targets
from pktmirror.agent.plan import Change, TableFull, applied, plan
from pktmirror.agent.probe import probe
from pktmirror.agent.probe_line import ProbeLine
from pktmirror.agent.providers import Engine, Memory, Roster, instance_id_of
from pktmirror.agent.renewal import Renewal
from pktmirror.agent.shortcuts import shortcut
from pktmirror.agent.survey import survey
from pktmirror.agent.traceline import TraceLine
from pktmirror.agent.tracer import TraceLine as Traces
from pktmirror.agent.tracer import Tracer
from pktmirror.agent.ways import is_card, splits
from pktmirror.desired import DesiredState, FoundInterface, InterfaceFigures, PathFacts, Report, SessionStatus
from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Link, Neighbour, Netlink
from pktmirror.model.ledger import Stage
from pktmirror.model.probe import ProbeAnswer, ProbeRequest
from pktmirror.model.rate import Rate, default_budget
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

TICK_S = 1.0
END_S = 15.0
TRACE_TICK_S = 0.1  # while somebody waits for what a live trace tells
DEFAULT_BPFFS = Path("/run/pktmirror/bpf")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is started with; ``netns`` None is the namespace of the process. Refusal for what cannot be.

    ``credential`` is the token that the agents of a control plane share, or what the host has of its joining.
    ``engines`` are asked whose containers, machines and pods are.
    ``purges_at_end`` is for a mirroring that ends with its agent.
    """

    control_url: str
    credential: str | Identity
    host_id: str
    state_dir: Path
    netns: str | None = None
    bpffs_root: Path = DEFAULT_BPFFS
    namespace_gone_s: float = NAMESPACE_GONE_S
    budget: Rate = field(default_factory=lambda: default_budget(cpus()))
    purges_at_end: bool = False
    engines: tuple[Engine, ...] = ()

    def __post_init__(self) -> None:
        _refuse_bad_host_id(self.host_id)
        refuse_bad_url(self.control_url)


def cpus() -> int:
    """How many CPUs this machine has; copies are made on whichever one the mirrored packet is on."""
    return os.cpu_count() or 1


def run(settings: Settings, stop: threading.Event, ready: threading.Event | None = None) -> None:
    """Serve until ``stop`` is set. Mirrors go on afterwards, unless ``purges_at_end``: `purge` is what ends them.

    Where another agent of this host is at work this one is refused, and leaves alone what the other made.
    """
    with (
        _visitor(settings.netns) as inside,
        alone(settings.state_dir, settings.bpffs_root, settings.host_id),
    ):
        try:
            _serve(settings, inside, stop, ready)
        finally:
            if settings.purges_at_end:
                _purge_inside(inside, settings.bpffs_root, settings.host_id)


def _serve(settings: Settings, inside: netns.Visitor, stop: threading.Event, ready: threading.Event | None) -> None:
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    uplink = Uplink(settings.control_url, settings.credential, settings.host_id)
    controller = Controller(
        uplink, settings.state_dir / f"desired-{settings.host_id}.json", on_change=lambda: _wake(wake_write)
    )
    renewal = Renewal(uplink, settings.credential) if isinstance(settings.credential, Identity) else None
    traces = TraceLine(uplink, on_change=lambda: _wake(wake_write))
    try:
        host = inside.run(_open, settings, lambda: _wake(wake_write))
        probes = ProbeLine(uplink, lambda asked: inside.run(host.probe, asked))
        try:
            events = inside.run(host.netlink.watch)
            host.roster.start(link.ifindex for link in inside.run(lambda: list(host.netlink.links())))
            _log.info("the agent runs", host=settings.host_id, budget=str(settings.budget))
            controller.start()
            traces.start()
            probes.start()
            if renewal is not None:
                renewal.start()
            while not stop.is_set():
                inside.run(host.turn, controller)
                if ready is not None:
                    ready.set()
                until_s = time.monotonic() + min(TICK_S, host.next_look_in_s())
                while inside.run(host.trace, traces) and (left_s := until_s - time.monotonic()) > 0:
                    if _sleep([wake_read, events], min(TRACE_TICK_S, left_s), stop):
                        break
                else:
                    _sleep([wake_read, events], max(0.0, until_s - time.monotonic()), stop)
                _drain(wake_read)
        finally:
            probes.stop()
            host.roster.stop()
            inside.run(host.close)
    finally:
        if renewal is not None:
            renewal.stop()
        traces.stop()
        controller.stop()
        uplink.close()
        os.close(wake_read)
        os.close(wake_write)


def purge_host(bpffs_root: Path, host_id: str, netns_name: str | None) -> bool:
    """Remove everything that an agent of this host left in the kernel; whether there was anything.

    A network namespace that is gone has taken its devices along, and what is pinned is removed without it. An agent at
    work ends by it: what it makes until it has found out is removed too.
    """
    _refuse_bad_host_id(host_id)
    try:
        gone = netns_name is not None and not _exists(netns_name) and remove_pins(bpffs_root, host_id)
        if not gone:
            with _visitor(netns_name) as inside:
                gone = inside.run(_purge, bpffs_root, host_id)
                if wait_until_ended(bpffs_root, host_id, END_S):
                    inside.run(_purge, bpffs_root, host_id)
        forget_killed(bpffs_root, host_id)
    except OSError as error:
        raise _not_removed(error) from error
    return gone


def stop(bpffs_root: Path, host_id: str) -> bool:
    """End the agent of this host that is at work; whether there was one. What it mirrors goes on."""
    _refuse_bad_host_id(host_id)
    try:
        return end(bpffs_root, host_id, END_S)
    except PermissionError as error:
        raise Refusal(f"The agent of {host_id} cannot be ended.", found=str(error), do="run it as root") from error


def look() -> list[Device]:
    """The interfaces of this process's network namespace, as an agent would find them."""
    with Netlink() as netlink:
        return survey(netlink, {})


def _purge_inside(inside: netns.Visitor, bpffs_root: Path, host_id: str) -> bool:
    try:
        return inside.run(_purge, bpffs_root, host_id)
    except OSError as error:
        raise _not_removed(error) from error


def _not_removed(error: OSError) -> Refusal:
    return Refusal(
        "The agent's programs cannot be removed.",
        found=str(error),
        do="run it as root, with the --bpffs and the --host-id of the agent",
    )


def _purge(bpffs_root: Path, host_id: str) -> bool:
    with Netlink() as netlink:
        return purge(netlink, bpffs_root, host_id)


class Host:
    """One network namespace of this machine, its data plane, and what the last turn found.

    ``looks_share`` is the part of the time that it may look into namespaces for, in (0, 1].
    """

    def __init__(
        self,
        netlink: Netlink,
        data_plane: DataPlane,
        host_id: str,
        *,
        budget: Rate,
        namespace_gone_s: float = NAMESPACE_GONE_S,
        looks_share: float = LOOKS_SHARE,
        roster: Roster | None = None,
    ) -> None:
        self.netlink = netlink
        self.roster = Roster() if roster is None else roster
        self._departures = Departures(namespace_gone_s)
        self._data_plane = data_plane
        self._host_id = host_id
        self._budget = budget
        self._found: list[Device] = []  # by the last look, without what engines tell
        self._devices: list[Device] = []
        self._named_by: object = None  # what engines had told when devices were named
        self._made_up: dict[str, Owner] = {}
        self._known_macs = data_plane.known_macs()
        self._looks = Looks(looks_share)
        self.audit = Audit(netlink)
        self._applied_revision = 0
        self._problems: tuple[str, ...] = ()
        self._wanted: Wanted | None = None
        self._last_good: DesiredState | None = None
        self._compiled = CompiledFilters()
        self._tracer = Tracer(data_plane.trace)
        self._listeners = Listeners()
        self._paths: dict[str, PathFacts] = {}

    def close(self) -> None:
        self._data_plane.close()
        self.netlink.close()

    def turn(self, controller: Controller) -> None:
        """One turn of the loop. What fails is reported, logged once, and tried again at the next turn."""
        desired = controller.desired
        try:
            if self.netlink.drain_events():
                self._looks.ask()
                self.roster.soon()
            if self.next_look_in_s() == 0:
                self._look()
            self._name(desired)
            self._watch_names()
            if lost := self._data_plane.mend_pins():
                _log.warning("somebody has removed pins of the agent; what they kept alive is made again", pins=lost)
            problems = () if desired is None else self._follow(desired)
        except (OSError, TableFull, Uncompilable) as error:
            problems = (str(error),)
            self._looks.ask()
            if not self._data_plane.is_pinned():
                raise Refusal(
                    "The agent's programs and maps are gone.",
                    found=f"somebody removed its pins, as `pktmirror purge` does ({error})",
                    do="start the agent again, and it mirrors what is desired; or leave it, and nothing is mirrored",
                ) from error
            self._data_plane.read_again()
        problems += self._compare()
        if problems and problems != self._problems:
            _log.error("the desired state could not be applied in full", why=problems[0])
        self._problems = problems
        controller.report(self._report())

    def trace(self, line: Traces) -> bool:
        """See to a live trace, after each turn and between turns; whether one runs. What fails ends it, and is told."""
        return self._tracer.turn(line, self._data_plane.tables, self._applied_revision, self._mirrored)

    def _mirrored(self, key: str) -> int | None:
        """The device by which an interface is mirrored."""
        found = (device.ifindex for device in self._devices if device.found.has_key(key))
        return next((ifindex for ifindex in found if ifindex in self._data_plane.tables.policies), None)

    def probe(self, request: ProbeRequest) -> ProbeAnswer:
        """Send a probe on the way of a session's copies, as the last turn made it."""
        problem = None if self._wanted is None else self._wanted.problems.get(request.session_id)
        return probe(self._data_plane, request, problem)

    def _compare(self) -> tuple[str, ...]:
        """The hooks' counters with those of the devices; what is in the way of that is in the way of nothing else."""
        try:
            self.audit.read(self._data_plane.mirrored(), self._data_plane.hook_figures)
        except OSError as error:
            return (f"what went past the hooks is not known: {error}",)
        return ()

    def next_look_in_s(self) -> float:
        """In how many seconds the next look into the namespaces is due; 0 is now."""
        return self._looks.due_in_s(time.monotonic())

    def _look(self) -> None:
        began_s = time.monotonic()
        try:
            self._found = survey(self.netlink, self._known_macs, self._made_up)
            self._named_by = None
        finally:
            self._looks.looked(began_s, time.monotonic())

    def _name(self, desired: DesiredState | None) -> None:
        """Put to the devices of the last look what engines have told meanwhile."""
        keys_of_engines = desired is not None and desired.knows_plain_keys
        told = (self.roster.versions(), keys_of_engines)
        if told == self._named_by:
            return
        self._devices = self.roster.named(self._found, keys_of_engines=keys_of_engines)
        self._named_by = told
        self._known_macs = {
            device.ifindex: device.found.mac for device in self._devices if device.found.mac is not None
        }

    def _watch_names(self) -> None:
        """Names go without an event of netlink, and where their directory itself is gone nothing was deleted."""
        if not netns.DIRECTORY.is_dir():
            return
        keys: dict[str, list[str]] = {}
        for device in self._devices:
            name = _name_of_namespace(device.found)
            if name is not None:
                keys.setdefault(name, []).append(device.found.key)
        self._departures.looked(keys, netns.names(), time.monotonic())

    def _follow(self, desired: DesiredState) -> tuple[str, ...]:
        """The problems. In the place of what cannot be compiled the last good state is kept true, as links change."""
        try:
            self._make_true(desired)
        except Uncompilable as error:
            if self._last_good is not None and self._last_good is not desired:
                self._make_true(self._last_good)
            return (str(error),)
        return ()

    def _make_true(self, desired: DesiredState) -> None:
        links = {link.ifindex: link for link in self.netlink.links()}
        neighbours = {(entry.ifindex, str(entry.address)): entry for entry in self.netlink.neighbours()}
        ways = self._ways(desired, links, neighbours)
        wanted, changes = self._planned(desired, ways)
        self._last_good = desired
        if changes:
            self._data_plane.carry_out(changes)
            self._data_plane.tables = applied(self._data_plane.tables, changes)
            _log.info("applied", revision=desired.revision, changes=len(changes))
        self._data_plane.looked(time.monotonic_ns())
        self._data_plane.forget_predecessors()
        self._applied_revision = desired.revision
        self._wanted = replace(wanted, problems={**self._unresolved(wanted, neighbours), **wanted.problems})
        listens = self._listeners.at(targets(wanted), self._devices, time.monotonic())
        self._paths = paths(desired, wanted, Sight(ways, links, neighbours, listens))

    def _ways(
        self, desired: DesiredState, links: dict[int, Link], neighbours: dict[tuple[int, str], Neighbour]
    ) -> dict[RouteQuery, Way]:
        try:
            found = {query: self._way(query, links, neighbours) for query in route_queries(desired)}
            return {query: way for query, way in found.items() if way is not None}
        except Uncompilable as error:
            raise _uncompilable(desired, error) from error

    def _planned(self, desired: DesiredState, ways: dict[RouteQuery, Way]) -> tuple[Wanted, list[Change]]:
        """What the kernel should hold and what has to change for it; nothing has changed yet, but for the hops."""
        try:
            wanted = compile_state(desired, self._devices, ways, self._compiled, budget=self._budget, cpus=cpus())
            if wanted.interfaces:
                self._data_plane.make_hops()
            return wanted, plan(wanted, self._data_plane.tables)
        except Uncompilable as error:
            raise _uncompilable(desired, error) from error

    def _way(
        self, query: RouteQuery, links: dict[int, Link], neighbours: dict[tuple[int, str], Neighbour]
    ) -> Way | None:
        device = None
        if query.device is not None:
            device = next((link.ifindex for link in links.values() if link.name == query.device), None)
            if device is None:
                return None
        route = self.netlink.route_to(query.address, device_ifindex=device, table=query.table)
        link = None if route is None else links.get(route.ifindex)
        if route is None or link is None or not link.up:
            return None
        mtu = min(route.mtu or link.mtu, link.mtu)
        short = shortcut(route, query.address, links, neighbours, self._devices)
        return Way(route.ifindex, route.next_hop, mtu, route.source, splits(link), is_card(link), short)

    def _unresolved(self, wanted: Wanted, neighbours: dict[tuple[int, str], Neighbour]) -> dict[str, str]:
        """Sessions whose next hop does not tell its link address: the kernel drops their copies after it took them.

        It keeps no more than some 160 packets for a next hop that is being asked for, so one that is not known is asked
        for before there are copies.
        """
        problems = {}
        for interface in wanted.interfaces:
            for to in (session.delivery for session in interface.sessions if session.stage is Stage.SENT):
                neighbour = neighbours.get((to.ifindex, str(to.next_hop)))
                if neighbour is None:
                    self.netlink.ask_for_neighbour(to.ifindex, to.next_hop)
                elif neighbour.failed:
                    question = "ARP" if to.next_hop.version == 4 else "neighbour solicitations"
                    problems[to.session_id] = f"the next hop {to.next_hop} does not answer {question}"
        return problems

    def _report(self) -> Report:
        keys = {device.ifindex: device.found.key for device in self._devices}
        wanted = self._wanted
        outer_sources = {} if wanted is None else _outer_sources(wanted)
        return Report(
            host_id=self._host_id,
            agent_version=__version__,
            applied_revision=self._applied_revision,
            interfaces=tuple(device.found for device in self._devices),
            deleted=self._deleted(),
            statuses=()
            if wanted is None
            else tuple(
                SessionStatus(
                    session_id=session_id,
                    problem=wanted.problems.get(session_id),
                    outer_source=outer_sources.get(session_id),
                    path=self._paths.get(session_id),
                )
                for session_id in sorted(wanted.session_ids)
            ),
            sessions=()
            if wanted is None
            else session_figures(
                self._data_plane.session_figures(), self._data_plane.rule_figures(), wanted.session_ids
            ),
            mirrored_interfaces=tuple(
                InterfaceFigures(
                    key=keys[ifindex], directions=directions, bypassed_packets=self.audit.bypassed(ifindex)
                )
                for ifindex, directions in self._data_plane.interface_figures().items()
                if ifindex in keys
            ),
            problems=self._problems,
            strays=self._data_plane.strays(),
            budget=self._budget,
            engines=self.roster.statuses(),
        )

    def _deleted(self) -> tuple[str, ...]:
        """What its provider has deleted. Of a container or pod that an engine lists, that engine alone tells it."""
        there = {device.found.key for device in self._devices}
        by_name = {key for key in self._departures.deleted(time.monotonic()) if not self._is_listed(key)}
        return tuple(sorted({*by_name, *self.roster.deleted()} - there))

    def _is_listed(self, key: str) -> bool:
        return not key.startswith("netns:") and self.roster.knows(instance_id_of(key))


def _name_of_namespace(found: FoundInterface) -> str | None:
    """The name below /run/netns of the namespace that an interface is in."""
    key = found.key if found.plain_key is None else found.plain_key
    return instance_id_of(key) if key.startswith("netns:") else None


def _uncompilable(desired: DesiredState, error: Uncompilable) -> Uncompilable:
    return Uncompilable(
        f"revision {desired.revision} of the desired state cannot be compiled, and the last good one stays in "
        f"force: {error}"
    )


def _outer_sources(wanted: Wanted) -> dict[str, str]:
    """By session id: the address that its copies carry; nothing of those that send none."""
    return {
        session.delivery.session_id: str(session.delivery.outer_source)
        for interface in wanted.interfaces
        for session in interface.sessions
        if session.stage is Stage.SENT
    }


def _open(settings: Settings, on_change: Callable[[], None]) -> Host:
    netlink = Netlink()
    try:
        memory = Memory(settings.state_dir / f"engines-{settings.host_id}.json") if settings.engines else None
        roster = Roster(settings.engines, memory, on_change=on_change, gone_s=settings.namespace_gone_s)
        data_plane = DataPlane(netlink, settings.bpffs_root, settings.host_id)
        return Host(
            netlink,
            data_plane,
            settings.host_id,
            namespace_gone_s=settings.namespace_gone_s,
            budget=settings.budget,
            roster=roster,
        )
    except OSError as error:
        netlink.close()
        first, *more = str(error).splitlines()
        if more and not isinstance(error, PermissionError):
            _log.error("the kernel refuses the programs", lines=more)
        lost = error.filename if isinstance(error, FileNotFoundError) else None
        if lost is not None and Path(lost).is_relative_to(pins_of(settings.bpffs_root, settings.host_id)):
            raise Refusal(
                f"{lost} is missing among what an agent left pinned.",
                do="remove the rest with `pktmirror purge`, with the --bpffs, --host-id and --netns of this agent, and "
                "start it again",
            ) from error
        raise Refusal(
            "The agent cannot load its programs into the kernel.",
            found=first,
            do="run it as root, with a directory for --bpffs; `pktmirror doctor` says what this machine lacks",
        ) from error


def _visitor(name: str | None) -> netns.Visitor:
    try:
        return netns.Visitor(name)
    except (OSError, ValueError) as error:
        raise Refusal(
            f"The agent cannot enter the network namespace {name}.",
            found=(isinstance(error, OSError) and error.strerror) or str(error),
            do="`ip netns` lists the namespaces there are; entering one needs root",
        ) from error


def _exists(netns_name: str) -> bool:
    """True also for what cannot be a name: entering it says so."""
    try:
        return netns.exists(netns_name)
    except ValueError:
        return True


def _refuse_bad_host_id(host_id: str) -> None:
    if not is_agent_id(host_id):
        raise Refusal(
            f"{host_id!r} cannot be the name of a host.",
            do="give --host-id letters, digits, '.', '_' and '-', at most 128, a letter or digit first",
        )


def _wake(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # it is awake already
        os.write(fd, b"!")


def _sleep(fds: list[int], seconds: float, stop: threading.Event) -> bool:
    """Whether something has woken it, or it did not sleep at all."""
    return stop.is_set() or bool(select.select(fds, [], [], seconds)[0])


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 512):
            pass

"""One network namespace of a machine: what an agent does there at each turn of its loop. An edge module.

It looks, plans what has to change for what is desired, has that done, and reports; the decisions are in the modules
that it calls.
"""

import os
import time
from collections.abc import Iterable

import structlog

from pktmirror import __version__
from pktmirror.agent.apply import DataPlane
from pktmirror.agent.compile import (
    CompiledFilters,
    Uncompilable,
    Wanted,
    compile_state,
    route_queries,
)
from pktmirror.agent.containers import Owner
from pktmirror.agent.controller import Controller
from pktmirror.agent.departures import NAMESPACE_GONE_S, Departures, keys_by_name
from pktmirror.agent.device_counters import DeviceCounters
from pktmirror.agent.figures import session_figures
from pktmirror.agent.inventory import Device
from pktmirror.agent.listeners import Listeners
from pktmirror.agent.looks import LOOKS_SHARE, Looks
from pktmirror.agent.neighbours import NextHop, to_ask, unresolved
from pktmirror.agent.paths import Sight, paths, targets
from pktmirror.agent.plan import Change, TableFull, applied, plan, unresolved_in
from pktmirror.agent.probe import probe
from pktmirror.agent.providers import Roster, instance_id_of
from pktmirror.agent.survey import survey
from pktmirror.agent.tracer import Asker, Tracer
from pktmirror.agent.ways import RouteQuery, Way, way_of
from pktmirror.desired import DesiredState, InterfaceFigures, PathFacts, Report, SessionStatus
from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Link, Neighbour, Netlink
from pktmirror.model.probe import ProbeAnswer, ProbeRequest
from pktmirror.model.rate import Rate
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")


def cpus() -> int:
    """How many CPUs this machine has; copies are made on whichever one the mirrored packet is on."""
    return os.cpu_count() or 1


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
        lease_s: int = 0,
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
        self._lease_s = lease_s
        self._found: list[Device] = []  # by the last look, without what engines tell
        self._devices: list[Device] = []
        self._named_by: object = None  # what engines had told when devices were named
        self._made_up: dict[str, Owner] = {}
        self._known_macs = data_plane.known_macs()
        self._looks = Looks(looks_share)
        self.device_counters = DeviceCounters(netlink)
        self._applied_revision = 0
        self._problems: tuple[str, ...] = ()
        self._wanted: Wanted | None = None
        self._last_good: DesiredState | None = None
        self._compiled = CompiledFilters()
        self._tracer = Tracer(data_plane.trace)
        self._listeners = Listeners()
        self._paths: dict[str, PathFacts] = {}
        self._unresolved = unresolved_in(data_plane.tables)

    def close(self) -> None:
        self._data_plane.close()
        self.netlink.close()

    def turn(self, controller: Controller) -> None:
        """One turn of the loop. What fails is reported, logged once, and tried again at the next turn."""
        desired = controller.desired
        try:
            if controller.heard_ns is not None:
                self._data_plane.heard(controller.heard_ns)
            if self.netlink.drain_events():
                self._looks.ask()
                self.roster.soon()
            failed = self.netlink.take_failed_neighbours()
            if self.next_look_in_s() == 0:
                self._look()
            self._name(desired)
            self._watch_names()
            if lost := self._data_plane.mend_pins():
                _log.warning("somebody has removed pins of the agent; what they kept alive is made again", pins=lost)
            problems = () if desired is None else self._follow(desired, failed)
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

    def trace(self, asker: Asker) -> bool:
        """See to a live trace, after each turn and between turns; whether one runs. What fails ends it, and is told."""
        return self._tracer.turn(asker, self._data_plane.tables, self._applied_revision, self._mirrored)

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
            self.device_counters.read(self._data_plane.mirrored(), self._data_plane.hook_figures)
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
        if netns.DIRECTORY.is_dir():
            self._departures.looked(keys_by_name(self._devices), netns.names(), time.monotonic())

    def _follow(self, desired: DesiredState, failed: frozenset[NextHop]) -> tuple[str, ...]:
        """The problems. In the place of what cannot be compiled the last good state is kept true, as links change.

        ``failed``: of whom the kernel has told since the last turn that they do not answer.
        """
        try:
            self._make_true(desired, failed)
        except Uncompilable as error:
            if self._last_good is not None and self._last_good is not desired:
                self._make_true(self._last_good, failed)
            return (str(error),)
        return ()

    def _make_true(self, desired: DesiredState, failed: frozenset[NextHop]) -> None:
        links = {link.ifindex: link for link in self.netlink.links()}
        neighbours = {(entry.ifindex, str(entry.address)): entry for entry in self.netlink.neighbours()}
        ways = self._ways(desired, links, neighbours)
        silent = unresolved(self._unresolved | failed, {way.hop for way in ways.values()}, neighbours, links)
        wanted, changes = self._planned(desired, ways, links.values(), silent)
        self._last_good = desired
        if changes:
            self._data_plane.carry_out(changes)
            self._data_plane.tables = applied(self._data_plane.tables, changes)
            _log.info("applied", revision=desired.revision, changes=len(changes))
        self._data_plane.looked(time.monotonic_ns())
        self._data_plane.forget_predecessors()
        self._applied_revision = desired.revision
        self._wanted, self._unresolved = wanted, silent
        for ifindex, address in to_ask(wanted.next_hops, neighbours, links):
            self.netlink.ask_for_neighbour(ifindex, address)
        listens = self._listeners.at(targets(wanted), self._devices, time.monotonic())
        self._paths = paths(desired, wanted, Sight(ways, links, neighbours, listens, silent))

    def _ways(
        self, desired: DesiredState, links: dict[int, Link], neighbours: dict[tuple[int, str], Neighbour]
    ) -> dict[RouteQuery, Way]:
        try:
            found = {query: self._way(query, links, neighbours) for query in route_queries(desired)}
            return {query: way for query, way in found.items() if way is not None}
        except Uncompilable as error:
            raise _uncompilable(desired, error) from error

    def _planned(
        self,
        desired: DesiredState,
        ways: dict[RouteQuery, Way],
        links: Iterable[Link],
        silent: frozenset[NextHop],
    ) -> tuple[Wanted, list[Change]]:
        """What the kernel should hold and what has to change for it; nothing has changed yet, but for the hops."""
        try:
            wanted = compile_state(
                desired,
                self._devices,
                ways,
                self._compiled,
                budget=self._budget,
                cpus=cpus(),
                lease_s=self._lease_s,
                unresolved=silent,
            )
            if wanted.interfaces:
                self._data_plane.make_hops(links)
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
        return way_of(query, route, links, neighbours, self._devices)

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
                    key=keys[ifindex], directions=directions, bypassed_packets=self.device_counters.bypassed(ifindex)
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


def _uncompilable(desired: DesiredState, error: Uncompilable) -> Uncompilable:
    return Uncompilable(
        f"revision {desired.revision} of the desired state cannot be compiled, and the last good one stays in "
        f"force: {error}"
    )


def _outer_sources(wanted: Wanted) -> dict[str, str]:
    """By session id: the address that its copies carry; nothing of those that have nowhere to go."""
    return {
        session.delivery.session_id: str(session.delivery.outer_source)
        for interface in wanted.interfaces
        for session in interface.sessions
        if session.has_way
    }

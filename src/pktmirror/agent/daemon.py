"""The agent's loop: look, compile, plan, apply, report. An edge module; the decisions are in the rooms it calls.

It wakes when the control plane desires something else, when a link, route or neighbour changes, and once a second.
"""

import contextlib
import os
import select
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from pktmirror import __version__
from pktmirror.agent.apply import HOP_PREFIX, DataPlane, purge
from pktmirror.agent.compile import RouteQuery, Wanted, Way, compile_state, route_queries
from pktmirror.agent.controller import Controller
from pktmirror.agent.inventory import Device, NamespaceView, devices
from pktmirror.agent.plan import TableFull, applied, plan
from pktmirror.desired import DesiredState, InterfaceFigures, Report, SessionFigures, SessionStatus
from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Link, Netlink
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

TICK_S = 1.0
FULL_LOOK_S = 5.0  # how often namespaces are looked into without an event of their links here
DEFAULT_BPFFS = Path("/run/pktmirror/bpf")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is started with; ``netns`` None is the namespace of the process."""

    control_url: str
    token: str
    host_id: str
    state_dir: Path
    netns: str | None = None
    bpffs_root: Path = DEFAULT_BPFFS


def run(settings: Settings, stop: threading.Event, ready: threading.Event | None = None) -> None:
    """Serve until ``stop`` is set. Mirrors go on afterwards: `purge` is what ends them."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    controller = Controller(
        settings.control_url,
        settings.token,
        settings.host_id,
        settings.state_dir / f"desired-{settings.host_id}.json",
        on_change=lambda: _wake(wake_write),
    )
    try:
        with _visitor(settings.netns) as inside:
            host = inside.run(_open, settings)
            try:
                events = inside.run(host.netlink.watch)
                controller.start()
                while not stop.is_set():
                    inside.run(host.turn, controller)
                    if ready is not None:
                        ready.set()
                    _sleep([wake_read, events], TICK_S, stop)
                    _drain(wake_read)
            finally:
                inside.run(host.close)
    finally:
        controller.stop()
        os.close(wake_read)
        os.close(wake_write)


def purge_host(bpffs_root: Path, host_id: str, netns_name: str | None) -> bool:
    """Remove everything that an agent of this host left in the kernel; whether there was anything."""
    with _visitor(netns_name) as inside:
        try:
            found = inside.run(_purge, bpffs_root, host_id)
        except PermissionError as error:
            raise Refusal("The agent's programs cannot be removed.", found=str(error), do="run it as root") from error
    return found


def _purge(bpffs_root: Path, host_id: str) -> bool:
    with Netlink() as netlink:
        return purge(netlink, bpffs_root, host_id)


class Host:
    """One network namespace of this machine, its data plane, and what the last turn found."""

    def __init__(self, netlink: Netlink, data_plane: DataPlane, host_id: str) -> None:
        self.netlink = netlink
        self._data_plane = data_plane
        self._host_id = host_id
        self._devices: list[Device] = []
        self._looked_s = float("-inf")
        self._applied_revision = 0
        self._problems: tuple[str, ...] = ()
        self._wanted: Wanted | None = None

    def close(self) -> None:
        self._data_plane.close()
        self.netlink.close()

    def turn(self, controller: Controller) -> None:
        """One turn of the loop. What fails is reported, logged once, and tried again at the next turn."""
        desired = controller.desired
        try:
            changed = self.netlink.drain_events()
            if changed or time.monotonic() - self._looked_s >= FULL_LOOK_S:
                self._look()
            if desired is not None:
                self._make_true(desired)
            problems: tuple[str, ...] = ()
        except (OSError, TableFull) as error:
            problems = (str(error),)
            self._looked_s = float("-inf")
            self._data_plane.read_again()
        if problems and problems != self._problems:
            _log.error("the desired state could not be applied in full", why=problems[0])
        self._problems = problems
        controller.report(self._report())

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        links = self.netlink.links()
        nsids = {link.peer_nsid for link in links if link.peer_nsid is not None}
        self._devices = devices(
            links, self.netlink.addresses(), _namespaces(self.netlink, nsids) if nsids else {}, own_prefix=HOP_PREFIX
        )

    def _make_true(self, desired: DesiredState) -> None:
        links = {link.ifindex: link for link in self.netlink.links()}
        ways = {query: way for query in route_queries(desired) if (way := self._way(query, links)) is not None}
        wanted = compile_state(desired, self._devices, ways)
        hop_ifindex = self._data_plane.hop_ifindex() if wanted.interfaces else 0
        changes = plan(wanted, self._data_plane.tables, hop_ifindex=hop_ifindex)
        if changes:
            self._data_plane.carry_out(changes)
            self._data_plane.tables = applied(self._data_plane.tables, changes)
            _log.info("applied", revision=desired.revision, changes=len(changes))
        self._data_plane.forget_predecessors()
        self._applied_revision = desired.revision
        self._wanted = Wanted(
            wanted.interfaces, b"", wanted.session_ids, {**self._unresolved(wanted), **wanted.problems}
        )

    def _way(self, query: RouteQuery, links: dict[int, Link]) -> Way | None:
        device = None
        if query.device is not None:
            device = next((link.ifindex for link in links.values() if link.name == query.device), None)
            if device is None:
                return None
        route = self.netlink.route_to(query.address, device_ifindex=device, table=query.table)
        link = None if route is None else links.get(route.ifindex)
        if route is None or link is None or not link.up:
            return None
        return Way(route.ifindex, route.next_hop, min(route.mtu or link.mtu, link.mtu))

    def _unresolved(self, wanted: Wanted) -> dict[str, str]:
        """Sessions whose next hop answers no ARP: the kernel drops their copies after it has taken them."""
        failed = {(entry.ifindex, str(entry.address)) for entry in self.netlink.neighbours() if entry.failed}
        return {
            session.delivery.session_id: f"the next hop {session.delivery.next_hop} does not answer ARP"
            for interface in wanted.interfaces
            for session in interface.sessions
            if (session.delivery.ifindex, str(session.delivery.next_hop)) in failed
        }

    def _report(self) -> Report:
        keys = {device.ifindex: device.found.key for device in self._devices}
        wanted = self._wanted
        return Report(
            host_id=self._host_id,
            agent_version=__version__,
            applied_revision=self._applied_revision,
            interfaces=tuple(device.found for device in self._devices),
            statuses=()
            if wanted is None
            else tuple(
                SessionStatus(session_id=session_id, problem=wanted.problems.get(session_id))
                for session_id in sorted(wanted.session_ids)
            ),
            sessions=tuple(
                SessionFigures(session_id=session_id, directions=directions)
                for session_id, directions in self._data_plane.session_figures().items()
                if wanted is not None and session_id in wanted.session_ids
            ),
            mirrored_interfaces=tuple(
                InterfaceFigures(key=keys[ifindex], directions=directions)
                for ifindex, directions in self._data_plane.interface_figures().items()
                if ifindex in keys
            ),
            problems=self._problems,
        )


def _open(settings: Settings) -> Host:
    netlink = Netlink()
    try:
        return Host(netlink, DataPlane(netlink, settings.bpffs_root, settings.host_id), settings.host_id)
    except OSError as error:
        netlink.close()
        raise Refusal(
            "The agent cannot load its programs into the kernel.",
            found=str(error),
            do="run it as root; `pktmirror doctor` says what this machine lacks",
        ) from error


def _visitor(name: str | None) -> netns.Visitor:
    try:
        return netns.Visitor(name)
    except OSError as error:
        raise Refusal(
            f"The agent cannot enter the network namespace {name}.",
            found=error.strerror,
            do="`ip netns` lists the namespaces there are; entering one needs root",
        ) from error


def _namespaces(netlink: Netlink, nsids: set[int]) -> dict[int, NamespaceView]:
    """The named namespaces to which links of this one lead, by nsid."""
    views: dict[int, NamespaceView] = {}
    for name in netns.names():
        try:
            nsid = netlink.nsid_of(netns.path(name))
            if nsid is not None and nsid in nsids:
                with netns.Visitor(name) as inside:
                    views[nsid] = inside.run(_view, name)
        except OSError as error:  # it was removed, or is only the file of one
            _log.debug("a network namespace cannot be looked into", name=name, why=str(error))
    return views


def _view(name: str) -> NamespaceView:
    with Netlink() as netlink:
        return NamespaceView(name, tuple(netlink.links()), tuple(netlink.addresses()))


def _wake(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # it is awake already
        os.write(fd, b"!")


def _sleep(fds: list[int], seconds: float, stop: threading.Event) -> None:
    if not stop.is_set():
        select.select(fds, [], [], seconds)


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 512):
            pass

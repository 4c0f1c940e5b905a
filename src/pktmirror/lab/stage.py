"""A lab as its user sees it: up, down, show, and a process in one of its places. An edge module.

Everything is made inside namespaces of the lab's own; the namespace in which `up` runs keeps its links, routes,
sysctls and bpffs as they were. What stays is the directory /run/netns, as iproute2 leaves it.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from pktmirror.kernel import netns
from pktmirror.lab import processes, state
from pktmirror.lab.plan import MakeNamespace, plan
from pktmirror.lab.state import State
from pktmirror.lab.topology import Topology
from pktmirror.lab.wiring import Wiring
from pktmirror.model.refusal import Refusal

Progress = Callable[[str], None]
INIT = 1


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up."""

    topology: Topology

    @property
    def name(self) -> str:
        return self.topology.name

    def namespace(self, place: str) -> str:
        """The network namespace of a host, an instance or the router; Refusal where there is no such place."""
        return self.topology.namespace(place)

    def inside(self, place: str) -> netns.Visitor:
        """A thread inside a place; close it, or use it in a ``with``."""
        return netns.Visitor(self.namespace(place))

    def start(self, place: str, argv: Sequence[str], **popen_kwargs: Any) -> "subprocess.Popen[Any]":
        """A process in a place, which `down` ends; the keyword arguments are those of subprocess.Popen."""
        with _said_plainly(f"start {argv[0]} in the lab {self.name}"):
            process = netns.start(self.namespace(place), argv, **popen_kwargs)
        try:
            self._record(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def execute(self, place: str, argv: Sequence[str]) -> NoReturn:
        """Become a process in a place: this one's pid, files and terminal. `down` ends it."""
        command = netns.command(self.namespace(place), argv)
        self._record(os.getpid())
        with _said_plainly(f"run {argv[0]} in the lab {self.name}"):
            os.execvp(command[0], command)

    def _record(self, pid: int) -> None:
        process = processes.identified(pid)
        if process is None:
            return  # it has ended already
        state.change(
            self.name,
            lambda before: msgspec.structs.replace(
                before,
                processes=(*(old for old in before.processes if processes.identified(old.pid) == old), process),
            ),
        )


@dataclass(frozen=True, slots=True)
class Removed:
    """What `down` did. ``left`` says in sentences what it found and did not touch."""

    namespaces: tuple[str, ...]
    ended_pids: tuple[int, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownDevice:
    """A network device as the kernel has it now; ``up`` means that it also has a carrier."""

    name: str
    kind: str
    up: bool
    mac: str
    mtu: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownPlace:
    """A place as it is now; ``present`` is false where its namespace has been removed by someone else."""

    name: str
    namespace: str
    present: bool
    devices: tuple[ShownDevice, ...] = ()
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A lab as it is now; ``complete`` is false where its `up` has not come to its end."""

    topology: Topology
    complete: bool
    places: tuple[ShownPlace, ...]


def names() -> list[str]:
    """The labs that are up."""
    return state.names()


def up(topology: Topology, progress: Progress = lambda _: None) -> Lab:
    """Build a lab; ``progress`` hears of each step before it is made.

    All or nothing: whatever goes wrong, an interruption included, takes away what was made. `Refusal` where the lab
    is up already, where one of its namespaces' names is taken, and for missing privileges.
    """
    with _said_plainly(f"build the lab {topology.name}"):
        _claim(topology)
        made: dict[str, int | None] = {}
        try:
            _build(topology, progress, made)
        except BaseException:
            _take_down(State(topology, made))
            raise
    return Lab(topology)


def down(name: str) -> Removed:
    """Take a lab away, complete or not: its processes, links and namespaces. `Refusal` where there is none."""
    with _said_plainly(f"take down the lab {name}"):
        return _take_down(state.read(name))


def find(name: str) -> Lab:
    """A lab that is up; `Refusal` where there is none, or only a half-built one."""
    found = state.read(name)
    if not found.complete:
        raise Refusal(
            f"The lab {name} is not complete.",
            found="it is being built, or its `up` was killed",
            do=f"run `pktmirror lab down {name}` and `pktmirror lab up` again",
        )
    return Lab(found.topology)


def show(name: str) -> Shown:
    """What is there of a lab now. `Refusal` where there is none."""
    found = state.read(name)
    with _said_plainly(f"look into the lab {name}"), Wiring() as wiring:
        places = tuple(_shown(wiring, place, found) for place in found.topology.places)
    return Shown(found.topology, found.complete, places)


def _claim(topology: Topology) -> None:
    name = topology.name
    intended: dict[str, int | None] = {topology.namespace(place): None for place in topology.places}
    try:
        state.claim(State(topology, intended))
    except FileExistsError:
        raise Refusal(
            f"The lab {name} is up already.",
            do=f"use it (`pktmirror lab show {name}`), or take it down first: `pktmirror lab down {name}`",
        ) from None
    taken = sorted(intended.keys() & set(netns.names()))
    if taken:
        state.forget(name)
        raise Refusal(
            f"The lab {name} cannot be built: names of its namespaces are taken, and not by a lab.",
            found=", ".join(taken),
            do="choose another name for the lab, or remove each of them with `ip netns del`",
        )


def _build(topology: Topology, progress: Progress, made: dict[str, int | None]) -> None:
    """Carry out the plan; ``made`` has every namespace that is there, at whatever moment this is interrupted."""
    with Wiring() as wiring:
        for step in plan(topology):
            progress(str(step))
            if isinstance(step, MakeNamespace):
                made[step.namespace] = None
            try:
                wiring.carry_out(step)
            except FileExistsError:  # a namespace that somebody else has made since the claim: theirs stays
                if isinstance(step, MakeNamespace):
                    del made[step.namespace]
                raise
        made |= {namespace: netns.inode(namespace) for namespace in made}
        for host in topology.hosts:
            wiring.wait_until_forwarding(topology.namespace(host.name))
    state.change(topology.name, lambda before: msgspec.structs.replace(before, namespaces=dict(made), complete=True))


def _take_down(found: State) -> Removed:
    ours, left = _ours(found.namespaces)
    # Whoever is in one of them keeps its neighbours; and if a name has come to mean the machine's own network, by
    # whatever mistake, the machine goes on running.
    spared = {netns.inode_of_process(pid) for pid in (os.getpid(), INIT)}
    left += [
        f"processes in {namespace} stay: this one, or the machine's first, is in it"
        for namespace, inode in ours.items()
        if inode in spared
    ]
    inodes = frozenset(ours.values()) - spared
    ended = processes.end(found.processes, inodes)
    # A namespace lives on while anybody visits it; without its links it reaches nothing.
    with Wiring() as wiring:
        for host in found.topology.hosts:
            if found.topology.namespace(host.name) in ours:
                wiring.remove_links(found.topology.namespace(host.name))
    for namespace in ours:
        netns.remove(namespace)
    state.forget(found.topology.name)
    return Removed(tuple(ours), tuple(ended), tuple(left))


def _ours(recorded: Mapping[str, int | None]) -> tuple[dict[str, int], list[str]]:
    """The recorded namespaces that are still the recorded ones, by inode; and sentences about the others."""
    ours: dict[str, int] = {}
    left: list[str] = []
    for namespace, inode in recorded.items():
        if not netns.exists(namespace):
            continue
        if inode is not None and netns.inode(namespace) != inode:
            left.append(f"namespace {namespace} stays: it is not the one that the lab has made")
            continue
        ours[namespace] = netns.inode(namespace)
    return ours, left


def _shown(wiring: Wiring, place: str, found: State) -> ShownPlace:
    namespace = found.topology.namespace(place)
    ours, _ = _ours({namespace: found.namespaces.get(namespace)})
    if namespace not in ours:
        return ShownPlace(place, namespace, present=False)
    links, addresses = wiring.devices(namespace)
    devices = tuple(
        ShownDevice(
            name=link.get("ifname"),
            kind=link.get(("linkinfo", "kind")) or "loopback",
            up=link.get("operstate") in ("UP", "UNKNOWN"),
            mac=link.get("address"),
            mtu=link.get("mtu"),
            addresses=tuple(
                f"{address.get('address')}/{address['prefixlen']}"
                for address in addresses
                if address["index"] == link["index"]
            ),
        )
        for link in links
    )
    return ShownPlace(
        place, namespace, True, devices, tuple(sorted(pid for pid, _ in netns.processes(frozenset(ours.values()))))
    )


@contextmanager
def _said_plainly(what: str) -> Iterator[None]:
    """Turn what the operating system refuses, and the user can grant, into a `Refusal`."""
    try:
        yield
    except PermissionError as error:
        raise Refusal(
            f"Cannot {what}: a privilege is missing.", found=str(error), do="run the command as root, or with sudo"
        ) from None
    except FileNotFoundError as error:
        if error.filename != "nsenter":
            raise
        raise Refusal(f"Cannot {what}: nsenter is missing.", do="install the package util-linux") from None

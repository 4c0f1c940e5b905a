"""The agent as a process: its loop, and how its mirroring ends. An edge module; what a turn does is in `host`.

It wakes when the control plane desires something else, when a link, route or neighbour changes, and once a second.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from pktmirror.agent.apply import DataPlane, is_agent_id, pins_of, purge, remove_pins
from pktmirror.agent.controller import Controller
from pktmirror.agent.departures import NAMESPACE_GONE_S
from pktmirror.agent.host import Host, cpus
from pktmirror.agent.identity import Identity
from pktmirror.agent.inventory import Device
from pktmirror.agent.line import Uplink, refuse_bad_url
from pktmirror.agent.locks import alone, end, forget_killed, wait_until_ended
from pktmirror.agent.probe_line import ProbeLine
from pktmirror.agent.providers import Engine, Memory, Roster
from pktmirror.agent.renewal import Renewal
from pktmirror.agent.survey import survey
from pktmirror.agent.traceline import TraceLine
from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Netlink
from pktmirror.model.rate import Rate, default_budget
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

TICK_S = 1.0
END_S = 15.0
TRACE_TICK_S = 0.1  # while somebody waits for what a live trace tells
LEASE_S_MIN, LEASE_S_MAX = 10, 10**7  # a healthy agent hears of its control plane each second
DEFAULT_BPFFS = Path("/run/pktmirror/bpf")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is started with; ``netns`` None is the namespace of the process. Refusal for what cannot be.

    ``credential`` is the token that the agents of a control plane share, or what the host has of its joining.
    ``engines`` are asked whose containers, machines and pods are.
    ``lease_s`` is how long the host goes on copying without a word of its control plane; 0: for ever.
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
    lease_s: int = 0
    purges_at_end: bool = False
    engines: tuple[Engine, ...] = ()

    def __post_init__(self) -> None:
        _refuse_bad_host_id(self.host_id)
        refuse_bad_url(self.control_url)
        if self.lease_s != 0 and not LEASE_S_MIN <= self.lease_s <= LEASE_S_MAX:
            raise Refusal(
                f"A lease of {self.lease_s} s is not possible.",
                do=f"give --lease-s {LEASE_S_MIN} to {LEASE_S_MAX}, or 0 for none",
            )


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


def stop_agent(bpffs_root: Path, host_id: str) -> bool:
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
            lease_s=settings.lease_s,
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

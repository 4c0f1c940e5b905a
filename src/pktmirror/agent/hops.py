"""The hops of a host's copies: private veth pairs in the interfaces' own network namespace (decisions 0008, 0011).

On a finishing hop a copy waits until production is handed on. Behind a wrapping hop super-packets get their outer
headers, and what the kernel would not finish on the way out goes on over a splitting hop. Before a finishing and a
splitting hop the kernel splits and completes checksums, since the transmit offloads of their near ends are off. There
is a lane of all three for each CPU. An edge module.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pktmirror.agent import abi
from pktmirror.kernel import bpf
from pktmirror.kernel.netlink import Link, Netlink, poll_what_it_receives, turn_offloads_off
from pktmirror.kernel.segmentation import take_super_packets

HOP_PREFIX = "pktm-"  # names of the agent's own devices; inventory leaves them out
HOP_MTU = 65535
HOP_QUEUE_PACKETS_MAX = 1000  # as a network card's; beyond, production goes on and copies are not made
LEAVE_AHEAD, WRAP, FINISH, FINISH_SPLIT, KEEP_APART = "leave_ahead", "wrap", "finish", "finish_split", "keep_apart"
PROGRAMS = (LEAVE_AHEAD, WRAP, FINISH, FINISH_SPLIT, KEEP_APART)


@dataclass(frozen=True, slots=True)
class Lane:
    """The devices that copies enter, by ifindex, one of each kind of hop."""

    wrapping_ifindex: int
    finishing_ifindex: int
    splitting_ifindex: int


@dataclass(frozen=True, slots=True)
class Hop:
    """What enters ``near`` is received by ``far``, and there by the program; ``ahead`` is one that it meets before."""

    near: str
    far: str
    program: str
    splits: bool
    polled: bool
    ahead: str | None = None

    @property
    def devices(self) -> dict[str, str]:
        """Where each program is, by its pin."""
        at = {self.pin(self.program): self.far}
        if self.polled:
            at[self.pin(KEEP_APART)] = self.far
        if self.ahead is not None:
            at[self.pin(self.ahead)] = self.near
        return at

    def pin(self, program: str) -> str:
        return f"hop-{self.far}-{program}"


def hops(prefix: str, lane: int) -> tuple[Hop, Hop, Hop]:
    """The three hops of a lane. The prefix has 12 characters, and a device's name at most 15."""
    return (
        Hop(f"{prefix}a{lane}", f"{prefix}b{lane}", WRAP, splits=False, polled=False, ahead=LEAVE_AHEAD),
        Hop(f"{prefix}c{lane}", f"{prefix}d{lane}", FINISH, splits=True, polled=True),
        Hop(f"{prefix}e{lane}", f"{prefix}f{lane}", FINISH_SPLIT, splits=True, polled=False),
    )


def _is_at(pin: Path, device: Link | None) -> bool:
    """Whether the program of a pin is still at its device; it may have been taken off by force."""
    if device is None or not pin.exists():
        return False
    with bpf.Link.pinned(pin) as link:
        return link.ifindex() == device.ifindex


class Hops:
    """Makes the hops of one version of the programs, and mends them where somebody took them away."""

    def __init__(self, netlink: Netlink, prefix: str, pins: Path, programs: Mapping[str, bpf.Program]) -> None:
        self._netlink = netlink
        self._pins = pins
        self._programs = programs
        self._lanes = [hops(prefix, lane) for lane in range(min(os.cpu_count() or 1, abi.LANES_MAX))]

    @property
    def device_names(self) -> frozenset[str]:
        return frozenset(name for lane in self._lanes for hop in lane for name in (hop.near, hop.far))

    def made(self, found: Iterable[Link]) -> Sequence[Lane]:
        """Where copies enter. A wrapping hop leads into the others, which are made first."""
        links = {link.name: link for link in found}
        lanes = []
        for wrapping, finishing, splitting in self._lanes:
            finishing_ifindex, splitting_ifindex = self._made(finishing, links), self._made(splitting, links)
            lanes.append(Lane(self._made(wrapping, links), finishing_ifindex, splitting_ifindex))
        return tuple(lanes)

    def _made(self, hop: Hop, links: Mapping[str, Link]) -> int:
        near, far = links.get(hop.near), links.get(hop.far)
        pins = {self._pins / pin: links.get(device) for pin, device in hop.devices.items()}
        is_up = near is not None and far is not None and near.up and far.up
        if near is not None and is_up and all(_is_at(pin, device) for pin, device in pins.items()):
            return near.ifindex
        for pin in pins:
            pin.unlink(missing_ok=True)
        self._netlink.delete_link(hop.near)
        self._make(hop)
        return self._link(hop.near).ifindex

    def _make(self, hop: Hop) -> None:
        """It is set up last: one that an agent left half-made is down, and is made again."""
        self._netlink.create_veth(hop.near, hop.far, mtu=HOP_MTU)
        self._netlink.queue_before(hop.near, HOP_QUEUE_PACKETS_MAX)
        if hop.splits:
            turn_offloads_off(hop.near)
        else:
            take_super_packets(hop.near)
        far = self._link(hop.far).ifindex
        if hop.polled:
            poll_what_it_receives(hop.far)
            with bpf.Link.attach_xdp_generic(self._programs[KEEP_APART], far) as link:
                link.pin(self._pins / hop.pin(KEEP_APART))
        with bpf.Link.attach(self._programs[hop.program], far, bpf.TCX_INGRESS) as link:
            link.pin(self._pins / hop.pin(hop.program))
        if hop.ahead is not None:
            near = self._link(hop.near).ifindex
            with bpf.Link.attach(self._programs[hop.ahead], near, bpf.TCX_EGRESS) as link:
                link.pin(self._pins / hop.pin(hop.ahead))
        self._netlink.set_up(hop.near, hop.far)

    def _link(self, name: str) -> Link:
        link = self._netlink.link_named(name)
        if link is None:
            raise OSError(errno.ENODEV, f"the hop's device {name} vanished while it was made")
        return link

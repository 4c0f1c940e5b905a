"""The hops of a host's copies: private veth pairs in the interfaces' own network namespace (decision 0008).

On each a copy waits until production is handed on. Super-packets get their outer headers on a wrapping hop, and all
that is not yet as it is on the wire is finished on a finishing hop: the transmit offloads of its near end are off, so
the kernel splits and completes checksums there. There is a lane of both for each CPU. An edge module.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pktmirror.agent import abi
from pktmirror.kernel import bpf
from pktmirror.kernel.netlink import Link, Netlink, poll_what_it_receives, turn_offloads_off
from pktmirror.kernel.segmentation import take_super_packets

HOP_PREFIX = "pktm-"  # names of the agent's own devices; inventory leaves them out
HOP_MTU = 65535
HOP_QUEUE_PACKETS_MAX = 1000  # as a network card's; beyond, production goes on and copies are not made
WRAP, FINISH, KEEP_APART = "wrap", "finish", "keep_apart"
PROGRAMS = (WRAP, FINISH, KEEP_APART)


@dataclass(frozen=True, slots=True)
class Lane:
    """The devices that clones enter, by ifindex: the wrapping hop's and the finishing hop's."""

    wrapping_ifindex: int
    finishing_ifindex: int


@dataclass(frozen=True, slots=True)
class Hop:
    """What enters ``near`` is received by ``far``, and there by the program."""

    near: str
    far: str
    program: str
    splits: bool

    @property
    def pins(self) -> tuple[str, str]:
        return f"hop-{self.far}-{KEEP_APART}", f"hop-{self.far}-{self.program}"


def hops(prefix: str, lane: int) -> tuple[Hop, Hop]:
    """The wrapping and the finishing hop of a lane; the prefix has 12 characters, and a device's name at most 15."""
    return (
        Hop(f"{prefix}a{lane}", f"{prefix}b{lane}", WRAP, splits=False),
        Hop(f"{prefix}c{lane}", f"{prefix}d{lane}", FINISH, splits=True),
    )


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

    def made(self) -> Sequence[Lane]:
        """Where clones enter. A wrapping hop leads into a finishing one, which is made first."""
        links = {link.name: link for link in self._netlink.links()}
        lanes = []
        for wrapping, finishing in self._lanes:
            finishing_ifindex = self._made(finishing, links)
            lanes.append(Lane(self._made(wrapping, links), finishing_ifindex))
        return tuple(lanes)

    def _made(self, hop: Hop, links: Mapping[str, Link]) -> int:
        near, far = links.get(hop.near), links.get(hop.far)
        pins = [self._pins / name for name in hop.pins]
        if near is not None and far is not None and near.up and far.up and all(pin.exists() for pin in pins):
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
        poll_what_it_receives(hop.far)
        ifindex = self._link(hop.far).ifindex
        keep_apart, received = (self._pins / name for name in hop.pins)
        with bpf.Link.attach_xdp_generic(self._programs[KEEP_APART], ifindex) as link:
            link.pin(keep_apart)
        with bpf.Link.attach(self._programs[hop.program], ifindex, bpf.TCX_INGRESS) as link:
            link.pin(received)
        self._netlink.set_up(hop.near, hop.far)

    def _link(self, name: str) -> Link:
        link = self._netlink.link_named(name)
        if link is None:
            raise OSError(errno.ENODEV, f"the hop's device {name} vanished while it was made")
        return link

"""The devices' own counters beside those of the hooks, a few interfaces at each turn of the agent. An edge module.

Of a veth that leads to a source the far end is read, which is the source's own: `bpf_redirect_peer` hands packets to it
that the near end never counts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pktmirror.agent import abi
from pktmirror.agent.bypass import HARDWARE_LAG_S, SETTLED_S, Comparison, HookFigures, Reading, compared
from pktmirror.kernel.netlink import LinkCounters, Netlink, offloads_of
from pktmirror.model.filter import Direction

READ_S_MAX = 0.02
"""So long a turn reads; with more interfaces than are read in that, each has its turn later."""

_QDISCS_WITHOUT_SPLITTING = frozenset({"noqueue", "pfifo", "bfifo", "pfifo_fast", "fq", "fq_codel", "mq", "prio"})
"""Others, such as tbf and cake, may split super-packets on their way from the hook to the device."""

HookReader = Callable[[int], Mapping[Direction, HookFigures]]


@dataclass(frozen=True, slots=True)
class _Device:
    """What was read of a device: what its host receives by it, and sends. ``lag_s``: how old that may be."""

    received_packets: int
    sent_packets: int
    received_in_frames: bool
    sent_in_frames: bool
    lag_s: float


class DeviceCounters:
    """All mirrored interfaces of a host, by the ifindex of their device. It begins with the agent."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._comparisons: dict[int, Comparison | None] = {}  # the one that was read the longest ago first

    def bypassed(self, ifindex: int) -> dict[Direction, int]:
        """How many packets went past the hooks; nothing where there is no comparison yet."""
        comparison = self._comparisons.get(ifindex)
        return {} if comparison is None else comparison.bypassed

    def read_at_s(self, ifindex: int) -> float | None:
        """When a device was read last, by the monotonic clock."""
        comparison = self._comparisons.get(ifindex)
        return None if comparison is None else comparison.read_at_s

    def read(self, mirrored: Mapping[int, bool], hooks: HookReader) -> None:
        """Read those that are due; ``mirrored`` says by ifindex whether the device is the far end of the source."""
        for ifindex in self._comparisons.keys() - mirrored.keys():
            del self._comparisons[ifindex]
        for ifindex in mirrored.keys() - self._comparisons.keys():
            self._comparisons[ifindex] = None
        until_s = time.monotonic() + READ_S_MAX
        for ifindex, before in list(self._comparisons.items()):
            now_s = time.monotonic()
            if now_s > until_s:
                return
            if before is not None and now_s - before.read_at_s < SETTLED_S:
                continue
            self._comparisons[ifindex] = self._compared(ifindex, mirrored[ifindex], before, hooks, now_s)
            self._comparisons[ifindex] = self._comparisons.pop(ifindex)

    def _compared(
        self, ifindex: int, is_host_side: bool, before: Comparison | None, hooks: HookReader, now_s: float
    ) -> Comparison | None:
        seen = hooks(ifindex)  # before the device, as the comparison demands
        device = self._device(ifindex, is_host_side)
        if device is None:
            return before
        received, sent = (
            (Direction.EGRESS, Direction.INGRESS) if is_host_side else (Direction.INGRESS, Direction.EGRESS)
        )
        readings = {
            received: Reading(device.received_packets, seen[received], device.received_in_frames),
            sent: Reading(device.sent_packets, seen[sent], device.sent_in_frames),
        }
        return compared(before, readings, now_s, lag_s=device.lag_s)

    def _device(self, ifindex: int, is_host_side: bool) -> _Device | None:
        near = self._netlink.counters(ifindex)
        if near is None:
            return None
        offloads = offloads_of(near.link.name) if near.link.kind in ("veth", "tun") else None
        whole_in = offloads is not None and (near.link.kind == "tun" or not offloads.merges_received)
        whole_out = (
            offloads is not None
            and near.link.kind == "veth"
            and offloads.takes_super_packets
            and near.qdisc in _QDISCS_WITHOUT_SPLITTING
            and near.super_packet_bytes_max >= abi.WHOLE_BYTES_MAX
        )
        received, sent = near.received_packets, near.sent_packets
        if near.link.kind == "veth" and is_host_side:
            far = self._far_end(near)
            if far is None:
                return None
            received, sent = far.sent_packets, far.received_packets
        lag_s = 0.0 if near.link.kind in ("veth", "tun") else HARDWARE_LAG_S
        return _Device(received, sent, whole_in, whole_out, lag_s)

    def _far_end(self, near: LinkCounters) -> LinkCounters | None:
        """None where it is not to be seen: in a namespace of a user of whom this agent has no rights."""
        if near.link.peer_ifindex is None:
            return None
        try:
            return self._netlink.counters(near.link.peer_ifindex, nsid=near.link.peer_nsid)
        except PermissionError:
            return None

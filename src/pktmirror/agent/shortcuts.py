"""The short way to a target on this very host: into its device, past the bridge (docs/decisions/0021). Pure.

The kernel would ask the neighbour table, and then the bridge, for each copy. What it would find is known here while the
agent looks after it, and only so long do the programs take the short way (bpf/shortcut.h).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pktmirror.agent.inventory import Device
from pktmirror.kernel.netlink import Link, Neighbour, Route
from pktmirror.model.underlay import Address

_BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The device behind which the target is, the target's MAC address, and the one from which copies come to it."""

    ifindex: int
    target_mac: bytes
    source_mac: bytes


def shortcut(
    route: Route,
    destination: Address,
    links: Mapping[int, Link],
    neighbours: Mapping[tuple[int, str], Neighbour],
    devices: Iterable[Device],
) -> Shortcut | None:
    """None where the route leads over no bridge of this host, to a router, or to somebody whose device is not known.

    The bridge must be one that would hand the copy to that port and do no more: it filters no VLANs, and the port is
    not blocked. (An isolated port gets what the host itself sends.)
    """
    bridge = links.get(route.ifindex)
    if bridge is None or bridge.kind != _BRIDGE or bridge.filters_vlans or route.next_hop != destination:
        return None
    neighbour = neighbours.get((bridge.ifindex, str(destination)))
    if neighbour is None or neighbour.failed or neighbour.mac is None:
        return None
    for device in devices:
        port = links.get(device.ifindex)
        if (
            device.is_host_side
            and device.found.mac == neighbour.mac
            and port is not None
            and port.up
            and port.master_ifindex == bridge.ifindex
            and port.forwards
        ):
            return Shortcut(port.ifindex, _bytes(neighbour.mac), _bytes(bridge.mac))
    return None


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))

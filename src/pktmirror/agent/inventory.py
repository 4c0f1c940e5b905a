"""Which interfaces a host has, and which of them can be mirrored. Pure: what netlink said comes in as values.

An interface is known by a key that outlives ifindexes (spec 5.15): the namespace and its own name for a veth's far
end, the device's name for what belongs to the host itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from pktmirror.desired import FoundInterface
from pktmirror.kernel.netlink import InterfaceAddress, Link, Neighbour

_SCOPE_GLOBAL = 0
_IGNORED_KINDS = {"bridge", "ifb", "vxlan", "bond", "vlan", "dummy", "sit", "ip6tnl", "ipip", "gre", "wireguard"}


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """What a named network namespace holds; its name is what the operator gave it."""

    name: str
    links: tuple[Link, ...]
    addresses: tuple[InterfaceAddress, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """An interface and the device of this host by which it can be mirrored.

    ``is_host_side``: the device is the far end of the interface, so that what the device receives the interface sent.
    """

    found: FoundInterface
    ifindex: int
    is_host_side: bool


def devices(
    links: Iterable[Link],
    addresses: Iterable[InterfaceAddress],
    namespaces: Mapping[int, NamespaceView],
    *,
    own_prefix: str,
    neighbours: Iterable[Neighbour] = (),
) -> list[Device]:
    """Every veth, tap, bridge port and NIC; ``namespaces`` by nsid, ``own_prefix`` names the agent's own devices.

    ``neighbours`` are the host's: what it has learnt of who is behind a device or bridge.
    """
    addresses, neighbours = list(addresses), list(neighbours)
    return [
        _device(link, addresses, namespaces, neighbours)
        for link in links
        if link.name != "lo" and link.kind not in _IGNORED_KINDS and not link.name.startswith(own_prefix)
    ]


def _device(
    link: Link,
    addresses: list[InterfaceAddress],
    namespaces: Mapping[int, NamespaceView],
    neighbours: list[Neighbour],
) -> Device:
    if link.kind == "veth" and link.peer_nsid is not None and link.peer_nsid in namespaces:
        far = _far_end(link, namespaces[link.peer_nsid], neighbours)
        if far is not None:
            return far
    return _own_device(link, addresses)


def _far_end(link: Link, namespace: NamespaceView, neighbours: list[Neighbour]) -> Device | None:
    far = next((other for other in namespace.links if other.ifindex == link.peer_ifindex), None)
    if far is None:  # it moved away between two dumps; the next one tells
        return None
    found_addresses = _addresses_of(far.ifindex, namespace.addresses)
    found = FoundInterface(
        key=f"netns:{namespace.name}/{far.name}",
        provider="netns",
        instance=namespace.name,
        name=far.name,
        device=link.name,
        kind="veth",
        mac=far.mac,
        addresses=found_addresses,
        mtu=far.mtu,
        up=link.up and far.up,
        neighbours=() if found_addresses else _behind(link, far.mac, neighbours),
    )
    return Device(found, link.ifindex, is_host_side=True)


def _own_device(link: Link, addresses: list[InterfaceAddress]) -> Device:
    if link.kind == "veth":
        kind, reason = "veth", "the network namespace at its other end has no name below /run/netns"
        if link.peer_nsid is None:
            reason = "both of its ends are in the host's own network namespace"
    elif link.kind == "tun":
        kind, reason = "tap", "this version mirrors veth interfaces only; taps come with the next"
    elif link.master_ifindex is not None:
        kind, reason = "bridge-port", "this version mirrors veth interfaces only; bridge ports come with the next"
    else:
        kind, reason = "physical", "this version mirrors veth interfaces only; the host's own NICs come with the next"
    found = FoundInterface(
        key=f"host:{link.name}",
        provider="host",
        instance=None,
        name=link.name,
        device=link.name,
        kind=kind,
        mac=link.mac,
        addresses=_addresses_of(link.ifindex, addresses),
        mtu=link.mtu,
        up=link.up,
        not_mirrorable=reason,
    )
    return Device(found, link.ifindex, is_host_side=False)


def _addresses_of(ifindex: int, addresses: Iterable[InterfaceAddress]) -> tuple[str, ...]:
    """The primary IPv4 address first, then the other global ones."""
    found = [entry for entry in addresses if entry.ifindex == ifindex and entry.scope == _SCOPE_GLOBAL]
    found.sort(key=lambda entry: (entry.address.version, entry.secondary))
    return tuple(str(entry.address) for entry in found)


def _behind(link: Link, mac: str, neighbours: Iterable[Neighbour]) -> tuple[str, ...]:
    """The IPv4 addresses that the host's neighbour table has for a MAC at this device or its bridge, in their order.

    Some host on that link answered for them: an entry that failed or waits for its answer tells nothing.
    """
    where = {link.ifindex, link.master_ifindex}
    found = {
        entry.address
        for entry in neighbours
        if entry.ifindex in where and entry.mac == mac and not entry.failed and isinstance(entry.address, IPv4Address)
    }
    return tuple(str(address) for address in sorted(found))

"""Which interfaces a host has, and which of them can be mirrored. Pure: what netlink said comes in as values.

An interface is known by a key that outlives ifindexes (spec 5.15), and begins with who provides it:

``netns:NAME/DEVICE``  the far end of a veth, in a network namespace with a name
``container:ID/DEVICE``, ``pod:UID/DEVICE``, ``lxc:NAME/DEVICE``  the same, in the namespace of a container
``tap:DEVICE``  what is behind a tap, such as a virtual machine; what engines add, agent/providers/ says
``port:DEVICE``  what is behind a veth into whose far end nobody can look, such as a bridge port
``nic:MAC`` or ``nic:DEVICE``  an interface of the host itself, by its permanent MAC address where it has one
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pktmirror.agent.behind import Unknown, addresses_behind, mac_behind
from pktmirror.agent.containers import Owner
from pktmirror.desired import FoundInterface
from pktmirror.kernel.netlink import ForwardingEntry, InterfaceAddress, Link, Neighbour

_SCOPE_GLOBAL = 0
_IGNORED_KINDS = {"bridge", "ifb", "vxlan", "bond", "vlan", "dummy", "sit", "ip6tnl", "ipip", "gre", "wireguard"}
_NO_ETHERNET = "it carries no Ethernet frames, as a tun device does"


@dataclass(frozen=True, slots=True)
class NamespaceView:
    """What a network namespace holds, and whose it is: the name that the operator gave it, or a container's id."""

    owner: Owner
    links: tuple[Link, ...]
    addresses: tuple[InterfaceAddress, ...]
    plain: Owner | None = None  # the name that it also has, where a runtime has made that up


@dataclass(frozen=True, slots=True)
class Device:
    """An interface and the device of this host by which it can be mirrored.

    ``is_host_side``: the device is the far end of the interface, so that what the device receives the interface sent.
    """

    found: FoundInterface
    ifindex: int
    is_host_side: bool


@dataclass(frozen=True, slots=True)
class HostView:
    """What the host's own network namespace holds.

    ``neighbours`` and ``forwarding`` are what it and its bridges have learnt of who is behind a device. ``known_macs``
    are those at the last look, by ifindex.
    """

    links: tuple[Link, ...]
    addresses: tuple[InterfaceAddress, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    forwarding: tuple[ForwardingEntry, ...] = ()
    known_macs: Mapping[int, str] | None = None

    def master_of(self, link: Link) -> Link | None:
        return next((other for other in self.links if other.ifindex == link.master_ifindex), None)


def devices(host: HostView, namespaces: Mapping[int, NamespaceView], *, own_prefix: str) -> list[Device]:
    """Every veth, tap, bridge port and NIC; ``namespaces`` by nsid, ``own_prefix`` names the agent's own devices."""
    shared = {mac for mac, count in Counter(link.permanent_mac for link in host.links).items() if count > 1}
    links = [
        link
        for link in host.links
        if link.name != "lo" and link.kind not in _IGNORED_KINDS and not link.name.startswith(own_prefix)
    ]
    found = [_device(link, host, namespaces, shared) for link in links]
    keys = Counter(device.found.key for device in found)  # control groups may be named like one another
    return [
        device if keys[device.found.key] == 1 else _unseen(link, host)
        for link, device in zip(links, found, strict=True)
    ]


def _device(
    link: Link, host: HostView, namespaces: Mapping[int, NamespaceView], shared_macs: set[str | None]
) -> Device:
    if link.kind == "veth" and link.peer_nsid is not None and link.peer_nsid in namespaces:
        far = _far_end(link, namespaces[link.peer_nsid], host)
        if far is not None:
            return far
    if link.kind == "tun" or (link.kind == "veth" and _leads_to_another(link, host)):
        return _unseen(link, host)
    return _own_device(link, host, shared_macs)


def _leads_to_another(link: Link, host: HostView) -> bool:
    """A veth that has an address here and is no port is this host's own, as a container's or a lab host's uplink is."""
    has_address = bool(_addresses_of(link.ifindex, host.addresses))
    return link.peer_nsid is not None and (link.master_ifindex is not None or not has_address)


def _far_end(link: Link, namespace: NamespaceView, host: HostView) -> Device | None:
    far = next((other for other in namespace.links if other.ifindex == link.peer_ifindex), None)
    if far is None:  # it moved away between two dumps; the next one tells
        return None
    owner, found_addresses = namespace.owner, _addresses_of(far.ifindex, namespace.addresses)
    found = FoundInterface(
        key=f"{owner.provider}:{owner.name}/{far.name}",
        provider=owner.provider,
        instance=owner.instance,
        name=far.name,
        device=link.name,
        kind="veth",
        mac=far.mac,
        addresses=found_addresses,
        mtu=far.mtu,
        up=link.up and far.up,
        neighbours=() if found_addresses else addresses_behind(link, far.mac, host.neighbours),
        plain_key=None if namespace.plain is None else f"{namespace.plain.provider}:{namespace.plain.name}/{far.name}",
    )
    return Device(found, link.ifindex, is_host_side=True)


def _unseen(link: Link, host: HostView) -> Device:
    """What is behind a tap or veth: the host knows as much of it as it has heard."""
    known = (host.known_macs or {}).get(link.ifindex)
    mac = mac_behind(link, host.master_of(link), host.forwarding, host.neighbours, known)
    reason = None
    if not link.ethernet:
        mac, reason = Unknown(_NO_ETHERNET), _NO_ETHERNET
    elif isinstance(mac, Unknown):
        reason = mac.why
    provider = "tap" if link.kind == "tun" else "port"
    found = FoundInterface(
        key=f"{provider}:{link.name}",
        provider=provider,
        instance=None,
        name=link.name,
        device=link.name,
        kind="tap" if provider == "tap" else "veth" if link.master_ifindex is None else "bridge-port",
        mac=None if isinstance(mac, Unknown) else mac,
        addresses=(),
        mtu=link.mtu,
        up=link.up,
        not_mirrorable=reason,
        neighbours=() if isinstance(mac, Unknown) else addresses_behind(link, mac, host.neighbours),
    )
    return Device(found, link.ifindex, is_host_side=True)


def _own_device(link: Link, host: HostView, shared_macs: set[str | None]) -> Device:
    addresses = _addresses_of(link.ifindex, host.addresses)
    named = link.permanent_mac is not None and link.permanent_mac not in shared_macs
    found = FoundInterface(
        key=f"nic:{link.permanent_mac if named else link.name}",
        provider="nic",
        instance=None,
        name=link.name,
        device=link.name,
        kind="veth" if link.kind == "veth" else "physical" if link.master_ifindex is None else "bridge-port",
        mac=link.mac,
        addresses=addresses,
        mtu=link.mtu,
        up=link.up,
        not_mirrorable=_why_no_source(link, host, addresses),
    )
    return Device(found, link.ifindex, is_host_side=False)


def _why_no_source(link: Link, host: HostView, addresses: tuple[str, ...]) -> str | None:
    """None for an interface of the host that carries its own traffic only."""
    if not link.ethernet:
        return _NO_ETHERNET
    if link.kind == "veth" and link.peer_nsid is None and not addresses:
        return "both of its ends are in the host's own network namespace"
    master = host.master_of(link)
    if link.master_ifindex is not None and (master is None or master.kind != "vrf"):
        name = "another device" if master is None else f"the {master.kind} {master.name}"
        return f"it belongs to {name}, and carries what others send too; mirror those that it is shared by"
    return None


def _addresses_of(ifindex: int, addresses: Iterable[InterfaceAddress]) -> tuple[str, ...]:
    """The primary IPv4 address first, then the other global ones."""
    found = [entry for entry in addresses if entry.ifindex == ifindex and entry.scope == _SCOPE_GLOBAL]
    found.sort(key=lambda entry: (entry.address.version, entry.secondary))
    return tuple(str(entry.address) for entry in found)

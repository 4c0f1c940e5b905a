"""From a topology to the steps that build it, in order. Pure; `stage` carries them out.

Every step acts inside one of the lab's own namespaces, and both ends of a cable are born inside: the namespace in
which the lab is started is never written to.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, IPv6Network, ip_interface, ip_network

from pktmirror.lab.topology import (
    HOST_OFFSET,
    INSTANCE_DEVICE,
    ROUTER,
    ROUTER_OFFSET,
    Address,
    Host,
    Instance,
    Subnet,
    Topology,
    bridge,
    host_device,
    router_leg,
    router_port,
)
from pktmirror.model.filter import Network

Interface = IPv4Interface | IPv6Interface
LINK_LOCAL = IPv6Network("fe80::/64")
ANYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class MakeNamespace:
    """A namespace whose loopback is up; ``forwards``: it passes packets on between its interfaces.

    IPv6 is apart, as a forwarding interface joins the group of all routers and reports this to the subnet.
    """

    namespace: str
    forwards: bool = False
    forwards_ipv6: bool = False

    def __str__(self) -> str:
        return f"namespace {self.namespace}"


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """A bridge that is up."""

    namespace: str
    device: str
    mac: str

    def __str__(self) -> str:
        return f"bridge {self.device} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class MakeCable:
    """A veth pair that is up: one end a port of a bridge, the other in a namespace of its own."""

    namespace: str
    device: str
    mac: str
    bridge: str
    peer_namespace: str
    peer_device: str
    peer_mac: str
    mtu: int

    def __str__(self) -> str:
        return f"cable from {self.device} in {self.namespace} to {self.peer_device} in {self.peer_namespace}"


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The MTU of a device, whatever its ports have."""

    namespace: str
    device: str
    mtu: int

    def __str__(self) -> str:
        return f"MTU {self.mtu} of {self.device} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address with the length of its network's prefix."""

    namespace: str
    device: str
    interface: Interface

    def __str__(self) -> str:
        return f"address {self.interface} of {self.device} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A way to a network, through a neighbour."""

    namespace: str
    to: Network
    via: Address

    def __str__(self) -> str:
        return f"route to {self.to} via {self.via} in {self.namespace}"


Step = MakeNamespace | MakeBridge | MakeCable | SetMtu | AddAddress | AddRoute


def plan(topology: Topology) -> list[Step]:
    """All steps. Addresses come after every cable, and routes after every address that they go through."""
    return [
        *(_namespace(topology, place) for place in topology.places),
        *(step for subnet in topology.subnets for step in _cables(topology, subnet)),
        *(step for subnet in topology.subnets for step in _addresses_of_subnet(topology, subnet)),
        *(step for instance in topology.instances for step in _addresses_of_instance(topology, instance)),
        *(step for host in topology.hosts for step in _routes_of_host(topology, host)),
        *(step for instance in topology.instances for step in _routes_of_instance(topology, instance)),
    ]


def router_address(network: Network) -> Address:
    """Where a subnet's router is: base+1."""
    return network[ROUTER_OFFSET]


def host_address(network: Network) -> Address:
    """Where a subnet's host is: base+3; a copy leaves from there."""
    return network[HOST_OFFSET]


def link_local(mac: str) -> IPv6Interface:
    """The link-local address of a device, formed from its MAC address (RFC 2464 sections 4 and 5)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return IPv6Interface((int(LINK_LOCAL.network_address) | int.from_bytes(identifier, "big"), LINK_LOCAL.prefixlen))


def _namespace(topology: Topology, place: str) -> MakeNamespace:
    router = place == ROUTER
    ipv6 = any(subnet.ipv6_cidr is not None for subnet in topology.subnets)
    return MakeNamespace(topology.namespace(place), forwards=router, forwards_ipv6=router and ipv6)


def _cables(topology: Topology, subnet: Subnet) -> Iterator[Step]:
    host = topology.namespace(subnet.host)
    device = bridge(subnet.name)
    yield MakeBridge(host, device, topology.derived_mac(subnet.host, device))
    port, leg = router_port(subnet.name), router_leg(subnet.name)
    yield MakeCable(
        namespace=host,
        device=port,
        mac=topology.derived_mac(subnet.host, port),
        bridge=device,
        peer_namespace=topology.namespace(ROUTER),
        peer_device=leg,
        peer_mac=topology.derived_mac(ROUTER, leg),
        mtu=subnet.mtu,
    )
    for instance in topology.instances:
        if instance.subnet == subnet.name:
            port = host_device(instance.name)
            yield MakeCable(
                namespace=host,
                device=port,
                mac=topology.derived_mac(subnet.host, port),
                bridge=device,
                peer_namespace=topology.namespace(instance.name),
                peer_device=INSTANCE_DEVICE,
                peer_mac=topology.mac_address(instance.name),
                mtu=topology.mtu(instance.name),
            )
    # A bridge takes the smallest MTU of its ports as its own, so its own is set when it has them all.
    yield SetMtu(host, device, subnet.mtu)


def _addresses_of_subnet(topology: Topology, subnet: Subnet) -> Iterator[Step]:
    leg, device = router_leg(subnet.name), bridge(subnet.name)
    router = [(network, router_address(network)) for network in subnet.networks]
    host = [(network, host_address(network)) for network in subnet.networks]
    yield from _addresses(topology, ROUTER, leg, topology.derived_mac(ROUTER, leg), router)
    yield from _addresses(topology, subnet.host, device, topology.derived_mac(subnet.host, device), host)


def _addresses_of_instance(topology: Topology, instance: Instance) -> Iterator[Step]:
    mac = topology.mac_address(instance.name)
    yield from _addresses(topology, instance.name, INSTANCE_DEVICE, mac, _addressed(topology, instance))


def _addresses(
    topology: Topology, place: str, device: str, mac: str, addressed: Iterable[tuple[Network, Address]]
) -> Iterator[Step]:
    """The addresses, and a link-local one beside an IPv6 address: what forwards asks for neighbours from it."""
    for network, address in addressed:
        yield AddAddress(topology.namespace(place), device, ip_interface((address, network.prefixlen)))
        if network.version == 6:
            yield AddAddress(topology.namespace(place), device, link_local(mac))


def _routes_of_instance(topology: Topology, instance: Instance) -> Iterator[Step]:
    for network, _ in _addressed(topology, instance):
        everything = ANYWHERE[network.version]
        yield AddRoute(topology.namespace(instance.name), everything, router_address(network))


def _routes_of_host(topology: Topology, host: Host) -> Iterator[Step]:
    """To every subnet that is not on this host, through the router of the host's first subnet of that family."""
    own = [network for subnet in topology.subnets if subnet.host == host.name for network in subnet.networks]
    for subnet in topology.subnets:
        if subnet.host == host.name:
            continue
        for network in subnet.networks:
            gateway = next((router_address(near) for near in own if near.version == network.version), None)
            if gateway is not None:
                yield AddRoute(topology.namespace(host.name), network, gateway)


def _addressed(topology: Topology, instance: Instance) -> Iterator[tuple[Network, Address]]:
    """Each address of an instance with its subnet's network of that family."""
    subnet = topology.subnet(instance.subnet)
    yield subnet.cidr, instance.address
    if subnet.ipv6_cidr is not None and instance.ipv6_address is not None:
        yield subnet.ipv6_cidr, instance.ipv6_address

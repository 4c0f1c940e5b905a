"""What the operator declares of the network: VPCs, their subnets and resolvers, and the underlay of the copies.

AWS knows these of a VPC; on a network of one's own they are declared in ``networks.toml`` (spec 5.14)::

    [[vpc]]
    name = "office"
    cidr = "10.0.0.0/16"
    resolvers = ["10.0.0.2", "169.254.169.253"]     # default: the base address plus two, and 169.254.169.253

    [vpc.underlay]                                  # where copies leave the host; all optional
    route_table = 254
    device = "br-office"
    mtu_max = 9000

    [[vpc.subnet]]
    name = "a"
    cidr = "10.0.0.0/24"

Pure: text in, values out.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import combinations
from typing import TypeVar

import msgspec

from pktmirror.model.ids import Prefix, derived_id
from pktmirror.model.refusal import Refusal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
T = TypeVar("T")

RESOLVERS_MAX = 8  # what an interface's policy holds room for (bpf/abi.h)
MTU_MIN, MTU_MAX = 68, 65535  # RFC 791: what every IPv4 link carries, and what its length field can say
LINK_LOCAL_RESOLVER = ip_address("169.254.169.253")  # AWS: the same resolver under a fixed address


class UnderlayDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The route table, device and MTU by which copies leave; None leaves the choice to the host's routes."""

    route_table: int = 254  # RT_TABLE_MAIN
    device: str | None = None
    mtu_max: int | None = None


class SubnetDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    cidr: str
    ipv6_cidr: str | None = None
    zone: str | None = None


class VpcDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    cidr: str
    ipv6_cidr: str | None = None
    resolvers: tuple[str, ...] | None = None
    underlay: UnderlayDeclaration = UnderlayDeclaration()
    subnet: tuple[SubnetDeclaration, ...] = ()


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vpc: tuple[VpcDeclaration, ...] = ()


class Subnet(msgspec.Struct, frozen=True):
    """A declared subnet and its EC2 id."""

    subnet_id: str
    vpc_id: str
    name: str
    zone: str | None
    networks: tuple[Network, ...]


class Vpc(msgspec.Struct, frozen=True):
    """A declared VPC and its EC2 id."""

    vpc_id: str
    name: str
    networks: tuple[Network, ...]
    resolvers: tuple[Address, ...]
    underlay: UnderlayDeclaration
    subnets: tuple[Subnet, ...]


class Networks(msgspec.Struct, frozen=True):
    """All declared VPCs. An interface belongs to the one subnet that holds its primary address, or to none."""

    vpcs: tuple[Vpc, ...] = ()

    def place(self, address: Address) -> tuple[Vpc, Subnet] | None:
        """The VPC and subnet of an address; None where no declared subnet holds it."""
        for vpc in self.vpcs:
            for subnet in vpc.subnets:
                if any(address in network for network in subnet.networks):
                    return vpc, subnet
        return None


def load(text: str) -> Networks:
    """Read ``networks.toml``; raises `Refusal` with the line's meaning and the way out."""
    try:
        document = msgspec.toml.decode(text, type=_Document)
    except msgspec.MsgspecError as error:
        raise _refusal(str(error)) from None
    networks = Networks(tuple(_vpc(declaration) for declaration in document.vpc))
    _refuse_overlaps([(vpc.name, vpc.networks) for vpc in networks.vpcs], "VPC")
    return networks


def _vpc(declared: VpcDeclaration) -> Vpc:
    networks = _networks(declared.name, declared.cidr, declared.ipv6_cidr)
    vpc_id = derived_id(Prefix.VPC, declared.name)
    if declared.resolvers is not None and len(declared.resolvers) > RESOLVERS_MAX:
        raise _refusal(f"VPC {declared.name} has {len(declared.resolvers)} resolvers, {RESOLVERS_MAX} at most")
    mtu_max = declared.underlay.mtu_max
    if mtu_max is not None and not MTU_MIN <= mtu_max <= MTU_MAX:
        raise _refusal(f"VPC {declared.name}: the underlay's mtu_max is {mtu_max}, not in {MTU_MIN} to {MTU_MAX}")
    subnets = tuple(_subnet(vpc_id, networks, declared.name, subnet) for subnet in declared.subnet)
    _refuse_overlaps([(subnet.name, subnet.networks) for subnet in subnets], f"VPC {declared.name}: subnet")
    if declared.resolvers is None:
        resolvers: tuple[Address, ...] = (networks[0][2], LINK_LOCAL_RESOLVER)
    else:
        resolvers = tuple(_parsed(declared.name, ip_address, address) for address in declared.resolvers)
    return Vpc(vpc_id, declared.name, networks, resolvers, declared.underlay, subnets)


def _subnet(vpc_id: str, within: tuple[Network, ...], vpc_name: str, declared: SubnetDeclaration) -> Subnet:
    networks = _networks(f"{vpc_name}/{declared.name}", declared.cidr, declared.ipv6_cidr)
    for network in networks:
        if not any(_holds(outer, network) for outer in within):
            raise _refusal(f"subnet {declared.name} ({network}) lies outside its VPC {vpc_name}")
    subnet_id = derived_id(Prefix.SUBNET, vpc_name, declared.name)
    return Subnet(subnet_id, vpc_id, declared.name, declared.zone, networks)


def _networks(name: str, *cidrs: str | None) -> tuple[Network, ...]:
    return tuple(_parsed(name, ip_network, cidr) for cidr in cidrs if cidr is not None)


def _parsed(name: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise _refusal(f"{name}: {error}") from None


def _holds(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _refuse_overlaps(named: Iterable[tuple[str, tuple[Network, ...]]], what: str) -> None:
    for (name, networks), (other_name, other_networks) in combinations(named, 2):
        if name == other_name:
            raise _refusal(f"{what} {name} is declared twice")
        for network in networks:
            for other in other_networks:
                if network.overlaps(other):
                    raise _refusal(f"{what} {name} ({network}) overlaps {other_name} ({other})")


def _refusal(found: str) -> Refusal:
    return Refusal(
        "The declaration of networks cannot be used.",
        found=found,
        do="correct networks.toml; docs/howto/mirror-a-namespace.md shows its form",
    )

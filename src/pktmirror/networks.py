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
    outer_source = "eni"                            # or "host": the address of the route by which they leave
    segmentation = "auto"                           # or who splits super-packets: "host", "underlay"
    shortcut = false                                # or true: copies to a target on the same host go past its bridge
    family = 4                                      # or 6; by default IPv4 where both ends have it, else IPv6

    [[vpc.subnet]]
    name = "a"
    cidr = "10.0.0.0/24"

    [[interface]]                                   # an address that nobody on the host can tell
    host = "hypervisor-1"
    key = "netns:web/eth0"                          # both as `pktmirror interfaces` shows them (spec 5.15)
    address = "10.0.0.48"

Pure: text in, values out.
"""

import json
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import combinations
from typing import TypeVar

import msgspec

from pktmirror.model.filter import Network, holds
from pktmirror.model.ids import Prefix, derived_id
from pktmirror.model.limits import RESOLVERS_PER_VPC
from pktmirror.model.refusal import Refusal
from pktmirror.model.underlay import FAMILIES, OuterSource, Segmentation

Address = IPv4Address | IPv6Address
T = TypeVar("T")

MTU_MIN, MTU_MAX = 68, 65535  # RFC 791: what every IPv4 link carries, and what its length field can say
ROUTE_TABLE_MAX = 2**32 - 1  # RTA_TABLE has 32 bits; 0 is RT_TABLE_UNSPEC
DEVICE_NAME_BYTES_MAX = 15  # IFNAMSIZ with its NUL
_NO_DEVICE_NAME = set(b"/:\0 \t\n\v\f\r\xa0")
LINK_LOCAL_RESOLVER = ip_address("169.254.169.253")  # AWS: the same resolver under a fixed address


class UnderlayDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The route table, device and MTU by which copies leave; None leaves the choice to the host's routes."""

    route_table: int = 254  # RT_TABLE_MAIN
    device: str | None = None
    mtu_max: int | None = None
    outer_source: str = OuterSource.ENI.value
    segmentation: str = Segmentation.AUTO.value
    shortcut: bool = False
    family: int | None = None


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


class InterfaceDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The primary address of an interface, known by its host and its provider's stable key (spec 5.15)."""

    host: str
    key: str
    address: str


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``networks.toml`` says, in its own form. `networks` checks it and gives it its meaning."""

    vpc: tuple[VpcDeclaration, ...] = ()
    interface: tuple[InterfaceDeclaration, ...] = ()


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
    """All declared VPCs. An interface belongs to the one subnet that holds its primary address, or to none.

    ``addresses`` are those that the operator gives interfaces, by host id and key.
    """

    vpcs: tuple[Vpc, ...] = ()
    addresses: dict[tuple[str, str], IPv4Address] = {}

    def place(self, address: Address) -> tuple[Vpc, Subnet] | None:
        """The VPC and subnet of an address; None where no declared subnet holds it."""
        for vpc in self.vpcs:
            for subnet in vpc.subnets:
                if any(address in network for network in subnet.networks):
                    return vpc, subnet
        return None


def load(text: str) -> Networks:
    """Read ``networks.toml``; raises `Refusal` with what is wrong and the way out."""
    return networks(parse(text))


def parse(text: str) -> Declaration:
    """The form of ``networks.toml`` alone; raises `Refusal` for what has another."""
    try:
        return msgspec.toml.decode(text, type=Declaration)
    except RecursionError:
        raise _refusal("its arrays or tables are nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise _refusal(str(error)) from None


def networks(declaration: Declaration) -> Networks:
    """What a declaration means; raises `Refusal` for one that does not hang together."""
    vpcs = tuple(_vpc(declared) for declared in declaration.vpc)
    _refuse_overlaps([(vpc.name, vpc.networks) for vpc in vpcs], "VPC")
    return Networks(vpcs, _addresses(declaration.interface))


def with_address(declaration: Declaration, host: str, key: str, address: str | None) -> Declaration:
    """The declaration with another address of one interface; None: with none."""
    others = [each for each in declaration.interface if (each.host, each.key) != (host, key)]
    own = [] if address is None else [InterfaceDeclaration(host, key, address)]
    return msgspec.structs.replace(declaration, interface=(*others, *own))


def differences(before: Declaration, after: Declaration) -> list[str]:
    """What one declaration has that the other has not, a line each; empty: they say the same."""
    lines: list[str] = []
    for then, now in (
        ({_vpc_name(vpc): vpc for vpc in before.vpc}, {_vpc_name(vpc): vpc for vpc in after.vpc}),
        (
            {f"address of {_interface_name(each)}": each.address for each in before.interface},
            {f"address of {_interface_name(each)}": each.address for each in after.interface},
        ),
    ):
        lines += [f"{name}: removed" for name in then if name not in now]
        lines += [f"{name}: added" for name in now if name not in then]
        lines += [f"{name}: changed" for name in now if name in then and now[name] != then[name]]
    return lines


def toml(declaration: Declaration) -> str:
    """The declaration as a ``networks.toml``, without what is as by default."""
    tables: list[str] = []
    for vpc in declaration.vpc:
        tables.append(_table("[[vpc]]", vpc))
        if vpc.underlay != UnderlayDeclaration():
            tables.append(_table("[vpc.underlay]", vpc.underlay))
        tables += [_table("[[vpc.subnet]]", subnet) for subnet in vpc.subnet]
    tables += [_table("[[interface]]", interface) for interface in declaration.interface]
    return "\n".join(tables)


def _table(head: str, struct: VpcDeclaration | UnderlayDeclaration | SubnetDeclaration | InterfaceDeclaration) -> str:
    # A JSON number is the same in TOML, and so is a string or an array of them, but for DEL and for characters beyond
    # 16 bits, which JSON writes as two surrogates.
    fields = [
        f"{field.name} = {_value(value)}\n"
        for field in msgspec.structs.fields(struct)
        if field.name not in ("underlay", "subnet") and (value := getattr(struct, field.name)) != field.default
    ]
    return f"{head}\n{''.join(fields)}"


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _vpc_name(vpc: VpcDeclaration) -> str:
    return f"VPC {vpc.name}"


def _interface_name(declared: InterfaceDeclaration) -> str:
    return f"{declared.key} on {declared.host}"


def _addresses(declared: Iterable[InterfaceDeclaration]) -> dict[tuple[str, str], IPv4Address]:
    addresses: dict[tuple[str, str], IPv4Address] = {}
    for each in declared:
        name = _interface_name(each)
        provider, _, rest = each.key.partition(":")
        if not (each.host and provider and rest):
            raise _refusal(
                f"interface {name}: host and key are written as `pktmirror interfaces` shows them, "
                'as in host = "hypervisor-1", key = "netns:web/eth0"'
            )
        address = _parsed(f"interface {name}", ip_address, each.address)
        if not isinstance(address, IPv4Address):
            raise _refusal(f"interface {name}: {address} is not IPv4, as a primary address is")
        if address.is_unspecified or address.is_multicast or address.is_loopback or int(address) == 0xFFFFFFFF:
            raise _refusal(f"interface {name}: {address} is no address of an interface")
        if (each.host, each.key) in addresses:
            raise _refusal(f"interface {name} is declared twice")
        if address in addresses.values():
            raise _refusal(f"interface {name}: {address} is declared for another interface too")
        addresses[each.host, each.key] = address
    return addresses


def _vpc(declared: VpcDeclaration) -> Vpc:
    networks = _networks(declared.name, declared.cidr, declared.ipv6_cidr)
    vpc_id = derived_id(Prefix.VPC, declared.name)
    if declared.resolvers is not None and len(declared.resolvers) > RESOLVERS_PER_VPC:
        raise _refusal(f"VPC {declared.name} has {len(declared.resolvers)} resolvers, {RESOLVERS_PER_VPC} at most")
    mtu_max = declared.underlay.mtu_max
    if mtu_max is not None and not MTU_MIN <= mtu_max <= MTU_MAX:
        raise _refusal(f"VPC {declared.name}: the underlay's mtu_max is {mtu_max}, not in {MTU_MIN} to {MTU_MAX}")
    route_table = declared.underlay.route_table
    if not 1 <= route_table <= ROUTE_TABLE_MAX:
        raise _refusal(
            f"VPC {declared.name}: the underlay's route_table is {route_table}, not in 1 to {ROUTE_TABLE_MAX}"
        )
    device = declared.underlay.device
    if device is not None and not _is_device_name(device):
        raise _refusal(
            f"VPC {declared.name}: the underlay's device is {device!r}; a device's name has 1 to 15 bytes, "
            "without white space, '/' and ':'"
        )
    outer_source = declared.underlay.outer_source
    if outer_source not in [source.value for source in OuterSource]:
        raise _refusal(
            f'VPC {declared.name}: the underlay\'s outer_source is "{outer_source}"; "eni" (the source\'s own address) '
            'and "host" (the address of the host\'s route) are known'
        )
    segmentation = declared.underlay.segmentation
    if segmentation not in [each.value for each in Segmentation]:
        raise _refusal(
            f'VPC {declared.name}: the underlay\'s segmentation is "{segmentation}"; "auto", "host" and "underlay" '
            "(who splits super-packets) are known"
        )
    family = declared.underlay.family
    if family is not None and family not in FAMILIES:
        raise _refusal(f"VPC {declared.name}: the underlay's family is {family}, not 4 (IPv4) or 6 (IPv6)")
    subnets = tuple(_subnet(vpc_id, networks, declared.name, subnet) for subnet in declared.subnet)
    _refuse_overlaps([(subnet.name, subnet.networks) for subnet in subnets], f"VPC {declared.name}: subnet")
    if declared.resolvers is None:
        resolvers: tuple[Address, ...] = (networks[0][2], LINK_LOCAL_RESOLVER)
    else:
        resolvers = tuple(_parsed(declared.name, ip_address, address) for address in declared.resolvers)
    return Vpc(vpc_id, declared.name, networks, resolvers, declared.underlay, subnets)


def _is_device_name(text: str) -> bool:
    """As Linux has it (dev_valid_name in net/core/dev.c, whose white space is Latin-1's)."""
    name = text.encode()
    return 1 <= len(name) <= DEVICE_NAME_BYTES_MAX and text not in (".", "..") and not _NO_DEVICE_NAME & set(name)


def _subnet(vpc_id: str, within: tuple[Network, ...], vpc_name: str, declared: SubnetDeclaration) -> Subnet:
    networks = _networks(f"{vpc_name}/{declared.name}", declared.cidr, declared.ipv6_cidr)
    for network in networks:
        if not any(holds(outer, network) for outer in within):
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
        do="correct networks.toml; docs/reference/networks.md shows its form",
    )

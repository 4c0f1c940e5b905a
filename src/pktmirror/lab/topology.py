"""What a lab consists of: a VPC as a value, its names and addresses derived, its mistakes refused. Pure.

A lab is one VPC. Its *places* are network namespaces: **hosts**, machines that run instances and where an agent works;
**instances**, with one interface eth0 each; and the VPC's one **router**, with a leg in every subnet. A **subnet** is a
bridge on one host. As at AWS (VPC user guide, "Subnet CIDR blocks") the first four addresses and the last one of a
subnet are not for instances: base+1 is the router's, and base+3 the host's, from which copies leave.

A lab's file has the same shape::

    name = "shop"
    cidr = "10.0.0.0/16"

    [[subnet]]
    name = "a"
    cidr = "10.0.0.0/24"

    [[instance]]
    name = "web"
    subnet = "a"
    address = "10.0.0.48"
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations
from typing import Any

import msgspec

from pktmirror.model.filter import Network, holds
from pktmirror.model.refusal import Refusal

Address = IPv4Address | IPv6Address

ROUTER = "router"
INSTANCE_DEVICE = "eth0"

ROUTER_OFFSET = 1
HOST_OFFSET = 3
FIRST_FREE_OFFSET = 4

DEVICE_NAME_CHARACTERS_MAX = 15  # IFNAMSIZ of linux/if.h, without the terminating zero
PLACE_NAME_CHARACTERS_MAX = DEVICE_NAME_CHARACTERS_MAX - len("0")
SUBNET_NAME_CHARACTERS_MAX = DEVICE_NAME_CHARACTERS_MAX - len("rtr-")
LAB_NAME_CHARACTERS_MAX = 32
PREFIX_LENGTH_MAX = {4: 28, 6: 124}  # AWS's smallest IPv4 subnet; for IPv6 what holds as many addresses
MTU_MIN, MTU_MAX = 576, 9001  # what every IPv4 host must accept (RFC 791 section 3.2); EC2's jumbo frames
IPV6_MTU_MIN = 1280  # RFC 8200 section 5: the kernel takes IPv6 off a device below it

_NAME = re.compile(r"[a-z][a-z0-9-]*(?<!-)")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")  # an even first octet: not a multicast address


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine that runs instances: it holds its subnets' bridges and the host sides of the veths."""

    name: str = "host"


class Subnet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bridge on its host. ``mtu`` is that of the bridge and of every instance that does not say its own."""

    name: str
    cidr: IPv4Network
    host: str = "host"
    mtu: int = 1500
    ipv6_cidr: IPv6Network | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.cidr,) if self.ipv6_cidr is None else (self.cidr, self.ipv6_cidr)


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A namespace with the interface eth0. ``mac`` None: derived; ``mtu`` None: the subnet's."""

    name: str
    subnet: str
    address: IPv4Address
    mac: str | None = None
    mtu: int | None = None
    ipv6_address: IPv6Address | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self.address,) if self.ipv6_address is None else (self.address, self.ipv6_address)


class Topology(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"hosts": "host", "subnets": "subnet", "instances": "instance"},
):
    """A whole lab. Making one that cannot be built raises `Refusal`, so whoever has one can build it."""

    name: str
    cidr: IPv4Network
    hosts: tuple[Host, ...] = (Host(),)
    subnets: tuple[Subnet, ...] = ()
    instances: tuple[Instance, ...] = ()
    ipv6_cidr: IPv6Network | None = None

    def __post_init__(self) -> None:
        for problem, do in _problems(self):
            raise Refusal(f"The lab {self.name!r} cannot be built.", found=problem, do=do)

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.cidr,) if self.ipv6_cidr is None else (self.cidr, self.ipv6_cidr)

    @property
    def places(self) -> tuple[str, ...]:
        """The names of everything that is a namespace: hosts, the router, instances."""
        hosts = (host.name for host in self.hosts)
        return (*hosts, ROUTER, *(instance.name for instance in self.instances))

    def namespace(self, place: str) -> str:
        """The network namespace of a place, such as ``pktmirror-web``; Refusal where there is no such place."""
        if place not in self.places:
            raise Refusal(
                f"The lab {self.name} has no place {place!r}.",
                found=f"its places are {', '.join(self.places)}",
                do="name one of these",
            )
        return f"{self.name}-{place}"

    def subnet(self, name: str) -> Subnet:
        return next(subnet for subnet in self.subnets if subnet.name == name)

    def instance(self, name: str) -> Instance:
        return next(instance for instance in self.instances if instance.name == name)

    def host_of(self, instance: str) -> str:
        """The name of the host that runs an instance."""
        return self.subnet(self.instance(instance).subnet).host

    def mac_address(self, instance: str) -> str:
        """The MAC address of an instance's eth0."""
        return self.instance(instance).mac or self.derived_mac(instance, INSTANCE_DEVICE)

    def mtu(self, instance: str) -> int:
        """The MTU of an instance's eth0 and of its host side."""
        described = self.instance(instance)
        return described.mtu or self.subnet(described.subnet).mtu

    def derived_mac(self, place: str, device: str) -> str:
        """The same locally administered address for the same name, beginning with 0a as EC2's do."""
        digest = hashlib.sha256("\x00".join((self.name, place, device)).encode()).digest()
        return ":".join(f"{octet:02x}" for octet in (0x0A, *digest[:5]))


def host_device(instance: str) -> str:
    """The host side of an instance's veth: where its traffic is mirrored."""
    return f"{instance}0"


def bridge(subnet: str) -> str:
    """The bridge of a subnet, on the subnet's host."""
    return f"br-{subnet}"


def router_port(subnet: str) -> str:
    """The host side of the router's leg in a subnet."""
    return f"rtr-{subnet}"


def router_leg(subnet: str) -> str:
    """The router's own side of its leg in a subnet."""
    return f"eth-{subnet}"


def load(text: str) -> Topology:
    """Read a lab's file; raises `Refusal` with the field that is wrong."""
    try:
        return msgspec.toml.decode(text, type=Topology, dec_hook=decoded)
    except msgspec.MsgspecError as error:
        raise Refusal(
            "The lab's file cannot be used.",
            found=str(error),
            do="correct it; `pktmirror lab up --help` shows its form",
        ) from None


def decoded(kind: type[Any], value: object) -> object:
    """For msgspec: an address or network from its text. A number is refused: ``IPv4Address(1)`` would be 0.0.0.1."""
    if not isinstance(value, str):
        raise ValueError(f'expected text such as "10.0.0.48" or "10.0.0.0/24", got {value!r}')
    return kind(value)


def networks_toml(topology: Topology) -> str:
    """The lab's VPC as the operator would declare it to the control plane in ``networks.toml``."""
    lines = ["[[vpc]]", *_declaration(topology.name, topology.cidr, topology.ipv6_cidr)]
    for subnet in topology.subnets:
        lines += ["[[vpc.subnet]]", *_declaration(subnet.name, subnet.cidr, subnet.ipv6_cidr)]
    return "\n".join(lines) + "\n"


def _declaration(name: str, cidr: IPv4Network, ipv6_cidr: IPv6Network | None) -> list[str]:
    lines = [f'name = "{name}"', f'cidr = "{cidr}"']
    return lines if ipv6_cidr is None else [*lines, f'ipv6_cidr = "{ipv6_cidr}"']


# A problem and the way out of it.
_Problem = tuple[str, str]


def _problems(topology: Topology) -> Iterator[_Problem]:
    """What keeps a topology from being built. Later checks trust what the earlier ones have seen."""
    yield from _name_problems(topology)
    yield from _reference_problems(topology)
    for subnet in topology.subnets:
        yield from _subnet_problems(topology, subnet)
    yield from _overlap_problems(topology)
    for instance in topology.instances:
        yield from _instance_problems(topology.subnet(instance.subnet), instance)
    addresses = (str(address) for instance in topology.instances for address in instance.addresses)
    yield from _twice("the address", addresses, "give each instance an address of its own")
    macs = (topology.mac_address(instance.name) for instance in topology.instances)
    yield from _twice("the MAC address", macs, "give each instance a MAC address of its own, or none")


def _name_problems(topology: Topology) -> Iterator[_Problem]:
    limits = [("lab", topology.name, LAB_NAME_CHARACTERS_MAX)]
    limits += [("host", host.name, PLACE_NAME_CHARACTERS_MAX) for host in topology.hosts]
    limits += [("subnet", subnet.name, SUBNET_NAME_CHARACTERS_MAX) for subnet in topology.subnets]
    limits += [("instance", instance.name, PLACE_NAME_CHARACTERS_MAX) for instance in topology.instances]
    for kind, name, characters_max in limits:
        if not _NAME.fullmatch(name):
            yield f"the {kind}'s name {name!r}", "use a-z, 0-9 and -, beginning with a letter, not ending with -"
        if len(name) > characters_max:
            yield f"the {kind}'s name {name!r} of {len(name)} characters", f"use at most {characters_max}"
    yield from _twice(
        "the name", topology.places, f"give each host and instance a name of its own; {ROUTER!r} is the VPC's router"
    )
    yield from _twice("the subnet", (subnet.name for subnet in topology.subnets), "give each subnet a name of its own")
    devices = [host_device(instance.name) for instance in topology.instances]
    devices += [name(subnet.name) for subnet in topology.subnets for name in (bridge, router_port)]
    yield from _twice("the device", devices, "rename the instance or the subnet from which the device has its name")


def _reference_problems(topology: Topology) -> Iterator[_Problem]:
    hosts = {host.name for host in topology.hosts}
    used = {subnet.host for subnet in topology.subnets}
    subnets = {subnet.name for subnet in topology.subnets}
    for subnet in topology.subnets:
        if subnet.host not in hosts:
            yield (
                f"subnet {subnet.name} on the host {subnet.host!r}",
                f"put it on one of: {', '.join(sorted(hosts)) or 'none is declared'}",
            )
    for host in sorted(hosts - used):
        yield f"the host {host} without a subnet", "put a subnet on it, or leave it out"
    if not topology.subnets:
        yield "no subnet", "add a subnet"
    for instance in topology.instances:
        if instance.subnet not in subnets:
            yield (
                f"instance {instance.name} in the subnet {instance.subnet!r}",
                f"put it into one of: {', '.join(sorted(subnets))}",
            )


def _subnet_problems(topology: Topology, subnet: Subnet) -> Iterator[_Problem]:
    for network in subnet.networks:
        outer = topology.cidr if network.version == 4 else topology.ipv6_cidr
        if outer is None:
            yield f"subnet {subnet.name} with {network}, in a VPC without ipv6_cidr", "give the VPC an ipv6_cidr"
        elif not holds(outer, network):
            yield f"subnet {subnet.name} with {network}", f"choose a part of the VPC's {outer}"
        if network.prefixlen > PREFIX_LENGTH_MAX[network.version]:
            yield (
                f"subnet {subnet.name} with {network}",
                f"use /{PREFIX_LENGTH_MAX[network.version]} or a larger one: five of its addresses are reserved",
            )
    yield from _mtu_problems(f"subnet {subnet.name}", subnet.mtu, ipv6=subnet.ipv6_cidr is not None)


def _overlap_problems(topology: Topology) -> Iterator[_Problem]:
    for one, other in combinations(topology.subnets, 2):
        for network in one.networks:
            for against in other.networks:
                if network.version == against.version and network.overlaps(against):
                    yield (
                        f"subnet {one.name} ({network}) overlaps {other.name} ({against})",
                        "give each subnet addresses of its own",
                    )


def _instance_problems(subnet: Subnet, instance: Instance) -> Iterator[_Problem]:
    for address in instance.addresses:
        network = subnet.cidr if address.version == 4 else subnet.ipv6_cidr
        who = f"instance {instance.name} with {address}"
        if network is None:
            yield f"{who} in subnet {subnet.name}, which has no IPv6", "give the subnet an ipv6_cidr"
        elif address not in network:
            yield f"{who} outside subnet {subnet.name}", f"choose an address of {network}"
        elif not FIRST_FREE_OFFSET <= _offset(address, network) < network.num_addresses - 1:
            yield (
                f"{who}, a reserved address of subnet {subnet.name}",
                f"choose one from {network[FIRST_FREE_OFFSET]} to {network[-2]}: the others are reserved",
            )
    if instance.mac is not None and not _MAC.fullmatch(instance.mac):
        yield f"instance {instance.name} with the MAC address {instance.mac!r}", "write it as 0a:1b:2c:3d:4e:5f"
    if instance.mtu is not None:
        ipv6 = instance.ipv6_address is not None
        yield from _mtu_problems(f"instance {instance.name}", instance.mtu, ipv6=ipv6)


def _mtu_problems(who: str, mtu: int, *, ipv6: bool) -> Iterator[_Problem]:
    mtu_min = IPV6_MTU_MIN if ipv6 else MTU_MIN
    if not mtu_min <= mtu <= MTU_MAX:
        yield f"{who} with MTU {mtu}", f"choose one from {mtu_min} to {MTU_MAX}"


def _twice(what: str, values: Iterable[str], do: str) -> Iterator[_Problem]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{what} {value} twice", do


def _offset(address: Address, network: Network) -> int:
    return int(address) - int(network.network_address)


DEMO = Topology(
    name="pktmirror",
    cidr=IPv4Network("10.0.0.0/16"),
    subnets=(Subnet("a", IPv4Network("10.0.0.0/24")),),
    instances=(
        Instance("client", "a", IPv4Address("10.0.0.6")),
        Instance("web", "a", IPv4Address("10.0.0.48")),  # the source of the mirror
        Instance("monitor", "a", IPv4Address("10.0.0.90")),
    ),
)

"""Links, addresses, neighbours and routes of one network namespace, over rtnetlink. An edge module.

A `Netlink` belongs to the namespace of the thread that opened it and is used by one thread at a time. Every failure
is an OSError.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyroute2 import IPRoute, NetlinkError
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE, RTMGRP_LINK, RTMGRP_NEIGH

from pktmirror.kernel.neighbour_events import NUD_FAILED, NUD_VALID, neighbour_events

Address = IPv4Address | IPv6Address

_AF_OF_VERSION = {4: 2, 6: 10}
_ARPHRD_ETHER = 1
_IFF_UP = 0x1
_IFF_WITHOUT_NEIGHBOURS = 0x8 | 0x10 | 0x80  # LOOPBACK, POINTOPOINT, NOARP: the kernel asks nobody there
_ADDR_GEN_MODE_NONE = 1
_IFA_F_SECONDARY = 0x01
_BR_STATE_FORWARDING = 3
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_USE = 0x01
_RT_TABLE_MAIN = 254
_NETLINK_ROUTE = 0
_EVENT_BYTES_MAX = 65536
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_SCOPE_LINK = 253
_GRO = "generic-receive-offload"
_OFFLOADS = ("tcp-segmentation-offload", "generic-segmentation-offload", "tx-checksumming")
_MERGES = "rx-gro"
_TAKES_SUPER_PACKETS = (
    *("tx-generic-segmentation", "tx-tcp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp6-segmentation"),
    "tx-udp-segmentation",
)


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. ``peer_nsid`` and ``peer_ifindex`` are of a veth's other end, where the kernel tells."""

    ifindex: int
    name: str
    kind: str | None  # "veth", "bridge", "tun", …; None for hardware and loopback
    mac: str
    mtu: int
    up: bool
    master_ifindex: int | None
    peer_ifindex: int | None
    peer_nsid: int | None
    permanent_mac: str | None
    ethernet: bool = True  # what it carries begins with an Ethernet header
    filters_vlans: bool = False  # of a bridge
    forwards: bool = False  # of a bridge's port: it is not blocked
    resolves: bool = True  # what is sent there needs a neighbour's link address


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """A network device, and what it counts itself (struct rtnl_link_stats64).

    ``super_packet_bytes_max``: longer ones are split before they get to it.
    """

    link: Link
    received_packets: int
    sent_packets: int
    qdisc: str
    super_packet_bytes_max: int


@dataclass(frozen=True, slots=True)
class Offloads:
    """Whether a device may merge packets once it has counted them, and whether it takes every super-packet whole."""

    merges_received: bool
    takes_super_packets: bool


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    ifindex: int
    address: Address
    scope: int
    secondary: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table. ``failed``: nobody has answered. ``incomplete``: it is asked for. With neither
    its link address is known, or it needs none."""

    ifindex: int
    address: Address
    mac: str | None
    failed: bool
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class ForwardingEntry:
    """Who a bridge knows to be behind a port. ``static``: somebody has set it; else the bridge has heard it."""

    port_ifindex: int
    mac: str
    static: bool


@dataclass(frozen=True, slots=True)
class Route:
    """How the kernel would send to a destination. ``next_hop`` is the destination itself where it is on the link.

    ``source`` is the address that the host would send from, the preferred source; None where it has none.
    """

    ifindex: int
    next_hop: Address
    mtu: int | None  # of the route, where it names one
    source: Address | None = None


@contextlib.contextmanager
def _as_os_error(what: str) -> Iterator[None]:
    """pyroute2 has an exception of its own, which is no OSError; who calls this module handles one kind."""
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from error


class Netlink:
    """One rtnetlink socket, and one for events."""

    def __init__(self) -> None:
        self._route = IPRoute()
        self._events: socket.socket | None = None
        self._failed: set[tuple[int, Address]] = set()

    def close(self) -> None:
        self._route.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def links(self) -> list[Link]:
        with _as_os_error("read the links"):
            return [_link(message) for message in self._route.get_links()]

    def link_named(self, name: str) -> Link | None:
        return next((link for link in self.links() if link.name == name), None)

    def counters(self, ifindex: int, *, nsid: int | None = None) -> LinkCounters | None:
        """Of a device of this namespace, or of the one that has this number here; None where there is none."""
        where = {} if nsid is None else {"IFLA_IF_NETNSID": nsid}
        try:
            [message] = self._route.link("get", index=ifindex, **where)
        except NetlinkError as error:
            if error.code in (errno.ENODEV, errno.EINVAL):  # EINVAL: a number that names no namespace
                return None
            what = f"read the counters of the device {ifindex}"
            raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from error
        counts = message.get("stats64")
        gso_bytes_max = [message.get(name) or 0 for name in ("gso_max_size", "gso_ipv4_max_size")]
        return LinkCounters(
            _link(message),
            counts["rx_packets"],
            counts["tx_packets"],
            message.get("qdisc") or "noqueue",
            min(size for size in gso_bytes_max if size) if any(gso_bytes_max) else 0,
        )

    def addresses(self) -> list[InterfaceAddress]:
        with _as_os_error("read the addresses"):
            return [
                InterfaceAddress(
                    message["index"],
                    ip_address(message.get("local") or message.get("address")),
                    message["scope"],
                    bool(message["flags"] & _IFA_F_SECONDARY),
                )
                for message in self._route.get_addr()
            ]

    def neighbours(self) -> list[Neighbour]:
        with _as_os_error("read the neighbours"):
            return [
                Neighbour(
                    message["ifindex"],
                    ip_address(message.get("dst")),
                    message.get("lladdr"),
                    bool(message["state"] & NUD_FAILED),
                    not message["state"] & (NUD_FAILED | NUD_VALID),
                )
                for version in (4, 6)
                for message in self._route.get_neighbours(family=_AF_OF_VERSION[version])
                if message.get("dst") is not None
            ]

    def forwarding_entries(self) -> list[ForwardingEntry]:
        """Of all bridges; without their own addresses, which the kernel calls permanent, and without groups."""
        with _as_os_error("read the forwarding tables of bridges"):
            return [
                ForwardingEntry(message["ifindex"], mac, bool(message["state"] & _NUD_NOARP))
                for message in self._route.fdb("dump")
                if message.get("master") is not None and not message["state"] & _NUD_PERMANENT
                if (mac := message.get("lladdr")) is not None and not int(mac[:2], 16) & 1
            ]

    def ask_for_neighbour(self, ifindex: int, address: Address) -> None:
        """Let the kernel ask for a neighbour's link address now, so that the first packet need not wait for it; again,
        where it has not answered. What is known stays known."""
        entry = {"dst": str(address), "ifindex": ifindex, "family": _AF_OF_VERSION[address.version]}
        with _as_os_error(f"ask for the neighbour {address}"):
            try:
                self._route.neigh("add", **entry, state=0, flags=_NTF_USE)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self._ask_again(entry)

    def _ask_again(self, entry: dict[str, Any]) -> None:
        """Only of what has failed: an entry that somebody has made permanent would lose its link address by that."""
        try:
            if any(found["state"] & NUD_FAILED for found in self._route.neigh("get", **entry)):
                self._route.neigh("replace", **entry, state=0, flags=_NTF_USE)
        except NetlinkError as error:
            if error.code != errno.ENOENT:  # it is gone meanwhile
                raise

    def route_to(
        self, destination: Address, *, device_ifindex: int | None = None, table: int = _RT_TABLE_MAIN
    ) -> Route | None:
        """The route of the kernel's choice; None where there is none. Tables other than main are read, not asked."""
        query: dict[str, Any] = {"dst": str(destination), "family": _AF_OF_VERSION[destination.version]}
        if device_ifindex is not None:
            query["oif"] = device_ifindex
        if table != _RT_TABLE_MAIN:
            return self._longest_match(destination, table)
        try:
            with _as_os_error(f"ask for the route to {destination}"):
                [message] = self._route.route("get", **query)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return None
            raise
        return _route(message, destination)

    def _longest_match(self, destination: Address, table: int) -> Route | None:
        found: tuple[int, Any] | None = None
        with _as_os_error(f"read the route table {table}"):
            routes = list(self._route.get_routes(table=table, family=_AF_OF_VERSION[destination.version]))
        for message in routes:
            length = message["dst_len"]
            shift = destination.max_prefixlen - length
            network = message.get("dst")
            if network is not None and int(ip_address(network)) >> shift != int(destination) >> shift:
                continue
            if found is None or length > found[0]:
                found = (length, message)
        route = None if found is None else _route(found[1], destination)
        if route is None or route.source is not None:
            return route
        return replace(route, source=self._source_on(route.ifindex, route.next_hop))

    def _source_on(self, ifindex: int, next_hop: Address) -> Address | None:
        """As fib_result_prefsrc chooses (net/ipv4/fib_semantics.c): a primary address of the device, one on the next
        hop's network before another."""
        with _as_os_error(f"read the addresses of the device {ifindex}"):
            messages = list(self._route.get_addr(index=ifindex, family=_AF_OF_VERSION[next_hop.version]))
        primary = [
            ip_interface(f"{message.get('local') or message.get('address')}/{message['prefixlen']}")
            for message in messages
            if not message["flags"] & _IFA_F_SECONDARY and message["scope"] < _SCOPE_LINK
        ]
        near = [interface for interface in primary if next_hop in interface.network]
        return next((interface.ip for interface in near or primary), None)

    def nsid_of(self, namespace: Path) -> int | None:
        """The number by which links of this namespace name another one; None where none leads there."""
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _as_os_error(f"find the number of the network namespace {namespace}"):
                nsid: int = self._route.get_netnsid(fd=fd)["nsid"]
        finally:
            os.close(fd)
        return None if nsid in (-1, 0xFFFFFFFF) else nsid

    def create_veth(self, name: str, peer: str, *, mtu: int) -> None:
        """A veth pair with both ends here, without ARP and without IPv6 addresses of its own, not yet up."""
        with _as_os_error(f"make the veth pair {name} and {peer}"):
            self._route.link("add", ifname=name, kind="veth", peer={"ifname": peer, "mtu": mtu}, mtu=mtu)
            for end in (name, peer):
                index = self._index(end)
                no_ipv6_address = {
                    "attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]
                }
                with contextlib.suppress(NetlinkError):  # a kernel without IPv6 has no mode to set
                    self._route.link("set", index=index, IFLA_AF_SPEC=no_ipv6_address)
                self._route.link("set", index=index, flags=0x80, change=0x80)  # IFF_NOARP

    def set_up(self, *names: str) -> None:
        for name in names:
            with _as_os_error(f"set {name} up"):
                self._route.link("set", index=self._index(name), state="up")

    def queue_before(self, name: str, packets_max: int) -> None:
        """Let packets wait in a queue (pfifo) while a device cannot take them; what it has no room for is dropped.

        A super-packet counts as one. For a veth with one queue: one that is polled without XDP wakes no other (Linux
        6.18, whose veth_poll takes the queue's number from a field that only XDP sets). Before Linux 6.16 a veth drops
        what it cannot take instead.
        """
        with _as_os_error(f"put a queue before {name}"):
            self._route.tc("add", "pfifo", index=self._index(name), handle=0x10000, limit=packets_max)

    def _index(self, name: str) -> int:
        for index in self._route.link_lookup(ifname=name):
            return int(index)
        raise OSError(errno.ENODEV, f"the device {name} is gone")

    def delete_link(self, name: str) -> bool:
        """Whether there was one."""
        with _as_os_error(f"delete the link {name}"):
            indices = self._route.link_lookup(ifname=name)
            for index in indices:
                self._route.link("del", index=index)
        return bool(indices)

    def watch(self) -> int:
        """Begin to listen for changes of links, neighbours and routes; returns a file descriptor to poll."""
        if self._events is None:
            self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE)
            self._events.bind((0, RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_NEIGH))
        return self._events.fileno()

    def drain_events(self) -> bool:
        """Whether anything has changed since the last call; also where more has than the socket could hold."""
        changed = False
        while self._events is not None:
            try:
                self._follow_neighbours(self._events.recv(_EVENT_BYTES_MAX))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            changed = True
        return changed

    def take_failed_neighbours(self) -> frozenset[tuple[int, Address]]:
        """By device and address: who was told not to have answered since the last call, and nothing else since then.

        Of what `drain_events` has read. Where more has changed than the socket could hold, some are missing.
        """
        failed = frozenset(self._failed)
        self._failed.clear()
        return failed

    def _follow_neighbours(self, datagram: bytes) -> None:
        for ifindex, address, failed in neighbour_events(datagram):
            if failed:
                self._failed.add((ifindex, address))
            else:
                self._failed.discard((ifindex, address))


@contextlib.contextmanager
def _ethtool(device: str) -> Iterator[IoctlEthtool]:
    """pyroute2 has exceptions of its own here too."""
    try:
        ethtool = IoctlEthtool(device)
        try:
            yield ethtool
        finally:
            ethtool.close()
    except EthtoolError as error:
        raise OSError(
            errno.ENODEV, f"the offloads of {device} cannot be set: {error or type(error).__name__}"
        ) from error


def turn_offloads_off(device: str) -> None:
    """Turn off the transmit offloads of a device of this thread's namespace; OSError where one stays on.

    The kernel then splits super-packets and completes checksums before the device gets them.
    """
    with _ethtool(device) as ethtool:
        for name in _OFFLOADS:
            ethtool.set_offload_flag(name, False)
        still_on = [name for name, on in ethtool.get_offload_flags().items() if on and name in _OFFLOADS]
    if still_on:
        raise OSError(errno.EOPNOTSUPP, f"{device} keeps {', '.join(still_on)} on")


def poll_what_it_receives(device: str) -> None:
    """Let a veth of this thread's namespace receive from a ring of its own that is polled (NAPI), not from the CPU's
    backlog which all veths share; OSError where it does not.

    The switch for this is generic receive offload (Linux 5.13).
    """
    with _ethtool(device) as ethtool:
        ethtool.set_offload_flag(_GRO, True)
        on = ethtool.get_offload_flags()[_GRO]
    if not on:
        raise OSError(errno.EOPNOTSUPP, f"{device} keeps {_GRO} off")


def offloads_of(device: str) -> Offloads | None:
    """The offloads of a device of this thread's namespace; None where it does not say."""
    try:
        ethtool = IoctlEthtool(device)
        try:
            features = ethtool.get_features()
            return Offloads(features.is_active(_MERGES), all(features.is_active(name) for name in _TAKES_SUPER_PACKETS))
        finally:
            ethtool.close()
    except (OSError, EthtoolError, KeyError):  # it is gone, it has no such switch, or this kernel does not know one
        return None


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    bridge = info and info.get("kind") == "bridge" and info.get("data")
    port = info and info.get("slave_kind") == "bridge" and info.get("slave_data")
    return Link(
        ifindex=message["index"],
        name=message.get("ifname"),
        kind=info.get("kind") if info else None,
        mac=message.get("address") or "",
        mtu=message.get("mtu"),
        up=bool(message["flags"] & _IFF_UP),
        master_ifindex=message.get("master"),
        peer_ifindex=message.get("link"),
        peer_nsid=message.get("link_netnsid"),
        permanent_mac=message.get("perm_address"),
        ethernet=message["ifi_type"] == _ARPHRD_ETHER,
        filters_vlans=bool(bridge and bridge.get_attr("IFLA_BR_VLAN_FILTERING")),
        forwards=bool(port and port.get_attr("IFLA_BRPORT_STATE") == _BR_STATE_FORWARDING),
        resolves=not message["flags"] & _IFF_WITHOUT_NEIGHBOURS,
    )


def _route(message: Any, destination: Address) -> Route | None:
    oif = message.get("oif")
    if oif is None or message["type"] not in (_RTN_UNICAST, _RTN_LOCAL):  # the others send nothing
        return None
    metrics = message.get("metrics")
    gateway = message.get("gateway")
    next_hop = ip_address(gateway) if gateway else destination
    source = message.get("prefsrc")
    return Route(oif, next_hop, metrics.get("mtu") if metrics else None, ip_address(source) if source else None)

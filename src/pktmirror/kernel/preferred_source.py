"""Which address this host would use itself on a route: the preferred source. An edge module.

A `PreferredSources` belongs to the namespace of the thread that opened it and is used by one thread at a time. Every
failure is an OSError.
"""

import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address, ip_interface
from typing import Any

from pyroute2 import IPRoute, NetlinkError

_AF_INET = 2
_RT_TABLE_MAIN = 254
_SCOPE_LINK = 253
_IFA_F_SECONDARY = 0x01
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)


class PreferredSources:
    """An open question to the kernel."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def close(self) -> None:
        self._route.close()

    def towards(self, destination: IPv4Address, *, device_ifindex: int | None, table: int) -> IPv4Address | None:
        """The address; None where there is no route, or none whose device has an address.

        The kernel answers for the main table, by all its rules. Another table's routes are read, and where none names
        a source it is chosen as fib_result_prefsrc does (net/ipv4/fib_semantics.c): a primary address of the device.
        """
        try:
            if table == _RT_TABLE_MAIN:
                return self._asked(destination, device_ifindex)
            return self._read(destination, table)
        except NetlinkError as error:
            if error.code in _NO_ROUTE:
                return None
            raise OSError(error.code, f"find the source address towards {destination}: {error}") from error

    def _asked(self, destination: IPv4Address, device_ifindex: int | None) -> IPv4Address | None:
        query: dict[str, Any] = {"dst": str(destination), "family": _AF_INET}
        if device_ifindex is not None:
            query["oif"] = device_ifindex
        [message] = self._route.route("get", **query)
        return _ipv4(message.get("prefsrc"))

    def _read(self, destination: IPv4Address, table: int) -> IPv4Address | None:
        routes = [
            message
            for message in self._route.get_routes(table=table, family=_AF_INET)
            if _covers(message.get("dst"), message["dst_len"], destination)
        ]
        if not routes:
            return None
        best = max(routes, key=lambda message: message["dst_len"])
        named, oif = _ipv4(best.get("prefsrc")), best.get("oif")
        if named is not None or oif is None:
            return named
        return _chosen(self._route.get_addr(index=oif, family=_AF_INET), _ipv4(best.get("gateway")) or destination)


def _covers(network: str | None, length: int, destination: IPv4Address) -> bool:
    return network is None or destination in ip_interface(f"{network}/{length}").network


def _chosen(addresses: Iterable[Any], next_hop: IPv4Address) -> IPv4Address | None:
    """The primary address that is on one network with the next hop, or else the first."""
    primary = [
        ip_interface(f"{message.get('local')}/{message['prefixlen']}")
        for message in addresses
        if not message["flags"] & _IFA_F_SECONDARY and message["scope"] < _SCOPE_LINK
    ]
    near = [interface for interface in primary if next_hop in interface.network]
    return next((_ipv4(str(interface.ip)) for interface in near or primary), None)


def _ipv4(text: str | None) -> IPv4Address | None:
    address = None if text is None else ip_address(text)
    return address if isinstance(address, IPv4Address) else None

"""How a mirror's copy, and an ICMP error about one, is known on the wire. bpf/streams.h says the same in C. No I/O."""

from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from pktmirror.packet.headers import ICMP, ICMPV6, IPV6_BYTES, OUTER_SOURCE_PORT_FIRST, UDP, Address, Headers
from pktmirror.packet.vxlan import HEADER_BYTES as VXLAN_BYTES

_UDP_BYTES = _ICMP_BYTES = 8
_IPV4_BYTES = 20
_WITHOUT_OPTIONS = 0x45
_ONLY_A_VNI = bytes((0x08, 0, 0, 0))
_ABOUT_A_PACKET = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
"""RFC 792: unreachable, time exceeded, parameter problem; RFC 4443 section 3: the same, and packet too big."""


class Outer(NamedTuple):
    """The outer addresses, destination port and VNI of a copy; ``vni`` None where an error does not quote as far."""

    source: Address
    destination: Address
    port: int
    vni: int | None


def outer_of(frame: bytes, headers: Headers) -> Outer | None:
    """What a frame would be the copy of; None where it is no VXLAN, or a later fragment of it."""
    if headers.protocol != UDP or headers.destination_port is None:
        return None
    if headers.source_port is None or headers.source_port < OUTER_SOURCE_PORT_FIRST:
        return None
    vxlan = frame[headers.l4_offset + _UDP_BYTES :][:VXLAN_BYTES]
    if len(vxlan) < VXLAN_BYTES or vxlan[:4] != _ONLY_A_VNI:
        return None
    return Outer(headers.source, headers.destination, headers.destination_port, int.from_bytes(vxlan[4:7]))


def outer_quoted(frame: bytes, headers: Headers) -> Outer | None:
    """The copy that an ICMP error to its sender would be about; None for any other frame.

    RFC 792: an error quotes the IP header and 8 bytes more at least, which is as far as the UDP header. Over IPv6 it
    quotes as much as has room (RFC 4443 section 3).
    """
    protocol = ICMP if headers.source.version == 4 else ICMPV6
    if headers.protocol != protocol or headers.icmp_type not in _ABOUT_A_PACKET[protocol]:
        return None
    quoted = frame[headers.l4_offset + _ICMP_BYTES :]
    found = _addresses4(quoted) if protocol == ICMP else _addresses6(quoted)
    if found is None:
        return None
    source, destination, datagram = found
    source_port, port = (int.from_bytes(datagram[at : at + 2]) for at in (0, 2))
    if source != headers.destination or source_port < OUTER_SOURCE_PORT_FIRST:
        return None
    vxlan = datagram[_UDP_BYTES:][:VXLAN_BYTES]
    if len(vxlan) < VXLAN_BYTES:
        return Outer(source, destination, port, None)
    return Outer(source, destination, port, int.from_bytes(vxlan[4:7])) if vxlan[:4] == _ONLY_A_VNI else None


def _addresses4(quoted: bytes) -> tuple[Address, Address, bytes] | None:
    """Source, destination and the UDP datagram of a quoted packet that has no options, as copies have none."""
    if len(quoted) < _IPV4_BYTES + _UDP_BYTES or quoted[0] != _WITHOUT_OPTIONS or quoted[9] != UDP:
        return None
    return IPv4Address(quoted[12:16]), IPv4Address(quoted[16:20]), quoted[_IPV4_BYTES:]


def _addresses6(quoted: bytes) -> tuple[Address, Address, bytes] | None:
    """The same of IPv6, without extension headers."""
    if len(quoted) < IPV6_BYTES + _UDP_BYTES or quoted[0] >> 4 != 6 or quoted[6] != UDP:
        return None
    return IPv6Address(quoted[8:24]), IPv6Address(quoted[24:40]), quoted[IPV6_BYTES:]

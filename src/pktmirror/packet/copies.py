"""How a mirror's copy, and an ICMP error about one, is known on the wire. bpf/streams.h says the same in C. No I/O."""

from ipaddress import IPv4Address
from typing import NamedTuple

from pktmirror.packet.headers import ICMP, UDP, Headers
from pktmirror.packet.vxlan import HEADER_BYTES as VXLAN_BYTES

_UDP_BYTES = _ICMP_BYTES = 8
_IPV4_BYTES = 20
_WITHOUT_OPTIONS = 0x45
_OUTER_SOURCE_PORT_MIN = 0xFF80  # of copies, as AWS's (spec 1.12)
_ONLY_A_VNI = bytes((0x08, 0, 0, 0))
_ABOUT_A_PACKET = (3, 11, 12)  # RFC 792: unreachable, time exceeded, parameter problem


class Outer(NamedTuple):
    """The outer addresses, destination port and VNI of a copy; ``vni`` None where an error does not quote as far."""

    source: IPv4Address
    destination: IPv4Address
    port: int
    vni: int | None


def outer_of(frame: bytes, headers: Headers) -> Outer | None:
    """What a frame would be the copy of; None where it is no VXLAN over IPv4, or a later fragment of it."""
    if not isinstance(headers.source, IPv4Address) or not isinstance(headers.destination, IPv4Address):
        return None
    if headers.protocol != UDP or headers.destination_port is None:
        return None
    if headers.source_port is None or headers.source_port < _OUTER_SOURCE_PORT_MIN:
        return None
    vxlan = frame[headers.l4_offset + _UDP_BYTES :][:VXLAN_BYTES]
    if len(vxlan) < VXLAN_BYTES or vxlan[:4] != _ONLY_A_VNI:
        return None
    return Outer(headers.source, headers.destination, headers.destination_port, int.from_bytes(vxlan[4:7]))


def outer_quoted(frame: bytes, headers: Headers) -> Outer | None:
    """The copy that an ICMP error to its sender would be about; None for any other frame.

    RFC 792: an error quotes the IP header and 8 bytes more at least, which is as far as the UDP header.
    """
    if headers.protocol != ICMP or headers.icmp_type not in _ABOUT_A_PACKET or headers.source.version != 4:
        return None
    quoted = frame[headers.l4_offset + _ICMP_BYTES :]
    if len(quoted) < _IPV4_BYTES + _UDP_BYTES or quoted[0] != _WITHOUT_OPTIONS or quoted[9] != UDP:
        return None
    source, destination = IPv4Address(quoted[12:16]), IPv4Address(quoted[16:20])
    source_port, port = (int.from_bytes(quoted[_IPV4_BYTES + at : _IPV4_BYTES + at + 2]) for at in (0, 2))
    if source != headers.destination or source_port < _OUTER_SOURCE_PORT_MIN:
        return None
    vxlan = quoted[_IPV4_BYTES + _UDP_BYTES :][:VXLAN_BYTES]
    if len(vxlan) < VXLAN_BYTES:
        return Outer(source, destination, port, None)
    return Outer(source, destination, port, int.from_bytes(vxlan[4:7])) if vxlan[:4] == _ONLY_A_VNI else None

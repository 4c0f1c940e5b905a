"""What a frame's headers say: Ethernet, VLAN tags, IPv4 or IPv6 with extension headers, ports. No I/O.

bpf/parse.h reads frames by the same rules, and tests/kernel holds the two against each other: a rule changes in
both files or in neither. `parse` never raises; what it cannot read has one of two outcomes, `NotParsed`.
"""

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

ETHERNET_BYTES = 14
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
VLAN_ETHERTYPES = (0x8100, 0x88A8)  # IEEE 802.1Q customer and service tags
VLAN_TAGS_MAX = 2

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSION_HEADERS_MAX = 8  # a BPF verifier wants a bound; RFC 8200 section 4.1 recommends at most 7
IPV4_BYTES_MIN, IPV6_BYTES = 20, 40

OUTER_SOURCE_PORT_FIRST, OUTER_SOURCE_PORTS = 0xFF80, 128  # spec 1.12: AWS's own copies use 7 bits of hash

_WITH_PORTS = (TCP, UDP, SCTP)
_OPTIONS_LIKE = (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, MOBILITY)
_U16 = struct.Struct("!H")
_PORTS = struct.Struct("!HH")
_WORD = 0xFFFFFFFF


class NotParsed(Enum):
    """Why a frame has no `Headers`."""

    NOT_IP = "not IP"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of one IP packet; has the shape of `model.evaluation.Packet`.

    ``protocol`` is the IANA number after the last extension header. Ports are those of TCP, UDP and SCTP and None
    where there are none to read: another protocol, a later fragment, or a frame cut before them.
    """

    source: Address
    destination: Address
    protocol: int
    source_port: int | None
    destination_port: int | None
    icmp_type: int | None
    fragment: bool
    """Part of a datagram that was fragmented, the first part included. An IPv6 atomic fragment (offset 0, no more
    to come, RFC 6946) is a whole datagram and not a part."""
    later_fragment: bool
    """Any part but the first: what stands at ``l4_offset`` is payload, whatever ``protocol`` says."""
    l3_offset: int
    l4_offset: int
    vlan_tags: tuple[int, ...]
    """The tags' TCI (priority and VLAN id), outermost first."""
    ethertype: int


def parse(frame: bytes) -> Headers | NotParsed:
    """Read a frame that starts with an Ethernet II header.

    An IPv4 total length or IPv6 payload length is not held against the frame: padding and cut copies are ordinary.
    """
    if len(frame) < ETHERNET_BYTES:
        return NotParsed.MALFORMED
    (ethertype,) = _U16.unpack_from(frame, 12)
    offset = ETHERNET_BYTES
    tags: tuple[int, ...] = ()
    while ethertype in VLAN_ETHERTYPES and len(tags) < VLAN_TAGS_MAX:
        if len(frame) < offset + 4:
            return NotParsed.MALFORMED
        tag, ethertype = _PORTS.unpack_from(frame, offset)
        tags += (tag,)
        offset += 4
    if ethertype == ETHERTYPE_IPV4:
        return _ipv4(frame, offset, tags)
    if ethertype == ETHERTYPE_IPV6:
        return _ipv6(frame, offset, tags)
    return NotParsed.NOT_IP


def _ipv4(frame: bytes, start: int, tags: tuple[int, ...]) -> Headers | NotParsed:
    """RFC 791 section 3.1."""
    if len(frame) < start + IPV4_BYTES_MIN:
        return NotParsed.MALFORMED
    version, header_bytes = frame[start] >> 4, (frame[start] & 0x0F) * 4
    if version != 4 or header_bytes < IPV4_BYTES_MIN or len(frame) < start + header_bytes:
        return NotParsed.MALFORMED
    (flags_and_offset,) = _U16.unpack_from(frame, start + 6)
    return _with_l4(
        frame,
        IPv4Address(frame[start + 12 : start + 16]),
        IPv4Address(frame[start + 16 : start + 20]),
        protocol=frame[start + 9],
        fragment=flags_and_offset & 0x3FFF != 0,  # more fragments, or an offset
        later_fragment=flags_and_offset & 0x1FFF != 0,
        l3_offset=start,
        l4_offset=start + header_bytes,
        vlan_tags=tags,
        ethertype=ETHERTYPE_IPV4,
    )


def _ipv6(frame: bytes, start: int, tags: tuple[int, ...]) -> Headers | NotParsed:
    """RFC 8200 sections 3 and 4; the lengths of AH and mobility headers: RFC 4302 section 2.2, RFC 6275 6.1.1."""
    if len(frame) < start + IPV6_BYTES or frame[start] >> 4 != 6:
        return NotParsed.MALFORMED
    protocol, offset = frame[start + 6], start + IPV6_BYTES
    fragment = later_fragment = False
    headers_seen = 0
    while not later_fragment and (protocol in _OPTIONS_LIKE or protocol in (AUTHENTICATION, FRAGMENT)):
        headers_seen += 1
        header_bytes = extension_header_bytes(frame, offset, protocol)
        if headers_seen > EXTENSION_HEADERS_MAX or header_bytes is None:
            return NotParsed.MALFORMED
        if protocol == FRAGMENT:
            (offset_and_more,) = _U16.unpack_from(frame, offset + 2)
            later_fragment = offset_and_more & 0xFFF8 != 0
            fragment = fragment or offset_and_more & 0xFFF9 != 0
        protocol = frame[offset]
        offset += header_bytes
    return _with_l4(
        frame,
        IPv6Address(frame[start + 8 : start + 24]),
        IPv6Address(frame[start + 24 : start + 40]),
        protocol=protocol,
        fragment=fragment,
        later_fragment=later_fragment,
        l3_offset=start,
        l4_offset=offset,
        vlan_tags=tags,
        ethertype=ETHERTYPE_IPV6,
    )


def extension_header_bytes(frame: bytes, offset: int, header: int) -> int | None:
    """The length of the IPv6 extension header of type ``header`` at ``offset``; None if it runs past the frame."""
    if len(frame) < offset + 2:
        return None
    if header == FRAGMENT:
        header_bytes = 8
    elif header == AUTHENTICATION:
        header_bytes = (frame[offset + 1] + 2) * 4
    else:
        header_bytes = (frame[offset + 1] + 1) * 8
    return header_bytes if len(frame) >= offset + header_bytes else None


def _with_l4(
    frame: bytes,
    source: Address,
    destination: Address,
    *,
    protocol: int,
    fragment: bool,
    later_fragment: bool,
    l3_offset: int,
    l4_offset: int,
    vlan_tags: tuple[int, ...],
    ethertype: int,
) -> Headers:
    source_port = destination_port = icmp_type = None
    if not later_fragment:
        if protocol in _WITH_PORTS and len(frame) >= l4_offset + 4:
            source_port, destination_port = _PORTS.unpack_from(frame, l4_offset)
        elif protocol in (ICMP, ICMPV6) and len(frame) > l4_offset:
            icmp_type = frame[l4_offset]
    return Headers(
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        icmp_type,
        fragment,
        later_fragment,
        l3_offset,
        l4_offset,
        vlan_tags,
        ethertype,
    )


def wire_bytes(frame: bytes) -> int:
    """How long the frame was before a mirror cut it: what its IP header claims, and never less than what is here.

    A mirror leaves the length fields of a cut packet alone (spec 1.8), and a whole copy carries no padding (spec
    1.12): so a claim beyond the frame's end tells the original length. A frame that is not IP tells nothing.
    """
    headers = parse(frame)
    if isinstance(headers, NotParsed):
        return len(frame)
    start = headers.l3_offset
    if headers.ethertype == ETHERTYPE_IPV4:
        claimed = start + int(_U16.unpack_from(frame, start + 2)[0])
    else:
        claimed = start + IPV6_BYTES + int(_U16.unpack_from(frame, start + 4)[0])
    return max(len(frame), claimed)


def flow_hash(headers: Headers) -> int:
    """The 32-bit hash of the flow that the packet belongs to: which outer source port a copy gets.

    Symmetric, so that both directions of a flow take one way through the network and to one collector (spec 1.12
    and 5.8). Neither secret nor keyed: who chooses addresses can choose the port. bpf/encap.h computes the same number.

    All arithmetic is on unsigned 32-bit words, modulo 2^32; an address is its 32-bit words loaded big-endian (IPv4:
    one word). Both directions mix the same numbers, because XOR and + forget the order:

        x = XOR of all words of both addresses          q = sum of all words of both addresses
        p = (sport XOR dport) << 16 | (sport + dport) & 0xffff      with ports, else 0
        h = x * 0x9E3779B1 ^ q * 0x85EBCA77 ^ p * 0xC2B2AE3D ^ protocol * 0x27D4EB2F
        h ^= h >> 15;  h *= 0x2C1B3C6D;  h ^= h >> 12;  h *= 0x297A2D39;  h ^= h >> 15

    The ports count for whole TCP, UDP and SCTP datagrams; a fragment, the first one included, is hashed without
    them, so that all parts of a datagram go one way.
    """
    words = [*_words(headers.source), *_words(headers.destination)]
    exclusive = 0
    for word in words:
        exclusive ^= word
    ports = 0
    source_port, destination_port = headers.source_port, headers.destination_port
    if source_port is not None and destination_port is not None and not headers.fragment:
        ports = (source_port ^ destination_port) << 16 | (source_port + destination_port) & 0xFFFF
    mixed = (
        exclusive * 0x9E3779B1 ^ sum(words) * 0x85EBCA77 ^ ports * 0xC2B2AE3D ^ headers.protocol * 0x27D4EB2F
    ) & _WORD
    mixed ^= mixed >> 15
    mixed = mixed * 0x2C1B3C6D & _WORD
    mixed ^= mixed >> 12
    mixed = mixed * 0x297A2D39 & _WORD
    return mixed ^ mixed >> 15


def outer_source_port(headers: Headers) -> int:
    """The UDP source port of the copy: 65408 to 65535."""
    return OUTER_SOURCE_PORT_FIRST + flow_hash(headers) % OUTER_SOURCE_PORTS


def _words(address: Address) -> list[int]:
    packed = address.packed
    return [int.from_bytes(packed[start : start + 4], "big") for start in range(0, len(packed), 4)]

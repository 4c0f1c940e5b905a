"""The internet checksum (RFC 1071), and whether those of a frame are right. No I/O."""

from dataclasses import dataclass
from enum import Enum

from pktmirror.packet.headers import (
    ETHERTYPE_IPV4,
    ICMP,
    ICMPV6,
    IPV6_BYTES,
    ROUTING,
    TCP,
    UDP,
    Headers,
    NotParsed,
    extension_header_bytes,
    parse,
)


class Check(Enum):
    """What can be said of one checksum. Only RIGHT and WRONG are answers; the others say why there is none."""

    RIGHT = "right"
    WRONG = "wrong"
    NOT_CARRIED = "not carried"
    """There is none: an IPv6 header, another protocol, UDP with a checksum of zero over IPv4 (RFC 768)."""
    TRUNCATED = "truncated"
    """The frame ends before what the checksum covers, or the length fields contradict each other."""
    FRAGMENTED = "fragmented"
    SOURCE_ROUTED = "source routed"
    """IPv6 with segments left: the checksum covers the last destination, which the header does not show."""


@dataclass(frozen=True, slots=True)
class Checksums:
    """``ip``: the IPv4 header's. ``l4``: that of TCP, UDP, ICMP or ICMPv6."""

    ip: Check
    l4: Check


def internet_checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of 16-bit words (RFC 1071); zero over data that carry a
    right checksum."""
    total = int.from_bytes(data + b"\x00" * (len(data) % 2), "big")
    # 2^16 = 1 modulo 65535, so the sum of the words is the number itself modulo 65535; zero has two spellings.
    folded = total % 0xFFFF
    if folded == 0 and total != 0:
        folded = 0xFFFF
    return folded ^ 0xFFFF


def checksums_of(frame: bytes) -> Checksums | NotParsed:
    """Whether the checksums of an Ethernet frame's IP packet are right."""
    headers = parse(frame)
    if isinstance(headers, NotParsed):
        return headers
    start = headers.l3_offset
    if headers.ethertype != ETHERTYPE_IPV4:
        return Checksums(Check.NOT_CARRIED, _l4(frame, headers))
    header = frame[start : start + (frame[start] & 0x0F) * 4]
    return Checksums(_verdict(internet_checksum(header)), _l4(frame, headers))


def _verdict(remainder: int) -> Check:
    return Check.RIGHT if remainder == 0 else Check.WRONG


def _l4(frame: bytes, headers: Headers) -> Check:
    protocol = headers.protocol
    is_ipv4 = headers.ethertype == ETHERTYPE_IPV4
    if protocol not in (TCP, UDP, ICMP if is_ipv4 else ICMPV6):
        return Check.NOT_CARRIED
    if headers.fragment:
        return Check.FRAGMENTED
    if not is_ipv4 and _segments_are_left(frame, headers):
        return Check.SOURCE_ROUTED
    datagram = _datagram(frame, headers)
    if datagram is None or len(datagram) < {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 4}[protocol]:
        return Check.TRUNCATED
    if protocol == UDP:
        if is_ipv4 and datagram[6:8] == b"\x00\x00":
            return Check.NOT_CARRIED
        udp_bytes = int.from_bytes(datagram[4:6], "big")
        if not 8 <= udp_bytes <= len(datagram):
            return Check.TRUNCATED
        datagram = datagram[:udp_bytes]
        if datagram[6:8] == b"\x00\x00":
            return Check.WRONG  # RFC 8200 section 8.1: over IPv6 a receiver discards a zero checksum
    if protocol == ICMP:
        return _verdict(internet_checksum(datagram))
    # RFC 9293 section 3.1 and RFC 8200 section 8.1; both pseudo headers add up to the same words.
    pseudo = headers.source.packed + headers.destination.packed
    pseudo += len(datagram).to_bytes(4, "big") + protocol.to_bytes(4, "big")
    return _verdict(internet_checksum(pseudo + datagram))


def _datagram(frame: bytes, headers: Headers) -> bytes | None:
    """What the IP packet carries by its own length field, without padding; None if the frame ends before."""
    start = headers.l3_offset
    if headers.ethertype == ETHERTYPE_IPV4:
        end = start + int.from_bytes(frame[start + 2 : start + 4], "big")
    else:
        end = start + IPV6_BYTES + int.from_bytes(frame[start + 4 : start + 6], "big")
    if end > len(frame) or end < headers.l4_offset:
        return None
    return frame[headers.l4_offset : end]


def _segments_are_left(frame: bytes, headers: Headers) -> bool:
    protocol, offset = frame[headers.l3_offset + 6], headers.l3_offset + IPV6_BYTES
    while offset < headers.l4_offset:
        if protocol == ROUTING and frame[offset + 3] != 0:
            return True
        header_bytes = extension_header_bytes(frame, offset, protocol)
        assert header_bytes is not None  # parse() has walked here before
        protocol, offset = frame[offset], offset + header_bytes
    return False

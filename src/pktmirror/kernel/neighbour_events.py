"""What the kernel tells of neighbours by itself (rtnetlink(7), the group RTMGRP_NEIGH). Pure.

Whoever has not answered is FAILED until the next packet for it, which under traffic is microseconds: then it is asked
anew, and whoever reads the table finds it INCOMPLETE, like one that is asked for the first time. Only the event tells.
"""

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

NUD_FAILED = 0x20
NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
"""REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT: the link address is known, or none is needed (net/neighbour.h)."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_NEIGHBOUR = struct.Struct("=BBHiHBB")  # struct ndmsg: family, padding, ifindex, state, flags, type
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_NDA_DST = 1
_ADDRESS_BYTES_OF_FAMILY = {2: 4, 10: 16}


class NeighbourEvent(NamedTuple):
    """``failed``: it does not answer; else its link address is known, or the table has forgotten it."""

    ifindex: int
    address: Address
    failed: bool


def neighbour_events(datagram: bytes) -> Iterator[NeighbourEvent]:
    """Those of a datagram of events, in their order. What is cut off or of something else is left out."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        if kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            yield from _event(datagram[offset + _HEADER.size : offset + length], kind == _RTM_DELNEIGH)
        offset += _aligned(length)


def _event(message: bytes, is_gone: bool) -> Iterator[NeighbourEvent]:
    if len(message) < _NEIGHBOUR.size:
        return
    family, _, _, ifindex, state, *_ = _NEIGHBOUR.unpack_from(message)
    if not (is_gone or state & (NUD_FAILED | NUD_VALID)):  # it is asked for
        return
    offset = _NEIGHBOUR.size
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        value = message[offset + _ATTRIBUTE.size : offset + length]
        if kind == _NDA_DST and len(value) == _ADDRESS_BYTES_OF_FAMILY.get(family):
            yield NeighbourEvent(ifindex, ip_address(value), not is_gone and bool(state & NUD_FAILED))
        offset += max(_aligned(length), _ATTRIBUTE.size)


def _aligned(length: int) -> int:
    """Netlink's messages and attributes begin at multiples of four."""
    return (length + 3) & ~3

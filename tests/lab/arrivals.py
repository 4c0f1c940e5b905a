"""What arrives at the interfaces of a lab: frames as they are on the wire, and the copies among them."""

import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from pktmirror.kernel import netns
from pktmirror.packet.checksum import internet_checksum
from pktmirror.packet.headers import TCP, UDP, NotParsed, parse

RECEIVE_BYTES = 256 << 20
VXLAN_PORT = 4789

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_CHECKSUM_PENDING, _VLAN_VALID = 1 << 3, 1 << 4  # linux/if_packet.h, TP_STATUS_*
_TO_THIS_INTERFACE, _OUTGOING = 0, 4  # PACKET_HOST, PACKET_OUTGOING
_CHECKSUM_AT = {TCP: 16, UDP: 6}
_UDP_AT = {4: 34, 6: 54}  # behind Ethernet and IP without options
_ETHERTYPES = {b"\x08\x00": 4, b"\x86\xdd": 6}
_PROTOCOL_AT = {4: 23, 6: 20}


@dataclass(frozen=True, slots=True)
class Captured:
    """A frame at an interface, VLAN tags in their place."""

    frame: bytes
    checksum_pending: bool  # the sender left it to a device that is not there, as between two veths
    to_this_interface: bool
    outgoing: bool

    @property
    def completed(self) -> bytes:
        """The frame as a wire would carry it."""
        return completed(self.frame) if self.checksum_pending else self.frame


@dataclass(frozen=True, slots=True)
class Copy:
    """A mirrored packet as it arrived: the outer Ethernet frame, and what stands behind the VXLAN header."""

    outer: bytes
    vni: int
    frame: bytes

    @property
    def family(self) -> int:
        return self.outer[14] >> 4

    @property
    def outer_source(self) -> IPv4Address | IPv6Address:
        return IPv4Address(self.outer[26:30]) if self.family == 4 else IPv6Address(self.outer[22:38])

    @property
    def outer_id(self) -> int:
        return int.from_bytes(self.outer[18:20])

    @property
    def source_port(self) -> int:
        at = _UDP_AT[self.family]
        return int.from_bytes(self.outer[at : at + 2])


def completed(frame: bytes) -> bytes:
    """The same TCP or UDP frame with its checksum computed (RFC 9293 section 3.1, RFC 768)."""
    headers = parse(frame)
    assert not isinstance(headers, NotParsed)
    at = headers.l4_offset + _CHECKSUM_AT[headers.protocol]
    zeroed = frame[:at] + b"\0\0" + frame[at + 2 :]
    datagram = zeroed[headers.l4_offset :]
    pseudo = headers.source.packed + headers.destination.packed
    pseudo += len(datagram).to_bytes(4) + headers.protocol.to_bytes(4)
    checksum = internet_checksum(pseudo + datagram)
    if headers.protocol == UDP and checksum == 0:
        checksum = 0xFFFF
    return zeroed[:at] + checksum.to_bytes(2) + zeroed[at + 2 :]


class Tap:
    """Everything at an interface of a place, from now on."""

    def __init__(self, inside: netns.Visitor, device: str = "eth0", *, frame_bytes_max: int = 1 << 17) -> None:
        self.captured: list[Captured] = []
        self._frame_bytes_max = frame_bytes_max
        self._socket = inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setblocking(False)
        self._socket.bind((device, _ETH_P_ALL))
        self._dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Captured]:
        """All that was captured so far; AssertionError if the socket had no room for some of it."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, sender = self._socket.recvmsg(self._frame_bytes_max, 64)
                status, tci, tpid = _auxiliary(ancillary)
                if status & _VLAN_VALID:
                    data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
                kind = sender[2]
                self.captured.append(
                    Captured(data, bool(status & _CHECKSUM_PENDING), kind == _TO_THIS_INTERFACE, kind == _OUTGOING)
                )
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._dropped += dropped
        assert self._dropped == 0, f"the test's own socket lost {self._dropped} frames"
        return self.captured

    def received(self, wanted: Callable[[bytes], bool] = bool) -> list[bytes]:
        """The completed frames that came in, as far as they are wanted."""
        return [each.completed for each in self.read() if not each.outgoing and wanted(each.frame)]


def _auxiliary(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, int, int]:
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data)
            return status, tci, tpid
    return 0, 0, 0


class Collector:
    """The copies that reach a target's interface, at which something listens, as at a real target."""

    def __init__(self, inside: netns.Visitor) -> None:
        self.tap = Tap(inside)
        self.listener = inside.run(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
        self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.listener.bind(("::", VXLAN_PORT))
        self._looked = 0
        self._copies: list[Copy] = []

    def close(self) -> None:
        self.tap.close()
        self.listener.close()

    def copies(self, vni: int | None = None) -> list[Copy]:
        """In the order in which they arrived."""
        captured = self.tap.read()
        for each in captured[self._looked :]:
            copy = _copy(each)
            if copy is not None:
                self._copies.append(copy)
        self._looked = len(captured)
        return [copy for copy in self._copies if vni is None or copy.vni == vni]


def _copy(captured: Captured) -> Copy | None:
    outer = captured.frame
    family = _ETHERTYPES.get(outer[12:14])
    if not captured.to_this_interface or family is None:
        return None
    udp = _UDP_AT[family]
    if len(outer) < udp + 16 or outer[_PROTOCOL_AT[family]] != UDP:
        return None
    if int.from_bytes(outer[udp + 2 : udp + 4]) != VXLAN_PORT:
        return None
    return Copy(outer, int.from_bytes(outer[udp + 12 : udp + 15]), outer[udp + 16 :])

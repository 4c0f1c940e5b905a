"""Classic pcap files, read only: both byte orders, microseconds and nanoseconds. No I/O.

Format: draft-ietf-opsawg-pcap. `pktmirror.packet.pcapng.read` reads these too; both yield the same blocks.
"""

import struct
from collections.abc import Iterator

from pktmirror.packet.blocks import Block, Interface, Packet, Section, Unreadable

_FILE_BYTES, _RECORD_BYTES = 24, 16
_TICKS_NS = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # by magic number
_MAGICS = {struct.pack(order + "I", magic): (order, tick_ns) for magic, tick_ns in _TICKS_NS.items() for order in "<>"}


def is_classic(data: bytes) -> bool:
    """Whether the first four bytes are one of the magic numbers."""
    return data[:4] in _MAGICS


def read(data: bytes) -> Iterator[Block]:
    """A section, its one interface, then the packets. Raises `Unreadable`, after what stood before the fault."""
    if not is_classic(data):
        raise Unreadable("no pcap file: the first four bytes are no magic number of it")
    order, tick_ns = _MAGICS[data[:4]]
    if len(data) < _FILE_BYTES:
        raise Unreadable(f"the file ends inside the header: {len(data)} of {_FILE_BYTES} bytes")
    major, _minor, _, _, frame_bytes_max, linktype = struct.unpack_from(order + "HHIIII", data, 4)
    if major != 2:
        raise Unreadable(f"pcap version {major}; this reader knows version 2")
    yield Section()
    yield Interface(linktype=linktype & 0xFFFF, frame_bytes_max=frame_bytes_max)  # above: how long the FCS is
    offset = _FILE_BYTES
    while offset < len(data):
        if len(data) < offset + _RECORD_BYTES:
            raise Unreadable(f"byte {offset}: the file ends inside a packet's header")
        time_s, ticks, frame_bytes, wire_bytes = struct.unpack_from(order + "IIII", data, offset)
        end = offset + _RECORD_BYTES + frame_bytes
        if end > len(data):
            raise Unreadable(f"byte {offset}: the file ends inside a packet of {frame_bytes} bytes")
        yield Packet(0, time_s * 10**9 + ticks * tick_ns, data[offset + _RECORD_BYTES : end], wire_bytes)
        offset = end

"""Capture files as bytes: pcapng written and read, classic pcap read. No I/O.

Format: draft-ietf-opsawg-pcapng, section 4 (blocks) and 3.5 (options). We write little-endian, one section, times
in nanoseconds. A file is the concatenation of what `section_header`, `interface_description`, `enhanced_packet` and
`interface_statistics` return, and is whole after each of them.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pktmirror.packet import pcap
from pktmirror.packet.blocks import Block, Interface, Other, Packet, Section, Statistics, Unreadable

SECTION_HEADER, INTERFACE_DESCRIPTION, OBSOLETE_PACKET = 0x0A0D0D0A, 1, 2
SIMPLE_PACKET, INTERFACE_STATISTICS, ENHANCED_PACKET = 3, 5, 6
INTERFACES_MAX = 65_536  # what a reader holds for one section; more is refused
TEXT_BYTES_MAX = 0xFFFF  # an option's length has 16 bits

_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LENGTH_UNKNOWN = 0xFFFFFFFF_FFFFFFFF
_BLOCK_BYTES_MIN = 12
_ENHANCED = struct.Struct("<IIIIIII")

_OPT_END, _OPT_COMMENT = 0, 1
_SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET = 2, 3, 9, 14
_ISB_STARTTIME, _ISB_ENDTIME, _ISB_IFRECV, _ISB_IFDROP, _ISB_USRDELIV = 2, 3, 4, 5, 8


def section_header(section: Section) -> bytes:
    """The first block of a file."""
    options = _text_options(
        (_SHB_HARDWARE, section.hardware),
        (_SHB_OS, section.operating_system),
        (_SHB_USERAPPL, section.application),
    )
    return _block(SECTION_HEADER, struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN) + options)


def interface_description(interface: Interface) -> bytes:
    """The interface whose number is the count of those written before it."""
    options = _text_options((_IF_NAME, interface.name), (_IF_DESCRIPTION, interface.description))
    options = _option(_IF_TSRESOL, b"\x09") + (options or _option(_OPT_END, b""))
    fixed = struct.pack("<HHI", interface.linktype, 0, interface.frame_bytes_max)
    return _block(INTERFACE_DESCRIPTION, fixed + options)


def enhanced_packet(packet: Packet) -> bytes:
    """A packet; its time must not be None."""
    if packet.time_ns is None:
        raise ValueError("an enhanced packet block has a time")
    frame, frame_bytes = packet.frame, len(packet.frame)
    block_bytes = 32 + frame_bytes + -frame_bytes % 4
    head = _ENHANCED.pack(
        ENHANCED_PACKET,
        block_bytes,
        packet.interface,
        packet.time_ns >> 32,
        packet.time_ns & 0xFFFFFFFF,
        frame_bytes,
        packet.wire_bytes,
    )
    return b"".join((head, frame, bytes(-frame_bytes % 4), block_bytes.to_bytes(4, "little")))


def interface_statistics(statistics: Statistics) -> bytes:
    """What an interface's capture came to; stands after its last packet."""
    options = b"".join(
        _option(code, struct.pack("<II", when_ns >> 32, when_ns & 0xFFFFFFFF))
        for code, when_ns in ((_ISB_STARTTIME, statistics.start_ns), (_ISB_ENDTIME, statistics.end_ns))
        if when_ns is not None
    )
    options += b"".join(
        _option(code, count.to_bytes(8, "little"))
        for code, count in (
            (_ISB_IFRECV, statistics.received_packets),
            (_ISB_IFDROP, statistics.dropped_packets),
            (_ISB_USRDELIV, statistics.delivered_packets),
        )
        if count is not None
    )
    options += _text_options((_OPT_COMMENT, statistics.comment)) or _option(_OPT_END, b"")
    when_ns = statistics.time_ns
    fixed = struct.pack("<III", statistics.interface, when_ns >> 32, when_ns & 0xFFFFFFFF)
    return _block(INTERFACE_STATISTICS, fixed + options)


def _block(block_type: int, body: bytes) -> bytes:
    block_bytes = _BLOCK_BYTES_MIN + len(body)
    return struct.pack("<II", block_type, block_bytes) + body + struct.pack("<I", block_bytes)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text_options(*texts: tuple[int, str]) -> bytes:
    """The options whose text is not empty, and the end of options; nothing where there is none."""
    options = b"".join(_option(code, _cut(text)) for code, text in texts if text)
    return options + _option(_OPT_END, b"") if options else b""


def _cut(text: str) -> bytes:
    """UTF-8 that fits into an option, cut between two characters."""
    return text.encode()[:TEXT_BYTES_MAX].decode(errors="ignore").encode()


def read(data: bytes) -> Iterator[Block]:
    """The blocks of a capture file, pcapng or classic pcap, in order.

    Raises `Unreadable` where the file ends in the middle of a block or contradicts itself; what stood before has
    been yielded by then. Every step goes forward by at least a block's smallest length, so it ends.
    """
    if pcap.is_classic(data):
        yield from pcap.read(data)
        return
    if len(data) < _BLOCK_BYTES_MIN or int.from_bytes(data[:4], "little") != SECTION_HEADER:
        raise Unreadable("neither pcapng nor pcap: the first four bytes are no magic number of theirs")
    reading = _SectionRead("<")
    offset = 0
    while offset < len(data):
        if len(data) < offset + _BLOCK_BYTES_MIN:
            raise Unreadable(f"byte {offset}: the file ends inside a block's header")
        if data[offset : offset + 4] == b"\x0a\x0d\x0d\x0a":  # the same in both byte orders
            reading = _SectionRead(_byte_order(data, offset))
        block_type, block_bytes = struct.unpack_from(reading.order + "II", data, offset)
        if block_bytes < _BLOCK_BYTES_MIN or block_bytes % 4:
            raise Unreadable(f"byte {offset}: a block cannot be {block_bytes} bytes long")
        end = offset + block_bytes
        if end > len(data):
            raise Unreadable(f"byte {offset}: the file ends inside a block of {block_bytes} bytes")
        if struct.unpack_from(reading.order + "I", data, end - 4)[0] != block_bytes:
            raise Unreadable(f"byte {offset}: the two lengths of a block differ")
        parse = _PARSERS.get(block_type)
        try:
            yield parse(reading, data[offset + 8 : end - 4]) if parse else Other(block_type)
        except Unreadable as refusal:
            raise Unreadable(f"byte {offset}: {refusal.reason}") from None
        offset = end


def _byte_order(data: bytes, offset: int) -> str:
    magic = data[offset + 8 : offset + 12]
    for order in "<>":
        if magic == struct.pack(order + "I", _BYTE_ORDER_MAGIC):
            return order
    raise Unreadable(f"byte {offset}: a section header without the byte-order magic")


@dataclass(slots=True)
class _Clock:
    """How an interface writes times: ``time_ns`` is ticks * numerator / denominator + offset."""

    numerator: int
    denominator: int
    offset_ns: int
    frame_bytes_max: int

    def time_ns(self, high: int, low: int) -> int:
        return (high << 32 | low) * self.numerator // self.denominator + self.offset_ns


@dataclass(slots=True)
class _SectionRead:
    """What the blocks of a section need to know of those before them."""

    order: str
    clocks: list[_Clock] = field(default_factory=list)

    def unpack(self, layout: str, body: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + layout, body)
        except struct.error:
            raise Unreadable(f"a block's body of {len(body)} bytes is too short for its type") from None

    def clock(self, interface: int) -> _Clock:
        if interface >= len(self.clocks):
            raise Unreadable(f"interface {interface} is used and has no description in this section")
        return self.clocks[interface]

    def options(self, body: bytes, start: int) -> dict[int, bytes]:
        """The options from ``start`` on, the first of each code."""
        found: dict[int, bytes] = {}
        while start < len(body):
            if len(body) < start + 4:
                raise Unreadable("an option's header is cut")
            code, value_bytes = struct.unpack_from(self.order + "HH", body, start)
            if code == _OPT_END:
                break
            if start + 4 + value_bytes > len(body):
                raise Unreadable(f"option {code} is longer than its block")
            found.setdefault(code, body[start + 4 : start + 4 + value_bytes])
            start += 4 + value_bytes + -value_bytes % 4
        return found


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _section(reading: _SectionRead, body: bytes) -> Section:
    major = reading.unpack("IHHQ", body)[1]
    if major != 1:
        raise Unreadable(f"pcapng version {major}; this reader knows version 1")
    options = reading.options(body, 16)
    return Section(*(_text(options.get(code)) for code in (_SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL)))


def _interface(reading: _SectionRead, body: bytes) -> Interface:
    linktype, _, frame_bytes_max = reading.unpack("HHI", body)
    if len(reading.clocks) >= INTERFACES_MAX:
        raise Unreadable(f"more than {INTERFACES_MAX} interfaces in one section")
    options = reading.options(body, 8)
    resolution = (options.get(_IF_TSRESOL) or b"\x06")[0]  # the default: microseconds
    denominator = 1 << (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    offset = options.get(_IF_TSOFFSET, bytes(8))
    if len(offset) != 8:
        raise Unreadable(f"an if_tsoffset of {len(offset)} bytes; it has 8")
    offset_s = struct.unpack(reading.order + "q", offset)[0]
    reading.clocks.append(_Clock(10**9, denominator, offset_s * 10**9, frame_bytes_max))
    name, description = _text(options.get(_IF_NAME)), _text(options.get(_IF_DESCRIPTION))
    return Interface(name, description, linktype, frame_bytes_max)


def _frame(body: bytes, start: int, frame_bytes: int) -> bytes:
    if start + frame_bytes > len(body):
        raise Unreadable(f"a packet of {frame_bytes} bytes is longer than its block")
    return body[start : start + frame_bytes]


def _enhanced(reading: _SectionRead, body: bytes) -> Packet:
    interface, high, low, frame_bytes, wire_bytes = reading.unpack("IIIII", body)
    time_ns = reading.clock(interface).time_ns(high, low)
    return Packet(interface, time_ns, _frame(body, 20, frame_bytes), wire_bytes)


def _obsolete(reading: _SectionRead, body: bytes) -> Packet:
    interface, _drops, high, low, frame_bytes, wire_bytes = reading.unpack("HHIIII", body)
    time_ns = reading.clock(interface).time_ns(high, low)
    return Packet(interface, time_ns, _frame(body, 20, frame_bytes), wire_bytes)


def _simple(reading: _SectionRead, body: bytes) -> Packet:
    (wire_bytes,) = reading.unpack("I", body)
    frame_bytes_max = reading.clock(0).frame_bytes_max
    frame_bytes = min(wire_bytes, frame_bytes_max) if frame_bytes_max else wire_bytes
    return Packet(0, None, _frame(body, 4, frame_bytes), wire_bytes)


def _statistics(reading: _SectionRead, body: bytes) -> Statistics:
    interface, high, low = reading.unpack("III", body)
    clock = reading.clock(interface)
    options = reading.options(body, 12)

    def number(code: int, layout: str, meaning: Callable[..., int]) -> int | None:
        value = options.get(code)
        return None if value is None else meaning(*reading.unpack(layout, value))

    return Statistics(
        interface,
        clock.time_ns(high, low),
        number(_ISB_STARTTIME, "II", clock.time_ns),
        number(_ISB_ENDTIME, "II", clock.time_ns),
        number(_ISB_IFRECV, "Q", int),
        number(_ISB_IFDROP, "Q", int),
        number(_ISB_USRDELIV, "Q", int),
        _text(options.get(_OPT_COMMENT)),
    )


_PARSERS: dict[int, Callable[[_SectionRead, bytes], Block]] = {
    SECTION_HEADER: _section,
    INTERFACE_DESCRIPTION: _interface,
    OBSOLETE_PACKET: _obsolete,
    SIMPLE_PACKET: _simple,
    INTERFACE_STATISTICS: _statistics,
    ENHANCED_PACKET: _enhanced,
}

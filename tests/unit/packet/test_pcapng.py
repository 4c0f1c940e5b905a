import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Block, Interface, Other, Packet, Section, Statistics, Unreadable
from tests.unit.packet.frames import IPV4, ethernet, ipv4, tcp

NOW_NS = 1_700_000_000_123_456_789
SSH = ethernet(ipv4(tcp(payload=b"SSH-2.0-x"), 6), IPV4)


def encode(block: Block) -> bytes:
    match block:
        case Section():
            return pcapng.section_header(block)
        case Interface():
            return pcapng.interface_description(block)
        case Packet():
            return pcapng.enhanced_packet(block)
        case Statistics():
            return pcapng.interface_statistics(block)
    raise AssertionError(block)


def file_of(*blocks: Block) -> bytes:
    return b"".join(map(encode, blocks))


MIRROR: list[Block] = [
    Section("x86_64", "Linux 6.18", "pktmirror monitor"),
    Interface("vni-7159709 10.0.0.48", "VXLAN 7159709 from 10.0.0.48 to 10.0.0.9"),
    Packet(0, NOW_NS, SSH, len(SSH)),
    Interface("vni-7 10.0.0.49"),
    Packet(1, NOW_NS + 1, SSH[:60], 1514),
    Packet(0, NOW_NS + 2, SSH, len(SSH)),
    Statistics(0, NOW_NS + 9, NOW_NS, NOW_NS + 9, 3, 1, 2),
    Statistics(1, NOW_NS + 9, NOW_NS, NOW_NS + 9, 1, 0, 1, "ünlimited"),
]


def test_what_was_written_is_read_again() -> None:
    assert list(pcapng.read(file_of(*MIRROR))) == MIRROR


def tshark(capture: Path, *args: str) -> str:
    return subprocess.run(
        ["tshark", "-n", "-r", str(capture), *args], check=True, capture_output=True, text=True
    ).stdout


def test_wireshark_reads_names_times_and_lengths(tmp_path: Path) -> None:
    capture = tmp_path / "mirror.pcapng"
    capture.write_bytes(file_of(*MIRROR))
    fields = ["frame.interface_name", "frame.time_epoch", "frame.cap_len", "frame.len", "tcp.dstport"]
    rows = tshark(capture, "-T", "fields", *(arg for field in fields for arg in ("-e", field))).splitlines()
    assert [row.split("\t") for row in rows] == [
        ["vni-7159709 10.0.0.48", "1700000000.123456789", "63", "63", "22"],
        ["vni-7 10.0.0.49", "1700000000.123456790", "60", "1514", "22"],
        ["vni-7159709 10.0.0.48", "1700000000.123456791", "63", "63", "22"],
    ]
    info = subprocess.run(["capinfos", str(capture)], check=True, capture_output=True, text=True).stdout
    lines = [" ".join(line.split()) for line in info.splitlines()]
    for line in (
        "Capture hardware: x86_64",
        "Capture oper-sys: Linux 6.18",
        "Capture application: pktmirror monitor",
        "Number of packets: 3",
        "Number of interfaces in file: 2",
        "Name = vni-7159709 10.0.0.48",
        "Name = vni-7 10.0.0.49",
        "Description = VXLAN 7159709 from 10.0.0.48 to 10.0.0.9",
        "Time resolution = 0x09",
    ):
        assert line in lines, info
    assert lines.count("Number of stat entries = 1") == 2
    assert [line for line in lines if line.startswith("Number of packets =")] == [
        "Number of packets = 2",
        "Number of packets = 1",
    ]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TIMES = st.integers(0, (1 << 63) - 1)
COUNTS = st.none() | st.integers(0, (1 << 64) - 1)


@st.composite
def captures(draw: st.DrawFn) -> list[Block]:
    interfaces = draw(st.lists(st.builds(Interface, TEXTS, TEXTS, st.integers(0, 65535)), min_size=1, max_size=4))
    number = st.integers(0, len(interfaces) - 1)
    frames = st.binary(max_size=70)
    packets = st.tuples(number, TIMES, frames, st.integers(0, 1500)).map(
        lambda drawn: Packet(drawn[0], drawn[1], drawn[2], len(drawn[2]) + drawn[3])
    )
    statistics = st.builds(
        Statistics, number, TIMES, st.none() | TIMES, st.none() | TIMES, COUNTS, COUNTS, COUNTS, TEXTS
    )
    rest = draw(st.lists(packets | statistics, max_size=8))
    return [draw(st.builds(Section, TEXTS, TEXTS, TEXTS)), *interfaces, *rest]


@given(captures())
def test_any_capture_survives_the_way_there_and_back(blocks: list[Block]) -> None:
    assert list(pcapng.read(file_of(*blocks))) == blocks


def test_a_text_too_long_for_an_option_is_cut_between_characters() -> None:
    [_, interface] = pcapng.read(file_of(Section(), Interface("ü" * 40_000)))
    assert interface == Interface("ü" * 32_767)


def block(order: str, block_type: int, body: bytes) -> bytes:
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", block_type) + size + body + size


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", 1, 0, snaplen) + options)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def packet(order: str, ticks: int, frame: bytes = b"abcd") -> bytes:
    head = struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, head + frame + bytes(-len(frame) % 4))


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize(
    ("options", "ticks", "time_ns"),
    [
        pytest.param([], 5_000_001, 5_000_001_000, id="microseconds unless it is said"),
        pytest.param([(9, b"\x09")], 5_000_001, 5_000_001, id="nanoseconds"),
        pytest.param([(9, b"\x03")], 5_001, 5_001_000_000, id="milliseconds"),
        pytest.param([(9, b"\x8a")], 1024 * 5 + 512, 5_500_000_000, id="a power of two"),
        pytest.param([(9, b"\x0c")], 5_000_000_001_999, 5_000_000_001, id="picoseconds are rounded down"),
        pytest.param([(14, "q2")], 1, 2_000_001_000, id="an offset in seconds"),
        pytest.param([(14, "q-2")], 3_000_000, 1_000_000_000, id="a negative one"),
    ],
)
def test_times_are_read_in_the_interface_s_units(
    order: str, options: list[tuple[int, bytes | str]], ticks: int, time_ns: int
) -> None:
    encoded = b"".join(
        option(order, code, value if isinstance(value, bytes) else struct.pack(order + "q", int(value[1:])))
        for code, value in options
    )
    data = section(order) + interface(order, options=encoded) + packet(order, ticks)
    assert list(pcapng.read(data))[2] == Packet(0, time_ns, b"abcd", 4)


def test_a_new_section_has_its_own_byte_order_and_interfaces() -> None:
    data = section("<") + interface("<") + packet("<", 1) + section(">") + interface(">") + packet(">", 2)
    packets = [found for found in pcapng.read(data) if isinstance(found, Packet)]
    assert [found.time_ns for found in packets] == [1000, 2000]
    with pytest.raises(Unreadable, match="no description in this section"):
        list(pcapng.read(section("<") + interface("<") + section("<") + packet("<", 1)))


def test_simple_and_obsolete_packets_are_read_and_other_blocks_named() -> None:
    simple = block("<", 3, struct.pack("<I", 9) + b"abcd")
    obsolete = block("<", 2, struct.pack("<HHIIII", 0, 0, 0, 7, 3, 9) + b"abc\0")
    data = section("<") + interface("<", snaplen=4) + simple + obsolete + block("<", 0x80000001, b"")
    assert list(pcapng.read(data))[2:] == [
        Packet(0, None, b"abcd", 9),
        Packet(0, 7000, b"abc", 9),
        Other(0x80000001),
    ]


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize(("magic", "tick_ns"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)], ids=["µs", "ns"])
def test_classic_pcap_is_read(order: str, magic: int, tick_ns: int) -> None:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 96, 1)
    data += struct.pack(order + "IIII", 5, 7, 3, 60) + b"abc"
    assert list(pcapng.read(data)) == [
        Section(),
        Interface(frame_bytes_max=96),
        Packet(0, 5_000_000_000 + 7 * tick_ns, b"abc", 60),
    ]
    for cut, why in [(1, "inside a packet of 3"), (4, "inside a packet's header"), (30, "inside the header")]:
        with pytest.raises(Unreadable, match=why):
            list(pcapng.read(data[:-cut]))


GOOD = section("<") + interface("<") + packet("<", 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"", "neither pcapng nor pcap", id="nothing"),
        pytest.param(b"PK\x03\x04" + bytes(60), "neither pcapng nor pcap", id="a zip file"),
        pytest.param(GOOD[:-1], "inside a block of", id="a block that is cut"),
        pytest.param(GOOD + b"\x06", "inside a block's header", id="a block header that is cut"),
        pytest.param(GOOD + struct.pack("<III", 6, 0, 0), "cannot be 0 bytes", id="a block of length zero"),
        pytest.param(GOOD + struct.pack("<III", 6, 13, 0), "cannot be 13 bytes", id="an odd length"),
        pytest.param(GOOD[:-4] + bytes(4), "two lengths of a block differ", id="two lengths"),
        pytest.param(section("<")[:8] + bytes(20), "byte-order magic", id="no byte-order magic"),
        pytest.param(
            block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "version 2", id="a new version"
        ),
        pytest.param(section("<") + packet("<", 1), "interface 0 is used", id="a packet without an interface"),
        pytest.param(GOOD + block("<", 6, bytes(16)), "too short for its type", id="a short packet block"),
        pytest.param(
            GOOD + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 5, 5) + b"abcd"),
            "longer than its block",
            id="a packet that is longer than its block",
        ),
        pytest.param(
            section("<") + interface("<", options=b"\x02\x00\x09\x00abcd"), "option 2 is longer", id="a long option"
        ),
        pytest.param(
            section("<") + interface("<", options=b"\x02\x00\x00" + b"\x00" + b"\x01\x00" + b"ab"),
            "option 1 is longer",
            id="a later option",
        ),
        pytest.param(
            section("<") + interface("<", options=option("<", 14, b"abcd")), "if_tsoffset of 4", id="an odd offset"
        ),
        pytest.param(
            GOOD + block("<", 5, struct.pack("<III", 0, 0, 0) + option("<", 4, b"abcd")), "too short", id="a count"
        ),
    ],
)
def test_a_broken_file_is_refused_with_a_reason(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        list(pcapng.read(data))


def test_what_stands_before_the_fault_is_read() -> None:
    blocks = pcapng.read(file_of(*MIRROR)[:-1])
    assert [next(blocks) for _ in MIRROR[:-1]] == MIRROR[:-1]
    with pytest.raises(Unreadable, match="inside a block of"):
        next(blocks)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"\x0a\x0d\x0d\x0a", section("<"), section(">"), GOOD, b"\xd4\xc3\xb2\xa1"):
        drain(start + data)


@given(captures(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6), st.integers(0, 10_000))
def test_a_damaged_file_is_read_or_refused(blocks: list[Block], damage: list[tuple[int, int]], keep: int) -> None:
    data = bytearray(file_of(*blocks))
    for offset, value in damage:
        data[offset % len(data)] = value
    drain(bytes(data))
    drain(bytes(data[:keep]))


def drain(data: bytes) -> None:
    """Read to the end; the number of blocks is bounded by the file's length."""
    count = 0
    try:
        for _ in pcapng.read(data):
            count += 1
    except Unreadable:
        pass
    assert count <= 2 + len(data) // 12

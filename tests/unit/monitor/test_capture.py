import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror.model.refusal import Refusal
from pktmirror.monitor.capture import DISK_FULL, Capture, Written
from pktmirror.monitor.demux import Stream
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Block, Interface, Packet, Statistics
from tests.unit.packet.frames import IPV4, ethernet, ipv4, tcp

NOW_NS = 1_700_000_000_123_456_789
WEB, DB = Stream(7, "10.0.0.48", "10.0.0.9"), Stream(8, "10.0.0.49", "10.0.0.9")
SSH = ethernet(ipv4(tcp(payload=bytes(100)), 6), IPV4)


def blocks(path: Path) -> list[Block]:
    """Without the section's header."""
    return list(pcapng.read(path.read_bytes()))[1:]


def test_each_stream_is_an_interface_and_the_end_says_what_it_came_to(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "new" / "captures", NOW_NS)
    assert capture.path == tmp_path / "new" / "captures" / "mirror-20231114T221320Z.pcapng"
    capture.write(WEB, SSH, NOW_NS + 1)
    capture.write(DB, SSH[:60], NOW_NS + 2)
    capture.write(WEB, SSH, NOW_NS + 3)
    assert capture.close(NOW_NS + 9)
    assert blocks(capture.path) == [
        Interface("vni-7 10.0.0.48", "VXLAN 7 from 10.0.0.48 to 10.0.0.9"),
        Packet(0, NOW_NS + 1, SSH, len(SSH)),
        Interface("vni-8 10.0.0.49", "VXLAN 8 from 10.0.0.49 to 10.0.0.9"),
        Packet(1, NOW_NS + 2, SSH[:60], len(SSH)),  # cut by the mirror: its IP header tells how long it was
        Packet(0, NOW_NS + 3, SSH, len(SSH)),
        Statistics(0, NOW_NS + 9, NOW_NS, NOW_NS + 9, 2, 0, 2),
        Statistics(1, NOW_NS + 9, NOW_NS, NOW_NS + 9, 1, 0, 1),
    ]
    assert capture.streams == {WEB: Written(2, 2 * len(SSH)), DB: Written(1, 60)}


def test_a_reader_can_follow_after_a_flush_and_sees_whole_blocks_before(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    for number in range(3000):  # more than is kept pending
        capture.write(WEB, SSH, NOW_NS + number)
        if number % 500 == 0:
            blocks(capture.path)  # raises where a block is cut
    capture.flush()
    assert len(blocks(capture.path)) == 1 + 3000
    assert capture.close(NOW_NS)


@pytest.mark.parametrize("frame_bytes", [1, 13])
def test_a_frame_without_a_whole_ethernet_header_is_as_long_as_it_is(tmp_path: Path, frame_bytes: int) -> None:
    """Nothing in it tells how long it was before the mirror cut it."""
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH[:frame_bytes], NOW_NS)
    assert capture.close(NOW_NS)
    assert blocks(capture.path)[1] == Packet(0, NOW_NS, SSH[:frame_bytes], frame_bytes)


def test_a_stream_that_gives_way_counts_in_the_sum_and_keeps_its_interface(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH, 1)
    capture.write(DB, SSH, 2)
    capture.give_way(WEB)
    assert capture.streams == {DB: Written(1, len(SSH))}
    assert capture.given_way == Written(1, len(SSH))
    capture.write(WEB, SSH, 4)  # appears anew
    capture.give_way(DB)
    assert capture.streams == {WEB: Written(1, len(SSH))}
    assert capture.given_way == Written(2, 2 * len(SSH))
    assert capture.close(NOW_NS + 9)
    assert blocks(capture.path) == [
        Interface("vni-7 10.0.0.48", "VXLAN 7 from 10.0.0.48 to 10.0.0.9"),
        Packet(0, 1, SSH, len(SSH)),
        Interface("vni-8 10.0.0.49", "VXLAN 8 from 10.0.0.49 to 10.0.0.9"),
        Packet(1, 2, SSH, len(SSH)),
        Packet(0, 4, SSH, len(SSH)),
        Statistics(0, NOW_NS + 9, NOW_NS, NOW_NS + 9, 2, 0, 2),
        Statistics(1, NOW_NS + 9, NOW_NS, NOW_NS + 9, 1, 0, 1),
    ]


def test_what_a_full_disk_cost_a_stream_that_gives_way_is_in_the_sum_by_reason(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH, 1)
    capture.flush()
    with largest_file(capture.path.stat().st_size):
        capture.write(WEB, SSH, 2)
        capture.give_way(WEB)
    assert capture.streams == {}
    assert capture.given_way == Written(1, len(SSH), Counter({DISK_FULL: 1}), Counter({DISK_FULL: len(SSH)}))
    assert capture.close(NOW_NS)
    assert blocks(capture.path)[-1] == Statistics(0, NOW_NS, NOW_NS, NOW_NS, 2, 1, 1)


def test_streams_beyond_the_limit_of_interfaces_share_the_last_one(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS, interfaces_max=3)
    third, fourth = Stream(9, "10.0.0.50", "10.0.0.9"), Stream(10, "10.0.0.51", "10.0.0.9")
    for time_ns, stream in enumerate((WEB, DB, third, fourth, WEB)):
        capture.write(stream, SSH, time_ns)
    capture.give_way(third)
    capture.write(third, SSH, 5)
    assert capture.close(NOW_NS + 9)
    assert capture.streams[third] == capture.given_way == Written(1, len(SSH))
    found = blocks(capture.path)
    names = ["vni-7 10.0.0.48", "vni-8 10.0.0.49", "other streams"]
    assert [block.name for block in found if isinstance(block, Interface)] == names
    assert [block.interface for block in found if isinstance(block, Packet)] == [0, 1, 2, 2, 0, 2]
    assert [block for block in found if isinstance(block, Statistics)] == [
        Statistics(0, NOW_NS + 9, NOW_NS, NOW_NS + 9, 2, 0, 2),
        Statistics(1, NOW_NS + 9, NOW_NS, NOW_NS + 9, 1, 0, 1),
        Statistics(2, NOW_NS + 9, NOW_NS, NOW_NS + 9, 3, 0, 3),
    ]


def test_a_second_capture_in_the_same_second_is_another_file(tmp_path: Path) -> None:
    first, second = Capture(tmp_path, NOW_NS), Capture(tmp_path, NOW_NS)
    first.close(NOW_NS)
    second.close(NOW_NS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mirror-20231114T221320Z-1.pcapng",
        "mirror-20231114T221320Z.pcapng",
    ]


def test_others_may_not_read_what_was_mirrored(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.close(NOW_NS)
    assert capture.path.stat().st_mode & 0o027 == 0


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot write captures to") as refused:
        Capture(tmp_path / "file", NOW_NS)
    assert refused.value.found == "File exists"
    assert "--captures" in refused.value.do


def test_a_disk_without_room_is_refused_and_no_file_stays(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refused:
        Capture(tmp_path, NOW_NS, free_bytes_min=1 << 60)
    assert refused.value.found == DISK_FULL
    assert list(tmp_path.iterdir()) == []


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """The kernel writes no file beyond this: a write across the limit is short, the next one fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("beyond_bytes", [0, 1, 31, 500])
def test_a_write_that_ends_in_the_middle_leaves_whole_blocks(tmp_path: Path, beyond_bytes: int) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH, 0)
    capture.flush()
    before = capture.path.stat().st_size
    block_bytes = 32 + len(SSH) + -len(SSH) % 4
    for number in range(1, 11):
        capture.write(WEB, SSH, number)
    with largest_file(before + 4 * block_bytes + beyond_bytes):
        capture.flush()
    fits = 4 + beyond_bytes // block_bytes
    lost = 10 - fits
    assert [block.time_ns for block in blocks(capture.path)[1:] if isinstance(block, Packet)] == [*range(fits + 1)]
    assert capture.path.stat().st_size == before + fits * block_bytes
    assert capture.streams[WEB].not_written_packets == {DISK_FULL: lost}
    assert capture.streams[WEB].not_written_bytes == {DISK_FULL: lost * len(SSH)}
    capture.write(WEB, SSH, 11)  # there is room again
    assert capture.close(NOW_NS)
    assert blocks(capture.path)[-2:] == [
        Packet(0, 11, SSH, len(SSH)),
        Statistics(0, NOW_NS, NOW_NS, NOW_NS, 12, lost, fits + 2),
    ]


def test_a_stream_that_appears_while_the_disk_is_full_gets_its_interface_later(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH, 0)
    capture.flush()
    with largest_file(capture.path.stat().st_size):
        capture.write(DB, SSH, 1)
    capture.write(DB, SSH, 2)
    assert capture.close(NOW_NS)
    assert [type(block) for block in blocks(capture.path)] == [
        Interface,
        Packet,
        Interface,
        Packet,
        Statistics,
        Statistics,
    ]
    assert blocks(capture.path)[3] == Packet(1, 2, SSH, len(SSH))
    assert capture.streams[DB].not_written_packets == {DISK_FULL: 1}
    assert capture.streams[WEB].not_written_packets == {}


def test_no_room_for_the_statistics_is_said_and_the_packets_stay(tmp_path: Path) -> None:
    capture = Capture(tmp_path, NOW_NS)
    capture.write(WEB, SSH, 1)
    capture.flush()
    with largest_file(capture.path.stat().st_size + 40):
        assert not capture.close(NOW_NS)
    assert blocks(capture.path)[1:] == [Packet(0, 1, SSH, len(SSH))]

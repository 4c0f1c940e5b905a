"""Mirrored frames into a pcapng file, one interface per stream. An edge module: files.

A reader may follow the file: it grows by whole blocks only. When the disk is full, nothing is written and every
packet that is lost is counted, until there is room again; the file stays readable.

A stream that gave way and comes again gets the interface that it had. A section has a limited number of interfaces;
those that come when it is reached share the last one. Not a second section: Wireshark 4.0 looks the names of its
interfaces up in the first.
"""

import errno
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pktmirror.model.refusal import Refusal
from pktmirror.monitor.demux import Stream
from pktmirror.packet import headers, pcapng
from pktmirror.packet.blocks import Interface, Packet, Section, Statistics

FREE_BYTES_MIN = 1 << 20
"""Room that is left to others on the disk, and to our own statistics at the end."""
PENDING_BYTES_MAX = 1 << 18
"""Frames are written together; at this size at the latest."""

SHARED_NAME = "other streams"
DISK_FULL = "disk full"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(slots=True)
class Written:
    """What became of a stream's frames in the file; bytes are those of the frames."""

    packets: int = 0
    bytes: int = 0
    not_written_packets: Counter[str] = field(default_factory=Counter)
    not_written_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Written") -> None:
        """Make this the figures of both."""
        self.packets += other.packets
        self.bytes += other.bytes
        self.not_written_packets += other.not_written_packets
        self.not_written_bytes += other.not_written_bytes


class _Pending(NamedTuple):
    written: Written
    frame_bytes: int
    block: bytes


class Capture:
    """One pcapng file, made new. Not for several threads."""

    def __init__(
        self,
        directory: Path,
        now_ns: int,
        *,
        free_bytes_min: int = FREE_BYTES_MIN,
        interfaces_max: int = pcapng.INTERFACES_MAX,
    ) -> None:
        """Make the file ``mirror-<UTC time>.pcapng``. Raises `Refusal` when the directory does not take it.

        Captures hold what others said in confidence: the file's owner reads and writes it and its group reads it,
        so that a set-group-id directory decides who may.
        """
        self._free_bytes_min = free_bytes_min
        self._interfaces_max = interfaces_max
        self._interfaces: dict[Stream, int] = {}
        self._shared_interface: int | None = None
        self.streams: dict[Stream, Written] = {}
        self.given_way = Written()
        """The sum over the streams that gave way."""
        self._ended_delivered: Counter[int] = Counter()  # by interface, of the streams that gave way
        self._ended_lost: Counter[int] = Counter()
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._start_ns = now_ns
        self._size = 0
        self.path, self._fd = _create(directory, now_ns)
        section = Section(platform.machine(), f"{platform.system()} {platform.release()}", "pktmirror monitor")
        reason = self._append([pcapng.section_header(section)], free_bytes_min)[1]
        if reason:
            os.close(self._fd)
            self.path.unlink()
            raise Refusal(
                f"The monitor cannot write captures to {directory}.",
                found=reason,
                do="make room there or name another directory with --captures",
            )

    def write(self, stream: Stream, frame: bytes, time_ns: int) -> None:
        """Take a frame into the file, now or at the next `flush`."""
        written = self.streams.get(stream)
        if written is None:
            written = self.streams[stream] = Written()
        interface = self._interfaces.get(stream)
        if interface is None:
            interface, reason = self._add_interface(stream)
            if interface is None:
                _lose(written, reason, len(frame))
                return
        block = pcapng.enhanced_packet(Packet(interface, time_ns, frame, headers.wire_bytes(frame)))
        self._pending.append(_Pending(written, len(frame), block))
        self._pending_bytes += len(block)
        if self._pending_bytes >= PENDING_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; a follower of the file sees it, and the counts are up to date."""
        if not self._pending:
            return
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        count, reason = self._append([packet.block for packet in pending], self._free_bytes_min)
        for packet in pending[:count]:
            packet.written.packets += 1
            packet.written.bytes += packet.frame_bytes
        for packet in pending[count:]:
            _lose(packet.written, reason, packet.frame_bytes)

    def give_way(self, stream: Stream) -> None:
        """Keep the stream's figures no longer by themselves: they are in ``given_way`` from now on."""
        self.flush()
        written = self.streams.pop(stream, Written())
        self.given_way.add(written)
        interface = self._interfaces.get(stream, self._shared_interface)
        if interface is not None:
            self._ended_delivered[interface] += written.packets
            self._ended_lost[interface] += written.not_written_packets.total()

    def close(self, now_ns: int) -> bool:
        """Write what is pending and each interface's statistics; whether there was room for the statistics.

        The reserve of the disk is for these; without them the file is still whole.
        """
        self.flush()
        blocks = self._statistics(now_ns)
        try:
            return self._append(blocks, 0)[0] == len(blocks)
        finally:
            os.close(self._fd)

    def _add_interface(self, stream: Stream) -> tuple[int | None, str]:
        """The number of a new interface, which must be in the file before its packets; None and why it is not."""
        number = len(self._interfaces)
        if number < self._interfaces_max - 1:
            description = f"VXLAN {stream.vni} from {stream.outer_source} to {stream.outer_destination}"
            reason = self._append_interface(Interface(f"vni-{stream.vni} {stream.outer_source}", description))
            if not reason:
                self._interfaces[stream] = number
        elif self._shared_interface is None:
            reason = self._append_interface(Interface(SHARED_NAME, "streams beyond the limit of interfaces"))
            if not reason:
                self._shared_interface = number
        else:
            return self._shared_interface, ""
        return (None, reason) if reason else (number, "")

    def _append_interface(self, interface: Interface) -> str:
        """Why it is not in the file."""
        self.flush()
        return self._append([pcapng.interface_description(interface)], self._free_bytes_min)[1]

    def _statistics(self, now_ns: int) -> list[bytes]:
        """Of each interface. Nothing may be pending."""
        delivered, lost = self._ended_delivered.copy(), self._ended_lost.copy()
        for stream, written in self.streams.items():
            interface = self._interfaces.get(stream, self._shared_interface)
            if interface is not None:
                delivered[interface] += written.packets
                lost[interface] += written.not_written_packets.total()
        interfaces = len(self._interfaces) + (self._shared_interface is not None)
        return [
            pcapng.interface_statistics(
                Statistics(
                    each, now_ns, self._start_ns, now_ns, delivered[each] + lost[each], lost[each], delivered[each]
                )
            )
            for each in range(interfaces)
        ]

    def _append(self, blocks: list[bytes], reserve_bytes: int) -> tuple[int, str]:
        """How many of the blocks are in the file now, from the first on, and why the others are not."""
        data = b"".join(blocks)
        try:
            disk = os.fstatvfs(self._fd)
            if disk.f_bavail * disk.f_frsize < len(data) + reserve_bytes:
                return 0, DISK_FULL
            done = 0
            while done < len(data):
                done += os.write(self._fd, data[done:] if done else data)
        except OSError as error:
            reason = DISK_FULL if error.errno in _NO_ROOM else f"write failed: {os.strerror(error.errno or 0)}"
            return self._keep_whole(blocks), reason
        self._size += len(data)
        return len(blocks), ""

    def _keep_whole(self, blocks: list[bytes]) -> int:
        """After a write that failed in the middle: cut the file behind the last whole block; how many are whole."""
        room = os.fstat(self._fd).st_size - self._size
        count = 0
        while count < len(blocks) and len(blocks[count]) <= room:
            room -= len(blocks[count])
            self._size += len(blocks[count])
            count += 1
        os.ftruncate(self._fd, self._size)
        return count


def _lose(written: Written, reason: str, frame_bytes: int) -> None:
    written.not_written_packets[reason] += 1
    written.not_written_bytes[reason] += frame_bytes


def _create(directory: Path, now_ns: int) -> tuple[Path, int]:
    """A file that was not there; a second one of the same second gets a number."""
    second = datetime.fromtimestamp(now_ns // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = directory / (f"mirror-{second}.pcapng" if not number else f"mirror-{second}-{number}.pcapng")
            try:
                return path, os.open(path, flags, 0o640)
            except FileExistsError:
                continue
        raise OSError(errno.EEXIST, f"a thousand captures of {second}")
    except OSError as error:
        raise Refusal(
            f"The monitor cannot write captures to {directory}.",
            found=error.strerror or str(error),
            do="name a directory that this user may write to with --captures, or make room there",
        ) from error

"""The meters of all sessions in the kernel (bpf/maps.h): writes, reads and carries them on. An edge module.

A block is 1024 meters: a row of tallies for each CPU, which the programs write, and notes, which they do not know: what
was carried from former meters, and names. It is made when a session needs it, and stays.

What the agent has begun is in the kernel too: a range that a session is to count in stands beside the one that it
counts in, until the policy has been swapped and the figures carried over. `carry` can be done again after an agent
that was killed in the middle of it, as it reads what nobody writes any more and writes all of what it says.
"""

import ctypes
import mmap
from collections.abc import Iterator, Mapping

from pktmirror.agent import abi
from pktmirror.agent.meters import NAME_BYTES, Meter, MeterRange, carried, meters_of, summed
from pktmirror.kernel import bpf
from pktmirror.model.ledger import RuleLedger, Tally

_TALLY_BYTES = ctypes.sizeof(abi.TallyEntry)
_ROW_BYTES = abi.METERS_A_BLOCK * _TALLY_BYTES
_NOTES_BYTES = ctypes.sizeof(abi.MeterNotes)
_NOTHING = bytes(bytearray(abi.MeterRangeEntry()))


class _Blocks:
    """The inner maps of a map of blocks, each mapped when it is first asked for, and made where there is none.

    What is asked for is given for each meter of a range, across blocks: from ``start`` of the block on so many bytes.
    """

    def __init__(self, blocks: bpf.Map, entries: int, entry_bytes: int) -> None:
        self._blocks, self._entries, self._entry_bytes = blocks, entries, entry_bytes
        self._memory: dict[int, mmap.mmap] = {}

    def close(self) -> None:
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()

    def get(self, range_: MeterRange, start: int, meter_bytes: int) -> bytes:
        return b"".join(
            self._block(block)[start + first * meter_bytes : start + last * meter_bytes]
            for block, first, last in _parts(range_)
        )

    def put(self, range_: MeterRange, start: int, value: bytes) -> None:
        meter_bytes, at = len(value) // range_.count, 0
        for block, first, last in _parts(range_):
            part = value[at : at + (last - first) * meter_bytes]
            self._block(block)[start + first * meter_bytes : start + last * meter_bytes] = part
            at += len(part)

    def _block(self, block: int) -> mmap.mmap:
        if block not in self._memory:
            map_id = self._blocks.get(_key(block))
            made = None if map_id is not None else bpf.create_mappable_array("meters", self._entries, self._entry_bytes)
            with made or bpf.Map.of_id(int.from_bytes(map_id or b"", "little")) as map_:
                self._memory[block] = map_.memory()
                if made is not None:
                    self._blocks.put(_key(block), _key(map_.fd))
        return self._memory[block]


class MeterBlocks:
    """Over the maps ``meters``, ``meter_notes`` and ``meter_ranges``, which stay the caller's. OSError where the kernel
    refuses."""

    def __init__(self, meters: bpf.Map, notes: bpf.Map, ranges: bpf.Map) -> None:
        self._cpus = bpf.possible_cpus()
        self._counts = _Blocks(meters, self._cpus, _ROW_BYTES)
        self._notes = _Blocks(notes, 1, _NOTES_BYTES)
        self._ranges = ranges
        self._known_names: dict[bytes, tuple[Meter, ...]] = {}
        self._known_figures: dict[int, tuple[list[bytes], tuple[RuleLedger, ...]]] = {}

    def close(self) -> None:
        self._counts.close()
        self._notes.close()

    def ranges(self, counted_in: Mapping[int, set[int]]) -> dict[int, MeterRange]:
        """By ledger row. What a predecessor left half done is brought to its end, or undone: by ``counted_in``, the
        first meters in which policies let each row's session count."""
        found = {}
        for row in range(self._ranges.entries_max):
            entry = self._entry(row)
            if entry.next_count:
                if entry.next_first in counted_in.get(row, ()):
                    self.carry(row)
                else:
                    entry.next_count = 0
                    self._ranges.put(_key(row), bytes(entry))
                entry = self._entry(row)
            if entry.is_used:
                found[row] = _range(entry)
        return found

    def write(self, row: int, range_: MeterRange, names: bytes) -> None:
        """Clear and name meters that no policy refers to; they are to come after those of the row."""
        empty = bytes(range_.count * _TALLY_BYTES)
        for cpu in range(self._cpus):
            self._counts.put(range_, cpu * _ROW_BYTES, empty)
        self._notes.put(range_, 0, empty)
        self._notes.put(range_, abi.MeterNotes.names.offset, names)
        entry = self._entry(row)
        entry.next_first, entry.next_count = range_.first, range_.count
        entry.next_digest[:] = range_.digest
        if not entry.is_used:
            entry.is_used, entry.is_whole = 1, range_.is_whole
        self._ranges.put(_key(row), bytes(entry))

    def carry(self, row: int) -> None:
        """No policy refers to the row's meters any more: those that come after them take over its figures."""
        entry = self._entry(row)
        after = MeterRange(entry.next_first, entry.next_count, bytes(entry.next_digest), bool(entry.is_whole))
        if entry.count:
            before = _range(entry)
            begin = carried(self._meters(before), summed(self._rows(before)), self._meters(after))
            self._notes.put(after, 0, b"".join(_packed(tally) for tally in begin))
        self.put(row, after)

    def put(self, row: int, range_: MeterRange) -> None:
        """The row's meters are these."""
        entry = abi.MeterRangeEntry(first=range_.first, count=range_.count, is_whole=range_.is_whole, is_used=1)
        entry.digest[:] = range_.digest
        self._ranges.put(_key(row), bytes(entry))

    def drop(self, row: int) -> None:
        """The row has none."""
        self._ranges.put(_key(row), _NOTHING)

    def figures(self, row: int, range_: MeterRange) -> tuple[RuleLedger, ...]:
        """The meters of a row that have counted anything, by the sum over CPUs and of what was carried."""
        rows = self._rows(range_)
        known = self._known_figures.get(row)
        if known is None or known[0] != [range_.digest, *rows]:
            counted = zip(self._meters(range_), summed(rows), strict=True)
            ledgers = tuple(
                RuleLedger(meter.rule_id, meter.direction, meter.action, tally)
                for meter, tally in counted
                if tally.packets
            )
            known = self._known_figures[row] = [range_.digest, *rows], ledgers
        return known[1]

    def _meters(self, range_: MeterRange) -> tuple[Meter, ...]:
        if range_.digest not in self._known_names:
            if len(self._known_names) > 1000:
                self._known_names.clear()
            names = self._notes.get(range_, abi.MeterNotes.names.offset, NAME_BYTES)
            self._known_names[range_.digest] = meters_of(names)
        return self._known_names[range_.digest]

    def _rows(self, range_: MeterRange) -> list[bytes]:
        """What is to be summed up: the row of each CPU, and what was carried."""
        rows = [self._counts.get(range_, cpu * _ROW_BYTES, _TALLY_BYTES) for cpu in range(self._cpus)]
        return [*rows, self._notes.get(range_, 0, _TALLY_BYTES)]

    def _entry(self, row: int) -> abi.MeterRangeEntry:
        return abi.MeterRangeEntry.from_buffer_copy(self._ranges.get(_key(row)) or _NOTHING)


def _parts(range_: MeterRange) -> Iterator[tuple[int, int, int]]:
    """Block by block: the block, and the first and behind the last of its meters."""
    first, end = range_.first, range_.first + range_.count
    while first < end:
        block, at = divmod(first, abi.METERS_A_BLOCK)
        last = min(at + end - first, abi.METERS_A_BLOCK)
        yield block, at, last
        first += last - at


def _range(entry: abi.MeterRangeEntry) -> MeterRange:
    return MeterRange(entry.first, entry.count, bytes(entry.digest), bool(entry.is_whole))


def _packed(tally: Tally) -> bytes:
    return tally.packets.to_bytes(8, "little") + tally.bytes.to_bytes(8, "little")


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")

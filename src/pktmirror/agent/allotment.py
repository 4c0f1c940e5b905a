"""Which meters a session counts in. Pure; a part of `plan`.

As with filters, nothing that a policy refers to is written: a session whose rules change gets other meters, and they
take over the figures of the former ones when all policies are swapped. Where there is no room, the session is mirrored
without them, and is marked for good as one whose rules' figures lack something.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from pktmirror.agent import abi
from pktmirror.agent.meters import DIGEST_BYTES, NAME_BYTES, MeterRange, digest_of


@dataclass(frozen=True, slots=True)
class WriteMeters:
    """Clear and name meters that nothing counts in; the session of this ledger row is to count in them."""

    row: int
    range: MeterRange
    names: bytes


@dataclass(frozen=True, slots=True)
class CarryMeters:
    """All policies are swapped: what the row's former meters had counted goes on in these, and they are the row's."""

    row: int
    range: MeterRange


@dataclass(frozen=True, slots=True)
class PutMeters:
    """The row's meters are these, as they are."""

    row: int
    range: MeterRange


@dataclass(frozen=True, slots=True)
class DropMeters:
    """The row has no meters any more: others get them."""

    row: int


class Allotment:
    """``held`` and ``busy_rows`` are by ledger row: what each has, and those that have a session.

    ``carry`` is what is to be done behind all else.
    """

    def __init__(self, held: Mapping[int, MeterRange], busy_rows: Set[int], capacity: int) -> None:
        self.carry: list[CarryMeters] = []
        self._ranges = dict(held)
        self._occupied = list(held.values())
        self._busy_rows = busy_rows
        self._new_rows: set[int] = set()
        self._capacity = capacity
        self._gaps: list[tuple[int, int]] | None = None

    def begin(self, row: int) -> None:
        """The row is a new session's."""
        self._ranges.pop(row, None)
        self._new_rows.add(row)

    def allot(self, row: int, names: bytes) -> tuple[int, list[WriteMeters | PutMeters | DropMeters]]:
        """The first of the row's meters, and what is to be done before they are counted in; NO_METER for no room."""
        held, digest = self._ranges.get(row), digest_of(names)
        if held is not None and held.digest == digest:
            return held.first, []
        changes: list[WriteMeters | PutMeters | DropMeters] = []
        count = len(names) // NAME_BYTES
        first = self._take(count)
        if first is None:
            changes += self._forget_ended()
            first = self._take(count)
        if first is None:
            lacking = replace(held or MeterRange(0, 0, bytes(DIGEST_BYTES)), is_whole=False)
            if lacking != held:
                self._ranges[row] = lacking
                changes.append(PutMeters(row, lacking))
            return abi.NO_METER, changes
        fresh = MeterRange(first, count, digest, row in self._new_rows if held is None else held.is_whole)
        self._ranges[row] = fresh
        self.carry.append(CarryMeters(row, fresh))
        return first, [*changes, WriteMeters(row, fresh, names)]

    def _take(self, count: int) -> int | None:
        """The beginning of the first gap that is long enough."""
        if self._gaps is None:
            self._gaps = self._found_gaps()
        for place, (begin, end) in enumerate(self._gaps):
            if end - begin >= count:
                self._gaps[place] = begin + count, end
                self._occupied.append(MeterRange(begin, count, b""))
                return begin
        return None

    def _found_gaps(self) -> list[tuple[int, int]]:
        gaps, begin = [], 0
        for range_ in sorted((one for one in self._occupied if one.count), key=lambda range_: range_.first):
            gaps.append((begin, range_.first))
            begin = range_.first + range_.count
        gaps.append((begin, self._capacity))
        return [gap for gap in gaps if gap[0] < gap[1]]

    def _forget_ended(self) -> list[DropMeters]:
        """Those of sessions that are no more were kept until now: a session may come back."""
        ended = [row for row in self._ranges if row not in self._busy_rows]
        for row in ended:
            self._occupied.remove(self._ranges.pop(row))
        self._gaps = None
        return [DropMeters(row) for row in ended]

"""How many packets went past the hooks of an interface: the device's own counters beside what the hooks saw. Pure.

What is found is never more than what truly went past, whatever is under way while the counters are read, and exactly
that at rest, as long as the device counts as the hooks do:

- The device is read after the hooks where the comparison begins, and before them ever after, by SETTLED_S at least. So
  a packet on its way between the two is never one that went past.
- A device counts a super-packet as one, or as the packets that it becomes, or, where it merges what it has received or
  is handed what was split before, something between. Only where it is known to count frames are frames compared.
  Elsewhere the hooks' larger figure is taken, the packets of the wire, and less may be found than went past.
- What is dropped between the hook and a device's counter, as by a full queue, hides as many that went past.

Bytes are not compared: devices do not agree on which bytes of a packet they count (with its Ethernet header or
without, with the virtio header or without, the headers of a super-packet once or for each segment).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pktmirror.model.filter import Direction

SETTLED_S = 0.5
"""A packet that a device has counted is at the hook by then; the kernel's queue between them has 1000 places."""

HARDWARE_LAG_S = 5.0
"""So old may be what a driver tells of its hardware's counters; most ask for them once or twice a second."""


@dataclass(frozen=True, slots=True)
class HookFigures:
    """Seen by the hook of one direction: by frames, of which a super-packet is one (but not one of BIG TCP), and by
    packets of the wire."""

    frames: int
    packets: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Both sides' counters of one direction. ``counts_frames``: the device is known to count as the hook does."""

    device_packets: int
    hook: HookFigures
    counts_frames: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """One direction since the comparison began. ``accounted`` is what the device may have counted of what was seen."""

    first_packets: int
    accounted: int
    last: Reading
    before: int  # what was found before one of the counters began anew
    bypassed: int

    @classmethod
    def begin(cls, reading: Reading, bypassed: int = 0) -> "_Line":
        return cls(reading.device_packets, 0, reading, bypassed, bypassed)

    def read(self, now: Reading, *, begins: bool) -> "_Line":
        last = self.last
        if now.device_packets < last.device_packets or now.hook.packets < last.hook.packets:
            return _Line.begin(now, self.bypassed)
        frames = now.counts_frames and last.counts_frames
        more = now.hook.frames - last.hook.frames if frames else now.hook.packets - last.hook.packets
        accounted = self.accounted + more
        if begins:
            return replace(self, first_packets=now.device_packets, accounted=accounted, last=now)
        found = self.before + last.device_packets - self.first_packets - accounted
        return replace(self, accounted=accounted, last=now, bypassed=max(self.bypassed, found))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The two sides' counters of one interface, from the first reading on."""

    began_at_s: float
    read_at_s: float
    lines: Mapping[Direction, _Line]

    @property
    def bypassed(self) -> dict[Direction, int]:
        """How many packets the hooks have not seen, as the device counts packets; at least so many, never more."""
        return {direction: line.bypassed for direction, line in self.lines.items()}


def compared(
    before: Comparison | None, readings: Mapping[Direction, Reading], read_at_s: float, *, lag_s: float = 0.0
) -> Comparison:
    """The comparison after one more reading of each direction; the hooks' side is to be read first.

    ``lag_s`` is how old the device's counters may be: what they come to within that time is from before the beginning.
    A reading too soon after the one before says nothing and is passed over.
    """
    if before is None:
        lines = {direction: _Line.begin(reading) for direction, reading in readings.items()}
        return Comparison(read_at_s, read_at_s, lines)
    if read_at_s - before.read_at_s < SETTLED_S:
        return before
    begins = before.read_at_s - before.began_at_s < lag_s
    lines = {direction: line.read(readings[direction], begins=begins) for direction, line in before.lines.items()}
    return replace(before, read_at_s=read_at_s, lines=lines)

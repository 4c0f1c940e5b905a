"""Which stream a datagram belongs to, and what is counted about it. Sans-IO: datagrams in, events out, time given.

A stream is what one source sends under one VNI to one of our addresses: a session, as the far end sees it.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

from pktmirror.packet import vxlan

STREAMS_MAX = 4096
"""Whoever can send us datagrams chooses the VNI; without a limit he chooses how much memory we need."""


class Refused(Enum):
    """Why a datagram yields no frame."""

    TOO_SHORT = vxlan.Reason.TOO_SHORT.value
    NO_VNI = vxlan.Reason.NO_VNI.value
    TRUNCATED = "longer than the receive buffer"
    TOO_MANY_STREAMS = "too many streams"


@dataclass(frozen=True, slots=True)
class Stream:
    """Who sends what to whom; the addresses are those of the outer IP header."""

    vni: int
    outer_source: str
    outer_destination: str


@dataclass(slots=True)
class Received:
    """What came in of one stream; bytes are those of the mirrored frames."""

    packets: int = 0
    bytes: int = 0
    first_seen_ns: int = 0
    last_seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class StreamAppeared:
    """The first frame of a stream follows."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class FrameMirrored:
    """A copy of a packet, from the inner Ethernet header on."""

    stream: Stream
    frame: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class DatagramRefused:
    """A datagram that was counted and dropped."""

    outer_source: str
    reason: Refused


Event = StreamAppeared | FrameMirrored | DatagramRefused


class Receiver:
    """Takes datagrams apart and keeps the books: every datagram is either received in a stream or refused."""

    def __init__(self, *, streams_max: int = STREAMS_MAX) -> None:
        self._streams_max = streams_max
        self.streams: dict[Stream, Received] = {}
        self.refused: Counter[Refused] = Counter()

    def datagram_received(self, datagram: bytes, source: str, destination: str, now_ns: int) -> list[Event]:
        """The payload of a UDP datagram to the VXLAN port, with the addresses of its IP header."""
        try:
            inner = vxlan.Encapsulated.decode(datagram)
        except vxlan.Malformed as malformed:
            return self._refuse(source, Refused(malformed.reason.value))
        stream = Stream(inner.vni, source, destination)
        received = self.streams.get(stream)
        events: list[Event] = []
        if received is None:
            if len(self.streams) >= self._streams_max:
                return self._refuse(source, Refused.TOO_MANY_STREAMS)
            received = self.streams[stream] = Received(first_seen_ns=now_ns)
            events.append(StreamAppeared(stream))
        received.packets += 1
        received.bytes += len(inner.frame)
        received.last_seen_ns = now_ns
        events.append(FrameMirrored(stream, inner.frame, now_ns))
        return events

    def datagram_truncated(self, source: str) -> list[Event]:
        """A datagram of which the socket could give us only the beginning: the rest of the frame is gone."""
        return self._refuse(source, Refused.TRUNCATED)

    def _refuse(self, source: str, reason: Refused) -> list[Event]:
        self.refused[reason] += 1
        return [DatagramRefused(source, reason)]

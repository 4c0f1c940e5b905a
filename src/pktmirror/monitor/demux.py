"""Which stream a datagram belongs to, and what is counted about it. Sans-IO: datagrams in, events out, time given.

A stream is what one outer address sends under one VNI to one of ours. It is a session, as the far end sees it, or
several that share all three.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from enum import Enum

from pktmirror.model.probe import is_token
from pktmirror.packet import probe, vxlan

STREAMS_MAX = 4096
"""Whoever can send us datagrams chooses the VNI; without a limit he chooses how much memory we need."""


PROBES_MAX = 1024
"""How many probes are kept; a token that is among them makes no second one."""


class Refused(Enum):
    """Why a datagram yields no frame."""

    TOO_SHORT = vxlan.Reason.TOO_SHORT.value
    NO_VNI = vxlan.Reason.NO_VNI.value
    TRUNCATED = "longer than the receive buffer"


class GaveWay(Enum):
    """Why a stream is no longer kept by itself."""

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

    def add(self, other: "Received") -> None:
        """Make this the figures of both."""
        self.first_seen_ns = min(self.first_seen_ns, other.first_seen_ns) if self.packets else other.first_seen_ns
        self.last_seen_ns = max(self.last_seen_ns, other.last_seen_ns)
        self.packets += other.packets
        self.bytes += other.bytes


@dataclass(frozen=True, slots=True)
class StreamAppeared:
    """The first frame of a stream follows."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamGaveWay:
    """A stream whose figures are in the sum of those that gave way from now on; it may appear anew."""

    stream: Stream
    reason: GaveWay


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


@dataclass(frozen=True, slots=True)
class ProbeArrived:
    """A probe of ours: no copy, so no figure of the stream under whose headers it came counts it."""

    token: bytes
    stream: Stream
    time_ns: int


Event = ProbeArrived | StreamAppeared | StreamGaveWay | FrameMirrored | DatagramRefused


class Receiver:
    """Takes datagrams apart and keeps the books: every datagram is received in a stream, a probe, or refused.

    ``probe_key`` is what agents and monitors share. Without it no probe can be told from a copy that looks like one,
    and they are copies; so is one that comes a second time.

    When a stream appears that is one too many, the one that has been silent the longest gives way to it: invented
    VNIs cost each other their places, and a stream that goes on keeps its own.
    """

    def __init__(self, *, streams_max: int = STREAMS_MAX, probe_key: bytes | None = None) -> None:
        self._streams_max = streams_max
        self._probe_key = probe_key
        self._tokens: set[bytes] = set()  # of the probes that are kept
        self.probes: deque[ProbeArrived] = deque()
        """The last ones, in the order in which they came."""
        self.probe_count = 0
        self.streams: OrderedDict[Stream, Received] = OrderedDict()
        """Those kept by themselves; the one that has been silent the longest is the first."""
        self.given_way = Received()
        """The sum over the streams that gave way."""
        self.gave_way: Counter[GaveWay] = Counter()
        """How many did."""
        self.refused: Counter[Refused] = Counter()

    def datagram_received(self, datagram: bytes, source: str, destination: str, now_ns: int) -> list[Event]:
        """The payload of a UDP datagram to the VXLAN port, with the addresses of its IP header."""
        try:
            inner = vxlan.Encapsulated.decode(datagram)
        except vxlan.Malformed as malformed:
            return self._refuse(source, Refused(malformed.reason.value))
        stream = Stream(inner.vni, source, destination)
        token = probe.token_in(inner.frame)
        if token is not None and self._is_new_probe(token):
            return [self._keep(ProbeArrived(token, stream, now_ns))]
        received = self.streams.get(stream)
        events: list[Event] = []
        if received is None:
            if len(self.streams) >= self._streams_max:
                events.append(self._give_way())
            received = self.streams[stream] = Received(first_seen_ns=now_ns)
            events.append(StreamAppeared(stream))
        else:
            self.streams.move_to_end(stream)
        received.packets += 1
        received.bytes += len(inner.frame)
        received.last_seen_ns = now_ns
        events.append(FrameMirrored(stream, inner.frame, now_ns))
        return events

    def datagram_truncated(self, source: str) -> list[Event]:
        """A datagram of which the socket could give us only the beginning: the rest of the frame is gone."""
        return self._refuse(source, Refused.TRUNCATED)

    def _is_new_probe(self, token: bytes) -> bool:
        return self._probe_key is not None and token not in self._tokens and is_token(self._probe_key, token)

    def _keep(self, arrived: ProbeArrived) -> ProbeArrived:
        if len(self.probes) >= PROBES_MAX:
            self._tokens.discard(self.probes.popleft().token)
        self.probes.append(arrived)
        self._tokens.add(arrived.token)
        self.probe_count += 1
        return arrived

    def _give_way(self) -> StreamGaveWay:
        silent, received = self.streams.popitem(last=False)
        self.given_way.add(received)
        self.gave_way[GaveWay.TOO_MANY_STREAMS] += 1
        return StreamGaveWay(silent, GaveWay.TOO_MANY_STREAMS)

    def _refuse(self, source: str, reason: Refused) -> list[Event]:
        self.refused[reason] += 1
        return [DatagramRefused(source, reason)]

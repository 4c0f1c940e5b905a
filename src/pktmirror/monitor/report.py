"""What a monitor has seen so far, as a value for the ledger, the CLI and JSON."""

from collections.abc import Mapping

import msgspec


class StreamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: ``received_packets`` = ``written_packets`` + all of ``not_written_packets``, and so the bytes.

    Bytes are those of the mirrored frames, from the inner Ethernet header on, as they arrived.
    """

    vni: int
    outer_source: str
    outer_destination: str
    first_seen_ns: int
    last_seen_ns: int
    received_packets: int
    received_bytes: int
    written_packets: int
    written_bytes: int
    not_written_packets: Mapping[str, int]
    not_written_bytes: Mapping[str, int]


class ReportedProbe(msgspec.Struct, frozen=True, kw_only=True):
    """A probe that arrived: its token in hexadecimal, the outer headers it had, and when, in Unix time."""

    token: str
    vni: int
    outer_source: str
    outer_destination: str
    arrived_at_ns: int


class GivenWay(msgspec.Struct, frozen=True, kw_only=True):
    """The streams that the monitor no longer keeps by themselves, summed; a stream's sums hold here too."""

    streams: Mapping[str, int]
    """How many gave way, by reason. A stream that appears anew and gives way again counts again."""
    received_packets: int
    received_bytes: int
    written_packets: int
    written_bytes: int
    not_written_packets: Mapping[str, int]
    not_written_bytes: Mapping[str, int]


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of a monitor's figures since its start: what it received is ``streams`` and ``given_way`` together, and
    beside them its probes."""

    listening: str
    """Address and port, as in ``10.0.0.9:4789`` or ``[::]:4789``."""
    capture: str
    """The path of the capture file."""
    streams: tuple[StreamFigures, ...]
    """In the order in which they appeared."""
    given_way: GivenWay
    refused: Mapping[str, int]
    """Datagrams that were no frame of a stream, by reason."""
    socket_queue_full: int
    """Datagrams that the kernel dropped before we saw them: the queue was full, or the UDP checksum wrong."""
    probes: tuple[ReportedProbe, ...] = ()
    """The probes of the last minute. They are in no stream, and not in the file."""
    probes_received: int = 0
    """All probes since the start."""
    addresses: tuple[str, ...] = ()
    """Where it listens on all addresses: those of its network namespace."""
    clock: str = ""
    """Whose clock the times are of: `pktmirror.kernel.clock`."""
    stopped: bool = False
    """The last report: nothing is received any more, and the file is closed."""
    statistics_written: bool = False
    """The file ends with the interfaces' statistics; false when the disk had no room for them."""

    @property
    def received_packets(self) -> int:
        """All that was received, those of the streams that gave way too."""
        return self.given_way.received_packets + sum(stream.received_packets for stream in self.streams)

    @property
    def written_packets(self) -> int:
        """All that is in the file, those of the streams that gave way too."""
        return self.given_way.written_packets + sum(stream.written_packets for stream in self.streams)

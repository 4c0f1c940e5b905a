"""What one may ask of a live trace, and what it tells: the documents between CLI, control plane and agent.

A trace is of one mirrored interface, bounded by a time, a number of packets and a rate; all of them hold in the kernel.
"""

from ipaddress import ip_network
from typing import Annotated

import msgspec

from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction, Network, PortRange
from pktmirror.model.ledger import InterfaceOutcome, Stage

PACKETS_MAX = 10_000
SECONDS_MAX = 600.0
PACKETS_PER_S = 500
"""What is over this rate, with a tenth of a second saved up, is skipped, and counted as that."""

TraceId = Annotated[str, msgspec.Meta(pattern=r"^trace-[0-9a-f]{16}$")]


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which packets are traced; None: whichever. Networks are text, as JSON has no better, and of one family."""

    direction: Direction | None = None
    protocol: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    source: str | None = None
    destination: str | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None

    def networks(self) -> tuple[Network | None, Network | None]:
        """Source and destination. ValueError where they are none, or of two families."""
        source, destination = (
            None if text is None else ip_network(text, strict=False) for text in (self.source, self.destination)
        )
        if source is not None and destination is not None and source.version != destination.version:
            raise ValueError(f"{source} and {destination} are of two families")
        for ports in (self.source_ports, self.destination_ports):
            if ports is not None and not 0 <= ports.first <= ports.last <= 0xFFFF:
                raise ValueError(f"{ports.first}-{ports.last} is no range of ports")
        return source, destination


class TraceWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the asker wants: a trace of an interface, by its id."""

    interface_id: str
    packets_max: Annotated[int, msgspec.Meta(ge=1, le=PACKETS_MAX)]
    seconds: Annotated[float, msgspec.Meta(gt=0, le=SECONDS_MAX)]
    selection: Selection = Selection()


class TraceOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is told to trace: the interface by its key on that host."""

    trace_id: TraceId
    key: str
    packets_max: int
    seconds: float
    selection: Selection = Selection()


class Offered(msgspec.Struct, frozen=True):
    """A session that was asked, in the order of their numbers, and what the kernel found."""

    session_id: str
    verdict: Verdict


class TracedPacket(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel decided of one packet, or super-packet, and what came of its copies.

    ``bytes`` and ``packets`` are as on a wire. Without addresses it is no IP packet, or one that cannot be read.
    ``offers`` None: the policy by which it was decided is not known any more, nor then the ``revision`` of the desired
    state. ``stage`` is where the copy came to at the hook, SENT where it was cloned; None where no session took it.
    ``copies`` are what the far end of the hops told within half a second, in wire packets: what is missing there was
    lost between, or its record was. Both are by `Stage`'s words, as an agent of a later version knows more of them.
    """

    time_ns: int  # since 1970-01-01 UTC
    direction: Direction
    bytes: int
    packets: int
    outcome: InterfaceOutcome
    protocol: int | None = None
    source: str | None = None
    destination: str | None = None
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    later_fragment: bool = False
    revision: int | None = None
    amazon_dns: bool = False
    offers: tuple[Offered, ...] | None = None
    taken_by: str | None = None
    stage: str | None = None
    copies: dict[str, int] = {}
    copied_bytes: int = 0  # of the inner frames that were sent

    @property
    def copies_missing(self) -> int:
        """Of what was cloned, the wire packets of which the far end has told nothing; CUT ones are among the sent."""
        if self.stage != Stage.SENT.value:
            return 0
        return max(0, self.packets - sum(self.copies.values()))


class TraceBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Packets in the order in which they were decided; ``skipped`` and ``lost`` are sums since the beginning.

    ``skipped`` packets were asked for, and over the rate or the number; for ``lost`` records the ring had no room.
    ``ended``: why this batch is the last.
    """

    trace_id: TraceId
    packets: tuple[TracedPacket, ...] = ()
    skipped: int = 0
    lost: int = 0
    ended: str | None = None


class TraceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What the asker is told: the packets from the one on that was asked for, and how it stands."""

    trace_id: TraceId
    host_id: str
    packets: tuple[TracedPacket, ...] = ()
    began: bool = False
    skipped: int = 0
    lost: int = 0
    ended: str | None = None

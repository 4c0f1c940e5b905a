"""What agents and monitors told last. It lives in memory: after a restart they tell it again within seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from pktmirror.desired import Report

T = TypeVar("T")


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor has of one stream: all copies of one VNI between two outer addresses.

    Bytes are of the mirrored frames as they arrived, from the inner Ethernet header on.
    """

    vni: int
    outer_source: str
    outer_destination: str
    received_packets: int
    received_bytes: int
    written_packets: int
    written_bytes: int


class MonitorReport(msgspec.Struct, frozen=True, kw_only=True):
    """A monitor's figures since its start. It may tell more than is read here."""

    listening: str
    streams: tuple[StreamReport, ...] = ()
    refused: Mapping[str, int] = {}
    socket_queue_full: int = 0


@dataclass(frozen=True, slots=True)
class Received(Generic[T]):
    """A report and when it came, in Unix seconds."""

    report: T
    received_at_s: float


@dataclass(slots=True)
class Reports:
    """The last report of each agent by host id, and of each monitor by its id."""

    agents: dict[str, Received[Report]] = field(default_factory=dict)
    monitors: dict[str, Received[MonitorReport]] = field(default_factory=dict)

"""What a capture file consists of, as values, whichever format it is written in. No I/O."""

from dataclasses import dataclass

LINKTYPE_ETHERNET = 1


class Unreadable(ValueError):
    """The bytes are no capture file, or stop being one: ``reason`` says where and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Section:
    """The start of a pcapng section, or of a classic pcap file, whose texts are empty."""

    hardware: str = ""
    operating_system: str = ""
    application: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """Where packets were captured. They refer to it by its position in the section, from 0."""

    name: str = ""
    description: str = ""
    linktype: int = LINKTYPE_ETHERNET
    frame_bytes_max: int = 0
    """What the capture kept of each packet at most; 0: all of it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A captured frame. ``wire_bytes`` is its length before the capture cut it."""

    interface: int
    time_ns: int | None
    """Since 1970-01-01 UTC; None where the format has no place for it (pcapng's simple packet)."""
    frame: bytes
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an interface had seen when its capture ended. None: not said."""

    interface: int
    time_ns: int
    start_ns: int | None = None
    end_ns: int | None = None
    received_packets: int | None = None
    dropped_packets: int | None = None
    """For want of resources, before they reached the file."""
    delivered_packets: int | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Other:
    """A pcapng block that is none of the above: name resolution, secrets, a vendor's own."""

    block_type: int


Block = Section | Interface | Packet | Statistics | Other

"""VXLAN datagrams, RFC 7348 section 5: eight bytes of header, then an Ethernet frame. No I/O."""

from dataclasses import dataclass
from enum import Enum
from typing import Self

PORT = 4789
HEADER_BYTES = 8
FRAME_BYTES_MIN = 1  # a session's packet length may cut the Ethernet header too (spec facts 22 and 76)
VNI_MAX = (1 << 24) - 1

_VNI_PRESENT = 0x08  # the I flag


class Reason(Enum):
    """Why a datagram is no VXLAN."""

    TOO_SHORT = "too short"
    NO_VNI = "I flag not set"


class Malformed(ValueError):
    """The datagram is no VXLAN; ``reason`` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """A frame and the VXLAN network identifier it travels under."""

    vni: int
    frame: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.vni <= VNI_MAX:
            raise ValueError(f"VNI {self.vni} does not fit into 24 bits")

    @classmethod
    def decode(cls, datagram: bytes) -> Self:
        """The payload of a UDP datagram. Raises `Malformed`.

        RFC 7348 section 5: the I flag MUST be set, and reserved bits MUST be ignored on receipt.
        """
        if len(datagram) < HEADER_BYTES + FRAME_BYTES_MIN:
            raise Malformed(Reason.TOO_SHORT)
        if not datagram[0] & _VNI_PRESENT:
            raise Malformed(Reason.NO_VNI)
        return cls(int.from_bytes(datagram[4:7], "big"), datagram[HEADER_BYTES:])

    def encode(self) -> bytes:
        """The payload of a UDP datagram, reserved bits zero."""
        return bytes((_VNI_PRESENT, 0, 0, 0)) + self.vni.to_bytes(3, "big") + b"\x00" + self.frame

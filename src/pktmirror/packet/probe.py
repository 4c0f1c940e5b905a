"""The frame of a probe, byte by byte. No I/O. `docs/reference/probe.md` says the same for whoever takes one apart.

It is an ordinary UDP datagram in IPv4, for any collector to dissect, between addresses that no host has. The token
stands as early as it can: a session's packet length may cut what is behind it.
"""

import struct

from pktmirror.model.probe import TOKEN_BYTES
from pktmirror.packet.checksum import internet_checksum

# RFC 7042 section 2.1.2, RFC 5737, RFC 863: addresses for documentation, and the port of who discards what he gets
_MACS = bytes.fromhex("00005e005302 00005e005301")
_SOURCE, _DESTINATION = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
_PORT = 9
_ETHERTYPE_IPV4, _VERSION_IHL, _DONT_FRAGMENT, _TTL, _UDP = 0x0800, 0x45, 0x4000, 64, 17
_TEXT = b"pktmirror probe "
_SESSION_ID_BYTES = 21  # tms- and 17 digits
_UDP_BYTES = 8 + TOKEN_BYTES + 8 + len(_TEXT) + _SESSION_ID_BYTES


def _head() -> bytes:
    """Ethernet, IPv4, and UDP but for its checksum: the same in every probe."""
    ip = struct.pack("!BBHHHBBH", _VERSION_IHL, 0, 20 + _UDP_BYTES, 0, _DONT_FRAGMENT, _TTL, _UDP, 0)
    ip += _SOURCE + _DESTINATION
    ip = ip[:10] + internet_checksum(ip).to_bytes(2) + ip[12:]
    return _MACS + _ETHERTYPE_IPV4.to_bytes(2) + ip + struct.pack("!HHH", _PORT, _PORT, _UDP_BYTES)


_HEAD = _head()
_TOKEN_AT = len(_HEAD) + 2
RECOGNISED_BYTES = _TOKEN_AT + TOKEN_BYTES
"""How much of a probe must arrive to be known as one."""
FRAME_BYTES = len(_HEAD) - 6 + _UDP_BYTES


def frame(token: bytes, sent_at_ns: int, session_id: str) -> bytes:
    """A probe of a session; ValueError where the token or the id is not as long as they are."""
    text = _TEXT + session_id.encode("ascii")
    if len(token) != TOKEN_BYTES or len(text) != len(_TEXT) + _SESSION_ID_BYTES:
        raise ValueError(f"no probe can be made of a token of {len(token)} bytes and the session {session_id!r}")
    payload = token + sent_at_ns.to_bytes(8) + text
    pseudo = _SOURCE + _DESTINATION + struct.pack("!BBH", 0, _UDP, _UDP_BYTES)  # RFC 768
    checksum = internet_checksum(pseudo + _HEAD[-6:] + b"\0\0" + payload) or 0xFFFF
    return _HEAD + checksum.to_bytes(2) + payload


def token_in(frame_: bytes) -> bytes | None:
    """The token of what looks like a probe, whole or cut; None for any other frame."""
    if not frame_.startswith(_HEAD) or not RECOGNISED_BYTES <= len(frame_) <= FRAME_BYTES:
        return None
    return frame_[_TOKEN_AT:RECOGNISED_BYTES]

"""Frames made byte by byte, so that the tests of the parser do not lean on another parser's builder."""

import struct
from ipaddress import ip_address

IPV4, IPV6 = 0x0800, 0x86DD
HOP, ROUTING, FRAGMENT, ESP, AH, NO_NEXT, DESTINATION, MOBILITY = 0, 43, 44, 50, 51, 59, 60, 135
CLIENT, SERVER = "10.0.0.6", "10.0.0.48"
CLIENT6, SERVER6 = "fd00::6", "fd00::48"


def ethernet(payload: bytes, ethertype: int, *tags: tuple[int, int]) -> bytes:
    """``tags``: (TPID, TCI) pairs, outermost first."""
    shim = b"".join(struct.pack("!HH", tpid, tci) for tpid, tci in tags)
    return bytes.fromhex("020000000002 020000000001") + shim + struct.pack("!H", ethertype) + payload


def ipv4(
    payload: bytes,
    protocol: int,
    *,
    source: str = CLIENT,
    destination: str = SERVER,
    options: bytes = b"",
    more: bool = False,
    offset_bytes: int = 0,
    dont: bool = False,
    total_bytes: int | None = None,
) -> bytes:
    header_bytes = 20 + len(options)
    return (
        struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | header_bytes // 4,
            0,
            header_bytes + len(payload) if total_bytes is None else total_bytes,
            0x1234,
            (dont << 14) | (more << 13) | offset_bytes // 8,
            64,
            protocol,
            0,
            ip_address(source).packed,
            ip_address(destination).packed,
        )
        + options
        + payload
    )


def ipv6(payload: bytes, next_header: int, *, source: str = CLIENT6, destination: str = SERVER6) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64)
    return head + ip_address(source).packed + ip_address(destination).packed + payload


def options_header(next_header: int, length_field: int = 0) -> bytes:
    """Hop-by-hop, routing, destination options or mobility: (length_field + 1) * 8 bytes."""
    return bytes((next_header, length_field)) + bytes((length_field + 1) * 8 - 2)


def authentication_header(next_header: int, length_field: int = 4) -> bytes:
    return bytes((next_header, length_field)) + bytes((length_field + 2) * 4 - 2)


def fragment_header(next_header: int, *, offset_bytes: int = 0, more: bool = False) -> bytes:
    return struct.pack("!BBHI", next_header, 0, offset_bytes | more, 7)


def tcp(source_port: int = 40000, destination_port: int = 22, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 0, 5 << 4, 2, 65535, 0, 0) + payload


def udp(source_port: int = 40000, destination_port: int = 53, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload

"""The captures at hand: the published ones, and one of our own that is always there."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Interface, Packet, Section
from tests.unit.packet import frames

REPOSITORY = Path(__file__).resolve().parents[2]


def directory() -> Path:
    return Path(os.environ.get("PKTMIRROR_CAPTURES") or REPOSITORY.parent / "shared" / "captures")


def published() -> list[Path]:
    """Sorted by name; empty where the folder is absent."""
    return sorted(path for path in directory().glob("*") if path.suffix in (".pcap", ".pcapng", ".cap"))


def write_capture(path: Path, captured: Iterable[bytes]) -> Path:
    """A pcapng of the frames, uncut."""
    return write_packets(path, [Packet(0, None, frame, len(frame)) for frame in captured])


def write_packets(path: Path, packets: Iterable[Packet]) -> Path:
    """A pcapng of the packets, cut where they are, on one interface and a millisecond apart."""
    blocks = [pcapng.section_header(Section()), pcapng.interface_description(Interface("test"))]
    blocks += [
        pcapng.enhanced_packet(replace(packet, interface=0, time_ns=10**18 + number * 10**6))
        for number, packet in enumerate(packets)
    ]
    path.write_bytes(b"".join(blocks))
    return path


def home_made() -> list[bytes]:
    """Frames of each kind that the parser tells apart."""
    tcp, udp, ping = frames.tcp(payload=b"hello"), frames.udp(payload=b"hello"), b"\x08\x00" + bytes(6)
    chains = [
        (b"", 6),
        (frames.options_header(6), frames.HOP),
        (frames.options_header(frames.DESTINATION) + frames.options_header(6, 1), frames.HOP),
        (frames.authentication_header(6), frames.AH),
        (frames.fragment_header(6), frames.FRAGMENT),
        (frames.fragment_header(6, more=True), frames.FRAGMENT),
        (frames.fragment_header(6, offset_bytes=64), frames.FRAGMENT),
    ]
    packets4 = [
        frames.ipv4(tcp, 6),
        frames.ipv4(udp, 17, options=b"\x01" * 8),
        frames.ipv4(ping, 1),
        frames.ipv4(tcp, 6, more=True),
        frames.ipv4(tcp, 6, offset_bytes=64),
        frames.ipv4(bytes(20), 253),
    ]
    packets6 = [frames.ipv6(chain + tcp, first) for chain, first in chains]
    udp6 = udp[:6] + b"\x12\x34" + udp[8:]  # over IPv6 a zero checksum is not the absence of one
    packets6 += [frames.ipv6(udp6, 17), frames.ipv6(b"\x80\x00" + bytes(6), 58)]
    tags = [(), ((0x8100, 7),), ((0x88A8, 7), (0x8100, 9))]
    made = [frames.ethernet(packet, frames.IPV4, *tag) for packet in packets4 for tag in tags]
    made += [frames.ethernet(packet, frames.IPV6, *tag) for packet in packets6 for tag in tags]
    return [*made, *with_right_checksums(), frames.ethernet(bytes(28), 0x0806)]


def with_right_checksums() -> list[bytes]:
    """By scapy, which is not our code."""
    four, six = IP(src=frames.CLIENT, dst=frames.SERVER), IPv6(src=frames.CLIENT6, dst=frames.SERVER6)
    packets = [
        (four / TCP() / b"hello", frames.IPV4),
        (four / UDP() / b"odd", frames.IPV4),
        (four / ICMP() / b"ping", frames.IPV4),
        (six / TCP() / b"hello", frames.IPV6),
        (six / UDP() / b"odd", frames.IPV6),
        (six / ICMPv6EchoRequest(data=b"ping"), frames.IPV6),
    ]
    return [frames.ethernet(bytes(packet), ethertype) for packet, ethertype in packets]

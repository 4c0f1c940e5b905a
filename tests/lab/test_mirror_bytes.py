"""Production packets are as they are without a mirror, and copies are the originals byte for byte (spec fact 74)."""

import socket
import struct
from collections.abc import Callable, Sequence

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.packet.headers import ETHERTYPE_IPV6, NotParsed, parse
from tests.lab.mirror import WITHIN_S, Mirror, Session
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]


def kinds_of_frames(source: Ether, ip: IP, ipv6: IPv6) -> list[bytes]:
    """One or more of everything that IP can look like, in one direction."""
    datagram = Raw(bytes(range(256)) * 12)
    packets: list[Packet] = [
        ip / TCP(sport=40000, dport=8080, flags="PA", options=[("Timestamp", (1, 2))]) / Raw(b"hello"),
        ip / TCP(sport=40000, dport=8080, flags="S"),
        ip / UDP(sport=40000, dport=9999) / Raw(b"x" * 1472),
        ip / UDP(sport=40000, dport=9999) / Raw(b""),
        ip / ICMP(type=13) / Raw(b"timestamp"),
        ip.__class__(**{**ip.fields, "proto": 253}) / Raw(b"RFC 3692 experiments"),
        ip.__class__(**{**ip.fields, "proto": 132}) / Raw(struct.pack("!HHII", 2905, 2905, 1, 0) + b"SCTP-like"),
        ip.__class__(**{**ip.fields, "tos": 0xB8, "flags": "DF", "id": 7, "ttl": 3}) / UDP(dport=9) / Raw(b"marked"),
        ip.__class__(**{**ip.fields, "options": [IPOption_RR(routers=["0.0.0.0"] * 3)]}) / UDP(dport=9) / Raw(b"o"),
        ip / UDP(sport=1, dport=9, chksum=0xBAD) / Raw(b"a wrong checksum stays wrong"),
        *fragment(ip.__class__(**{**ip.fields, "id": 77}) / UDP(sport=40000, dport=9) / datagram, fragsize=1400),
        ipv6 / TCP(sport=40000, dport=8080, flags="PA") / Raw(b"hello"),
        ipv6 / UDP(sport=40000, dport=9999) / Raw(b"x" * 1452),
        ipv6 / ICMPv6EchoRequest(data=b"echo"),
        ipv6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / UDP(dport=9) / Raw(b"extended"),
        *fragment6(ipv6 / IPv6ExtHdrFragment(id=5) / UDP(sport=40000, dport=9) / datagram, 1400),
    ]
    frames = [bytes(source / packet) for packet in packets]
    frames.append(bytes(source / Dot1Q(vlan=100, prio=5) / ip / UDP(dport=9) / Raw(b"tagged")))
    frames.append(bytes(source / Dot1Q(vlan=100) / ip / UDP(dport=9) / Raw(b"x" * 1472)))
    frames.append(bytes(source / Dot1AD(vlan=7) / Dot1Q(vlan=8) / ipv6 / UDP(dport=9) / Raw(b"tagged twice")))
    frames.append(bytes(source / ip / TCP(dport=8080, flags="A")).ljust(60, b"\xee"))  # Ethernet padding
    return frames


def frames_between(mirror: Mirror, source: str, destination: str) -> list[bytes]:
    return kinds_of_frames(
        Ether(src=mirror.mac(source), dst=mirror.mac(destination)),
        IP(src=mirror.address(source), dst=mirror.address(destination)),
        IPv6(src=mirror.address6(source), dst=mirror.address6(destination)),
    )


def delivered(mirror: Mirror, frames: Sequence[bytes], source: str, destination: str) -> list[bytes]:
    """What arrives at the destination of the frames that the source sends."""
    with mirror.tap(destination) as tap:
        mirror.send(source, frames)
        wait_until(
            lambda: len(tap.received(of_sender(mirror, source))) >= len(frames),
            WITHIN_S,
            lambda: f"{len(tap.received())} of {len(frames)} frames arrived",
        )
        return tap.received(of_sender(mirror, source))


def of_sender(mirror: Mirror, place: str) -> Callable[[bytes], bool]:
    """Frames that the place sent, without the ARP and neighbour discovery that its kernel adds."""
    mac = bytes.fromhex(mirror.mac(place).replace(":", ""))
    return lambda frame: frame[6:12] == mac and not is_of_neighbours(frame)


def is_of_neighbours(frame: bytes) -> bool:
    headers = parse(frame)
    if isinstance(headers, NotParsed):
        return True
    return headers.ethertype == ETHERTYPE_IPV6 and headers.icmp_type in (*range(130, 138), 143)


@pytest.mark.fact(74)
@pytest.mark.parametrize("packet_bytes_max", [None, 20])
@pytest.mark.parametrize("direction", Direction)
def test_production_is_the_same_with_and_without_a_mirror_and_copies_are_the_originals(
    lab: Build, direction: Direction, packet_bytes_max: int | None
) -> None:
    source, destination = ("web", "client") if direction is Direction.EGRESS else ("client", "web")
    with Mirror(lab(VPC)) as mirror:
        frames = frames_between(mirror, source, destination)
        assert delivered(mirror, frames, source, destination) == frames
        mirror.mirror({"web": [Session("monitor", packet_bytes_max=packet_bytes_max)]})
        assert delivered(mirror, frames, source, destination) == frames
        mirror.wait_for_seen("web", direction, len(frames))
        copies = [copy.frame for copy in mirror.collector("monitor").copies()]
        sent = bytes.fromhex(mirror.mac(source).replace(":", ""))  # some are answered
        assert [copy for copy in copies if copy[6:12] == sent] == [frame[:packet_bytes_max] for frame in frames]
        assert mirror.stages("web", direction) == {Stage.SENT: len(frames)}
        assert mirror.outcomes("web", direction)[InterfaceOutcome.TAKEN] == len(frames)


@pytest.mark.fact(74, 81)
@pytest.mark.parametrize("family", [4, 6])
def test_an_ordinary_session_of_sockets_is_copied_byte_for_byte_in_both_directions(lab: Build, family: int) -> None:
    with Mirror(lab(VPC)) as mirror:
        address = mirror.address("web") if family == 4 else mirror.address6("web")
        mirror.mirror({"web": [Session("monitor")]})
        with mirror.tap("web") as tap:
            conversation(mirror, address)
            is_conversation = of_family(family)

            def originals() -> list[bytes]:
                return [each.completed for each in tap.read() if is_conversation(each.frame)]

            def copies() -> list[bytes]:
                return [copy.frame for copy in mirror.collector("monitor").copies() if is_conversation(copy.frame)]

            wait_until(lambda: len(copies()) >= len(originals()) > 12, WITHIN_S, "not all of it is mirrored")
            mirror.assert_everything_adds_up()
            for place in ("web", "client"):
                sent = of_sender(mirror, place)
                assert [copy for copy in copies() if sent(copy)] == [frame for frame in originals() if sent(frame)]
            assert len(copies()) == len(originals())


def of_family(family: int) -> Callable[[bytes], bool]:
    def wanted(frame: bytes) -> bool:
        headers = parse(frame)
        return not isinstance(headers, NotParsed) and headers.source.version == family and not is_of_neighbours(frame)

    return wanted


def conversation(mirror: Mirror, address: str) -> None:
    """TCP with some data each way and its end, UDP there and back."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client, web = mirror.inside("client"), mirror.inside("web")
    with web.run(socket.socket, family) as listener:
        listener.bind((address, 8080))
        listener.listen()
        with client.run(socket.create_connection, (address, 8080), WITHIN_S) as connection:
            served, _ = listener.accept()
            with served:
                connection.sendall(b"a question")
                assert served.recv(100) == b"a question"
                served.sendall(b"an answer")
                assert connection.recv(100) == b"an answer"
    with (
        web.run(socket.socket, family, socket.SOCK_DGRAM) as server,
        client.run(socket.socket, family, socket.SOCK_DGRAM) as asker,
    ):
        server.settimeout(WITHIN_S)
        asker.settimeout(WITHIN_S)
        server.bind((address, 9999))
        for number in range(3):
            asker.sendto(bytes([number]) * 100, (address, 9999))
            question, sender = server.recvfrom(200)
            server.sendto(question[::-1], sender)
            asker.recvfrom(200)

"""The outer headers of a copy (spec 1.12, facts 70 to 75)."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Stage
from pktmirror.packet.checksum import internet_checksum
from pktmirror.packet.headers import Headers, outer_source_port, parse
from tests.lab.arrivals import Copy
from tests.lab.mirror import Mirror, Session
from tests.lab.topologies import VPC

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

VNI = 0xABCDEF
FLOWS = 64
CLIENT, SOURCE = "192.0.2.6", "192.0.2.48"  # nobody's, so that nobody answers
CLIENT6, SOURCE6 = "2001:db8:ff::6", "2001:db8:ff::48"


@pytest.fixture
def mirror(lab: Build) -> Iterator[Mirror]:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", vni=VNI)]})
        yield mirror


@dataclass(frozen=True, slots=True)
class Ends:
    """Frames between the client and the source, by their MAC addresses."""

    mirror: Mirror

    def inbound(self, packet: Packet) -> bytes:
        return bytes(Ether(src=self.mirror.mac("client"), dst=self.mirror.mac("web")) / packet)

    def outbound(self, packet: Packet) -> bytes:
        return bytes(Ether(src=self.mirror.mac("web"), dst=self.mirror.mac("client")) / packet)


def copies_of(mirror: Mirror, inbound: list[bytes], outbound: list[bytes]) -> tuple[list[Copy], list[Copy]]:
    """The copies of frames that the source receives, and of those that it sends."""
    mirror.send("client", inbound)
    mirror.wait_for_seen("web", Direction.INGRESS, len(inbound))
    mirror.send("web", outbound)
    copies = mirror.wait_for_copies("monitor", len(inbound) + len(outbound))
    assert [copy.frame for copy in copies] == inbound + outbound
    for direction, frames in ((Direction.INGRESS, inbound), (Direction.EGRESS, outbound)):
        assert mirror.stages("web", direction) == ({Stage.SENT: len(frames)} if frames else {})
    return copies[: len(inbound)], copies[len(inbound) :]


@pytest.mark.fact(70, 71, 73, 75)
def test_every_field_of_the_outer_headers_is_as_aws_sends_it(mirror: Mirror) -> None:
    ends = Ends(mirror)
    question = IP(src=CLIENT, dst=SOURCE, tos=0xFF, id=4711, flags="DF", ttl=3) / UDP(sport=5, dport=9) / Raw(b"hello")
    answer = IP(src=SOURCE, dst=CLIENT, tos=0xB8, id=815, flags="DF", ttl=1) / UDP(sport=9, dport=5) / Raw(b"hi")
    inbound, outbound = copies_of(mirror, [ends.inbound(question)], [ends.outbound(answer)])
    for copy in inbound + outbound:
        outer = copy.outer
        assert outer[:6].hex(":") == mirror.mac("monitor")
        ip, udp, vxlan = outer[14:34], outer[34:42], outer[42:50]
        total_bytes = len(outer) - 14
        assert ip[:1] == b"\x45"
        assert ip[1] == 0, "TOS is 0, not the inner packet's"
        assert struct.unpack("!HHH", ip[2:8]) == (total_bytes, 0, 0), "ID 0, DF clear, not a fragment"
        assert ip[8:10] == bytes((255, 17)), "TTL and protocol"
        assert internet_checksum(ip) == 0
        assert ip[12:16] == bytes((10, 0, 0, 48)), "the source's primary address, whatever the packet's own are"
        assert ip[16:20] == bytes((10, 0, 0, 90))
        assert struct.unpack("!HHH", udp[2:]) == (4789, total_bytes - 20, 0), "port, length, no checksum"
        assert vxlan == b"\x08\x00\x00\x00" + VNI.to_bytes(3) + b"\x00"
        inner_total_bytes = int.from_bytes(copy.frame[16:18])
        assert total_bytes - inner_total_bytes == 50


def test_the_tos_and_priority_that_a_sender_asks_of_its_kernel_stay_inside(mirror: Mirror) -> None:
    frame = Ends(mirror).outbound(IP(src=SOURCE, dst=CLIENT, tos=0xE0) / UDP(dport=9) / Raw(b"urgent"))
    mirror.send("web", [frame], priority=7)
    [copy] = mirror.wait_for_copies("monitor", 1)
    assert (copy.outer[15], copy.frame[15]) == (0, 0xE0)
    assert copy.frame == frame


@pytest.mark.fact(72)
def test_a_flow_has_one_outer_port_in_both_directions_and_flows_have_many(mirror: Mirror) -> None:
    ends = Ends(mirror)
    inbound = [ends.inbound(packet) for packet in flows(CLIENT, SOURCE, CLIENT6, SOURCE6, reverse=False)]
    outbound = [ends.outbound(packet) for packet in flows(SOURCE, CLIENT, SOURCE6, CLIENT6, reverse=True)]
    questions, answers = copies_of(mirror, inbound * 2, outbound * 2)
    ports = [copy.source_port for copy in questions]
    assert ports == [copy.source_port for copy in answers]
    assert ports[: len(inbound)] == ports[len(inbound) :], "constant per flow"
    assert all(65408 <= port <= 65535 for port in ports)
    assert len(set(ports[:FLOWS])) >= 20, "of 128 ports 64 flows hit about 50"
    assert ports == [port_by_the_model(copy) for copy in questions]


def flows(source: str, destination: str, source6: str, destination6: str, *, reverse: bool) -> list[Packet]:
    """FLOWS connections of TCP, then one flow each of whatever else."""
    ip, ip6 = IP(src=source, dst=destination), IPv6(src=source6, dst=destination6)

    def ports(client: int, server: int) -> dict[str, int]:
        return {"sport": server, "dport": client} if reverse else {"sport": client, "dport": server}

    return [
        *(ip / TCP(**ports(40000 + number, 443), flags="A") for number in range(FLOWS)),
        ip / UDP(**ports(40000, 9)) / Raw(b"x"),
        ip / ICMP(type=0 if reverse else 8),
        IP(src=source, dst=destination, proto=253) / Raw(b"x"),
        ip6 / TCP(**ports(40000, 443), flags="A"),
        ip6 / UDP(**ports(40000, 9)) / Raw(b"x"),
        ip6 / ICMPv6EchoRequest(),
        IPv6(src=source6, dst=destination6, nh=253) / Raw(b"x"),
    ]


def test_all_fragments_of_a_datagram_share_one_port(mirror: Mirror) -> None:
    ends = Ends(mirror)
    long = UDP(sport=40000, dport=9) / Raw(b"x" * 5000)
    frames4 = [ends.outbound(part) for part in fragment(IP(src=SOURCE, dst=CLIENT, id=5) / long, 1400)]
    frames6 = [
        ends.outbound(part)
        for part in fragment6(IPv6(src=SOURCE6, dst=CLIENT6) / IPv6ExtHdrFragment(id=5) / long, 1400)
    ]
    assert (len(frames4), len(frames6)) == (4, 4)
    _, copies = copies_of(mirror, [], frames4 + frames6)
    assert [len({copy.source_port for copy in part}) for part in (copies[:4], copies[4:])] == [1, 1]
    assert [copy.source_port for copy in copies] == [port_by_the_model(copy) for copy in copies]


def port_by_the_model(copy: Copy) -> int:
    headers = parse(copy.frame)
    assert isinstance(headers, Headers)
    return outer_source_port(headers)

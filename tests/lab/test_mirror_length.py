"""How much of a packet a copy shows: the session's packet length and the target's MTU (spec 1.8, facts 76 to 79)."""

from collections.abc import Callable
from ipaddress import IPv4Address

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from pktmirror.lab import Instance, Lab, Topology
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Stage
from tests.lab.arrivals import Copy
from tests.lab.mirror import Mirror, Session
from tests.lab.topologies import VPC

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

CLIENT, SOURCE = "192.0.2.6", "192.0.2.48"  # nobody's, so that nobody answers
CLIENT6, SOURCE6 = "2001:db8:ff::6", "2001:db8:ff::48"
LENGTHS = (1, 13, 14, 17, 18, 19, 20, 25, 33, 34, 35, 54, 55, 60, 100, 128, 129, 1500, 8500)


def packets() -> dict[str, Packet]:
    ip, ip6 = IP(src=SOURCE, dst=CLIENT), IPv6(src=SOURCE6, dst=CLIENT6)
    options = [("Timestamp", (1, 2)), ("MSS", 1460)]
    long = Raw(bytes(range(256)) * 5)
    return {
        "TCP": ip / TCP(sport=40000, dport=80, flags="PA", options=options) / long,
        "UDP": ip / UDP(sport=40000, dport=9) / long,
        "ICMP": ip / ICMP() / long,
        "a short one": ip / UDP(sport=40000, dport=9) / Raw(b"x"),
        "nothing behind the header": IP(src=SOURCE, dst=CLIENT, proto=253),
        "the largest": ip / UDP(sport=40000, dport=9) / Raw(b"x" * 1472),
        "IPv6 TCP": ip6 / TCP(sport=40000, dport=80, flags="PA", options=options) / long,
        "IPv6 UDP": ip6 / UDP(sport=40000, dport=9) / long,
        "ICMPv6": ip6 / ICMPv6EchoRequest(data=bytes(500)),
        "tagged": Dot1Q(vlan=100, prio=3) / ip / UDP(sport=40000, dport=9) / long,
        "tagged IPv6": Dot1Q(vlan=100) / ip6 / TCP(sport=40000, dport=9) / long,
        "tagged twice": Dot1AD(vlan=7) / Dot1Q(vlan=8) / ip / UDP(sport=40000, dport=9) / long,
    }


def outbound(mirror: Mirror, packet: Packet) -> bytes:
    return bytes(Ether(src=mirror.mac("web"), dst=mirror.mac("client")) / packet)


@pytest.mark.fact(76)
@pytest.mark.parametrize("direction", Direction)
def test_a_copy_is_the_first_bytes_of_the_frame_as_many_as_the_session_says(lab: Build, direction: Direction) -> None:
    with Mirror(lab(VPC)) as mirror:
        source, destination = ("web", "client") if direction is Direction.EGRESS else ("client", "web")
        ether = Ether(src=mirror.mac(source), dst=mirror.mac(destination))
        frames = {kind: bytes(ether / packet) for kind, packet in packets().items()}
        total = 0
        for length in LENGTHS:
            mirror.mirror({"web": [Session("monitor", packet_bytes_max=length)]})
            mirror.send(source, list(frames.values()))
            total += len(frames)
            copies = mirror.wait_for_copies("monitor", total)[-len(frames) :]
            for (kind, frame), copy in zip(frames.items(), copies, strict=True):
                assert (length, kind, copy.frame) == (length, kind, frame[:length])
                assert_the_outer_lengths_are_right(copy)
        assert mirror.stages("web", direction) == {Stage.SENT: total}, "none is cut to the MTU, none fails"


def assert_the_outer_lengths_are_right(copy: Copy) -> None:
    total_bytes = len(copy.outer) - 14
    assert int.from_bytes(copy.outer[16:18]) == total_bytes
    assert int.from_bytes(copy.outer[38:40]) == total_bytes - 20


@pytest.mark.fact(77)
def test_35_bytes_are_the_ethernet_and_ipv4_headers_and_one_byte(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", packet_bytes_max=35)]})
        frame = outbound(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(sport=0xABCD, dport=9) / Raw(b"x" * 100))
        mirror.send("web", [frame])
        [copy] = mirror.wait_for_copies("monitor", 1)
        assert copy.frame == frame[: 14 + 20] + b"\xab"
        assert len(copy.outer) == 50 + 35


@pytest.mark.fact(76)
def test_the_lengths_inside_a_cut_copy_are_the_originals(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", packet_bytes_max=100)]})
        frame = outbound(mirror, packets()["the largest"])
        mirror.send("web", [frame])
        [copy] = mirror.wait_for_copies("monitor", 1)
        assert len(copy.frame) == 100
        assert int.from_bytes(copy.frame[16:18]) == 1500
        assert copy.frame[38:42] == frame[38:42], "UDP length and checksum"


def with_mtus(source: int, target: int) -> Topology:
    web, monitor = VPC.instance("web"), VPC.instance("monitor")
    others = tuple(each for each in VPC.instances if each not in (web, monitor))
    instances = (
        *others,
        Instance("web", "a", web.address, mtu=source, ipv6_address=web.ipv6_address),
        Instance("monitor", "a", IPv4Address(monitor.address), mtu=target, ipv6_address=monitor.ipv6_address),
    )
    return msgspec.structs.replace(VPC, instances=instances)


@pytest.mark.fact(78)
def test_what_the_targets_mtu_does_not_hold_is_cut_and_counted_and_not_fragmented(lab: Build) -> None:
    with Mirror(lab(with_mtus(1500, 1500))) as mirror:
        mirror.mirror({"web": [Session("monitor")]})
        frames = [outbound(mirror, packet) for packet in packets().values()]
        longest = IP(src=SOURCE, dst=CLIENT) / UDP(sport=40000, dport=9) / Raw(b"x" * 1422)
        just_fits, one_too_long = outbound(mirror, longest), outbound(mirror, longest / Raw(b"y"))
        assert len(just_fits) == 1464
        frames += [just_fits, one_too_long]
        mirror.send("web", frames)
        copies = mirror.wait_for_copies("monitor", len(frames))
        room = 1500 - 36
        assert [copy.frame for copy in copies] == [frame[:room] for frame in frames]
        assert max(len(copy.outer) for copy in copies) == 1514
        too_long = [frame for frame in frames if len(frame) > room]
        assert len(too_long) == 2
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: len(frames), Stage.CUT: len(too_long)}
        ledger = mirror.ledger("web")[Direction.EGRESS]
        assert ledger.stage(Stage.SENT).bytes == sum(len(copy.frame) for copy in copies)


def test_the_sessions_packet_length_below_the_mtu_is_not_counted_as_cut(lab: Build) -> None:
    with Mirror(lab(with_mtus(1500, 1500))) as mirror:
        mirror.mirror({"web": [Session("monitor", packet_bytes_max=1464)]})
        mirror.send("web", [outbound(mirror, packets()["the largest"])])
        [copy] = mirror.wait_for_copies("monitor", 1)
        assert len(copy.frame) == 1464
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: 1}


@pytest.mark.fact(79)
@pytest.mark.parametrize(("family", "headroom"), [(4, 54), (6, 74)])
def test_by_the_mtu_that_aws_advises_nothing_is_cut(lab: Build, family: int, headroom: int) -> None:
    with Mirror(lab(with_mtus(1500 - headroom, 1500))) as mirror:
        mirror.mirror({"web": [Session("monitor")]})
        if family == 4:
            packet = IP(src=SOURCE, dst=CLIENT) / UDP(dport=9) / Raw(b"x" * (1500 - headroom - 28))
        else:
            packet = IPv6(src=SOURCE6, dst=CLIENT6) / UDP(dport=9) / Raw(b"x" * (1500 - headroom - 48))
        frames = [
            bytes(Ether(src=mirror.mac("web"), dst=mirror.mac("client")) / tag) for tag in (packet, Dot1Q() / packet)
        ]
        mirror.send("web", frames)
        copies = mirror.wait_for_copies("monitor", 2)
        assert [copy.frame for copy in copies] == frames
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: 2}


def test_a_cut_within_a_long_chain_of_extension_headers_is_exact_or_counted_as_failed(lab: Build) -> None:
    padding = [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(252))]) for _ in range(4)]
    chain = IPv6(src=SOURCE6, dst=CLIENT6) / padding[0] / padding[1] / padding[2] / padding[3]
    with Mirror(lab(VPC)) as mirror:
        frame = outbound(mirror, chain / UDP(dport=9) / Raw(b"x" * 100))
        assert len(frame) > 1000
        arrived = 0
        for length in (20, 54, 55, 128, 129, 300, 1000, len(frame) - 10, len(frame)):
            mirror.mirror({"web": [Session("monitor", packet_bytes_max=length)]})
            before = mirror.stages("web", Direction.EGRESS)
            mirror.send("web", [frame])
            mirror.wait_for_seen("web", Direction.EGRESS, sum(before.values()) + 1)
            after = mirror.stages("web", Direction.EGRESS)
            copies = mirror.collector("monitor").copies()[arrived:]
            arrived += len(copies)
            if copies:
                assert [copy.frame for copy in copies] == [frame[:length]]
            else:
                failed = before.get(Stage.ENCAPSULATION_FAILED, 0) + 1
                assert after == {**before, Stage.ENCAPSULATION_FAILED: failed}
        assert arrived >= 6

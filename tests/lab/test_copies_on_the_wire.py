"""Copies that come by on the wire, and the errors about them (decisions 5.17 and 5.19)."""

import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw

from pktmirror.desired import Underlay
from pktmirror.lab import Instance, Lab, Topology
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.model.underlay import OuterSource
from pktmirror.packet.headers import ICMP, Headers, parse
from tests.lab.arrivals import Tap
from tests.lab.mirror import WITHIN_S, Mirror, Session
from tests.lab.test_mirror_sessions import ACROSS_HOSTS, TWO_TARGETS, arrived, outbound, sent, tcp, udp
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

TWO_HOSTS = Topology(
    name="x",
    cidr=ACROSS_HOSTS.cidr,
    hosts=ACROSS_HOSTS.hosts,
    subnets=ACROSS_HOSTS.subnets,
    instances=(*ACROSS_HOSTS.instances, Instance("other", "b", IPv4Address("10.0.1.91"))),
)

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def errors(tap: Tap) -> list[bytes]:
    return tap.received(lambda frame: isinstance(read := parse(frame), Headers) and read.protocol == ICMP)


def vxlan(source: str, target: str, *, vni: int, port: int = 4789, flags: int = 8) -> Packet:
    header = bytes((flags, 0, 0, 0)) + vni.to_bytes(3) + bytes(1)
    return IP(src=source, dst=target) / UDP(sport=65408, dport=port, chksum=0) / Raw(header + b"a frame of somebody")


def say_vxlan(mirror: Mirror, speaker: str, listener: str, *, vni: int) -> bytes:
    """What a guest sends that makes VXLAN itself; its datagram."""
    datagram = bytes((8, 0, 0, 0)) + vni.to_bytes(3) + bytes(61)
    with mirror.inside(speaker).run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as speaking:
        speaking.sendto(datagram, (mirror.address(listener), 4789))
    return datagram


def test_the_errors_of_a_target_without_a_listener_do_not_reach_the_source(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.tap("web") as at_source, mirror.tap("second") as at_target:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address("second"))]})
        frames = sent(mirror, tcp(), tcp(22))
        mirror.wait_for_seen("web", INGRESS, 2)  # the kernel answers the first few at once, and then by the second
        assert errors(at_source) == []
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.TARGET_REFUSED] == 2
        assert mirror.stages("web", INGRESS) == {Stage.TARGET_REFUSED: 2}
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 2}
        copies = at_target.received(lambda frame: frame[50:] in frames)
        assert len(copies) == 2, "the errors themselves are not mirrored"


def test_the_errors_about_what_the_source_sent_itself_reach_it_and_are_mirrored(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.tap("web") as at_source:
        mirror.mirror({"web": [Session("first")]})
        with mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.sendto(bytes((8, 0, 0, 0)) + (7).to_bytes(3) + bytes(61), (mirror.address("second"), 4789))
        wait_until(lambda: len(errors(at_source)) == 1, WITHIN_S, "the error does not arrive")
        mirror.wait_for_seen("web", INGRESS, 1)
        assert InterfaceOutcome.TARGET_REFUSED not in mirror.outcomes("web", INGRESS)
        assert errors(at_source)[0] in [copy.frame for copy in mirror.collector("first").copies()]


@pytest.mark.fact(68)
def test_copies_from_another_host_are_not_mirrored_again(lab: Build) -> None:
    with Mirror(lab(TWO_HOSTS)) as mirror:
        mirror.unheard.add(9)
        mirror.mirror({"web": [Session("monitor", vni=1)], "monitor": [Session("other", vni=2)]})
        frames = sent(mirror, tcp(), udp())
        assert [copy.frame for copy in mirror.collector("monitor").copies(1)] == frames
        assert arrived(mirror, "other") == []
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2
        own_vxlan = say_vxlan(mirror, "client", "monitor", vni=9)
        [copy] = mirror.wait_for_copies("other", 1)
        assert copy.frame.endswith(own_vxlan)
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2


def test_copies_whose_outer_source_is_another_hosts_own_are_not_mirrored_again(lab: Build) -> None:
    with Mirror(lab(TWO_HOSTS)) as mirror:
        mirror.underlay = Underlay(outer_source=OuterSource.HOST)
        sources = {"web": [Session("monitor", vni=1)], "monitor": [Session("other", vni=2)]}
        mirror.mirror(sources)  # the agent says which address of its host it uses,
        mirror.mirror(sources)  # and the others are told
        frames = sent(mirror, tcp(), udp())
        assert [copy.frame for copy in mirror.collector("monitor").copies(1)] == frames
        assert arrived(mirror, "other") == []
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2


@pytest.mark.fact(68)
def test_two_hosts_that_mirror_to_each_other_make_no_loop(lab: Build) -> None:
    with Mirror(lab(TWO_HOSTS)) as mirror:
        mirror.unheard.add(9)
        mirror.mirror({"web": [Session("monitor", vni=1)], "monitor": [Session("web", vni=2)]})
        of_web = sent(mirror, tcp(), udp())
        of_monitor = outbound(mirror, tcp(22), source="monitor", destination="other")
        mirror.send("monitor", of_monitor)
        assert [copy.frame for copy in mirror.wait_for_copies("web", 1)] == of_monitor
        assert [copy.frame for copy in mirror.wait_for_copies("monitor", 2)] == of_web
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.OWN_COPY] == 1
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2
        own_vxlan = say_vxlan(mirror, "web", "monitor", vni=9)  # as it leaves the one, and as it reaches the other
        [copy] = [copy for copy in mirror.wait_for_copies("monitor", 4) if copy.vni == 1][2:]
        assert copy.frame.endswith(own_vxlan)
        assert mirror.wait_for_copies("web", 2)[1].frame.endswith(own_vxlan)


@pytest.mark.fact(68)
def test_a_source_that_is_its_own_target_makes_no_loop(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.unheard.add(9)
        mirror.mirror({"web": [Session("web", vni=1)]})
        frames = sent(mirror, tcp(), udp())
        assert [copy.frame for copy in mirror.wait_for_copies("web", 2)] == frames
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.OWN_COPY] == 2
        own_vxlan = say_vxlan(mirror, "client", "web", vni=9)
        assert mirror.wait_for_copies("web", 4)[3].frame.endswith(own_vxlan)
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.OWN_COPY] == 3


def test_what_looks_like_a_copy_but_for_one_part_is_ordinary_traffic(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.unheard |= {1, 9}
        mirror.mirror({"web": [Session("first", vni=1)], "second": [Session("client", vni=2)]})
        source, target = mirror.address("web"), mirror.address("first")
        ordinary = [
            vxlan(source, target, vni=9),
            vxlan(source, target, vni=1, port=4790),
            vxlan(source, target, vni=1, flags=0),
            vxlan(mirror.address("client"), target, vni=1),
            vxlan(source, mirror.address("client"), vni=1),
        ]
        frames = outbound(mirror, vxlan(source, target, vni=1), *ordinary, source="client", destination="second")
        mirror.send("client", frames)
        mirror.wait_for_seen("second", INGRESS, len(frames))
        assert [copy.frame for copy in mirror.collector("client").copies(2)] == frames[1:]
        assert mirror.outcomes("second", INGRESS)[InterfaceOutcome.OWN_COPY] == 1

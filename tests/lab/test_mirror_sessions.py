"""Which packets arrive at which target (facts 51 to 55, 60 to 64, 67, 68; decisions 5.1, 5.11, 5.20)."""

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from pktmirror.lab import Host, Instance, Lab, Subnet, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP as PROTOCOL_TCP
from pktmirror.model.filter import UDP as PROTOCOL_UDP
from pktmirror.model.filter import Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceOutcome, Stage
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

NOBODY, NOBODY6 = "192.0.2.6", "2001:db8:ff::6"  # so that nobody answers
ELSEWHERE, ELSEWHERE6 = "192.0.2.48", "2001:db8:ff::48"
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
EVERYONE = ip_network("0.0.0.0/0")

TWO_TARGETS = Topology(
    name="x",
    cidr=IPv4Network("10.0.0.0/16"),
    subnets=(Subnet("a", IPv4Network("10.0.0.0/24"), mtu=9001),),
    instances=(
        Instance("client", "a", IPv4Address("10.0.0.6"), mtu=1500),
        Instance("web", "a", IPv4Address("10.0.0.48"), mtu=1500),
        Instance("first", "a", IPv4Address("10.0.0.90")),
        Instance("second", "a", IPv4Address("10.0.0.91")),
    ),
)

ACROSS_HOSTS = Topology(
    name="x",
    cidr=IPv4Network("10.0.0.0/16"),
    hosts=(Host("east"), Host("west")),
    subnets=(
        Subnet("a", IPv4Network("10.0.0.0/24"), "east", mtu=9001),
        Subnet("b", IPv4Network("10.0.1.0/24"), "west", mtu=9001),
    ),
    instances=(
        Instance("client", "a", IPv4Address("10.0.0.6"), mtu=1500),
        Instance("web", "a", IPv4Address("10.0.0.48"), mtu=1500),
        Instance("monitor", "b", IPv4Address("10.0.1.90")),
    ),
)


def outbound(mirror: Mirror, *packets: Packet, source: str = "web", destination: str = "client") -> list[bytes]:
    ether = Ether(src=mirror.mac(source), dst=mirror.mac(destination))
    return [bytes(ether / packet) for packet in packets]


def tcp(port: int = 80, **fields: int) -> Packet:
    return IP(src=ELSEWHERE, dst=NOBODY) / TCP(sport=fields.get("sport", 40000), dport=port, flags="A") / Raw(b"tcp")


def udp(port: int = 9, source: str = ELSEWHERE, destination: str = NOBODY) -> Packet:
    return IP(src=source, dst=destination) / UDP(sport=40000, dport=port) / Raw(b"udp")


def icmp() -> Packet:
    return IP(src=ELSEWHERE, dst=NOBODY) / ICMP(type=0)


def sent(mirror: Mirror, *packets: Packet, place: str = "web", to: str = "client") -> list[bytes]:
    """The frames, once they are sent and the ledger is at rest."""
    frames = outbound(mirror, *packets, source=place, destination=to)
    before = mirror.seen("web", EGRESS if place == "web" else INGRESS)
    mirror.send(place, frames)
    mirror.wait_for_seen("web", EGRESS if place == "web" else INGRESS, before + len(frames))
    return frames


def arrived(mirror: Mirror, target: str) -> list[bytes]:
    return [copy.frame for copy in mirror.collector(target).copies()]


@pytest.mark.parametrize(
    ("filter_", "taken"),
    [
        pytest.param(Filter(), [], id="an empty filter mirrors nothing", marks=pytest.mark.fact(51)),
        pytest.param(
            accepting(directions=[INGRESS]),
            ["in"],
            id="only ingress rules mirror no egress",
            marks=pytest.mark.fact(52),
        ),
        pytest.param(
            accepting(directions=[EGRESS], families=[4]),
            ["22", "80", "443", "u", "i"],
            id="not IPv6",
            marks=pytest.mark.fact(54),
        ),
        pytest.param(
            accepting(directions=[EGRESS]),
            ["22", "80", "443", "u", "i", "6"],
            id="and IPv6 by ::/0",
            marks=pytest.mark.fact(54, 55),
        ),
        pytest.param(
            accepting(PROTOCOL_TCP, directions=[EGRESS]),
            ["22", "80", "443", "6"],
            id="TCP only",
            marks=pytest.mark.fact(55),
        ),
        pytest.param(
            accepting(PROTOCOL_TCP, directions=[EGRESS], families=[4], to_ports=PortRange(22, 80)),
            ["22", "80"],
            id="ports from first to last",
            marks=pytest.mark.fact(56),
        ),
        pytest.param(
            Filter(
                (
                    Rule(10, EGRESS, Action.REJECT, EVERYONE, EVERYONE, PROTOCOL_TCP, None, PortRange(22, 22)),
                    Rule(20, EGRESS, Action.ACCEPT, EVERYONE, EVERYONE, PROTOCOL_TCP),
                )
            ),
            ["80", "443"],
            id="a reject before an accept",
            marks=pytest.mark.fact(53),
        ),
    ],
)
def test_a_filter_decides_what_arrives(lab: Build, filter_: Filter, taken: list[str]) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", filter=filter_)]})
        kinds = {
            "22": tcp(22),
            "80": tcp(80),
            "443": tcp(443),
            "u": udp(),
            "i": icmp(),
            "6": IPv6(src=ELSEWHERE6, dst=NOBODY6) / TCP(dport=80),
        }
        frames = dict(zip(kinds, sent(mirror, *kinds.values()), strict=True))
        [frames["in"]] = sent(mirror, udp(), place="client", to="web")
        assert arrived(mirror, "first") == [frames[kind] for kind in taken]
        outcomes = mirror.outcomes("web", EGRESS)
        egress = len([kind for kind in taken if kind != "in"])
        assert (outcomes.get(InterfaceOutcome.TAKEN, 0), sum(outcomes.values())) == (egress, len(kinds))


@pytest.mark.fact(60)
def test_tcp_goes_to_one_target_and_udp_to_another_and_nothing_twice(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        by_protocol = [
            Session("first", filter=accepting(PROTOCOL_TCP), number=1, vni=1),
            Session("second", filter=accepting(PROTOCOL_UDP), number=2, vni=2),
        ]
        mirror.mirror({"web": by_protocol})
        frames = sent(mirror, tcp(), udp(), icmp(), tcp(443), udp(53))
        assert arrived(mirror, "first") == [frames[0], frames[3]]
        assert arrived(mirror, "second") == [frames[1], frames[4]]
        assert mirror.outcomes("web", EGRESS) == {InterfaceOutcome.TAKEN: 4, InterfaceOutcome.NOT_TAKEN: 1}
        assert mirror.verdicts("web", EGRESS, 1) == {Verdict.TAKEN: 2, Verdict.NO_RULE_MATCHED: 3}
        assert mirror.verdicts("web", EGRESS, 2) == {Verdict.TAKEN: 2, Verdict.NO_RULE_MATCHED: 1}


@pytest.mark.fact(61, 63)
def test_of_two_sessions_that_accept_all_the_lower_number_takes_all_and_a_swap_swaps_them(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", number=1, vni=1), Session("second", number=2, vni=2)]})
        before = sent(mirror, tcp(), udp())
        assert (arrived(mirror, "first"), arrived(mirror, "second")) == (before, [])
        mirror.mirror({"web": [Session("first", number=2, vni=1), Session("second", number=1, vni=2)]})
        after = sent(mirror, tcp(81), udp(10))
        assert (arrived(mirror, "first"), arrived(mirror, "second")) == (before, after)
        assert mirror.stages("web", EGRESS, 1) == {Stage.SENT: 2}, "the ledger of a session goes on"
        assert mirror.stages("web", EGRESS, 2) == {Stage.SENT: 2}


@pytest.mark.fact(62)
def test_what_the_first_session_rejects_is_offered_to_the_second(lab: Build) -> None:
    reject = Filter((Rule(1, EGRESS, Action.REJECT, EVERYONE, EVERYONE, PROTOCOL_TCP),))
    with Mirror(lab(TWO_TARGETS)) as mirror:
        sessions = [Session("first", filter=reject, number=1, vni=1), Session("second", number=2, vni=2)]
        mirror.mirror({"web": sessions})
        frames = sent(mirror, tcp(), udp())
        assert (arrived(mirror, "first"), arrived(mirror, "second")) == ([], frames)
        assert mirror.verdicts("web", EGRESS, 1) == {Verdict.REJECTED_BY_RULE: 1, Verdict.NO_RULE_MATCHED: 1}
        assert mirror.verdicts("web", EGRESS, 2) == {Verdict.TAKEN: 2}


@pytest.mark.fact(64)
def test_when_both_ends_are_mirrored_there_are_two_copies_from_two_outer_sources(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", vni=1)], "client": [Session("first", vni=2)]})
        frames = sent(mirror, tcp(), udp())
        copies = mirror.wait_for_copies("first", 4)
        by_source = {
            vni: [copy.frame for copy in copies if (copy.vni, str(copy.outer_source)) == (vni, source)]
            for vni, source in ((1, "10.0.0.48"), (2, "10.0.0.6"))
        }
        assert by_source == {1: frames, 2: frames}
        assert mirror.stages("client", INGRESS, 2) == {Stage.SENT: 2}


def test_a_change_of_the_filter_affects_an_open_connection_at_once(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.inside("web").run(socket.socket) as listener:
        listener.bind((mirror.address("web"), 8080))
        listener.listen()
        address = (mirror.address("web"), 8080)
        with mirror.inside("client").run(socket.create_connection, address, WITHIN_S) as client:
            served, _ = listener.accept()
            with served:
                for word, filter_, is_mirrored in (
                    (b"before", Filter(), False),
                    (b"during", accepting(PROTOCOL_TCP), True),
                    (b"after!", accepting(PROTOCOL_UDP), False),
                ):
                    mirror.mirror({"web": [Session("first", filter=filter_)]})
                    client.sendall(word)
                    assert served.recv(10) == word
                    served.sendall(word.upper())
                    assert client.recv(10) == word.upper()
                    if is_mirrored:
                        wait_until(lambda: has(mirror, b"during") and has(mirror, b"DURING"), WITHIN_S, "no copy")
                    mirror.assert_everything_adds_up()
                    assert (has(mirror, word), has(mirror, word.upper())) == (is_mirrored, is_mirrored)


def has(mirror: Mirror, word: bytes) -> bool:
    return any(frame.endswith(word) for frame in arrived(mirror, "first"))


@pytest.mark.fact(67)
def test_arp_dhcp_and_the_instances_services_are_never_mirrored(lab: Build) -> None:
    never = [
        ARP(psrc=ELSEWHERE, pdst=NOBODY),
        IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP(),
        IP(src=ELSEWHERE, dst="169.254.169.254") / TCP(dport=80, flags="S"),
        IP(src=ELSEWHERE, dst="169.254.169.123") / UDP(sport=123, dport=123) / Raw(bytes(48)),
        IP(src=ELSEWHERE, dst="169.254.169.250") / TCP(dport=1688, flags="S"),
        IP(src=ELSEWHERE, dst="169.254.169.251") / TCP(dport=1688, flags="S"),
    ]
    mirrored = [
        IP(src=ELSEWHERE, dst=NOBODY) / UDP(sport=123, dport=123) / Raw(bytes(48)),
        IP(src=ELSEWHERE, dst="169.254.169.250") / TCP(dport=80, flags="S"),
        tcp(1688),
    ]
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first")]})
        frames = sent(mirror, *never, *mirrored)
        assert arrived(mirror, "first") == frames[len(never) :]
        outcomes = {InterfaceOutcome.NEVER_MIRRORED: len(never), InterfaceOutcome.TAKEN: len(mirrored)}
        assert mirror.outcomes("web", EGRESS) == outcomes


def test_what_is_no_ip_packet_is_counted_and_not_mirrored(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first")]})
        ends = outbound(mirror, Raw(b""))[0][:12]
        broken = ends + b"\x08\x00" + b"\x4f" + bytes(30)
        frames = [ends + b"\x88\xb5" + b"experimental", broken, *outbound(mirror, tcp())]
        mirror.send("web", frames)
        mirror.wait_for_seen("web", EGRESS, 3)
        assert arrived(mirror, "first") == frames[2:]
        outcomes = {InterfaceOutcome.NOT_IP: 1, InterfaceOutcome.MALFORMED: 1, InterfaceOutcome.TAKEN: 1}
        assert mirror.outcomes("web", EGRESS) == outcomes


@pytest.mark.fact(68)
def test_copies_are_not_mirrored_again_when_their_target_is_a_source(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.send("client", outbound(mirror, udp(), source="client", destination="web"))
        with mirror.tap("client") as tap:  # now the bridge knows the client, and floods nothing for it
            mirror.send("web", outbound(mirror, udp()))
            wait_until(tap.read, WITHIN_S, "the client is not reached")
        mirror.mirror({"web": [Session("first", vni=1)], "first": [Session("second", vni=2)]})
        frames = sent(mirror, tcp(), udp())
        own_vxlan = outbound(mirror, udp(4789), source="client", destination="first")  # a guest's own: ordinary traffic
        mirror.send("client", own_vxlan)
        mirror.wait_for_seen("first", INGRESS, 3)
        assert [copy.frame for copy in mirror.collector("first").copies(1)] == frames
        assert arrived(mirror, "second") == own_vxlan
        outcomes = mirror.outcomes("first", INGRESS)
        assert outcomes.pop(InterfaceOutcome.NEVER_MIRRORED, 0) <= 2, "ARP between the host and its guest"
        assert outcomes == {InterfaceOutcome.OWN_COPY: 2, InterfaceOutcome.TAKEN: 1}


def test_frames_that_the_bridge_floods_for_others_are_not_mirrored(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first")]})
        stranger = bytes(Ether(src=mirror.mac("client"), dst="0a:00:00:00:00:99") / udp())
        to_all = [
            bytes(Ether(src=mirror.mac("client"), dst=mac) / udp(9, ELSEWHERE, address))
            for mac, address in (("ff:ff:ff:ff:ff:ff", "255.255.255.255"), ("01:00:5e:00:00:fb", "224.0.0.251"))
        ]
        [to_web] = outbound(mirror, udp(), source="client", destination="web")
        mirror.send("client", [stranger, *to_all, to_web])
        mirror.wait_for_seen("web", INGRESS, 4)
        assert arrived(mirror, "first") == [*to_all, to_web]
        outcomes = mirror.outcomes("web", INGRESS)
        assert outcomes.pop(InterfaceOutcome.NEVER_MIRRORED, 0) <= 1, "the host's ARP for the target"
        assert outcomes == {InterfaceOutcome.NOT_FOR_THIS_INTERFACE: 1, InterfaceOutcome.TAKEN: 3}


def test_a_copy_is_routed_to_a_target_in_another_subnet_on_another_host(lab: Build) -> None:
    with Mirror(lab(ACROSS_HOSTS)) as mirror:
        mirror.mirror({"web": [Session("monitor")]})
        frames = sent(mirror, tcp(), udp(), IP(src=ELSEWHERE, dst=NOBODY, proto=253) / Raw(b"x" * 1480))
        copies = mirror.wait_for_copies("monitor", len(frames))
        assert [copy.frame for copy in copies] == frames
        assert {copy.outer[22] for copy in copies} == {254}, "one router lies between: TTL 255 less one"
        assert mirror.stages("web", EGRESS) == {Stage.SENT: len(frames)}

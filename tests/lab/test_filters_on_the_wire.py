"""What filters mean, with real packets: ports, addresses, and the service amazon-dns (facts 56 to 59)."""

from collections.abc import Callable
from ipaddress import IPv4Network, ip_network

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Packet, Raw

from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP as PROTOCOL_TCP
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from tests.lab.mirror import Mirror, Session, accepting
from tests.lab.test_mirror_sessions import ELSEWHERE, NOBODY, TWO_TARGETS, arrived, sent

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
RESOLVER, OTHER_RESOLVER = "10.0.0.2", "198.51.100.53"
ANYWHERE = ip_network("0.0.0.0/0")
DNS = frozenset({NetworkService.AMAZON_DNS})


def tcp(source_port: int, destination_port: int) -> Packet:
    ports = TCP(sport=source_port, dport=destination_port, flags="A")
    return IP(src=ELSEWHERE, dst=NOBODY) / ports / Raw(b"x")


@pytest.mark.fact(56)
def test_a_port_range_holds_both_its_ends_and_both_ranges_must_match(lab: Build) -> None:
    rule = Rule(
        1, EGRESS, Action.ACCEPT, ANYWHERE, ANYWHERE, PROTOCOL_TCP, PortRange(40000, 40010), PortRange(1000, 2000)
    )
    ends = [(40000, 1000), (40000, 2000), (40010, 1000), (40010, 2000), (40005, 1500)]
    beyond = [(39999, 1500), (40011, 1500), (40005, 999), (40005, 2001), (1500, 40005)]
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", filter=Filter((rule,)))]})
        frames = sent(mirror, *(tcp(*ports) for ports in (*ends, *beyond)))
        assert arrived(mirror, "first") == frames[: len(ends)]
        assert mirror.verdicts("web", EGRESS) == {Verdict.TAKEN: len(ends), Verdict.NO_RULE_MATCHED: len(beyond)}


@pytest.mark.fact(57)
def test_the_networks_of_a_rule_are_the_packets_own_source_and_destination_in_both_directions(lab: Build) -> None:
    here, there = IPv4Network(f"{ELSEWHERE}/32"), IPv4Network(f"{NOBODY}/32")
    rules = (
        Rule(1, EGRESS, Action.ACCEPT, here, there),  # sent by the source
        Rule(1, INGRESS, Action.ACCEPT, here, there),  # received by it, and still from `here` to `there`
    )
    forth, back = IP(src=ELSEWHERE, dst=NOBODY) / UDP(dport=9), IP(src=NOBODY, dst=ELSEWHERE) / UDP(dport=9)
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", filter=Filter(rules))]})
        outbound = sent(mirror, forth, back)
        inbound = sent(mirror, forth, back, place="client", to="web")
        assert arrived(mirror, "first") == [outbound[0], inbound[0]]


def dns(server: str, transport: type[Packet] = UDP) -> tuple[Packet, Packet]:
    """A question of the source, and the answer."""
    question = IP(src=ELSEWHERE, dst=server) / transport(sport=40000, dport=53) / Raw(b"question")
    answer = IP(src=server, dst=ELSEWHERE) / transport(sport=53, dport=40000) / Raw(b"answer")
    return question, answer


def ask(mirror: Mirror, server: str, transport: type[Packet] = UDP) -> list[bytes]:
    question, answer = dns(server, transport)
    return [*sent(mirror, question), *sent(mirror, answer, place="client", to="web")]


@pytest.mark.fact(58)
@pytest.mark.parametrize("transport", [UDP, TCP], ids=["UDP", "TCP"])
def test_questions_to_the_vpcs_resolver_and_answers_are_mirrored_by_the_service_and_by_nothing_else(
    lab: Build, transport: type[Packet]
) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", filter=accepting())]}, resolvers=[RESOLVER])
        ask(mirror, RESOLVER, transport)
        assert arrived(mirror, "first") == [], "an accept of everything does not hold for it"
        assert [mirror.verdicts("web", direction) for direction in (EGRESS, INGRESS)] == [
            {Verdict.SERVICE_NOT_ENABLED: 1}
        ] * 2
        mirror.mirror({"web": [Session("first", filter=Filter((), DNS))]}, resolvers=[RESOLVER])
        frames = ask(mirror, RESOLVER, transport)
        assert arrived(mirror, "first") == frames, "without any rule"
        rejecting = Rule(1, EGRESS, Action.REJECT, ANYWHERE, ANYWHERE)
        mirror.mirror({"web": [Session("first", filter=Filter((rejecting,), DNS))]}, resolvers=[RESOLVER])
        assert arrived(mirror, "first")[2:] == [] != (frames := ask(mirror, RESOLVER, transport))
        assert arrived(mirror, "first")[2:] == frames, "no rule can veto it"


@pytest.mark.fact(59)
def test_dns_with_any_other_resolver_follows_the_rules(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", filter=Filter((), DNS))]}, resolvers=[RESOLVER])
        ask(mirror, OTHER_RESOLVER)
        assert arrived(mirror, "first") == []
        mirror.mirror({"web": [Session("first", filter=accepting())]}, resolvers=[RESOLVER])
        frames = ask(mirror, OTHER_RESOLVER)
        assert arrived(mirror, "first") == frames

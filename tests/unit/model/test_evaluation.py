"""Which packets a session takes: the testable facts 51 to 62 and 67 of the spec, at the level of the decision.

Each fact names the packet that must be taken and, below it, the one that must not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from pktmirror.model.evaluation import Candidate, Surroundings, Verdict, evaluate
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
IN, OUT = Direction.INGRESS, Direction.EGRESS
ACCEPT, REJECT = Action.ACCEPT, Action.REJECT
RESOLVER, OTHER_RESOLVER = "10.0.0.2", "192.0.2.53"


@dataclass(frozen=True)
class Seen:
    """A packet; has the shape of `model.evaluation.Packet`."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None


def packet(
    protocol: int,
    source_port: int | None = None,
    destination_port: int | None = None,
    *,
    source: str = "10.0.0.6",
    destination: str = "10.0.0.48",
    icmp_type: int | None = None,
) -> Seen:
    return Seen(ip_address(source), ip_address(destination), protocol, source_port, destination_port, icmp_type)


def tcp(
    destination_port: int = 80, source_port: int = 40000, source: str = "10.0.0.6", destination: str = "10.0.0.48"
) -> Seen:
    return packet(TCP, source_port, destination_port, source=source, destination=destination)


def udp(
    destination_port: int = 9999, source_port: int = 40000, source: str = "10.0.0.6", destination: str = "10.0.0.48"
) -> Seen:
    return packet(UDP, source_port, destination_port, source=source, destination=destination)


def rule(
    number: int = 1,
    direction: Direction = IN,
    action: Action = ACCEPT,
    *,
    source: str = "0.0.0.0/0",
    destination: str | None = None,
    protocol: int | None = None,
    source_ports: tuple[int, int] | None = None,
    ports: tuple[int, int] | None = None,
) -> Rule:
    networks = ip_network(source), ip_network(destination or ("::/0" if ":" in source else "0.0.0.0/0"))
    ranges = [None if each is None else PortRange(*each) for each in (source_ports, ports)]
    return Rule(number, direction, action, *networks, protocol, *ranges)


DNS = frozenset({NetworkService.AMAZON_DNS})
EVERYTHING = (rule(1), rule(2, source="::/0"), rule(1, OUT), rule(2, OUT, source="::/0"))
SURROUNDINGS = Surroundings(NEVER_MIRRORED, frozenset({ip_address(RESOLVER), ip_address("fd00::2")}))


def verdicts(seen: Seen, direction: Direction, *filters: Filter) -> list[Verdict]:
    """What the sessions 1, 2, … say that were offered the packet."""
    candidates = [Candidate(f"tms-{number}", number, filter_) for number, filter_ in enumerate(filters, start=1)]
    outcome = evaluate(seen, direction, candidates, SURROUNDINGS)
    assert [offer.session_id for offer in outcome.offers] == [f"tms-{i}" for i in range(1, len(outcome.offers) + 1)]
    return [offer.decision.verdict for offer in outcome.offers]


def takes(
    rules: Sequence[Rule], seen: Seen, direction: Direction = IN, services: frozenset[NetworkService] = frozenset()
) -> bool:
    return verdicts(seen, direction, Filter(tuple(rules), services)) == [Verdict.TAKEN]


@pytest.mark.parametrize(
    "seen", [tcp(), udp(), packet(ICMP, icmp_type=8), tcp(source="fd00::6", destination="fd00::48")]
)
@pytest.mark.parametrize("direction", Direction)
def test_fact_51_an_empty_filter_takes_nothing_in_either_direction(seen: Seen, direction: Direction) -> None:
    assert takes(EVERYTHING, seen, direction)
    assert not takes((), seen, direction)
    assert verdicts(seen, direction, Filter()) == [Verdict.NO_RULE_MATCHED]


def test_fact_52_ingress_rules_alone_take_no_egress_packet() -> None:
    assert takes([rule()], tcp(), IN)
    assert not takes([rule()], tcp(), OUT)


def test_fact_53_a_reject_with_a_lower_number_goes_before_an_accept() -> None:
    rules = [rule(20, protocol=TCP), rule(10, action=REJECT, protocol=TCP, ports=(22, 22))]
    assert takes(rules, tcp(80))
    assert not takes(rules, tcp(22))
    assert verdicts(tcp(22), IN, Filter(tuple(rules))) == [Verdict.REJECTED_BY_RULE]


def test_fact_53_and_an_accept_with_a_lower_number_before_a_reject() -> None:
    rules = [rule(10, protocol=TCP), rule(20, action=REJECT, protocol=TCP, ports=(22, 22))]
    assert takes(rules, tcp(22))
    assert not takes(rules, udp(22))


def test_fact_54_an_ipv4_rule_takes_no_ipv6_packet_and_an_ipv6_rule_does() -> None:
    ipv6 = tcp(source="fd00::6", destination="fd00::48")
    assert takes([rule(), rule(2, source="::/0")], ipv6)
    assert not takes([rule()], ipv6)
    assert not takes([rule(source="::/0")], tcp())


@pytest.mark.parametrize("seen", [udp(), packet(ICMP, icmp_type=8), packet(47), packet(SCTP, 5, 5)])
def test_fact_55_a_rule_for_tcp_ignores_the_others_and_one_without_protocol_takes_all(seen: Seen) -> None:
    assert takes([rule()], seen)
    assert takes([rule(protocol=TCP)], tcp())
    assert not takes([rule(protocol=TCP)], seen)


@pytest.mark.parametrize(("port", "taken"), [(1000, True), (1500, True), (2000, True), (999, False), (2001, False)])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_fact_56_a_port_range_holds_both_of_its_ends(protocol: int, port: int, taken: bool) -> None:
    assert takes([rule(protocol=protocol, ports=(1000, 2000))], packet(protocol, 7, port)) is taken
    assert takes([rule(protocol=protocol, source_ports=(1000, 2000))], packet(protocol, port, 7)) is taken


@pytest.mark.parametrize(
    ("source_port", "destination_port", "taken"),
    [(40000, 22, True), (40000, 23, False), (39999, 22, False), (22, 40000, False)],
)
def test_fact_56_both_port_ranges_must_match(source_port: int, destination_port: int, taken: bool) -> None:
    rules = [rule(protocol=TCP, source_ports=(40000, 50000), ports=(22, 22))]
    assert takes(rules, tcp(destination_port, source_port)) is taken


@pytest.mark.parametrize("direction", Direction)
def test_fact_57_the_networks_are_the_packets_own_source_and_destination(direction: Direction) -> None:
    rules = [rule(1, direction, source="10.0.0.6/32", destination="10.0.0.48/32")]
    assert takes(rules, tcp(source="10.0.0.6", destination="10.0.0.48"), direction)
    assert not takes(rules, tcp(source="10.0.0.48", destination="10.0.0.6"), direction)


@pytest.mark.parametrize("protocol", [UDP, TCP])
@pytest.mark.parametrize(
    ("direction", "ports", "addresses"),
    [(OUT, (40000, 53), ("10.0.0.48", RESOLVER)), (IN, (53, 40000), (RESOLVER, "10.0.0.48"))],
    ids=["query", "response"],
)
def test_fact_58_amazon_dns_is_taken_with_the_service_and_never_without(
    protocol: int, direction: Direction, ports: tuple[int, int], addresses: tuple[str, str]
) -> None:
    dns = packet(protocol, *ports, source=addresses[0], destination=addresses[1])
    assert takes((), dns, direction, DNS)
    assert takes((rule(1, direction, REJECT),), dns, direction, DNS)
    assert not takes(EVERYTHING, dns, direction)
    assert verdicts(dns, direction, Filter(EVERYTHING)) == [Verdict.SERVICE_NOT_ENABLED]


def test_fact_58_holds_for_later_fragments_of_an_answer_which_show_no_port() -> None:
    rest_of_answer = packet(UDP, source=RESOLVER)
    assert takes((), rest_of_answer, IN, DNS)
    assert not takes(EVERYTHING, rest_of_answer, IN)
    assert takes(EVERYTHING, replace(rest_of_answer, source=ip_address("10.0.0.3")), IN)


@pytest.mark.parametrize(
    "other",
    [
        udp(53, destination=OTHER_RESOLVER),
        udp(54, destination=RESOLVER),
        udp(40000, 53, destination=RESOLVER),
        packet(SCTP, 40000, 53, destination=RESOLVER),
    ],
    ids=["another resolver", "another port of the resolver", "port 53 at the other end", "another protocol"],
)
def test_fact_59_dns_to_any_other_resolver_follows_the_rules(other: Seen) -> None:
    assert takes(EVERYTHING, other, OUT)
    assert not takes((), other, OUT, DNS)


def test_fact_60_each_of_two_sessions_takes_its_own_and_nothing_is_taken_twice() -> None:
    filters = Filter((rule(protocol=TCP),)), Filter((rule(protocol=UDP),))
    assert verdicts(tcp(), IN, *filters) == [Verdict.TAKEN]
    assert verdicts(udp(), IN, *filters) == [Verdict.NO_RULE_MATCHED, Verdict.TAKEN]
    assert verdicts(packet(ICMP, icmp_type=8), IN, *filters) == [Verdict.NO_RULE_MATCHED] * 2


def test_fact_61_of_two_sessions_that_accept_everything_the_first_takes_it() -> None:
    assert verdicts(tcp(), IN, Filter(EVERYTHING), Filter(EVERYTHING)) == [Verdict.TAKEN]


def test_fact_61_the_first_is_the_one_with_the_lower_number_in_whatever_order_they_stand() -> None:
    candidates = [Candidate("tms-b", 20, Filter(EVERYTHING)), Candidate("tms-a", 3, Filter(EVERYTHING))]
    assert evaluate(tcp(), IN, candidates, SURROUNDINGS).taken_by == "tms-a"


def test_fact_62_what_the_first_session_rejects_goes_to_the_second() -> None:
    filters = Filter((rule(action=REJECT),)), Filter(EVERYTHING)
    assert verdicts(tcp(), IN, *filters) == [Verdict.REJECTED_BY_RULE, Verdict.TAKEN]
    assert verdicts(tcp(), IN, *reversed(filters)) == [Verdict.TAKEN]


@pytest.mark.parametrize(
    ("never", "neighbour"),
    [
        (udp(67, 68), udp(69, 66)),
        (udp(68, 67, source="10.0.0.1"), packet(TCP, 67, 68)),
        (
            udp(547, 546, source="fe80::1", destination="ff02::1:2"),
            udp(548, 545, source="fe80::1", destination="ff02::1:2"),
        ),
        (
            packet(ICMPV6, source="fe80::1", destination="ff02::1", icmp_type=135),
            packet(ICMPV6, source="fe80::1", destination="ff02::1", icmp_type=128),
        ),
        (tcp(80, destination="169.254.169.254"), tcp(80, destination="169.254.169.252")),
        (tcp(40000, 80, source="169.254.169.254"), tcp(40000, 80, source="169.254.169.252")),
        (
            tcp(80, source="fd00::6", destination="fd00:ec2::254"),
            tcp(80, source="fd00::6", destination="fd00:ec2::255"),
        ),
        (udp(123, destination="169.254.169.123"), udp(123, destination="192.0.2.123")),
        (tcp(1688, destination="169.254.169.250"), tcp(1689, destination="169.254.169.250")),
        (tcp(1688, destination="169.254.169.251"), udp(1688, destination="169.254.169.251")),
    ],
    ids=[
        "DHCP",
        "DHCP from the server",
        "DHCPv6",
        "neighbour discovery",
        "metadata",
        "from metadata",
        "metadata over IPv6",
        "time sync",
        "Windows activation",
        "Windows activation, the second host",
    ],
)
@pytest.mark.parametrize("direction", Direction)
def test_fact_67_what_is_never_mirrored_is_offered_to_no_session_and_its_neighbour_is(
    never: Seen, neighbour: Seen, direction: Direction
) -> None:
    assert takes(EVERYTHING, neighbour, direction)
    assert verdicts(never, direction, Filter(EVERYTHING, DNS)) == []
    assert evaluate(never, direction, [], SURROUNDINGS).excluded is not None


@pytest.mark.parametrize("seen", [packet(SCTP, 5, 80), packet(ICMP, icmp_type=8), packet(47)])
def test_port_ranges_count_for_tcp_and_udp_only(seen: Seen) -> None:
    """Spec 1.4.4."""
    assert takes([rule(ports=(22, 22))], seen)
    assert not takes([rule(ports=(22, 22))], tcp(80))


def test_no_port_range_matches_a_later_fragment_and_a_rule_without_ports_does() -> None:
    """Spec 5.8."""
    assert takes([rule(protocol=UDP)], packet(UDP))
    assert not takes([rule(protocol=UDP, ports=(0, 65535))], packet(UDP))


def test_a_rule_of_two_families_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="two families"):
        rule(source="10.0.0.0/8", destination="::/0")

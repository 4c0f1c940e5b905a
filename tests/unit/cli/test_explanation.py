"""What a command line can say of a packet, and what is explained of it."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pktmirror.cli.explanation import (
    DescribedPacket,
    Explanation,
    PlacedSession,
    conclusion,
    document,
    exclusion_text,
    explain,
    hint,
    packet,
    rule_text,
    verdict_text,
)
from pktmirror.model.evaluation import Surroundings
from pktmirror.model.exclusions import NEVER_MIRRORED, Exclusion
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.model.refusal import Refusal

SURROUNDINGS = Surroundings(NEVER_MIRRORED, frozenset({ip_address("10.0.0.2")}))
LOGIN = packet("tcp", "10.0.0.6:40000", "10.0.0.48:22")


def rule(number: int = 100, action: Action = Action.ACCEPT, **changed: Any) -> Rule:
    everything = ip_network("0.0.0.0/0")
    return Rule(number, Direction.INGRESS, action, everything, everything, **changed)


def placed(number: int, *rules: Rule, problem: str | None = None, services: Any = ()) -> PlacedSession:
    ids = {each: f"tmfr-{number}-{each.number}" for each in rules}
    return PlacedSession(f"tms-{number}", number, f"tmf-{number}", Filter(rules, frozenset(services)), ids, problem)


def explained(*sessions: PlacedSession, of: DescribedPacket = LOGIN) -> Explanation:
    return explain(of, Direction.INGRESS, sessions, SURROUNDINGS)


def said(explanation: Explanation) -> list[str]:
    return [
        f"#{step.session.number} {verdict_text(step, amazon_dns=explanation.amazon_dns)}" for step in explanation.steps
    ]


@pytest.mark.parametrize(
    ("words", "described"),
    [
        (("tcp", "10.0.0.6:40000", "10.0.0.48:22"), "tcp 10.0.0.6:40000 → 10.0.0.48:22"),
        (("UDP", "10.0.0.6:0", "10.0.0.48:65535"), "udp 10.0.0.6:0 → 10.0.0.48:65535"),
        (("17", "[2001:db8::1]:5", "[2001:db8::2]:6"), "udp [2001:db8::1]:5 → [2001:db8::2]:6"),
        (("icmp", "10.0.0.6", "10.0.0.48"), "icmp 10.0.0.6 → 10.0.0.48"),
        (("89", "2001:db8::1", "[2001:db8::2]"), "protocol 89 2001:db8::1 → 2001:db8::2"),
    ],
)
def test_words_describe_a_packet(words: tuple[str, str, str], described: str):
    assert str(packet(*words)) == described


def test_a_later_fragment_has_no_ports_and_an_icmp_message_a_type():
    assert str(packet("tcp", "10.0.0.6", "10.0.0.48", later_fragment=True)).endswith("a later fragment")
    assert packet("icmpv6", "2001:db8::1", "2001:db8::2", icmp_type=128).icmp_type == 128


@pytest.mark.parametrize(
    ("words", "more", "refused"),
    [
        (("smtp", "10.0.0.6:1", "10.0.0.48:2"), {}, "smtp is no protocol."),
        (("256", "10.0.0.6:1", "10.0.0.48:2"), {}, "256 is no protocol."),
        (("tcp", "10.0.0.256:1", "10.0.0.48:2"), {}, "10.0.0.256:1 is no address"),
        (("tcp", "10.0.0.6:", "10.0.0.48:2"), {}, "10.0.0.6: is no address"),
        (("tcp", "10.0.0.6:65536", "10.0.0.48:2"), {}, "10.0.0.6:65536 is no address"),
        (("tcp", "[10.0.0.6]:1", "10.0.0.48:2"), {}, "[10.0.0.6]:1 is no address"),
        (("tcp", "[fe80::1%eth0]:1", "[fe80::2]:2"), {}, "[fe80::1%eth0]:1 is no address"),
        (("tcp", "[2001:db8::1]22", "[2001:db8::2]:22"), {}, "[2001:db8::1]22 is no address"),
        (("tcp", "10.0.0.6:1", "[2001:db8::2]:22"), {}, "A packet has two addresses of one family."),
        (("tcp", "10.0.0.6:1", "10.0.0.48"), {}, "A packet of tcp has two ports."),
        (("gre", "10.0.0.6:1", "10.0.0.48"), {}, "A packet of gre has no ports"),
        (("udp", "10.0.0.6:1", "10.0.0.48:2"), {"later_fragment": True}, "A fragment other than the first shows"),
        (("tcp", "10.0.0.6:1", "10.0.0.48:2"), {"icmp_type": 8}, "A packet of tcp has no ICMP type."),
        (("icmp", "10.0.0.6", "10.0.0.4"), {"icmp_type": 8, "later_fragment": True}, "A fragment other than"),
        (("icmp", "2001:db8::1", "2001:db8::2"), {"icmp_type": 8}, "icmp does not go between"),
        (("icmpv6", "2001:db8::1", "2001:db8::2"), {}, "Whether ICMPv6 is mirrored depends on its type"),
    ],
)
def test_words_that_describe_no_packet_are_refused(words: tuple[str, str, str], more: dict[str, Any], refused: str):
    with pytest.raises(Refusal) as refusal:
        packet(*words, **more)
    assert refusal.value.what.startswith(refused)


def test_sessions_are_asked_by_number_until_one_takes_the_packet():
    explanation = explained(
        placed(30, rule()),
        placed(10, rule(5, Action.REJECT, protocol=6)),
        placed(40, rule()),
        placed(20, rule(protocol=17)),
    )
    assert said(explanation) == [
        "#10 rejected by rule: rule 5 (tmfr-10-5), reject tcp from 0.0.0.0/0 to 0.0.0.0/0",
        "#20 no rule matched",
        "#30 taken: rule 100 (tmfr-30-100), accept any protocol from 0.0.0.0/0 to 0.0.0.0/0",
        "#40 not asked: a session before it takes the packet",
    ]
    assert conclusion(explanation) == "Mirrored by tms-30."


def test_a_packet_that_no_session_takes_is_not_mirrored():
    assert conclusion(explained(placed(10, rule(protocol=17)))) == "Not mirrored: no session takes it."
    assert conclusion(explained()) == "Not mirrored: the interface has no session."


def test_a_packet_that_is_taken_by_a_session_with_a_problem_does_not_arrive():
    explanation = explained(placed(10, rule(), problem="target type not yet deliverable"))
    assert conclusion(explanation) == "Taken by tms-10, and does not arrive: target type not yet deliverable."
    assert document(explanation)["taken_by"] == "tms-10"
    assert document(explanation)["mirrored"] is False


def test_what_is_never_mirrored_is_offered_to_no_session():
    explanation = explained(placed(10, rule()), of=packet("udp", "0.0.0.0:68", "255.255.255.255:67"))
    assert explanation.steps == ()
    assert conclusion(explanation) == "Never mirrored, whatever the filters say: dhcp (udp, ports 67-68)."
    assert document(explanation)["never_mirrored"] == "dhcp"


def test_amazon_dns_is_decided_by_the_filters_services_and_not_by_its_rules():
    query = packet("udp", "10.0.0.48:40000", "10.0.0.2:53")
    explanation = explained(placed(10, rule()), placed(20, services=[NetworkService.AMAZON_DNS]), of=query)
    assert said(explanation) == [
        "#10 network service not enabled: Amazon DNS is decided before the rules, "
        "and the filter does not name amazon-dns",
        "#20 taken: Amazon DNS is decided before the rules, and the filter names it",
    ]


def test_the_document_has_each_session_with_its_verdict_and_rule():
    explanation = explained(placed(10, rule(5, Action.REJECT)), placed(20, rule()), placed(30, rule()))
    told = document(explanation)
    assert told["packet"] == "tcp 10.0.0.6:40000 → 10.0.0.48:22"
    assert told["direction"] == "ingress"
    assert told["mirrored"] is True
    assert told["never_mirrored"] is None
    assert [(one["session_id"], one["verdict"], one["rule_number"], one["rule_id"]) for one in told["sessions"]] == [
        ("tms-10", "rejected by rule", 5, "tmfr-10-5"),
        ("tms-20", "taken", 100, "tmfr-20-100"),
        ("tms-30", None, None, None),
    ]


@pytest.mark.parametrize(
    ("direction", "addresses", "says"),
    [
        pytest.param(Direction.INGRESS, ["10.0.0.48"], None, id="ingress to the interface"),
        pytest.param(Direction.EGRESS, ["10.0.0.6"], None, id="egress from the interface"),
        pytest.param(Direction.INGRESS, ["10.0.0.6"], "egress", id="what the interface sends is no ingress"),
        pytest.param(Direction.EGRESS, ["10.0.0.48"], "ingress", id="what the interface receives is no egress"),
        pytest.param(Direction.INGRESS, ["10.0.0.1"], None, id="a router has neither address"),
        pytest.param(Direction.INGRESS, ["10.0.0.6", "10.0.0.48"], None, id="both are its own"),
    ],
)
def test_a_direction_that_does_not_fit_the_packet_is_pointed_out(
    direction: Direction, addresses: list[str], says: str | None
):
    found = hint(explain(LOGIN, direction, [], SURROUNDINGS), addresses)
    assert found is None if says is None else found is not None and found.endswith(f"is {says}")


def test_a_rule_is_told_in_a_line():
    ports = {"source_ports": PortRange(1, 2), "destination_ports": PortRange(22, 22)}
    assert rule_text(rule(protocol=6, **ports)) == "accept tcp from 0.0.0.0/0 ports 1-2 to 0.0.0.0/0 port 22"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            Exclusion("neighbour discovery", None, 58, PortRange(133, 137)),
            "neighbour discovery (icmpv6, types 133-137)",
        ),
        (Exclusion("time sync", ip_address("fd00:ec2::123")), "time sync (to or from fd00:ec2::123)"),
        (Exclusion("everything"), "everything"),
    ],
)
def test_a_line_of_what_is_never_mirrored_is_told_in_words(line: Exclusion, text: str):
    assert exclusion_text(line) == text

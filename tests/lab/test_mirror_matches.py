"""What each rule matched, over real interfaces, through changes of rules and of agents. That the sums hold is asserted
with every ledger that comes to rest (tests/lab/mirror.py)."""

from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Packet, Raw

from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import UDP as PROTOCOL_UDP
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES
from tests.lab.mirror import Mirror, Session
from tests.lab.test_mirror_agent import PORT, assert_nothing_was_lost, streaming
from tests.lab.test_mirror_sessions import ELSEWHERE, EVERYONE, NOBODY, TWO_TARGETS, sent
from tests.lab.topologies import VPC

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
EGRESS, ACCEPT, REJECT = Direction.EGRESS, Action.ACCEPT, Action.REJECT


def rule(number: int, first: int, last: int, action: Action = ACCEPT) -> Rule:
    return Rule(number, EGRESS, action, EVERYONE, EVERYONE, PROTOCOL_UDP, None, PortRange(first, last))


def session(*rules: tuple[str, Rule], target: str = "monitor", **more: int) -> Session:
    filter_ = Filter(tuple(each for _, each in rules))
    return Session(target, filter=filter_, rule_ids=tuple(rule_id for rule_id, _ in rules), **more)  # type: ignore[arg-type]


def udp(*ports: int, destination: str = NOBODY) -> list[Packet]:
    return [IP(src=ELSEWHERE, dst=destination) / UDP(sport=40000, dport=port) / Raw(b"udp") for port in ports]


def test_a_rule_goes_on_under_its_id_when_it_is_changed_and_a_deleted_one_stays_in_the_sum(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        first = session(("tmfr-a", rule(10, 1, 1)), ("tmfr-b", rule(20, 2, 2, REJECT)), ("tmfr-c", rule(30, 3, 3)))
        mirror.mirror({"web": [first]})
        sent(mirror, *udp(1, 1, 1, 2, 2, 3, 4))
        assert mirror.matched("web") == {
            ("tmfr-a", EGRESS, ACCEPT): 3,
            ("tmfr-b", EGRESS, REJECT): 2,
            ("tmfr-c", EGRESS, ACCEPT): 1,
        }
        changed = session(("tmfr-d", rule(5, 4, 4)), ("tmfr-a", rule(40, 1, 2)), ("tmfr-c", rule(20, 3, 3, REJECT)))
        mirror.mirror({"web": [changed]})
        sent(mirror, *udp(1, 2, 3, 3, 4))
        assert mirror.matched("web") == {
            ("tmfr-a", EGRESS, ACCEPT): 5,
            ("tmfr-c", EGRESS, REJECT): 2,
            ("tmfr-d", EGRESS, ACCEPT): 1,
            (FORMER_RULES, EGRESS, ACCEPT): 1,
            (FORMER_RULES, EGRESS, REJECT): 2,
        }


def test_the_next_agent_goes_on_with_the_figures_of_each_rule(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [session(("tmfr-a", rule(10, 1, 1)))]})
        sent(mirror, *udp(1, 1))
        agent.stop()
        sent_by_nobody_s_leave = udp(1)
        agent.start()
        sent(mirror, *sent_by_nobody_s_leave)
        assert mirror.matched("web") == {("tmfr-a", EGRESS, ACCEPT): 3}
        agent.stop()
        agent.start()
        mirror.mirror({"web": [session(("tmfr-b", rule(10, 1, 1)), ("tmfr-a", rule(9, 2, 2)))]})
        sent(mirror, *udp(1, 2))
        assert mirror.matched("web") == {("tmfr-a", EGRESS, ACCEPT): 4, ("tmfr-b", EGRESS, ACCEPT): 1}


def test_each_session_that_is_offered_a_packet_counts_its_own_rule(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        one = session(("tmfr-a", rule(10, 1, 9, REJECT)), target="first", number=1, vni=7)
        two = session(("tmfr-a", rule(10, 1, 1)), ("tmfr-b", rule(20, 2, 2)), target="second", number=2, vni=8)
        mirror.mirror({"web": [one, two]})
        sent(mirror, *udp(1, 2, 2, 3, 50))
        assert mirror.matched("web", 7) == {("tmfr-a", EGRESS, REJECT): 4}
        assert mirror.matched("web", 8) == {("tmfr-a", EGRESS, ACCEPT): 1, ("tmfr-b", EGRESS, ACCEPT): 2}


def test_amazon_dns_has_a_figure_of_its_own(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        filter_ = Filter((rule(10, 53, 53),), frozenset({NetworkService.AMAZON_DNS}))
        mirror.mirror({"web": [Session("monitor", filter=filter_, rule_ids=("tmfr-a",))]}, resolvers=[NOBODY])
        sent(mirror, *udp(53, 53, 1), *udp(53, destination="192.0.2.7"))
        assert mirror.matched("web") == {(AMAZON_DNS_RULE, EGRESS, ACCEPT): 2, ("tmfr-a", EGRESS, ACCEPT): 1}


def test_no_packet_is_missed_or_counted_twice_by_rules_that_change_under_traffic(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        keeps = ("tmfr-keeps", rule(20_000, PORT, PORT))
        mirror.mirror({"web": [session(keeps)]})
        with streaming(mirror) as stream:
            for round_ in range(1, 21):
                stream.goes_on()
                others = ((f"tmfr-{n}", rule(n, 1, 2, REJECT)) for n in range(1, 1 + round_ * 37 % 200))
                decides = ("tmfr-other", rule(10_000, PORT, PORT)) if round_ % 4 == 3 else keeps
                mirror.mirror({"web": [session(*others, decides)]})
            stream.goes_on()
            assert_nothing_was_lost(mirror, stream)
        mirror.assert_everything_adds_up()
        found = mirror.matched("web")
        assert found.keys() == {("tmfr-keeps", EGRESS, ACCEPT), (FORMER_RULES, EGRESS, ACCEPT)}
        assert sum(found.values()) == mirror.sent("web")

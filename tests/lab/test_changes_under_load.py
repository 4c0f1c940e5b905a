"""A change is atomic: no packet sees half of it, none is lost or doubled by it, and none goes to a target that is not
its own (decisions 5.11, 0002). Some ten thousand packets a second go each way while sessions change, go and come."""

from collections.abc import Callable
from ipaddress import ip_network
from itertools import pairwise

import pytest

from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import Stage
from tests.lab.mirror import Mirror, Session
from tests.lab.production import OF_PRODUCTION, PORT, producing
from tests.lab.test_mirror_sessions import TWO_TARGETS

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

EGRESS = Direction.EGRESS
ANYWHERE = ip_network("0.0.0.0/0")
EVERY_S = 0.0001
CHANGES = 40
CLIENT, WEB = ip_network("10.0.0.6/32"), ip_network("10.0.0.48/32")


def half(direction: Direction, number: int) -> Filter:
    """Takes what goes one way only."""
    source, destination = (WEB, CLIENT) if direction is EGRESS else (CLIENT, WEB)
    ports = PortRange(PORT, PORT)
    return Filter((Rule(number, direction, Action.ACCEPT, source, destination, UDP, None, ports),))


def test_a_change_of_target_length_and_rules_together_is_seen_whole_by_every_packet(lab: Build) -> None:
    """The same session is now one thing, now another: a copy shows by where it is which of them took it, by its
    length whether that holds for all of it, and together they are each packet once."""
    other = Filter(tuple(Rule(rule.number + 50, *_rest(rule)) for rule in OF_PRODUCTION.rules))
    one = Session("first", filter=OF_PRODUCTION, packet_bytes_max=60)
    two = Session("second", filter=other, packet_bytes_max=50)
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [one]})
        with producing(mirror, EVERY_S) as production:
            for turn in range(CHANGES):
                production.goes_on(20)
                mirror.mirror({"web": [(two, one)[turn % 2]]})
            production.goes_on(20)
            production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        sent = sum(len(way.sent) for way in production.ways)
        taken = sum(mirror.verdicts("web", direction)[Verdict.TAKEN] for direction in Direction)
        assert taken == sent
        for direction in Direction:
            assert mirror.stages("web", direction).keys() == {Stage.SENT}, "no copy is stale by a change"
        copies = {place: mirror.collector(place).copies() for place in ("first", "second")}
        assert {len(copy.frame) for copy in copies["first"]} == {60}
        assert {len(copy.frame) for copy in copies["second"]} == {50}
        for way in production.ways:
            source = bytes(int(part) for part in way.source.split("."))
            numbers = [
                [int.from_bytes(copy.frame[42:46]) for copy in copies[place] if copy.frame[26:30] == source]
                for place in copies
            ]
            assert sorted(numbers[0] + numbers[1]) == list(range(len(way.sent))), "none lost, none doubled"
            for of_place in numbers:
                assert all(former < latter for former, latter in pairwise(of_place)), "in order"


def _rest(rule: Rule) -> tuple[object, ...]:
    return (
        rule.direction,
        rule.action,
        rule.source,
        rule.destination,
        rule.protocol,
        rule.source_ports,
        rule.destination_ports,
    )


def test_sessions_that_come_and_go_under_load_never_send_to_a_target_that_is_not_theirs(lab: Build) -> None:
    """Every session has its own direction, VNI and target, and takes the slots and rows that others have just left."""
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.collector("first")
        mirror.collector("second")
        with producing(mirror, EVERY_S) as production:
            for turn in range(2 * CHANGES):
                direction, target = ((Direction.EGRESS, "first"), (Direction.INGRESS, "second"))[turn % 2]
                vni = 1000 + turn
                mirror.unheard.add(vni)  # its row goes with it
                mirror.mirror({"web": [Session(target, filter=half(direction, turn + 1), vni=vni)]})
                production.goes_on(10)
                if turn % 4 == 3:
                    mirror.mirror({})
            production.assert_is_untouched()
        for parity, target, source in ((0, "first", mirror.address("web")), (1, "second", mirror.address("client"))):
            copies = mirror.collector(target).copies()
            assert {copy.vni for copy in copies} == {1000 + turn for turn in range(2 * CHANGES) if turn % 2 == parity}
            assert {copy.frame[26:30] for copy in copies} == {bytes(int(part) for part in source.split("."))}
            assert [copy.vni for copy in copies] == sorted(copy.vni for copy in copies), "none comes late"
            numbers = [copy.frame[42:46] for copy in copies]
            assert len(set(numbers)) == len(numbers), "none twice"


def test_changes_of_several_interfaces_are_whole_for_each_of_them(lab: Build) -> None:
    """Both ends are mirrored, and change together: each end copies each packet once, to the old target or the new."""
    with Mirror(lab(TWO_TARGETS)) as mirror:

        def both(target: str) -> None:
            sources = {"web": 1, "client": 2}
            mirror.mirror({place: [Session(target, filter=OF_PRODUCTION, vni=vni)] for place, vni in sources.items()})

        both("first")
        with producing(mirror, EVERY_S) as production:
            for turn in range(CHANGES // 2):
                production.goes_on(20)
                both(("second", "first")[turn % 2])
            production.goes_on(20)
            production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        for way in production.ways:
            source = bytes(int(part) for part in way.source.split("."))
            for vni in (1, 2):
                copies = [copy for place in ("first", "second") for copy in mirror.collector(place).copies(vni)]
                payloads = sorted((copy.frame[42:] for copy in copies if copy.frame[26:30] == source), key=_number)
                assert payloads == way.sent


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:4])

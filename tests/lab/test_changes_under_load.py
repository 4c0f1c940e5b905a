"""A change is atomic: no packet sees half of it, none is lost or doubled by it, and none goes to a target that is not
its own (decisions 5.11, 0002). Some ten thousand packets a second go each way while sessions change, go and come."""

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import Stage
from tests.lab.mirror import Mirror, Session
from tests.lab.production import OF_PRODUCTION, PORT, producing
from tests.lab.test_mirror_sessions import TWO_TARGETS

pytestmark = [pytest.mark.root, pytest.mark.long]

Build = Callable[[Topology], Lab]

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
EVERY_S = 0.0001
CHANGES = 40
CLIENT, WEB = ip_network("10.0.0.6/32"), ip_network("10.0.0.48/32")


def half(direction: Direction, number: int) -> Filter:
    """Takes what goes one way only."""
    source, destination = (WEB, CLIENT) if direction is EGRESS else (CLIENT, WEB)
    ports = PortRange(PORT, PORT)
    return Filter((Rule(number, direction, Action.ACCEPT, source, destination, UDP, None, ports),))


def test_a_change_of_rules_target_and_length_together_is_seen_whole_by_every_packet(lab: Build) -> None:
    """Two sessions exchange what they take, and each copy tells by its length before or after: one that its session's
    old rules took and its new delivery sent, or the other way round, has the wrong length for its way."""
    before = [
        Session("first", vni=1, number=1, filter=half(EGRESS, 1), packet_bytes_max=60),
        Session("second", vni=2, number=2, filter=half(INGRESS, 2), packet_bytes_max=50),
    ]
    after = [
        Session("second", vni=1, number=1, filter=half(INGRESS, 3), packet_bytes_max=61),
        Session("first", vni=2, number=2, filter=half(EGRESS, 4), packet_bytes_max=51),
    ]
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": before})
        with producing(mirror, EVERY_S) as production:
            for turn in range(CHANGES):
                production.goes_on(20)
                mirror.mirror({"web": (after, before)[turn % 2]})
            production.goes_on(20)
            production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        for direction, way, target in zip((EGRESS, INGRESS), production.ways, ("first", "second"), strict=True):
            whole = {
                (session.vni, session.packet_bytes_max)
                for session in (*before, *after)
                if session.filter.rules[0].direction is direction
            }
            stages = [mirror.stages("web", direction, vni) for vni in (1, 2)]
            assert stages[0].keys() == stages[1].keys() == {Stage.SENT}, "no copy is stale by a change"
            copies = mirror.collector(target).copies()
            assert {(copy.vni, len(copy.frame)) for copy in copies} == whole
            assert [int.from_bytes(copy.frame[42:46]) for copy in copies] == [*range(len(way.sent))], "each once"


def test_sessions_that_come_and_go_under_load_never_send_to_a_target_that_is_not_theirs(lab: Build) -> None:
    """Every session has its own direction, VNI and target, and takes the slots and rows that others have just left."""
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.collector("first")
        mirror.collector("second")
        with producing(mirror, EVERY_S) as production:
            for turn in range(2 * CHANGES):
                direction, target = ((EGRESS, "first"), (INGRESS, "second"))[turn % 2]
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

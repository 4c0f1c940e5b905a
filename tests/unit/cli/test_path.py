"""The steps of a copy's way: each is good, limits, is broken or unknown, and says what to do unless it is good."""

from typing import Any

import pytest

from pktmirror.cli.balance import Uncollected
from pktmirror.cli.path import Check, State, Way, checks, copied_bytes, document, room_bytes
from pktmirror.desired import DesiredSession, Destination, PathFacts, Undeliverable, Underlay
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Stage, Tally
from pktmirror.model.rate import Rate
from tests.unit.cli import figures

PATH: dict[str, Any] = {
    "address": "10.0.0.9",
    "port": 4789,
    "table": 254,
    "device": "up0",
    "next_hop": "10.0.0.9",
    "source": "10.0.0.48",
    "route_mtu": 9000,
    "neighbour": "02:00:00:00:00:09",
    "listens": True,
}
UNCOLLECTED = Uncollected(reason="nobody counts there")


def way(
    *,
    path: PathFacts | None = None,
    stages: dict[str, Tally] | None = None,
    packet_bytes_max: int | None = None,
    delivery: Destination | Undeliverable | None = None,
    **changed: Any,
) -> Way:
    """A way on which all is well, but for what is changed."""
    session = DesiredSession(
        session_id="tms-1",
        number=1,
        vni=7,
        filter_id="f",
        packet_bytes_max=packet_bytes_max,
        delivery=delivery or Destination(address="10.0.0.9", mtu=1500),
    )
    told = figures.session(
        directions={Direction.INGRESS: figures.direction(stages=stages or {Stage.SENT.value: Tally(5, 500)})},
        collector=changed.pop("collector", UNCOLLECTED),
    )
    fields: dict[str, Any] = {"figures": told, "problem": None, "budget": None, "underlay": Underlay()}
    return Way(session=session, path=path or PathFacts(**PATH), **{**fields, **changed})


def facts(**changed: Any) -> PathFacts:
    return PathFacts(**{**PATH, **changed})


def step(name: str, of: list[Check]) -> Check:
    [found] = [each for each in of if each.step == name]
    return found


def test_where_all_is_well_every_step_is_good_and_nothing_is_to_be_done():
    found = checks(way(), 1000)
    assert [each.step for each in found] == ["route", "neighbour", "MTU", "copies", "listener"]
    assert {(each.state, each.do) for each in found} == {(State.GOOD, None)}
    assert document(found)[0] == {
        "step": "route",
        "state": "good",
        "found": "the main table: on the link, device up0; outer source 10.0.0.48",
        "do": None,
    }


@pytest.mark.parametrize(
    ("changed", "name", "state", "said"),
    [
        pytest.param(
            {"path": facts(next_hop=None, device=None, table=100)},
            *("route", State.BROKEN, "table 100 has no route to 10.0.0.9"),
            id="no route",
        ),
        pytest.param(
            {"path": facts(source=None), "problem": "the route has no preferred source"},
            *("route", State.BROKEN, "the route has no preferred source"),
            id="no source",
        ),
        pytest.param(
            {"path": facts(neighbour=None, neighbour_failed=True), "problem": "the next hop does not answer ARP"},
            *("neighbour", State.BROKEN, "10.0.0.9 does not answer ARP at up0"),
            id="nobody answers ARP",
        ),
        pytest.param(
            {"path": facts(neighbour=None)},
            *("neighbour", State.UNKNOWN, "has not been asked for yet"),
            id="not asked for yet",
        ),
        pytest.param(
            {"stages": {Stage.SENT.value: Tally(5, 500), Stage.ENCAPSULATION_FAILED.value: Tally(2, 200)}},
            *("copies", State.LIMITS, "5 sent so far, and 2 encapsulation failed"),
            id="lost before the wire",
        ),
        pytest.param(
            {"stages": {Stage.CAPPED.value: Tally(3, 300)}, "budget": Rate(packets_per_s=10)},
            *("limits", State.LIMITS, "3 packets were over them and not copied (cap of the session: none; budget"),
            id="over the budget",
        ),
        pytest.param(
            {"path": facts(listens=False)},
            *("listener", State.BROKEN, "nothing is bound to 10.0.0.9, UDP port 4789"),
            id="nobody listens",
        ),
        pytest.param(
            {"path": facts(listens=None), "stages": {Stage.TARGET_REFUSED.value: Tally(4, 400)}},
            *("listener", State.BROKEN, "has answered 4 times that it does not take copies (ICMP)"),
            id="the target refuses",
        ),
        pytest.param(
            {"path": facts(listens=None)},
            *("listener", State.UNKNOWN, "nobody here can look"),
            id="nobody can look",
        ),
        pytest.param(
            {"problem": "the agent of host-1 has not reported for 40 s"},
            *("session", State.BROKEN, "the agent of host-1 has not reported for 40 s"),
            id="another problem",
        ),
    ],
)
def test_what_stands_in_the_way_is_told_with_the_next_step(changed: dict[str, Any], name: str, state: State, said: str):
    found = checks(way(**changed), 1000)
    told = step(name, found)
    assert (told.state, said in told.found) == (state, True), told
    assert told.do
    assert {each.step: each.state for each in found if each.do} == {name: state}, "all else is well"


def test_a_monitor_that_has_received_copies_is_a_listener_and_errors_of_before_do_not_count():
    stages = {Stage.SENT.value: Tally(5, 500), Stage.TARGET_REFUSED.value: Tally(1, 100)}
    told = step("listener", checks(way(path=facts(listens=None), collector=figures.collected(), stages=stages)))
    assert (told.state, "has received 5 copies" in told.found) == (State.GOOD, True)


def test_a_target_that_is_none_ends_the_way():
    [told] = checks(way(delivery=Undeliverable(reason="target type not yet deliverable")))
    assert (told.step, told.state, told.found) == ("target", State.BROKEN, "target type not yet deliverable")


def test_an_agent_that_tells_nothing_leaves_the_way_unknown():
    silent = Way(**{name: getattr(way(), name) for name in Way.__slots__} | {"path": None, "problem": "it is away"})
    [told] = checks(silent)
    assert (told.step, told.state) == ("agent", State.UNKNOWN)
    assert "it is away" in told.found
    assert room_bytes(silent) is None
    assert copied_bytes(silent, 100) is None


@pytest.mark.parametrize(
    ("changed", "frame_bytes", "state", "said"),
    [
        pytest.param({}, 1464, State.GOOD, "1500 (the target's): 1464 bytes of a frame arrive", id="it just fits"),
        pytest.param({}, 1465, State.LIMITS, "this one of 1465 is cut", id="a byte too many"),
        pytest.param({"packet_bytes_max": 128}, 1514, State.GOOD, "the session asks for 128", id="cut as asked"),
        pytest.param(
            {"packet_bytes_max": 128, "stages": {Stage.CUT.value: Tally(1, 9)}},
            None,
            State.GOOD,
            "asks for 128",
            id="since",
        ),
        pytest.param({"packet_bytes_max": 1500}, 1514, State.LIMITS, "is cut", id="more is asked for than fits"),
        pytest.param({"path": facts(route_mtu=1400)}, 1400, State.LIMITS, "1400 (the route's)", id="the route's"),
        pytest.param({"underlay": Underlay(mtu_max=1300)}, 1400, State.LIMITS, "by networks.toml", id="the underlay's"),
        pytest.param({}, None, State.GOOD, "longer ones are cut, and counted, and none was so far", id="none so far"),
        pytest.param(
            {"stages": {Stage.CUT.value: Tally(1, 9)}}, None, State.LIMITS, "longer ones are cut", id="some were"
        ),
    ],
)
def test_the_smallest_mtu_says_what_is_cut(changed: dict[str, Any], frame_bytes: int | None, state: State, said: str):
    told = step("MTU", checks(way(**changed), frame_bytes))
    assert (told.state, said in told.found) == (state, True), told
    assert (told.do is None) is (state is State.GOOD)


@pytest.mark.parametrize(
    ("packet_bytes_max", "frame_bytes", "copied"), [(None, 100, 100), (None, 1514, 1464), (64, 1514, 64), (64, 60, 60)]
)
def test_how_much_of_a_frame_is_copied(packet_bytes_max: int | None, frame_bytes: int, copied: int):
    assert copied_bytes(way(packet_bytes_max=packet_bytes_max), frame_bytes) == copied

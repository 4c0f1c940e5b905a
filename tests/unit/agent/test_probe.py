"""Which way a probe takes, and when it can take none."""

from collections.abc import Mapping

import pytest

from pktmirror.agent import abi
from pktmirror.agent.plan import Tables, applied, plan
from pktmirror.agent.probe import NOT_APPLIED, SessionWay, not_sendable, way_of
from pktmirror.model.ledger import Stage
from tests.unit.agent.wanted import Wish, rows, wanted


def after(held: Tables, wishes: Mapping[str, Wish]) -> Tables:
    return applied(held, plan(wanted(wishes), held))


def test_a_probe_takes_the_mark_and_the_row_of_its_session_and_of_no_other() -> None:
    held = after(Tables(), {"a": Wish(), "ab": Wish(number=2, vni=8), "c": Wish(ifindex=4, vni=9)})
    found = {name: way_of(held, name) for name in ("a", "ab", "c")}
    ways = {name: way for name, way in found.items() if way is not None}
    assert {name: way.ledger_row for name, way in ways.items()} == rows(held)
    assert len({way.mark for way in ways.values()}) == 3
    assert {(way.stage, way.copy_bytes_max) for way in ways.values()} == {(Stage.SENT, 1464)}
    assert way_of(held, "b") is None


def test_after_a_change_a_probe_takes_the_new_way_and_never_the_former_one() -> None:
    before = after(Tables(), {"a": Wish(target=90)})
    now = after(before, {"a": Wish(target=91)})
    former, way = way_of(before, "a"), way_of(now, "a")
    assert former is not None
    assert way is not None
    assert abi.slot_of(way.mark) != abi.slot_of(former.mark)
    assert abi.slot_of(former.mark) in now.deliveries, "its slot still names the session"


def test_a_session_whose_interface_is_gone_has_no_way() -> None:
    held = after(after(Tables(), {"a": Wish(), "b": Wish(vni=8, number=2)}), {"a": Wish(ifindex=None), "b": Wish()})
    assert way_of(held, "a") is None
    assert way_of(held, "b") is not None


@pytest.mark.parametrize(
    ("way", "problem", "reason"),
    [
        pytest.param(SessionWay(1, Stage.SENT, 0, 1464), None, None, id="a way"),
        pytest.param(SessionWay(1, Stage.SENT, 0, 58), None, None, id="just long enough"),
        pytest.param(
            SessionWay(1, Stage.SENT, 0, 57),
            None,
            "its copies are cut to 57 bytes, and a probe is known by its first 58",
            id="too short",
        ),
        pytest.param(
            SessionWay(1, Stage.SENT, 0, 1464), "the next hop does not answer ARP", None, id="a problem of the network"
        ),
        pytest.param(SessionWay(1, Stage.NO_ROUTE, 0, 0), "no route to it", "no route to it", id="no route"),
        pytest.param(SessionWay(1, Stage.NO_ROUTE, 0, 0), None, "no route to the target", id="unsaid"),
        pytest.param(
            SessionWay(1, Stage.NEIGHBOUR_UNRESOLVED, 0, 1464),
            "10.0.0.9 does not answer",
            "10.0.0.9 does not answer",
            id="silent",
        ),
        pytest.param(None, "interface gone", "interface gone", id="no interface"),
        pytest.param(None, None, NOT_APPLIED, id="not there"),
    ],
)
def test_what_can_be_sent_is_sent_and_all_else_has_a_reason(
    way: SessionWay | None, problem: str | None, reason: str | None
) -> None:
    assert not_sendable(way, problem) == reason

"""Which meters a session gets, and what it is told where there are none left."""

from dataclasses import replace

from pktmirror.agent import abi
from pktmirror.agent.allotment import CarryMeters, DropMeters, PutMeters, WriteMeters
from pktmirror.agent.meters import NAME_BYTES, MeterRange, digest_of
from pktmirror.agent.plan import Capacity, Change, Tables, applied, plan
from tests.unit.agent.wanted import Wish, meter_names_of, sessions, wanted

AMPLE = Capacity(filter_cells=100, exclusions=8, deliveries=400, session_rows=32, interfaces=16, meters=1000)
COUNT = abi.METER_RULES + 2  # of a session with two rules
KINDS = (WriteMeters, CarryMeters, PutMeters, DropMeters)


def of_meters(changes: list[Change]) -> list[Change]:
    return [change for change in changes if isinstance(change, KINDS)]


def after(*states: dict[str, Wish], held: Tables | None = None, meters: int = 1000) -> Tables:
    held = held or Tables()
    for wishes in states:
        held = applied(held, plan(wanted(wishes), held, capacity=replace(AMPLE, meters=meters)))
    return held


def changes_to(wishes: dict[str, Wish], held: Tables, meters: int = 1000) -> list[Change]:
    return of_meters(plan(wanted(wishes), held, capacity=replace(AMPLE, meters=meters)))


def counted_in(held: Tables, ifindex: int = 3) -> list[int]:
    """The first meters of the sessions of an interface."""
    return [session.meter for session in sessions(held.policies[ifindex])]


def range_of(rules: str, first: int, *, is_whole: bool = True) -> MeterRange:
    names = meter_names_of(rules)
    return MeterRange(first, len(names) // NAME_BYTES, digest_of(names), is_whole)


def test_meters_are_written_before_the_swap_and_carried_after_all_of_them() -> None:
    wishes = {"a": Wish(rules="kl"), "b": Wish(ifindex=4, rules="kl")}
    changes = plan(wanted(wishes), Tables(), capacity=AMPLE)
    assert of_meters(changes) == [
        WriteMeters(0, range_of("kl", 0), meter_names_of("kl")),
        WriteMeters(1, range_of("kl", COUNT), meter_names_of("kl")),
        CarryMeters(0, range_of("kl", 0)),
        CarryMeters(1, range_of("kl", COUNT)),
    ]
    kinds = [type(change).__name__ for change in changes]
    assert kinds.index("WriteMeters") < kinds.index("SwapPolicy")
    assert kinds.index("CarryMeters") > max(place for place, kind in enumerate(kinds) if kind == "SwapPolicy")
    held = applied(Tables(), changes)
    assert (counted_in(held), counted_in(held, 4)) == ([0], [COUNT])
    assert held.meters == {0: range_of("kl", 0), 1: range_of("kl", COUNT)}


def test_other_rules_get_other_meters_and_nothing_else_of_a_session_does() -> None:
    held = after({"a": Wish(rules="kl")})
    assert changes_to({"a": Wish(rules="kl", target=91, vni=8, filter="q")}, held) == []
    assert changes_to({"a": Wish(rules="lk")}, held) == [
        WriteMeters(0, range_of("lk", COUNT), meter_names_of("lk")),
        CarryMeters(0, range_of("lk", COUNT)),
    ]
    assert counted_in(after({"a": Wish(rules="lk")}, {"a": Wish(rules="k")}, held=held)) == [0]


def test_a_session_keeps_its_meters_while_its_interface_is_gone() -> None:
    held = after({"a": Wish(rules="kl")}, {"a": Wish(ifindex=None), "b": Wish(rules="m")})
    assert held.meters == {0: range_of("kl", 0), 1: range_of("m", COUNT)}
    assert counted_in(after({"a": Wish(rules="kl"), "b": Wish(rules="m", number=2)}, held=held)) == [0, COUNT]


def test_the_next_session_of_a_row_does_not_go_on_with_its_meters() -> None:
    held = after({"a": Wish(rules="kl")}, {}, {"b": Wish(rules="kl")})
    assert held.meters == {0: range_of("kl", COUNT)}


def test_a_session_that_comes_back_goes_on_with_its_meters() -> None:
    held = after({"a": Wish(rules="kl")}, {}, {"a": Wish(rules="kl")})
    assert held.meters == {0: range_of("kl", 0)}
    assert counted_in(held) == [0]


def test_meters_of_ended_sessions_go_to_others_when_they_are_needed_and_not_before() -> None:
    held = after({"a": Wish(rules="kl")}, {}, {"b": Wish(number=2), "c": Wish()}, meters=COUNT + 1)
    held = replace(held, meters=held.meters | {7: range_of("kl", 0)})
    assert changes_to({"c": Wish(rules="kl")}, held, COUNT + 1)[:2] == [
        DropMeters(7),
        WriteMeters(0, range_of("kl", 0, is_whole=False), meter_names_of("kl")),
    ]


def test_a_session_without_room_is_mirrored_without_meters_and_is_marked_for_good() -> None:
    wishes = {"a": Wish(rules="kl"), "b": Wish(number=2, rules="kl")}
    held = after(wishes, meters=COUNT)
    assert counted_in(held) == [0, abi.NO_METER]
    assert held.meters[1] == MeterRange(0, 0, bytes(16), is_whole=False)
    assert plan(wanted(wishes), held, capacity=replace(AMPLE, meters=COUNT)) == []
    held = after(wishes, held=held)
    assert counted_in(held) == [0, COUNT]
    assert held.meters[1] == range_of("kl", COUNT, is_whole=False)


def test_a_session_that_has_no_meters_does_not_make_room_for_others() -> None:
    wishes = {"a": Wish(rules="kl"), "b": Wish(number=2, rules="kl")}
    held = after(wishes, meters=COUNT + 3)
    assert held.meters[1].count == 0
    held = replace(held, meters=dict(sorted(held.meters.items())))  # as the next agent reads them
    found = counted_in(after(wishes | {"c": Wish(number=3, rules="klm")}, held=held, meters=4 * COUNT))
    assert found == [0, COUNT, 2 * COUNT]


def test_a_change_without_room_beside_the_old_rules_keeps_their_figures_and_has_room_at_the_next_turn() -> None:
    """Two sessions change at once, and there is room for three."""
    before = {"a": Wish(rules="kl"), "b": Wish(number=2, rules="kl")}
    changed = {"a": Wish(rules="mn"), "b": Wish(number=2, rules="mn")}
    held = after(before, changed, meters=3 * COUNT)
    assert counted_in(held) == [2 * COUNT, abi.NO_METER]
    assert held.meters == {0: range_of("mn", 2 * COUNT), 1: range_of("kl", COUNT, is_whole=False)}
    held = after(changed, held=held, meters=3 * COUNT)
    assert counted_in(held) == [2 * COUNT, 0]
    assert held.meters == {0: range_of("mn", 2 * COUNT), 1: range_of("mn", 0, is_whole=False)}

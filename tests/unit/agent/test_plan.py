"""From what is wanted and what is held to the changes: nothing in use is written, and what is held becomes what is
wanted."""

from copy import deepcopy
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.agent.allotment import CarryMeters, DropMeters, WriteMeters
from pktmirror.agent.compile import CopyStream, Wanted, WantedInterface
from pktmirror.agent.meters import NAME_BYTES, MeterRange
from pktmirror.agent.plan import (
    Attach,
    Capacity,
    Change,
    ClearInterfaceRow,
    ClearSessionRow,
    Detach,
    DropStream,
    ForgetSpent,
    PutStream,
    SwapPolicy,
    TableFull,
    Tables,
    WriteDelivery,
    WriteExclusions,
    WriteFilter,
    applied,
    plan,
    unresolved_in,
)
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import Rate
from tests.budget import examples
from tests.unit.agent.wanted import (
    FILTER_CELLS,
    MAC,
    Wish,
    exclusion_value,
    filter_value,
    held_delivery,
    policy,
    rows,
    sessions,
    wanted,
)

AMPLE = Capacity(filter_cells=100, exclusions=8, deliveries=400, session_rows=32, interfaces=16, meters=1000)
TIGHT = Capacity(filter_cells=17, exclusions=3, deliveries=8, session_rows=7, interfaces=5, meters=40)


def planned(state: Wanted, held: Tables, capacity: Capacity = AMPLE) -> list[Change]:
    return plan(state, held, capacity=capacity)


def after(*states: Wanted, capacity: Capacity = AMPLE) -> Tables:
    """What is held when each of the states was reached in turn."""
    held = Tables()
    for state in states:
        held = applied(held, planned(state, held, capacity))
    return held


def test_the_first_session_in_full() -> None:
    expected_delivery = abi.Delivery(
        generation=0,
        family=4,
        vni=7,
        ifindex=2,
        room_bytes_max=1464,
        ledger_row=0,
        retired_generation=abi.NO_GENERATION,
    )
    expected_delivery.session_id[:] = b"a".ljust(24, b"\0")
    expected_delivery.outer_source_be[:4] = ip_address("10.0.0.48").packed
    expected_delivery.outer_destination_be[:4] = ip_address("10.0.0.90").packed
    expected_delivery.next_hop_be[:4] = ip_address("10.0.0.90").packed
    expected_delivery.port_be[:] = (4789).to_bytes(2)
    expected_policy = abi.InterfacePolicy(generation=abi.REMEMBERED, session_count=1, is_host_side=1)
    expected_policy.mac[:] = MAC
    expected_policy.sessions[0] = abi.SessionPolicy(
        0, abi.mark(0, 0), abi.STAGES.index(Stage.SENT), 0, meter=abi.NO_METER
    )

    assert planned(wanted({"a": Wish()}), Tables()) == [
        PutStream(stream(vni=7), 0),
        PutStream(stream(vni=abi.VNI_NOT_QUOTED), 0),
        ClearInterfaceRow(0),
        WriteExclusions(0, exclusion_value("x")),
        ClearSessionRow(0),
        WriteDelivery(0, bytes(bytearray(expected_delivery))),
        WriteFilter(0, filter_value("p")),
        SwapPolicy(3, bytes(bytearray(expected_policy))),
        Attach(3, is_host_side=True),
    ]


def stream(vni: int, source: str = "10.0.0.48", target: int = 90) -> bytes:
    key = abi.StreamKey(vni=vni, port=4789, family=4)
    key.outer_source_be[:4] = ip_address(source).packed
    key.outer_destination_be[:4] = ip_address(f"10.0.0.{target}").packed
    return bytes(key)


def test_copies_are_known_on_the_wire_by_the_session_that_sends_them() -> None:
    held = after(wanted({"a": Wish(), "b": Wish(number=2, vni=8), "c": Wish(number=3, stage=Stage.NO_ROUTE, vni=9)}))
    row = rows(held)
    assert held.streams == {
        stream(7): row["a"],
        stream(8): row["b"],
        stream(abi.VNI_NOT_QUOTED): abi.NO_ROW,  # an error that quotes no VNI may be about either
    }
    moved = after(wanted({"a": Wish()}), wanted({"a": Wish(target=91)}))
    assert moved.streams == {stream(7, target=91): 0, stream(abi.VNI_NOT_QUOTED, target=91): 0}
    assert after(wanted({"a": Wish()}), wanted({})).streams == {}


def test_a_next_hop_that_stops_answering_and_answers_again_swaps_the_policy_and_nothing_else() -> None:
    """So copies that are under way are still delivered, and an error about them is still kept from the source."""
    other = {"b": Wish(number=2, vni=8, target=91), "c": Wish(ifindex=4, number=2, vni=9, stage=Stage.NO_ROUTE)}
    answers, silent = wanted({"a": Wish(), **other}), wanted({"a": Wish(stage=Stage.NEIGHBOUR_UNRESOLVED), **other})
    before = after(answers)
    assert unresolved_in(before) == frozenset()
    [change] = planned(silent, before)
    held = applied(before, [change])
    assert isinstance(change, SwapPolicy)
    assert [abi.STAGES[each.stage] for each in sessions(held.policies[3])] == [Stage.NEIGHBOUR_UNRESOLVED, Stage.SENT]
    assert unresolved_in(held) == {(2, ip_address("10.0.0.90"))}, "whatever agent comes next, it knows"
    assert held == replace(before, policies=held.policies)
    assert applied(held, planned(answers, held)) == before


def test_the_copies_of_other_hosts_are_known_too_and_are_no_session_s_here() -> None:
    elsewhere = CopyStream(IPv4Address("10.0.1.48"), IPv4Address("10.0.0.90"), 7, 4789)
    state = replace(wanted({"a": Wish()}), streams=frozenset({elsewhere}))
    assert after(state).streams == {
        stream(7): 0,
        stream(abi.VNI_NOT_QUOTED): 0,
        stream(7, "10.0.1.48"): abi.NO_ROW,
        stream(abi.VNI_NOT_QUOTED, "10.0.1.48"): abi.NO_ROW,
    }
    only_elsewhere = replace(wanted({}), streams=frozenset({elsewhere}))
    assert len(after(only_elsewhere).streams) == 2


def test_more_streams_than_a_host_holds_change_nothing() -> None:
    with pytest.raises(TableFull, match="streams of copies"):
        planned(wanted({"a": Wish(), "b": Wish(number=2, vni=8)}), Tables(), replace(AMPLE, streams=2))
    assert planned(wanted({"a": Wish()}), Tables(), replace(AMPLE, streams=2))


def test_another_cap_swaps_the_policy_and_then_forgets_what_was_spent() -> None:
    held = after(wanted({"a": Wish(), "b": Wish(number=2, vni=8), "c": Wish(ifindex=4)}))
    row = rows(held)["b"]
    capped = wanted({"a": Wish(), "b": Wish(number=2, vni=8, cap=Rate(10, 80_000)), "c": Wish(ifindex=4)})
    swap, forget = planned(capped, held)
    assert isinstance(swap, SwapPolicy)
    assert forget == ForgetSpent(row)
    entry = sessions(swap.value)[1]
    assert (entry.cap.packet_ticks, entry.cap.byte_ticks) == (64 * 10**8, 64 * 10**5)
    assert planned(capped, after(capped)) == []


def test_another_number_of_a_session_leaves_what_its_cap_has_spent() -> None:
    capped = Wish(cap=Rate(10))
    changes = planned(wanted({"a": replace(capped, number=9)}), after(wanted({"a": capped})))
    assert not [change for change in changes if isinstance(change, ForgetSpent)]


def test_another_budget_reaches_every_interface_and_forgets_what_was_spent() -> None:
    state = wanted({"a": Wish(), "b": Wish(ifindex=4, cap=Rate(10))})
    held = after(replace(state, budget=Rate(100)))
    *swaps, forget = planned(replace(state, budget=Rate(200)), held)
    assert [swap.ifindex for swap in swaps if isinstance(swap, SwapPolicy)] == [3, 4]
    assert len(swaps) == 2
    assert forget == ForgetSpent(None)
    assert policy(applied(held, [*swaps, forget]), 4).budget.packet_ticks == 64 * 10**9 // 200
    assert planned(replace(state, budget=Rate(100)), held) == []


def test_where_old_and_new_streams_do_not_fit_together_the_old_ones_go_first() -> None:
    held = after(wanted({"a": Wish()}))
    changes = planned(wanted({"a": Wish(target=91)}), held, replace(AMPLE, streams=3))
    kinds = [type(change) for change in changes if isinstance(change, PutStream | DropStream)]
    assert kinds == [DropStream, DropStream, PutStream, PutStream]
    assert applied(held, changes).streams.keys() == {stream(7, target=91), stream(abi.VNI_NOT_QUOTED, target=91)}
    roomy = planned(wanted({"a": Wish(target=91)}), held, replace(AMPLE, streams=4))
    kinds = [type(change) for change in roomy if isinstance(change, PutStream | DropStream)]
    assert kinds == [PutStream, PutStream, DropStream, DropStream]


def test_resolvers_keep_their_family() -> None:
    resolvers = (ip_address("10.0.0.2"), ip_address("fd00:ec2::253"), ip_address("169.254.169.253"))
    interface = WantedInterface(3, MAC, True, resolvers, ())
    entry = policy(after(Wanted((interface,), exclusion_value("x"), frozenset(), {})), 3)
    assert entry.resolver_count == 3
    assert entry.resolvers_ipv6 == 0b010
    assert [bytes(each) for each in entry.resolvers_be[:3]] == [abi.address_bytes(each) for each in resolvers]


def test_nothing_wanted_and_nothing_held_is_nothing_to_do() -> None:
    assert planned(wanted({}), Tables()) == []


def test_planning_again_changes_nothing() -> None:
    state = wanted({"a": Wish(), "b": Wish(ifindex=4), "c": Wish(number=2, filter="q")})
    assert planned(state, after(state)) == []


def test_an_interface_that_is_no_longer_wanted_is_detached_before_anything_is_written() -> None:
    held = after(wanted({"a": Wish(), "b": Wish(ifindex=4)}))
    changes = planned(wanted({"b": Wish(ifindex=4, vni=8), "c": Wish(ifindex=5)}), held)
    assert changes[0] == Detach(3)
    assert [change for change in changes if isinstance(change, Detach)] == [Detach(3)]


def test_hooks_without_a_policy_are_detached_too() -> None:
    assert planned(wanted({}), Tables(attached=frozenset({8}))) == [Detach(8)]


def test_hooks_that_were_lost_are_attached_again() -> None:
    state = wanted({"a": Wish()})
    held = replace(after(state), attached=frozenset())
    assert planned(state, held) == [Attach(3, is_host_side=True)]


def test_sessions_with_one_filter_share_its_cells() -> None:
    held = after(wanted({"a": Wish(filter="p"), "b": Wish(ifindex=4, filter="p"), "c": Wish(ifindex=5, filter="q")}))
    cells = [sessions(held.policies[ifindex])[0].filter_cell for ifindex in (3, 4, 5)]
    assert cells == [0, 0, FILTER_CELLS]


def test_a_filter_goes_into_the_first_gap_that_is_long_enough() -> None:
    """p has 3 cells, q 4, r 5: what p leaves is too short for q, what q leaves too short for r."""
    three = {"a": Wish(filter="p"), "b": Wish(ifindex=4, filter="q"), "c": Wish(ifindex=5, filter="r")}
    held = after(wanted(three))
    assert cells(held) == {3: 0, 4: 3, 5: 7}
    held = applied(held, planned(wanted(three | {"a": Wish(filter="s")}), held))
    assert cells(held) == {3: 12, 4: 3, 5: 7}
    held = applied(held, planned(wanted(three | {"a": Wish(filter="q"), "b": Wish(ifindex=4, filter="q")}), held))
    assert cells(held) == {3: 3, 4: 3, 5: 7}
    held = applied(held, planned(wanted(three | {"a": Wish(filter="q"), "c": Wish(ifindex=5, filter="p")}), held))
    assert cells(held) == {3: 3, 4: 3, 5: 0}


def test_cells_are_written_again_only_after_the_swap_that_frees_them() -> None:
    """Two filters of 3 cells fit into 6, but a change needs the old and the new side by side."""
    tight = Capacity(filter_cells=2 * FILTER_CELLS + 1)
    held = after(wanted({"a": Wish(filter="p")}), capacity=tight)
    changes = planned(wanted({"a": Wish(filter="q")}), held, tight)
    assert [change.cell for change in changes if isinstance(change, WriteFilter)] == [FILTER_CELLS]
    held = applied(held, changes)
    assert list(held.filters) == [FILTER_CELLS]
    changes = planned(wanted({"a": Wish(filter="p")}), held, tight)
    assert [change.cell for change in changes if isinstance(change, WriteFilter)] == [0]
    full = Capacity(filter_cells=2 * FILTER_CELLS)
    with pytest.raises(TableFull, match=f"needs 4 cells side by side; 3 of the {2 * FILTER_CELLS} cells"):
        planned(wanted({"a": Wish(filter="q")}), after(wanted({"a": Wish(filter="p")}), capacity=full), full)


def cells(held: Tables) -> dict[int, int]:
    return {ifindex: sessions(value)[0].filter_cell for ifindex, value in held.policies.items()}


@pytest.mark.parametrize(
    "changed",
    [
        Wish(vni=8),
        Wish(target=91),
        Wish(family=6),
        Wish(number=9),
        Wish(filter="q"),
        Wish(stage=Stage.NO_ROUTE),
        Wish(ifindex=4),
    ],
    ids=["VNI", "target", "family", "number", "filter", "stage", "interface"],
)
def test_a_session_keeps_its_ledger_row_when_it_changes(changed: Wish) -> None:
    other = {"z": Wish(ifindex=6)}
    before = after(wanted(other | {"a": Wish()}))
    changes = planned(wanted(other | {"a": changed}), before)
    assert ClearSessionRow not in {type(change) for change in changes}
    assert rows(applied(before, changes)) == rows(before)


def test_a_session_keeps_its_ledger_row_while_its_interface_is_gone() -> None:
    here, gone = wanted({"a": Wish(), "b": Wish(ifindex=4)}), wanted({"a": Wish(ifindex=None), "b": Wish(ifindex=4)})
    meanwhile = wanted({"a": Wish(ifindex=None), "b": Wish(ifindex=4), "c": Wish(ifindex=4, number=2)})
    before = after(here)
    held = after(here, gone, meanwhile)
    assert rows(held)["c"] not in rows(before).values()
    changes = planned(here, held)
    assert ClearSessionRow not in {type(change) for change in changes}
    assert rows(applied(held, changes)) == rows(before)


def test_the_row_of_a_deleted_session_goes_to_the_next_one_and_begins_at_zero() -> None:
    held = after(wanted({"a": Wish()}), wanted({}))
    changes = planned(wanted({"b": Wish()}), held)
    assert ClearSessionRow(0) in changes
    assert rows(applied(held, changes)) == {"b": 0}


def test_a_session_that_comes_back_after_its_row_was_given_away_gets_another() -> None:
    states = [wanted({"a": Wish()}), wanted({}), wanted({"b": Wish(ifindex=4)})]
    back = wanted({"a": Wish(), "b": Wish(ifindex=4)})
    held = after(*states, back)
    assert rows(held) == {"b": 0, "a": 1}
    assert planned(back, held) == []


def test_a_slot_of_a_session_that_comes_back_is_not_given_to_another_one() -> None:
    tight = Capacity(deliveries=2)
    gone = wanted({"a": Wish(ifindex=None), "b": Wish(ifindex=4)})
    both = {"a": Wish(), "b": Wish(ifindex=4)}
    held = after(wanted({"a": Wish()}), gone, capacity=tight)
    assert_holds(wanted(both), after(wanted({"a": Wish()}), gone, wanted(both), capacity=tight))
    with pytest.raises(TableFull):
        planned(wanted(both | {"c": Wish(ifindex=5)}), held, tight)


def test_a_slot_is_written_anew_only_when_it_was_longest_unused_and_under_a_new_generation() -> None:
    three = Capacity(deliveries=3)
    held = Tables()
    slots = []
    for vni in range(1, 8):
        held = applied(held, planned(wanted({"a": Wish(vni=vni)}), held, three))
        slots.append(sessions(held.policies[3])[0].mark)
    assert slots == [
        abi.mark(slot, generation) for slot, generation in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]
    ]
    entry = held_delivery(held, 0)
    assert (entry.generation, entry.retired_generation, entry.retired_ledger_row) == (2, 1, 0)


def test_generations_begin_again_after_the_last() -> None:
    one = Capacity(deliveries=2)
    held = Tables()
    for vni in range(1, 2 * (abi.MARK_GENERATION_MASK + 1) + 2):
        held = applied(held, planned(wanted({"a": Wish(vni=vni)}), held, one))
    assert sessions(held.policies[3])[0].mark == abi.mark(0, 0)
    assert held_delivery(held, 0).retired_generation == abi.MARK_GENERATION_MASK


@pytest.mark.parametrize(
    ("capacity", "named"),
    [
        (Capacity(filter_cells=FILTER_CELLS), "cells for filters"),
        (Capacity(exclusions=0), "exclusion tables"),
        (Capacity(deliveries=1), "delivery slots"),
        (Capacity(session_rows=1), "session ledger rows"),
        (Capacity(interfaces=1), "mirrored interfaces"),
    ],
)
def test_a_full_table_is_named_and_nothing_held_changes(capacity: Capacity, named: str) -> None:
    held = after(wanted({"a": Wish()}))
    before = deepcopy(held)
    two = wanted({"a": Wish(), "b": Wish(ifindex=4, filter="q")}, exclusions="y" if named.startswith("excl") else "x")
    with pytest.raises(TableFull, match=named):
        planned(two, held, capacity)
    assert held == before


# What holds for every sequence of states.

wishes = st.builds(
    Wish,
    ifindex=st.sampled_from((3, 4, 5, None)),
    filter=st.sampled_from("pqr"),
    target=st.sampled_from((90, 91)),
    vni=st.sampled_from((7, 8)),
    number=st.integers(1, 3),
    stage=st.sampled_from((Stage.SENT, Stage.NO_ROUTE, Stage.NEIGHBOUR_UNRESOLVED)),
    family=st.sampled_from((4, 6)),
    rules=st.sampled_from(("", "k", "kl", "klmn")),
)


@st.composite
def states(draw: st.DrawFn) -> Wanted:
    drawn = draw(st.dictionaries(st.sampled_from("abcdef"), wishes, max_size=6))
    for ifindex in (3, 4, 5):  # an interface has at most as many sessions as its policy holds
        for name in sorted(name for name, wish in drawn.items() if wish.ifindex == ifindex)[abi.SESSIONS_MAX :]:
            del drawn[name]
    return wanted(
        drawn, exclusions=draw(st.sampled_from("xxy")), idle=draw(st.sampled_from((frozenset(), frozenset({6}))))
    )


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(states(), min_size=1, max_size=12), st.sampled_from((AMPLE, TIGHT)))
def test_every_way_through_the_states_is_safe_and_arrives(sequence: list[Wanted], capacity: Capacity) -> None:
    held = Tables()
    rows_kept: dict[str, int] = {}
    for state in sequence:
        before = deepcopy(held)
        try:
            changes = planned(state, held, capacity)
        except TableFull:
            assert capacity is TIGHT
            assert held == before
            continue
        assert held == before
        assert_detached_first(changes)
        assert_nothing_in_use_is_written(changes, held)
        held = applied(held, changes)
        assert_holds(state, held)
        for _ in range(6):  # what had no room beside the old meters has it now
            more = planned(state, held, capacity)
            assert not more or capacity is TIGHT
            assert all(isinstance(change, WriteMeters | CarryMeters | DropMeters | SwapPolicy) for change in more)
            assert_nothing_in_use_is_written(more, held)
            held = applied(held, more)
        assert planned(state, held, capacity) == []
        assert_meters_are_apart(held)
        found = rows(held)
        assert len(set(found.values())) == len(found), "two sessions in one ledger row"
        if capacity is AMPLE:
            rows_kept = {name: row for name, row in rows_kept.items() if name in state.session_ids}
            assert {name: found[name] for name in rows_kept.keys() & found.keys()} == {
                name: rows_kept[name] for name in rows_kept.keys() & found.keys()
            }
            cleared = {change.row for change in changes if isinstance(change, ClearSessionRow)}
            assert not cleared & set(rows_kept.values()), "figures of a desired session were zeroed"
            rows_kept |= found


def assert_detached_first(changes: list[Change]) -> None:
    kinds = [isinstance(change, Detach) for change in changes]
    assert kinds == sorted(kinds, reverse=True)


def are_apart(one: MeterRange, other: MeterRange) -> bool:
    return one.first + one.count <= other.first or other.first + other.count <= one.first


def assert_meters_are_apart(held: Tables) -> None:
    """No two sessions count in one meter, and what a policy counts in is its session's."""
    ranges = [range_ for range_ in held.meters.values() if range_.count]
    assert all(are_apart(one, other) for one in ranges for other in ranges if one is not other)
    for value in held.policies.values():
        for session in sessions(value):
            assert session.meter == abi.NO_METER or session.meter == held.meters[session.ledger_row].first


def assert_nothing_in_use_is_written(changes: list[Change], held: Tables) -> None:
    """In use: by a policy that is held before, or was swapped in by an earlier change. Copies are known before they are
    made, and while they may be."""
    policies, streams, deliveries = dict(held.policies), set(held.streams), dict(held.deliveries)
    filters, meters, written = dict(held.filters), dict(held.meters), list[MeterRange]()
    for change in changes:
        entries = [abi.InterfacePolicy.from_buffer_copy(value) for value in policies.values()]
        in_use = [session for value in policies.values() for session in sessions(value)]
        match change:
            case WriteFilter(cell, value):
                in_use_bytes = {session.filter_cell: filters[session.filter_cell] for session in in_use}
                for other, content in in_use_bytes.items():
                    assert (
                        cell + len(value) // abi.CELL_BYTES <= other or other + len(content) // abi.CELL_BYTES <= cell
                    )
                filters[cell] = value
            case WriteMeters(row, range_, names):
                kept = [held.meters[session.ledger_row] for session in in_use if session.ledger_row in held.meters]
                assert all(are_apart(range_, other) for other in (*kept, *meters.values(), *written) if other.count)
                assert len(names) == range_.count * NAME_BYTES
                written.append(range_)
            case CarryMeters(row, range_):
                assert range_.first in {session.meter for session in in_use if session.ledger_row == row}
            case DropMeters(row):
                assert row not in {session.ledger_row for session in in_use}
                del meters[row]
            case WriteExclusions(slot, _):
                assert slot not in {entry.exclusion_slot for entry in entries}
            case WriteDelivery(slot, value):
                assert slot not in {abi.slot_of(session.mark) for session in in_use}
                deliveries[slot] = value
            case ClearSessionRow(row):
                assert row not in {session.ledger_row for session in in_use}
            case ClearInterfaceRow(row):
                assert row not in {entry.ledger_row for entry in entries}
            case SwapPolicy(ifindex, value):
                policies[ifindex] = value
            case Detach(ifindex):
                policies.pop(ifindex, None)
            case PutStream(key, _):
                streams.add(key)
            case DropStream(key):
                streams.remove(key)
        made = {
            key_of(abi.Delivery.from_buffer_copy(deliveries[abi.slot_of(session.mark)]))
            for value in policies.values()
            for session in sessions(value)
            if abi.STAGES[session.stage] is Stage.SENT
        }
        assert made <= streams


def key_of(delivery: abi.Delivery) -> bytes:
    port = int.from_bytes(bytes(delivery.port_be))
    key = abi.StreamKey(vni=delivery.vni, port=port, family=delivery.family)
    key.outer_source_be[:] = bytes(delivery.outer_source_be)
    key.outer_destination_be[:] = bytes(delivery.outer_destination_be)
    return bytes(key)


def assert_holds(state: Wanted, held: Tables) -> None:
    """Read by what the policies point at, the tables say what is wanted, and nothing else."""
    assert held.policies.keys() == {interface.ifindex for interface in state.interfaces} == held.attached
    for interface in state.interfaces:
        entry = policy(held, interface.ifindex)
        assert held.exclusions[entry.exclusion_slot] == state.exclusions
        assert (bytes(entry.mac), bool(entry.is_host_side)) == (interface.mac, True)
        assert entry.session_count == len(interface.sessions)
        for session, wish in zip(sessions(held.policies[interface.ifindex]), interface.sessions, strict=True):
            slot = abi.slot_of(session.mark)
            there = held_delivery(held, slot)
            assert session.mark == abi.mark(slot, there.generation)
            assert session.ledger_row == there.ledger_row
            assert abi.STAGES[session.stage] is wish.stage
            assert held.filters[session.filter_cell] == wish.filter
            assert bytes(there.session_id).rstrip(b"\0").decode() == wish.delivery.session_id
            assert bytes(there.outer_destination_be) == abi.address_bytes(wish.delivery.outer_destination)
            assert there.family == wish.delivery.outer_destination.version
            assert (there.vni, there.room_bytes_max) == (wish.delivery.vni, wish.delivery.room_bytes_max)

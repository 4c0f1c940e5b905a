"""Whose a meter is, and that no figure is lost or doubled when rules change."""

import struct
from collections import Counter
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.agent.classifier import filter_bytes
from pktmirror.agent.meters import Meter, carried, digest_of, meter_names, meters_of, summed
from pktmirror.model.filter import Action, Direction, Filter, Rule
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES, Tally

ANY = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def rule(
    number: int, direction: Direction = Direction.INGRESS, action: Action = Action.ACCEPT, family: int = 4
) -> Rule:
    return Rule(number, direction, action, ANY[family], ANY[family])


MIXED = (
    rule(9, Direction.EGRESS, Action.REJECT, 6),
    rule(3, family=6),
    rule(5, action=Action.REJECT),
    rule(1, Direction.EGRESS),
    rule(2),
)
FIXED = [
    Meter(AMAZON_DNS_RULE, Direction.INGRESS, Action.ACCEPT),
    Meter(AMAZON_DNS_RULE, Direction.EGRESS, Action.ACCEPT),
    Meter(FORMER_RULES, Direction.INGRESS, Action.REJECT),
    Meter(FORMER_RULES, Direction.INGRESS, Action.ACCEPT),
    Meter(FORMER_RULES, Direction.EGRESS, Action.REJECT),
    Meter(FORMER_RULES, Direction.EGRESS, Action.ACCEPT),
]


def test_the_meters_of_a_filter_in_full() -> None:
    names = meter_names(Filter(MIXED), ["tmfr-9", "tmfr-3", "tmfr-5", None, "tmfr-2"])
    assert meters_of(names) == (
        *FIXED,
        Meter("tmfr-2", Direction.INGRESS, Action.ACCEPT),
        Meter("tmfr-5", Direction.INGRESS, Action.REJECT),
        Meter("tmfr-3", Direction.INGRESS, Action.ACCEPT),
        Meter("number 1", Direction.EGRESS, Action.ACCEPT),
        Meter("tmfr-9", Direction.EGRESS, Action.REJECT),
    )
    assert len(FIXED) == abi.METER_RULES


def test_each_rule_in_the_kernel_names_the_meter_that_is_named_after_it() -> None:
    meters = meters_of(meter_names(Filter(MIXED), [None] * len(MIXED)))
    value = filter_bytes(Filter(MIXED))
    entry = abi.FilterEntry.from_buffer_copy(value)
    found = set()
    for i, direction in enumerate(abi.DIRECTIONS):
        for j, (family, rule_type) in enumerate(zip(abi.FAMILIES, (abi.Rule4, abi.Rule6), strict=True)):
            listed = [one for one in MIXED if one.direction is direction and one.source.version == family]
            for position in range(len(listed)):
                written = rule_type.from_buffer_copy(
                    value, entry.rules[i][j] * abi.CELL_BYTES + position * len_of(rule_type)
                )
                action = Action.ACCEPT if written.criteria.accepts else Action.REJECT
                assert meters[written.criteria.meter] == Meter(f"number {written.criteria.number}", direction, action)
                found.add(written.criteria.number)
    assert found == {one.number for one in MIXED}


def len_of(rule_type: type[abi.Rule4] | type[abi.Rule6]) -> int:
    return len(bytes(rule_type()))


def test_a_rule_id_that_no_meter_can_bear_is_refused() -> None:
    assert meters_of(meter_names(Filter((rule(1),)), ["a" * 30]))[-1].rule_id == "a" * 30
    with pytest.raises(ValueError, match="longer than 30 bytes"):
        meter_names(Filter((rule(1),)), ["a" * 31])


def test_the_digest_tells_other_rules_and_another_order_apart() -> None:
    one, two = (meter_names(Filter((rule(1), rule(2))), ids) for ids in (["a", "b"], ["b", "a"]))
    assert digest_of(one) != digest_of(two)
    assert digest_of(one) == digest_of(bytes(bytearray(one)))


def test_a_rule_goes_on_under_its_id_and_a_deleted_one_among_the_former() -> None:
    before = [*FIXED, *(Meter(one, Direction.INGRESS, Action.ACCEPT) for one in ("stays", "goes", "changes"))]
    after = [
        *FIXED,
        Meter("new", Direction.INGRESS, Action.ACCEPT),
        Meter("changes", Direction.INGRESS, Action.REJECT),
        Meter("stays", Direction.INGRESS, Action.ACCEPT),
    ]
    counted = [
        Tally(1, 10),
        Tally(),
        Tally(),
        Tally(2, 20),
        Tally(),
        Tally(),
        Tally(4, 40),
        Tally(8, 80),
        Tally(16, 160),
    ]
    begin = dict(zip(after, carried(before, counted, after), strict=True))
    assert {meter: tally for meter, tally in begin.items() if tally.packets} == {
        Meter(AMAZON_DNS_RULE, Direction.INGRESS, Action.ACCEPT): Tally(1, 10),
        Meter("stays", Direction.INGRESS, Action.ACCEPT): Tally(4, 40),
        Meter(FORMER_RULES, Direction.INGRESS, Action.ACCEPT): Tally(26, 260),  # what it took while it accepted, too
    }


rules_drawn = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(Direction), st.sampled_from(Action)),
    unique_by=lambda drawn: drawn[0],
)


@given(st.lists(rules_drawn, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_no_figure_is_lost_or_doubled_by_any_way_through_filters(
    filters: list[list[tuple[str, Direction, Action]]], random: object
) -> None:
    counted: Counter[tuple[Direction, Action]] = Counter()
    meters, tallies = tuple(FIXED), [Tally()] * len(FIXED)
    for drawn in filters:
        listed = tuple(rule(number, direction, action) for number, (_, direction, action) in enumerate(drawn, 1))
        after = meters_of(meter_names(Filter(listed), [rule_id for rule_id, _, _ in drawn]))
        tallies = carried(meters, tallies, after)
        meters = after
        for place, meter in enumerate(meters):
            packets = random.randrange(3)  # type: ignore[attr-defined]
            tallies[place] += Tally(packets, packets * 100)
            counted[meter.direction, meter.action] += packets
        for direction in Direction:
            for action in Action:
                of_all = [
                    tally.packets
                    for meter, tally in zip(meters, tallies, strict=True)
                    if (meter.direction, meter.action) == (direction, action)
                ]
                assert sum(of_all) == counted[direction, action]
    assert sum(tally.bytes for tally in tallies) == 100 * sum(counted.values())


tallies_drawn = st.tuples(st.integers(0, 2**60), st.integers(0, 2**60))


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.lists(st.lists(tallies_drawn, min_size=n, max_size=n), min_size=1, max_size=8)
    )
)
def test_a_sum_over_cpus_carries_nothing_from_one_figure_into_another(rows: list[list[tuple[int, int]]]) -> None:
    packed = [b"".join(struct.pack("<QQ", *tally) for tally in row) for row in rows]
    expected = [Tally(sum(p for p, _ in column), sum(b for _, b in column)) for column in zip(*rows, strict=True)]
    assert summed(packed) == expected

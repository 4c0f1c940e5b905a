"""A filter's bytes, read as bpf/trees.h reads them, decide as the model does."""

import ctypes
import random
import time
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.agent.classifier import cell_count, filter_bytes
from pktmirror.model import evaluation
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, NetworkService, PortRange, Rule
from tests.budget import examples
from tests.unit.agent.large_filters import BITS, LARGE, Asked, asked_of, network

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
BUILD_S_MAX = 2.0  # on a machine that does other things besides; bench/classification.py measures


def head(value: bytes) -> abi.FilterEntry:
    return abi.FilterEntry.from_buffer_copy(value)


def rules_of(value: bytes, direction: int, family: int) -> list[abi.Rule4 | abi.Rule6]:
    """The list of rules of a direction; it ends where the next one begins, or the nodes."""
    entry = head(value)
    starts = [start for starts in entry.rules for start in starts]
    at = direction * 2 + abi.FAMILIES.index(family)
    kind = abi.Rule4 if family == 4 else abi.Rule6
    roots = [root * abi.CELL_BYTES for d in entry.forests for f in d for forest in f for root in forest.roots]
    end = starts[at + 1] * abi.CELL_BYTES if at < 3 else min(roots)
    start = starts[at] * abi.CELL_BYTES
    return [kind.from_buffer_copy(value, offset) for offset in range(start, end, ctypes.sizeof(kind))]


def position_in(value: bytes, direction: int, asked: Asked) -> int | None:
    """What the trees say: where the first rule that matches stands."""
    family = asked.source.version
    words = words_of(asked)
    kind = (
        abi.PORTS_MEANINGLESS
        if asked.protocol not in (TCP, UDP)
        else (abi.PORTS_HIDDEN if asked.source_port is None else abi.PORTS_SHOWN)
    )
    forest = head(value).forests[direction][abi.FAMILIES.index(family)][kind]
    listed = rules_of(value, direction, family)
    best = None
    for root in forest.roots[: forest.tree_count]:
        node = abi.Node.from_buffer_copy(value, root * abi.CELL_BYTES)
        for _ in range(forest.steps):
            word = words[node.word_children & abi.WORDS - 1]
            above = sum(word >= threshold for threshold in node.thresholds)
            last = node.word_children & ~(abi.WORDS - 1)
            child = last - (abi.NODE_CHILDREN - 1 - above) * abi.CELL_BYTES
            node = abi.Node.from_buffer_copy(value, child)
        assert node.word_children & abi.WORDS - 1 == abi.WORD_LEAF, "the walk ends before the leaf"
        at = node.thresholds[0] * 2
        count = int.from_bytes(value[at : at + 2], "little")
        for offset in range(at + 2, at + 2 + 2 * count, 2):
            position = int.from_bytes(value[offset : offset + 2], "little")
            if (best is None or position < best) and meets(listed[position], words, kind):
                best = position
    return best


def words_of(asked: Asked) -> list[int]:
    words = [0] * abi.WORDS
    for first, address in ((abi.WORD_SOURCE, asked.source), (abi.WORD_DESTINATION, asked.destination)):
        for word in range(len(address.packed) // 4):
            words[first + word] = int.from_bytes(address.packed[4 * word : 4 * word + 4])
    words[abi.WORD_SOURCE_PORT] = asked.source_port or 0
    words[abi.WORD_DESTINATION_PORT] = asked.destination_port or 0
    words[abi.WORD_PROTOCOL] = asked.protocol
    words[abi.WORD_LEAF] = 0xFFFFFFFF
    return words


def meets(rule: abi.Rule4 | abi.Rule6, words: list[int], kind: int) -> bool:
    criteria = rule.criteria
    sides = [
        (abi.WORD_SOURCE, rule.source, rule.source_mask),
        (abi.WORD_DESTINATION, rule.destination, rule.destination_mask),
    ]
    for first, numbers, masks in sides:
        pairs = [(numbers, masks)] if isinstance(rule, abi.Rule4) else list(zip(numbers, masks, strict=True))
        if any((words[first + i] ^ number) & mask for i, (number, mask) in enumerate(pairs)):
            return False
    if (words[abi.WORD_PROTOCOL] ^ criteria.protocol) & criteria.protocol_mask:
        return False
    source, destination = words[abi.WORD_SOURCE_PORT], words[abi.WORD_DESTINATION_PORT]
    return kind != abi.PORTS_SHOWN or (
        criteria.source_port_first <= source <= criteria.source_port_last
        and criteria.destination_port_first <= destination <= criteria.destination_port_last
    )


def assert_decides_as_the_model(filter_: Filter, value: bytes, asked: Asked) -> None:
    decision = evaluation.decide(filter_, Direction.INGRESS, asked, amazon_dns=False)
    position = position_in(value, 0, asked)
    listed = rules_of(value, 0, asked.source.version)
    found = None if position is None else (listed[position].criteria.number, bool(listed[position].criteria.accepts))
    assert found == (decision.rule and (decision.rule.number, decision.taken)), asked


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    """Up to 100 rules of both families and directions, whose prefixes and ports are near each other."""
    rules = []
    for number in draw(st.lists(st.integers(1, 32766), max_size=100, unique=True)):
        family = draw(st.sampled_from((4, 6)))
        prefixes = [
            network(family, draw(st.integers(0, 15)) << BITS[family] - 4, draw(st.integers(0, 4))) for _ in range(2)
        ]
        ranges = [
            PortRange(*sorted((draw(st.integers(0, 5)), draw(st.integers(0, 5))))) if draw(st.booleans()) else None
            for _ in range(2)
        ]
        action = draw(st.sampled_from(Action))
        protocol = draw(st.sampled_from((None, TCP, UDP, 1)))
        rules.append(Rule(number, draw(st.sampled_from(Direction)), action, *prefixes, protocol, *ranges))
    return Filter(tuple(rules))


@settings(deadline=None, max_examples=examples(100))
@given(filters(), st.randoms(use_true_random=False))
def test_the_first_rule_that_matches_is_found(filter_: Filter, draw: random.Random) -> None:
    value = filter_bytes(filter_)
    assert value == filter_bytes(Filter(tuple(reversed(filter_.rules)))), "equal filters, other bytes"
    for _ in range(20):
        if filter_.rules:
            assert_decides_as_the_model(filter_, value, asked_of(filter_.rules, draw))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("count", [10, 300, 10_000])
@pytest.mark.parametrize("name", LARGE)
def test_the_first_rule_that_matches_is_found_in_any_filter(name: str, count: int, family: int) -> None:
    filter_ = LARGE[name](count, family)
    assert len(filter_.rules) == count <= abi.RULES_MAX
    started_s = time.process_time()
    value = filter_bytes(filter_)
    assert time.process_time() - started_s < BUILD_S_MAX
    assert len(value) == cell_count(value) * abi.CELL_BYTES
    draw = random.Random(count)
    for _ in range(max(5, examples(60_000) // (count + 500))):
        assert_decides_as_the_model(filter_, value, asked_of(filter_.rules, draw))


def test_rules_stand_by_direction_and_family_in_ascending_number() -> None:
    rules = [
        Rule(30, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4, 30),
        Rule(7, Direction.EGRESS, Action.ACCEPT, ANY4, ANY4, 7),
        Rule(10, Direction.INGRESS, Action.REJECT, ANY4, ANY4, 10),
        Rule(20, Direction.INGRESS, Action.ACCEPT, ANY6, ANY6, 20),
    ]
    value = filter_bytes(Filter(tuple(rules)))
    listed = {(d, f): [each.criteria for each in rules_of(value, d, f)] for d in (0, 1) for f in abi.FAMILIES}
    assert {
        place: [(each.number, each.protocol, each.accepts) for each in there] for place, there in listed.items()
    } == {
        (0, 4): [(10, 10, 0), (30, 30, 1)],
        (0, 6): [(20, 20, 1)],
        (1, 4): [(7, 7, 1)],
        (1, 6): [],
    }
    assert head(value).amazon_dns == 0


def test_a_rule_in_full() -> None:
    rule = Rule(
        258,
        Direction.INGRESS,
        Action.ACCEPT,
        ip_network("10.0.0.0/9"),
        ip_network("192.0.2.7/32"),
        6,
        PortRange(1024, 65535),
        PortRange(22, 22),
    )
    [written] = rules_of(filter_bytes(Filter((rule,))), 0, 4)
    numbers = (0x0A000000, 0xFF800000, 0xC0000207, 0xFFFFFFFF)
    assert bytes(bytearray(written)) == (
        b"".join(number.to_bytes(4, "little") for number in numbers)
        + b"".join(port.to_bytes(2, "little") for port in (1024, 65535, 22, 22))
        + bytes((6, 0xFF, 1, 0))
        + (258).to_bytes(2, "little")
        + abi.METER_RULES.to_bytes(2, "little")
    )


def test_a_rule_for_ipv6_with_no_protocol_and_no_ports() -> None:
    rule = Rule(1, Direction.EGRESS, Action.REJECT, ip_network("fd00:1:2:3:400::/72"), ANY6)
    [written] = rules_of(filter_bytes(Filter((rule,))), 1, 6)
    assert list(written.source) == [0xFD000001, 0x00020003, 0x04000000, 0]
    assert list(written.source_mask) == [0xFFFFFFFF, 0xFFFFFFFF, 0xFF000000, 0]
    assert (list(written.destination), list(written.destination_mask)) == ([0] * 4, [0] * 4)
    criteria = written.criteria
    assert (criteria.source_port_first, criteria.source_port_last) == (0, 65535)
    assert (criteria.protocol, criteria.protocol_mask, criteria.accepts) == (0, 0, 0)


def test_protocol_0_is_a_protocol_and_not_any() -> None:
    rule = Rule(1, Direction.INGRESS, Action.ACCEPT, ANY6, ANY6, 0)
    [written] = rules_of(filter_bytes(Filter((rule,))), 0, 6)
    assert (written.criteria.protocol, written.criteria.protocol_mask) == (0, 0xFF)


def test_one_port_range_leaves_the_other_open() -> None:
    rule = Rule(1, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4, 17, None, PortRange(53, 54))
    [written] = rules_of(filter_bytes(Filter((rule,))), 0, 4)
    assert (written.criteria.source_port_first, written.criteria.source_port_last) == (0, 65535)
    assert (written.criteria.destination_port_first, written.criteria.destination_port_last) == (53, 54)


def test_the_network_service_is_in_the_filter() -> None:
    with_dns = Filter(services=frozenset({NetworkService.AMAZON_DNS}))
    assert head(filter_bytes(with_dns)).amazon_dns == 1


def test_kinds_of_packets_that_the_same_rules_match_share_their_trees() -> None:
    rules = tuple(Rule(n, Direction.INGRESS, Action.ACCEPT, network(4, n << 8, 24), ANY4) for n in range(1, 1001))
    with_ports = Rule(1001, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4, TCP, None, PortRange(22, 22))
    shared = head(filter_bytes(Filter(rules))).forests[0][0]
    assert {tuple(forest.roots) for forest in shared} == {tuple(shared[0].roots)}
    apart = head(filter_bytes(Filter((*rules, with_ports)))).forests[0][0]
    roots = [tuple(forest.roots) for forest in apart]
    assert roots[abi.PORTS_SHOWN] != roots[abi.PORTS_HIDDEN] == roots[abi.PORTS_MEANINGLESS]

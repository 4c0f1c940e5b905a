"""What each rule of each session decided, exactly: in the programs, and in the blocks in which they count."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from pktmirror.agent import abi
from pktmirror.agent.meter_blocks import MeterBlocks
from pktmirror.agent.meters import NAME_BYTES, MeterRange, digest_of, meter_names
from pktmirror.kernel import bpf
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP as PROTOCOL_TCP
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES, RuleLedger, Tally
from tests.kernel.bench import Bench, Counted, Offload, expected
from tests.kernel.frames import IPV4, TCP, UDP, ethernet
from tests.kernel.policies import Scene, scene, session
from tests.unit.packet.frames import ipv4, tcp, udp

pytestmark = pytest.mark.root

ANY4 = ip_network("0.0.0.0/0")
IN = Direction.INGRESS
SSH = ethernet(IPV4, ipv4(tcp(40000, 22), TCP))
ROW = 7


def rejecting(number: int, first: int, last: int) -> Rule:
    return Rule(number, IN, Action.REJECT, ANY4, ANY4, PROTOCOL_TCP, None, PortRange(first, last))


def twice(bench: Bench, scene_: Scene, frame: bytes) -> Counted:
    """Decided, and then from memory."""
    model = expected(scene_, frame, at_ingress=True)
    for _ in range(3):
        assert bench.run(frame, at_ingress=True) == model
    return model


@pytest.mark.parametrize("count", [1, 2, 4, 5, 64])
def test_every_session_that_rejects_counts_its_own_rule_also_from_memory(bench: Bench, count: int) -> None:
    """Session n rejects by its n-th rule; the last one takes."""
    filters = [
        Filter(
            tuple(rejecting(number, 22 if number == n else 1, 22 if number == n else 2) for number in range(1, n + 1))
        )
        for n in range(1, count)
    ]
    filters.append(Filter((Rule(1, IN, Action.ACCEPT, ANY4, ANY4),)))
    scene_ = scene([session(n + 1, n) for n in range(count)], filters, is_host_side=False)
    bench.write(scene_)
    counted = twice(bench, scene_, SSH)
    by_rule = {name[0] for _, _, name in counted if isinstance(name, tuple)}
    assert by_rule == {f"number {n}" for n in range(1, count)} | {"number 1"}
    assert sum(name is Verdict.REJECTED_BY_RULE for _, _, name in counted) == count - 1


def test_flows_that_are_rejected_by_different_rules_do_not_mix_their_memories(bench: Bench) -> None:
    filters = [
        Filter(tuple(rejecting(port + n, port, port) for port in range(1, 60))) for n in (0, 100, 200, 300, 400, 500)
    ]
    scene_ = scene([session(n + 1, n) for n in range(6)], filters, is_host_side=False)
    bench.write(scene_)
    frames = [ethernet(IPV4, ipv4(tcp(40000 + port, port), TCP)) for port in range(1, 60)]
    for _ in range(2):
        for frame in frames:
            assert bench.run(frame, at_ingress=True) == expected(scene_, frame, at_ingress=True)


def test_a_super_packet_is_many_matches_and_amazon_dns_is_no_rule_s(bench: Bench) -> None:
    filter_ = Filter((Rule(1, IN, Action.ACCEPT, ANY4, ANY4),), frozenset({NetworkService.AMAZON_DNS}))
    scene_ = scene([session(1, 0)], [filter_], resolvers=[ip_address("10.0.0.2")], is_host_side=False)
    bench.write(scene_)
    large = ethernet(IPV4, ipv4(tcp(payload=bytes(3000)), TCP))
    wire = 3, 3000 + 3 * 54
    counted = bench.run(large, at_ingress=True, offload=Offload(1000))
    assert counted == expected(scene_, large, at_ingress=True, wire=wire)
    assert counted[0, IN, ("number 1", Action.ACCEPT)] == wire
    ask = ethernet(IPV4, ipv4(udp(40000, 53), UDP, destination="10.0.0.2"))
    assert (0, IN, (AMAZON_DNS_RULE, Action.ACCEPT)) in twice(bench, scene_, ask)


def test_what_all_cpus_counted_is_one_figure(bench: Bench) -> None:
    scene_ = scene([session(1, 0)], [Filter((Rule(1, IN, Action.ACCEPT, ANY4, ANY4),))], is_host_side=False)
    bench.write(scene_)
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("this machine has one CPU")
    program = bench.program(at_ingress=True)
    try:
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            program.test_run(SSH)
        assert bench.matched() == {(0, IN, ("number 1", Action.ACCEPT)): Tally(len(allowed), len(allowed) * len(SSH))}
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def blocks_of(loaded: bpf.Object) -> Iterator[MeterBlocks]:
    with loaded.map("meters") as meters, loaded.map("meter_notes") as notes, loaded.map("meter_ranges") as ranges:
        blocks = MeterBlocks(meters, notes, ranges)
        yield blocks
        blocks.close()


@pytest.fixture
def blocks(loaded: bpf.Object) -> Iterator[MeterBlocks]:
    with blocks_of(loaded) as blocks:
        yield blocks
        blocks.drop(ROW)


def names_of(*rule_ids: str) -> bytes:
    listed = tuple(Rule(number, IN, Action.ACCEPT, ANY4, ANY4) for number, _ in enumerate(rule_ids, 1))
    return meter_names(Filter(listed), rule_ids)


def range_of(first: int, names: bytes) -> MeterRange:
    return MeterRange(first, len(names) // NAME_BYTES, digest_of(names))


def accepted(rule_id: str, packets: int) -> RuleLedger:
    return RuleLedger(rule_id, IN, Action.ACCEPT, Tally(packets, packets * len(SSH)))


def test_figures_go_on_in_other_meters_block_after_block(bench: Bench, loaded: bpf.Object) -> None:
    """3,000 rules that begin in the midst of a block; the one that decides is far behind, and then elsewhere."""
    decides = Rule(5000, IN, Action.ACCEPT, ANY4, ANY4)
    before = Filter((*(rejecting(number, 1, 2) for number in range(1, 3000)), decides))
    bench.write(scene([session(1, 0)], [before], is_host_side=False))
    for _ in range(3):
        bench.run(SSH, at_ingress=True)
    after = meter_names(
        Filter((decides, *(rejecting(number, 1, 2) for number in range(5001, 5002)))), ["number 5000", "new"]
    )
    with blocks_of(loaded) as blocks:
        held = blocks.ranges({})[0]
        assert (held.count, held.is_whole) == (abi.METER_RULES + 3000, True)
        assert blocks.figures(0, held) == (accepted("number 5000", 3),)
        for first in (5 * abi.METERS_A_BLOCK - 3, 7 * abi.METERS_A_BLOCK):
            range_ = range_of(first, after)
            blocks.write(0, range_, after)
            assert blocks.figures(0, range_) == (), "meters begin at zero"
            blocks.carry(0)
            assert blocks.ranges({})[0] == range_
            assert blocks.figures(0, range_) == (accepted("number 5000", 3),)


def test_an_agent_that_ends_before_the_swap_has_changed_nothing(blocks: MeterBlocks) -> None:
    one, two = names_of("a"), names_of("b")
    blocks.write(ROW, range_of(9000, one), one)
    blocks.carry(ROW)
    blocks.write(ROW, range_of(9100, two), two)
    assert blocks.ranges({ROW: {9000}})[ROW] == range_of(9000, one)
    assert blocks.ranges({ROW: {9100}})[ROW] == range_of(9000, one), "it was forgotten, not put off"


def test_an_agent_that_ends_after_the_swap_leaves_what_the_next_one_carries_on(
    bench: Bench, loaded: bpf.Object
) -> None:
    one = Rule(1, IN, Action.ACCEPT, ANY4, ANY4)
    bench.write(scene([session(1, 0)], [Filter((one,))], is_host_side=False))
    for _ in range(5):
        bench.run(SSH, at_ingress=True)
    after = names_of("new")
    with blocks_of(loaded) as killed:
        killed.write(0, range_of(9000, after), after)
    with blocks_of(loaded) as next_:
        held = next_.ranges({0: {9000}})[0]
        assert held == range_of(9000, after)
        assert next_.figures(0, held) == (accepted(FORMER_RULES, 5),)


def test_a_session_whose_rules_were_not_counted_for_a_time_stays_marked(blocks: MeterBlocks) -> None:
    one, two = names_of("a"), names_of("b")
    lacking = MeterRange(0, 0, bytes(16), is_whole=False)
    blocks.put(ROW, lacking)
    assert blocks.ranges({})[ROW] == lacking
    for first, names in ((9000, one), (9100, two)):
        blocks.write(ROW, MeterRange(first, len(names) // NAME_BYTES, digest_of(names), is_whole=False), names)
        blocks.carry(ROW)
        assert blocks.ranges({})[ROW].is_whole is False
    blocks.drop(ROW)
    assert ROW not in blocks.ranges({})


def test_a_session_without_meters_is_decided_all_the_same(bench: Bench) -> None:
    scene_ = scene([session(1, 0)], [Filter((Rule(1, IN, Action.ACCEPT, ANY4, ANY4),))], is_host_side=False)
    bench.write(scene_, meters=0)
    counted = bench.run(SSH, at_ingress=True)
    assert (0, IN, Verdict.TAKEN) in counted
    assert counted == {
        key: tally for key, tally in expected(scene_, SSH, at_ingress=True).items() if not isinstance(key[2], tuple)
    }

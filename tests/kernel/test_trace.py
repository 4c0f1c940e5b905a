"""The bounded trace: what a hook records of a packet, what the far end records of a copy, and how it ends."""

import struct
import time
from collections.abc import Iterator
from enum import Enum
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.agent.policies import Policies
from pktmirror.agent.tracer import KernelTrace
from pktmirror.agent.traces import Policy, packet, request
from pktmirror.desired import DesiredSession, Destination
from pktmirror.kernel import bpf
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.tracing import Offered, Selection, TracedPacket
from tests.kernel.bench import LOOPBACK_IFINDEX, Bench, Offload
from tests.kernel.frames import ARP, IPV4, IPV6, OTHER_MAC, ethernet, frames
from tests.kernel.policies import REACHABLE, Scene, scene, scenes
from tests.unit.packet.frames import ipv4, ipv6, tcp, udp

pytestmark = pytest.mark.root

ANY4 = ip_network("0.0.0.0/0")
LOGIN = ethernet(IPV4, ipv4(tcp(40000, 22, payload=b"login"), TCP))
OTHER_PORT = ethernet(IPV4, ipv4(tcp(40000, 23, payload=b"login"), TCP))
DATAGRAM = ethernet(IPV4, ipv4(udp(40000, 9), UDP))
TC_ACT_SHOT, TC_ACT_REDIRECT = 2, 7
ENDS_IN_S = 60.0


def numbered(number: int, packet_bytes_max: int | None = None) -> DesiredSession:
    return DesiredSession(
        session_id=f"tms-{number:017x}",
        number=number,
        vni=number,
        filter_id=str(number - 1),
        packet_bytes_max=packet_bytes_max,
        delivery=Destination(address=str(REACHABLE)),
    )


def tcp_to(port: int, action: Action = Action.ACCEPT) -> Filter:
    return Filter((Rule(100, Direction.INGRESS, action, ANY4, ANY4, TCP, None, PortRange(port, port)),))


ONE, TWO = numbered(1), numbered(2)
SCENE = scene([ONE, TWO], [tcp_to(22, Action.REJECT), tcp_to(22)], is_host_side=False)


class Trace:
    """A trace of the bench's interface; its maps are those of the loaded object."""

    def __init__(self, loaded: bpf.Object) -> None:
        names = ("trace", "trace_state", "trace_ring", "interfaces", "far_interfaces")
        self.maps = [loaded.map(name) for name in names]
        self.kernel = KernelTrace(*self.maps[:3], Policies(*self.maps[3:]))
        self._number = 0

    def begin(
        self,
        selection: Selection | None = None,
        *,
        packets_max: int = 100,
        seconds: float = ENDS_IN_S,
        rate: bool = False,
    ) -> None:
        self._number += 1
        entry = request(
            selection or Selection(),
            trace_id=self._number,
            ifindex=LOOPBACK_IFINDEX,
            packets_max=packets_max,
            until_ns=time.monotonic_ns() + int(seconds * 10**9),
        )
        entry.packet_ticks = entry.packet_ticks if rate else 0
        self.kernel.begin(entry)

    def packets(self, scene_: Scene) -> list[TracedPacket]:
        """What is read now, and decided by the policy in force."""
        (interface,) = scene_.state.interfaces
        ids = tuple(one.session_id for one in sorted(interface.sessions, key=lambda session: session.number))
        entry = self.kernel.policy(LOOPBACK_IFINDEX)
        assert entry is not None
        policies = {entry.generation: Policy(ids, 7)}
        return [packet(record, {}, 0, policies, clock_ns=0) for record in self.kernel.read()]

    def close(self) -> None:
        self.kernel.end()
        for map_ in self.maps:
            map_.close()


@pytest.fixture
def trace(loaded: bpf.Object, bench: Bench) -> Iterator[Trace]:
    trace = Trace(loaded)
    yield trace
    trace.close()


def test_nothing_is_recorded_while_nobody_asks(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin()
    trace.kernel.end()
    bench.run(LOGIN, at_ingress=True)
    trace.begin()  # what was left in the ring would be read now
    assert trace.kernel.read() == []
    state = trace.kernel.state()
    assert (state.taken, state.skipped, state.lost) == (0, 0, 0)


def test_a_packet_is_told_with_every_session_that_was_asked_and_where_its_copy_came_to(
    bench: Bench, trace: Trace
) -> None:
    bench.write(SCENE)
    trace.begin()
    before_ns = time.monotonic_ns()
    bench.run(LOGIN, at_ingress=True)
    [told] = trace.packets(SCENE)
    assert before_ns < told.time_ns < time.monotonic_ns()
    assert replace_time(told) == TracedPacket(
        time_ns=0,
        direction=Direction.INGRESS,
        bytes=len(LOGIN),
        packets=1,
        outcome=InterfaceOutcome.TAKEN,
        protocol=TCP,
        source="10.0.0.6",
        destination="10.0.0.48",
        source_port=40000,
        destination_port=22,
        revision=7,
        offers=(Offered(ONE.session_id, Verdict.REJECTED_BY_RULE), Offered(TWO.session_id, Verdict.TAKEN)),
        taken_by=TWO.session_id,
        stage=Stage.CLONE_FAILED.value,  # the bench's hop does not exist
    )
    bench.run(OTHER_PORT, at_ingress=True)
    [told] = trace.packets(SCENE)
    assert (told.outcome, told.taken_by, told.stage) == (InterfaceOutcome.NOT_TAKEN, None, None)
    assert told.offers == tuple(Offered(each.session_id, Verdict.NO_RULE_MATCHED) for each in (ONE, TWO))


def test_a_remembered_decision_is_told_like_the_first(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin()
    for _ in range(3):
        bench.run(LOGIN, at_ingress=True)
    first, *others = (replace_time(told) for told in trace.packets(SCENE))
    assert others == [first, first]


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        pytest.param(ethernet(ARP, bytes(28)), InterfaceOutcome.NEVER_MIRRORED, id="ARP"),
        pytest.param(ethernet(0x88CC, bytes(40)), InterfaceOutcome.NOT_IP, id="LLDP"),
        pytest.param(ethernet(IPV6, bytes(60)), InterfaceOutcome.MALFORMED, id="no IPv6"),
        pytest.param(
            ethernet(IPV4, ipv4(tcp(1, 22), TCP), destination=OTHER_MAC),
            InterfaceOutcome.NOT_FOR_THIS_INTERFACE,
            id="somebody else's",
        ),
    ],
)
def test_what_no_session_is_asked_about_has_its_outcome_and_no_offer(
    bench: Bench, trace: Trace, frame: bytes, outcome: InterfaceOutcome
) -> None:
    bench.write(SCENE)
    trace.begin()
    bench.run(frame, at_ingress=True)
    [told] = trace.packets(SCENE)
    assert (told.outcome, told.offers, told.taken_by, told.stage) == (outcome, (), None, None)
    assert (told.bytes, told.packets) == (len(frame), 1)


def test_a_super_packet_is_told_as_the_packets_that_it_becomes(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin()
    bench.run(ethernet(IPV4, ipv4(tcp(40000, 22, payload=bytes(2500)), TCP)), at_ingress=True, offload=Offload(1000))
    [told] = trace.packets(SCENE)
    assert (told.packets, told.bytes) == (3, 2500 + 3 * 54)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=scenes(rules_max=60), frame=frames(), at_ingress=st.booleans())
def test_what_is_told_is_what_the_ledger_counts(
    bench: Bench, trace: Trace, drawn: Scene, frame: bytes, at_ingress: bool
) -> None:
    bench.write(drawn)
    trace.begin()
    counted = bench.run(frame, at_ingress=at_ingress)
    [told] = trace.packets(drawn)
    assert told.offers is not None
    rows = {each: row for row, each in enumerate(_ids(drawn))}
    names: list[tuple[int, Enum]] = [(0, told.outcome)]
    names += [(rows[offer.session_id], offer.verdict) for offer in told.offers]
    names += [(rows[told.taken_by], Stage(told.stage))] if told.taken_by is not None and told.stage is not None else []
    assert {(row, told.direction, name): (told.packets, told.bytes) for row, name in names} == {
        key: figures
        for key, figures in counted.items()
        if key[2] is not Stage.TARGET_REFUSED
        and not isinstance(key[2], tuple)  # which names a rule: not the kernel's to tell
    }


@pytest.mark.parametrize(
    ("selection", "asked_for"),
    [
        pytest.param(Selection(), {"login", "datagram", "v6", "arp"}, id="everything"),
        pytest.param(Selection(direction=Direction.INGRESS), {"login", "datagram", "v6", "arp"}, id="the direction"),
        pytest.param(Selection(direction=Direction.EGRESS), set(), id="the other direction"),
        pytest.param(Selection(protocol=TCP), {"login", "v6"}, id="a protocol"),
        pytest.param(Selection(protocol=0), set(), id="protocol 0 is one, and is not any"),
        pytest.param(Selection(source="10.0.0.6"), {"login", "datagram"}, id="a source"),
        pytest.param(Selection(source="10.0.0.0/29"), {"login", "datagram"}, id="a network"),
        pytest.param(Selection(source="10.0.0.48"), set(), id="the source is not the destination"),
        pytest.param(Selection(destination="10.0.0.48", protocol=UDP), {"datagram"}, id="a destination"),
        pytest.param(Selection(source="0.0.0.0/0"), {"login", "datagram"}, id="a family"),
        pytest.param(Selection(destination="::/0"), {"v6"}, id="the other family"),
        pytest.param(Selection(destination_ports=PortRange(22, 22)), {"login", "v6"}, id="a port"),
        pytest.param(Selection(destination_ports=PortRange(9, 21)), {"datagram"}, id="the last port is the last"),
        pytest.param(Selection(source_ports=PortRange(22, 22)), set(), id="the ports are not each other's"),
    ],
)
def test_only_what_is_asked_for_is_recorded(
    bench: Bench, trace: Trace, selection: Selection, asked_for: set[str]
) -> None:
    bench.write(SCENE)
    trace.begin(selection)
    sent = {
        "login": LOGIN,
        "datagram": DATAGRAM,
        "v6": ethernet(IPV6, ipv6(tcp(40000, 22), TCP)),
        "arp": ethernet(ARP, bytes(28)),
    }
    recorded = set()
    for name, frame in sent.items():
        bench.run(frame, at_ingress=True)
        recorded |= {name for _ in trace.kernel.read()}
    assert recorded == asked_for
    assert trace.kernel.state().skipped == 0, "what is not asked for is not skipped either"


def test_another_interface_is_not_traced(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin()
    entry = abi.TraceRequest.from_buffer_copy(trace.maps[0].get(bytes(4)) or b"")
    entry.ifindex += 1
    trace.maps[0].put(bytes(4), bytes(bytearray(entry)))
    bench.run(LOGIN, at_ingress=True)
    assert trace.kernel.read() == []


def test_it_ends_with_the_number_that_was_asked_for_and_counts_what_it_skips(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin(packets_max=3)
    for _ in range(5):
        bench.run(LOGIN, at_ingress=True)
    assert len(trace.kernel.read()) == 3
    state = trace.kernel.state()
    assert (state.taken, state.skipped, state.lost) == (3, 2, 0)


def test_it_ends_with_its_time_whoever_asked(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin(seconds=0)
    bench.run(LOGIN, at_ingress=True)
    assert (trace.kernel.read(), trace.kernel.state().taken) == ([], 0)


def test_it_takes_no_more_than_its_rate_with_a_tenth_of_a_second_saved_up(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin(packets_max=10_000, rate=True)
    started_s = time.monotonic()
    ran = 2_000
    bench.program(at_ingress=True).test_run(LOGIN, repeat=ran)
    state, passed_s = trace.kernel.state(), time.monotonic() - started_s
    assert 50 <= state.taken <= 51 + 500 * passed_s
    assert state.taken + state.skipped == ran
    assert len(trace.kernel.read()) == state.taken


def test_what_the_ring_has_no_room_for_is_counted(bench: Bench, trace: Trace) -> None:
    bench.write(SCENE)
    trace.begin(packets_max=10_000)
    ran = 3_000
    bench.program(at_ingress=True).test_run(LOGIN, repeat=ran)
    recorded, state = len(trace.kernel.read()), trace.kernel.state()
    assert 2_000 < recorded < ran
    assert (state.taken, state.lost, state.skipped) == (ran, ran - recorded, 0)


class FarEnd:
    """The program at the far end of the finishing hop, given copies as the hop gives them."""

    def __init__(self, loaded: bpf.Object) -> None:
        self._finish = loaded.program("finish")

    def run(self, frame: bytes, mark: int) -> int:
        context = bytearray(180)
        struct.pack_into("<I", context, 8, mark)
        return self._finish.test_run(frame, context=bytes(context)).verdict


def mark_of(trace: Trace, position: int) -> int:
    entry = trace.kernel.policy(LOOPBACK_IFINDEX)
    assert entry is not None
    return int(entry.sessions[position].mark)


@pytest.mark.parametrize(
    ("payload_bytes", "packet_bytes_max", "stage", "copied_bytes"),
    [
        pytest.param(100, None, Stage.SENT, 154, id="whole"),
        pytest.param(100, 64, Stage.SENT, 64, id="as long as the session asks for"),
        pytest.param(1500, None, Stage.CUT, 1464, id="what the MTU leaves"),
    ],
)
def test_the_far_end_tells_what_became_of_a_copy(
    bench: Bench,
    trace: Trace,
    loaded: bpf.Object,
    payload_bytes: int,
    packet_bytes_max: int | None,
    stage: Stage,
    copied_bytes: int,
) -> None:
    session = numbered(1, packet_bytes_max)
    bench.write(scene([session], [tcp_to(22)], is_host_side=False))
    trace.begin()
    frame = ethernet(IPV4, ipv4(tcp(40000, 22, payload=bytes(payload_bytes)), TCP))
    bench.run(frame, at_ingress=True)
    [decision] = trace.kernel.read()
    mark = mark_of(trace, 0)
    assert decision.mark == mark
    assert FarEnd(loaded).run(frame, mark) == TC_ACT_REDIRECT
    assert trace.kernel.read() == [], "a copy of a packet that is not traced"
    assert FarEnd(loaded).run(frame, mark | abi.MARK_TRACED) == TC_ACT_REDIRECT
    [copy] = trace.kernel.read()
    assert (copy.kind, copy.mark, copy.flow) == (abi.TRACE_COPY, decision.mark, decision.flow)
    assert (copy.wire_packets, copy.wire_bytes) == (1, len(frame))
    assert (abi.STAGES[copy.stage], copy.copied_bytes) == (stage, copied_bytes)


def test_a_copy_whose_session_has_changed_on_the_way_is_told_as_stale(
    bench: Bench, trace: Trace, loaded: bpf.Object
) -> None:
    bench.write(SCENE)
    trace.begin()
    mark = mark_of(trace, 0)
    with loaded.map("deliveries") as deliveries:
        key = abi.slot_of(mark).to_bytes(4, "little")
        entry = abi.Delivery.from_buffer_copy(deliveries.get(key) or b"")
        entry.retired_generation, entry.generation = entry.generation, entry.generation + 1
        deliveries.put(key, bytes(bytearray(entry)))
    assert FarEnd(loaded).run(LOGIN, mark | abi.MARK_TRACED) == TC_ACT_SHOT
    [copy] = trace.kernel.read()
    assert (abi.STAGES[copy.stage], copy.flow, copy.copied_bytes) == (Stage.STALE, abi.TRACE_FLOW_UNKNOWN, 0)


def replace_time(told: TracedPacket) -> TracedPacket:
    return TracedPacket(**{name: getattr(told, name) for name in told.__struct_fields__} | {"time_ns": 0})


def _ids(drawn: Scene) -> list[str]:
    (interface,) = drawn.state.interfaces
    return [one.session_id for one in sorted(interface.sessions, key=lambda session: session.number)]

"""The kernel decides as the model does, on whatever frame and under whatever policy.

One frame at a time through the real programs by BPF_PROG_TEST_RUN; the decision is read from all ledgers: what the
model names has moved by this packet and its bytes, and nothing else has.
"""

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.agent.bypass import HookFigures
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction, Filter, Rule
from pktmirror.model.ledger import InterfaceOutcome, Stage
from tests.budget import examples
from tests.kernel.bench import Bench, Offload, expected
from tests.kernel.frames import IPV4, IPV6, SCTP, TCP, UDP, VLAN, ethernet, frames
from tests.kernel.policies import Scene, scene, scenes, session
from tests.unit.packet.frames import ipv4, ipv6, options_header, tcp, udp

pytestmark = pytest.mark.root

MARKS = (0,) * 30 + (1, 0xD5FFFFFF, 0xD8000000, abi.MARK_MAGIC, abi.mark(77, 3), abi.mark(77, 3) | abi.MARK_PROBE)
TAKEN_STAGES = {Stage.CLONE_FAILED, Stage.NO_ROUTE, Stage.UNDELIVERABLE}

EVERYTHING = scene(
    [session(1, 0)],
    [
        Filter(
            tuple(
                Rule(number, Direction.INGRESS, Action.ACCEPT, ip_network(network), ip_network(network))
                for number, network in enumerate(("0.0.0.0/0", "::/0"), start=1)
            )
        )
    ],
    is_host_side=False,
)

arrivals = st.lists(st.tuples(frames(), st.booleans(), st.sampled_from(MARKS)), min_size=6, max_size=30)


@pytest.mark.parametrize(
    ("scenes_drawn", "rules_max", "sessions_max", "frames_min"),
    [
        pytest.param(400, 400, 64, 2_000, id="short", marks=pytest.mark.timeout(600)),  # time to shrink a disagreement
        pytest.param(8_000, 16, 3, 50_000, id="long", marks=(pytest.mark.long, pytest.mark.timeout(1800))),
        pytest.param(150, 10_000, 64, 1_000, id="large", marks=(pytest.mark.long, pytest.mark.timeout(1800))),
    ],
)
def test_the_kernel_and_the_model_agree_on_every_frame(
    bench: Bench, scenes_drawn: int, rules_max: int, sessions_max: int, frames_min: int, say: Callable[[str], None]
) -> None:
    moved: Counter[object] = Counter()

    @settings(max_examples=examples(scenes_drawn), deadline=None, suppress_health_check=list(HealthCheck))
    @given(scenes(rules_max, sessions_max), arrivals)
    def agree(scene: Scene, frames_drawn: list[tuple[bytes, bool, int]]) -> None:
        bench.write(scene)
        for frame, at_ingress, mark in frames_drawn:
            model = expected(scene, frame, at_ingress=at_ingress, mark=mark)
            counted = bench.run(frame, at_ingress=at_ingress, mark=mark)
            assert counted == model
            assert bench.run(frame, at_ingress=at_ingress, mark=mark) == model, "what was remembered is something else"
            moved.update(name for _, _, name in counted)
            moved["frames"] += 1
        for name in {name for _, _, name in counted}:
            event(str(name))

    agree()
    say(f"frames drawn: {moved['frames']}")
    for name in (*Verdict, *InterfaceOutcome, *sorted(TAKEN_STAGES, key=str)):
        say(f"    {name}: {moved[name]}")
    assert moved["frames"] >= frames_min
    for name in (*Verdict, *InterfaceOutcome, *TAKEN_STAGES):
        assert moved[name] >= frames_min // 1000, f"{name} is hardly ever tried: draw frames that lead to it"


def test_an_interface_without_a_policy_counts_nothing(bench: Bench) -> None:
    frame = ethernet(IPV4, ipv4(tcp(40000, 22), TCP))
    bench.write(EVERYTHING)
    assert bench.run(frame, at_ingress=True) == expected(EVERYTHING, frame, at_ingress=True) != {}
    with bench.without_policy():
        assert bench.run(frame, at_ingress=True) == {}


def test_a_resolver_is_an_address_of_its_own_family(bench: Bench) -> None:
    """10.0.0.2 and a00:2:: begin with the same bytes and go on with zeros."""
    scene_ = scene([session(1, 0)], [Filter()], resolvers=[ip_address("10.0.0.2")], is_host_side=True)
    bench.write(scene_)
    ask4 = ethernet(IPV4, ipv4(udp(40000, 53), UDP, destination="10.0.0.2"))
    ask6 = ethernet(IPV6, ipv6(udp(40000, 53), UDP, destination="a00:2::"))
    wanted4 = (0, Direction.INGRESS, Verdict.SERVICE_NOT_ENABLED)
    wanted6 = (0, Direction.INGRESS, Verdict.NO_RULE_MATCHED)
    assert wanted4 in bench.run(ask4, at_ingress=False)
    assert wanted6 in bench.run(ask6, at_ingress=False)


SUPER_PACKETS = {
    "TCP": (ethernet(IPV4, ipv4(tcp(payload=bytes(3000)), TCP)), 54),
    "TCP over IPv4 with options": (ethernet(IPV4, ipv4(tcp(payload=bytes(3000)), TCP, options=bytes(8))), 62),
    "TCP over IPv6": (ethernet(IPV6, ipv6(tcp(payload=bytes(3000)), TCP)), 74),
    "TCP with a tag": (ethernet(IPV4, ipv4(tcp(payload=bytes(3000)), TCP), VLAN), 58),
    "UDP": (ethernet(IPV4, ipv4(udp(payload=bytes(3000)), UDP)), 42),
    "UDP behind an IPv6 extension": (ethernet(IPV6, ipv6(options_header(UDP) + udp(payload=bytes(3000)), 60)), 70),
}


@pytest.mark.parametrize("segment_bytes", [1, 999, 1000, 1001, 2999, 3000, 3001])
@pytest.mark.parametrize("name", SUPER_PACKETS)
def test_a_super_packet_counts_as_the_packets_that_it_becomes(bench: Bench, name: str, segment_bytes: int) -> None:
    frame, header_bytes = SUPER_PACKETS[name]
    payload = frame[header_bytes:]
    assert len(payload) == 3000
    segments = [payload[start : start + segment_bytes] for start in range(0, len(payload), segment_bytes)]
    wire = len(segments), sum(header_bytes + len(segment) for segment in segments)
    bench.write(EVERYTHING)
    counted = bench.run(frame, at_ingress=True, offload=Offload(segment_bytes))
    assert counted == expected(EVERYTHING, frame, at_ingress=True, wire=wire)
    [direction] = [each for each in Direction if any(each in key for key in counted)]
    [other] = set(Direction) - {direction}
    assert bench.hook_figures(direction) == HookFigures(frames=1, packets=len(segments)), "as its device counts it"
    assert bench.hook_figures(other) == HookFigures(0, 0)


def test_a_super_packet_of_another_protocol_counts_as_its_sender_says(bench: Bench) -> None:
    frame = ethernet(IPV4, ipv4(bytes(3000), SCTP))
    bench.write(EVERYTHING)
    counted = bench.run(frame, at_ingress=True, offload=Offload(1000, segments=3))
    assert counted == expected(EVERYTHING, frame, at_ingress=True, wire=(3, len(frame)))
    not_told = bench.run(frame, at_ingress=True, offload=Offload(1000))
    assert not_told == expected(EVERYTHING, frame, at_ingress=True, wire=(1, len(frame)))

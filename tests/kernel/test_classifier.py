"""The kernel's trees find the rule that the model finds, in filters of up to 10,000 rules and at up to 64 sessions; and
what it remembers of a flow is gone with the policy that said it."""

import random
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from pktmirror.agent.hops import PROGRAMS
from pktmirror.kernel import bpf
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP as PROTOCOL_TCP
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from tests.budget import examples
from tests.kernel.bench import Bench, Counted, expected
from tests.kernel.frames import ICMPV6, IPV4, IPV6, TCP, UDP, ethernet
from tests.kernel.policies import Scene, scene, session
from tests.unit.agent.large_filters import LARGE, Asked, asked_of
from tests.unit.packet.frames import fragment_header, ipv4, ipv6, tcp, udp

pytestmark = pytest.mark.root

ANY4 = ip_network("0.0.0.0/0")
SSH = ethernet(IPV4, ipv4(tcp(40000, 22), TCP))


def frame_of(asked: Asked) -> bytes:
    """A frame that reads as what is asked; without ports, TCP and UDP are later fragments."""
    ports = (asked.source_port or 0, asked.destination_port or 0)
    transport = {TCP: tcp, UDP: udp}.get(asked.protocol)
    payload = transport(*ports) if transport else bytes(8)
    later = transport is not None and asked.source_port is None
    source, destination = str(asked.source), str(asked.destination)
    if asked.source.version == 4:
        offset_bytes = 8 if later else 0
        packet = ipv4(payload, asked.protocol, source=source, destination=destination, offset_bytes=offset_bytes)
        return ethernet(IPV4, packet)
    if later:
        payload = fragment_header(asked.protocol, offset_bytes=8, more=False) + payload
    return ethernet(IPV6, ipv6(payload, 44 if later else asked.protocol, source=source, destination=destination))


def agree(bench: Bench, scene_: Scene, frame: bytes) -> Counted:
    model = expected(scene_, frame, at_ingress=True)
    assert bench.run(frame, at_ingress=True) == model
    assert bench.run(frame, at_ingress=True) == model, "what was remembered is something else"
    return model


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "like a firewall" else pytest.mark.long) for name in LARGE]
)
def test_the_kernel_and_the_model_agree_on_10000_rules(
    bench: Bench, name: str, family: int, say: Callable[[str], None]
) -> None:
    filter_ = LARGE[name](10_000, family)
    scene_ = scene([session(1, 0)], [filter_], exclusions=(), is_host_side=False)
    bench.write(scene_)
    draw = random.Random(family)
    frames = [frame_of(asked_of(filter_.rules, draw)) for _ in range(examples(12))]
    verdicts = {name for frame in frames for _, _, name in agree(bench, scene_, frame) if isinstance(name, Verdict)}
    say(f"10,000 rules, {name}, IPv{family}: {len(frames)} frames, {', '.join(sorted(v.value for v in verdicts))}")
    assert verdicts


def test_up_to_64_sessions_are_asked_by_their_number(bench: Bench) -> None:
    """The session n of 64 takes port n and rejects the port after it; a port is taken by the first that names it."""
    filters = [
        Filter(
            (
                Rule(1, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4, PROTOCOL_TCP, None, PortRange(n, n)),
                Rule(2, Direction.INGRESS, Action.REJECT, ANY4, ANY4, PROTOCOL_TCP, None, PortRange(n + 1, n + 1)),
            )
        )
        for n in range(1, 65)
    ]
    scene_ = scene([session(n, n - 1) for n in range(1, 65)], filters, is_host_side=False)
    bench.write(scene_)
    for port in (1, 2, 33, 63, 64, 65, 66):
        counted = agree(bench, scene_, ethernet(IPV4, ipv4(tcp(40000, port), TCP)))
        takers = [row for row, _, name in counted if name is Verdict.TAKEN]
        assert takers == ([port - 1] if port <= 64 else [])
        asked = [row for row, _, name in counted if isinstance(name, Verdict)]
        assert sorted(asked) == list(range(min(port, 64)))
        rejected = [row for row, _, name in counted if name is Verdict.REJECTED_BY_RULE]
        assert rejected == ([port - 2] if 2 <= port <= 65 else [])


def test_64_sessions_of_large_filters(bench: Bench) -> None:
    filters = [LARGE["like a firewall"](1_000 + n, 4 if n % 2 else 6) for n in range(8)]
    scene_ = scene([session(n + 1, n % 8) for n in range(64)], filters, exclusions=(), is_host_side=False)
    bench.write(scene_)
    draw = random.Random(64)
    for _ in range(examples(5)):
        agree(bench, scene_, frame_of(asked_of(draw.choice(filters).rules, draw)))


def said(counted: Counted) -> set[Verdict]:
    return {name for _, _, name in counted if isinstance(name, Verdict)}


def test_an_open_flow_follows_the_next_policy_with_its_next_packet(bench: Bench) -> None:
    """The pointer is swapped as the agent does it; the flow was remembered under the policy before."""
    outcomes = []
    for round_ in range(6):
        action = (Action.ACCEPT, Action.REJECT)[round_ % 2]
        bench.swap(
            scene([session(1, 0)], [Filter((Rule(1, Direction.INGRESS, action, ANY4, ANY4),))], is_host_side=False)
        )
        outcomes += [said(bench.run(SSH, at_ingress=True)) for _ in range(2)]
    assert outcomes == ([{Verdict.TAKEN}] * 2 + [{Verdict.REJECTED_BY_RULE}] * 2) * 3


def test_an_open_flow_of_one_interface_says_nothing_of_another_filter_in_the_same_cells(bench: Bench) -> None:
    """`write` puts the next filter where the last one was, under a policy that is the same but for its generation."""
    accept, reject = (
        scene([session(1, 0)], [Filter((Rule(1, Direction.INGRESS, action, ANY4, ANY4),))], is_host_side=False)
        for action in (Action.ACCEPT, Action.REJECT)
    )
    for scene_ in (accept, reject, accept):
        bench.write(scene_)
        agree(bench, scene_, SSH)


def test_a_flow_is_remembered_by_all_that_decides(bench: Bench) -> None:
    """Packets that differ in one thing only, each of which one rule takes and the others do not."""
    base = dict(source="10.0.0.6", destination="10.0.0.48")
    frames = {
        "itself": ethernet(IPV4, ipv4(tcp(40000, 22), TCP, **base)),
        "source": ethernet(IPV4, ipv4(tcp(40000, 22), TCP, source="10.0.0.7", destination="10.0.0.48")),
        "destination": ethernet(IPV4, ipv4(tcp(40000, 22), TCP, source="10.0.0.6", destination="10.0.0.49")),
        "source port": ethernet(IPV4, ipv4(tcp(40001, 22), TCP, **base)),
        "destination port": ethernet(IPV4, ipv4(tcp(40000, 23), TCP, **base)),
        "protocol": ethernet(IPV4, ipv4(udp(40000, 22), UDP, **base)),
        "ports": ethernet(IPV4, ipv4(tcp(40000, 22), TCP, offset_bytes=8, **base)),
        "family": ethernet(IPV6, ipv6(tcp(40000, 22), TCP, source="a00:6::", destination="a00:30::")),
    }
    from_6, to_48 = ip_network("10.0.0.6/32"), ip_network("10.0.0.48/32")
    rule = Rule(
        1, Direction.INGRESS, Action.ACCEPT, from_6, to_48, PROTOCOL_TCP, PortRange(40000, 40000), PortRange(22, 22)
    )
    scene_ = scene([session(1, 0)], [Filter((rule,))], is_host_side=False)
    bench.write(scene_)
    for _ in range(2):
        taken = {name for name, frame in frames.items() if Verdict.TAKEN in said(agree(bench, scene_, frame))}
        assert taken == {"itself"}
        assert said(bench.run(frames["itself"], at_ingress=False)) == {Verdict.NO_RULE_MATCHED}


def test_amazon_dns_is_remembered_too(bench: Bench) -> None:
    ask = ethernet(IPV4, ipv4(udp(40000, 53), UDP, destination="10.0.0.2"))
    for services, verdict in (
        (frozenset({NetworkService.AMAZON_DNS}), Verdict.TAKEN),
        (frozenset[NetworkService](), Verdict.SERVICE_NOT_ENABLED),
    ):
        scene_ = scene([session(1, 0)], [Filter((), services)], resolvers=[ip_address("10.0.0.2")], is_host_side=False)
        bench.write(scene_)
        assert said(agree(bench, scene_, ask)) == {verdict}


def test_more_flows_than_are_remembered_are_decided_all_the_same(bench: Bench) -> None:
    """20,000 flows take the places of one another; each rule takes an eighth of them."""
    rules = tuple(
        Rule(n, Direction.INGRESS, (Action.ACCEPT, Action.REJECT)[n % 2], ip_network(f"10.0.0.0/{32 - n}"), ANY4)
        for n in range(1, 17)
    )
    scene_ = scene([session(1, 0)], [Filter(rules)], is_host_side=False)
    bench.write(scene_)
    draw = random.Random(1)
    program = bench.program(at_ingress=True)
    for _ in range(examples(20_000)):
        source = ip_address(0x0A000000 | draw.getrandbits(16))
        program.test_run(ethernet(IPV4, ipv4(tcp(draw.randrange(65536), 22), TCP, source=str(source))))
    draw = random.Random(1)
    for _ in range(examples(200)):
        source = ip_address(0x0A000000 | draw.getrandbits(16))
        agree(bench, scene_, ethernet(IPV4, ipv4(tcp(draw.randrange(65536), 22), TCP, source=str(source))))


def test_a_policy_without_a_generation_remembers_nothing(bench: Bench) -> None:
    """All such policies have the same generation: none. What one of them decided would hold for the next."""
    for action in (Action.ACCEPT, Action.REJECT, Action.ACCEPT):
        filter_ = Filter((Rule(1, Direction.INGRESS, action, ANY4, ANY4),))
        scene_ = scene([session(1, 0)], [filter_], is_host_side=False)
        bench.write(scene_, remembers=False)
        agree(bench, scene_, SSH)


def test_a_remembered_flow_says_nothing_of_icmp_types_that_are_never_mirrored(bench: Bench) -> None:
    """Neighbour discovery between two addresses that have just exchanged an echo (spec 1.7)."""
    any6 = ip_network("::/0")
    filter_ = Filter((Rule(1, Direction.INGRESS, Action.ACCEPT, any6, any6),))
    scene_ = scene([session(1, 0)], [filter_], is_host_side=False)
    bench.write(scene_)
    echo, solicitation = (
        ethernet(IPV6, ipv6(bytes((kind, 0)) + bytes(22), ICMPV6, source="fe80::6", destination="fe80::48"))
        for kind in (128, 135)
    )
    for _ in range(2):
        assert Verdict.TAKEN in said(agree(bench, scene_, echo))
        assert said(agree(bench, scene_, solicitation)) == set()


def test_the_programs_are_within_what_the_verifier_takes(loaded: bpf.Object, say: Callable[[str], None]) -> None:
    """A million instructions are looked at, at most (Linux 5.2); half of it is left for those who come after."""
    for name in ("hook_ingress", "hook_egress", *PROGRAMS):
        with loaded.program(name) as program:
            looked_at = program.verified_instructions()
        say(f"{name}: the verifier looked at {looked_at} instructions")
        assert 0 < looked_at < 500_000

"""Filters of 10,000 rules on real interfaces: changed under traffic, found again by the next agent."""

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from pktmirror.agent.apply import pins_of
from pktmirror.kernel import bpf
from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import UDP, Action, Direction, Filter, PortRange, Rule
from tests.lab.mirror import Agent, Mirror, Session
from tests.lab.test_mirror_agent import PORT, assert_nothing_was_lost, mirrored_numbers, streaming
from tests.lab.topologies import VPC
from tests.unit.agent.large_filters import network

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
ANY4 = ip_network("0.0.0.0/0")
LOADING_S_MAX = 3.0  # on a machine under this test's traffic; bench/classification.py measures


def large(seed: int, action: Action = Action.ACCEPT) -> Filter:
    """9,999 rules for networks that are not here, then one for the numbered datagrams."""
    rules = [
        Rule(n, Direction.EGRESS, Action.REJECT, network(4, 0xC6120000 + n * 8 + seed, 29), ANY4, UDP, None, None)
        for n in range(1, 10_000)
    ]
    ours = Rule(32_000, Direction.EGRESS, action, ANY4, ANY4, UDP, None, PortRange(PORT, PORT))
    return Filter((*rules, ours))


def policies(agent: Agent) -> dict[bytes, bytes]:
    """The ids of the policies in the kernel, which no other policy ever has."""
    [pinned] = pins_of(agent.bpffs_root, agent.host_id).glob("*/interfaces")
    with bpf.Map.pinned(pinned) as interfaces:
        return dict(interfaces.items())


def test_filters_of_10000_rules_change_under_traffic_without_a_gap(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        filters = [large(seed * 100_000) for seed in range(3)]
        mirror.mirror({"web": [Session("monitor", filter=filters[0])]})
        with streaming(mirror) as stream:
            for round_ in range(1, 7):
                stream.goes_on()
                started_s = time.monotonic()
                mirror.mirror({"web": [Session("monitor", filter=filters[round_ % 3])]})
                assert time.monotonic() - started_s < LOADING_S_MAX
            stream.goes_on()
            assert_nothing_was_lost(mirror, stream)


def test_an_open_flow_follows_a_change_of_its_filter_at_once(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        sender = mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.bind((mirror.address("web"), 0))
            taken: list[int] = []
            for round_ in range(8):
                action = (Action.ACCEPT, Action.REJECT)[round_ % 2]
                mirror.mirror({"web": [Session("monitor", filter=large(0, action))]})
                numbers = range(round_ * 100, round_ * 100 + 100)
                for number in numbers:
                    sender.sendto(struct.pack("!I", number), (mirror.address("client"), PORT))
                taken += numbers if action is Action.ACCEPT else ()
            mirror.wait_for_copies("monitor", len(taken))
        assert mirrored_numbers(mirror) == taken


def test_the_next_agent_finds_10000_rules_in_the_kernel_and_writes_nothing(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [Session("monitor", filter=large(0))]})
        before = policies(agent)
        assert len(before) == 1
        agent.stop()
        agent.start()
        assert agent.turn().problems == ()
        assert policies(agent) == before
        mirror.mirror({"web": [Session("monitor", filter=large(8))]})
        assert policies(agent) != before

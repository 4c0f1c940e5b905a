"""Where the policies of interfaces lie: near for low ifindexes, and far beyond (bpf/maps.h)."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pktmirror.agent import abi
from pktmirror.agent.policies import Policies
from pktmirror.kernel import bpf, netns
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome
from tests.kernel.bench import Bench
from tests.kernel.frames import IPV4, TCP, ethernet
from tests.kernel.policies import scene, session
from tests.kernel.test_trace import tcp_to
from tests.lab.machines import run_inside, unnamed
from tests.unit.packet.frames import ipv4, tcp

pytestmark = pytest.mark.root

LAST_NEAR, FIRST_FAR, FAR = 65535, 65536, 2**31 - 1
FRAME = ethernet(IPV4, ipv4(tcp(40000, 22), TCP))


def policy(ledger_row: int) -> bytes:
    return bytes(bytearray(abi.InterfacePolicy(ledger_row=ledger_row)))


@pytest.fixture
def policies(loaded: bpf.Object) -> Iterator[Policies]:
    with loaded.map("interfaces") as near, loaded.map("far_interfaces") as far:
        yield Policies(near, far)


def test_policies_are_kept_by_ifindex_wherever_they_lie(policies: Policies) -> None:
    before = policies.all()
    kept = {ifindex: policy(row) for row, ifindex in enumerate((7, LAST_NEAR, FIRST_FAR, FAR), start=1)}
    for ifindex, value in kept.items():
        policies.put(ifindex, value)
    assert policies.all() == {**before, **kept}
    assert {ifindex: policies.get(ifindex) for ifindex in kept} == kept
    assert [policies.get(ifindex) for ifindex in (8, LAST_NEAR - 1, FAR - 1)] == [None, None, None]
    policies.put(FAR, policy(9))
    assert policies.all() == {**before, **kept, FAR: policy(9)}
    for ifindex in (*kept, 8, FAR - 1):
        policies.drop(ifindex)
    assert policies.all() == before


@pytest.mark.parametrize("ifindex", [LAST_NEAR, FIRST_FAR, FAR])
def test_the_hook_finds_the_policy_of_its_device_whatever_the_ifindex(bench: Bench, ifindex: int) -> None:
    bench.write(scene([session(1, 0)], [tcp_to(22)], is_host_side=False))
    with ExitStack() as stack:
        inside = stack.enter_context(unnamed(f"t{os.getpid()}-policies"))
        for index, name in ((ifindex, "lab0"), (ifindex - 1, "other0")):
            run_inside(inside, *f"ip link add {name} index {index} type ifb".split())
            run_inside(inside, "ip", "link", "set", name, "addrgenmode", "none", "up")
            program = bench.program(at_ingress=False)
            stack.enter_context(inside.run(bpf.Link.attach, program, index, bpf.TCX_EGRESS))
        stack.enter_context(bench.at(ifindex, inside.run(netns.cookie)))
        sender = stack.enter_context(inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0))

        def send(name: str) -> None:
            sender.bind((name, 0))
            inside.run(sender.send, FRAME)

        seen = (0, Direction.EGRESS, InterfaceOutcome.NOT_TAKEN)
        assert bench.counted_by(lambda: send("lab0"))[seen] == (1, len(FRAME))
        assert bench.counted_by(lambda: send("other0")) == {}

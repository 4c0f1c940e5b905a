"""How much is copied is bounded; what is over a limit is counted to the packet, and production loses nothing (1.9)."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pktmirror.agent.apply import OBJECT
from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate
from tests.lab.mirror import BOTH, Mirror, Session
from tests.lab.test_mirror_sessions import TWO_TARGETS, outbound, sent, tcp, udp
from tests.lab.topologies import VPC

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

EGRESS = Direction.EGRESS
BURST = 500
TRANSFERRED_BYTES = 1 << 20  # no more packets than wait at a hop: HOP_QUEUE_PACKETS_MAX, then the veth's ring


def since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def with_budget(mirror: Mirror, budget: Rate) -> None:
    """Every agent starts again, as with another --budget."""
    for agent in mirror.agents.values():
        agent.stop()
        agent.budget = budget
        agent.start()


def taken_and_stages(mirror: Mirror, vni: int | None = None) -> tuple[int, dict[Stage, int]]:
    """Of both directions, at rest."""
    taken, stages = 0, dict.fromkeys(Stage, 0)
    for direction in BOTH:
        taken += mirror.verdicts("web", direction, vni).get(Verdict.TAKEN, 0)
        for stage, packets in mirror.stages("web", direction, vni).items():
            stages[stage] += packets
    return taken, {stage: packets for stage, packets in stages.items() if packets}


def transfer(mirror: Mirror) -> int:
    """The client sends so many bytes to the web server over TCP; how many arrive."""
    with mirror.inside("web").run(socket.socket) as listening, mirror.inside("client").run(socket.socket) as sending:
        listening.bind((mirror.address("web"), 80))
        listening.listen()
        sending.settimeout(30)
        sending.connect((mirror.address("web"), 80))
        accepted, _ = listening.accept()
        with accepted:
            accepted.settimeout(30)
            pump = threading.Thread(target=_send_all, args=(sending,))
            pump.start()
            arrived = 0
            while data := accepted.recv(1 << 20):
                arrived += len(data)
            pump.join()
            return arrived


def wait_for_the_way(mirror: Mirror) -> None:
    """Until the host has the target's MAC address: what waits for it beyond 212,992 bytes the kernel drops."""
    sent(mirror, udp())
    mirror.wait_for_copies("monitor", 1)


def _send_all(sending: socket.socket) -> None:
    sending.sendall(bytes(TRANSFERRED_BYTES))
    sending.shutdown(socket.SHUT_WR)


def test_a_burst_over_the_cap_of_a_session_is_counted_and_production_loses_nothing(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.tap("client") as production:
        mirror.mirror({"web": [Session("first", vni=1, cap=Rate(packets_per_s=100))]})
        frames = sent(mirror, *[udp(port) for port in range(1000, 1000 + BURST)])
        taken, stages = taken_and_stages(mirror)
        assert taken == BURST
        assert stages.keys() == {Stage.SENT, Stage.CAPPED}
        assert stages[Stage.SENT] + stages[Stage.CAPPED] == BURST
        assert stages[Stage.SENT] >= 11, "a tenth of a second may be saved up, and one more passes"
        copies = [copy.frame for copy in mirror.wait_for_copies("first", stages[Stage.SENT])]
        assert copies == [frame for frame in frames if frame in set(copies)], "in their order, none twice"
        assert production.received(lambda frame: frame in set(frames)) == frames


@pytest.mark.parametrize(
    "budget", [Rate(packets_per_s=1000), Rate(bits_per_s=20_000_000), Rate(1000, 20_000_000)], ids=str
)
def test_tcp_over_the_budget_of_a_host_arrives_in_full_and_each_packet_is_accounted_for(
    lab: Build, budget: Rate
) -> None:
    with Mirror(lab(VPC)) as mirror:
        with_budget(mirror, budget)
        mirror.mirror({"web": [Session("monitor", vni=1)]})
        wait_for_the_way(mirror)
        assert mirror.report("web").budget == budget
        assert transfer(mirror) == TRANSFERRED_BYTES
        mirror.assert_everything_adds_up()
        taken, stages = taken_and_stages(mirror)
        assert stages.keys() == {Stage.SENT, Stage.CAPPED}
        assert taken == stages[Stage.SENT] + stages[Stage.CAPPED]
        assert taken >= TRANSFERRED_BYTES / 1500, "wire packets, not super-packets"
        assert len(mirror.collector("monitor").copies()) == stages[Stage.SENT]


def test_without_a_budget_the_same_traffic_is_copied_in_full(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", vni=1)]})
        wait_for_the_way(mirror)
        assert mirror.report("web").budget == UNLIMITED
        assert transfer(mirror) == TRANSFERRED_BYTES
        mirror.assert_everything_adds_up()
        taken, stages = taken_and_stages(mirror)
        assert stages == {Stage.SENT: taken}


def test_the_cap_of_one_session_is_not_that_of_another(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        capped, free = Session("first", vni=1, cap=Rate(packets_per_s=1)), Session("second", vni=2)
        mirror.mirror({"web": [capped], "client": [free]})
        frames = sent(mirror, tcp(), tcp(22), tcp(443))
        mirror.send("client", outbound(mirror, tcp(), tcp(22), tcp(443), source="client", destination="web"))
        mirror.wait_for_seen("client", EGRESS, 3)
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.CAPPED: 2}
        assert mirror.stages("client", EGRESS) == {Stage.SENT: 3}
        assert mirror.collector("first").copies()[0].frame == frames[0]


def test_another_cap_is_in_force_at_once_whatever_was_spent_of_the_former(lab: Build) -> None:
    slowest = Rate(bits_per_s=1)  # a packet is minutes of it
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first", cap=slowest)]})
        sent(mirror, tcp(1), tcp(2))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.CAPPED: 1}
        mirror.mirror({"web": [Session("first", cap=Rate(packets_per_s=100))]})
        sent(mirror, tcp(3), tcp(4))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 3, Stage.CAPPED: 1}
        mirror.mirror({"web": [Session("first", cap=slowest)]})
        sent(mirror, tcp(5), tcp(6))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 4, Stage.CAPPED: 2}
        mirror.mirror({"web": [Session("first")]})
        sent(mirror, tcp(7), tcp(8))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 6, Stage.CAPPED: 2}


def test_another_budget_is_in_force_at_once_whatever_was_spent_of_the_former(lab: Build) -> None:
    sources = {"web": [Session("first")]}
    with Mirror(lab(TWO_TARGETS)) as mirror:
        with_budget(mirror, Rate(bits_per_s=1))
        mirror.mirror(sources)
        sent(mirror, tcp(1), tcp(2))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.CAPPED: 1}
        with_budget(mirror, Rate(bits_per_s=100_000))
        mirror.mirror(sources)
        sent(mirror, tcp(3), tcp(4))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 3, Stage.CAPPED: 1}


def test_a_lease_ends_the_copies_also_when_no_agent_is_there_to_do_it(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        for agent in mirror.agents.values():
            agent.stop()
            agent.lease_s = 10
            agent.desk.heard_ns = since_boot_ns() + 3600 * 10**9
            agent.start()
        mirror.mirror({"web": [Session("first")]})
        sent(mirror, tcp(1))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1}
        for agent in mirror.agents.values():
            agent.desk.heard_ns = since_boot_ns() - 11 * 10**9
            agent.turn()
        frames, seen = outbound(mirror, tcp(2), tcp(3)), mirror.seen("web", EGRESS)
        for agent in mirror.agents.values():
            agent.stop()
        mirror.send("web", frames)
        for agent in mirror.agents.values():
            agent.desk.heard_ns = None  # it is not heard by the next agent either
            agent.start()
            agent.turn()
        mirror.wait_for_seen("web", EGRESS, seen + 2)
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.LEASE_ENDED: 2}
        sent(mirror, tcp(4))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.LEASE_ENDED: 3}
        for agent in mirror.agents.values():
            agent.desk.heard_ns = since_boot_ns() + 3600 * 10**9
            agent.turn()
        sent(mirror, tcp(5))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 2, Stage.LEASE_ENDED: 3}


@pytest.mark.long
def test_another_version_of_the_programs_goes_on_with_what_is_left_of_the_lease(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        versions = [OBJECT, tmp_path / "next.o"]
        versions[1].write_bytes(OBJECT.read_bytes() + bytes(1))  # the same programs

        def started(version: int, *, heard_ns: int | None) -> None:
            for agent in mirror.agents.values():
                agent.stop()
                agent.lease_s, agent.object_path, agent.desk.heard_ns = 10, versions[version], heard_ns
                agent.start()
                assert agent.turn().problems == ()

        started(0, heard_ns=since_boot_ns() + 3600 * 10**9)
        mirror.mirror({"web": [Session("first")]})
        sent(mirror, tcp(1))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1}
        mirror.unheard.add(7)  # another version counts from zero
        started(1, heard_ns=None)
        sent(mirror, tcp(2))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1}, "nothing was heard since, and the lease goes on"
        started(0, heard_ns=since_boot_ns() - 11 * 10**9)
        sent(mirror, tcp(3))
        assert mirror.stages("web", EGRESS) == {Stage.LEASE_ENDED: 1}
        started(1, heard_ns=None)
        sent(mirror, tcp(4))
        assert mirror.stages("web", EGRESS) == {Stage.LEASE_ENDED: 1}, "an end is an end for the next version too"


def test_a_session_does_not_inherit_what_another_has_spent(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        slowest = Rate(bits_per_s=1)
        mirror.mirror({"web": [Session("first", vni=1, cap=slowest)]})
        sent(mirror, tcp(1), tcp(2))
        mirror.mirror({})
        mirror.mirror({"web": [Session("first", vni=2, cap=slowest)]})
        sent(mirror, tcp(3), tcp(4))
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1, Stage.CAPPED: 1}

"""Production is identical, in order, and not one packet is lost, whatever is done to the mirror or happens to its
target (fact 69). Each test sends real traffic both ways, small packets and super-packets, while it does so."""

import itertools
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from pktmirror.agent import abi
from pktmirror.agent.apply import OBJECT, pins_of
from pktmirror.desired import StreamDocument
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import UDP, Direction, PortRange
from pktmirror.model.ledger import Stage
from pktmirror.packet.headers import ICMP, ICMPV6, Headers, parse
from tests.lab.arrivals import Tap
from tests.lab.mirror import BOTH, WITHIN_S, Mirror, Session, accepting
from tests.lab.others import take_off
from tests.lab.production import OF_PRODUCTION, PORT, Production, producing
from tests.lab.test_limits import taken_and_stages
from tests.lab.test_mirror_agent import HOP_DEVICES, agent_process, hop_of, ip, starting_process
from tests.lab.test_shortcut import BRIDGE, QUESTIONS, waits_for_answers
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.fact(69)]

Build = Callable[[Topology], Lab]

EGRESS = Direction.EGRESS
TO_MONITOR = Session("monitor", filter=OF_PRODUCTION)
FLOWS = 20_000  # each CPU remembers 4096


def datagrams(production: Production) -> int:
    return sum(len(way.sent) for way in production.ways)


def slow_down(mirror: Mirror, device: str, rate: str) -> None:
    """The device of the host sends no more than this, and lets few packets wait."""
    shape = f"qdisc replace dev {device} root tbf rate {rate} burst 3kb limit 10kb".split()
    subprocess.run(["tc", "-n", mirror.lab.namespace("host"), *shape], check=True)


def test_attach_and_detach(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, producing(mirror) as production:
        mirror.unheard.add(7)  # with its session its row is gone, so there is no figure to compare
        for _ in range(10):
            mirror.mirror({"web": [TO_MONITOR]})
            production.goes_on(40)
            mirror.mirror({})
            production.goes_on(40)
        production.assert_is_untouched()
        assert mirror.collector("monitor").copies()


def test_updates_of_rules_session_and_target(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [TO_MONITOR]})
        with producing(mirror) as production:
            filters = [OF_PRODUCTION, accepting(), accepting(UDP)]
            for number, filter_, length in itertools.product((1, 2), filters, (None, 8000, 8500)):
                session = Session("monitor", filter=filter_, number=number, packet_bytes_max=length)
                mirror.mirror({"web": [session]})
                production.goes_on(40)
            production.assert_is_copied(mirror, "monitor")
        mirror.assert_everything_adds_up()


def test_agents_that_are_killed_while_they_work(lab: Build, tmp_path: Path) -> None:
    """As soon as they have loaded their programs, made a hop, or put a hook on; the next one goes on from there."""
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        mirror.unheard.add(7)  # its row is taken away in between
        agent.stop()
        agent.purge()
        with producing(mirror) as production:
            for has_come_so_far in ("staging", "keep_apart", "hop-", "link-"):
                process = starting_process(agent, mirror.lab.namespace("host"), tmp_path)
                root = pins_of(agent.bpffs_root, agent.host_id)
                wait_until(
                    lambda root=root, sign=has_come_so_far: any(sign in name for name in names_below(root)),
                    20,
                    "no pin",
                )
                process.kill()
                process.communicate()
                production.goes_on(50)
            agent.start()
            assert agent.turn().problems == ()
            production.goes_on()
            production.assert_is_untouched()
        before = len(mirror.collector("monitor").copies())
        with producing(mirror) as production:
            production.goes_on()
            production.stop()
            wait_until(lambda: len(mirror.collector("monitor").copies()) >= before + datagrams(production), 5, "lost")
            production.assert_is_copied(mirror, "monitor", after=before)


def names_below(root: Path) -> list[str]:
    """Of directories and files; what vanishes under the walk is left out."""
    return [name for _, directories, files in os.walk(root) for name in (*directories, *files)]


def test_agents_that_are_killed_at_rest(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        agent.stop()
        with producing(mirror) as production:
            for _ in range(3):
                process = agent_process(agent, mirror.lab.namespace("host"), tmp_path)
                production.goes_on()
                process.kill()
                process.communicate()
                production.goes_on()
            agent.start()
            production.assert_is_copied(mirror, "monitor")


def test_upgrades_of_the_programs(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        with producing(mirror) as production:
            for version in range(4):
                production.goes_on()
                agent.stop()
                agent.object_path = tmp_path / f"{version}.o"
                agent.object_path.write_bytes(OBJECT.read_bytes() + bytes(version + 1))  # the same programs
                agent.start()
                production.goes_on()
                assert agent.turn().problems == ()
                assert len(hop_of(mirror)) == HOP_DEVICES, "the predecessor's hops are gone"
            production.stop()
            mirror.unheard.add(7)  # a new version's ledger begins anew
            collector = mirror.collector("monitor")
            wait_until(lambda: len(collector.copies()) >= datagrams(production), 5, "copies are lost")
            production.assert_is_copied(mirror, "monitor")


def test_a_target_at_which_nobody_listens(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, mirror.tap("web") as at_source, producing(mirror) as production:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address("monitor"), filter=OF_PRODUCTION)]})
        production.goes_on(1500)
        production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        taken, stages = taken_and_stages(mirror)
        assert taken > 1000
        assert stages.pop(Stage.TARGET_REFUSED) > 0
        assert stages == {Stage.SENT: taken}
        assert errors(at_source) == [], "not even the error about the first copy"


@dataclass(frozen=True, slots=True)
class Dead:
    """A target that does not answer: how it comes to be dead, and how it comes alive; commands to `ip` at its place."""

    address: str
    asked: str
    dies: tuple[str, ...]
    lives: tuple[str, ...]


LINK_DOWN = Dead("10.0.0.90", "ARP", ("link", "set", "eth0", "down"), ("link", "set", "eth0", "up"))
NO_ADDRESS = Dead("10.0.0.200", "ARP", (), ("address", "add", "10.0.0.200/24", "dev", "eth0"))
NO_IPV6_ADDRESS = Dead(
    "2001:db8:1::dead",
    "neighbour solicitations",
    (),
    ("address", "add", "2001:db8:1::dead/64", "dev", "eth0", "nodad"),
)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(LINK_DOWN, id="its link is down"),
        pytest.param(NO_ADDRESS, id="nobody has its address"),
        pytest.param(NO_IPV6_ADDRESS, id="nobody has its IPv6 address"),
    ],
)
def test_a_target_that_is_dead_and_comes_alive(lab: Build, target: Dead) -> None:
    """The kernel drops what was sent before it gave up; then nothing is sent, and it is said why, until it answers."""
    with Mirror(lab(VPC)) as mirror, mirror.tap("web") as at_source, mirror.tap("host", BRIDGE) as at_bridge:
        host, monitor = mirror.lab.namespace("host"), mirror.lab.namespace("monitor")
        said = f"the next hop {target.address} does not answer {target.asked}"
        mirror.unheard.add(7)  # what was sent to the dead
        if target.dies:
            ip("-n", monitor, *target.dies)

        waits_for_answers(mirror, milliseconds=600_000)
        mirror.mirror({"web": [Session(target.address, filter=OF_PRODUCTION)]})
        with producing(mirror) as production:
            production.goes_on(500)
            assert mirror.status("web") is None, "it is asked for the first time"
            production.assert_is_untouched()
        taken, asked = at_rest(mirror)
        assert asked == {Stage.SENT: taken}

        waits_for_answers(mirror, milliseconds=100)
        ip("-n", host, "neighbour", "del", target.address, "dev", BRIDGE)
        with producing(mirror) as production:
            wait_until(lambda: mirror.status("web") == said, WITHIN_S, lambda: str(mirror.status("web")))
            production.goes_on(100)
            production.assert_is_untouched()
        taken, failed = at_rest(mirror)
        assert failed.keys() == {Stage.SENT, Stage.NEIGHBOUR_UNRESOLVED}
        assert sum(failed.values()) == taken, "to the packet"
        assert failed[Stage.NEIGHBOUR_UNRESOLVED] > 100

        before = len(questions(at_bridge, target))
        agent = mirror.agents["host"]
        with producing(mirror) as production:
            wait_until(
                lambda: mirror.status("web") != said or len(questions(at_bridge, target)) > before + 3 * QUESTIONS,
                WITHIN_S,
                "nobody asks for it any more",
            )
            assert mirror.status("web") == said, "however often it is asked for"
            agent.stop()
            agent.start()
            assert mirror.status("web") == said, "the next agent knows"
            production.goes_on(100)
            production.assert_is_untouched()
        taken, dead = at_rest(mirror)
        assert dead == {
            Stage.SENT: failed[Stage.SENT],
            Stage.NEIGHBOUR_UNRESOLVED: taken - failed[Stage.SENT],
        }

        ip("-n", monitor, *target.lives)
        collector = mirror.collector("monitor")
        wait_until(lambda: mirror.status("web") is None, WITHIN_S, lambda: str(mirror.status("web")))
        with producing(mirror) as production:
            production.goes_on(500)
            production.assert_is_copied(mirror, "monitor")
        more, alive = at_rest(mirror)
        assert alive == {**dead, Stage.SENT: dead[Stage.SENT] + more - taken}
        assert len(collector.copies()) == more - taken, "nothing of before"
        assert errors(at_source) == [], "not even the error about the first copy"


def at_rest(mirror: Mirror) -> tuple[int, dict[Stage, int]]:
    mirror.assert_everything_adds_up()
    return taken_and_stages(mirror)


def questions(tap: Tap, target: Dead) -> list[bytes]:
    """What the host has asked for the target's address: RFC 826, and RFC 4861 section 4.3."""
    packed = ip_address(target.address).packed
    at = {4: 38, 16: 62}[len(packed)]
    return [
        each.frame
        for each in tap.read()
        if each.outgoing
        and (each.frame[12:14] == b"\x08\x06" or each.frame[20:21] == b"\x3a")
        and each.frame[at : at + len(packed)] == packed
    ]


def errors(tap: Tap) -> list[bytes]:
    """The ICMP errors that came in."""

    def is_error(frame: bytes) -> bool:
        read = parse(frame)
        if not isinstance(read, Headers):
            return False
        of_ipv6 = read.protocol == ICMPV6 and (read.icmp_type or 0) < 128
        return of_ipv6 or (read.protocol == ICMP and read.icmp_type in (3, 4, 5, 11, 12))

    return tap.received(is_error)


def test_a_target_that_is_slow(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, producing(mirror) as production:
        mirror.unheard.add(7)
        slow_down(mirror, host_device("monitor"), "2mbit")
        mirror.mirror({"web": [TO_MONITOR]})
        production.goes_on(1500)
        production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        taken, stages = taken_and_stages(mirror)
        assert stages == {Stage.SENT: taken}
        assert 0 < len(mirror.collector("monitor").copies()) < taken, "its way was not full: nothing is tested"


def test_a_target_to_which_no_route_leads(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, producing(mirror) as production:
        mirror.mirror({"web": [Session("198.51.100.7", filter=OF_PRODUCTION)]})
        production.goes_on(500)
        production.assert_is_untouched()
        taken, stages = taken_and_stages(mirror)
        assert taken > 500
        assert stages == {Stage.NO_ROUTE: taken}


@pytest.mark.parametrize("end", ["a", "c"], ids=["of the wrapping hop", "of the finishing hop"])
def test_a_full_queue(lab: Build, end: str) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [TO_MONITOR]})
        near = [device for device in hop_of(mirror) if device[12] == end]
        assert len(near) == (os.cpu_count() or 1)
        for device in near:
            slow_down(mirror, device, "2mbit")
        with producing(mirror, with_super_packets=end == "a") as production:
            production.goes_on(1500)
            production.assert_is_untouched()
        wait_until(lambda: not waiting(mirror, near), 10, "what waits is not sent")
        taken, stages = taken_and_stages(mirror)
        sent = len(mirror.collector("monitor").copies())
        assert stages[Stage.SENT] == sent
        lost_in_hop = sum(mirror.ledger("web")[direction].lost_in_hop_packets for direction in BOTH)
        assert taken == sent + stages.get(Stage.CLONE_FAILED, 0) + lost_in_hop
        assert sent < taken, "the queue was not full: nothing is tested"
        mirror.sources = {}  # what is lost in a hop is no sum of this lab's
        mirror.unheard.add(7)


def waiting(mirror: Mirror, devices: list[str]) -> bool:
    shown = [
        subprocess.run(
            ["tc", "-n", mirror.lab.namespace("host"), "-s", "qdisc", "show", "dev", device, "root"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for device in devices
    ]
    return any("backlog 0b 0p" not in each for each in shown)


def test_a_full_memory_of_flows(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=accepting(UDP))]})
        with producing(mirror) as production:
            frames = [of_flow(mirror, flow) for flow in range(FLOWS)]
            mirror.send("web", frames)
            production.goes_on()
            production.assert_is_copied(mirror, "monitor")
        mirror.assert_everything_adds_up()
        kinds = set(frames)
        copies = [copy.frame for copy in mirror.collector("monitor").copies() if copy.frame in kinds]
        assert sorted(copies) == sorted(frames), "each once; flows of different CPUs may overtake each other"


def of_flow(mirror: Mirror, flow: int) -> bytes:
    """A datagram of a flow that no other is of, for nobody."""
    ethernet = bytes.fromhex((mirror.mac("client") + mirror.mac("web")).replace(":", "")) + b"\x08\x00"
    ip_header = bytes((0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 1, 198, 51, flow >> 8, flow & 0xFF))
    return ethernet + ip_header + (30_000 + flow % 7).to_bytes(2) + (9).to_bytes(2) + (8).to_bytes(2) + bytes(2)


def test_a_full_table_of_streams(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [TO_MONITOR]})
        agent = mirror.agents["host"]
        good = agent.desk.desired
        assert good is not None
        with producing(mirror) as production:
            streams = tuple(StreamDocument("192.0.2.1", "192.0.2.2", vni) for vni in range(1, abi.STREAMS_MAX + 1))
            agent.desk.desired = msgspec.structs.replace(good, revision=good.revision + 1, streams=streams)
            [problem] = agent.turn().problems
            assert "streams" in problem
            production.goes_on()
            agent.desk.desired = good
            assert agent.turn().problems == ()
            production.goes_on()
            production.assert_is_copied(mirror, "monitor")


@pytest.mark.parametrize("kept", ["hook_ingress", "hook_egress"])
def test_an_agent_that_was_killed_between_its_two_hooks_is_succeeded(lab: Build, kept: str) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        pins = agent.pins
        agent.stop()
        [version] = pins_of(agent.bpffs_root, agent.host_id).iterdir()
        [other] = [pin for pin in version.glob("link-*") if not pin.name.endswith(kept)]
        other.unlink()
        agent.start()
        with producing(mirror) as production:
            production.goes_on()
            assert agent.turn().problems == ()
            production.goes_on()
            production.assert_is_untouched()
        mirror.assert_everything_adds_up()
        assert agent.pins == pins
        before = len(mirror.collector("monitor").copies())
        with producing(mirror) as production:
            production.goes_on()
            production.stop()
            mirror.assert_everything_adds_up()
            production.assert_is_copied(mirror, "monitor", after=before)


@pytest.mark.parametrize("kind", ["link-*", "link-*-hook_egress", "hook_*", "deliveries", "hop-*", "*"])
def test_pins_that_are_removed_under_a_running_agent_are_made_again(lab: Build, kind: str) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        pins = agent.pins
        with producing(mirror) as production:
            production.goes_on()
            [version] = pins_of(agent.bpffs_root, agent.host_id).iterdir()
            removed = [*version.glob(kind)]
            assert removed
            for pin in removed:
                pin.unlink()
            production.goes_on()
            assert agent.turn().problems == ()
            production.goes_on()
            production.assert_is_untouched()
        assert agent.pins == pins
        agent.stop()
        agent.start()
        before = len(mirror.collector("monitor").copies())
        with producing(mirror) as production:
            production.goes_on()
            assert agent.turn().problems == ()
            production.goes_on()
            wait_until(lambda: len(mirror.collector("monitor").copies()) >= before + datagrams(production), 5, "lost")
            production.assert_is_copied(mirror, "monitor", after=before)
        mirror.sources = {}  # what is lost in a hop is no sum of this lab's
        mirror.unheard.add(7)


def test_hooks_that_somebody_takes_off_by_force_are_put_on_again(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [TO_MONITOR]})
        [version] = pins_of(agent.bpffs_root, agent.host_id).iterdir()
        with producing(mirror) as production:
            production.goes_on()
            for pin in version.glob("link-*"):
                take_off(pin)
            production.goes_on()
            copies = len(mirror.collector("monitor").copies())
            agent.turn()
            production.goes_on()
            production.assert_is_untouched()
            mirror.assert_everything_adds_up()
            assert len(mirror.collector("monitor").copies()) >= copies + 300


def test_what_is_taken_and_not_sent_is_counted_per_direction_in_packets_and_bytes(lab: Build) -> None:
    only_out = accepting(UDP, directions=[EGRESS], to_ports=PortRange(PORT, PORT))
    with Mirror(lab(VPC)) as mirror, producing(mirror) as production:
        mirror.mirror({"web": [Session("198.51.100.7", filter=only_out)]})
        production.goes_on(200)
        production.assert_is_untouched()
        stages = {direction: mirror.stages("web", direction) for direction in BOTH}
        assert stages[Direction.INGRESS] == {}
        assert stages[EGRESS].keys() == {Stage.NO_ROUTE}
        skipped = mirror.ledger("web")[EGRESS].stage(Stage.NO_ROUTE)
        assert skipped.bytes > skipped.packets * 60, "bytes too"

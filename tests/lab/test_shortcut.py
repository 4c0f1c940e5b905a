"""The short way to a target on the same host (docs/decisions/0021): past the bridge, where the operator allows it."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import TCP, UDP, Direction
from pktmirror.model.ledger import Stage
from pktmirror.packet.headers import ICMP
from tests.lab.arrivals import Tap
from tests.lab.mirror import Mirror, Session, accepting
from tests.lab.test_mirror_agent import ip
from tests.lab.test_mirror_sessions import arrived, sent, tcp, udp
from tests.lab.test_mirror_tso import TRANSFERRED, payloads, transfer
from tests.lab.test_policies_on_the_way import drop, dropped
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

AGENT_AWAY_S = 5.0  # bpf/shortcut.h
BRIDGE = "br-a"
QUESTIONS = 3  # to a neighbour, until it is given up


def mirrored(mirror: Mirror, *sessions: Session, shortcut: bool = True) -> None:
    """The second turn knows where the target is: the first has the kernel ask for it."""
    mirror.underlay = Underlay(shortcut=shortcut)
    mirror.mirror({"web": sessions})
    neighbour = ["ip", "-n", mirror.lab.namespace("host"), "neighbour", "show", "dev", BRIDGE]
    wait_until(
        lambda: mirror.mac("monitor") in subprocess.run(neighbour, capture_output=True, text=True, check=True).stdout,
        10,
        "nobody knows the target",
    )
    mirror.agents["host"].turn()


def sent_by_the_bridge(mirror: Mirror) -> int:
    """How many packets the bridge's own device has sent."""
    show = ["ip", "-n", mirror.lab.namespace("host"), "-s", "-o", "link", "show", "dev", BRIDGE]
    counted = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    return int(counted.split("TX:")[1].split("\\")[1].split()[1])


def waits_for_answers(mirror: Mirror, *, milliseconds: int) -> None:
    """How long the host's kernel waits for an answer to each question to a neighbour at its bridge."""
    for family in ("ipv4", "ipv6"):
        path = Path(f"/proc/sys/net/{family}/neigh/{BRIDGE}")
        mirror.inside("host").run((path / "retrans_time_ms").write_text, str(milliseconds))
        mirror.inside("host").run((path / "mcast_solicit").write_text, str(QUESTIONS))


def copies(tap: Tap) -> int:
    return len(tap.received(lambda frame: frame[36:38] == (4789).to_bytes(2)))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("packet_bytes_max", [None, 20])
def test_copies_are_the_same_past_the_bridge(lab: Build, packet_bytes_max: int | None, family: int) -> None:
    session = Session("monitor", packet_bytes_max=packet_bytes_max, family=family)
    with Mirror(lab(VPC)) as mirror:
        mirrored(mirror, session, shortcut=False)
        before = sent_by_the_bridge(mirror)
        frames = sent(mirror, tcp(), udp())
        over_the_bridge = mirror.wait_for_copies("monitor", len(frames))
        assert sent_by_the_bridge(mirror) == before + len(frames), "the long way is over the bridge"
        mirrored(mirror, session)
        before = sent_by_the_bridge(mirror)
        mirror.send("web", frames)
        copies = mirror.wait_for_copies("monitor", 2 * len(frames))[len(frames) :]
        assert sent_by_the_bridge(mirror) == before
        assert [copy.outer for copy in copies] == [copy.outer for copy in over_the_bridge]
        assert mirror.stages("web", Direction.EGRESS)[Stage.SENT] == 2 * len(frames)


def test_super_packets_that_the_bridge_splits_cross_it(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirrored(mirror, Session("monitor", filter=accepting(TCP, directions=[Direction.EGRESS])))
        transfer(mirror, "web", "client", mirror.address("client"))
        mirror.assert_everything_adds_up()
        assert payloads([copy.frame for copy in mirror.collector("monitor").copies()]) == TRANSFERRED


def test_without_an_agent_that_looks_after_it_copies_cross_the_bridge_again(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirrored(mirror, Session("monitor", filter=accepting(UDP)))
        before = sent_by_the_bridge(mirror)
        frames = sent(mirror, udp())
        assert arrived(mirror, "monitor") == frames
        assert sent_by_the_bridge(mirror) == before

        def crosses_it() -> bool:
            mirror.send("web", frames)
            return sent_by_the_bridge(mirror) > before

        began_s = time.monotonic()
        wait_until(crosses_it, AGENT_AWAY_S + 5, "it is never given up")
        assert time.monotonic() - began_s > AGENT_AWAY_S / 2, "it was given up at once"
        mirror.assert_everything_adds_up()


def test_a_target_that_leaves_the_bridge_is_not_sent_to_any_more(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.unheard.add(7)  # the tap hears what there is
        mirrored(mirror, Session("monitor", filter=accepting(UDP)))
        with mirror.tap("monitor") as tap:
            sent(mirror, udp())
            wait_until(lambda: copies(tap) == 1, 10, "it does not arrive")
            host = mirror.lab.namespace("host")
            subprocess.run(["ip", "-n", host, "link", "set", host_device("monitor"), "nomaster"], check=True)
            mirror.agents["host"].turn()
            sent(mirror, udp())
            wait_until(lambda: mirror.sent("web", 7) == 2, 10, "the second copy is not sent")
            assert copies(tap) == 1


def test_all_sessions_to_a_target_that_does_not_answer_wait_for_it_and_take_the_short_way_again(lab: Build) -> None:
    sessions = (Session("monitor", accepting(UDP)), Session("monitor", accepting(TCP), number=2, vni=8))
    elsewhere = Session("client", accepting(ICMP), number=3, vni=9)
    with Mirror(lab(VPC)) as mirror:
        host, monitor = mirror.lab.namespace("host"), mirror.lab.namespace("monitor")

        def problems() -> list[str | None]:
            return [mirror.status("web", session.vni) for session in (*sessions, elsewhere)]

        waits_for_answers(mirror, milliseconds=100)
        mirrored(mirror, *sessions, elsewhere)
        sent(mirror, udp(), tcp())
        mirror.wait_for_copies("monitor", 2)
        ip("-n", monitor, "link", "set", "eth0", "arp", "off")
        ip("-n", host, "neighbour", "del", mirror.address("monitor"), "dev", BRIDGE)
        said = [f"the next hop {mirror.address('monitor')} does not answer ARP"] * 2
        wait_until(lambda: problems() == [*said, None], 10, lambda: str(problems()))
        sent(mirror, udp(), tcp())
        for session in sessions:
            stages = {Stage.SENT: 1, Stage.NEIGHBOUR_UNRESOLVED: 1}
            assert mirror.stages("web", Direction.EGRESS, session.vni) == stages
        mirror.wait_for_copies("monitor", 2)

        ip("-n", monitor, "link", "set", "eth0", "arp", "on")
        wait_until(lambda: problems() == [None] * 3, 10, lambda: str(problems()))
        before = sent_by_the_bridge(mirror)
        sent(mirror, udp(), tcp())
        mirror.wait_for_copies("monitor", 4)
        assert sent_by_the_bridge(mirror) == before, "past the bridge"
        for session in sessions:
            stages = {Stage.SENT: 2, Stage.NEIGHBOUR_UNRESOLVED: 1}
            assert mirror.stages("web", Direction.EGRESS, session.vni) == stages


@pytest.mark.parametrize("shortcut", [False, True])
def test_the_bridges_policy_sees_copies_on_the_long_way_only(lab: Build, shortcut: bool) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirrored(mirror, Session("monitor", filter=accepting(UDP)), shortcut=shortcut)
        drop(mirror, "host", "bridge", "postrouting", f'oifname "{host_device("monitor")}" udp dport 4789')
        if not shortcut:
            mirror.unheard.add(7)
        sent(mirror, udp())
        mirror.assert_everything_adds_up()
        assert dropped(mirror, "host") == (0 if shortcut else 1)

"""The short way to a target on the same host (docs/decisions/0021): past the bridge, where the operator allows it."""

import subprocess
import time
from collections.abc import Callable

import pytest

from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import TCP, UDP, Direction
from pktmirror.model.ledger import Stage
from tests.lab.arrivals import Tap
from tests.lab.mirror import Mirror, Session, accepting
from tests.lab.test_mirror_sessions import arrived, sent, tcp, udp
from tests.lab.test_mirror_tso import TRANSFERRED, payloads, transfer
from tests.lab.test_policies_on_the_way import drop, dropped
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

AGENT_AWAY_S = 5.0  # bpf/shortcut.h
BRIDGE = "br-a"


def mirrored(mirror: Mirror, session: Session, *, shortcut: bool = True) -> None:
    """The second turn knows where the target is: the first has the kernel ask for it."""
    mirror.underlay = Underlay(shortcut=shortcut)
    mirror.mirror({"web": [session]})
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

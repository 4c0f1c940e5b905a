"""The policies of the network and the mirror: what they drop before the source gets it, and what becomes of copies
(spec 1.6, facts 65 and 66). The policies are netfilter's, on the bridge of the host, as security groups often are."""

import socket
import subprocess
from collections.abc import Callable

import pytest

from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from tests.lab.machines import run_inside
from tests.lab.mirror import WITHIN_S, Mirror, Session
from tests.lab.test_copies_on_the_wire import say_vxlan
from tests.lab.test_mirror_sessions import TWO_TARGETS, arrived, sent, tcp, udp
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def drop(mirror: Mirror, place: str, family: str, hook: str, match: str) -> None:
    """A chain of netfilter that drops what matches, and counts it."""
    chain = f"{family} of_test {hook}"
    rules = (
        f"add table {family} of_test",
        f"add chain {chain} {{ type filter hook {hook} priority 0; policy accept; }}",
        f"add rule {chain} {match} counter drop",
    )
    mirror.inside(place).run(subprocess.run, ["nft", "-f", "-"], input="\n".join(rules), text=True, check=True)


def dropped(mirror: Mirror, place: str) -> int:
    shown = mirror.inside(place).run(
        subprocess.run, ["nft", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    return sum(int(line.split("packets ")[1].split()[0]) for line in shown.stdout.splitlines() if "counter" in line)


@pytest.mark.fact(65)
def test_what_an_inbound_policy_of_the_source_drops_is_not_mirrored(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first")]})
        drop(mirror, "host", "bridge", "forward", f'oifname "{host_device("web")}" udp dport 4444')
        frames = sent(mirror, udp(4445), place="client", to="web")
        mirror.send("client", [frames[0].replace((4445).to_bytes(2), (4444).to_bytes(2), 1)])
        frames += sent(mirror, udp(4446), place="client", to="web")
        assert dropped(mirror, "host") == 1
        assert arrived(mirror, "first") == frames
        outcomes = mirror.outcomes("web", INGRESS)
        outcomes.pop(InterfaceOutcome.NEVER_MIRRORED, None)  # ARP
        assert outcomes == {InterfaceOutcome.TAKEN: 2}, "it was never there"


@pytest.mark.fact(66)
def test_copies_are_not_subject_to_the_outbound_policy_of_the_source(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.mirror({"web": [Session("first")]})
        for hook in ("prerouting", "forward"):
            drop(mirror, "host", "bridge", hook, f'iifname "{host_device("web")}" udp dport 4789')
        frames = sent(mirror, tcp(), udp())
        assert arrived(mirror, "first") == frames
        assert dropped(mirror, "host") == 0
        with mirror.tap("second") as tap:
            own_vxlan = say_vxlan(mirror, "web", "second", vni=9)
            wait_until(lambda: dropped(mirror, "host") == 1, WITHIN_S, "the policy does nothing: nothing is tested")
            assert tap.received(lambda frame: own_vxlan in frame) == []


@pytest.mark.fact(66)
@pytest.mark.parametrize("where", ["on the host", "in the target"])
def test_copies_are_subject_to_the_inbound_policy_of_the_target(lab: Build, where: str) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address("first"))]})
        with mirror.inside("first").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("0.0.0.0", 4789))
            listener.settimeout(WITHIN_S)
            sent(mirror, tcp())
            assert mirror.inside("first").run(listener.recv, 9000)
            if where == "on the host":
                place = "host"
                drop(mirror, place, "bridge", "postrouting", f'oifname "{host_device("first")}" udp dport 4789')
            else:
                place = "first"
                drop(mirror, place, "inet", "input", "udp dport 4789")
            sent(mirror, tcp(), udp())
            wait_until(lambda: dropped(mirror, place) == 2, WITHIN_S, "the policy does not see the copies")
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.recv(9000)
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 3}, "nobody tells the mirror, as with AWS"
        run_inside(mirror.inside(place), "nft", "flush", "ruleset")

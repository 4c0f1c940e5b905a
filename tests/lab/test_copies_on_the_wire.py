"""Copies that come by on the wire, and the errors about them (decisions 5.17 and 5.19)."""

import socket
from collections.abc import Callable

import pytest

from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.packet.headers import ICMP, Headers, parse
from tests.lab.arrivals import Tap
from tests.lab.mirror import WITHIN_S, Mirror, Session
from tests.lab.test_mirror_sessions import TWO_TARGETS, sent, tcp
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def errors(tap: Tap) -> list[bytes]:
    return tap.received(lambda frame: isinstance(read := parse(frame), Headers) and read.protocol == ICMP)


def test_the_errors_of_a_target_without_a_listener_do_not_reach_the_source(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.tap("web") as at_source, mirror.tap("second") as at_target:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address("second"))]})
        frames = sent(mirror, tcp(), tcp(22))
        mirror.wait_for_seen("web", INGRESS, 2)  # the kernel answers the first few at once, and then by the second
        assert errors(at_source) == []
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.TARGET_REFUSED] == 2
        assert mirror.stages("web", INGRESS) == {Stage.TARGET_REFUSED: 2}
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 2}
        copies = at_target.received(lambda frame: frame[50:] in frames)
        assert len(copies) == 2, "the errors themselves are not mirrored"


def test_the_errors_about_what_the_source_sent_itself_reach_it_and_are_mirrored(lab: Build) -> None:
    with Mirror(lab(TWO_TARGETS)) as mirror, mirror.tap("web") as at_source:
        mirror.mirror({"web": [Session("first")]})
        with mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            vxlan_of_its_own = bytes((8, 0, 0, 0)) + (7).to_bytes(3) + bytes(61)
            asking.sendto(vxlan_of_its_own, (mirror.address("second"), 4789))
        wait_until(lambda: len(errors(at_source)) == 1, WITHIN_S, "the error does not arrive")
        mirror.wait_for_seen("web", INGRESS, 1)
        assert InterfaceOutcome.TARGET_REFUSED not in mirror.outcomes("web", INGRESS)
        assert errors(at_source)[0] in [copy.frame for copy in mirror.collector("first").copies()]

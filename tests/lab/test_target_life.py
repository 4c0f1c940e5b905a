"""What becomes of copies whose target goes, with real packets (facts 46 and 47 of the specification)."""

from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from pktmirror.kernel import netns
from pktmirror.lab import Instance, Lab, Topology, networks_toml
from tests.contract.conftest import Maker
from tests.contract.plane import running
from tests.lab.arrivals import Collector
from tests.lab.line import WITHIN_S, Line
from tests.lab.test_interface_life import GONE_S, known, say, session_of
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
WITH_A_SPARE = msgspec.structs.replace(
    VPC, instances=(*VPC.instances, Instance("spare", "a", IPv4Address("10.0.0.91")))
)


@pytest.mark.fact(46, 47)
def test_facts_46_and_47_a_target_that_is_gone_stops_copies_and_a_live_one_resumes_them(
    lab: Build, tmp_path: Path
) -> None:
    built = lab(WITH_A_SPARE)
    with running(tmp_path / "state", networks_toml(built.topology)) as plane:
        whole, make, ec2 = Line(built, plane, tmp_path, GONE_S), Maker(plane, plane.client()), plane.client()
        try:
            whole.start_agent()
            session_id = session_of(whole, "web")
            whole.wait_for_problem(session_id, None)

            def to(target_id: str, problem: str | None) -> None:
                ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, TrafficMirrorTargetId=target_id)
                whole.wait_for_problem(session_id, problem)

            def sent() -> int:
                return int(whole.row(session_id)["sent"]["packets"])

            def taken() -> int:
                directions = whole.row(session_id)["directions"]
                return sum(each["verdicts"]["taken"]["packets"] for each in directions.values())

            with built.inside("monitor") as monitor, closing(Collector(monitor)) as collector:
                say(whole, 3)
                wait_until(lambda: len(collector.copies()) == 3, WITHIN_S, lambda: f"{len(collector.copies())} copies")
            wait_until(lambda: (sent(), taken()) == (3, 3), WITHIN_S, lambda: f"{sent()} of {taken()} sent")
            before = ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
            interface_id = whole.found("monitor")["interface_id"]
            netns.remove(built.namespace("monitor"))
            whole.wait_for_problem(session_id, "target interface gone")
            wait_until(lambda: interface_id not in known(whole), WITHIN_S, "the interface is not deleted")
            assert ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == before
            [target] = ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
            assert target["NetworkInterfaceId"] == interface_id
            say(whole, 4)
            wait_until(lambda: taken() == 7, WITHIN_S, lambda: f"{taken()} taken")
            assert sent() == 3

            to(make.nlb_target(), "target type not yet deliverable")
            say(whole, 2)
            wait_until(lambda: taken() == 9, WITHIN_S, lambda: f"{taken()} taken")
            assert sent() == 3

            with built.inside("spare") as spare, closing(Collector(spare)) as collector:
                to(make.target(NetworkInterfaceId=whole.found("spare")["interface_id"]), None)
                say(whole, 5)
                wait_until(lambda: len(collector.copies()) == 5, WITHIN_S, lambda: f"{len(collector.copies())} copies")
            wait_until(lambda: (sent(), taken()) == (8, 14), WITHIN_S, lambda: f"{sent()} of {taken()} sent")
        finally:
            whole.close()

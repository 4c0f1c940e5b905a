"""A control plane that is away changes nothing on a host that has joined, and a host that was away comes back right."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror import agent
from pktmirror.lab import Lab, Topology, networks_toml
from tests.contract.plane import Plane, running
from tests.contract.test_joins import tls, token
from tests.lab.arrivals import Collector
from tests.lab.line import WITHIN_S, Line
from tests.lab.test_interface_life import say, session_of
from tests.lab.test_verify import ARRIVED, verify
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]


@contextmanager
def joined(built: Lab, directory: Path) -> Iterator[Line]:
    """A line whose host has joined by TLS; its control plane may end before it."""
    host_id = f"{built.name}-line"
    with planes(built, directory) as plane:
        identity = agent.join(tls(plane), token(plane, host_id), host_id, directory)
        whole = Line(built, plane, directory, namespace_gone_s=3600.0, identity=identity)
        try:
            whole.start_agent()
            yield whole
        finally:
            whole.close()


@contextmanager
def planes(built: Lab, directory: Path) -> Iterator[Plane]:
    with running(directory / "state", networks_toml(built.topology), listen_tls="127.0.0.1:0") as plane:
        yield plane


def still(whole: Line) -> list[str]:
    return [each["problem"] for each in whole.plane.own("status")["deleted_sessions"]]


def test_what_was_desired_outlives_the_control_plane_and_a_reboot_and_a_deletion_waits_for_its_host(
    lab: Build, tmp_path: Path
) -> None:
    built = lab(VPC)
    with joined(built, tmp_path) as whole, built.inside("monitor") as monitor:
        collector = Collector(monitor)

        def said_and_copied(packets: int, in_all: int) -> None:
            say(whole, packets)
            wait_until(lambda: len(collector.copies()) >= in_all, WITHIN_S, lambda: f"{len(collector.copies())} copies")
            assert len(collector.copies()) == in_all

        session_id = session_of(whole, "web")
        whole.wait_for_problem(session_id, None)
        said_and_copied(3, in_all=3)

        assert whole.plane.stop() == 0
        said_and_copied(2, in_all=5)
        whole.end("agent")
        agent.purge_host(whole.bpffs, whole.host_id, built.namespace("host"))  # all that a reboot takes
        whole.start_agent()
        said_and_copied(4, in_all=9)

        whole.end("agent")
        with planes(built, tmp_path) as whole.plane:
            whole.plane.client().delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
            assert still(whole) == [f"still mirroring on {whole.host_id}"]
            said_and_copied(1, in_all=10)
            whole.start_agent()
            wait_until(lambda: still(whole) == [], WITHIN_S, lambda: f"{still(whole)}")
            say(whole, 1)
            assert len(collector.copies()) == 10
            whole.end("agent")
        collector.close()


@pytest.mark.long
def test_a_monitor_of_a_host_that_has_joined_reports_by_tls_and_knows_probes(lab: Build, tmp_path: Path) -> None:
    with joined(lab(VPC), tmp_path) as whole:
        whole.start_monitor()
        session_id = session_of(whole, "web")
        whole.wait_for_problem(session_id, None)
        say(whole, 3)
        whole.wait_until_collected(session_id, 3)
        assert [each["monitor_id"] for each in whole.plane.own("status")["monitors"]] == [whole.host_id]
        assert verify(whole, session_id)[0] == ARRIVED
        assert whole.row(session_id)["sent"]["packets"] == 3

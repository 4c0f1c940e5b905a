"""Where an interface's address comes from, and when an interface ends, with real namespaces (spec 5.14, 5.15)."""

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror.agent.apply import pins_of
from pktmirror.kernel import netns
from pktmirror.lab import Lab, Topology
from pktmirror.lab.plan import host_device
from pktmirror.model.filter import UDP
from tests.contract.conftest import Maker
from tests.contract.plane import code_of
from tests.lab.line import WITHIN_S, Line, line
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
PORT = 9999
GONE_S = 1.0


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def address_in_a_bridge(built: Lab) -> None:
    """The instance keeps its address on a bridge of its own, as one that hosts containers does: eth0 has none."""
    inside, mac = built.namespace("web"), built.topology.mac_address("web")
    ip("-n", inside, "address", "flush", "dev", "eth0")
    ip("-n", inside, "link", "add", "br0", "address", mac, "type", "bridge")
    ip("-n", inside, "link", "set", "eth0", "master", "br0")
    ip("-n", inside, "link", "set", "br0", "up")
    ip("-n", inside, "address", "add", "10.0.0.48/24", "dev", "br0")

    wait_until(lambda: heard_of(built, "client", "10.0.0.48", "eth0"), WITHIN_S, "its bridge does not forward")


def heard_of(built: Lab, place: str, address: str, device: str) -> bool:
    """Whether a place knows by ARP who has an address; a datagram makes it ask."""
    with built.inside(place) as inside, inside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (address, PORT))
    shown = ip("-n", built.namespace(place), "neighbour", "show", address, "dev", device)
    return built.topology.mac_address("web") in shown


def session_of(whole: Line, source: str) -> str:
    """A session of what the place sends to the client, to the monitor."""
    parameters = session_parameters(whole, source)
    return str(
        whole.plane.client().create_traffic_mirror_session(**parameters)["TrafficMirrorSession"][
            "TrafficMirrorSessionId"
        ]
    )


def session_parameters(whole: Line, source: str) -> dict[str, object]:
    make = Maker(whole.plane, whole.plane.client())
    filter_id = make.filter()
    ports = {"FromPort": PORT, "ToPort": PORT}
    make.rule(filter_id, TrafficDirection="egress", Protocol=UDP, DestinationPortRange=ports)
    return {
        "NetworkInterfaceId": whole.found(source)["interface_id"],
        "TrafficMirrorTargetId": make.target(NetworkInterfaceId=whole.found("monitor")["interface_id"]),
        "TrafficMirrorFilterId": filter_id,
        "SessionNumber": 1,
        "VirtualNetworkId": 7,
    }


def say(whole: Line, packets: int) -> None:
    with (
        whole.lab.inside("web") as web,
        web.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for number in range(packets):
            sender.sendto(struct.pack("!I", number), ("10.0.0.6", PORT))


def test_a_declared_address_makes_a_source_of_an_interface_that_tells_none(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    ip("-n", built.namespace("host"), "neighbour", "flush", "all")
    ip("-n", built.namespace("host"), "link", "set", "br-a", "arp", "off")  # the host learns nobody's address
    address_in_a_bridge(built)
    with line(built, tmp_path) as whole:
        web = whole.found("web")
        assert (web["addresses"], web["address_from"]) == ([], None)
        asked = session_parameters(whole, "web")
        ec2 = whole.plane.client()
        assert code_of(ec2.create_traffic_mirror_session, **asked) == "NetworkInterfaceNotSupported"
        answer = whole.plane.own_answer(f"interfaces/{web['interface_id']}/address", method="PUT", body="10.0.0.48")
        assert answer.status_code == 200, answer.text
        ip("-n", built.namespace("host"), "link", "set", "br-a", "arp", "on")
        created = ec2.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
        session_id = created["TrafficMirrorSessionId"]
        whole.wait_for_problem(session_id, None)
        say(whole, 5)
        whole.wait_until_collected(session_id, 5)
        assert whole.row(session_id)["outer_source"] == "10.0.0.48"
        assert whole.found("web")["address_from"] == "operator"


def test_the_hosts_neighbour_table_makes_a_source_of_an_interface_that_tells_no_address(
    lab: Build, tmp_path: Path
) -> None:
    built = lab(VPC)
    address_in_a_bridge(built)
    host = built.namespace("host")
    wait_until(lambda: heard_of(built, "host", "10.0.0.48", "br-a"), WITHIN_S, "the host does not learn it")
    with line(built, tmp_path) as whole:
        web = whole.found("web")
        assert (web["addresses"], web["address_from"]) == (["10.0.0.48"], "neighbour table")
        session_id = session_of(whole, "web")
        whole.wait_for_problem(session_id, None)
        say(whole, 5)
        whole.wait_until_collected(session_id, 5)
        assert whole.row(session_id)["outer_source"] == "10.0.0.48"
        ip("-n", host, "neighbour", "del", "10.0.0.48", "dev", "br-a")
        say(whole, 2)
        whole.wait_until_collected(session_id, 7)
        assert whole.found("web")["addresses"] == ["10.0.0.48"], "what the host has forgotten is no news"


@contextmanager
def mirrored(lab: Build, directory: Path) -> Iterator[tuple[Line, str, str]]:
    """The line, the id of a source that is mirrored, and of its session."""
    with line(lab(VPC), directory, namespace_gone_s=GONE_S) as whole:
        session_id = session_of(whole, "web")
        whole.wait_for_problem(session_id, None)
        yield whole, whole.found("web")["interface_id"], session_id


def hooks(whole: Line) -> list[str]:
    root = pins_of(whole.bpffs, whole.host_id)
    return [path.name for path in root.rglob("link-*-hook_*")] if root.is_dir() else []


def known(whole: Line) -> list[str]:
    return [each["interface_id"] for each in whole.plane.own("interfaces")]


def test_a_namespace_that_is_deleted_takes_its_interface_and_the_sessions_along(lab: Build, tmp_path: Path) -> None:
    with mirrored(lab, tmp_path) as (whole, web, session_id):
        assert len(hooks(whole)) == 2
        netns.remove(whole.lab.namespace("web"))
        wait_until(lambda: web not in known(whole), WITHIN_S, "the interface is not deleted")
        assert whole.status(session_id) is None
        wait_until(lambda: hooks(whole) == [], WITHIN_S, "its hooks are still pinned")
        assert whole.interface("client") is not None, "the others stay"


def test_a_device_that_vanishes_from_a_namespace_is_detached_and_no_deletion(lab: Build, tmp_path: Path) -> None:
    with mirrored(lab, tmp_path) as (whole, web, session_id):
        host, inside, device = whole.lab.namespace("host"), whole.lab.namespace("web"), host_device("web")
        ip("-n", host, "link", "del", device)
        whole.wait_for_problem(session_id, "interface gone")
        stays_for(whole, web, 3 * GONE_S)
        plug(whole.lab, host, inside, device)
        whole.wait_for_problem(session_id, None)
        assert whole.found("web")["interface_id"] == web


def test_an_instance_whose_namespace_is_back_in_time_keeps_its_sessions(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:  # in time: within an hour
        session_id = session_of(whole, "web")
        whole.wait_for_problem(session_id, None)
        web, inside = whole.found("web")["interface_id"], whole.lab.namespace("web")
        netns.remove(inside)
        whole.wait_for_problem(session_id, "interface gone")
        netns.create(inside)
        try:
            plug(whole.lab, whole.lab.namespace("host"), inside, host_device("web"))
            whole.wait_for_problem(session_id, None)
            assert whole.found("web")["interface_id"] == web
            say(whole, 3)
            whole.wait_until_collected(session_id, 3)
        finally:
            netns.remove(inside)  # the lab takes down what it has made itself


def test_a_namespace_that_is_deleted_while_no_agent_runs_leaves_a_detached_interface(
    lab: Build, tmp_path: Path
) -> None:
    with mirrored(lab, tmp_path) as (whole, web, session_id):
        whole.end("agent")
        netns.remove(whole.lab.namespace("web"))
        whole.start_agent()
        whole.wait_for_problem(session_id, "interface gone")
        stays_for(whole, web, 3 * GONE_S)
        assert whole.plane.own_answer(f"interfaces/{web}", method="DELETE").status_code == 204, "the operator knows"
        assert whole.status(session_id) is None


def test_an_agent_that_ends_and_starts_again_deletes_nothing(lab: Build, tmp_path: Path) -> None:
    with mirrored(lab, tmp_path) as (whole, web, session_id):
        whole.end("agent")
        whole.start_agent()
        stays_for(whole, web, 2 * GONE_S)
        whole.wait_for_problem(session_id, None)


def stays_for(whole: Line, interface_id: str, seconds: float) -> None:
    """Looks again and again for so long whether the interface is still known."""
    reported = wait_until(lambda: applied(whole) is not None, WITHIN_S, "no report")
    assert reported
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        assert interface_id in known(whole)


def applied(whole: Line) -> int | None:
    [host] = whole.plane.own("status")["hosts"]
    return None if host["applied_revision"] is None else int(host["applied_revision"])


def plug(built: Lab, host: str, inside: str, device: str) -> None:
    """Give the instance a cable as it had it."""
    if device in ip("-n", host, "-o", "link"):  # the old one goes with its namespace, when the kernel gets to it
        subprocess.run(["ip", "-n", host, "link", "del", device], check=False, capture_output=True)
        wait_until(lambda: device not in ip("-n", host, "-o", "link"), WITHIN_S, "the old cable is still there")
    ip("-n", host, "link", "add", device, "mtu", "1500", "type", "veth", "peer", "name", "eth0", "netns", inside)
    ip("-n", inside, "link", "set", "eth0", "address", built.topology.mac_address("web"), "mtu", "1500")
    ip("-n", inside, "address", "add", "10.0.0.48/24", "dev", "eth0")
    ip("-n", host, "link", "set", device, "master", "br-a", "up")
    ip("-n", inside, "link", "set", "eth0", "up")
    wait_until(
        lambda: "state forwarding" in ip("-n", host, "-details", "link", "show", device),
        WITHIN_S,
        "it does not forward",
    )

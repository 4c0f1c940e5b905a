"""Whose address copies carry outside, with real routes: the interface's, or what a route prefers (spec 5.14)."""

import socket
import struct
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology, networks_toml
from pktmirror.model.filter import UDP, Direction, PortRange
from pktmirror.model.ledger import Stage
from pktmirror.model.underlay import OuterSource
from tests.contract.conftest import Maker
from tests.lab.line import line
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.topologies import TWO_HOSTS, VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
EGRESS = Direction.EGRESS
PORT = 9999
NUMBERED = accepting(UDP, directions=[EGRESS], families=[4], to_ports=PortRange(PORT, PORT))
HOST = IPv4Address("10.0.0.3")  # what the lab gives the host in its subnet
OF_HOST = Underlay(outer_source=OuterSource.HOST)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def say(mirror: Mirror, number: int, source: str = "web") -> None:
    """One numbered datagram to the client."""
    with mirror.inside(source).run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(struct.pack("!I", number), (mirror.address("client"), PORT))


def outer_sources(mirror: Mirror, count: int, place: str = "monitor") -> list[IPv4Address]:
    return [copy.outer_source for copy in mirror.wait_for_copies(place, count)]


def told(mirror: Mirror) -> str | None:
    """Which outer source the agent says that it uses."""
    [status] = mirror.report("web").statuses
    return status.outer_source


def test_copies_carry_the_hosts_address_where_the_network_says_so_and_the_interfaces_where_not(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        say(mirror, 0)
        web = IPv4Address(mirror.address("web"))
        assert outer_sources(mirror, 1) == [web]
        assert told(mirror) == str(web)
        mirror.underlay = OF_HOST
        mirror.mirror(mirror.sources)
        assert (mirror.status("web"), told(mirror)) == (None, str(HOST))
        say(mirror, 1)
        assert outer_sources(mirror, 2) == [web, HOST]
        assert [copy.frame[26:30] for copy in mirror.collector("monitor").copies()] == [web.packed] * 2, (
            "inside as sent"
        )
        mirror.underlay = Underlay()
        mirror.mirror(mirror.sources)
        say(mirror, 2)
        assert outer_sources(mirror, 3) == [web, HOST, web]


def test_another_preferred_source_of_the_route_is_used_as_soon_as_it_is_there(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.underlay = OF_HOST
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        host = mirror.lab.namespace("host")
        ip("-n", host, "address", "add", "10.0.0.33/24", "dev", "br-a")
        say(mirror, 0)
        assert outer_sources(mirror, 1) == [HOST], "a second address of the device changes nothing"
        ip("-n", host, "route", "add", "10.0.0.90/32", "dev", "br-a", "src", "10.0.0.33")
        wait_until(lambda: told(mirror) == "10.0.0.33", WITHIN_S, "the new route is not used")
        say(mirror, 1)
        assert outer_sources(mirror, 2) == [HOST, IPv4Address("10.0.0.33")]


def test_a_route_table_of_its_own_names_the_source_or_its_device_does(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        host = mirror.lab.namespace("host")
        ip("-n", host, "address", "add", "10.0.0.33/32", "dev", "br-a")
        ip("-n", host, "route", "add", "10.0.0.0/24", "dev", "br-a", "table", "100")
        mirror.underlay = Underlay(route_table=100, outer_source=OuterSource.HOST)
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        say(mirror, 0)
        assert outer_sources(mirror, 1) == [HOST]
        ip("-n", host, "route", "replace", "10.0.0.0/24", "dev", "br-a", "src", "10.0.0.33", "table", "100")
        wait_until(lambda: told(mirror) == "10.0.0.33", WITHIN_S, "the new route is not used")
        say(mirror, 1)
        assert outer_sources(mirror, 2) == [HOST, IPv4Address("10.0.0.33")]


def test_a_route_without_a_preferred_source_is_the_problem_of_its_sessions_until_it_has_one(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        host = mirror.lab.namespace("host")
        ip("-n", host, "address", "flush", "dev", "br-a")
        ip("-n", host, "route", "replace", "10.0.0.0/24", "dev", "br-a")
        mirror.underlay = OF_HOST
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        assert mirror.status("web") == (
            "the route to the target 10.0.0.90 (table 254) has no preferred source, and the host's address is to be "
            "the outer source of the copies"
        )
        assert told(mirror) is None
        say(mirror, 0)
        wait_until(lambda: mirror.stages("web", EGRESS) == {Stage.NO_ROUTE: 1}, WITHIN_S, "it is not counted")
        ip("-n", host, "address", "add", "10.0.0.3/24", "dev", "br-a")
        wait_until(lambda: mirror.status("web") is None, 2 * WITHIN_S, "the address is not used")
        say(mirror, 1)
        assert outer_sources(mirror, 1) == [HOST]
        assert mirror.stages("web", EGRESS) == {Stage.NO_ROUTE: 1, Stage.SENT: 1}


def test_a_target_behind_a_router_sees_the_address_of_the_hosts_way_to_it(lab: Build) -> None:
    with Mirror(lab(TWO_HOSTS)) as mirror:
        mirror.underlay = OF_HOST
        mirror.mirror({"web": [Session("client", filter=NUMBERED)]})
        say(mirror, 0)
        assert outer_sources(mirror, 1, "client") == [IPv4Address("10.0.1.3")]


def test_the_ledger_of_the_whole_line_adds_up_across_a_change_of_the_outer_source(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    with line(built, tmp_path) as whole:
        ec2 = whole.plane.client()
        web, sensor = whole.found("web")["interface_id"], whole.found("monitor")["interface_id"]
        make = Maker(whole.plane, ec2)
        filter_id = make.filter()
        make.rule(
            filter_id, TrafficDirection="egress", Protocol=UDP, DestinationPortRange={"FromPort": PORT, "ToPort": PORT}
        )
        session_id = make.session(
            NetworkInterfaceId=web,
            TrafficMirrorTargetId=make.target(NetworkInterfaceId=sensor),
            TrafficMirrorFilterId=filter_id,
            VirtualNetworkId=7,
        )["TrafficMirrorSessionId"]
        whole.wait_for_problem(session_id, None)
        send(built, 3)
        whole.wait_until_collected(session_id, 3)
        assert whole.row(session_id)["outer_source"] == "10.0.0.48"
        declared = networks_toml(built.topology).replace(
            "[[vpc.subnet]]", '[vpc.underlay]\nouter_source = "host"\n[[vpc.subnet]]', 1
        )
        assert whole.plane.own_answer("networks", method="PUT", body=declared).status_code == 200
        wait_until(
            lambda: whole.row(session_id)["outer_source"] == "10.0.0.3", WITHIN_S, lambda: str(whole.row(session_id))
        )
        assert (whole.status(session_id) or {})["outer_source"] == "10.0.0.3"
        send(built, 4)
        whole.wait_until_collected(session_id, 7)
        assert captured_outer_sources(tmp_path) == {"10.0.0.3": 4, "10.0.0.48": 3}


def send(built: Lab, packets: int) -> None:
    with built.inside("web") as web, web.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(packets):
            sender.sendto(struct.pack("!I", number), ("10.0.0.6", PORT))


def captured_outer_sources(directory: Path) -> dict[str, int]:
    """By outer source: how many packets the capture has; its interfaces are named by stream."""
    [capture] = (directory / "captures").glob("*.pcapng")
    shown = subprocess.run(
        ["tshark", "-r", "-", "-T", "fields", "-e", "frame.interface_name"],
        stdin=capture.open("rb"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    names = [name for name in shown if name]
    return {source: sum(source + " " in f"{name} " for name in names) for source in ("10.0.0.3", "10.0.0.48")}

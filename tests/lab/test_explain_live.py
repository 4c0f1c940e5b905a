"""`pktmirror explain --live` on the whole line: real packets, the kernel's word on each, and the model's beside it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pktmirror.agent import abi
from pktmirror.agent.apply import pins_of
from pktmirror.kernel import bpf
from pktmirror.lab import Lab, Topology
from tests.lab.line import WITHIN_S, Line, line
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
PROGRAM = "from pktmirror.cli import main; main()"
TAKEN, REJECTED, UNNAMED = 5001, 5002, 5003


@dataclass
class World:
    """`web` is mirrored to `monitor`: UDP to port 5001 is accepted, to 5002 rejected, to 5003 nobody speaks of."""

    line: Line
    session_id: str
    web_id: str

    def send(self, *ports: int, payload: bytes = b"hello") -> None:
        with self.line.lab.inside("web") as web, web.run(socket.socket, type=socket.SOCK_DGRAM) as sender:
            sender.bind(("10.0.0.48", 40000))
            for port in ports:
                web.run(sender.sendto, payload, ("10.0.0.6", port))

    @contextmanager
    def live(self, *options: str) -> Iterator["subprocess.Popen[str]"]:
        """The command as a process, whose trace has begun."""
        words = ["env", "--default-signal=INT", sys.executable, "-c", PROGRAM, "explain", self.web_id, "--live"]
        environment = {**os.environ, "PKTMIRROR_STATE": str(self.line.plane.state), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                assert process.stderr is not None
                assert select.select([process.stderr], [], [], WITHIN_S)[0], "nobody traces"
                assert "traces; Ctrl-C ends it" in process.stderr.readline()
                yield process
            finally:
                process.kill()

    def traced(self, process: "subprocess.Popen[str]") -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The packets, and the summary, of a trace that ends by itself."""
        said, complaint = process.communicate(timeout=30)
        assert process.returncode == 0, complaint
        *packets, summary = [json.loads(text) for text in said.splitlines()]
        return packets, summary

    def request(self) -> abi.TraceRequest:
        """What the kernel is asked for now."""
        [pinned] = pins_of(self.line.bpffs, self.line.host_id).glob("*/trace")
        with bpf.Map.pinned(pinned) as request:
            return abi.TraceRequest.from_buffer_copy(request.get(bytes(4)) or b"")


@pytest.fixture
def world(lab: Build, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = stack.enter_context(line(lab(VPC), tmp_path))
        web, monitor = (made.found(place)["interface_id"] for place in ("web", "monitor"))
        ec2 = made.plane.client()
        filter_id = ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
        for number, port, action in ((5, REJECTED, "reject"), (7, TAKEN, "accept")):
            ec2.create_traffic_mirror_filter_rule(
                TrafficMirrorFilterId=filter_id,
                TrafficDirection="egress",
                RuleNumber=number,
                RuleAction=action,
                Protocol=17,
                DestinationPortRange={"FromPort": port, "ToPort": port},
                SourceCidrBlock="0.0.0.0/0",
                DestinationCidrBlock="0.0.0.0/0",
            )
        ec2.create_traffic_mirror_filter_rule(
            TrafficMirrorFilterId=filter_id,
            TrafficDirection="egress",
            RuleNumber=9,
            RuleAction="accept",
            Protocol=6,
            SourceCidrBlock="0.0.0.0/0",
            DestinationCidrBlock="0.0.0.0/0",
        )
        target = ec2.create_traffic_mirror_target(NetworkInterfaceId=monitor)["TrafficMirrorTarget"]
        session = ec2.create_traffic_mirror_session(
            NetworkInterfaceId=web,
            TrafficMirrorTargetId=target["TrafficMirrorTargetId"],
            TrafficMirrorFilterId=filter_id,
            SessionNumber=3,
        )["TrafficMirrorSession"]["TrafficMirrorSessionId"]
        made.wait_for_problem(session, None)
        yield World(made, session, web)


def test_packets_are_told_as_they_pass_with_rule_and_copy_and_the_model_agrees(world: World) -> None:
    with world.live("--json", "--count", "3", "--protocol", "udp", "--direction", "egress") as process:
        world.send(TAKEN, REJECTED, UNNAMED)
        packets, summary = world.traced(process)
    assert [each["destination_port"] for each in packets] == [TAKEN, REJECTED, UNNAMED]
    assert [each["outcome"] for each in packets] == ["taken by a session", *["no session took it"] * 2]
    [first] = [one["sessions"] for one in packets[:1]]
    assert [(one["session_id"], one["verdict"], one["rule_number"]) for one in first] == [
        (world.session_id, "taken", 7)
    ]
    rules = [(one["sessions"][0]["verdict"], one["sessions"][0]["rule_number"]) for one in packets[1:]]
    assert rules == [("rejected by rule", 5), ("no rule matched", None)]
    assert packets[0]["stage"] == "sent"
    assert (packets[0]["copies"], packets[0]["copied_bytes"], packets[0]["copies_missing"]) == ({"sent": 1}, 47, 0)
    assert [(one["stage"], one["copies"], one["taken_by"]) for one in packets[1:]] == [(None, {}, None)] * 2
    assert [one["compared_with_model"] for one in packets] == [True] * 3
    assert {step["step"]: step["state"] for step in summary.pop("path")[world.session_id]} == dict.fromkeys(
        ("route", "neighbour", "MTU", "copies", "limits", "listener"), "good"
    )
    assert summary | {"ended": ""} == {
        "interface_id": world.web_id,
        "packets": 3,
        "taken": 1,
        "skipped": 0,
        "lost": 0,
        "disagreements": 0,
        "ended": "",
    }
    assert summary["ended"] == "as many were traced as asked for"
    assert world.request().id == 0, "the kernel is not asked any more"


def test_what_is_not_asked_for_is_not_told(world: World) -> None:
    with world.live("--json", "--count", "1", "--destination", f"10.0.0.0/24:{REJECTED}") as process:
        world.send(TAKEN, UNNAMED, REJECTED)
        [packet], summary = world.traced(process)
    assert (packet["destination_port"], summary["packets"], summary["skipped"]) == (REJECTED, 1, 0)


def test_for_people_the_way_of_the_copies_follows_and_says_who_listens(world: World) -> None:
    with world.live("--count", "1", "--protocol", "udp") as process:
        world.send(TAKEN)
        said, complaint = process.communicate(timeout=30)
    assert process.returncode == 0, complaint
    for text in (
        f"taken by {world.session_id}, 1 copy sent, 47 B",
        f"#3 {world.session_id}: taken: rule 7",
        "1 packet traced, 1 taken by a session; as many were traced as asked for.",
        f"the way of the copies of {world.session_id}",
        f"10.0.0.90 is at {world.line.found('monitor')['mac']}",
        "a socket is bound to 10.0.0.90, UDP port 4789",
    ):
        assert text in " ".join(said.split()), said


def test_a_super_packet_s_copies_are_told_as_the_wire_packets_that_they_become(world: World) -> None:
    data = bytes(200_000)
    with ExitStack() as stack:
        web, client = (stack.enter_context(world.line.lab.inside(place)) for place in ("web", "client"))
        listening = stack.enter_context(client.run(socket.create_server, ("10.0.0.6", TAKEN)))
        process = stack.enter_context(
            world.live("--json", "--count", "400", "--seconds", "3", "--protocol", "6", "--direction", "egress")
        )
        sending = stack.enter_context(web.run(socket.create_connection, ("10.0.0.6", TAKEN)))
        receiving, _ = listening.accept()
        with receiving:
            for at in range(0, len(data), 50_000):  # below the rate of a trace
                sending.sendall(data[at : at + 50_000])
                left = 50_000
                while left:
                    left -= len(receiving.recv(left))
        packets, summary = world.traced(process)
    assert any(each["packets"] > 1 for each in packets), "there was a super-packet"
    assert sum(each["bytes"] - 66 * each["packets"] for each in packets if each["bytes"] > 74) == len(data)
    assert [each["copies"] for each in packets] == [{"sent": each["packets"]} for each in packets]
    assert [each["copied_bytes"] for each in packets] == [each["bytes"] for each in packets]
    assert (summary["disagreements"], summary["lost"], summary["skipped"]) == (0, 0, 0)


def test_a_change_of_the_rules_is_followed_and_each_packet_told_by_the_rules_of_its_time(world: World) -> None:
    ec2 = world.line.plane.client()
    [rule] = [
        each
        for each in ec2.describe_traffic_mirror_filter_rules()["TrafficMirrorFilterRules"]
        if each["RuleNumber"] == 7
    ]
    with world.live("--json", "--count", "2", "--seconds", "30", "--protocol", "udp") as process:
        world.send(TAKEN)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule["TrafficMirrorFilterRuleId"])
        revision = world.line.plane.own("status")["revision"]
        wait_until(
            lambda: world.line.plane.own("status")["hosts"][0]["applied_revision"] >= revision,
            WITHIN_S,
            "the rule is still in force",
        )
        world.send(TAKEN)
        [second], summary = world.traced(process)
    assert [first["outcome"], second["outcome"]] == ["taken by a session", "no session took it"]
    assert [one["compared_with_model"] for one in (first, second)] == [True, True]
    assert second["revision"] > first["revision"]
    assert summary["disagreements"] == 0


def test_an_interrupt_ends_the_trace_in_the_kernel(world: World) -> None:
    with world.live("--seconds", "600") as process:
        assert world.request().id != 0
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=30)
        assert process.returncode == 0, complaint
        assert "; interrupted." in said
        wait_until(lambda: world.request().id == 0, WITHIN_S, "the kernel is still asked")


@pytest.mark.long
def test_an_asker_that_is_killed_ends_the_trace_too(world: World) -> None:
    with world.live("--seconds", "600") as process:
        process.kill()
    wait_until(lambda: world.request().id == 0, 20, "the kernel is still asked")


def test_a_trace_goes_on_for_no_longer_than_it_was_asked_though_its_agent_has_ended(world: World) -> None:
    with world.live("--seconds", "600"):
        began_ns = time.monotonic_ns()
        assert began_ns < world.request().until_ns < began_ns + 601 * 10**9
        world.line.end("agent")
        assert world.request().id == 0
        world.line.start_agent()


def test_one_trace_a_host_at_a_time(world: World) -> None:
    with world.live("--seconds", "600"):
        words = [sys.executable, "-c", PROGRAM, "explain", world.web_id, "--live"]
        environment = {**os.environ, "PKTMIRROR_STATE": str(world.line.plane.state)}
        ended = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=30)
    assert ended.returncode == 1
    assert "a host has one at a time" in ended.stderr


def test_the_way_of_the_copies_says_what_stands_in_it(world: World) -> None:
    def way() -> dict[str, str]:
        words = (world.web_id, "egress", "udp", "10.0.0.48:40000", f"10.0.0.6:{TAKEN}", "--json")
        environment = {**os.environ, "PKTMIRROR_STATE": str(world.line.plane.state)}
        told = subprocess.run(
            [sys.executable, "-c", PROGRAM, "explain", *words],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=30,
        )
        steps = json.loads(told.stdout)["path"][world.session_id]
        assert all(bool(step["do"]) == (step["state"] != "good") for step in steps)
        return {step["step"]: step["state"] for step in steps if step["state"] != "good"}

    wait_until(lambda: way() == {}, WITHIN_S, lambda: f"all is well, and it says {way()}")
    world.line.end("monitor")
    wait_until(lambda: way() == {"listener": "broken"}, WITHIN_S, lambda: f"nobody listens, and it says {way()}")
    monitor = world.line.lab.namespace("monitor")
    subprocess.run(["ip", "-n", monitor, "link", "set", "eth0", "down"], check=True)
    subprocess.run(["ip", "-n", world.line.lab.namespace("host"), "neighbour", "flush", "all"], check=True)
    wait_until(lambda: "neighbour" in way(), WITHIN_S, "nobody answers ARP")
    wait_until(lambda: way().get("neighbour") == "broken", WITHIN_S, lambda: f"nobody answers ARP, it says {way()}")
    with world.live("--json", "--count", "1", "--protocol", "udp", "--direction", "egress") as process:
        world.send(TAKEN)
        [packet], summary = world.traced(process)
    assert (packet["taken_by"], packet["stage"], packet["copies"]) == (world.session_id, "neighbour unresolved", {})
    assert summary["disagreements"] == 0

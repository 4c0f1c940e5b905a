"""Mirrors while the agent, the source or the way to the target comes and goes (fact 69, decision 5.15)."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pktmirror.agent.apply import hop_prefix
from pktmirror.desired import encode
from pktmirror.kernel import netns
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import UDP, Direction, PortRange
from pktmirror.model.ledger import Stage
from tests.lab.mirror import WITHIN_S, Agent, Mirror, Session, accepting
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

PORT = 9999
EGRESS = Direction.EGRESS
EVERY_S = 0.0005
HOP_DEVICES = 6 * (os.cpu_count() or 1)  # three hops for each CPU
NUMBERED = accepting(UDP, directions=[EGRESS], families=[4], to_ports=PortRange(PORT, PORT))


class Stream:
    """Numbered datagrams from the source to the client, until it is stopped."""

    def __init__(self, mirror: Mirror, every_s: float) -> None:
        self.sent = 0
        self._received: list[int] = []
        self._every_s = every_s
        self._mirror = mirror
        self._stop = threading.Event()
        self._receiver = mirror.inside("client").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._receiver.bind((mirror.address("client"), PORT))
        self._sender = mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect((mirror.address("client"), PORT))
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._stop.wait(self._every_s):
            self._sender.send(struct.pack("!I", self.sent))
            self.sent += 1

    def goes_on(self, packets: int = 100) -> None:
        """Until so many more datagrams have been sent."""
        self.received()  # so that the socket has room for more
        until = self.sent + packets
        wait_until(lambda: self.sent >= until, WITHIN_S, "the stream stands still")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def close(self) -> None:
        self.stop()
        self._sender.close()
        self._receiver.close()

    def received(self) -> list[int]:
        """The numbers that have reached the client."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._received.append(struct.unpack("!I", self._receiver.recv(100, socket.MSG_DONTWAIT))[0])
        return self._received


def mirrored_numbers(mirror: Mirror) -> list[int]:
    return [struct.unpack("!I", copy.frame[42:46])[0] for copy in mirror.collector("monitor").copies()]


@contextlib.contextmanager
def streaming(mirror: Mirror, every_s: float = EVERY_S) -> Iterator[Stream]:
    stream = Stream(mirror, every_s)
    try:
        yield stream
    finally:
        stream.close()


def assert_nothing_was_lost(mirror: Mirror, stream: Stream) -> None:
    stream.stop()
    everything = list(range(stream.sent))
    assert stream.received() == everything, "production"
    mirror.wait_for_copies("monitor", stream.sent)
    assert mirrored_numbers(mirror) == everything
    assert mirror.stages("web", EGRESS) == {Stage.SENT: stream.sent}, "the ledger went on"
    assert mirror.ledger("web")[EGRESS].verdict(Verdict.TAKEN).packets == stream.sent


def test_an_agent_that_ends_and_starts_again_loses_no_packet_no_copy_and_no_count(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        pins = agent.pins
        with streaming(mirror) as stream:
            for _ in range(3):
                stream.goes_on()
                agent.stop()
                stream.goes_on()
                agent.start()
                stream.goes_on()
                assert agent.turn().problems == ()
            assert_nothing_was_lost(mirror, stream)
        assert agent.pins == pins


def agent_process(agent: Agent, namespace: str, state: Path) -> "subprocess.Popen[str]":
    """`pktmirror agent` without a control plane, that makes true what it knew; returned when it has done so."""
    process = starting_process(agent, namespace, state)
    assert process.stdout is not None
    for line in process.stdout:
        if "control plane cannot be used" in line:  # its loop turns: the line comes from beside it
            return process
    raise AssertionError(f"the agent ended with {process.wait()}")


def starting_process(agent: Agent, namespace: str, state: Path) -> "subprocess.Popen[str]":
    """The same, not waited for."""
    assert agent.desk.desired is not None
    kept = state / f"desired-{agent.host_id}.json"
    kept.write_bytes(encode(agent.desk.desired))
    (state / "agent-token").write_text("none")
    options = {"control": "http://127.0.0.1:9", "state": state, "netns": namespace, "host-id": agent.host_id}
    options |= {"bpffs": agent.bpffs_root, "budget-packets-per-second": 0}
    argv = [f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen(
        [Path(sys.executable).with_name("pktmirror"), "agent", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_removing_a_session_stops_its_copies_and_takes_the_hooks_off(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, streaming(mirror) as stream:
        agent = mirror.agents["host"]
        before = agent.pins
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        ifindex = ifindex_of(mirror, host_device("web"))
        links = {f"link-{ifindex}-hook_ingress", f"link-{ifindex}-hook_egress"}
        assert agent.pins - before == links | hop_pins(mirror)
        stream.goes_on()
        mirror.unheard.add(7)  # its row is gone with it, so there is no figure to compare
        mirror.mirror({})
        assert agent.pins - before == hop_pins(mirror)
        report = agent.turn()
        assert (report.statuses, report.sessions, report.mirrored_interfaces) == ((), (), ())
        wait_until(lambda: at_rest(mirror), WITHIN_S, "copies do not stop")
        copies = len(mirrored_numbers(mirror))
        stream.goes_on(300)
        stream.stop()
        assert len(mirrored_numbers(mirror)) == copies
        assert stream.received() == list(range(stream.sent))


def at_rest(mirror: Mirror) -> bool:
    """No copy within the time of many packets of the stream."""
    before, until_s = len(mirrored_numbers(mirror)), time.monotonic() + 100 * EVERY_S
    while time.monotonic() < until_s:
        if len(mirrored_numbers(mirror)) != before:
            return False
    return True


def test_purge_leaves_neither_pin_nor_device(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        devices = set(device_names(mirror))
        mirror.mirror({"web": [Session("monitor")]})
        assert set(device_names(mirror)) - devices == set(hop_of(mirror))
        assert len(hop_of(mirror)) == HOP_DEVICES
        mirror.sources = {}
        agent.stop()
        agent.purge()
        assert agent.pins == set()
        assert set(device_names(mirror)) == devices
        mirror.send("web", [bytes(60)])
        agent.start()


def test_a_source_that_vanishes_is_gone_and_is_mirrored_again_when_it_returns(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        say(mirror, 0)
        mirror.wait_for_copies("monitor", 1)
        mirror.rearranged.add("web")  # the interface's figures are those of its device, which ends with the cable
        unplug_and_plug = recabling(mirror, "web")
        next(unplug_and_plug)
        assert mirror.status("web") == "interface gone"
        assert agent.turn().problems == ()
        next(unplug_and_plug, None)
        assert mirror.status("web") is None
        say(mirror, 1)
        mirror.wait_for_copies("monitor", 2)
        assert mirrored_numbers(mirror) == [0, 1]
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 2}, "its ledger went on"
        assert len([pin for pin in agent.pins if pin.startswith("link-")]) == 2, "its two hooks"


def recabling(mirror: Mirror, place: str) -> Iterator[None]:
    """Takes an instance's cable away, and at the next step plugs the like of it in."""
    topology = mirror.lab.topology
    host, inside = mirror.lab.namespace("host"), mirror.lab.namespace(place)
    device = host_device(place)
    ip("-n", host, "link", "del", device)
    yield
    ip("-n", host, "link", "add", device, "mtu", "1500", "type", "veth", "peer", "name", "eth0", "netns", inside)
    ip("-n", inside, "link", "set", "eth0", "address", mirror.mac(place), "mtu", "1500")
    ip("-n", inside, "address", "add", f"{topology.instance(place).address}/24", "dev", "eth0")
    ip("-n", host, "link", "set", device, "master", "br-a", "up")
    ip("-n", inside, "link", "set", "eth0", "up")
    wait_until(lambda: forwards(host, device), WITHIN_S, "the bridge's port does not forward")


def forwards(host: str, device: str) -> bool:
    return "state forwarding" in ip("-n", host, "-details", "link", "show", device)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ifindex_of(mirror: Mirror, device: str) -> int:
    return int(ip("-n", mirror.lab.namespace("host"), "-o", "link", "show", device).split(":")[0])


def device_names(mirror: Mirror) -> list[str]:
    lines = ip("-n", mirror.lab.namespace("host"), "-o", "link").splitlines()
    return [line.split(": ")[1].split("@")[0] for line in lines]


def hop_pins(mirror: Mirror) -> set[str]:
    """Of each hop, by its far end: its program, what leaves ahead of it where it wraps, and, where it is polled, what
    keeps copies apart."""
    devices = hop_of(mirror)
    programs = {"b": ("wrap", "leave_ahead"), "d": ("finish", "keep_apart"), "f": ("finish_split",)}
    return {f"hop-{device}-{program}" for device in devices for program in programs.get(device[12], ())}


def hop_of(mirror: Mirror) -> list[str]:
    """The agent's own devices: what clones enter comes first."""
    return sorted(name for name in device_names(mirror) if name.startswith(hop_prefix(mirror.agents["host"].host_id)))


def say(mirror: Mirror, number: int) -> None:
    """One numbered datagram from the source to the client."""
    with mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(struct.pack("!I", number), (mirror.address("client"), PORT))


def wait_for_taken(mirror: Mirror, packets: int) -> None:
    wait_until(
        lambda: mirror.ledger("web")[EGRESS].verdict(Verdict.TAKEN).packets == packets, WITHIN_S, "not all was taken"
    )


def test_the_file_of_a_namespace_that_is_half_made_or_half_removed_does_not_disturb_the_agent(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        half_made = netns.path(f"{mirror.lab.name}-half")
        half_made.touch()
        try:
            mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        finally:
            half_made.unlink()
        say(mirror, 0)
        mirror.wait_for_copies("monitor", 1)


def test_without_a_route_packets_are_counted_and_the_status_says_so_until_there_is_one(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("198.51.100.7", filter=NUMBERED)]})
        assert mirror.status("web") == "no route to the target 198.51.100.7 (table 254)"
        for number in range(5):
            say(mirror, number)
        wait_for_taken(mirror, 5)
        assert mirror.stages("web", EGRESS) == {Stage.NO_ROUTE: 5}
        mirror.assert_everything_adds_up()
        with mirror.tap("router", "eth-a") as tap:
            ip("-n", mirror.lab.namespace("host"), "route", "add", "198.51.100.0/24", "via", "10.0.0.1")
            wait_until(lambda: mirror.status("web") is None, WITHIN_S, "the new route is not used")
            say(mirror, 5)
            wait_until(lambda: [f for f in tap.received() if f[30:34] == bytes((198, 51, 100, 7))], WITHIN_S, "no copy")
        assert mirror.stages("web", EGRESS) == {Stage.NO_ROUTE: 5, Stage.SENT: 1}
        mirror.unheard.add(7)


def test_the_status_names_a_next_hop_that_does_not_answer(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session("10.0.0.200", filter=NUMBERED)]})
        assert mirror.status("web") is None
        say(mirror, 0)
        said = "the next hop 10.0.0.200 does not answer ARP"
        wait_until(lambda: mirror.status("web") == said, 10.0, "the status does not tell")
        assert mirror.stages("web", EGRESS) == {Stage.SENT: 1}


def test_an_undeliverable_session_counts_what_it_takes_and_sends_nothing(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED, undeliverable="target type not yet deliverable")]})
        assert mirror.status("web") == "target type not yet deliverable"
        for number in range(5):
            say(mirror, number)
        wait_for_taken(mirror, 5)
        assert mirror.stages("web", EGRESS) == {Stage.UNDELIVERABLE: 5}
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        assert mirror.status("web") is None
        say(mirror, 5)
        mirror.wait_for_copies("monitor", 1)
        assert mirrored_numbers(mirror) == [5]
        assert mirror.stages("web", EGRESS) == {Stage.UNDELIVERABLE: 5, Stage.SENT: 1}


def test_a_changed_session_under_load_sends_every_packet_by_the_old_or_the_new_and_loses_none(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, streaming(mirror) as stream:
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        for packet_bytes_max in [*range(42, 62), None]:
            mirror.mirror({"web": [Session("monitor", filter=NUMBERED, packet_bytes_max=packet_bytes_max)]})
            stream.goes_on(10)
        stream.stop()
        mirror.assert_everything_adds_up()
        taken = mirror.ledger("web")[EGRESS].verdict(Verdict.TAKEN).packets
        assert mirror.stages("web", EGRESS) == {Stage.SENT: taken}
        assert stream.received() == list(range(stream.sent))


def test_a_hop_that_is_taken_away_is_made_again(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        ip("-n", mirror.lab.namespace("host"), "link", "del", hop_of(mirror)[0])
        say(mirror, 0)
        wait_for_taken(mirror, 1)  # asks for reports, and the agent mends what it finds
        say(mirror, 1)
        wait_until(lambda: mirrored_numbers(mirror)[-1:] == [1], WITHIN_S, "the hop is not mended")
        mirror.assert_everything_adds_up()
        stages = mirror.stages("web", EGRESS)
        assert stages in ({Stage.CLONE_FAILED: 1, Stage.SENT: 1}, {Stage.SENT: 2})


def test_a_frame_at_the_hop_that_is_no_copy_is_dropped_and_counted(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=NUMBERED)]})
        say(mirror, 0)
        mirror.wait_for_copies("monitor", 1)
        assert mirror.report("web").strays.packets == 0
        stray = bytes(12) + b"\x08\x00" + bytes(46)
        with mirror.inside("host").run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.bind((hop_of(mirror)[0], 0))
            mirror.inside("host").run(raw.send, stray)
        wait_until(lambda: mirror.report("web").strays.packets == 1, WITHIN_S, "the stray is not counted")
        assert mirror.report("web").strays.bytes == len(stray)
        assert mirrored_numbers(mirror) == [0]

"""What goes past the hooks is found, to the packet, and of ordinary traffic nothing is taken for it (agent/bypass.py).

In each test of a way around there are packets beside it that go the ordinary way, and these are not counted.
"""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from pktmirror.agent.bypass import SETTLED_S
from pktmirror.kernel import bpf
from pktmirror.lab import Lab, Topology
from pktmirror.lab.plan import host_device
from pktmirror.model.filter import Direction
from tests.lab.machines import ip, mac_bytes, send_raw, super_packet
from tests.lab.mirror import WITHIN_S, Elsewhere, Mirror, Session
from tests.lab.test_mirror_agent import ifindex_of
from tests.lab.test_mirror_tso import assert_super_packets_were_sent, transfer
from tests.lab.test_sources import (
    ADDRESS,
    DATA,
    GUEST_MAC,
    NIC,
    PEER,
    found,
    guest_at_bridge,
    hello,
    nobody,
    plug_uplink,
    say,
    uplink,
    wait_for_problem,
)
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ROOT = Path(__file__).parents[2]
AROUND, ORDINARY = 9999, 9
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h
DEVICES = {"guest": "vnet0", "nic": "up0"}  # of the sources that are no instances of the lab
XDP_NATIVE = 37  # enum bpf_attach_type: BPF_XDP, in the driver where it can


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bpf.Object]:
    """around.bpf.c in the kernel."""
    path = tmp_path_factory.mktemp("bpf") / "around.bpf.o"
    subprocess.run([ROOT / "script/build-bpf", "tests/lab/around.bpf.c", path], check=True)
    loaded = bpf.Object(path)
    yield loaded
    loaded.close()


def udp(mirror: Mirror, source: str, destination: str, port: int) -> bytes:
    packet = IP(src=mirror.address(source), dst=mirror.address(destination)) / UDP(sport=40000, dport=port)
    return bytes(Ether(src=mirror.mac(source), dst=mirror.mac(destination)) / packet / Raw(b"some words"))


def bypassed(mirror: Mirror, source: str) -> dict[Direction, int]:
    [figures] = [each for each in mirror.report(source).mirrored_interfaces if each.key == mirror.key(source)]
    return figures.bypassed_packets


def compared(mirror: Mirror, source: str) -> dict[Direction, int]:
    """What is found once two more readings of both sides are there, the last long enough after the traffic."""
    counters = mirror.agents[mirror.host_of(source)].host.device_counters
    ifindex = ifindex_of(mirror, DEVICES.get(source) or host_device(source))
    until_s = time.monotonic() + 2 * SETTLED_S
    wait_until(
        lambda: mirror.report(source) and (counters.read_at_s(ifindex) or 0.0) > until_s, WITHIN_S, "nothing is read"
    )
    return bypassed(mirror, source)


def mirrored(mirror: Mirror, *sources: str) -> None:
    """The sessions are there, and the comparison has begun."""
    mirror.mirror({source: [Session("monitor", vni=number)] for number, source in enumerate(sources, 7)})
    for source in sources:
        assert compared(mirror, source) == {INGRESS: 0, EGRESS: 0}


@contextlib.contextmanager
def attached(mirror: Mirror, around: bpf.Object, name: str, device: str, attach: str) -> Iterator[None]:
    """A program of around.bpf.c on a device of the host."""
    ifindex = ifindex_of(mirror, device)
    with around.program(name) as program:
        inside = mirror.inside("host")
        if attach == "generic XDP":
            link = inside.run(bpf.Link.attach_xdp_generic, program, ifindex)
        else:
            hook = bpf.TCX_INGRESS if attach == "tcx" else XDP_NATIVE
            link = inside.run(bpf.Link.attach, program, ifindex, hook)
        with link:
            yield


@contextlib.contextmanager
def towards(mirror: Mirror, around: bpf.Object, device: str) -> Iterator[None]:
    with around.map("to_ifindex") as to:
        to.put(bytes(4), ifindex_of(mirror, device).to_bytes(4, "little"))
        yield


def seen(mirror: Mirror, source: str) -> dict[Direction, int]:
    return {direction: mirror.seen(source, direction) for direction in (INGRESS, EGRESS)}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.long
def test_of_a_transfer_in_super_packets_nothing_is_taken_for_bypassed(lab: Build, family: int) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirrored(mirror, "web", "client")
        with mirror.tap("web") as tap:
            for sender, receiver in (("web", "client"), ("client", "web")):
                address = mirror.address(receiver) if family == 4 else mirror.address6(receiver)
                transfer(mirror, sender, receiver, address)
            mirror.assert_everything_adds_up()
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        for source in ("web", "client"):
            assert compared(mirror, source) == {INGRESS: 0, EGRESS: 0}


@pytest.mark.long
def test_of_a_flood_of_small_packets_nothing_is_taken_for_bypassed_while_it_lasts_nor_afterwards(lab: Build) -> None:
    """The counters are read in the midst of it, again and again; both sides send as fast as they can."""
    with Mirror(lab(VPC)) as mirror:
        mirror.unheard |= {7}
        mirrored(mirror, "web")
        stop = threading.Event()

        def flood(source: str, destination: str) -> None:
            frame = udp(mirror, source, destination, ORDINARY)
            with mirror.inside(source).run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.bind(("eth0", 0))
                while not stop.is_set():
                    with contextlib.suppress(OSError):  # the queue is full
                        raw.send(frame)

        threads = [threading.Thread(target=flood, args=pair) for pair in (("web", "client"), ("client", "web"))]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 0}
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert min(seen(mirror, "web").values()) > 1000, "nothing is tested"
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 0}


def test_of_a_virtual_machine_with_offloads_nothing_is_taken_for_bypassed(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab) as guest:
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", ADDRESS)
        client = mirror.mac("client")
        guest.send(hello(GUEST_MAC))
        mirror.send("client", [hello(client)])
        wait_until(lambda: (found(mirror, "tap:vnet0") or nobody()).mac == GUEST_MAC, WITHIN_S, "it is not known")
        mirrored(mirror, "guest")
        header, sent = super_packet(mac_bytes(client) + mac_bytes(GUEST_MAC), DATA)
        header_back, answered = super_packet(mac_bytes(GUEST_MAC) + mac_bytes(client), DATA[::-1])
        for _ in range(10):
            guest.send(sent, header=header)
            send_raw(mirror.inside("client"), "eth0", answered, header=header_back)
        wait_until(lambda: len(guest.received()) >= 1, WITHIN_S, "nothing reaches the machine")
        mirror.assert_everything_adds_up()
        assert min(seen(mirror, "guest").values()) > 10
        guest.received()
        assert compared(mirror, "guest") == {INGRESS: 0, EGRESS: 0}


@pytest.mark.parametrize("attach", ["generic XDP", "XDP"])
def test_what_an_xdp_program_drops_before_the_hook_is_found_to_the_packet(
    lab: Build, around: bpf.Object, attach: str
) -> None:
    with Mirror(lab(VPC)) as mirror, attached(mirror, around, "drop", host_device("web"), attach):
        mirror.around.add("web")
        mirrored(mirror, "web")
        mirror.send("web", [udp(mirror, "web", "client", AROUND)] * 37 + [udp(mirror, "web", "client", ORDINARY)] * 5)
        mirror.wait_for_seen("web", EGRESS, 5)
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 37}
        transfer(mirror, "web", "client", mirror.address("client"))
        mirror.send("client", [udp(mirror, "client", "web", AROUND)] * 3)
        mirror.assert_everything_adds_up()
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 37}


@pytest.mark.long
def test_what_xdp_redirects_from_one_source_to_another_went_past_both(lab: Build, around: bpf.Object) -> None:
    with (
        Mirror(lab(VPC)) as mirror,
        towards(mirror, around, host_device("client")),
        attached(mirror, around, "redirect", host_device("web"), "generic XDP"),
        mirror.tap("client") as tap,
    ):
        mirror.around |= {"web", "client"}
        mirrored(mirror, "web", "client")
        mirror.send("web", [udp(mirror, "web", "client", AROUND)] * 23 + [udp(mirror, "web", "client", ORDINARY)] * 4)
        mirror.wait_for_seen("client", INGRESS, 4)
        arrived = [each.frame for each in tap.read() if not each.outgoing]
        assert arrived.count(udp(mirror, "web", "client", AROUND)) == 23, "they went around, and reached the other"
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 23}
        assert compared(mirror, "client") == {INGRESS: 23, EGRESS: 0}


def test_what_is_handed_to_the_far_end_of_a_veth_is_found_though_its_near_end_never_counts_it(
    lab: Build, around: bpf.Object
) -> None:
    """bpf_redirect_peer, by which Cilium's host routing delivers to pods. Super-packets beside it hide nothing."""
    with (
        Mirror(lab(VPC)) as mirror,
        towards(mirror, around, host_device("web")),
        attached(mirror, around, "redirect_peer", host_device("client"), "tcx"),
        mirror.tap("web") as tap,
    ):
        mirror.around.add("web")
        mirrored(mirror, "web")
        transfer(mirror, "client", "web", mirror.address("web"))
        mirror.assert_everything_adds_up()
        assert_super_packets_were_sent([each.frame for each in tap.read()])
        mirror.send(
            "client", [udp(mirror, "client", "web", AROUND)] * 19 + [udp(mirror, "client", "web", ORDINARY)] * 6
        )
        arrived: list[bytes] = []

        def all_arrived() -> bool:
            arrived.extend(each.frame for each in tap.read() if not each.outgoing)
            return arrived.count(udp(mirror, "client", "web", ORDINARY)) == 6

        wait_until(all_arrived, WITHIN_S, "the ordinary ones do not arrive")
        assert arrived.count(udp(mirror, "client", "web", AROUND)) == 19
        assert compared(mirror, "web") == {INGRESS: 19, EGRESS: 0}


def test_what_a_packet_socket_sends_past_the_queue_is_found(lab: Build) -> None:
    """PACKET_QDISC_BYPASS on the host's side passes tc by; the same of the source itself is seen as it comes out."""
    with Mirror(lab(VPC)) as mirror:
        mirror.around.add("web")
        mirrored(mirror, "web")
        for place, device, frame, count in (
            ("host", host_device("web"), udp(mirror, "client", "web", ORDINARY), 11),
            ("web", "eth0", udp(mirror, "web", "client", ORDINARY), 4),
        ):
            with mirror.inside(place).run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
                raw.bind((device, 0))
                for _ in range(count):
                    raw.send(frame)
        mirror.wait_for_seen("web", EGRESS, 4)
        assert compared(mirror, "web") == {INGRESS: 11, EGRESS: 0}


def test_the_figure_stays_when_the_way_around_is_closed_and_begins_anew_with_another_agent(
    lab: Build, around: bpf.Object
) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.around.add("web")
        mirrored(mirror, "web")
        with attached(mirror, around, "drop", host_device("web"), "generic XDP"):
            mirror.send("web", [udp(mirror, "web", "client", AROUND)] * 8)
            assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 8}
        mirror.send("web", [udp(mirror, "web", "client", AROUND)] * 8)
        mirror.wait_for_seen("web", EGRESS, 8)
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 8}
        agent = mirror.agents["host"]
        agent.stop()
        agent.start()
        assert compared(mirror, "web") == {INGRESS: 0, EGRESS: 0}


def test_of_a_hosts_own_nic_what_it_receives_is_ingress_and_another_in_its_place_begins_anew(
    lab: Build, around: bpf.Object
) -> None:
    with Mirror(lab(VPC)) as mirror, uplink(mirror) as far:
        mirror.elsewhere["nic"] = Elsewhere("nic:up0", NIC)
        mirror.around.add("nic")
        mirror.rearranged.add("nic")
        mirrored(mirror, "nic")
        with attached(mirror, around, "drop", "up0", "generic XDP"):
            for number in range(9):
                say(far, NIC, f"around {number}")
            say(mirror.inside("host"), PEER, "out")
            mirror.wait_for_seen("nic", EGRESS, 1)
            assert compared(mirror, "nic") == {INGRESS: 9, EGRESS: 0}
        ip("-n", mirror.lab.namespace("host"), "link", "del", "up0")
        wait_for_problem(mirror, "nic", "interface gone")
        plug_uplink(mirror, far)
        wait_for_problem(mirror, "nic", None)
        say(far, NIC, "in")
        mirror.wait_for_seen("nic", INGRESS, 1)
        assert compared(mirror, "nic") == {INGRESS: 0, EGRESS: 0}

"""Generic receive offload: what a NIC receives one by one and the kernel merges before the hook is mirrored as the
packets that were on the wire (facts 81, 82)."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pktmirror.kernel import netns
from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, UDP, Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage, Tally
from pktmirror.packet.checksum import Check
from tests.lab.arrivals import Tap
from tests.lab.machines import ip, run_inside
from tests.lab.mirror import WITHIN_S, Elsewhere, Mirror, Session, accepting
from tests.lab.test_mirror_tso import TRANSFERRED, UDP_SEGMENT, assert_checksums_are_right, payloads
from tests.lab.test_sources import NIC, uplink, wait_for_problem
from tests.lab.topologies import VPC

pytestmark = [pytest.mark.root, pytest.mark.fact(81, 82)]

Build = Callable[[Topology], Lab]

INGRESS = Direction.INGRESS
NIC6, PEER6 = "2001:db8:2::1", "2001:db8:2::2"
PORT = 5001
WIRE_BYTES_MAX = 1514
SEGMENT_BYTES = 1000
BURSTS = [
    [bytes((burst, number)) * (SEGMENT_BYTES // 2) for number in range(40)] + [b"the last is shorter"]
    for burst in range(10)
]
"""Datagrams that leave together, and so are merged where the kernel merges them."""


@contextmanager
def merging_uplink(mirror: Mirror, *how: str) -> Iterator[netns.Visitor]:
    """The host's NIC `up0`, which merges what it receives, and a machine that hands each packet over by itself."""
    with uplink(mirror) as far:
        host = mirror.lab.namespace("host")
        ip("-n", host, "address", "add", f"{NIC6}/64", "dev", "up0", "nodad")
        run_inside(far, "ip", "address", "add", f"{PEER6}/64", "dev", "eth0", "nodad")
        run_inside(far, "ethtool", "-K", "eth0", "tso", "off", "tx-udp-segmentation", "off")
        for switch in ("gro", *how):
            run_inside(mirror.inside("host"), "ethtool", "-K", "up0", switch, "on")
        mirror.elsewhere["nic"] = Elsewhere("nic:up0", NIC)
        mirror.mirror({"nic": [Session("monitor", filter=accepting(TCP, UDP, directions=[INGRESS]))]})
        wait_for_problem(mirror, "nic", None)
        yield far


def assert_mirrored_as_on_the_wire(mirror: Mirror, wire: Tap, merged: Tap, family: int, protocol: int) -> list[bytes]:
    """The copies, which are what the other machine sent, frame by frame."""
    is_of_it = {
        4: lambda frame: frame[12:14] == b"\x08\x00" and frame[23] == protocol,
        6: lambda frame: frame[12:14] == b"\x86\xdd" and frame[20] == protocol,
    }[family]
    sent = [each.completed for each in wire.read() if each.outgoing and is_of_it(each.frame)]
    received = [each.frame for each in merged.read() if not each.outgoing and is_of_it(each.frame)]
    assert max(map(len, sent)) <= WIRE_BYTES_MAX, "the sender leaves the splitting to others: nothing is tested"
    assert len(received) < len(sent) / 2, "what is received is not merged: nothing is tested"
    mirror.wait_for_copies("monitor", len(sent))
    copies = [copy.frame for copy in mirror.collector("monitor").copies()]
    assert copies == sent
    assert_checksums_are_right(copies, Check.RIGHT if family == 4 else Check.NOT_CARRIED)
    wire_tally = Tally(len(sent), sum(map(len, sent)))
    ledger = mirror.ledger("nic")[INGRESS]
    assert ledger.verdict(Verdict.TAKEN) == ledger.stage(Stage.SENT) == wire_tally
    assert mirror.interface("nic")[INGRESS].outcome(InterfaceOutcome.TAKEN) == wire_tally
    assert mirror.stages("nic", INGRESS) == {Stage.SENT: len(sent)}
    return copies


@pytest.mark.parametrize("family", [4, 6])
def test_a_transfer_that_is_merged_on_receive_is_mirrored_as_the_packets_on_the_wire(lab: Build, family: int) -> None:
    address = NIC if family == 4 else NIC6
    af = socket.AF_INET if family == 4 else socket.AF_INET6
    with Mirror(lab(VPC)) as mirror, merging_uplink(mirror) as far:
        host = mirror.inside("host")
        with Tap(far) as wire, Tap(host, "up0") as merged, host.run(socket.socket, af) as listener:
            listener.bind((address, PORT))
            listener.listen()
            with far.run(socket.create_connection, (address, PORT), WITHIN_S) as connection:
                served, _ = listener.accept()
                with served:
                    sending = threading.Thread(
                        target=lambda: (connection.sendall(TRANSFERRED), connection.shutdown(socket.SHUT_WR))
                    )
                    sending.start()
                    got = bytearray()
                    while piece := served.recv(1 << 20):
                        got += piece
                    sending.join()
            assert got == TRANSFERRED, "production"
            copies = assert_mirrored_as_on_the_wire(mirror, wire, merged, family, TCP)
        assert payloads(copies) == TRANSFERRED


@pytest.mark.parametrize(("how", "family"), [("rx-udp-gro-forwarding", 4), ("rx-gro-list", 6)])
def test_datagrams_that_are_merged_on_receive_are_mirrored_each(lab: Build, how: str, family: int) -> None:
    address = NIC if family == 4 else NIC6
    af = socket.AF_INET if family == 4 else socket.AF_INET6
    with Mirror(lab(VPC)) as mirror, merging_uplink(mirror, how) as far:
        host = mirror.inside("host")
        with (
            Tap(far) as wire,
            Tap(host, "up0") as merged,
            host.run(socket.socket, af, socket.SOCK_DGRAM) as receiver,
            far.run(socket.socket, af, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind((address, PORT))
            receiver.settimeout(WITHIN_S)
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)
            for burst in BURSTS:
                sender.sendto(b"".join(burst), (address, PORT))
                assert [receiver.recv(2000) for _ in burst] == burst, "production"
            copies = assert_mirrored_as_on_the_wire(mirror, wire, merged, family, UDP)
        header_bytes = 14 + (20 if family == 4 else 40) + 8
        assert [copy[header_bytes:] for copy in copies] == [datagram for burst in BURSTS for datagram in burst]

"""Production goes first, then its copy (decision record 0008): what waits, in which order, and what is lost."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pktmirror.agent.apply import hop_prefix
from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, UDP, Direction
from pktmirror.model.ledger import Stage
from pktmirror.model.underlay import Segmentation
from pktmirror.packet.headers import Headers, parse
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

EGRESS = Direction.EGRESS
PORT = 5001
SEGMENT_BYTES = 1000
UDP_SEGMENT = 103  # linux/udp.h
BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")


@pytest.fixture
def small_backlog() -> Iterator[None]:
    """Few packets may wait in a CPU's backlog, which all veths share; it is one setting for the whole machine."""
    before = BACKLOG.read_text()
    BACKLOG.write_text("12")
    try:
        yield
    finally:
        BACKLOG.write_text(before)


@pytest.mark.usefixtures("small_backlog")
def test_copies_take_no_place_of_production_in_the_backlog(lab: Build) -> None:
    datagrams = [bytes([number]) * SEGMENT_BYTES for number in range(60)]
    with Mirror(lab(VPC)) as mirror, mirror.inside("client").run(socket.socket, type=socket.SOCK_DGRAM) as receiver:
        mirror.mirror({"web": [Session("monitor", filter=accepting(UDP))]})
        mirror.unheard.add(7)  # at the target the copies wait in the backlog too, and it has no room for them
        receiver.bind((mirror.address("client"), PORT))
        receiver.settimeout(WITHIN_S)
        with mirror.inside("web").run(socket.socket, type=socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)
            for _ in range(20):
                sender.sendto(b"".join(datagrams), (mirror.address("client"), PORT))
                assert [receiver.recv(2000) for _ in datagrams] == datagrams
        mirror.assert_everything_adds_up()
        assert mirror.stages("web", EGRESS)[Stage.SENT] == 20 * len(datagrams)


def test_the_first_copies_need_not_wait_for_the_target_s_address(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        assert not neighbour_is_known(mirror, "monitor")
        mirror.mirror({"web": [Session("monitor")]})
        wait_until(lambda: neighbour_is_known(mirror, "monitor"), WITHIN_S, "the agent does not ask for the target")


def neighbour_is_known(mirror: Mirror, place: str) -> bool:
    shown = subprocess.run(
        ["ip", "-n", mirror.lab.namespace("host"), "neighbour", "show", mirror.address(place)],
        capture_output=True,
        text=True,
        check=True,
    )
    return mirror.mac(place) in shown.stdout


@pytest.mark.parametrize("segmentation", [Segmentation.AUTO, Segmentation.UNDERLAY])
def test_a_flow_of_large_and_small_packets_stays_in_order(lab: Build, segmentation: Segmentation) -> None:
    writes = [b"x" * size for size in (1, 60_000, 7, 1448, 30_000, 3, 3, 64_000) * 25]
    with Mirror(lab(VPC)) as mirror:
        mirror.underlay = Underlay(segmentation=segmentation)
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[EGRESS]))]})
        with mirror.tap("web") as tap:
            send_by_turns(mirror, writes)
            mirror.assert_everything_adds_up()
            sizes = [len(each.frame) for each in tap.read() if each.outgoing]
        assert min(sizes) < 100, "no small packet was sent"
        assert max(sizes) > 20_000, "no super-packet was sent"
        numbers = sequence_numbers([copy.frame for copy in mirror.collector("monitor").copies()])
        assert len(numbers) > len(writes)
        assert numbers == sorted(numbers)


def send_by_turns(mirror: Mirror, writes: list[bytes]) -> None:
    """One connection from web to client, with the writes one by one."""
    with mirror.inside("client").run(socket.socket) as listener:
        listener.bind((mirror.address("client"), PORT))
        listener.listen()
        with mirror.inside("web").run(socket.create_connection, (mirror.address("client"), PORT), WITHIN_S) as sender:
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            receiver, _ = listener.accept()
            with receiver:
                thread = threading.Thread(
                    target=lambda: ([sender.sendall(write) for write in writes], sender.shutdown(1))
                )
                thread.start()
                got = 0
                while piece := receiver.recv(1 << 20):
                    got += len(piece)
                thread.join()
    assert got == sum(map(len, writes))


def sequence_numbers(frames: list[bytes]) -> list[int]:
    """Of the segments that carry data, counted from the first; a segment that was sent again would show as a step
    back."""
    numbers = []
    for frame in frames:
        headers = parse(frame)
        assert isinstance(headers, Headers)
        data_offset = (frame[headers.l4_offset + 12] >> 4) * 4
        if len(frame) > headers.l4_offset + data_offset:
            numbers.append(int.from_bytes(frame[headers.l4_offset + 4 : headers.l4_offset + 8]))
    return [(number - numbers[0]) % 2**32 for number in numbers]


@pytest.mark.parametrize("end", [pytest.param("b", id="wrapping"), pytest.param("f", id="splitting")])
def test_what_cannot_enter_a_hop_is_counted_and_production_goes_on(lab: Build, end: str) -> None:
    """Between two turns of the agent, which mends it."""
    with Mirror(lab(VPC)) as mirror, mirror.tap("client") as at_receiver:
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[EGRESS]), packet_bytes_max=500)]})
        send_by_turns(mirror, [b"x" * 60_000])
        mirror.assert_everything_adds_up()
        before = mirror.ledger("web")[EGRESS].verdict(Verdict.TAKEN).packets
        data = [b"y" * 60_000] * 3
        break_hops(mirror, end)
        send_by_turns(mirror, data)
        in_all = at_receiver.received(lambda frame: is_tcp_to(frame, mirror.address("client")))
        assert sum(payload_bytes(frame) for frame in in_all) == 60_000 + sum(map(len, data))
        ledger = mirror.ledger("web")[EGRESS]  # by a turn of the agent, which makes the hops again
        lost = ledger.stage(Stage.CLONE_FAILED).packets if end == "b" else ledger.lost_in_hop_packets
        assert ledger.stage(Stage.SENT).packets == before
        assert before + lost == ledger.verdict(Verdict.TAKEN).packets
        assert lost > sum(map(len, data)) // 1448
        send_by_turns(mirror, [b"z" * 60_000])
        wait_until(lambda: mirror.sent("web") > before + 60_000 // 1448, WITHIN_S, "the hops are not mended")
        mirror.lost_in_hop[7] = 0 if end == "b" else lost


def test_small_packets_that_cannot_enter_their_hop_are_counted_and_super_packets_go_on(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[EGRESS]))]})
        break_hops(mirror, "d")
        send_by_turns(mirror, [b"y" * 60_000] * 3)
        ledger = mirror.ledger("web")[EGRESS]
        assert 0 < ledger.stage(Stage.CLONE_FAILED).packets < 4, "before the first super-packet: those of the handshake"
        assert ledger.stage(Stage.SENT).packets >= 3 * 60_000 // 1448
        assert ledger.lost_in_hop_packets == 0


def break_hops(mirror: Mirror, end: str) -> None:
    """Sets the far end of the hops of one kind down: nothing can enter."""
    host, prefix = mirror.lab.namespace("host"), hop_prefix(mirror.agents["host"].host_id)
    broken = [name for _, name in socket_names(mirror) if name.startswith(prefix) and name[12] == end]
    assert len(broken) == (os.cpu_count() or 1)
    for name in broken:
        subprocess.run(["ip", "-n", host, "link", "set", name, "down"], check=True)


def socket_names(mirror: Mirror) -> list[tuple[int, str]]:
    return mirror.inside("host").run(socket.if_nameindex)


def is_tcp_to(frame: bytes, address: str) -> bool:
    headers = parse(frame)
    return isinstance(headers, Headers) and headers.protocol == TCP and str(headers.destination) == address


def payload_bytes(frame: bytes) -> int:
    headers = parse(frame)
    assert isinstance(headers, Headers)
    end = headers.l3_offset + int.from_bytes(frame[headers.l3_offset + 2 : headers.l3_offset + 4])
    return max(0, end - headers.l4_offset - (frame[headers.l4_offset + 12] >> 4) * 4)

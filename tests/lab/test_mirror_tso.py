"""Super-packets: what a sender leaves to segmentation offload is mirrored as the packets on the wire (facts 81, 82)."""

import json
import socket
import struct
import subprocess
import threading
from collections.abc import Callable

import pytest

from pktmirror.agent.hops import HOP_PREFIX
from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, UDP, Direction, PortRange
from pktmirror.model.ledger import Stage
from pktmirror.model.underlay import Segmentation
from pktmirror.packet.checksum import Check, Checksums, checksums_of, internet_checksum
from pktmirror.packet.headers import Headers, parse
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

PORT = 5001
SOURCE_MTU = 1500
TRANSFERRED = bytes(range(251)) * 8357  # about 2 MB, of a period that is no multiple of a segment
UDP_SEGMENT = 103  # linux/udp.h
SOL_PACKET, PACKET_VNET_HDR = 263, 15  # linux/if_packet.h
SEGMENT_BYTES = 1000


def transfer(mirror: Mirror, sender: str, receiver: str, address: str, data: bytes = TRANSFERRED) -> None:
    """One TCP connection that carries the data from one place to the other; the receiver listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with mirror.inside(receiver).run(socket.socket, family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen()
        with mirror.inside(sender).run(socket.create_connection, (address, PORT), WITHIN_S) as connection:
            served, _ = listener.accept()
            with served:
                thread = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(1)))
                thread.start()
                got = bytearray()
                while piece := served.recv(1 << 20):
                    got += piece
                thread.join()
    assert got == data


def payloads(frames: list[bytes]) -> bytes:
    """What TCP segments carry, put together by their sequence numbers."""
    segments: dict[int, bytes] = {}
    for frame in frames:
        headers = parse(frame)
        assert isinstance(headers, Headers)
        data = frame[headers.l4_offset + (frame[headers.l4_offset + 12] >> 4) * 4 : end_of_packet(frame, headers)]
        if data:
            segments[int.from_bytes(frame[headers.l4_offset + 4 : headers.l4_offset + 8])] = data
    start = next(iter(segments))
    return b"".join(segments[number] for number in sorted(segments, key=lambda number: (number - start) % 2**32))


def end_of_packet(frame: bytes, headers: Headers) -> int:
    if headers.source.version == 4:
        return headers.l3_offset + int.from_bytes(frame[headers.l3_offset + 2 : headers.l3_offset + 4])
    return headers.l3_offset + 40 + int.from_bytes(frame[headers.l3_offset + 4 : headers.l3_offset + 6])


def assert_super_packets_were_sent(frames: list[bytes]) -> None:
    assert max(len(frame) for frame in frames) > SOURCE_MTU + 14, "the sender did not use offload: nothing is tested"


def assert_checksums_are_right(frames: list[bytes], ip: Check) -> None:
    assert {checksums_of(frame) for frame in frames} == {Checksums(ip, Check.RIGHT)}


@pytest.mark.fact(81, 82)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", Direction)
def test_a_transfer_with_offload_is_mirrored_as_the_packets_on_the_wire(
    lab: Build, direction: Direction, family: int
) -> None:
    with Mirror(lab(VPC)) as mirror:
        sender, receiver = ("web", "client") if direction is Direction.EGRESS else ("client", "web")
        address = mirror.address(receiver) if family == 4 else mirror.address6(receiver)
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[direction]))]})
        with mirror.tap(sender) as tap:
            transfer(mirror, sender, receiver, address)
            mirror.assert_everything_adds_up()
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        copies = [copy.frame for copy in mirror.collector("monitor").copies()]
        assert mirror.stages("web", direction) == {Stage.SENT: len(copies)}
        assert max(len(copy) for copy in copies) == SOURCE_MTU + 14
        assert_checksums_are_right(copies, Check.RIGHT if family == 4 else Check.NOT_CARRIED)
        assert payloads(copies) == TRANSFERRED
        ledger = mirror.ledger("web")[direction]
        assert ledger.stage(Stage.SENT).bytes == sum(len(copy) for copy in copies)
        assert ledger.verdict(Verdict.TAKEN) == ledger.stage(Stage.SENT), "both in packets and bytes of the wire"


def through_the_wrapping_hop(mirror: Mirror) -> int:
    """How many packets the far ends of the host's wrapping hops have received."""
    show = ["ip", "-n", mirror.lab.namespace("host"), "-s", "-j", "link", "show"]
    links = json.loads(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
    far_ends = [link for link in links if link["ifname"].startswith(HOP_PREFIX) and link["ifname"][12] == "b"]
    assert far_ends
    return sum(link["stats64"]["rx"]["packets"] for link in far_ends)


@pytest.mark.parametrize(
    ("segmentation", "leave_whole"),
    [(Segmentation.AUTO, True), (Segmentation.HOST, False), (Segmentation.UNDERLAY, True)],
    ids=["by the bridge that they leave by", "here, as the operator wants it", "before they wait, as behind a card"],
)
def test_copies_are_the_same_whoever_splits_them(lab: Build, segmentation: Segmentation, leave_whole: bool) -> None:
    """The kernel counts up the outer identification of what was one super-packet: so one sees where it was split."""
    with Mirror(lab(VPC)) as mirror:
        mirror.underlay = Underlay(segmentation=segmentation)
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[Direction.EGRESS]))]})
        transfer(mirror, "web", "client", mirror.address("client"))
        mirror.assert_everything_adds_up()
        copies = mirror.collector("monitor").copies()
        assert (max(copy.outer_id for copy in copies) > 0) is leave_whole
        assert (through_the_wrapping_hop(mirror) == 0) is (segmentation is Segmentation.UNDERLAY)
        assert {internet_checksum(copy.outer[14:34]) for copy in copies} == {0}
        frames = [copy.frame for copy in copies]
        assert payloads(frames) == TRANSFERRED
        assert max(len(frame) for frame in frames) == SOURCE_MTU + 14
        assert_checksums_are_right(frames, Check.RIGHT)
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: len(frames)}


@pytest.mark.parametrize("packet_bytes_max", [35, 66, 100])
def test_each_segment_of_a_super_packet_is_cut(lab: Build, packet_bytes_max: int) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP), packet_bytes_max=packet_bytes_max)]})
        with mirror.tap("web") as tap:
            transfer(mirror, "web", "client", mirror.address("client"))
            mirror.assert_everything_adds_up()
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        copies = [copy.frame for copy in mirror.collector("monitor").copies()]
        assert {len(copy) for copy in copies} <= {
            min(packet_bytes_max, 66),
            packet_bytes_max,
            min(packet_bytes_max, 74),
        }
        lengths = [int.from_bytes(copy[16:18]) for copy in copies]
        assert max(lengths) == SOURCE_MTU, "the IP header says what was on the wire"
        assert sum(mirror.stages("web", direction)[Stage.SENT] for direction in Direction) == len(copies)


@pytest.mark.fact(81, 82)
@pytest.mark.parametrize("family", [4, 6])
def test_udp_segmentation_offload_is_mirrored_as_the_datagrams_on_the_wire(lab: Build, family: int) -> None:
    datagrams = [bytes([number]) * SEGMENT_BYTES for number in range(40)] + [b"the last is shorter"]
    with Mirror(lab(VPC)) as mirror:
        address = mirror.address("client") if family == 4 else mirror.address6("client")
        mirror.mirror({"web": [Session("monitor", filter=accepting(UDP))]})
        af = socket.AF_INET if family == 4 else socket.AF_INET6
        with mirror.tap("web") as tap, mirror.inside("client").run(socket.socket, af, socket.SOCK_DGRAM) as receiver:
            receiver.bind((address, PORT))
            receiver.settimeout(WITHIN_S)
            with mirror.inside("web").run(socket.socket, af, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SEGMENT_BYTES)
                sender.sendto(b"".join(datagrams), (address, PORT))
            assert [receiver.recv(2000) for _ in datagrams] == datagrams
            copies = mirror.wait_for_copies("monitor", len(datagrams))
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        frames = [copy.frame for copy in copies]
        header_bytes = 14 + (20 if family == 4 else 40) + 8
        assert [frame[header_bytes:] for frame in frames] == datagrams
        assert_checksums_are_right(frames, Check.RIGHT if family == 4 else Check.NOT_CARRIED)
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: len(datagrams)}


TAGS = {
    "untagged, as a virtual machine's tap hands them over": "",
    "one tag": "81000005",
    "two tags": "88a800078100e005",
}


@pytest.mark.parametrize("packet_bytes_max", [None, 20, 100])
@pytest.mark.parametrize("tags", [pytest.param(bytes.fromhex(tags), id=what) for what, tags in TAGS.items()])
def test_super_packets_of_a_packet_socket_are_split_and_tagged_each(
    lab: Build, tags: bytes, packet_bytes_max: int | None
) -> None:
    data = TRANSFERRED[:30_000]
    with Mirror(lab(VPC)) as mirror:
        ends = [bytes.fromhex(mirror.mac(place).replace(":", "")) for place in ("client", "web")]
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP), packet_bytes_max=packet_bytes_max)]})
        with mirror.tap("client") as tap:
            send_super_packet(mirror, b"".join(ends) + tags, data)
            copies = [copy.frame for copy in mirror.wait_for_copies("monitor", 30)]
            wait_until(lambda: tap.received(lambda frame: frame[6:12] == ends[1]), WITHIN_S, "it does not arrive")
            assert_super_packets_were_sent([each.frame for each in tap.read()])
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: 30}
        assert {copy[12 : 14 + len(tags)] for copy in copies} == {
            (tags + b"\x08\x00")[: (packet_bytes_max or 100) - 12]
        }
        assert {len(copy) for copy in copies} == {packet_bytes_max or 14 + len(tags) + 40 + SEGMENT_BYTES}
        if packet_bytes_max is None:
            assert_checksums_are_right(copies, Check.RIGHT)
            assert payloads(copies) == data


def send_super_packet(mirror: Mirror, ethernet: bytes, data: bytes) -> None:
    """One frame of TCP from the source with a virtio-net header: segments of SEGMENT_BYTES, the checksum left open."""
    source, destination = bytes((192, 0, 2, 48)), bytes((192, 0, 2, 6))
    total_bytes = 40 + len(data)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, total_bytes, 1, 0, 64, TCP, 0) + source + destination
    ip = ip[:10] + internet_checksum(ip).to_bytes(2) + ip[12:]
    pseudo = internet_checksum(source + destination + struct.pack("!HH", TCP, 20 + len(data))) ^ 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", 40000, PORT, 1, 1, 5 << 4, 0x10, 65535, pseudo, 0)
    offset = len(ethernet) + 2
    needs_checksum, gso_tcp4 = 1, 1  # linux/virtio_net.h
    virtio = struct.pack("=BBHHHH", needs_checksum, gso_tcp4, offset + 40, SEGMENT_BYTES, offset + 20, 16)
    with mirror.inside("web").run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind(("eth0", 0))
        mirror.inside("web").run(raw.send, virtio + ethernet + b"\x08\x00" + ip + tcp + data)


def test_super_packets_within_a_tunnel_of_the_source_are_accounted_for(lab: Build) -> None:
    """Spec 5.19: a guest's own VXLAN is ordinary traffic. The kernel refuses a second encapsulation of what it split
    or summed itself within a tunnel: those copies are not sent, and each of them is counted."""
    with Mirror(lab(VPC)) as mirror:
        for place, other, address in (("web", "client", "192.168.7.48/24"), ("client", "web", "192.168.7.6/24")):
            tunnel = (
                f"type vxlan id 42 dstport 8472 local {mirror.address(place)} remote {mirror.address(other)} dev eth0"
            )
            for command in (f"link add vx0 {tunnel}", "link set vx0 up", f"address add {address} dev vx0"):
                subprocess.run(["ip", "-n", mirror.lab.namespace(place), *command.split()], check=True)
        mirror.mirror({"web": [Session("monitor", filter=accepting(UDP))]})
        transfer(mirror, "web", "client", "192.168.7.6")
        transfer(mirror, "client", "web", "192.168.7.48")
        mirror.assert_everything_adds_up()
        for direction in Direction:
            stages = mirror.stages("web", direction)
            assert stages[Stage.ENCAPSULATION_FAILED] > 0
            assert set(stages) <= {Stage.ENCAPSULATION_FAILED, Stage.SENT, Stage.CUT}


@pytest.mark.long
def test_iperf_with_many_streams_loses_no_copy_that_is_not_counted(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        filter_ = accepting(TCP, directions=[Direction.EGRESS], to_ports=PortRange(PORT, PORT))
        mirror.mirror({"web": [Session("monitor", filter=filter_, packet_bytes_max=100)]})
        server = mirror.lab.start("client", ["iperf3", "-s", "-1", "-p", str(PORT)], stdout=subprocess.DEVNULL)
        wait_until(lambda: listens(mirror, "client"), WITHIN_S, "iperf3 does not listen")
        argv = ["iperf3", "-c", mirror.address("client"), "-p", str(PORT), "-P", "8", "-n", "20M"]
        client = mirror.lab.start("web", argv, stdout=subprocess.DEVNULL)
        assert client.wait(timeout=60) == 0
        server.wait(timeout=60)
        mirror.assert_everything_adds_up()
        assert mirror.stages("web", Direction.EGRESS)[Stage.SENT] > 10_000


def listens(mirror: Mirror, place: str) -> bool:
    argv = ["ss", "-N", mirror.lab.namespace(place), "-Hltn", f"sport = {PORT}"]
    return bool(subprocess.run(argv, capture_output=True, check=True).stdout)

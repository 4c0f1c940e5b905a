"""BIG TCP: super-packets of more than 64 KiB are mirrored as the packets that they become on a wire.

Over IPv6 such a packet carries a hop-by-hop jumbo header that no wire sees; over IPv4 its total length is 0.
"""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pktmirror.kernel.segmentation import take_super_packets
from pktmirror.lab import Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, Direction
from pktmirror.model.ledger import Stage
from pktmirror.packet.checksum import Check
from pktmirror.packet.headers import Headers, parse
from tests.lab.arrivals import Tap
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.test_mirror_length import with_mtus
from tests.lab.test_mirror_tso import PORT, assert_checksums_are_right, payloads
from tests.lab.topologies import VPC

pytestmark = [pytest.mark.root, pytest.mark.long]

Build = Callable[[Topology], Lab]

SUPER_PACKET_BYTES = 185_000
PIECE, PIECES = bytes(range(251)) * 2000, 16
"""Half a megabyte; a connection opens its window to more than 64 KiB while it sends the first few."""


def allow_big_tcp(mirror: Mirror) -> None:
    """At all devices between the two ends, as an operator would."""
    ends = [("web", "eth0"), ("client", "eth0"), ("host", "web0"), ("host", "client0"), ("host", "br-a")]
    for place, device in ends:
        try:
            mirror.inside(place).run(take_super_packets, device, SUPER_PACKET_BYTES)
        except OSError as error:
            pytest.skip(f"no BIG TCP on this kernel: {error}")


@contextmanager
def connected(
    mirror: Mirror, sender: str, receiver: str, address: str
) -> Iterator[tuple[socket.socket, socket.socket]]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with mirror.inside(receiver).run(socket.socket, family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, PORT))
        listener.listen()
        with mirror.inside(sender).run(socket.create_connection, (address, PORT), WITHIN_S) as connection:
            served, _ = listener.accept()
            with served:
                yield connection, served


def transfer_piece_by_piece(mirror: Mirror, sender: str, receiver: str, address: str) -> None:
    """Each piece is sent when the one before has arrived and is mirrored, so that no copy is lost for haste."""
    with connected(mirror, sender, receiver, address) as (connection, served):
        for _ in range(PIECES):
            thread = threading.Thread(target=connection.sendall, args=(PIECE,))
            thread.start()
            got = bytearray()
            while len(got) < len(PIECE):
                got += served.recv(1 << 20)
            thread.join()
            assert got == PIECE
            mirror.assert_everything_adds_up()


def assert_big_super_packets_were_sent(tap: Tap, family: int) -> None:
    frames = [each.frame for each in tap.read() if each.outgoing and len(each.frame) > 66_000]
    assert frames, "the sender made no super-packet of more than 64 KiB: nothing is tested"
    lengths = {frame[16:18] if family == 4 else frame[18:20] for frame in frames}
    assert lengths == {b"\0\0"}, "the length field cannot say it"


@pytest.mark.parametrize("outer", [4, 6], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("target_mtu", [pytest.param(9001, id="whole"), pytest.param(1500, id="cut to the MTU")])
def test_big_tcp_is_mirrored_as_the_packets_on_the_wire(
    lab: Build, target_mtu: int, direction: Direction, family: int, outer: int
) -> None:
    with Mirror(lab(with_mtus(1500, target_mtu))) as mirror:
        allow_big_tcp(mirror)
        sender, receiver = ("web", "client") if direction is Direction.EGRESS else ("client", "web")
        address = mirror.address(receiver) if family == 4 else mirror.address6(receiver)
        only = accepting(TCP, directions=[direction])
        mirror.mirror({"web": [Session("monitor", filter=only, family=outer)]})
        with Tap(mirror.inside(sender), frame_bytes_max=1 << 18) as tap:
            transfer_piece_by_piece(mirror, sender, receiver, address)
            assert_big_super_packets_were_sent(tap, family)
        copies = [copy.frame for copy in mirror.collector("monitor").copies()]
        ledger = mirror.ledger("web")[direction]
        assert set(mirror.stages("web", direction)) <= {Stage.SENT, Stage.CUT}
        assert ledger.stage(Stage.SENT).packets == ledger.verdict(Verdict.TAKEN).packets == len(copies)
        assert ledger.stage(Stage.SENT).bytes == sum(len(copy) for copy in copies)
        for copy in copies:
            headers = parse(copy)
            assert isinstance(headers, Headers)
            assert headers.l4_offset == (34 if family == 4 else 54), "no jumbo header is left"
        if target_mtu == 1500:
            assert max(len(copy) for copy in copies) == 1500 - (36 if outer == 4 else 56)
            assert ledger.stage(Stage.CUT).packets > 0
            return
        assert max(len(copy) for copy in copies) == 1514
        assert_checksums_are_right(copies, Check.RIGHT if family == 4 else Check.NOT_CARRIED)
        assert payloads(copies) == PIECE * PIECES
        assert ledger.stage(Stage.SENT) == ledger.verdict(Verdict.TAKEN), "both in packets and bytes of the wire"


@pytest.mark.parametrize("family", [4, 6])
def test_big_super_packets_cross_the_wrapping_hop_whole(lab: Build, family: int) -> None:
    """Else the kernel would split them before it, on the way of production (decision 0008)."""
    with Mirror(lab(VPC)) as mirror:
        allow_big_tcp(mirror)
        mirror.mirror({"web": [Session("monitor", filter=accepting(TCP, directions=[Direction.EGRESS]))]})
        host = mirror.inside("host")
        far_ends = [name for _, name in host.run(socket.if_nameindex) if re.fullmatch(r"pktm-.*b\d+", name)]
        taps = [Tap(host, name, frame_bytes_max=1 << 18) for name in far_ends]
        address = mirror.address("client") if family == 4 else mirror.address6("client")
        transfer_piece_by_piece(mirror, "web", "client", address)
        frames = [each.frame for tap in taps for each in tap.read()]
        for tap in taps:
            tap.close()
        assert max(len(frame) for frame in frames) > 66_000


def test_a_session_that_cuts_leaves_the_first_bytes_of_each_packet_of_a_big_one(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        allow_big_tcp(mirror)
        only = accepting(TCP, directions=[Direction.EGRESS])
        mirror.mirror({"web": [Session("monitor", filter=only, packet_bytes_max=100)]})
        with Tap(mirror.inside("web"), frame_bytes_max=1 << 18) as tap:
            transfer_piece_by_piece(mirror, "web", "client", mirror.address6("client"))
            assert_big_super_packets_were_sent(tap, 6)
        copies = [copy.frame for copy in mirror.collector("monitor").copies()]
        assert max(len(copy) for copy in copies) == 100
        assert max(int.from_bytes(copy[18:20]) for copy in copies) == 1460, "the payload length of a packet on the wire"
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: len(copies)}

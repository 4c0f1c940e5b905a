"""Production: numbered datagrams between two machines, both ways, small and as super-packets, each kept by its sender
and by its receiver."""

import contextlib
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator

from pktmirror.model.filter import UDP, PortRange
from pktmirror.packet.headers import Headers, parse
from tests.lab.arrivals import Copy
from tests.lab.mirror import WITHIN_S, Mirror, accepting
from tests.waiting import wait_until

PORT = 9999
EVERY_S = 0.0005
SEGMENTS, SEGMENT_BYTES = 20, 1000
_SO_RCVBUFFORCE = 33
_UDP_SEGMENT = 103  # linux/udp.h
_UDP_HEADER_BYTES = 8
_STOP = 8  # behind the count of turns

OF_PRODUCTION = accepting(UDP, to_ports=PortRange(PORT, PORT))


def datagram(number: int, payload_bytes: int) -> bytes:
    """Its number, and contents that no other has."""
    return (struct.pack("!I", number) * (payload_bytes // 4 + 1))[:payload_bytes]


def number_of(payload: bytes) -> int:
    return int.from_bytes(payload[:4])


def sizes(turn: int, with_super_packets: bool) -> list[int]:
    """How many bytes each datagram of a turn has; every tenth turn may be one super-packet of many datagrams."""
    return [SEGMENT_BYTES] * SEGMENTS if with_super_packets and turn % 10 == 0 else [18 + turn * 37 % 1400]


class Way:
    """From one machine to another. A process of its own sends, so that it does not wait for the test."""

    def __init__(self, mirror: Mirror, source: str, destination: str, every_s: float, with_super_packets: bool) -> None:
        self._with_super_packets = with_super_packets
        self.source, self.destination = mirror.address(source), mirror.address(destination)
        self._received: list[bytes] = []
        self._every_s = every_s
        self._sent: list[bytes] = []
        self._turns = 0
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)  # how many turns there were, and whether to stop
        self._receiver = mirror.inside(destination).run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 128 << 20)
        self._receiver.bind((self.destination, PORT))
        self._sender = mirror.inside(source).run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect((self.destination, PORT))
        self._process = os.fork()
        if self._process == 0:
            try:
                self._send()
            finally:
                os._exit(1)

    def _send(self) -> None:
        turn = number = 0
        in_segments = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", SEGMENT_BYTES))]
        while not self._shared[_STOP]:
            turn += 1
            many = [datagram(number + index, size) for index, size in enumerate(sizes(turn, self._with_super_packets))]
            self._sender.sendmsg([b"".join(many)], in_segments if len(many) > 1 else [])
            number += len(many)
            struct.pack_into("=Q", self._shared, 0, turn)
            time.sleep(self._every_s)
        os._exit(0)

    @property
    def sent(self) -> list[bytes]:
        (turns,) = struct.unpack_from("=Q", self._shared)
        for turn in range(self._turns + 1, turns + 1):
            turned = sizes(turn, self._with_super_packets)
            self._sent += [datagram(len(self._sent) + index, size) for index, size in enumerate(turned)]
        self._turns = turns
        return self._sent

    def received(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._received.append(self._receiver.recv(2000, socket.MSG_DONTWAIT))
        return self._received

    def stop(self) -> None:
        if not self._shared[_STOP]:
            self._shared[_STOP] = 1
            _, status = os.waitpid(self._process, 0)
            assert os.waitstatus_to_exitcode(status) == 0, "the sender failed: see its traceback on stderr"

    def close(self) -> None:
        self.stop()
        self._sender.close()
        self._receiver.close()


class Production:
    """Between ``web`` and ``client``, until it is stopped."""

    def __init__(self, mirror: Mirror, every_s: float, with_super_packets: bool) -> None:
        ends = (("web", "client"), ("client", "web"))
        self.ways = tuple(Way(mirror, *each, every_s, with_super_packets) for each in ends)

    def goes_on(self, datagrams: int = 150) -> None:
        """Until so many more datagrams have been sent each way."""
        until = [len(way.sent) + datagrams for way in self.ways]
        wait_until(
            lambda: all(len(way.received()) >= number for way, number in zip(self.ways, until, strict=True)),
            WITHIN_S,
            lambda: f"production stands still: {[len(way.received()) for way in self.ways]}, not {until}",
        )

    def stop(self) -> None:
        for way in self.ways:
            way.stop()

    def close(self) -> None:
        for way in self.ways:
            way.close()

    def assert_is_untouched(self) -> None:
        """Identical, in order, and not one lost or doubled. Stops it."""
        self.stop()
        for way in self.ways:
            with contextlib.suppress(AssertionError):
                wait_until(lambda way=way: len(way.received()) >= len(way.sent), WITHIN_S, "")
            lost = {number_of(each) for each in way.sent} - {number_of(each) for each in way.received()}
            assert not lost, f"{way.source} to {way.destination}: {len(lost)} of {len(way.sent)} are lost, {min(lost)}"
            assert way.received() == way.sent, f"{way.source} to {way.destination}"

    def assert_is_copied(self, mirror: Mirror, *targets: str, after: int = 0) -> None:
        """Each datagram has one copy at one of the targets, and at each of them the copies are in order. Stops it.

        ``after``: how many copies were there before."""
        self.assert_is_untouched()
        for way in self.ways:
            arrived = [copied(mirror.collector(target).copies()[after:], way) for target in targets]
            for target, copies in zip(targets, arrived, strict=True):
                numbers = [number_of(copy) for copy in copies]
                assert numbers == sorted(numbers), f"{way.source} to {way.destination}: not in order at {target}"
            everything = sorted((copy for copies in arrived for copy in copies), key=number_of)
            without = {number_of(each) for each in way.sent} - {number_of(each) for each in everything}
            assert not without, f"{way.source} to {way.destination}: {len(without)} without a copy, {min(without)}"
            assert everything == way.sent, f"{way.source} to {way.destination}: copied twice, or not as it was"


def copied(copies: list[Copy], way: Way) -> list[bytes]:
    """The datagrams of the copies that are of this way."""
    found = []
    for copy in copies:
        headers = parse(copy.frame)
        assert isinstance(headers, Headers)
        if (str(headers.source), str(headers.destination)) == (way.source, way.destination):
            found.append(copy.frame[headers.l4_offset + _UDP_HEADER_BYTES :])
    return found


@contextlib.contextmanager
def producing(mirror: Mirror, every_s: float = EVERY_S, *, with_super_packets: bool = True) -> Iterator[Production]:
    production = Production(mirror, every_s, with_super_packets)
    try:
        yield production
    finally:
        production.close()

"""Copies leave by a tunnel that has no link layer, as WireGuard has none: whole IP packets, from the tunnel's address.

A tun device stands for WireGuard's, which not every kernel has: both are NOARP and take packets without a link layer.
"""

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest

from pktmirror.desired import Underlay
from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import UDP, Direction, PortRange
from pktmirror.model.ledger import Stage
from pktmirror.model.underlay import OuterSource
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
TUNNEL = "10.9.0.1"
PORT = 9999


def opened(name: str) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


def packets(tun: int) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(os.read(tun, 65_536))
        except BlockingIOError:
            return found


def is_copy(packet: bytes) -> bool:
    return packet[0] == 0x45 and packet[9] == UDP and packet[22:24] == (4789).to_bytes(2, "big")


def test_copies_take_a_tunnel_without_a_link_layer_and_fit_into_it(lab: Callable[[Topology], Lab]) -> None:
    built = lab(VPC)
    host = built.namespace("host")
    filter_ = accepting(UDP, directions=[Direction.EGRESS], families=[4], to_ports=PortRange(PORT, PORT))
    with Mirror(built) as mirror:
        mirror.underlay = Underlay(outer_source=OuterSource.HOST)
        target, client = mirror.address("monitor"), mirror.address("client")
        tun = mirror.inside("host").run(opened, "tunnel0")
        try:
            for line in (
                f"ip -n {host} link set tunnel0 mtu 1420 up",
                f"ip -n {host} address add {TUNNEL}/24 dev tunnel0",
                f"ip -n {host} route add {target}/32 dev tunnel0 src {TUNNEL}",
            ):
                subprocess.run(line.split(), check=True)
            mirror.mirror({"web": [Session("monitor", filter=filter_)]})
            mirror.unheard.add(7)
            assert mirror.status("web") is None
            with mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for size in (10, 1472):
                    sender.sendto(b"x" * size, (client, PORT))
            copies: list[bytes] = []

            def arrived() -> bool:
                copies.extend(packet for packet in packets(tun) if is_copy(packet))
                return len(copies) >= 2

            wait_until(arrived, WITHIN_S, lambda: f"{copies}; {mirror.stages('web', Direction.EGRESS)}")
            assert [len(copy) for copy in copies] == [20 + 8 + 8 + 14 + 28 + 10, 1420]
            assert {copy[12:16] for copy in copies} == {socket.inet_aton(TUNNEL)}
            assert {copy[16:20] for copy in copies} == {socket.inet_aton(target)}
            stages = mirror.stages("web", Direction.EGRESS)
            assert stages[Stage.SENT] == 2
        finally:
            os.close(tun)

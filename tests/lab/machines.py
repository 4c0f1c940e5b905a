"""Machines that are no instances of a lab: behind a tap, and in network namespaces that have no name."""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pktmirror.kernel import netns
from pktmirror.model.filter import TCP
from pktmirror.packet.checksum import internet_checksum
from tests.waiting import wait_until

WITHIN_S = 5.0
SEGMENT_BYTES = 1000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CHECKSUM_TSO4_TSO6 = 0x01 | 0x02 | 0x04  # TUN_F_*
_NO_OFFLOAD = bytes(10)  # struct virtio_net_hdr
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15  # linux/if_packet.h


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Guest:
    """A virtual machine as its host sees it: a tap that is open, with offloads, and frames with a virtio-net header."""

    def __init__(self, inside: netns.Visitor, device: str, mac: str) -> None:
        self.mac = mac
        self._fd = inside.run(os.open, "/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(self._fd, _TUNSETIFF, request)
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _CHECKSUM_TSO4_TSO6)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The machine ends, and its tap with it."""
        os.close(self._fd)

    def send(self, *frames: bytes, header: bytes = _NO_OFFLOAD) -> None:
        for frame in frames:
            os.write(self._fd, header + frame)

    def received(self) -> list[bytes]:
        """All frames since the last call, without their headers."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(os.read(self._fd, 1 << 17)[len(_NO_OFFLOAD) :])
        return frames


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def super_packet(ethernet: bytes, data: bytes) -> tuple[bytes, bytes]:
    """A virtio-net header and one frame of TCP: segments of SEGMENT_BYTES, the checksum left open, gso_segs unknown."""
    source, destination = bytes((192, 0, 2, 48)), bytes((192, 0, 2, 6))
    total = struct.pack("!BBHHHBBH", 0x45, 0, 40 + len(data), 1, 0, 64, TCP, 0) + source + destination
    total = total[:10] + internet_checksum(total).to_bytes(2) + total[12:]
    pseudo = internet_checksum(source + destination + struct.pack("!HH", TCP, 20 + len(data))) ^ 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", 40000, 5001, 1, 1, 5 << 4, 0x10, 65535, pseudo, 0)
    needs_checksum, gso_tcp4 = 1, 1  # linux/virtio_net.h
    header = struct.pack("=BBHHHH", needs_checksum, gso_tcp4, 54, SEGMENT_BYTES, 34, 16)
    return header, ethernet + b"\x08\x00" + total + tcp + data


def send_raw(inside: netns.Visitor, device: str, *frames: bytes, header: bytes | None = None) -> None:
    """Send frames as they are from a device."""
    with inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        if header is not None:
            raw.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        raw.bind((device, 0))
        for frame in frames:
            inside.run(raw.send, (header or b"") + frame)


@contextlib.contextmanager
def unnamed(name: str) -> Iterator[netns.Visitor]:
    """A network namespace that nobody can find: it loses its name at once, and a thread keeps it."""
    netns.create(name)
    try:
        inside = netns.Visitor(name)
    finally:
        netns.remove(name)
    try:
        yield inside
    finally:
        inside.close()


def run_inside(inside: netns.Visitor, *argv: str) -> None:
    inside.run(subprocess.run, list(argv), check=True, capture_output=True)


def cable(host: str, device: str, inside: netns.Visitor, mac: str, address: str | None = None) -> None:
    """A veth from the host to `eth0` of a namespace that a visitor is in."""
    ip("-n", host, "link", "add", device, "mtu", "1500", "type", "veth", "peer", "name", f"{device}-far")
    tid = inside.run(_thread)
    ip("-n", host, "link", "set", f"{device}-far", "netns", str(tid))
    quiet = ("addrgenmode", "none")  # nothing of IPv6 by itself
    ip("-n", host, "link", "set", device, *quiet)
    run_inside(inside, "ip", "link", "set", f"{device}-far", "name", "eth0", "address", mac, "mtu", "1500", *quiet)
    run_inside(inside, "ip", "link", "set", "eth0", "up")
    if address is not None:
        run_inside(inside, "ip", "address", "add", address, "dev", "eth0")
    ip("-n", host, "link", "set", device, "up")


def _thread() -> int:
    return int(Path("/proc/thread-self").readlink().name)


def join_bridge(host: str, device: str, bridge: str = "br-a") -> None:
    ip("-n", host, "link", "set", device, "master", bridge, "up")
    wait_until(
        lambda: "state forwarding" in ip("-n", host, "-details", "link", "show", device),
        WITHIN_S,
        "it does not forward",
    )


class Container:
    """A process in a network namespace and a control group of its own, as a runtime starts one."""

    def __init__(self, cgroup: Path) -> None:
        cgroup.mkdir(parents=True, exist_ok=True)
        self._cgroup = cgroup
        own = netns.inode_of_process(os.getpid())
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        wait_until(lambda: netns.inode_of_process(self.pid) not in (own, None), WITHIN_S, "it has no namespace")
        (cgroup / "cgroup.procs").write_text(str(self.pid))
        self.inside = netns.Visitor(Path(f"/proc/{self.pid}/ns/net"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.inside.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        wait_until(lambda: not (self._cgroup / "cgroup.procs").read_text(), WITHIN_S, "it does not end")
        self._cgroup.rmdir()

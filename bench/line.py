"""Packets on one CPU, from a source's host side over the bridge to another instance, as fast as the CPU takes them.

They come from BPF_PROG_TEST_RUN with live frames: each batch of 64 goes up the stack as if the device had received it,
and what that leaves to softirqs is done at the end of the batch, on the same CPU. Production ends in one instance and
copies in another, in programs that count and drop: the same for whoever mirrors. An edge module: bpf(2) by its number,
since libbpf 1.1 knows neither of the two calls so.
"""

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from pktmirror.kernel import bpf, netns
from pktmirror.lab import Lab
from pktmirror.packet.headers import ETHERTYPE_IPV4, ETHERTYPE_IPV6, UDP

CPU = 1
FRAME_BYTES = 64
PORT = 7
HOST, SOURCE, CLIENT, TARGET, UNDERLAY = "host", "web", "client", "monitor", "br-a"
SOURCES = {4: "10.0.0.48", 6: "fd00::48"}
CLIENTS = {4: "10.0.0.6", 6: "fd00::6"}
TARGETS = {4: "10.0.0.90", 6: "fd00::90"}
WARM_UP_PACKETS = 20_000
BATCH = 64
_ROOT = Path(__file__).parents[1]
_BPF = 321  # x86_64
_PROG_TEST_RUN, _LINK_CREATE = 10, 28
_XDP, _XDP_NATIVE = 37, 1 << 2  # enum bpf_attach_type; XDP_FLAGS_DRV_MODE
_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18
_ATTR_BYTES = 128
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Run:
    """``packet_ns``: the time of each packet, by the clock, so that all that its CPU did is in it. The others: of each
    packet how many arrived, and of all softirqs for received packets how many were on other CPUs."""

    packet_ns: float
    production: float
    copies: float
    softirqs_elsewhere: float


class Line:
    """One device that receives packets."""

    def __init__(self, inside: netns.Visitor, ifindex: int, loaded: bpf.Object) -> None:
        self._inside, self._ifindex = inside, ifindex
        self._generate = loaded.program("generate")
        self._counts, self._courses = loaded.map("counts"), loaded.map("courses")

    def run(self, frame: bytes, packets: int) -> Run:
        """``packets``: a multiple of 64."""
        self._inside.run(_receive, self._generate, frame, self._ifindex, WARM_UP_PACKETS)
        before, softirqs_before = self._at_rest(), _net_rx()
        self._courses.put(bytes(4), bytes(24))
        self._inside.run(_receive, self._generate, frame, self._ifindex, packets)
        course = self._courses.get(bytes(4))
        assert course is not None
        _, first_ns, last_ns = struct.unpack("<3Q", course)
        production, copies = (after - was for after, was in zip(self._at_rest(), before, strict=True))
        softirqs = [after - was for after, was in zip(_net_rx(), softirqs_before, strict=True)]
        elsewhere = (sum(softirqs) - softirqs[CPU]) / max(1, sum(softirqs))
        return Run((last_ns - first_ns) / (packets - BATCH), production / packets, copies / packets, elsewhere)

    def _at_rest(self) -> tuple[int, int]:
        """The counts, once nothing arrives any more."""
        counted, before = self._counted(), None
        while counted != before:
            time.sleep(0.01)
            counted, before = self._counted(), counted
        return counted

    def _counted(self) -> tuple[int, int]:
        """Of production and of copies: how many have arrived, ever."""
        counts = [self._counts.get_percpu(which.to_bytes(4, "little")) for which in (0, 1)]
        production, copies = (sum(int.from_bytes(value, "little") for value in each) for each in counts)
        return production, copies


@contextmanager
def line(built: Lab, device: str = "web0") -> Iterator[Line]:
    """The lab is the demo's. Nobody need be asked for: the bridge and the host know who is where."""
    _introduce(built)
    with compiled() as loaded, contextlib.ExitStack() as stack:
        for place, name in ((CLIENT, "end_of_production"), (TARGET, "end_of_copies")):
            there = stack.enter_context(built.inside(place))
            at = there.run(socket.if_nametoindex, "eth0")
            stack.enter_context(there.run(bpf.Link.attach, loaded.program(name), at, bpf.TCX_INGRESS))
        inside = stack.enter_context(built.inside(HOST))
        inside.run(os.sched_setaffinity, 0, {CPU})
        at = inside.run(socket.if_nametoindex, device)
        stack.callback(os.close, inside.run(_take_live_frames, loaded.program("pass"), at))
        yield Line(inside, at, loaded)


@contextmanager
def compiled() -> Iterator[bpf.Object]:
    """bench/packets.bpf.c in the kernel."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "packets.bpf.o"
        subprocess.run([_ROOT / "script/build-bpf", "bench/packets.bpf.c", path], check=True)
        loaded = bpf.Object(path)
        try:
            yield loaded
        finally:
            loaded.close()


def small_frame(built: Lab, family: int) -> bytes:
    """What the source sends to its client: UDP, 64 bytes, which the FCS is not among."""
    macs = b"".join(bytes.fromhex(built.topology.mac_address(place).replace(":", "")) for place in (CLIENT, SOURCE))
    addresses = ip_address(SOURCES[family]).packed + ip_address(CLIENTS[family]).packed
    udp_bytes = FRAME_BYTES - 14 - (20 if family == 4 else 40)
    udp = struct.pack("!HHHH", 1024, PORT, udp_bytes, 0).ljust(udp_bytes, b"\0")
    if family == 6:
        return macs + struct.pack("!HIHBB", ETHERTYPE_IPV6, 6 << 28, udp_bytes, UDP, 64) + addresses + udp
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + udp_bytes, 0, 0, 64, UDP)
    words = sum(struct.unpack("!9H", head + addresses))
    words = (words & 0xFFFF) + (words >> 16)
    checksum = struct.pack("!H", ~((words & 0xFFFF) + (words >> 16)) & 0xFFFF)
    return macs + struct.pack("!H", ETHERTYPE_IPV4) + head + checksum + addresses + udp


def _introduce(built: Lab) -> None:
    host, mac = built.namespace(HOST), built.topology.mac_address
    for command in (
        *(f"bridge -n {host} fdb replace {mac(at)} dev {at}0 master static" for at in (SOURCE, CLIENT, TARGET)),
        f"ip -n {host} addr replace fd00::3/64 dev {UNDERLAY} nodad",
        *(
            f"ip -n {host} neigh replace {TARGETS[of]} lladdr {mac(TARGET)} dev {UNDERLAY} nud permanent"
            for of in (4, 6)
        ),
    ):
        subprocess.run(command.split(), check=True)


def _receive(program: bpf.Program, frame: bytes, ifindex: int, count: int) -> None:
    """Let the device receive so many of what ``program`` passes."""
    data = ctypes.create_string_buffer(frame, len(frame))
    context = ctypes.create_string_buffer(struct.pack("<6I", 0, len(frame), 0, ifindex, 0, 0), 24)  # struct xdp_md
    attr = struct.pack(
        "<4I2Q4I2Q3I",
        *(program.fd, 0, len(frame), 0),  # retval and data_size_out are the kernel's to write
        *(ctypes.addressof(data), 0),
        *(count, 0, len(context), 0),
        *(ctypes.addressof(context), 0),
        *(_LIVE_FRAMES, 0, 0),
    )
    _bpf(_PROG_TEST_RUN, attr, "BPF_PROG_TEST_RUN with live frames")


def _take_live_frames(program: bpf.Program, ifindex: int) -> int:
    """A veth does only while it has an XDP program: the descriptor of its link."""
    attr = struct.pack("<4I", program.fd, ifindex, _XDP, _XDP_NATIVE)
    return _bpf(_LINK_CREATE, attr, f"attach to the XDP hook of device {ifindex}")


def _bpf(command: int, attr: bytes, what: str) -> int:
    memory = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = int(_libc.syscall(_BPF, command, memory, _ATTR_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _net_rx() -> list[int]:
    """Softirqs for received packets, by CPU."""
    lines = Path("/proc/softirqs").read_text(encoding="utf-8").splitlines()
    return [int(number) for number in next(each for each in lines if "NET_RX:" in each).split()[1:]]

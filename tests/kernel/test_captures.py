"""The kernel and the model agree on every Ethernet frame from real networks.

Those that BPF_PROG_TEST_RUN does not take, because they are too long or shorter than their headers, go through the
device of a lab. What is no Ethernet frame stands in not_decided.tsv, with its file, frame and reason.

PKTMIRROR_CAPTURES names a folder of captures (default ../shared/captures beside the repository); a clone without them
decides the frames that this test makes.
"""

import functools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import groupby
from pathlib import Path

import pytest

from pktmirror.kernel import bpf, netns
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Interface, Packet, Section, Unreadable
from tests.kernel.bench import Bench, expected
from tests.kernel.frames import IPV4, IPV6, OWN_MAC, TCP, TEST_RUN_BYTES_MAX, UDP, ethernet, taken_by_test_run
from tests.kernel.policies import RESOLVERS, Scene, scene, session
from tests.lab.machines import run_inside, unnamed
from tests.unit.packet.frames import ipv4, ipv6, tcp, udp

pytestmark = pytest.mark.root

LINKTYPE_ETHERNET = 1
FRAME_BYTES_MIN = 14  # what a packet socket sends
LAB_MTU = 200_000  # an ifb has no limit
NOT_DECIDED = Path(__file__).with_name("not_decided.tsv")
NOT_DECIDED_COUNT = 624  # frames in it
CAPTURES = Path(os.environ.get("PKTMIRROR_CAPTURES", Path(__file__).parents[3] / "shared/captures"))

ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")


def accepting(*protocols: int | None, but: PortRange | None = None, services: bool = False) -> Filter:
    """Accepts the protocols in both directions and families, ahead of which TCP to the ports ``but`` is rejected."""
    rules: list[Rule] = []
    for direction in Direction:
        for network in (ANY4, ANY6):
            if but is not None:
                rules.append(Rule(len(rules) + 1, direction, Action.REJECT, network, network, TCP, None, but))
            rules.extend(
                Rule(len(rules) + 1 + index, direction, Action.ACCEPT, network, network, protocol)
                for index, protocol in enumerate(protocols)
            )
    return Filter(tuple(rules), frozenset({NetworkService.AMAZON_DNS}) if services else frozenset())


SCENES = [
    scene([session(1, 0)], [accepting(None)], is_host_side=True),
    scene(
        [session(1, 0), session(2, 1)],
        [accepting(TCP, but=PortRange(80, 443)), accepting(UDP, 1, 58)],
        is_host_side=True,
    ),
    scene([session(9, 0)], [accepting(TCP, services=True)], resolvers=RESOLVERS, is_host_side=False),
]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of a capture, by its number from 1; or, for a ``reason``, why it is none that an interface could see."""

    number: int
    data: bytes
    reason: str | None = None


@functools.cache
def frames_of(path: Path) -> tuple[Frame, ...]:
    """All of a capture file. Where it stops being one, the next frame says so."""
    linktypes: list[int] = []
    found: list[Frame] = []
    try:
        for block in pcapng.read(path.read_bytes()):
            match block:
                case Section():
                    linktypes = []
                case Interface():
                    linktypes.append(block.linktype)
                case Packet():
                    linktype = linktypes[block.interface]
                    reason = None if linktype == LINKTYPE_ETHERNET else f"link type {linktype}, not Ethernet"
                    if reason is None and len(block.frame) < FRAME_BYTES_MIN:
                        reason = "shorter than an Ethernet header"
                    found.append(Frame(len(found) + 1, block.frame, reason))
    except Unreadable as unreadable:
        found.append(Frame(len(found) + 1, b"", f"cannot be read: {unreadable.reason}"))
    return tuple(found)


def captures() -> list[Path]:
    return sorted(path for path in CAPTURES.glob("*.pcap*") if path.is_file())


def own_frames() -> Iterator[bytes]:
    for port in (22, 53, 80, 443, 444):
        yield ethernet(IPV4, ipv4(tcp(40000, port), TCP))
        yield ethernet(IPV4, ipv4(udp(port, 40000), UDP, source="10.0.0.2"))
        yield ethernet(IPV6, ipv6(tcp(port, 40000), TCP))


def is_taken_by_test_run(frame: bytes) -> bool:
    return len(frame) <= TEST_RUN_BYTES_MAX and taken_by_test_run(frame) == frame


def seen_as(direction: Direction, frame: bytes) -> bytes:
    """As a frame that the interface sends, or, with its address for a destination, as one that it receives."""
    return frame if direction is Direction.EGRESS else OWN_MAC + frame[6:]


def disagreement(bench: Bench, scene_: Scene, frame: bytes) -> str | None:
    for direction in (Direction.EGRESS, Direction.INGRESS):
        seen = seen_as(direction, frame)
        at_ingress = (direction is Direction.INGRESS) != scene_.is_host_side
        counted = bench.run(seen, at_ingress=at_ingress)
        model = expected(scene_, seen, at_ingress=at_ingress)
        if counted != model:
            return f"{seen[:200].hex()} {direction.value}: the kernel says {counted}, the model {model}"
    return None


@pytest.mark.parametrize(
    "is_under_all",
    [
        pytest.param(False, id="each under one of the policies"),
        pytest.param(True, id="each under all", marks=(pytest.mark.long, pytest.mark.timeout(1800))),
    ],
)
def test_the_kernel_and_the_model_agree_on_every_captured_frame_that_a_test_run_takes(
    bench: Bench, is_under_all: bool, say: Callable[[str], None]
) -> None:
    sources = {"made here": [Frame(number, frame) for number, frame in enumerate(own_frames(), start=1)]}
    sources |= {path.name: [each for each in frames_of(path) if each.reason is None] for path in captures()}
    taken = {name: [each for each in frames if is_taken_by_test_run(each.data)] for name, frames in sources.items()}
    used = {name: frames for name, frames in taken.items() if frames}
    decided = 0
    for turn, scene_ in enumerate(SCENES):
        bench.write(scene_)
        for name, frames in used.items():
            for each in frames if is_under_all else frames[turn :: len(SCENES)]:
                wrong = disagreement(bench, scene_, each.data)
                assert wrong is None, f"{name}, frame {each.number}: {wrong}"
                decided += 2
    count = sum(len(frames) for frames in used.values())
    say(f"captures: {len(used) - 1} of {len(captures())} used, {count} frames by test runs, {decided} decisions")
    assert decided == count * 2 * (len(SCENES) if is_under_all else 1)
    assert len(used) > 1 or not captures(), f"{CAPTURES} has captures, but no frame of them can be used"


class LabDevice:
    """A device of a lab, of which others see nothing, with the hook by which packets leave it."""

    def __init__(self, stack: ExitStack, bench: Bench) -> None:
        self._inside = stack.enter_context(unnamed(f"t{os.getpid()}-captures"))
        run_inside(self._inside, *f"ip link add lab0 mtu {LAB_MTU} type ifb".split())
        run_inside(self._inside, "ip", "link", "set", "lab0", "addrgenmode", "none", "up")
        ifindex = self._inside.run(socket.if_nametoindex, "lab0")
        program = bench.program(at_ingress=False)
        stack.enter_context(self._inside.run(bpf.Link.attach, program, ifindex, bpf.TCX_EGRESS))
        stack.enter_context(bench.at(ifindex, self._inside.run(netns.cookie)))
        self._socket = stack.enter_context(self._inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.bind(("lab0", 0))

    def send(self, frame: bytes) -> None:
        """It has passed the hook when this returns."""
        assert self._inside.run(self._socket.send, frame) == len(frame)


def own_frames_that_no_test_run_takes() -> Iterator[bytes]:
    for payload_bytes in (TEST_RUN_BYTES_MAX, 8_000, 60_000):
        for port in (22, 80, 443):
            yield ethernet(IPV4, ipv4(tcp(40000, port) + bytes(payload_bytes), TCP))
            yield ethernet(IPV6, ipv6(udp(port, 40000) + bytes(payload_bytes), UDP))
    yield ethernet(IPV4, bytes((0x45,)) + bytes(10))
    yield ethernet(IPV6, bytes((0x60,)) + bytes(38))
    yield ethernet(IPV4, b"")


def test_they_agree_on_all_others_at_the_device_of_a_lab(bench: Bench, say: Callable[[str], None]) -> None:
    frames = [("made here", number, data) for number, data in enumerate(own_frames_that_no_test_run_takes(), start=1)]
    captured = [
        (path.name, each.number, each.data)
        for path in captures()
        for each in frames_of(path)
        if each.reason is None and not is_taken_by_test_run(each.data)
    ]
    decided = 0
    with ExitStack() as stack:
        device = LabDevice(stack, bench)
        for scene_ in SCENES:
            for direction in Direction:
                at_hook = replace(scene_, is_host_side=direction is Direction.INGRESS)
                bench.write(at_hook)
                for name, number, data in (*frames, *captured):
                    seen = seen_as(direction, data)
                    counted = bench.counted_by(functools.partial(device.send, seen))
                    model = expected(at_hook, seen, at_ingress=False)
                    assert counted == model, f"{name}, frame {number} {direction.value}: {counted}, not {model}"
                    decided += 1
    say(f"captures: {len(captured)} frames at the device of a lab, {decided} decisions")


def test_what_is_not_decided_is_listed_with_its_file_frame_and_reason(say: Callable[[str], None]) -> None:
    paths = captures()
    found = [
        f"{path.name}\t{numbers(list(run))}\t{reason}"
        for path in paths
        for reason, run in groupby(frames_of(path), key=lambda each: each.reason)
        if reason is not None
    ]
    head, *lines = NOT_DECIDED.read_text().splitlines()
    assert head == "file\tframes\treason"
    listed = [line for line in lines if line.split("\t")[0] in {path.name for path in paths}]
    assert found == listed, f"{NOT_DECIDED.name} says something else; what is found:\n" + "\n".join(found)
    count = sum(each.reason is not None for path in paths for each in frames_of(path))
    assert count == sum(length(line.split("\t")[1]) for line in listed)
    assert count == (NOT_DECIDED_COUNT if listed == lines else count)
    say(f"captures: {count} frames are not decided, see tests/kernel/{NOT_DECIDED.name}")


def numbers(run: Sequence[Frame]) -> str:
    first, last = run[0].number, run[-1].number
    return f"{first}" if first == last else f"{first}-{last}"


def length(numbers_: str) -> int:
    first, _, last = numbers_.partition("-")
    return int(last or first) - int(first) + 1

"""The kernel and the model agree on frames from real networks.

PKTMIRROR_CAPTURES names a folder of captures (default ../shared/captures beside the repository); a clone without them
decides the frames that this test makes.
"""

import os
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Interface, Packet, Section, Unreadable
from tests.kernel.bench import Bench, expected
from tests.kernel.frames import IPV4, IPV6, OWN_MAC, TCP, TEST_RUN_BYTES_MAX, UDP, ethernet, taken_by_test_run
from tests.kernel.policies import RESOLVERS, Scene, scene, session
from tests.unit.packet.frames import ipv4, ipv6, tcp, udp

pytestmark = pytest.mark.root

LINKTYPE_ETHERNET = 1
FILE_BYTES_MAX = 50_000_000
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


def ethernet_frames(path: Path) -> Iterator[bytes]:
    """Up to where the file can be read; the reader's own tests look at the rest."""
    linktypes: list[int] = []
    try:
        for block in pcapng.read(path.read_bytes()):
            match block:
                case Section():
                    linktypes = []
                case Interface():
                    linktypes.append(block.linktype)
                case Packet() if linktypes[block.interface] == LINKTYPE_ETHERNET:
                    yield block.frame
    except Unreadable:
        return


def own_frames() -> Iterator[bytes]:
    for port in (22, 53, 80, 443, 444):
        yield ethernet(IPV4, ipv4(tcp(40000, port), TCP))
        yield ethernet(IPV4, ipv4(udp(port, 40000), UDP, source="10.0.0.2"))
        yield ethernet(IPV6, ipv6(tcp(port, 40000), TCP))


def takes(frame: bytes) -> bool:
    return 14 <= len(frame) <= TEST_RUN_BYTES_MAX and taken_by_test_run(frame) == frame


def disagreement(bench: Bench, scene_: Scene, frame: bytes) -> str | None:
    """As a frame that the interface sends, and, with its address for a destination, as one that it receives."""
    for direction, seen in ((Direction.EGRESS, frame), (Direction.INGRESS, OWN_MAC + frame[6:])):
        at_ingress = (direction is Direction.INGRESS) != scene_.is_host_side
        counted = bench.run(seen, at_ingress=at_ingress)
        model = expected(scene_, seen, at_ingress=at_ingress)
        if counted != model:
            return f"{seen.hex()} {direction.value}: the kernel says {counted}, the model {model}"
    return None


@pytest.mark.parametrize(
    ("frames_per_capture", "within_s"),
    [
        pytest.param(40, 20.0, id="sample"),
        pytest.param(10**9, 1500.0, id="all", marks=(pytest.mark.long, pytest.mark.timeout(1800))),
    ],
)
def test_the_kernel_and_the_model_agree_on_captured_frames(
    bench: Bench, frames_per_capture: int, within_s: float, say: Callable[[str], None]
) -> None:
    sources = {"made here": list(own_frames())}
    paths = sorted(path for path in CAPTURES.glob("*.pcap*") if path.is_file())
    for path in paths:
        if path.stat().st_size <= FILE_BYTES_MAX:
            taken = (frame for frame in ethernet_frames(path) if takes(frame))
            sources[path.name] = [frame for frame, _ in zip(taken, range(frames_per_capture), strict=False)]
    used = {name: frames for name, frames in sources.items() if frames}
    deadline_s = time.monotonic() + within_s
    decided = 0
    for scene_ in SCENES:
        bench.write(scene_)
        for name, frames in used.items():
            for number, frame in enumerate(frames, start=1):
                wrong = disagreement(bench, scene_, frame)
                assert wrong is None, f"{name}, frame {number}: {wrong}"
                decided += 2
            assert time.monotonic() < deadline_s, f"{decided} decisions took {within_s} s: sample fewer frames"
    frames_used = sum(len(frames) for frames in used.values())
    say(f"captures: {len(used) - 1} of {len(paths)} used, {frames_used} frames, {decided} decisions")
    assert len(used) > 1 or not paths, f"{CAPTURES} has captures, but no frame of them can be used"

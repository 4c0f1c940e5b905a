"""Real traffic, replayed by a source: the copies are exactly the frames that tshark selects, in order, byte for byte.

tshark reads the original files and knows nothing of the mirror. Each filter stands here twice: as a filter, and as a
display filter, whose ``#1`` means the outermost layer, as the mirror looks at no other.
"""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from itertools import chain
from pathlib import Path

import pytest

from pktmirror.lab import Instance, Lab, Subnet, Topology
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceOutcome
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import LINKTYPE_ETHERNET, Interface, Packet, Section, Unreadable
from tests.captures.published import home_made, published, write_capture
from tests.lab.mirror import Mirror, Session

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

EGRESS = Direction.EGRESS
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
FRAME_BYTES_MIN, FRAME_BYTES_MAX = 14, 8900  # what a packet socket sends, and what a copy has room for
FRAMES_MAX = 2500  # of a capture
CATEGORIES = ("1-ordinary", "2-attack")

# Addresses that no capture has, so that nobody in the lab answers.
LAB = Topology(
    name="x",
    cidr=IPv4Network("100.127.77.0/24"),
    subnets=(Subnet("a", IPv4Network("100.127.77.0/24"), mtu=9001),),
    instances=(
        Instance("client", "a", IPv4Address("100.127.77.6")),
        Instance("web", "a", IPv4Address("100.127.77.48")),
        Instance("monitor", "a", IPv4Address("100.127.77.90")),
    ),
)


def of_outer(ethertype: str) -> str:
    """Frames whose payload, behind two VLAN tags at most, is of this type."""
    once, twice = f"vlan.etype#1 == {ethertype}", f"vlan.etype#2 == {ethertype}"
    tagged = f"eth.type#1 == 0x8100 && ({once} || (vlan.etype#1 == 0x8100 && {twice}))"
    return f"(eth.type#1 == {ethertype} || ({tagged}))"


IPV4, IPV6 = of_outer("0x0800"), of_outer("0x86dd")
NEVER4 = (
    "(ip.proto#1 == 17 && udp.port#1 in {67, 68, 546, 547}) || ip.addr#1 == 169.254.169.254 || "
    "ip.addr#1 == 169.254.169.123 || (ip.proto#1 == 6 && tcp.port#1 == 1688 && ip.addr#1 == 169.254.169.250/31)"
)
NEVER6 = (
    "icmpv6.type#1 in {133 .. 137} || (udp.port#1 in {67, 68, 546, 547}) || "
    "ipv6.addr#1 == fd00:ec2::254 || ipv6.addr#1 == fd00:ec2::123"
)


def rule(number: int, action: Action, protocol: int | None = None, **more: object) -> Rule:
    source = more.pop("source", ANY4)
    destination = more.pop("destination", ANY6 if source == ANY6 else ANY4)
    return Rule(number, EGRESS, action, source, destination, protocol, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Case:
    """One filter, said twice."""

    filter: Filter
    display_filter: str


ACCEPT, REJECT = Action.ACCEPT, Action.REJECT
PRIVATE = ip_network("192.168.0.0/16")
CASES = {
    "TCP": Case(Filter((rule(1, ACCEPT, TCP),)), f"{IPV4} && ip.proto#1 == 6 && !({NEVER4})"),
    "UDP": Case(Filter((rule(1, ACCEPT, UDP),)), f"{IPV4} && ip.proto#1 == 17 && !({NEVER4})"),
    "all but the web": Case(
        Filter((rule(1, REJECT, TCP, destination_ports=PortRange(80, 443)), rule(2, ACCEPT))),
        f"{IPV4} && !(ip.proto#1 == 6 && tcp.dstport#1 in {{80 .. 443}}) && !({NEVER4})",
    ),
    "questions to name servers and low ports": Case(
        Filter(
            (
                rule(1, ACCEPT, UDP, destination_ports=PortRange(53, 53)),
                rule(2, ACCEPT, TCP, destination_ports=PortRange(0, 1023)),
            )
        ),
        f"{IPV4} && !({NEVER4}) && ((ip.proto#1 == 17 && udp.dstport#1 == 53) || "
        "(ip.proto#1 == 6 && tcp.dstport#1 <= 1023))",
    ),
    "from private addresses to public ones": Case(
        Filter((rule(1, REJECT, destination=PRIVATE), rule(2, ACCEPT, source=PRIVATE))),
        f"{IPV4} && ip.src#1 == 192.168.0.0/16 && ip.dst#1 != 192.168.0.0/16 && !({NEVER4})",
    ),
    "IPv6": Case(Filter((rule(1, ACCEPT, source=ANY6),)), f"{IPV6} && !({NEVER6})"),
    "ICMP, and IPv6 TCP": Case(
        Filter((rule(1, ACCEPT, 1), rule(2, ACCEPT, TCP, source=ANY6))),
        f"({IPV4} && ip.proto#1 == 1 && !({NEVER4})) || ({IPV6} && "
        f"(tcp || ipv6.fraghdr.nxt == 6) && !icmpv6 && !ip && !({NEVER6}))",
    ),
}


def frames_of(path: Path) -> list[tuple[int, bytes]] | None:
    """The frames that a packet socket can send with their numbers, as tshark counts; None for what is not usable."""
    linktypes: list[int] = []
    frames: list[tuple[int, bytes]] = []
    number = 0
    try:
        for block in pcapng.read(path.read_bytes()):
            match block:
                case Section():
                    linktypes = []
                case Interface():
                    linktypes.append(block.linktype)
                case Packet():
                    number += 1
                    if linktypes[block.interface] != LINKTYPE_ETHERNET:
                        return None
                    if FRAME_BYTES_MIN <= len(block.frame) <= FRAME_BYTES_MAX:
                        frames.append((number, block.frame))
    except Unreadable:
        return None
    # tshark has no vlan.etype for a service tag, and calls what is shorter than its header's claim malformed
    if number > FRAMES_MAX or any(frame[12:14] == b"\x88\xa8" for _, frame in frames):
        return None
    return frames or None


def selected(path: Path, display_filter: str) -> list[int]:
    """The numbers of the frames that tshark selects."""
    preferences = ("ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams", "tcp.reassemble_out_of_order")
    options = chain.from_iterable(("-o", f"{preference}:FALSE") for preference in preferences)
    argv = ["tshark", "-n", "-r", str(path), *options, "-Y", display_filter, "-T", "fields", "-e", "frame.number"]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    # as root it complains on stderr; a file that ends early makes it fail after what it could read
    assert "isn't a valid" not in run.stderr, run.stderr
    assert run.returncode in (0, 2), run.stderr
    return [int(line) for line in run.stdout.split()]


def usable(tmp_path: Path) -> Iterator[tuple[Path, list[tuple[int, bytes]]]]:
    untagged = [frame for frame in home_made() if frame[12:14] != b"\x88\xa8"]
    for path in (write_capture(tmp_path / "home-made.pcapng", untagged), *published()):
        if path.name.startswith((*CATEGORIES, "home-made")):
            frames = frames_of(path)
            if frames is not None:
                yield path, frames


def replay(
    mirror: Mirror, captures: list[tuple[Path, list[tuple[int, bytes]]]], cases_of: Callable[[int], list[str]]
) -> tuple[int, int]:
    """Send every capture through each of its cases; returns how many frames were sent and how many copies came."""
    work = [(path, frames, case) for position, (path, frames) in enumerate(captures) for case in cases_of(position)]
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(lambda each: selected(each[0], CASES[each[2]].display_filter), work)
        arrived = sent = 0
        for (path, frames, case), numbers in zip(work, answers, strict=True):
            mirror.mirror({"web": [Session("monitor", filter=CASES[case].filter)]})
            before = mirror.seen("web", EGRESS)
            mirror.send("web", [frame for _, frame in frames])
            mirror.wait_for_seen("web", EGRESS, before + len(frames))
            assert mirror.seen("web", EGRESS) == before + len(frames), "the source says nothing of its own"
            copies = [copy.frame for copy in mirror.collector("monitor").copies()[arrived:]]
            chosen = set(numbers)
            expected = [(number, frame) for number, frame in frames if number in chosen]
            wrong = next(
                (number for (number, frame), copy in zip(expected, copies, strict=False) if frame != copy), None
            )
            assert (wrong, len(copies)) == (None, len(expected)), f"{path.name} by {case!r}: first at frame {wrong}"
            arrived += len(copies)
            sent += len(frames)
    return sent, arrived


def test_the_copies_of_real_traffic_are_what_tshark_selects(
    lab: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captures = list(usable(tmp_path))
    names = list(CASES)
    with Mirror(lab(LAB)) as mirror:
        sent, arrived = replay(mirror, captures, lambda position: [names[position % len(names)]])
        outcomes = mirror.outcomes("web", EGRESS)
        assert outcomes[InterfaceOutcome.TAKEN] == arrived
        assert sum(outcomes.values()) == sent
    with capsys.disabled():
        print(f"\n{len(captures)} captures replayed: {sent} frames, {arrived} copies")  # noqa: T201
    assert len(captures) >= 10 or not published()
    assert 0 < arrived < sent


@pytest.mark.long
def test_the_copies_of_real_traffic_are_what_tshark_selects_by_every_filter(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(LAB)) as mirror:
        sent, arrived = replay(mirror, list(usable(tmp_path)), lambda _: list(CASES))
        assert 0 < arrived < sent

"""What else there is to mirror with, set up at one device beside us: the kernel's own means, and a user-space copier.

Each peer is a context manager; it is there inside. `NotHere` where the kernel or the machine lacks what it needs.
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

PEER_PORT, PEER_VNI = 4790, 9  # a port of their own, so that our ledger is about our copies
MIRRED, NFT, COPIER = "tc u32 + mirred to a vxlan device", "nft dup to a vxlan device", "user-space AF_PACKET copier"
TEE = "nft dup to an address, as iptables TEE (no encapsulation)"
BOTH = ("ingress", "egress")
_ETHERTYPES = {4: "ip", 6: "ipv6"}
_U32 = {4: "ip", 6: "ip6"}
_BRIDGE_CALLS = {4: "net/bridge/bridge-nf-call-iptables", 6: "net/bridge/bridge-nf-call-ip6tables"}


class NotHere(Exception):
    """The kernel lacks what a peer needs; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a peer works: at ``device``, in this network namespace. Copies go to ``target`` by ``underlay``."""

    namespace: str
    device: str
    underlay: str
    target: str
    hooks: Sequence[str] = BOTH


@dataclass(frozen=True, slots=True)
class Match:
    """UDP to a network and a port; a network of /0 and no port: every packet of the family."""

    destination: IPv4Network | IPv6Network
    port: int | None = None

    @property
    def u32(self) -> str:
        if self.port is None:
            return "match u32 0 0"
        family = _U32[self.destination.version]
        return f"match {family} dst {self.destination} match {family} dport {self.port} 0xffff"

    @property
    def nft(self) -> str:
        family = _U32[self.destination.version]
        if self.port is None:
            return f"meta protocol {family}"
        return f"{family} daddr {self.destination} udp dport {self.port}"


EVERY_IPV4 = Match(IPv4Network("0.0.0.0/0"))
EVERY_IPV6 = Match(IPv6Network("::/0"))


@contextlib.contextmanager
def mirred(spot: Spot, matches: Sequence[Match] = (EVERY_IPV4,)) -> Iterator[None]:
    """Filters of u32 in the order of the matches, each with mirred into a vxlan device."""
    filters = "\n".join(
        f"filter add dev {spot.device} {hook} protocol {_ETHERTYPES[match.destination.version]} prio 1 u32 {match.u32} "
        "action mirred egress mirror dev peer0"
        for hook in spot.hooks
        for match in matches
    )
    with (
        _vxlan(spot),
        _undone(spot, f"tc qdisc add dev {spot.device} clsact", f"tc qdisc del dev {spot.device} clsact"),
    ):
        _run(spot, "tc -batch -", filters)
        yield


@contextlib.contextmanager
def nft_dup(spot: Spot, matches: Sequence[Match] = (EVERY_IPV4, EVERY_IPV6)) -> Iterator[None]:
    """Rules in the order of the matches, each with dup into a vxlan device."""
    rules = "\n".join(f'{match.nft} dup to "peer0"' for match in matches)
    chains = "\n".join(
        f'chain {hook} {{\n type filter hook {hook} device "{spot.device}" priority 0\n{rules}\n}}'
        for hook in spot.hooks
    )
    with _vxlan(spot), _table(spot, "netdev", chains):
        yield


@contextlib.contextmanager
def dup_to_address(spot: Spot, matches: Sequence[Match]) -> Iterator[None]:
    """What iptables TEE does, the kernel's nf_dup_ipv4 and nf_dup_ipv6: the copy goes to another next hop as it is.

    What is bridged comes to these hooks only where bridges call them.
    """
    family = matches[0].destination.version
    rules = "\n".join(f'{match.nft} dup to {spot.target} device "{spot.underlay}"' for match in matches)
    chain = f"chain prerouting {{\n type filter hook prerouting priority -150\n{rules}\n}}"
    switch = f"/proc/sys/{_BRIDGE_CALLS[family]}"
    with _switched_on(spot, switch), _table(spot, _U32[family], chain):
        yield


@contextlib.contextmanager
def copied(spot: Spot, program: Path, cpu: int | None = None) -> Iterator[None]:
    """The copier, on whichever CPU the scheduler likes, or on one."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    argv = [*pinned, str(program), spot.device, spot.target, str(PEER_PORT)]
    with subprocess.Popen([*_inside(spot), *argv], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def copier() -> Iterator[Path]:
    """The user-space peer, compiled."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "copier")
        source = Path(__file__).with_name("copier.c")
        subprocess.run([sys.executable, "-m", "ziglang", "cc", "-O2", "-o", program, source], check=True)
        yield program


@contextlib.contextmanager
def _vxlan(spot: Spot) -> Iterator[None]:
    """Without a UDP checksum, as our copies are."""
    add = (
        f"ip link add peer0 type vxlan id {PEER_VNI} remote {spot.target} dstport {PEER_PORT} dev {spot.underlay} "
        "noudpcsum nolearning"
    )
    with _undone(spot, add, "ip link del peer0"):
        _run(spot, "ip link set peer0 up")
        yield


@contextlib.contextmanager
def _table(spot: Spot, family: str, chains: str) -> Iterator[None]:
    _run(spot, "nft -f -", f"table {family} peer {{\n{chains}\n}}\n")
    try:
        yield
    finally:
        _run(spot, f"nft delete table {family} peer")


@contextlib.contextmanager
def _undone(spot: Spot, before: str, after: str) -> Iterator[None]:
    _run(spot, before)
    try:
        yield
    finally:
        _run(spot, after)


@contextlib.contextmanager
def _switched_on(spot: Spot, switch: str) -> Iterator[None]:
    """A setting of the namespace that is off by default; /proc/sys/net shows that of the process."""
    _run(spot, f"tee {switch}", "1\n")
    try:
        yield
    finally:
        _run(spot, f"tee {switch}", "0\n")


def _inside(spot: Spot) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{spot.namespace}"]


def _run(spot: Spot, command: str, lines: str | None = None) -> None:
    _checked([*_inside(spot), *command.split()], lines)


def _checked(argv: Sequence[str], lines: str | None) -> None:
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere((done.stderr or done.stdout).strip().splitlines()[0])

"""What mirrors leave of an unlimited TCP transfer between two instances of a lab, and how many copies they make of it.

Both directions are mirrored in full. The peers run beside pktmirror in the same run, turn by turn: tc u32 and mirred
into a vxlan device, nft dup into one, and a copier in user space. Each transfer is timed by iperf3.

Copies leave by an uplink, a veth that stands for a network card: with offloads on it takes super-packets, as a card
that segments; with offloads off the kernel makes packets of them. At its far end they are counted and dropped at once,
as by a machine that is not this one. In one more row the target is an instance on the same host, behind its bridge.

As root: PYTHONPATH=. .venv/bin/python bench/throughput.py [--turns 5] [--seconds 3] [--json FILE]
"""

import argparse
import contextlib
import json
import logging
import os
import socket
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import structlog
from bench import peers, record
from bench.claims import Bar, Claim, Holds, Result, best
from bench.peers import COPIER, MIRRED, NFT, PEER_PORT, NotHere, Spot
from msgspec.structs import replace
from tests.lab.mirror import Mirror, Session
from tests.waiting import wait_until

from pktmirror import lab
from pktmirror.desired import Underlay
from pktmirror.lab import DEMO, Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate, default_budget
from pktmirror.model.underlay import Segmentation

PORT = 4789
PLAIN = "no mirror"
OURS, OURS_CUT, OURS_BOUNDED = "pktmirror", "pktmirror, packet length 128", "pktmirror, default budget"


@dataclass(frozen=True, slots=True)
class Uplink:
    """By what the copies leave the host; ``segments``: None where they stay on it, behind a bridge."""

    mtu: int
    segments: bool | None


CARD, SOFTWARE = "uplink that segments, MTU 9000", "uplink that does not segment, MTU 9000"
NARROW, SAME_HOST = "uplink that does not segment, MTU 1500", "target on the same host, MTU 9001"
UPLINKS = {
    CARD: Uplink(9000, segments=True),
    SOFTWARE: Uplink(9000, segments=False),
    NARROW: Uplink(1500, segments=False),
    SAME_HOST: Uplink(9001, segments=None),
}
IN_KERNEL = (MIRRED, NFT)
KEPT, LEDGER, AWAY = "production_kept", "ledger_of_all_turns", "copies_sent_that_did_not_arrive"
FULL = "unlimited TCP mirrored in full, both directions: production kept"
CUT = "unlimited TCP, packet length 128 (the peer copies in full): production kept"
BOUNDED = "unlimited TCP, default budget: production kept"
ALL_OF_FULL = "unlimited TCP mirrored in full: packets taken and not sent"
ALL_ARRIVE = "unlimited TCP mirrored in full: copies sent that did not arrive"
ALL_OF_BOUNDED = "unlimited TCP, default budget: packets taken that are neither sent nor capped"
NONE = Bar(Holds.AT_MOST, 0)
BAR_OF_CUT, BAR_OF_BOUNDED = Bar(Holds.AT_LEAST, 1.2, of_peer=True), Bar(Holds.AT_LEAST, 0.95)
BARS_OF_FULL = {
    CARD: Bar(Holds.AT_LEAST, 0.95),
    SOFTWARE: Bar(Holds.MORE_THAN, 1, of_peer=True, aim=1.2),
    NARROW: Bar(Holds.AT_LEAST, 1.2, of_peer=True),
    SAME_HOST: Bar(Holds.MORE_THAN, 1, of_peer=True, aim=1.2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, object] = {
        **record.head(),
        "turns": arguments.turns,
        "seconds_a_transfer": arguments.seconds,
    }
    with peers.copier() as program:
        for name, uplink in UPLINKS.items():
            built = lab.up(topology(uplink.mtu))
            try:
                result[name] = measure(built, uplink, program, arguments.turns, arguments.seconds)
            finally:
                lab.down(built.name)
    record.conclude(result, claims(result), arguments.json)


def topology(underlay_mtu: int) -> Topology:
    """The demo's VPC. The source and its client have an MTU of 1500 whatever the underlay has."""
    return Topology(
        f"tput{os.getpid()}",
        DEMO.cidr,
        DEMO.hosts,
        tuple(replace(subnet, mtu=underlay_mtu) for subnet in DEMO.subnets),
        tuple(each if each.name == "monitor" else replace(each, mtu=1500) for each in DEMO.instances),
    )


class Arrived(NamedTuple):
    packets: int
    bytes: int


class Bench:
    """One lab with a mirror that is switched on and off, and an iperf3 server at the source."""

    def __init__(self, built: Lab, uplink: Uplink, mirror: Mirror, program: Path) -> None:
        self.built, self.mirror, self.program = built, mirror, program
        self.host, self.target = built.namespace("host"), built.namespace("monitor")
        self.vnis = count(100)
        self.device, self.arrives_at = "br-a", "eth0"
        if uplink.segments is not None:
            self.device, self.arrives_at = "up0", "wire0"
            self.make(uplink)
        self.spot = Spot(self.host, "web0", self.device, mirror.address("monitor"))

    def make(self, uplink: Uplink) -> None:
        """The uplink, and the route by it to the target."""
        address, mac = self.mirror.address("monitor"), "02:00:00:00:77:77"
        self.run(f"ip link add up0 mtu {uplink.mtu} type veth peer wire0 address {mac} mtu {uplink.mtu}")
        self.run(f"ip link set wire0 netns {self.target}")
        for where, name in ((self.host, "up0"), (self.target, "wire0")):
            subprocess.run(["ip", "-n", where, "link", "set", name, "up"], check=True)
        if not uplink.segments:
            self.run("ethtool -K up0 tso off gso off tx off")
        self.run(f"ip route add {address}/32 dev up0")
        self.run(f"ip neighbour add {address} lladdr {mac} dev up0")
        hook = 'type filter hook ingress device "wire0" priority 0'
        table = f"table netdev sink {{\nchain arrived {{\n {hook}\n drop\n}}\n}}"
        subprocess.run(["nsenter", f"--net=/run/netns/{self.target}", "nft", table], check=True)
        self.mirror.underlay = Underlay(segmentation=Segmentation.UNDERLAY)

    def conditions(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        return {
            PLAIN: contextlib.nullcontext,
            OURS: lambda: self.ours(None),
            OURS_CUT: lambda: self.ours(128),
            OURS_BOUNDED: lambda: self.ours(None, default_budget(os.cpu_count() or 1)),
            MIRRED: lambda: peers.mirred(self.spot),
            NFT: lambda: peers.nft_dup(self.spot),
            COPIER: lambda: peers.copied(self.spot, self.program),
        }

    @contextlib.contextmanager
    def ours(self, packet_bytes_max: int | None, budget: Rate = UNLIMITED) -> Iterator[None]:
        agent = self.mirror.agents["host"]
        agent.stop()
        agent.budget = budget
        agent.start()
        session = Session("monitor", vni=next(self.vnis), packet_bytes_max=packet_bytes_max)
        self.mirror.mirror({"web": [session]})
        try:
            yield
            self.ledger = self.mirror.ledger("web")
        finally:
            self.mirror.mirror({})

    def run(self, command: str) -> None:
        subprocess.run(["nsenter", f"--net=/run/netns/{self.host}", *command.split()], check=True)

    def transfer_gbits_s(self, seconds: int) -> float:
        argv = ["iperf3", "-c", self.mirror.address("web"), "-t", str(seconds), "-J"]
        with self.built.start("client", argv, stdout=subprocess.PIPE, text=True) as client:
            said, _ = client.communicate()
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9

    def arrived(self) -> Arrived:
        """What has arrived at the target, once nothing more comes."""
        counted, before = self.counted(), None
        while counted != before:
            time.sleep(0.05)
            counted, before = self.counted(), counted
        return counted

    def counted(self) -> Arrived:
        shown = subprocess.run(
            ["ip", "-n", self.target, "-s", "-j", "link", "show", self.arrives_at],
            capture_output=True,
            text=True,
            check=True,
        )
        received = json.loads(shown.stdout)[0]["stats64"]["rx"]
        return Arrived(int(received["packets"]), int(received["bytes"]))


class Unchecked(Mirror):
    """A mirror of the lab without the checks of a test, which keep every copy in memory."""

    def collector(self, place: str) -> None:  # type: ignore[override]
        """Nothing listens but the bench's own sockets."""

    def assert_everything_adds_up(self) -> None:
        """The bench reads the ledger itself."""


def measure(built: Lab, uplink: Uplink, program: Path, turns: int, seconds: int) -> dict[str, object]:
    rates: dict[str, list[float]] = {}
    kept: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    ledgers: dict[str, Counter[str]] = {}
    away: Counter[str] = Counter()
    with (
        Unchecked(built) as mirror,
        sinks(mirror),
        built.start("web", ["iperf3", "-s"], stdout=subprocess.DEVNULL) as web,
    ):
        bench = Bench(built, uplink, mirror, program)
        try:
            wait_until(lambda: listens(mirror), 5, "iperf3 does not listen")
            for _ in range(turns):
                for name, condition in bench.conditions().items():
                    if name in missing:
                        continue
                    try:
                        with condition():
                            before = bench.arrived()
                            rate = bench.transfer_gbits_s(seconds)
                            after = bench.arrived()
                    except NotHere as error:
                        missing[name] = str(error)
                        continue
                    rates.setdefault(name, []).append(rate)
                    kept.setdefault(name, []).append((after.bytes - before.bytes) / (rate * 1e9 * seconds / 8))
                    if name.startswith(OURS):
                        ended = figures(bench)
                        ledgers.setdefault(name, Counter()).update(ended)
                        away[name] += max(0, ended[Stage.SENT.value] - (after.packets - before.packets))
        finally:
            web.kill()
    parts = {
        name: [a / b for a, b in zip(values, rates[PLAIN], strict=True)]
        for name, values in rates.items()
        if name != PLAIN
    }
    result: dict[str, object] = {
        "production_gbits_s": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        KEPT: {name: round(statistics.median(each), 3) for name, each in parts.items()},
        f"{KEPT}_min_max": {name: [round(min(each), 3), round(max(each), 3)] for name, each in parts.items()},
        "bytes_that_arrived_for_each_byte_of_production": {
            name: round(statistics.median(values), 3) for name, values in kept.items() if name != PLAIN
        },
        LEDGER: ledgers,
        "not_here": missing,
    }
    if not uplink.segments:  # otherwise a super-packet arrives as one
        result[AWAY] = away
    return result


def figures(bench: Bench) -> dict[str, int]:
    """Both directions together: what was taken, and where it ended."""
    taken = sum(ledger.verdict(Verdict.TAKEN).packets for ledger in bench.ledger.values())
    stages = {
        stage.value: sum(ledger.stage(stage).packets for ledger in bench.ledger.values())
        for stage in Stage
        if any(ledger.stage(stage).packets for ledger in bench.ledger.values())
    }
    lost = sum(ledger.lost_in_hop_packets for ledger in bench.ledger.values())
    return {"taken": taken, Stage.SENT.value: 0, **stages, "lost in hop": lost}


def listens(mirror: Mirror) -> bool:
    with contextlib.suppress(OSError):
        mirror.inside("client").run(socket.create_connection, (mirror.address("web"), 5201), 1).close()
        return True
    return False


@contextlib.contextmanager
def sinks(mirror: Mirror) -> Iterator[None]:
    """Somebody listens at the target, so that it sends no ICMP errors."""
    with contextlib.ExitStack() as stack:
        for port in (PORT, PEER_PORT):
            listener = mirror.inside("monitor").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            stack.enter_context(listener)
            listener.bind(("0.0.0.0", port))
        yield


def claims(result: Result) -> list[Claim]:
    made = []
    for uplink, bar in BARS_OF_FULL.items():
        figures = result[uplink]
        kept, peer = figures[KEPT], best(figures[KEPT], IN_KERNEL, largest=True)
        made += [
            Claim(FULL, uplink, kept[OURS], "of the rate", bar, peer),
            Claim(CUT, uplink, kept[OURS_CUT], "of the rate", BAR_OF_CUT, peer),
            Claim(BOUNDED, uplink, kept[OURS_BOUNDED], "of the rate", BAR_OF_BOUNDED, peer),
        ]
        made += _packets(uplink, figures)
    order = (FULL, ALL_OF_FULL, ALL_ARRIVE, CUT, BOUNDED, ALL_OF_BOUNDED)
    return sorted(made, key=lambda claim: order.index(claim.claim))


def _packets(uplink: str, figures: Result) -> list[Claim]:
    """That none is lost, by the ledger and at the far end."""
    if LEDGER not in figures:  # an earlier result, which has the last turn's alone
        return []
    made, ledgers = [], figures[LEDGER]
    for what, name in ((ALL_OF_FULL, OURS), (ALL_OF_BOUNDED, OURS_BOUNDED)):
        taken, ended = ledgers[name]["taken"], ledgers[name]["sent"]
        if name == OURS_BOUNDED:
            ended += ledgers[name].get("capped", 0)
        made.append(Claim(what, f"{uplink}, of {taken:,}", taken - ended, "", NONE))
    if AWAY in figures:
        made.append(Claim(ALL_ARRIVE, f"{uplink}, of {ledgers[OURS]['sent']:,}", figures[AWAY][OURS], "", NONE))
    return made


if __name__ == "__main__":
    main()

"""What mirrors leave of an unlimited TCP transfer between two instances of a lab, and how many copies they make of it.

Both directions are mirrored in full. The peers run beside pktmirror in the same run, turn by turn: tc u32 and mirred
into a vxlan device, nft dup into one, and a copier in user space. Each transfer is timed by iperf3; copies are counted
where they arrive, at the target's interface.

As root: PYTHONPATH=. .venv/bin/python bench/throughput.py [--turns 5] [--seconds 3] [--json FILE]
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import structlog
from bench import peers
from bench.peers import COPIER, MIRRED, NFT, PEER_PORT, NotHere, Spot
from msgspec.structs import replace
from tests.lab.mirror import Mirror, Session
from tests.waiting import wait_until

from pktmirror import lab
from pktmirror.lab import DEMO, Lab, Topology
from pktmirror.model.evaluation import Verdict
from pktmirror.model.ledger import Stage

PORT = 4789
SEGMENT_BYTES = 1448
PLAIN = "no mirror"
OURS, OURS_CUT = "pktmirror", "pktmirror, packet length 128"
UNDERLAYS = {"underlay MTU 9001": 9001, "underlay MTU 1500": 1500}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, object] = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "kernel": platform.release(),
        "turns": arguments.turns,
        "seconds_a_transfer": arguments.seconds,
    }
    with peers.copier() as program:
        for name, mtu in UNDERLAYS.items():
            built = lab.up(topology(mtu))
            try:
                result[name] = measure(built, program, arguments.turns, arguments.seconds)
            finally:
                lab.down(built.name)
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def topology(underlay_mtu: int) -> Topology:
    """The demo's VPC. The source and its client have an MTU of 1500 whatever the underlay has."""
    return Topology(
        f"tput{os.getpid()}",
        DEMO.cidr,
        DEMO.hosts,
        tuple(replace(subnet, mtu=underlay_mtu) for subnet in DEMO.subnets),
        tuple(each if each.name == "monitor" else replace(each, mtu=1500) for each in DEMO.instances),
    )


class Bench:
    """One lab with a mirror that is switched on and off, and an iperf3 server at the source."""

    def __init__(self, built: Lab, mirror: Mirror, program: Path) -> None:
        self.built, self.mirror, self.program = built, mirror, program
        self.spot = Spot(built.namespace("host"), "web0", "br-a", mirror.address("monitor"))
        self.vnis = count(100)

    def conditions(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        return {
            PLAIN: contextlib.nullcontext,
            OURS: lambda: self.ours(None),
            OURS_CUT: lambda: self.ours(128),
            MIRRED: lambda: peers.mirred(self.spot),
            NFT: lambda: peers.nft_dup(self.spot),
            COPIER: lambda: peers.copied(self.spot, self.program),
        }

    @contextlib.contextmanager
    def ours(self, packet_bytes_max: int | None) -> Iterator[None]:
        session = Session("monitor", vni=next(self.vnis), packet_bytes_max=packet_bytes_max)
        self.mirror.mirror({"web": [session]})
        try:
            yield
            self.ledger = self.mirror.ledger("web")
        finally:
            self.mirror.mirror({})

    def transfer_gbits_s(self, seconds: int) -> float:
        argv = ["iperf3", "-c", self.mirror.address("web"), "-t", str(seconds), "-J"]
        with self.built.start("client", argv, stdout=subprocess.PIPE, text=True) as client:
            said, _ = client.communicate()
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9

    def arrived(self) -> int:
        """Packets that the target's interface has received."""
        shown = subprocess.run(
            ["ip", "-n", self.built.namespace("monitor"), "-s", "-j", "link", "show", "eth0"],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(json.loads(shown.stdout)[0]["stats64"]["rx"]["packets"])


class Unchecked(Mirror):
    """A mirror of the lab without the checks of a test, which keep every copy in memory."""

    def collector(self, place: str) -> None:  # type: ignore[override]
        """Nothing listens but the bench's own sockets."""

    def assert_everything_adds_up(self) -> None:
        """The bench reads the ledger itself."""


def measure(built: Lab, program: Path, turns: int, seconds: int) -> dict[str, object]:
    rates: dict[str, list[float]] = {}
    kept: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    ledgers: dict[str, dict[str, int]] = {}
    with (
        Unchecked(built) as mirror,
        sinks(mirror),
        built.start("web", ["iperf3", "-s"], stdout=subprocess.DEVNULL) as web,
    ):
        bench = Bench(built, mirror, program)
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
                            copies = bench.arrived() - before
                    except NotHere as error:
                        missing[name] = str(error)
                        continue
                    rates.setdefault(name, []).append(rate)
                    kept.setdefault(name, []).append(copies / (rate * 1e9 * seconds / 8 / SEGMENT_BYTES))
                    if name in (OURS, OURS_CUT):
                        ledgers[name] = figures(bench)
        finally:
            web.kill()
    return {
        "production_gbits_s": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "production_kept": {
            name: round(statistics.median(a / b for a, b in zip(values, rates[PLAIN], strict=True)), 3)
            for name, values in rates.items()
            if name != PLAIN
        },
        "copies_that_arrived_for_each_segment": {
            name: round(statistics.median(values), 3) for name, values in kept.items() if name != PLAIN
        },
        "ledger_of_the_last_turn": ledgers,
        "not_here": missing,
    }


def figures(bench: Bench) -> dict[str, int]:
    """Both directions together: what was taken, and where it ended."""
    taken = sum(ledger.verdict(Verdict.TAKEN).packets for ledger in bench.ledger.values())
    stages = {
        stage.value: sum(ledger.stage(stage).packets for ledger in bench.ledger.values())
        for stage in Stage
        if any(ledger.stage(stage).packets for ledger in bench.ledger.values())
    }
    lost = sum(ledger.lost_in_hop_packets for ledger in bench.ledger.values())
    return {"taken": taken, **stages, "lost in hop": lost}


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


def show(result: dict[str, object]) -> None:
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()

"""What a mirror adds to the round trip of production: a ping-pong of 64 bytes between two instances of a lab, by UDP
and by TCP.

One pair of sockets is timed in turn without a mirror, with pktmirror (both directions in full to a third instance),
and with the kernel's own means (tc u32 and mirred into a vxlan device, both directions in full). Turns are short and
alternate, so that a drift of the machine's speed meets all three; each ratio is of one round of turns.

Two regimes, since they differ by a factor: CPUs that halt between packets, as on a machine with little to do, where
waking up is most of a round trip; and CPUs that never halt, where the whole of it is work.

As root: PYTHONPATH=. .venv/bin/python bench/round_trip.py [--turns 15] [--round-trips 4000] [--json FILE]
"""

import argparse
import contextlib
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path

import structlog
from bench import peers, record
from bench.claims import Bar, Claim, Holds, Result, best
from bench.throughput import Unchecked, sinks
from tests.lab.mirror import Session

from pktmirror import lab
from pktmirror.lab import DEMO, Lab, Topology

PORT = 7007
LATENCY = "latency: round trip of production, to the one without a mirror"
BARS = {"median": Bar(Holds.AT_MOST, 1.05), "p99": None}
PLAIN, OURS = "no mirror", "pktmirror"
IDLE, BUSY = "idle CPUs, which halt between packets", "busy CPUs, which never halt"

ECHO = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[3] == "TCP" else socket.SOCK_DGRAM
echo = socket.socket(socket.AF_INET, kind)
echo.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
echo.bind((sys.argv[1], int(sys.argv[2])))
if kind == socket.SOCK_STREAM:
    echo.listen()
    print("ready", flush=True)
    connection, _ = echo.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while payload := connection.recv(128):
        connection.send(payload)
else:
    print("ready", flush=True)
    while True:
        payload, sender = echo.recvfrom(128)
        echo.sendto(payload, sender)
"""
CLIENT = """
import socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_STREAM if sys.argv[3] == "TCP" else socket.SOCK_DGRAM)
client.connect((sys.argv[1], int(sys.argv[2])))
client.settimeout(5)
if sys.argv[3] == "TCP":
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for line in sys.stdin:
    count, times_ns = int(line), []
    for number in range(count + count // 10):
        started_ns = time.perf_counter_ns()
        client.send(b"x" * 64)
        client.recv(128)
        times_ns.append(time.perf_counter_ns() - started_ns)
    times_ns = sorted(times_ns[count // 10:])
    print(times_ns[len(times_ns) // 2] / 1000, times_ns[len(times_ns) * 99 // 100] / 1000, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--round-trips", type=int, default=4000, help="in each turn")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    built = lab.up(Topology(f"rtt{os.getpid()}", DEMO.cidr, DEMO.hosts, DEMO.subnets, DEMO.instances))
    try:
        result = measure(built, arguments.turns, arguments.round_trips)
    finally:
        lab.down(built.name)
    record.conclude(result, claims(result), arguments.json)


def measure(built: Lab, turns: int, round_trips: int) -> dict[str, object]:
    result: dict[str, object] = {
        **record.head(),
        "turns": turns,
        "round_trips_a_turn": round_trips,
    }
    with Unchecked(built) as mirror, sinks(mirror):
        vnis = count(100)
        spot = peers.Spot(built.namespace("host"), "web0", "br-a", mirror.address("monitor"))

        @contextmanager
        def ours() -> Iterator[None]:
            mirror.mirror({"web": [Session("monitor", vni=next(vnis))]})  # a new one, so that each turn adds up
            try:
                yield
            finally:
                mirror.mirror({})

        conditions: dict[str, Callable[[], AbstractContextManager[None]]] = {
            PLAIN: nullcontext,
            OURS: ours,
            peers.MIRRED: lambda: peers.mirred(spot),
        }
        regimes: dict[str, Callable[[], AbstractContextManager[None]]] = {IDLE: nullcontext, BUSY: spinners}
        for protocol in ("UDP", "TCP"):
            for regime, prepare in regimes.items():
                with ping_pong(built, mirror.address("web"), protocol) as times_us, prepare():
                    result[f"{protocol}, {regime}"] = compared(conditions, times_us, turns, round_trips)
    return result


def compared(
    conditions: dict[str, Callable[[], AbstractContextManager[None]]],
    times_us: Callable[[int], tuple[float, float]],
    turns: int,
    round_trips: int,
) -> dict[str, object]:
    """The medians of all turns' medians and 99th percentiles, and the ratios to the turn without a mirror beside."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in conditions}
    for _ in range(turns):
        for name, condition in conditions.items():
            with condition():
                measured[name].append(times_us(round_trips))
    figures: dict[str, object] = {}
    for index, what in enumerate(("median", "p99")):
        values = {name: [each[index] for each in turn] for name, turn in measured.items()}
        figures[f"{what}_us"] = {name: round(statistics.median(each), 2) for name, each in values.items()}
        figures[f"{what}_ratio_to_no_mirror"] = {
            name: ratios(each, values[PLAIN]) for name, each in values.items() if name != PLAIN
        }
    return figures


def ratios(values: list[float], plain: list[float]) -> dict[str, float]:
    """Minimum, median and maximum of the ratios, round by round."""
    each = sorted(value / base for value, base in zip(values, plain, strict=True))
    return {"min": round(each[0], 3), "median": round(statistics.median(each), 3), "max": round(each[-1], 3)}


@contextmanager
def ping_pong(built: Lab, address: str, protocol: str) -> Iterator[Callable[[int], tuple[float, float]]]:
    """A function that makes so many round trips and returns their median and 99th percentile in microseconds.

    Client and echo are processes of their own, each on a CPU of its own.
    """
    listen = ["taskset", "-c", "1", sys.executable, "-c", ECHO, address, str(PORT), protocol]
    ask = ["taskset", "-c", "0", sys.executable, "-c", CLIENT, address, str(PORT), protocol]
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(built.start("web", listen, stdout=subprocess.PIPE))
        stack.callback(echo.kill)
        echo.stdout.readline()
        client = stack.enter_context(
            built.start("client", ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(client.kill)

        def times_us(round_trips: int) -> tuple[float, float]:
            client.stdin.write(f"{round_trips}\n")
            client.stdin.flush()
            median_us, p99_us = client.stdout.readline().split()
            return float(median_us), float(p99_us)

        yield times_us


@contextmanager
def spinners() -> Iterator[None]:
    """A process of the lowest priority on each CPU, so that none of them ever halts."""
    spin = "while True: pass"
    processes = [
        subprocess.Popen(["taskset", "-c", str(cpu), "nice", "-n", "19", sys.executable, "-c", spin]) for cpu in (0, 1)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def claims(result: Result) -> list[Claim]:
    made = []
    for name, figures in result.items():
        for what in ("median", "p99") if isinstance(figures, dict) else ():
            ratios_of = {who: each["median"] for who, each in figures[f"{what}_ratio_to_no_mirror"].items()}
            peer = best(ratios_of, (peers.MIRRED,), largest=False)
            made.append(Claim(LATENCY, f"{name}: {what}", ratios_of[OURS], "", BARS[what], peer))
    return made


if __name__ == "__main__":
    main()

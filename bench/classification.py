"""What a decision costs: the whole program at the hook, for 1 to 10,000 rules, IPv4 and IPv6, by BPF_PROG_TEST_RUN.

Each run gets another flow of a list, by a program that writes it into the frame and then tail-calls the hook; what the
same takes with a program that does nothing is subtracted. So a figure is parse, never-mirrored table, classification
and ledger, with the caches of the CPU as that many flows leave them. No copy is made: the session has no target.

    open flows      256 flows in turn, remembered
    new flows       a million flows in turn, so that none is remembered any more when it comes again
    not remembered  the same with a policy whose decisions are not kept
    one flow        one packet again and again, its decision not kept: the caches and guesses of the CPU are all for it

As root: PYTHONPATH=. .venv/bin/python bench/classification.py [--turns 7] [--json FILE]
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import record
from bench.claims import Bar, Claim, Holds, Result
from tests.kernel.bench import Bench
from tests.kernel.frames import IPV4, IPV6, TCP, ethernet
from tests.kernel.policies import Scene, scene, session
from tests.unit.agent.large_filters import BITS, LARGE, like_a_firewall
from tests.unit.packet.frames import ipv4, ipv6, tcp

from pktmirror.agent.apply import OBJECT
from pktmirror.desired import decode_desired_state, encode
from pktmirror.kernel import bpf
from pktmirror.model.filter import Filter, Rule

ROOT = Path(__file__).parents[1]
SIZES = (1, 10, 100, 1_000, 10_000)
FLOW_BYTES, FLOW_BYTES_PADDED = 36, 40
OPEN_FLOWS, NEW_FLOWS, RUNS = 256, 1_000_000, 1_000_000
OPEN, NEW, NOT_REMEMBERED, ONE = "open flows, ns", "new flows, ns", "not remembered, ns", "one flow, ns"
NEW_TO_NOT_REMEMBERED, LOADING = "new to not remembered", "loading, ms"
USUAL, HARD = "IPv{}, rules as firewalls have them", "IPv4, 10,000 rules that are hard on trees"
BARS = {
    "open flows: the dearest number of rules to the cheapest": Bar(Holds.AT_MOST, 1.2),
    "a million new flows: to the cost where nothing is remembered, the worst": Bar(Holds.AT_MOST, 1.2),
    "first packet of a flow, 10,000 rules": Bar(Holds.AT_MOST, 400),
    "loading a filter of 10,000 rules": Bar(Holds.AT_MOST, 1),
}
FLAT, FORGETTING, FIRST_PACKET, LOADED = BARS
FRAMES = {4: ethernet(IPV4, ipv4(tcp(40000, 22), TCP)), 6: ethernet(IPV6, ipv6(tcp(40000, 22), TCP))}
Table = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rules", type=int, action="append", choices=SIZES, help="measure with so many only")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    sizes = arguments.rules or SIZES
    started_s = time.perf_counter()
    loaded = bpf.Object(OBJECT)
    load_ms = (time.perf_counter() - started_s) * 1000
    with driver() as drive, loaded.program("hook_ingress") as hook:
        bench = Bench(loaded)
        result: dict[str, object] = {
            **record.head(),
            "turns": arguments.turns,
            "runs a turn": RUNS,
            "loading the programs, ms": round(load_ms),
            "instructions that the verifier looks at, per hook": hook.verified_instructions(),
        }
        for family in (4, 6):
            filters = {f"{size} rules": like_a_firewall(size, family) for size in sizes}
            result[USUAL.format(family)] = measure(bench, drive, filters, arguments.turns)
        if max(sizes) == max(SIZES):
            hard = {name: build(10_000, 4) for name, build in LARGE.items()}
            result[HARD] = measure(bench, drive, hard, 1)
    record.conclude(result, claims(result), arguments.json)


def measure(bench: Bench, drive: "Driver", filters: dict[str, Filter], turns: int) -> Table:
    hook = bench.program(at_ingress=True)
    table: Table = {}
    for name, filter_ in filters.items():
        family = filter_.rules[0].source.version
        scene_ = scene([session(1, 0)], [filter_], is_host_side=False)
        document = encode(scene_.state)
        started_s = time.perf_counter()
        bench.write(Scene(decode_desired_state(document), scene_.is_host_side))
        loading_ms = (time.perf_counter() - started_s) * 1000
        ns: dict[str, list[float]] = {OPEN: [], NEW: [], NOT_REMEMBERED: [], ONE: []}
        flows = flows_of(filter_.rules, family)
        for _ in range(turns):
            for column, count, remembers in (
                (OPEN, OPEN_FLOWS, True),
                (NEW, NEW_FLOWS, True),
                (NOT_REMEMBERED, NEW_FLOWS, False),
                (ONE, 1, False),
            ):
                bench.write(scene_, remembers=remembers)
                drive.take(flows[: count * FLOW_BYTES_PADDED], family)
                ns[column].append(drive.mean_ns(FRAMES[family], hook) - drive.mean_ns(FRAMES[family], None))
        medians = {column: statistics.median(values) for column, values in ns.items()}
        table[name] = {
            **medians,
            NEW_TO_NOT_REMEMBERED: round(medians[NEW] / medians[NOT_REMEMBERED], 2),
            LOADING: round(loading_ms),
        }
        sys.stderr.write(f"IPv{family}, {name}: {table[name]}\n")
    return table


def flows_of(rules: Sequence[Rule], family: int) -> bytes:
    """TCP flows, each within the addresses and ports of some rule."""
    draw = random.Random(family)
    flows = bytearray()
    bits, address_bytes = BITS[family], BITS[family] // 8
    for _ in range(NEW_FLOWS):
        rule = draw.choice(rules)
        source = int(rule.source.network_address) | draw.getrandbits(bits) >> rule.source.prefixlen
        destination = int(rule.destination.network_address) | draw.getrandbits(bits) >> rule.destination.prefixlen
        ports = [
            draw.randrange(65536) if of is None else draw.randint(of.first, of.last)
            for of in (rule.source_ports, rule.destination_ports)
        ]
        addresses = source.to_bytes(address_bytes) + destination.to_bytes(address_bytes)
        flow = addresses.ljust(FLOW_BYTES - 4, b"\0") + b"".join(port.to_bytes(2) for port in ports)
        flows += flow.ljust(FLOW_BYTES_PADDED, b"\0")
    return bytes(flows)


class Driver:
    """bench/flows.bpf.c in the kernel."""

    def __init__(self, loaded: bpf.Object) -> None:
        self._next_flow, self._nothing = loaded.program("next_flow"), loaded.program("nothing")
        self._course, self._under_test = loaded.map("courses"), loaded.map("under_test")
        self._flows = loaded.map("flows_to_come").memory()
        self._beginning = b""

    def take(self, flows: bytes, family: int) -> None:
        """These flows in turn, from now on."""
        self._flows[: len(flows)] = flows
        numbers = (len(flows) // FLOW_BYTES_PADDED, family == 6, 0, 0)
        self._beginning = b"".join(int(number).to_bytes(4, "little") for number in numbers)

    def mean_ns(self, frame: bytes, program: bpf.Program | None) -> int:
        """``program`` None: one that does nothing."""
        self._course.put(bytes(4), self._beginning)
        self._under_test.put(bytes(4), (program or self._nothing).fd.to_bytes(4, "little"))
        return self._next_flow.test_run(frame, repeat=RUNS).mean_ns


@contextmanager
def driver() -> Iterator[Driver]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "flows.bpf.o"
        subprocess.run([ROOT / "script/build-bpf", "bench/flows.bpf.c", path], check=True)
        loaded = bpf.Object(path)
        try:
            yield Driver(loaded)
        finally:
            loaded.close()


def claims(result: Result) -> list[Claim]:
    """Of the rules that are hard on trees those that the first packet of a flow pays most for."""
    made = []
    most = f"{max(SIZES)} rules"
    for family in (4, 6):
        table, case = result[USUAL.format(family)], f"IPv{family}"
        open_ns = [row[OPEN] for row in table.values()]
        worst = max(row[NEW_TO_NOT_REMEMBERED] for row in table.values())
        made += [
            claim(FLAT, case, round(max(open_ns) / min(open_ns), 3), ""),
            claim(FORGETTING, case, worst, ""),
        ]
        if most in table:
            made += [
                claim(FIRST_PACKET, case, table[most][NEW], "ns"),
                claim(LOADED, case, table[most][LOADING] / 1000, "s"),
            ]
    if HARD in result:
        name, row = max(result[HARD].items(), key=lambda each: each[1][NEW])
        made.append(claim(FIRST_PACKET, f"IPv4, the worst filter known: {name}", row[NEW], "ns"))
        name, row = max(result[HARD].items(), key=lambda each: each[1][LOADING])
        made.append(claim(LOADED, f"IPv4, the worst filter known: {name}", row[LOADING] / 1000, "s"))
    return sorted(made, key=lambda each: list(BARS).index(each.claim))


def claim(what: str, case: str, value: float, unit: str) -> Claim:
    return Claim(what, case, value, unit, BARS[what])


if __name__ == "__main__":
    main()

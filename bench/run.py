"""All benches, one after the other, and the table of what they claim (script/bench).

Each is a process of its own, as by hand, on a machine that has nothing else to do. The turns are such that all take
three quarters of an hour on two CPUs; with --quick some ten minutes, whose results are rough and go elsewhere.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.page import CLAIMS, page, read
from bench.record import ROOT, show

RESULTS, QUICK_RESULTS, PAGE = ROOT / "bench/results", ROOT / "build/bench", ROOT / "docs/benchmarks.md"
LINES_OF_A_FAILURE = 15


@dataclass(frozen=True, slots=True)
class Part:
    """A bench's arguments, and how many minutes it takes with them on two CPUs."""

    full: str
    full_min: float
    quick: str
    quick_min: float


PARTS: Mapping[str, Part] = {
    "throughput": Part("--turns 7 --seconds 3", 12, "--turns 2 --seconds 2", 3),
    "small_packets": Part("--turns 13", 9, "--turns 5 --packets 64000", 2),
    "classification": Part("--turns 5", 6.5, "--turns 1 --rules 1 --rules 10000", 3),
    "sources": Part("--turns 5", 3, "--turns 1 --sources 200", 1),
    "round_trip": Part("--turns 45", 7, "--turns 9 --round-trips 2000", 1),
    "outer_checksum": Part("--turns 7", 0.2, "--turns 3", 0.1),
    "control": Part("", 7, "--only kernel", 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some ten minutes, into build/bench")
    parser.add_argument("--only", action="append", choices=PARTS, help="this bench; several times: these")
    parser.add_argument("--results", type=Path, help="a directory for the results, and the page beside them")
    parser.add_argument(
        "--table", action="store_true", help="measure nothing: make the table from the results there are"
    )
    arguments = parser.parse_args()
    results = arguments.results or (QUICK_RESULTS if arguments.quick else RESULTS)
    results.mkdir(parents=True, exist_ok=True)
    failed = [] if arguments.table else measure(arguments.only or list(PARTS), results, quick=arguments.quick)
    made = read(results)
    show([claim for name, result in made.items() for claim in CLAIMS[name](result)])
    path = PAGE if results.resolve() == RESULTS else results / PAGE.name
    path.write_text(page(made), encoding="utf-8")
    say(f"{path} is made from {results}")
    if failed:
        sys.exit(f"script/bench: {', '.join(failed)} failed: what the page says of them is of an earlier run")


def measure(names: list[str], results: Path, *, quick: bool) -> list[str]:
    """Those that have failed."""
    failed, began_s = [], time.monotonic()
    whole_min = sum(minutes(name, quick=quick) for name in names)
    say(f"{len(names)} benches, some {whole_min:.0f} min on two CPUs; leave the machine alone meanwhile")
    for number, name in enumerate(names, start=1):
        started_s = time.monotonic()
        say(f"[{number}/{len(names)}] {name}: some {minutes(name, quick=quick):.0f} min …")
        chosen = PARTS[name].quick if quick else PARTS[name].full
        argv = [sys.executable, f"bench/{name}.py", *chosen.split(), "--json", str(results.resolve() / f"{name}.json")]
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        took = f"{clock(time.monotonic() - started_s)} min, {clock(time.monotonic() - began_s)} min in all"
        if done.returncode:
            failed.append(name)
            sys.stderr.write("\n".join(done.stdout.splitlines()[-LINES_OF_A_FAILURE:]) + "\n")
        say(f"[{number}/{len(names)}] {name}: {'FAILED' if done.returncode else 'done'} after {took}")
    return failed


def minutes(name: str, *, quick: bool) -> float:
    return PARTS[name].quick_min if quick else PARTS[name].full_min


def clock(seconds: float) -> str:
    """As 14:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()

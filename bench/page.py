"""docs/benchmarks.md, made from result files: each claim, its figures, and why a bar is missed."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill

from bench import classification, control, outer_checksum, round_trip, small_packets, sources, throughput
from bench.claims import HEAD, Claim, Result
from bench.reasons import REASONS
from bench.record import UNKNOWN

CLAIMS: Mapping[str, Callable[[Result], list[Claim]]] = {
    "throughput": throughput.claims,
    "small_packets": small_packets.claims,
    "classification": classification.claims,
    "sources": sources.claims,
    "round_trip": round_trip.claims,
    "outer_checksum": outer_checksum.claims,
    "control": control.claims,
}
"""What each bench claims, by the name of its result file."""
NO_REASON = "nobody has found out yet."
WIDTH = 120
RUN = ("result", "version", "date", "machine", "kernel")
PREFACE = """\
# Benchmarks

Made by `script/bench` from the files in `bench/results`; not to be edited. `script/bench --table` makes it again from
the same files. What each bench does is in its first lines (`bench/*.py`).

*ours* is the median of the turns, *best peer* the best of the kernel's own means in the same run (tc u32 with mirred
and nft dup, both into a vxlan device; for small packets also nft dup to an address, which is what iptables TEE does),
*ratio* ours to theirs. *of the rate*: production's rate with a mirror to the one without. A bar is held against the
ratio where it says so, otherwise against ours. The copier in user space is in the result files: it is no kernel's
means, and loses copies. A version is *unknown* where the bench ran outside git, or before results named it.
"""


def read(directory: Path) -> dict[str, Result]:
    """By bench, those that are there."""
    paths = {name: directory / f"{name}.json" for name in CLAIMS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def page(results: Mapping[str, Result]) -> str:
    """The whole page; it says of which version, machine and kernel each result is, as far as the file does."""
    claims = [(version(results[name]), claim) for name in results for claim in CLAIMS[name](results[name])]
    barred = [claim for _, claim in claims if claim.bar is not None]
    missed = sum(claim.met is False for claim in barred)
    parts = [
        PREFACE,
        f"Of {len(barred)} bars {len(barred) - missed} are met and {missed} missed.\n",
        table(RUN, [runs(name, result) for name, result in results.items()]),
    ]
    for what, each in groupby(claims, key=lambda of: of[1].claim):
        group = list(each)
        parts += [f"## {what[0].upper()}{what[1:]}\n"]
        parts += [table((*HEAD[1:-1], "met", "version"), [(*claim.as_row()[1:], of) for of, claim in group])]
        if any(claim.met is False for _, claim in group):
            parts += [fill(f"Why a bar is missed: {REASONS.get(what, NO_REASON)}", WIDTH) + "\n"]
    return "\n".join(parts)


def version(result: Result) -> str:
    commit = result.get("version", UNKNOWN)
    return f"{commit}, changed" if result.get("tree_changed") else commit


def runs(name: str, result: Result) -> tuple[str, ...]:
    said = (str(result.get(field, UNKNOWN)) for field in ("date", "machine", "kernel"))
    return (f"`{name}.json`", version(result), *said)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["|".join(("", *(f" {cell} " for cell in row), "")) for row in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *lines[1:])) + "\n"

"""The head and the end of each result: version, machine, kernel and date; its claims, in the file and on the screen.

An edge module: git, /proc and the clock.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.claims import HEAD, Claim
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
UNKNOWN = "unknown"
MADE_BY_BENCHES = ("bench/results", "docs/benchmarks.md")
"""What a run writes itself is no change of what is measured."""


def head() -> dict[str, object]:
    """What is to stand first in each result, asked for before anything is measured."""
    commit, changed = version(ROOT)
    return {
        "version": commit,
        "tree_changed": changed,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {cpu_model()}",
        "kernel": platform.release(),
    }


def version(root: Path) -> tuple[str, bool | None]:
    """The commit that is checked out, shortened, and whether the tree differs from it; outside git neither is known."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--short", "HEAD")
    if commit is None or top is None or Path(top).resolve() != root.resolve():
        return UNKNOWN, None
    status = _git(root, "status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in MADE_BY_BENCHES))
    return commit, None if status is None else status != ""


def _git(root: Path, *arguments: str) -> str | None:
    """None where git is not there, or refuses."""
    argv = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), UNKNOWN)


def conclude(result: dict[str, object], claims: Sequence[Claim], path: Path | None) -> None:
    """Print the result and the table of its claims; and write it, where a path is given."""
    text = json.dumps(result | {"claims": [claim.as_json() for claim in claims]}, indent=2, ensure_ascii=False) + "\n"
    sys.stdout.write(text)
    show(claims)
    if path is not None:
        path.write_text(text, encoding="utf-8")


def show(claims: Sequence[Claim]) -> None:
    table = Table(*HEAD)
    for claim in claims:
        table.add_row(*claim.as_row(), style="red" if claim.met is False else None)
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)

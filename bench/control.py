"""How fast the control plane is, and how large it may be.

Creates of sessions on SQLite (synchronous=FULL) and PostgreSQL (fsync), by a client that has signed all requests
before; pages of a describe call where there are 100,000 sessions; from a change to the hooks in a kernel, by an agent
in a lab; from a change to 2,000 hosts over mutual TLS; and what a change costs as the hosts grow that it does not
concern. Server, clients and agent are processes of their own, and share the CPUs that there are.

As root: PYTHONPATH=. .venv/bin/python bench/control.py [--only PART] [--json FILE]
"""

import argparse
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from bench import creates, delivery, hosts, record
from bench.claims import Bar, Claim, Holds, Result, found

SQLITE_PER_S_BAR, POSTGRESQL_PER_S_BAR = 500.0, 300.0
PAGE_BAR_S, APPLIED_BAR_S, DELIVERED_BAR_S = 0.050, 0.050, 0.200
OF_THE_PLANE = "control plane: {}"
NAMES = {
    "per_s": "made",
    "p99_ms": "p99",
    "ms": "median",
    "made_ms": "median",
    "growth": "cost of the last to the first",
}
UNITS = {"per_s": "/s", "p99_ms": "ms", "ms": "ms", "made_ms": "ms", "growth": ""}

PARTS: Mapping[str, Callable[[], dict[str, object]]] = {
    "creates on SQLite": lambda: creates.creates("SQLite", 4000, SQLITE_PER_S_BAR),
    "creates on PostgreSQL": lambda: creates.creates("PostgreSQL", 3000, POSTGRESQL_PER_S_BAR),
    "a page of 1,000 of 100,000 sessions": lambda: creates.pages("SQLite", 1000, 100, 20, PAGE_BAR_S),
    "from a change to the kernel": lambda: delivery.applied(40, APPLIED_BAR_S),
    "from a change to 2,000 hosts": lambda: delivery.delivered(2000, 5, DELIVERED_BAR_S),
    "a change among 10,000 hosts": lambda: hosts.growth([100, 1000, 10_000], 100, 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="the parts whose name has this in it")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, object] = {
        **record.head(),
        "shared_by": "the server, its store, clients and agents",
    }
    for name, part in PARTS.items():
        if arguments.only is None or arguments.only in name:
            began_s = time.monotonic()
            result[name] = part() | {"took_s": round(time.monotonic() - began_s)}
    record.conclude(result, claims(result), arguments.json)


def claims(result: Result) -> list[Claim]:
    """Of each figure that a part holds against a bar of its own."""
    return [
        Claim(
            OF_THE_PLANE.format(path[0]),
            ": ".join((*path[1:-1], NAMES.get(path[-1], path[-1]))),
            figure["is"],
            UNITS.get(path[-1], ""),
            Bar(Holds.AT_LEAST if path[-1] == "per_s" else Holds.AT_MOST, figure["bar"]),
        )
        for path, figure in found(result)
    ]


if __name__ == "__main__":
    main()

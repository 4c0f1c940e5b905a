"""How fast the control plane is, and how large it may be.

Creates of sessions on SQLite (synchronous=FULL) and PostgreSQL (fsync), by a client that has signed all requests
before; pages of a describe call where there are 100,000 sessions; from a change to the hooks in a kernel, by an agent
in a lab; from a change to 2,000 hosts over mutual TLS; and what a change costs as the hosts grow that it does not
concern. Server, clients and agent are processes of their own, and share the CPUs that there are.

As root: PYTHONPATH=. .venv/bin/python bench/control.py [--only PART] [--json FILE]
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from bench import creates, delivery, hosts

SQLITE_PER_S_BAR, POSTGRESQL_PER_S_BAR = 500.0, 300.0
PAGE_BAR_S, APPLIED_BAR_S, DELIVERED_BAR_S = 0.050, 0.050, 0.200

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
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, shared by the server, its store, clients and agents",
        "kernel": platform.release(),
    }
    for name, part in PARTS.items():
        if arguments.only is None or arguments.only in name:
            began_s = time.monotonic()
            result[name] = part() | {"took_s": round(time.monotonic() - began_s)}
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

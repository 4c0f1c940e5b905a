"""Sessions made by many at once, and pages of them where there are many (for bench/control.py)."""

import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.claims import held
from bench.population import populate
from bench.signed_requests import client
from tests import postgresql
from tests.contract import plane
from tests.contract.plane import Plane

CONNECTIONS = 8
SOURCES_PER_TARGET, SESSIONS_PER_SOURCE = 10, 3  # AWS's quotas, which are the defaults
P99_BAR_S = 0.050
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def control_plane(store: str, **settings: Any) -> Iterator[Plane]:
    """A server in a process of its own over an empty store: "SQLite", or "PostgreSQL" with fsync."""
    with tempfile.TemporaryDirectory(prefix="pktmirror-bench-") as directory:
        state = Path(directory) / "plane" / "state"
        if store == "SQLite":
            with plane.running(state, **settings) as running:
                yield running
            return
        programs = postgresql.programs()
        assert programs is not None, "no PostgreSQL server here: script/setup installs Debian's"
        with postgresql.running(programs, fsync="on") as server, plane.running(state, store=server.database()) as made:
            yield made


def creates(store: str, count: int, per_s_bar: float) -> dict[str, object]:
    """So many sessions, each of an interface and a target that there are, with a client token as SDKs send it."""
    with control_plane(store) as running, client(running.environment) as requests:
        forms = list(_sessions(running, count))
        requests.send(forms[:100], CONNECTIONS)
        before_s = cpu_s(running.process.pid)
        sent = requests.send(forms[100:], CONNECTIONS)
        used_s = cpu_s(running.process.pid) - before_s
        made = sum(1 for _ in _all_sessions(running))
    assert made == len(forms), f"{made} sessions are stored, and {len(forms)} were answered"
    per_s, p99_s = len(sent.seconds) / sent.took_s, quantile(sent.seconds, 0.99)
    return {
        "creates": len(sent.seconds),
        "connections": CONNECTIONS,
        "per_s": held(per_s, per_s_bar, digits=0, at_least=True),
        "p50_ms": round(1000 * statistics.median(sent.seconds), 1),
        "p99_ms": held(1000 * p99_s, 1000 * P99_BAR_S, digits=1),
        "cpu_ms_of_the_server_each": round(1000 * used_s / len(sent.seconds), 2),
    }


def _sessions(running: Plane, count: int) -> Iterator[Mapping[str, str]]:
    sources = -(-count // SESSIONS_PER_SOURCE)
    targets = -(-sources // SOURCES_PER_TARGET)
    names = [*(f"s{n}" for n in range(sources)), *(f"t{n}" for n in range(targets))]
    ids = running.find(*(plane.found(name, f"10.0.{n // 250}.{n % 250 + 1}") for n, name in enumerate(names)))
    ec2 = running.client()
    filter_id = ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    target_ids = [
        ec2.create_traffic_mirror_target(NetworkInterfaceId=id_)["TrafficMirrorTarget"]["TrafficMirrorTargetId"]
        for id_ in ids[sources:]
    ]
    for number in range(count):
        source = number % sources
        yield {
            "Action": "CreateTrafficMirrorSession",
            "NetworkInterfaceId": ids[source],
            "TrafficMirrorTargetId": target_ids[source // SOURCES_PER_TARGET],
            "TrafficMirrorFilterId": filter_id,
            "SessionNumber": str(1 + number // sources),
            "ClientToken": str(uuid4()),
        }


def _all_sessions(running: Plane) -> Iterator[Any]:
    for page in running.client().get_paginator("describe_traffic_mirror_sessions").paginate():
        yield from page["TrafficMirrorSessions"]


def cpu_s(pid: int) -> float:
    """What a process has used of the CPUs since its start, all threads, itself and for it in the kernel."""
    fields = re.sub(r"^.*\) ", "", Path(f"/proc/{pid}/stat").read_text(encoding="ascii")).split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def pages(store: str, hosts: int, interfaces: int, turns: int, bar_s: float) -> dict[str, object]:
    """Describe calls, one after the other, where there are many sessions; a page is of 1,000 at most."""
    result: dict[str, object] = {"sessions": hosts * interfaces}
    with control_plane(store) as running, client(running.environment) as requests:
        opened = running.opened()
        made = populate(opened, hosts, interfaces, time.time())
        opened.close()
        ask = {"Action": "DescribeTrafficMirrorSessions"}
        token, last = "", ""
        for page in running.client().get_paginator("describe_traffic_mirror_sessions").paginate():
            last, token = token, page.get("NextToken", "")
        source = made.interfaces[f"host-{hosts // 2}"][0]
        asked = {
            "the first page": ask,
            "the last page": ask | {"NextToken": last},
            "of one interface": ask | {"Filter.1.Name": "network-interface-id", "Filter.1.Value.1": source},
            "of one target": ask
            | {"Filter.1.Name": "traffic-mirror-target-id", "Filter.1.Value.1": made.target_ids[0]},
            "of a filter that all have": ask
            | {"Filter.1.Name": "traffic-mirror-filter-id", "Filter.1.Value.1": made.filter_id},
        }
        scanned = {
            "of a pattern that one fits": ask | {"Filter.1.Name": "virtual-network-id", "Filter.1.Value.1": "*77777"}
        }
        for name, form in {**asked, **scanned}.items():
            requests.send([form] * 2, 1)
            before_s = cpu_s(running.process.pid)
            sent = requests.send([form] * turns, 1)
            used_s = cpu_s(running.process.pid) - before_s
            median_s = statistics.median(sent.seconds)
            result[name] = {
                "sessions": len(re.findall("<virtualNetworkId>", sent.last_answer)),
                "ms": held(1000 * median_s, 1000 * bar_s, digits=1),
                "cpu_ms_of_the_server": round(1000 * used_s / turns, 1),
            }
            if name in scanned:
                result[name]["ms"] = round(1000 * median_s, 1)
    return result

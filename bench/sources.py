"""A thousand mirrored sources on one host, and a change of a filter of 10,000 rules while packets flow.

The sources are veths between the host of a lab and one more namespace, all at one bridge. From the desired state to
all of them attached, and back; and what a 64-byte packet of one of them costs with that one mirrored alone, and with
all of them (bench/line.py: one CPU, the copies are in it). Then a filter of 10,000 rules of one source is replaced by
another again and again while it sends: how long until the new one is in force, and whether a copy is missing.

As root: PYTHONPATH=. .venv/bin/python bench/sources.py [--turns 3] [--sources 1000] [--json FILE]
"""

import argparse
import logging
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import structlog
from bench import record
from bench.claims import Bar, Claim, Holds, Result, held
from bench.line import HOST, SOURCE, UNDERLAY, WARM_UP_PACKETS, Line, line, small_frame
from bench.throughput import Unchecked
from tests.lab.mirror import Elsewhere, Session
from tests.unit.agent.large_filters import like_a_firewall

from pktmirror import lab
from pktmirror.desired import decode_desired_state, encode
from pktmirror.kernel import netns
from pktmirror.lab import DEMO, Lab, Topology
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Action, Direction, Filter, Rule

SOURCES, RULES = 1000, 10_000
ATTACH_BAR_S, FILTER_BAR_S, NO_GAP = Bar(Holds.AT_MOST, 10), Bar(Holds.AT_MOST, 1), Bar(Holds.AT_MOST, 0)
UNCHANGED = Bar(Holds.AT_MOST, 1.05)  # of the packet's whole time: what is within is noise
A_CHANGE, MANY = f"a change of a filter of {RULES} rules", "{} sources"
FIRST = "s0"
PACKETS = 192_000
PACKETS_DURING_CHANGES = 64 * 20_000
ANYWHERE = ip_network("0.0.0.0/0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sources", type=int, default=SOURCES)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, object] = {
        **record.head(),
        "turns": arguments.turns,
    }
    built = lab.up(Topology(f"many{os.getpid()}", DEMO.cidr, DEMO.hosts, DEMO.subnets, DEMO.instances))
    try:
        frame = small_frame(built, 4)
        with Crowd(built) as mirror:
            with line(built) as path:
                result[A_CHANGE] = changes(mirror, path, frame)
            with veths(built, arguments.sources) as keys, line(built, FIRST) as path:
                for number, (name, key) in enumerate(keys.items()):
                    mirror.elsewhere[name] = Elsewhere(key, f"10.0.{16 + number // 250}.{number % 250 + 1}")
                result[MANY.format(arguments.sources)] = all_and_one(mirror, path, frame, list(keys), arguments.turns)
    finally:
        lab.down(built.name)
    record.conclude(result, claims(result), arguments.json)


class Crowd(Unchecked):
    """A mirror of which the bench asks no figures of single sources: each would be a turn of the agent."""

    def _keep_figures_of_the_gone(self, sources: Mapping[str, Sequence[Session]]) -> None:
        """Nobody compares them with what arrived."""

    def seconds_until(self, sources: Mapping[str, Sequence[Session]]) -> float:
        """From the desired state, as the agent receives it, to all of it in the kernel, and reported."""
        self.sources = sources
        self._revision += 1
        agent = self.agents[HOST]
        document = encode(self._state_of(HOST, agent.host_id, NEVER_MIRRORED, ()))
        began_s = time.perf_counter()
        agent.desk.desired = decode_desired_state(document)
        report = agent.turn()
        seconds = time.perf_counter() - began_s
        assert (report.problems, report.applied_revision) == ((), self._revision)
        return seconds

    @property
    def hooks(self) -> int:
        return sum(name.startswith("link-") for name in self.agents[HOST].pins)


@contextmanager
def veths(built: Lab, count: int) -> Iterator[dict[str, str]]:
    """So many sources: the key of each interface by the name of its host side, which is a port of the lab's bridge."""
    host, many = built.namespace(HOST), f"{built.name}-many"
    netns.create(many)
    try:
        for place in (host, many):  # so that a thousand ports do not hear of a thousand neighbours
            _quiet(place)
        batch(host, (f"link add s{n} mtu 1500 type veth peer name f{n} netns {many}" for n in range(count)))
        batch(many, (f"link set f{n} up" for n in range(count)))
        batch(host, (f"link set s{n} master {UNDERLAY} up" for n in range(count)))
        yield {f"s{n}": f"netns:{many}/f{n}" for n in range(count)}
    finally:
        netns.remove(many)


def batch(namespace: str, commands: Iterator[str]) -> None:
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(commands), text=True, check=True)


def _quiet(namespace: str) -> None:
    with netns.Visitor(namespace) as inside:
        inside.run(Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text, "1")


def all_and_one(mirror: Crowd, path: Line, frame: bytes, names: list[str], turns: int) -> dict[str, object]:
    everyone = {name: [Session("monitor", vni=1000 + number)] for number, name in enumerate(names)}
    alone = {FIRST: everyone[FIRST]}
    seconds: dict[str, list[float]] = {"attach": [], "nothing to do": [], "detach": []}
    packet_ns: dict[str, list[float]] = {"none": [], "one": [], "all": []}
    copies = []
    for _ in range(turns):
        packet_ns["none"].append(path.run(frame, PACKETS).packet_ns)
        mirror.mirror(alone)
        run = path.run(frame, PACKETS)
        packet_ns["one"].append(run.packet_ns)
        copies.append(run.copies)
        mirror.mirror({})
        seconds["attach"].append(mirror.seconds_until(everyone))
        assert mirror.hooks == 2 * len(names)
        seconds["nothing to do"].append(mirror.seconds_until(everyone))
        run = path.run(frame, PACKETS)
        packet_ns["all"].append(run.packet_ns)
        copies.append(run.copies)
        seconds["detach"].append(mirror.seconds_until({}))
        assert mirror.hooks == 0
    ratio = statistics.median(a / b for a, b in zip(packet_ns["all"], packet_ns["one"], strict=True))
    return {
        "seconds": {name: round(statistics.median(each), 2) for name, each in seconds.items()},
        "seconds_max": {name: round(max(each), 2) for name, each in seconds.items()},
        "packet_ns_by_sources_mirrored": {name: round(statistics.median(each)) for name, each in packet_ns.items()},
        "copies_that_arrived_min": min(copies),
        "packet, all to one": held(ratio, UNCHANGED.limit),
    }


def changes(mirror: Crowd, path: Line, frame: bytes) -> dict[str, object]:
    """The source sends as fast as one CPU takes it; on the other CPU the agent puts one filter in another's place."""
    filters = [large(seed, Action.ACCEPT) for seed in range(4)]
    mirror.mirror({SOURCE: [Session("monitor", filters[0])]})
    seconds, seen_before = [], mirror.seen(SOURCE, Direction.EGRESS)
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(path.run, frame, PACKETS_DURING_CHANGES)
        while not sending.done():
            seconds.append(mirror.seconds_until({SOURCE: [Session("monitor", filters[len(seconds) % 3 + 1])]}))
        run = sending.result()
    seen = mirror.seen(SOURCE, Direction.EGRESS) - seen_before - WARM_UP_PACKETS
    mirror.mirror({SOURCE: [Session("monitor", large(4, Action.REJECT))]})
    after = path.run(frame, 64 * 100)
    mirror.mirror({})
    return {
        "changes_while_packets_flow": len(seconds),
        "packets": PACKETS_DURING_CHANGES,
        "packets_that_the_hook_has_not_seen": PACKETS_DURING_CHANGES - seen,
        "copies_missing": round((1 - run.copies) * PACKETS_DURING_CHANGES),
        "production_missing": round((1 - run.production) * PACKETS_DURING_CHANGES),
        "copies_after_a_change_that_rejects_all": round(after.copies * 64 * 100),
        "seconds": {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)},
    }


def large(seed: int, action: Action) -> Filter:
    """10,000 rules as firewalls have them, of which the last is for every packet; others for each seed."""
    rules = [
        replace(rule, direction=Direction.EGRESS, action=action) for rule in like_a_firewall(RULES - 1 - seed).rules
    ]
    return Filter((*rules, Rule(RULES, Direction.EGRESS, action, ANYWHERE, ANYWHERE)))


def claims(result: Result) -> list[Claim]:
    change = result[A_CHANGE]
    made = [Claim("a filter of 10,000 rules in force", "median", change["seconds"]["median"], "s", FILTER_BAR_S)]
    for what in ("packets_that_the_hook_has_not_seen", "copies_missing", "production_missing"):
        case = f"{what.replace('_', ' ')}, of {change['packets']:,}"
        made.append(Claim("a filter of 10,000 rules in force: with no gap", case, change[what], "", NO_GAP))
    for name, figures in result.items():
        if not isinstance(figures, dict) or "packet_ns_by_sources_mirrored" not in figures:
            continue
        ratio = figures["packet, all to one"]["is"]
        made += [
            Claim(f"{name} on one host", "attach, in all", figures["seconds"]["attach"], "s", ATTACH_BAR_S),
            Claim(f"{name} on one host", "a packet's time, to that with one source alone", ratio, "", UNCHANGED),
        ]
    return made


if __name__ == "__main__":
    main()

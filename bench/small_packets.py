"""What a mirror adds to each 64-byte packet on one CPU: a bridge between two instances of a lab, IPv4 and IPv6 packets,
1 and 100 rules, beside the kernel's own means and a copier in user space.

The source's host side receives packets as fast as the CPU takes them; they cross the bridge and end in the other
instance, the copies in a third one, each in a program that counts and drops. Everything is on one CPU, so the time of a
packet at saturation is all the work that it causes. Each condition is timed right after the same path without a mirror,
turn by turn; what it adds is the difference. Of the rules the last one matches, or none.

As root: PYTHONPATH=. .venv/bin/python bench/small_packets.py [--turns 7] [--packets 200000] [--json FILE]
"""

import argparse
import logging
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from ipaddress import ip_network
from itertools import count
from pathlib import Path

import structlog
from bench import peers, record
from bench.claims import Bar, Claim, Holds, Result, best
from bench.line import CPU, TARGETS, UNDERLAY, Line, Run, line, small_frame
from bench.peers import Match, NotHere, Spot
from bench.throughput import Unchecked
from tests.lab.mirror import Session

from pktmirror import lab
from pktmirror.desired import Underlay
from pktmirror.lab import DEMO, Lab, Topology
from pktmirror.model.filter import UDP, Action, Direction, Filter, PortRange, Rule

RULES = (1, 100)
OURS, NOTHING_MATCHES = "pktmirror", "pktmirror, attached, nothing matches"
PAST_THE_BRIDGE = "pktmirror, past the bridge"  # `shortcut = true` in networks.toml (docs/decisions/0021)
KERNEL_PEERS = (peers.MIRRED, peers.NFT, peers.TEE)
ADDED = "64-byte packets on one CPU: added cost"
NOTHING = "attached, nothing matches: part of the path"
BAR, BAR_OF_NOTHING = Bar(Holds.AT_MOST, 0.75, of_peer=True, aim=0.6), Bar(Holds.AT_MOST, 0.1, aim=0.05)
EVERY = {4: peers.EVERY_IPV4, 6: peers.EVERY_IPV6}
Condition = Callable[[], AbstractContextManager[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--packets", type=int, default=192_000, help="of each condition, in each turn")
    parser.add_argument("--family", type=int, action="append", choices=(4, 6), help="measure this one only")
    parser.add_argument("--rules", type=int, action="append", choices=RULES, help="measure with so many only")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result: dict[str, object] = {
        **record.head(),
        "turns": arguments.turns,
        "packets_a_turn": arguments.packets,
    }
    built = lab.up(Topology(f"small{os.getpid()}", DEMO.cidr, DEMO.hosts, DEMO.subnets, DEMO.instances))
    try:
        with Unchecked(built) as mirror, peers.copier() as program, line(built) as path:
            for family in arguments.family or EVERY:
                for rules in arguments.rules or RULES:
                    name = f"IPv{family}, {rules} rule{'s' * (rules > 1)}"
                    conditions = Conditions(built, mirror, program, family, rules).all()
                    result[name] = measure(
                        conditions, path, small_frame(built, family), arguments.turns, arguments.packets
                    )
    finally:
        lab.down(built.name)
    record.conclude(result, claims(result), arguments.json)


class Conditions:
    """Who mirrors what the source sends, with so many rules of which the last one matches."""

    def __init__(self, built: Lab, mirror: Unchecked, copier: Path, family: int, rules: int) -> None:
        self._built, self._mirror, self._copier, self._family = built, mirror, copier, family
        self._others = [
            Match(ip_network(f"10.200.{n}.0/24" if family == 4 else f"fd00:200:{n:x}::/48"), 5000 + n)
            for n in range(rules)
        ]
        self._matches = [*self._others[1:], EVERY[family]]
        self._vnis = count(100)

    def all(self) -> dict[str, Condition]:
        spot = Spot(self._built.namespace("host"), "web0", UNDERLAY, TARGETS[4], hooks=("ingress",))
        next_hop = Spot(spot.namespace, spot.device, UNDERLAY, TARGETS[self._family], hooks=("ingress",))
        return {
            OURS: partial(self._ours, self._matches),
            PAST_THE_BRIDGE: partial(self._ours, self._matches, shortcut=True),
            NOTHING_MATCHES: partial(self._ours, self._others),
            peers.MIRRED: partial(peers.mirred, spot, self._matches),
            peers.NFT: partial(peers.nft_dup, spot, self._matches),
            peers.TEE: partial(peers.dup_to_address, next_hop, self._matches),
            peers.COPIER: partial(peers.copied, spot, self._copier, CPU),
        }

    @contextmanager
    def _ours(self, matches: list[Match], *, shortcut: bool = False) -> Iterator[None]:
        self._mirror.underlay = Underlay(shortcut=shortcut)
        self._mirror.mirror({"web": [Session("monitor", filter_of(matches), vni=next(self._vnis))]})
        try:
            yield
        finally:
            self._mirror.mirror({})


def filter_of(matches: list[Match]) -> Filter:
    return Filter(
        tuple(
            Rule(
                number,
                Direction.EGRESS,
                Action.ACCEPT,
                EVERY[match.destination.version].destination,
                match.destination,
                None if match.port is None else UDP,
                None,
                None if match.port is None else PortRange(match.port, match.port),
            )
            for number, match in enumerate(matches, start=1)
        )
    )


def measure(conditions: dict[str, Condition], path: Line, frame: bytes, turns: int, packets: int) -> dict[str, object]:
    pairs: dict[str, list[tuple[Run, Run]]] = {}
    missing: dict[str, str] = {}
    for _ in range(turns):
        for name, condition in conditions.items():
            if name in missing:
                continue
            plain = path.run(frame, packets)
            try:
                with condition():
                    pairs.setdefault(name, []).append((plain, path.run(frame, packets)))
            except NotHere as error:
                missing[name] = str(error)
    return {**compared(pairs), "not_here": missing}


def compared(pairs: dict[str, list[tuple[Run, Run]]]) -> dict[str, object]:
    """Medians over the turns. Each pair: the path alone, and with somebody who mirrors."""
    added = {
        name: statistics.median(run.packet_ns - plain.packet_ns for plain, run in each) for name, each in pairs.items()
    }
    path_ns = statistics.median(plain.packet_ns for each in pairs.values() for plain, _ in each)
    runs = [run for each in pairs.values() for pair in each for run in pair]
    return {
        "path_ns": round(path_ns),
        "added_ns": {name: round(ns) for name, ns in added.items()},
        "added_ns_min_max": {
            name: [round(pick(run.packet_ns - plain.packet_ns for plain, run in each)) for pick in (min, max)]
            for name, each in pairs.items()
        },
        "copies_that_arrived": {
            name: round(statistics.median(run.copies for _, run in each), 3) for name, each in pairs.items()
        },
        "production_that_arrived_min": {
            name: round(min(run.production for _, run in each), 4) for name, each in pairs.items()
        },
        "softirqs_on_other_cpus_max": round(max(run.softirqs_elsewhere for run in runs), 3),
    }


def claims(result: Result) -> list[Claim]:
    made = []
    for name, figures in result.items():
        if not isinstance(figures, dict) or "added_ns" not in figures:
            continue
        added = figures["added_ns"]
        peer = best(added, KERNEL_PEERS, largest=False)
        made += [
            Claim(ADDED, name, added[OURS], "ns", BAR, peer),
            Claim(ADDED, f"{name}, past the bridge (`shortcut`)", added[PAST_THE_BRIDGE], "ns", BAR, peer),
            Claim(NOTHING, name, round(added[NOTHING_MATCHES] / figures["path_ns"], 3), "", BAR_OF_NOTHING),
        ]
    return sorted(made, key=lambda claim: (ADDED, NOTHING).index(claim.claim))


if __name__ == "__main__":
    main()

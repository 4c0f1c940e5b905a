"""What the outer checksum costs over IPv6: the program at the end of the finishing hop, by BPF_PROG_TEST_RUN.

The copy has its outer headers already, as the segments of a wrapped super-packet have. Over IPv4 the program clears the
id and sums 20 bytes, over IPv6 it sums all of the copy; the rest is the same for both.

As root: PYTHONPATH=. .venv/bin/python bench/outer_checksum.py [--turns 7] [--json FILE]
"""

import argparse
import statistics
from ipaddress import ip_address
from pathlib import Path

from bench import record
from bench.claims import Claim, Peer, Result
from tests.kernel.frames import IPV4, IPV6, UDP, ethernet
from tests.unit.packet.frames import ipv4, ipv6, udp

from pktmirror.agent import abi
from pktmirror.agent.apply import OBJECT
from pktmirror.kernel import bpf

INNER_BYTES = (64, 128, 590, 1514, 3000)
RUNS = 200_000
MARK_WRAPPED = 0x8000
SK_BUFF_MARK_AT = 8  # in struct __sk_buff
ENDS = {4: ("10.0.0.48", "10.0.0.90"), 6: ("fd00::48", "fd00::90")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    loaded = bpf.Object(OBJECT)
    with loaded.map("deliveries") as deliveries, loaded.program("finish") as finish:
        for slot, family in enumerate(ENDS):
            deliveries.put(slot.to_bytes(4, "little"), delivery(family))
        result: dict[str, object] = {
            **record.head(),
            "turns": arguments.turns,
            "runs a turn": RUNS,
        }
        for inner_bytes in INNER_BYTES:
            ns: dict[int, list[float]] = {4: [], 6: []}
            for _ in range(arguments.turns):
                for slot, family in enumerate(ENDS):
                    ns[family].append(mean_ns(finish, copy(family, inner_bytes), slot))
            four, six = (statistics.median(ns[family]) for family in ENDS)
            result[f"{inner_bytes} bytes mirrored"] = {"IPv4, ns": four, "IPv6, ns": six, "more, ns": six - four}
    record.conclude(result, claims(result), arguments.json)


def delivery(family: int) -> bytes:
    entry = abi.Delivery(family=family, room_bytes_max=9000, vni=7, retired_generation=abi.NO_GENERATION, ifindex=1)
    source, destination = (abi.address_bytes(ip_address(address)) for address in ENDS[family])
    entry.outer_source_be[:], entry.outer_destination_be[:], entry.next_hop_be[:] = source, destination, destination
    return bytes(entry)


def copy(family: int, inner_bytes: int) -> bytes:
    datagram = udp(0xFF80, 4789, bytes((8, 0, 0, 0, 0, 0, 7, 0)) + bytes(range(256)) * (inner_bytes // 256 + 1))
    datagram = datagram[: 16 + inner_bytes]
    source, destination = ENDS[family]
    if family == 4:
        return ethernet(IPV4, ipv4(datagram, UDP, source=source, destination=destination))
    return ethernet(IPV6, ipv6(datagram, UDP, source=source, destination=destination))


def mean_ns(finish: bpf.Program, frame: bytes, slot: int) -> float:
    context = bytes(SK_BUFF_MARK_AT) + (abi.mark(slot, 0) | MARK_WRAPPED).to_bytes(4, "little")
    return float(finish.test_run(frame, context=context, repeat=RUNS).mean_ns)


def claims(result: Result) -> list[Claim]:
    """No bar is set; the copy over IPv4 stands in the place of a peer."""
    return [
        Claim(
            "finishing a copy over IPv6", name, figures["IPv6, ns"], "ns", None, Peer("over IPv4", figures["IPv4, ns"])
        )
        for name, figures in result.items()
        if isinstance(figures, dict)
    ]


if __name__ == "__main__":
    main()

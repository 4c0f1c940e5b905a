"""bpf/abi.h in Python: the layout of every map value, and the numbers of every counter.

tests/kernel/test_abi.py holds each structure and enum here against the BTF of the compiled object.
"""

import ctypes
from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from pktmirror.agent.bypass import HookFigures
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Stage, Tally
from pktmirror.model.rate import Rate

RULES_MAX = 10000
SESSIONS_MAX = 64
RESOLVERS_MAX = 8
EXCLUSIONS_MAX = 32
HINT_BITS = 256
WHOLE_BYTES_MAX = 65536
CAP_TICKS_PER_NS = 64
METER_BLOCKS = 2048
METERS_A_BLOCK = 1024
NO_METER = 0x80000000
METER_AMAZON_DNS = 0
METER_FORMER = 2
METER_RULES = 6
EXCLUSION_SLOTS = 8
DELIVERY_SLOTS = 16384
LEDGER_ROWS = 8192
INTERFACES_MAX = 4096
STREAMS_MAX = 65536
LANES_MAX = 64

CELL_BYTES = 16
FILTER_CELLS = 2097152
WORD_SOURCE = 0
WORD_DESTINATION = 4
WORD_SOURCE_PORT = 8
WORD_DESTINATION_PORT = 9
WORD_PROTOCOL = 10
WORD_LEAF = 15
WORDS = 16
NODE_CHILDREN = 4
PORTS_SHOWN = 0
PORTS_HIDDEN = 1
PORTS_MEANINGLESS = 2
KINDS = 3
TREE_DEPTH_MAX = 40
TREES_MAX = 4

MARK_MAGIC = 0xD6000000
MARK_TRACED = 0x4000
MARK_SLOT_MASK = 0x3FFF
MARK_GENERATION_SHIFT = 16
MARK_GENERATION_MASK = 0x7F
MARK_PROBE = 0x01000000
NO_GENERATION = 0xFFFFFFFF
VNI_NOT_QUOTED = 0xFFFFFFFF
NO_ROW = 0xFFFFFFFF  # the kernel finds no such row and counts nothing
TRACE_DECISION = 1
TRACE_COPY = 2
FLOW_SHOWN_MASK = 0x7F
TRACE_FLOW_UNKNOWN = 0x80
SESSION_ID_BYTES = 24
REMEMBERED = 1  # in the place of a policy's generation, until it is given one

DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
FAMILIES = (4, 6)
OUTCOMES = (
    InterfaceOutcome.TAKEN,
    InterfaceOutcome.NOT_TAKEN,
    InterfaceOutcome.NEVER_MIRRORED,
    InterfaceOutcome.NOT_IP,
    InterfaceOutcome.MALFORMED,
    InterfaceOutcome.NOT_FOR_THIS_INTERFACE,
    InterfaceOutcome.OWN_COPY,
    InterfaceOutcome.TARGET_REFUSED,
)
VERDICTS = (
    Verdict.TAKEN,
    Verdict.REJECTED_BY_RULE,
    Verdict.NO_RULE_MATCHED,
    Verdict.SERVICE_NOT_ENABLED,
)
STAGES = (
    Stage.CAPPED,
    Stage.LEASE_ENDED,
    Stage.CLONE_FAILED,
    Stage.STALE,
    Stage.NO_ROUTE,
    Stage.NEIGHBOUR_UNRESOLVED,
    Stage.UNDELIVERABLE,
    Stage.ENCAPSULATION_FAILED,
    Stage.SENT,
    Stage.CUT,
    Stage.TARGET_REFUSED,
    Stage.PROBE_SENT,
    Stage.PROBE_LOST,
)

# bytes in the order in which they stand, for values that are in network byte order
_Address = ctypes.c_uint8 * 16
_Port = ctypes.c_uint8 * 2


class TallyEntry(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class Criteria(ctypes.Structure):
    _fields_ = (
        ("source_port_first", ctypes.c_uint16),
        ("source_port_last", ctypes.c_uint16),
        ("destination_port_first", ctypes.c_uint16),
        ("destination_port_last", ctypes.c_uint16),
        ("protocol", ctypes.c_uint8),
        ("protocol_mask", ctypes.c_uint8),
        ("accepts", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("number", ctypes.c_uint16),
        ("meter", ctypes.c_uint16),
    )


class MeterName(ctypes.Structure):
    _fields_ = (("rule_id", ctypes.c_uint8 * 30), ("direction", ctypes.c_uint8), ("accepts", ctypes.c_uint8))


class MeterNotes(ctypes.Structure):
    _fields_ = (("carried", TallyEntry * METERS_A_BLOCK), ("names", MeterName * METERS_A_BLOCK))


class MeterRangeEntry(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("next_first", ctypes.c_uint32),
        ("next_count", ctypes.c_uint32),
        ("is_whole", ctypes.c_uint32),
        ("is_used", ctypes.c_uint32),
        ("digest", ctypes.c_uint8 * 16),
        ("next_digest", ctypes.c_uint8 * 16),
    )


class Rule4(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_uint32),
        ("source_mask", ctypes.c_uint32),
        ("destination", ctypes.c_uint32),
        ("destination_mask", ctypes.c_uint32),
        ("criteria", Criteria),
    )


class Rule6(ctypes.Structure):
    _fields_ = (
        ("source", ctypes.c_uint32 * 4),
        ("source_mask", ctypes.c_uint32 * 4),
        ("destination", ctypes.c_uint32 * 4),
        ("destination_mask", ctypes.c_uint32 * 4),
        ("criteria", Criteria),
    )


class Node(ctypes.Structure):
    _fields_ = (("thresholds", ctypes.c_uint32 * (NODE_CHILDREN - 1)), ("word_children", ctypes.c_uint32))


class Forest(ctypes.Structure):
    _fields_ = (
        ("roots", ctypes.c_uint32 * TREES_MAX),
        ("positions_min", ctypes.c_uint16 * TREES_MAX),
        ("tree_count", ctypes.c_uint16),
        ("steps", ctypes.c_uint16),
        ("reserved", ctypes.c_uint32),
    )


class FilterEntry(ctypes.Structure):
    """How a filter begins; agent/classifier.py makes the whole."""

    _fields_ = (
        ("cell_count", ctypes.c_uint32),
        ("amazon_dns", ctypes.c_uint32),
        ("rules", (ctypes.c_uint32 * len(FAMILIES)) * 2),
        ("forests", ((Forest * KINDS) * len(FAMILIES)) * 2),
    )


class ExclusionEntry(ctypes.Structure):
    _fields_ = (
        ("address_be", _Address),
        ("first", ctypes.c_uint16),
        ("last", ctypes.c_uint16),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("protocol_mask", ctypes.c_uint8),
        ("names_ports", ctypes.c_uint8),
    )


class ExclusionTable(ctypes.Structure):
    _fields_ = (
        ("addresses", ctypes.c_uint32 * (HINT_BITS // 32)),
        ("ports", ctypes.c_uint32 * (HINT_BITS // 32)),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("lines", ExclusionEntry * EXCLUSIONS_MAX),
    )


class LaneEntry(ctypes.Structure):
    _fields_ = (
        ("wrapping_ifindex", ctypes.c_uint32),
        ("finishing_ifindex", ctypes.c_uint32),
        ("splitting_ifindex", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class Lanes(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint32), ("lanes", LaneEntry * LANES_MAX))


class Cap(ctypes.Structure):
    _fields_ = (("packet_ticks", ctypes.c_uint64), ("byte_ticks", ctypes.c_uint64))


class Bucket(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class SessionPolicy(ctypes.Structure):
    _fields_ = (
        ("filter_cell", ctypes.c_uint32),
        ("mark", ctypes.c_uint32),
        ("stage", ctypes.c_uint32),
        ("ledger_row", ctypes.c_uint32),
        ("cap", Cap),
        ("meter", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class InterfacePolicy(ctypes.Structure):
    _fields_ = (
        ("generation", ctypes.c_uint64),
        ("ledger_row", ctypes.c_uint32),
        ("session_count", ctypes.c_uint32),
        ("exclusion_slot", ctypes.c_uint32),
        ("resolver_count", ctypes.c_uint32),
        ("mac", ctypes.c_uint8 * 6),
        ("is_host_side", ctypes.c_uint8),
        ("resolvers_ipv6", ctypes.c_uint8),
        ("resolvers_be", _Address * RESOLVERS_MAX),
        ("budget", Cap),
        ("lease_ns", ctypes.c_uint64),
        ("sessions", SessionPolicy * SESSIONS_MAX),
    )


class Delivery(ctypes.Structure):
    _fields_ = (
        ("session_id", ctypes.c_uint8 * SESSION_ID_BYTES),
        ("outer_source_be", _Address),
        ("outer_destination_be", _Address),
        ("next_hop_be", _Address),
        ("port_be", _Port),
        ("generation", ctypes.c_uint16),
        ("family", ctypes.c_uint32),
        ("vni", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("packet_bytes_max", ctypes.c_uint32),
        ("room_bytes_max", ctypes.c_uint32),
        ("ledger_row", ctypes.c_uint32),
        ("retired_generation", ctypes.c_uint32),
        ("retired_ledger_row", ctypes.c_uint32),
        ("leaves_whole", ctypes.c_uint32),
        ("leaves_ahead", ctypes.c_uint32),
        ("port_ifindex", ctypes.c_uint32),
        ("target_mac", ctypes.c_uint8 * 6),
        ("source_mac", ctypes.c_uint8 * 6),
    )


class StreamKey(ctypes.Structure):
    _fields_ = (
        ("outer_source_be", _Address),
        ("outer_destination_be", _Address),
        ("vni", ctypes.c_uint32),
        ("port", ctypes.c_uint16),
        ("family", ctypes.c_uint16),
    )


class SessionCounters(ctypes.Structure):
    _fields_ = (
        ("verdicts", (TallyEntry * len(VERDICTS)) * 2),
        ("stages", (TallyEntry * len(STAGES)) * 2),
    )


class InterfaceCounters(ctypes.Structure):
    _fields_ = (("outcomes", (TallyEntry * len(OUTCOMES)) * 2), ("extra_packets", ctypes.c_uint64 * 2))


class TraceRequest(ctypes.Structure):
    _fields_ = (
        ("until_ns", ctypes.c_uint64),
        ("packet_ticks", ctypes.c_uint64),
        ("id", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("packets_max", ctypes.c_uint32),
        ("directions", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("protocol_mask", ctypes.c_uint8),
        ("source_be", _Address),
        ("source_mask_be", _Address),
        ("destination_be", _Address),
        ("destination_mask_be", _Address),
        ("source_port_first", ctypes.c_uint16),
        ("source_port_last", ctypes.c_uint16),
        ("destination_port_first", ctypes.c_uint16),
        ("destination_port_last", ctypes.c_uint16),
        ("names_ports", ctypes.c_uint8),
        ("names_ip", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 6),
    )


class TraceState(ctypes.Structure):
    _fields_ = (
        ("spent", ctypes.c_uint64),
        ("skipped", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
        ("taken", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class TraceRecord(ctypes.Structure):
    _fields_ = (
        ("time_ns", ctypes.c_uint64),
        ("wire_bytes", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("rejected", ctypes.c_uint64),
        ("source_be", _Address),
        ("destination_be", _Address),
        ("trace_id", ctypes.c_uint32),
        ("mark", ctypes.c_uint32),
        ("wire_packets", ctypes.c_uint32),
        ("copied_bytes", ctypes.c_uint32),
        ("source_port", ctypes.c_uint16),
        ("destination_port", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("flow", ctypes.c_uint8),
        ("direction", ctypes.c_uint8),
        ("outcome", ctypes.c_uint8),
        ("stage", ctypes.c_uint8),
        ("taken_by", ctypes.c_uint8),
        ("amazon_dns", ctypes.c_uint8),
        ("family", ctypes.c_uint8),
        ("protocol", ctypes.c_uint8),
        ("has_ports", ctypes.c_uint8),
        ("has_icmp_type", ctypes.c_uint8),
        ("icmp_type", ctypes.c_uint8),
        ("is_later_fragment", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 7),
    )


_Name = TypeVar("_Name", bound=Enum)


def address_bytes(address: IPv4Address | IPv6Address) -> bytes:
    """16 bytes in network order: an IPv4 address is the first word, then zeros."""
    return address.packed.ljust(16, b"\0")


def address(family: int, words: bytes) -> IPv4Address | IPv6Address:
    """The address of which `address_bytes` made 16 bytes."""
    return IPv6Address(words) if family == 6 else IPv4Address(words[:4])


def hint_bit(value: int) -> int:
    """HINT_BIT of bpf/abi.h: which bit of a hint stands for a value of 32 bits."""
    return (value * 0x9E3779B1 & 0xFFFFFFFF) >> 24


def cap(rate: Rate, sharers: int = 1) -> Cap:
    """What a packet and a byte cost of a rate, or of each one's share of it, in 1/64 ns."""
    ticks_per_s = CAP_TICKS_PER_NS * 10**9 * sharers
    return Cap(
        0 if rate.packets_per_s is None else ticks_per_s // rate.packets_per_s,
        0 if rate.bits_per_s is None else 8 * ticks_per_s // rate.bits_per_s,
    )


def mark(slot: int, generation: int) -> int:
    """The mark of a delivery slot's copies, direction bit clear."""
    return MARK_MAGIC | generation << MARK_GENERATION_SHIFT | slot


def slot_of(mark: int) -> int:
    return mark & MARK_SLOT_MASK


def stamped(policy: bytes, generation: int) -> bytes:
    """A policy as it goes into the kernel: where its decisions are to be remembered, under this generation."""
    entry = InterfacePolicy.from_buffer_copy(policy)
    entry.generation = generation if entry.generation else 0
    return bytes(bytearray(entry))


def unstamped(policy: bytes) -> bytes:
    """A policy as the plan knows it: equal policies are equal bytes."""
    entry = InterfacePolicy.from_buffer_copy(policy)
    entry.generation = REMEMBERED if entry.generation else 0
    return bytes(bytearray(entry))


def session_ledgers(per_cpu: Sequence[bytes]) -> dict[Direction, SessionLedger]:
    """The sum over CPUs of one row of `session_ledger`."""
    counters = [SessionCounters.from_buffer_copy(value) for value in per_cpu]
    return {
        direction: SessionLedger(
            _sum(VERDICTS, [value.verdicts[index] for value in counters]),
            _sum(STAGES, [value.stages[index] for value in counters]),
        )
        for index, direction in enumerate(DIRECTIONS)
    }


def interface_ledgers(per_cpu: Sequence[bytes]) -> dict[Direction, InterfaceLedger]:
    """The sum over CPUs of one row of `interface_ledger`."""
    counters = [InterfaceCounters.from_buffer_copy(value) for value in per_cpu]
    return {
        direction: InterfaceLedger(_sum(OUTCOMES, [value.outcomes[index] for value in counters]))
        for index, direction in enumerate(DIRECTIONS)
    }


def hook_figures(per_cpu: Sequence[bytes]) -> dict[Direction, HookFigures]:
    """How much the hooks of an interface have seen: the sum over CPUs of one row of `interface_ledger`."""
    counters = [InterfaceCounters.from_buffer_copy(value) for value in per_cpu]
    figures = {}
    for index, direction in enumerate(DIRECTIONS):
        packets = sum(entry.packets for value in counters for entry in value.outcomes[index])
        figures[direction] = HookFigures(packets - sum(value.extra_packets[index] for value in counters), packets)
    return figures


def tally(per_cpu: Sequence[bytes]) -> Tally:
    """The sum over CPUs of one `struct tally`."""
    entries = [TallyEntry.from_buffer_copy(value) for value in per_cpu]
    return Tally(sum(entry.packets for entry in entries), sum(entry.bytes for entry in entries))


def _sum(names: Sequence[_Name], tables: Sequence[Sequence[TallyEntry]]) -> dict[_Name, Tally]:
    """Of what was counted at all: of the rest nothing is told, so that a name that is new is not before its time."""
    sums = {
        name: Tally(sum(table[i].packets for table in tables), sum(table[i].bytes for table in tables))
        for i, name in enumerate(names)
    }
    return {name: tally for name, tally in sums.items() if tally != Tally()}

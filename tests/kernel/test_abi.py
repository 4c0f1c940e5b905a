"""agent/abi.py says what bpf/abi.h says: every structure, every number, every size of a map."""

import ctypes
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from pktmirror.agent import abi
from pktmirror.agent.plan import Capacity
from pktmirror.kernel import bpf
from pktmirror.model import limits
from tests.kernel.btf import Btf, sections

HEADER = Path(__file__).parents[2] / "bpf/abi.h"
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "criteria": abi.Criteria,
    "meter_name": abi.MeterName,
    "meter_notes": abi.MeterNotes,
    "meter_range": abi.MeterRangeEntry,
    "rule4": abi.Rule4,
    "rule6": abi.Rule6,
    "node": abi.Node,
    "forest": abi.Forest,
    "filter": abi.FilterEntry,
    "exclusion": abi.ExclusionEntry,
    "exclusion_table": abi.ExclusionTable,
    "lane": abi.LaneEntry,
    "lanes": abi.Lanes,
    "cap": abi.Cap,
    "bucket": abi.Bucket,
    "session_policy": abi.SessionPolicy,
    "interface_policy": abi.InterfacePolicy,
    "delivery": abi.Delivery,
    "stream": abi.StreamKey,
    "tally": abi.TallyEntry,
    "trace_request": abi.TraceRequest,
    "trace_state": abi.TraceState,
    "trace_record": abi.TraceRecord,
    "session_counters": abi.SessionCounters,
    "interface_counters": abi.InterfaceCounters,
}
ENUMS: dict[str, tuple[str, tuple[Enum, ...]]] = {
    "direction": ("DIRECTION", abi.DIRECTIONS),
    "interface_outcome": ("OUTCOME", abi.OUTCOMES),
    "verdict": ("VERDICT", abi.VERDICTS),
    "stage": ("STAGE", abi.STAGES),
}


@pytest.fixture(scope="module")
def btf(object_path: Path) -> Btf:
    return Btf(sections(object_path)[".BTF"])


@pytest.fixture(scope="module")
def defines() -> dict[str, int]:
    found = re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)\b", HEADER.read_text(), re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


def layout(structure: type[ctypes.Structure], path: str = "", start: int = 0) -> dict[str, tuple[int, int]]:
    """(offset, bytes) of each field of a ctypes structure, by the names that `Btf.layout` gives."""
    fields: dict[str, tuple[int, int]] = {}
    for name, type_, *_ in structure._fields_:
        fields.update(_field(type_, f"{path}{name}", start + getattr(structure, name).offset, name.endswith("_be")))
    return fields


def _field(type_: Any, path: str, start: int, opaque: bool) -> Iterator[tuple[str, tuple[int, int]]]:
    element = getattr(type_, "_type_", None) if issubclass(type_, ctypes.Array) else None
    if element is not None and (not opaque or issubclass(element, ctypes.Array)):
        for index in range(type_._length_):
            yield from _field(element, f"{path}[{index}]", start + index * ctypes.sizeof(element), opaque)
    elif issubclass(type_, ctypes.Structure):
        yield from layout(type_, f"{path}.", start).items()
    else:
        yield path, (start, ctypes.sizeof(type_))


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_has_the_layout_that_the_compiler_chose(name: str, btf: Btf) -> None:
    assert layout(STRUCTURES[name]) == btf.layout(name)
    assert ctypes.sizeof(STRUCTURES[name]) == btf.bytes_of(name)


def test_no_structure_of_the_contract_is_left_out() -> None:
    in_c = set(re.findall(r"^struct (\w+) \{", HEADER.read_text(), re.MULTILINE))
    in_python = {each for each in vars(abi).values() if isinstance(each, type) and issubclass(each, ctypes.Structure)}
    assert in_c == STRUCTURES.keys()
    assert in_python == set(STRUCTURES.values())


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_counts_as_the_tuple_of_the_same_names(name: str, btf: Btf) -> None:
    prefix, members = ENUMS[name]
    expected = {f"{prefix}_{member.name}": number for number, member in enumerate(members)}
    assert btf.enums[name] == {**expected, f"{prefix}_COUNT": len(members)}
    assert set(members) == set(type(members[0])), "the model knows a name that the kernel does not count"


def test_no_enum_of_the_contract_is_left_out() -> None:
    assert set(re.findall(r"^enum (\w+) \{", HEADER.read_text(), re.MULTILINE)) == ENUMS.keys()


@pytest.mark.parametrize(
    "name",
    [
        "RULES_MAX",
        "CELL_BYTES",
        "FILTER_CELLS",
        "WORD_SOURCE",
        "WORD_DESTINATION",
        "WORD_SOURCE_PORT",
        "WORD_DESTINATION_PORT",
        "WORD_PROTOCOL",
        "WORD_LEAF",
        "WORDS",
        "NODE_CHILDREN",
        "PORTS_SHOWN",
        "PORTS_HIDDEN",
        "PORTS_MEANINGLESS",
        "KINDS",
        "TREE_DEPTH_MAX",
        "TREES_MAX",
        "SESSIONS_MAX",
        "RESOLVERS_MAX",
        "EXCLUSIONS_MAX",
        "HINT_BITS",
        "LANES_MAX",
        "CAP_TICKS_PER_NS",
        "METER_BLOCKS",
        "METERS_A_BLOCK",
        "NO_METER",
        "METER_AMAZON_DNS",
        "METER_FORMER",
        "METER_RULES",
        "EXCLUSION_SLOTS",
        "DELIVERY_SLOTS",
        "LEDGER_ROWS",
        "INTERFACES_MAX",
        "STREAMS_MAX",
        "VNI_NOT_QUOTED",
        "MARK_MAGIC",
        "MARK_TRACED",
        "TRACE_DECISION",
        "TRACE_COPY",
        "FLOW_SHOWN_MASK",
        "TRACE_FLOW_UNKNOWN",
        "MARK_SLOT_MASK",
        "MARK_GENERATION_SHIFT",
        "MARK_GENERATION_MASK",
        "MARK_PROBE",
    ],
)
def test_a_constant_is_the_same_on_both_sides(name: str, defines: dict[str, int]) -> None:
    assert getattr(abi, name) == defines[name]


def test_the_api_allows_no_more_than_the_data_plane_holds() -> None:
    assert limits.DATA_PLANE_RULES_PER_FILTER == abi.RULES_MAX
    assert limits.DATA_PLANE_SESSIONS_PER_INTERFACE == abi.SESSIONS_MAX
    assert limits.RESOLVERS_PER_VPC == abi.RESOLVERS_MAX


def test_the_parts_of_a_mark_do_not_overlap(defines: dict[str, int]) -> None:
    slot, magic = defines["MARK_SLOT_MASK"], defines["MARK_MAGIC_MASK"]
    generation = defines["MARK_GENERATION_MASK"] << defines["MARK_GENERATION_SHIFT"]
    direction, wrapped = 1 << defines["MARK_DIRECTION_SHIFT"], defines["MARK_WRAPPED"]
    probe, traced = defines["MARK_PROBE"], defines["MARK_TRACED"]
    assert slot + traced + wrapped + generation + direction + probe + magic == 0xFFFFFFFF
    assert slot | traced | wrapped | generation | direction | probe | magic == 0xFFFFFFFF
    assert defines["MARK_MAGIC"] & ~magic == 0
    assert defines["DELIVERY_SLOTS"] <= slot + 1
    assert abi.mark(slot, abi.MARK_GENERATION_MASK) == abi.MARK_MAGIC | generation | slot
    assert abi.slot_of(abi.mark(12345, 101) | direction | wrapped | probe) == 12345
    assert abi.NO_GENERATION > abi.MARK_GENERATION_MASK


@pytest.mark.root
def test_the_maps_hold_what_the_plan_counts_with(loaded: bpf.Object) -> None:
    capacity = Capacity()
    with loaded.map("filters") as filters:
        assert filters.entries_max == 1
        assert filters.value_bytes >= capacity.filter_cells * abi.CELL_BYTES + ctypes.sizeof(abi.FilterEntry)
    expected = {
        "interfaces": (65536, 4),
        "far_interfaces": (capacity.interfaces, 4),
        "exclusions": (capacity.exclusions, ctypes.sizeof(abi.ExclusionTable)),
        "deliveries": (capacity.deliveries, ctypes.sizeof(abi.Delivery)),
        "streams": (capacity.streams, 4),
        "bulks": (capacity.deliveries, 24),
        "session_buckets": (capacity.session_rows, ctypes.sizeof(abi.Bucket)),
        "session_ledger": (capacity.session_rows, ctypes.sizeof(abi.SessionCounters)),
        "interface_ledger": (capacity.interfaces, ctypes.sizeof(abi.InterfaceCounters)),
        "strays": (1, ctypes.sizeof(abi.TallyEntry)),
        "trace": (1, ctypes.sizeof(abi.TraceRequest)),
        "trace_state": (1, ctypes.sizeof(abi.TraceState)),
        "meters": (capacity.meters // abi.METERS_A_BLOCK, 4),
        "meter_notes": (capacity.meters // abi.METERS_A_BLOCK, 4),
        "meter_ranges": (capacity.session_rows, ctypes.sizeof(abi.MeterRangeEntry)),
    }
    found = {}
    for name in expected:
        with loaded.map(name) as map_:
            found[name] = (map_.entries_max, map_.value_bytes)
    assert found == expected

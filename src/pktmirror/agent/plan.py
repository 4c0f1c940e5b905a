"""What has to change in the kernel so that it holds what is wanted. Pure: tables in, changes and new tables out.

Nothing that a policy refers to is ever written: new contents go to free slots, and then the interface's policy, one
pointer, is swapped. So every packet sees all of the old state or all of the new.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from pktmirror.agent import abi
from pktmirror.agent.allotment import Allotment, CarryMeters, DropMeters, PutMeters, WriteMeters
from pktmirror.agent.compile import CopyStream, Wanted, WantedDelivery, WantedInterface, WantedSession
from pktmirror.agent.meters import MeterRange
from pktmirror.agent.neighbours import NextHop
from pktmirror.agent.shortcuts import Shortcut
from pktmirror.model.ledger import Stage


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much the maps hold."""

    filter_cells: int = abi.FILTER_CELLS
    exclusions: int = abi.EXCLUSION_SLOTS
    deliveries: int = abi.DELIVERY_SLOTS
    session_rows: int = abi.LEDGER_ROWS
    interfaces: int = abi.INTERFACES_MAX
    streams: int = abi.STREAMS_MAX
    meters: int = abi.METER_BLOCKS * abi.METERS_A_BLOCK


@dataclass(frozen=True, slots=True)
class Tables:
    """What the kernel holds: values by slot (filters by their first cell), policies by ifindex, and which devices have
    the hooks.

    ``streams`` are ledger rows by key, ``meters`` are by ledger row. ``retired_slots`` are delivery slots in the order
    in which they fell out of use: the longest unused is reused first.
    """

    policies: dict[int, bytes] = field(default_factory=dict)
    filters: dict[int, bytes] = field(default_factory=dict)
    exclusions: dict[int, bytes] = field(default_factory=dict)
    deliveries: dict[int, bytes] = field(default_factory=dict)
    streams: dict[bytes, int] = field(default_factory=dict)
    meters: dict[int, MeterRange] = field(default_factory=dict)
    attached: frozenset[int] = frozenset()
    retired_slots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteFilter:
    """Write a filter into free cells, from ``cell`` on."""

    cell: int
    value: bytes


@dataclass(frozen=True, slots=True)
class WriteExclusions:
    slot: int
    value: bytes


@dataclass(frozen=True, slots=True)
class WriteDelivery:
    slot: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ClearSessionRow:
    """A ledger row, and what is spent of its cap, begins at zero when a session gets it."""

    row: int


@dataclass(frozen=True, slots=True)
class ClearInterfaceRow:
    row: int


@dataclass(frozen=True, slots=True)
class SwapPolicy:
    ifindex: int
    value: bytes


@dataclass(frozen=True, slots=True)
class ForgetSpent:
    """What was spent of a session's cap, by its ledger row, or of the host's budget, for None.

    It is a time, reckoned by the rate that was in force: a packet at one bit a second is hours long.
    """

    row: int | None


@dataclass(frozen=True, slots=True)
class PutStream:
    """Make copies known on the wire, and whose they are."""

    key: bytes
    row: int


@dataclass(frozen=True, slots=True)
class DropStream:
    key: bytes


@dataclass(frozen=True, slots=True)
class Attach:
    """Put the hooks on a device; ``is_host_side`` says which of them sees what the source receives."""

    ifindex: int
    is_host_side: bool


@dataclass(frozen=True, slots=True)
class Detach:
    """Take the hooks off a device, then its policy; the device may be gone already."""

    ifindex: int


Change = (
    WriteFilter
    | WriteExclusions
    | WriteDelivery
    | ClearSessionRow
    | ClearInterfaceRow
    | ForgetSpent
    | WriteMeters
    | CarryMeters
    | PutMeters
    | DropMeters
    | PutStream
    | DropStream
    | SwapPolicy
    | Attach
    | Detach
)


class TableFull(Exception):
    """A map has no free slot left; the message names it and its size."""


def plan(wanted: Wanted, held: Tables, *, capacity: Capacity | None = None) -> list[Change]:
    """The changes in the order in which to make them; empty when the kernel holds what is wanted.

    Devices that are no longer mirrored come first: for a moment too little is mirrored, never too much.
    Raises TableFull, and then nothing is to be changed.
    """
    draft = _Draft(held, wanted.session_ids, capacity or Capacity())
    wanted_ifindexes = {interface.ifindex for interface in wanted.interfaces}
    detach = [Detach(ifindex) for ifindex in sorted((held.policies.keys() | held.attached) - wanted_ifindexes)]
    for interface in wanted.interfaces:
        policy = draft.policy(interface, wanted)
        if held.policies.get(interface.ifindex) != policy:
            draft.changes.append(SwapPolicy(interface.ifindex, policy))
            draft.changes += _forget_spent(held.policies.get(interface.ifindex), policy)
        if interface.ifindex not in held.attached:
            draft.changes.append(Attach(interface.ifindex, interface.is_host_side))
    if wanted.interfaces and any(_budget(value) != bytes(_share(wanted)) for value in held.policies.values()):
        draft.changes.append(ForgetSpent(None))
    draft.changes += draft.meters.carry
    streams_max = (capacity or Capacity()).streams
    streams = _streams(wanted, draft.session_rows, streams_max)
    puts = [PutStream(key, row) for key, row in streams.items() if held.streams.get(key) != row]
    drops = [DropStream(key) for key in held.streams if key not in streams]
    if len(held.streams.keys() | streams.keys()) > streams_max:  # for a moment copies are not known, but all fit
        return [*detach, *drops, *puts, *draft.changes]
    # A copy must be known before the first is made, and as long as one may be.
    return [*detach, *puts, *draft.changes, *drops]


def _streams(wanted: Wanted, rows: Mapping[str, int], most: int) -> dict[bytes, int]:
    """All streams by key, with the ledger row of the session here whose copies they are.

    Each is there with its VNI and without: an ICMP error need not quote as far. Where several sessions share a key, an
    error is nobody's in particular.
    """
    others = _keys_of(wanted.streams)
    owners: dict[bytes, set[int]] = {}
    for interface in wanted.interfaces:
        for session in interface.sessions:
            if session.has_way:
                for key in _stream_keys(session.delivery):
                    owners.setdefault(key, set()).add(rows[session.delivery.session_id])
    owned = {key: next(iter(rows_)) if len(rows_) == 1 else abi.NO_ROW for key, rows_ in owners.items()}
    streams = dict.fromkeys(others, abi.NO_ROW) | owned
    if len(streams) > most:
        raise TableFull(f"{len(streams)} keys of streams of copies are more than the {most} that this host holds")
    return streams


@functools.lru_cache(maxsize=2)  # a frozenset knows its hash: they are worked out once for a document
def _keys_of(streams: frozenset[CopyStream]) -> frozenset[bytes]:
    return frozenset(key for stream in streams for key in _stream_keys(stream))


def _stream_keys(stream: CopyStream | WantedDelivery) -> Iterator[bytes]:
    for vni in (stream.vni, abi.VNI_NOT_QUOTED):
        key = abi.StreamKey(vni=vni, port=stream.port, family=stream.outer_destination.version)
        key.outer_source_be[:] = abi.address_bytes(stream.outer_source)
        key.outer_destination_be[:] = abi.address_bytes(stream.outer_destination)
        yield bytes(key)


def applied(held: Tables, changes: Iterable[Change]) -> Tables:
    """What the kernel holds after the changes."""
    policies, filters = dict(held.policies), dict(held.filters)
    exclusions, deliveries = dict(held.exclusions), dict(held.deliveries)
    streams, meters, attached = dict(held.streams), dict(held.meters), set(held.attached)
    for change in changes:
        match change:
            case PutStream(key, row):
                streams[key] = row
            case DropStream(key):
                del streams[key]
            case WriteFilter(cell, value):
                filters[cell] = value
            case WriteExclusions(slot, value):
                exclusions[slot] = value
            case WriteDelivery(slot, value):
                deliveries[slot] = value
            case SwapPolicy(ifindex, value):
                policies[ifindex] = value
            case Attach(ifindex, _):
                attached.add(ifindex)
            case Detach(ifindex):
                attached.discard(ifindex)
                policies.pop(ifindex, None)
            case CarryMeters(row, range_) | PutMeters(row, range_):
                meters[row] = range_
            case DropMeters(row) | ClearSessionRow(row):
                meters.pop(row, None)
            case WriteMeters() | ClearInterfaceRow() | ForgetSpent():
                pass
            case _:
                assert_never(change)
    used = {session.filter_cell for value in policies.values() for session in _sessions(value)}
    filters = {cell: value for cell, value in filters.items() if cell in used}
    before, after = _slots_in_use(held.policies), _slots_in_use(policies)
    retired = [slot for slot in held.retired_slots if slot not in after] + sorted(before - after)
    return Tables(
        policies=policies,
        filters=filters,
        exclusions=exclusions,
        deliveries=deliveries,
        streams=streams,
        meters=meters,
        attached=frozenset(attached),
        retired_slots=tuple(retired),
    )


def unresolved_in(held: Tables) -> frozenset[NextHop]:
    """The next hops of the sessions that the kernel counts as unresolved."""
    stage = abi.STAGES.index(Stage.NEIGHBOUR_UNRESOLVED)
    slots = {
        abi.slot_of(session.mark)
        for value in held.policies.values()
        for session in _sessions(value)
        if session.stage == stage
    }
    deliveries = [_content(abi.Delivery.from_buffer_copy(held.deliveries[slot])) for slot in slots]
    return frozenset(to.hop for to in deliveries)


def _slots_in_use(policies: dict[int, bytes]) -> set[int]:
    return {abi.slot_of(session.mark) for value in policies.values() for session in _sessions(value)}


def _sessions(policy: bytes) -> list[abi.SessionPolicy]:
    entry = abi.InterfacePolicy.from_buffer_copy(policy)
    return list(entry.sessions[: entry.session_count])


def _forget_spent(held: bytes | None, policy: bytes) -> list[Change]:
    """For each session whose cap is another than it was."""
    before = {} if held is None else {session.ledger_row: bytes(session.cap) for session in _sessions(held)}
    return [
        ForgetSpent(session.ledger_row)
        for session in _sessions(policy)
        if before.get(session.ledger_row, bytes(session.cap)) != bytes(session.cap)
    ]


def _share(wanted: Wanted) -> abi.Cap:
    """Of the budget, for each CPU."""
    return abi.cap(wanted.budget, wanted.cpus)


def _budget(policy: bytes) -> bytes:
    return bytes(abi.InterfacePolicy.from_buffer_copy(policy).budget)


class _Draft:
    """The plan in the making: which slots and rows are taken, by the kernel as it is and by what was planned so far."""

    def __init__(self, held: Tables, session_ids: frozenset[str], capacity: Capacity) -> None:
        self.changes: list[Change] = []
        self._held = held
        self._capacity = capacity
        policies = [abi.InterfacePolicy.from_buffer_copy(value) for value in held.policies.values()]
        sessions = [session for value in held.policies.values() for session in _sessions(value)]
        self._filters = {session.filter_cell: held.filters[session.filter_cell] for session in sessions}
        self._filter_cells: dict[bytes, int] = {value: cell for cell, value in self._filters.items()}
        self._exclusions = {policy.exclusion_slot: held.exclusions[policy.exclusion_slot] for policy in policies}
        self._exclusion_slots: dict[bytes, int] = {value: slot for slot, value in self._exclusions.items()}
        self._busy_deliveries = {abi.slot_of(session.mark) for session in sessions}
        self._deliveries = {slot: abi.Delivery.from_buffer_copy(value) for slot, value in held.deliveries.items()}
        self._slots_by_content: dict[WantedDelivery, int] = {}
        self.session_rows: dict[str, int] = {}
        for slot, delivery in self._deliveries.items():
            if delivery.ledger_row == abi.NO_ROW:
                continue
            session_id = _session_id(delivery)
            self._slots_by_content[_content(delivery)] = slot
            if session_id in session_ids or slot in self._busy_deliveries:
                self.session_rows[session_id] = delivery.ledger_row
        self._free_slots = self._in_order_of_reuse(session_ids)
        self._busy_session_rows = set(self.session_rows.values())
        self.meters = Allotment(held.meters, self._busy_session_rows, capacity.meters)
        self._interface_rows = {ifindex: _row(value) for ifindex, value in held.policies.items()}

    def policy(self, interface: WantedInterface, wanted: Wanted) -> bytes:
        """The policy of an interface; whatever it refers to is in `changes` by now, or in the kernel."""
        entry = abi.InterfacePolicy(
            generation=abi.REMEMBERED,
            ledger_row=self._interface_row(interface.ifindex),
            session_count=len(interface.sessions),
            exclusion_slot=self._exclusion_slot(wanted.exclusions),
            resolver_count=len(interface.resolvers),
            is_host_side=interface.is_host_side,
            budget=_share(wanted),
            lease_ns=wanted.lease_s * 10**9,
        )
        entry.mac[:] = interface.mac
        for index, resolver in enumerate(interface.resolvers):
            entry.resolvers_be[index][:] = abi.address_bytes(resolver)
            entry.resolvers_ipv6 |= (resolver.version == 6) << index
        for index, session in enumerate(interface.sessions):
            entry.sessions[index] = self._session(session)
        return bytes(entry)

    def _session(self, session: WantedSession) -> abi.SessionPolicy:
        row = self._session_row(session.delivery.session_id)
        meter = self._meter(row, session.meters)
        slot, generation = self._delivery_slot(session.delivery, row)
        return abi.SessionPolicy(
            filter_cell=self._filter_cell(session.filter),
            mark=abi.mark(slot, generation),
            stage=abi.STAGES.index(session.stage),
            ledger_row=row,
            cap=abi.cap(session.cap),
            meter=meter,
        )

    def _meter(self, row: int, names: bytes) -> int:
        """The first of the session's meters."""
        if not names:
            return abi.NO_METER
        first, changes = self.meters.allot(row, names)
        self.changes += changes
        return first

    def _filter_cell(self, value: bytes) -> int:
        if value not in self._filter_cells:
            cell = self._free_cells(len(value) // abi.CELL_BYTES)
            self._filters[cell] = value
            self._filter_cells[value] = cell
            self.changes.append(WriteFilter(cell, value))
        return self._filter_cells[value]

    def _free_cells(self, count: int) -> int:
        """The first gap between the filters that is long enough."""
        begin = 0
        for cell, value in sorted(self._filters.items()):
            if cell - begin >= count:
                return begin
            begin = cell + len(value) // abi.CELL_BYTES
        if self._capacity.filter_cells - begin >= count:
            return begin
        used = sum(len(value) for value in self._filters.values()) // abi.CELL_BYTES
        raise TableFull(
            f"a filter needs {count} cells side by side; {used} of the {self._capacity.filter_cells} cells for filters "
            "of this host are in use: use fewer rules, or fewer distinct filters at once"
        )

    def _exclusion_slot(self, value: bytes) -> int:
        if value not in self._exclusion_slots:
            slot = _free(self._exclusions, self._capacity.exclusions, "exclusion tables")
            self._exclusions[slot] = value
            self._exclusion_slots[value] = slot
            self.changes.append(WriteExclusions(slot, value))
        return self._exclusion_slots[value]

    def _session_row(self, session_id: str) -> int:
        if session_id not in self.session_rows:
            row = _free(self._busy_session_rows, self._capacity.session_rows, "session ledger rows")
            self._busy_session_rows.add(row)
            self.session_rows[session_id] = row
            self._forget_former_owner(row)
            self.meters.begin(row)
            self.changes.append(ClearSessionRow(row))
        return self.session_rows[session_id]

    def _forget_former_owner(self, row: int) -> None:
        """A row is named by the slots of one session only: else two would share it when the former comes back."""
        for slot, delivery in self._deliveries.items():
            if delivery.ledger_row == row:
                delivery.ledger_row = abi.NO_ROW
                self.changes.append(WriteDelivery(slot, bytes(delivery)))

    def _interface_row(self, ifindex: int) -> int:
        if ifindex not in self._interface_rows:
            row = _free(set(self._interface_rows.values()), self._capacity.interfaces, "mirrored interfaces")
            self._interface_rows[ifindex] = row
            self.changes.append(ClearInterfaceRow(row))
        return self._interface_rows[ifindex]

    def _delivery_slot(self, wanted: WantedDelivery, row: int) -> tuple[int, int]:
        """The slot that holds this very delivery, or a free one that is to be written. Returns its generation too."""
        slot = self._slots_by_content.get(wanted)
        if slot is not None and self._deliveries[slot].ledger_row == row:
            if slot in self._free_slots:
                self._free_slots.remove(slot)
            return slot, int(self._deliveries[slot].generation)
        if not self._free_slots:
            raise TableFull(f"all {self._capacity.deliveries} delivery slots of this host are in use")
        slot = self._free_slots.pop(0)
        old = self._deliveries.get(slot)
        generation = 0 if old is None else (int(old.generation) + 1) & abi.MARK_GENERATION_MASK
        entry = _delivery(wanted, row, generation)
        if old is not None:
            entry.retired_generation, entry.retired_ledger_row = old.generation, old.ledger_row
        self._deliveries[slot] = entry
        self._slots_by_content[wanted] = slot
        self.changes.append(WriteDelivery(slot, bytes(entry)))
        return slot, generation

    def _in_order_of_reuse(self, session_ids: frozenset[str]) -> list[int]:
        """Never used slots first, then the longest unused; last those that keep the row of a session which is still
        desired but has no interface now."""
        never_used = [slot for slot in range(self._capacity.deliveries) if slot not in self._deliveries]
        order = {slot: age for age, slot in enumerate(self._held.retired_slots)}
        unused = [slot for slot in self._deliveries if slot not in self._busy_deliveries]
        unused.sort(key=lambda slot: (_session_id(self._deliveries[slot]) in session_ids, order.get(slot, -1)))
        return never_used + unused


def _free(busy: Iterable[int], count: int, what: str) -> int:
    taken = set(busy)
    for slot in range(count):
        if slot not in taken:
            return slot
    raise TableFull(f"all {count} {what} of this host are in use")


def _row(policy: bytes) -> int:
    return int(abi.InterfacePolicy.from_buffer_copy(policy).ledger_row)


def _session_id(delivery: abi.Delivery) -> str:
    return bytes(delivery.session_id).rstrip(b"\0").decode("ascii", errors="replace")


def _delivery(wanted: WantedDelivery, row: int, generation: int) -> abi.Delivery:
    entry = abi.Delivery(
        generation=generation,
        family=wanted.outer_destination.version,
        vni=wanted.vni,
        ifindex=wanted.ifindex,
        packet_bytes_max=wanted.packet_bytes_max,
        room_bytes_max=wanted.room_bytes_max,
        ledger_row=row,
        retired_generation=abi.NO_GENERATION,
        leaves_whole=wanted.leaves_whole,
        leaves_ahead=wanted.leaves_ahead,
    )
    entry.session_id[:] = wanted.session_id.encode().ljust(abi.SESSION_ID_BYTES, b"\0")
    entry.outer_source_be[:] = abi.address_bytes(wanted.outer_source)
    entry.outer_destination_be[:] = abi.address_bytes(wanted.outer_destination)
    entry.next_hop_be[:] = abi.address_bytes(wanted.next_hop)
    entry.port_be[:] = wanted.port.to_bytes(2)
    if wanted.shortcut is not None:
        entry.port_ifindex = wanted.shortcut.ifindex
        entry.target_mac[:] = wanted.shortcut.target_mac
        entry.source_mac[:] = wanted.shortcut.source_mac
    return entry


def _content(delivery: abi.Delivery) -> WantedDelivery:
    """What a delivery in the kernel says, to be compared with what is wanted."""
    return WantedDelivery(
        session_id=_session_id(delivery),
        outer_source=abi.address(delivery.family, bytes(delivery.outer_source_be)),
        outer_destination=abi.address(delivery.family, bytes(delivery.outer_destination_be)),
        next_hop=abi.address(delivery.family, bytes(delivery.next_hop_be)),
        port=int.from_bytes(bytes(delivery.port_be)),
        vni=delivery.vni,
        ifindex=delivery.ifindex,
        packet_bytes_max=delivery.packet_bytes_max,
        room_bytes_max=delivery.room_bytes_max,
        leaves_whole=bool(delivery.leaves_whole),
        leaves_ahead=bool(delivery.leaves_ahead),
        shortcut=Shortcut(delivery.port_ifindex, bytes(delivery.target_mac), bytes(delivery.source_mac))
        if delivery.port_ifindex
        else None,
    )

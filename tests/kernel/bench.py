"""One mirrored interface in the kernel's maps, frames through the real programs, and what they counted.

BPF_PROG_TEST_RUN gives the programs the loopback device, ifindex 1, as the frame's device; nothing is attached there.
The clone fails because its device does not exist: what a session takes ends as CLONE_FAILED, and no copy is made.
"""

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType

from pktmirror.agent import abi
from pktmirror.agent.allotment import CarryMeters, PutMeters, WriteMeters
from pktmirror.agent.bypass import HookFigures
from pktmirror.agent.compile import Wanted, compile_state, route_queries
from pktmirror.agent.inventory import Device
from pktmirror.agent.meter_blocks import MeterBlocks
from pktmirror.agent.meters import MeterRange
from pktmirror.agent.plan import (
    Attach,
    Capacity,
    ClearInterfaceRow,
    ClearSessionRow,
    ForgetSpent,
    PutStream,
    SwapPolicy,
    Tables,
    WriteDelivery,
    WriteExclusions,
    WriteFilter,
    plan,
)
from pktmirror.agent.ways import RouteQuery, Way
from pktmirror.desired import DesiredSession, Destination, FoundInterface
from pktmirror.kernel import bpf, netns
from pktmirror.model import evaluation
from pktmirror.model.evaluation import Candidate, Decision, Surroundings
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import AMAZON_DNS_RULE, InterfaceOutcome, Stage, Tally
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.packet import copies, headers
from tests.kernel.frames import ARP, OWN_MAC
from tests.kernel.policies import KEY, REACHABLE, REACHABLE6, Scene

TCX_NEXT, TCX_DROP = -1, 2
LOOPBACK_IFINDEX, MISSING_IFINDEX = 1, 0x7FFFFFF0
ROWS_LOOKED_AT_MIN = 5  # some more than the plan gives out: they stay zero
_MAPS = (
    *("interfaces", "far_interfaces", "filters", "exclusions", "deliveries", "streams"),
    *("session_buckets", "cpu_bucket", "hop_lanes", "control_heard"),
    *("session_ledger", "interface_ledger", "strays", "home", "meters", "meter_notes", "meter_ranges"),
)
_FIRST = bytes(4)
_CAPACITY = Capacity(exclusions=4, deliveries=80, session_rows=80, interfaces=16)
_MARK_AT, _GSO_SEGS_AT, _GSO_SIZE_AT, _CONTEXT_BYTES = 8, 164, 176, 180  # struct __sk_buff, uapi linux/bpf.h
_MARK_MAGIC_MASK = 0xFE000000


@dataclass(frozen=True, slots=True)
class Offload:
    """A super-packet: how much payload each of its segments gets, and how many there are where the sender tells."""

    segment_bytes: int = 0
    segments: int = 0


Counted = dict[tuple[object, ...], tuple[int, int]]
"""(row, direction, name): (packets, bytes), without zeros. The name of a rule's figure is its id and action."""


class Bench:
    """``write`` a scene, ``run`` frames through it. ``close`` gives the handles back."""

    def __init__(self, loaded: bpf.Object) -> None:
        self._programs = {True: loaded.program("hook_ingress"), False: loaded.program("hook_egress")}
        self._maps = {name: loaded.map(name) for name in _MAPS}
        self._filters = self._maps["filters"].memory()
        self._meters = MeterBlocks(self._maps["meters"], self._maps["meter_notes"], self._maps["meter_ranges"])
        self._ranges: dict[int, MeterRange] = {}
        self._matched: dict[tuple[object, ...], Tally] = {}
        self._rows = ROWS_LOOKED_AT_MIN
        self._policy = bpf.create_array("policy", bytes(bytearray(abi.InterfacePolicy())))
        self._maps["interfaces"].put(_key(LOOPBACK_IFINDEX), _key(self._policy.fd))
        self._maps["home"].put(_FIRST, netns.cookie().to_bytes(8, "little"))
        lanes = abi.Lanes(count=1)
        lanes.lanes[0] = abi.LaneEntry(MISSING_IFINDEX, MISSING_IFINDEX)
        self._maps["hop_lanes"].put(_FIRST, bytes(lanes))

    def close(self) -> None:
        self._maps["interfaces"].delete(_key(LOOPBACK_IFINDEX))
        self._filters.close()
        self._meters.close()
        for handle in (*self._programs.values(), *self._maps.values(), self._policy):
            handle.close()

    def heard(self, at_ns: int) -> None:
        """The control plane was heard of then."""
        self._maps["control_heard"].put(_FIRST, at_ns.to_bytes(8, "little"))

    def program(self, *, at_ingress: bool) -> bpf.Program:
        return self._programs[at_ingress]

    def write(
        self,
        scene: Scene,
        *,
        remembers: bool = True,
        caps: Mapping[str, Rate] = MappingProxyType({}),
        budget: Rate = UNLIMITED,
        lease_s: int = 0,
        meters: int | None = None,
    ) -> None:
        """By the agent's own compile and plan. The one policy is rewritten in place: no frame is under way, and a
        swap of the pointer would wait for the kernel's grace period each time. ``caps`` are by session id, ``meters``
        how many there are; None: as many as there can be."""
        wanted = _limited(compile_state(scene.state, [_device(scene)], _ways(scene), lease_s=lease_s), caps, budget)
        self._rows = max(ROWS_LOOKED_AT_MIN, len(wanted.session_ids) + 2)
        for row in range(self._rows):
            self._maps["session_buckets"].put(_key(row), bytes(bytearray(abi.Bucket())))
        self._maps["cpu_bucket"].put(_FIRST, bytes(bytearray(abi.Bucket())))
        for key in list(self._maps["streams"].keys()):
            self._maps["streams"].delete(key)
        self._ranges = {}
        capacity = _CAPACITY if meters is None else replace(_CAPACITY, meters=meters)
        for change in plan(wanted, Tables(), capacity=capacity):
            match change:
                case WriteFilter(cell, value):
                    self._filters[cell * abi.CELL_BYTES : cell * abi.CELL_BYTES + len(value)] = value
                case WriteExclusions(slot, value):
                    self._maps["exclusions"].put(_key(slot), value)
                case WriteDelivery(slot, value):
                    self._maps["deliveries"].put(_key(slot), value)
                case PutStream(key, row):
                    self._maps["streams"].put(key, _key(row))
                case SwapPolicy(ifindex, value):
                    assert ifindex == LOOPBACK_IFINDEX
                    self._policy.put(_FIRST, abi.stamped(value, time.monotonic_ns() if remembers else 0))
                case WriteMeters(row, range_, names):
                    self._meters.write(row, range_, names)
                case CarryMeters(row, range_):  # from nowhere: the scene before has nothing to do with this one
                    self._meters.put(row, range_)
                    self._ranges[row] = range_
                case PutMeters():
                    assert meters is not None
                case ClearSessionRow() | ClearInterfaceRow() | ForgetSpent() | Attach():
                    pass
                case other:
                    raise AssertionError(f"nothing was held, but the plan says {other}")

    def swap(self, scene: Scene) -> None:
        """As the agent does it: another policy comes into the place of this one, which is never written."""
        was, self._policy = self._policy, bpf.create_array("policy", bytes(bytearray(abi.InterfacePolicy())))
        self.write(scene)
        self._maps["interfaces"].put(_key(LOOPBACK_IFINDEX), _key(self._policy.fd))
        was.close()

    @contextmanager
    def without_policy(self) -> Iterator[None]:
        """The interface is not mirrored in here."""
        self._maps["interfaces"].delete(_key(LOOPBACK_IFINDEX))
        try:
            yield
        finally:
            self._maps["interfaces"].put(_key(LOOPBACK_IFINDEX), _key(self._policy.fd))

    @contextmanager
    def at(self, ifindex: int, netns_cookie: int) -> Iterator[None]:
        """The policy is that of another device too, and its network namespace the one at home."""
        was = self._maps["home"].get(_FIRST)
        assert was is not None
        self._maps["home"].put(_FIRST, netns_cookie.to_bytes(8, "little"))
        near = self._maps["interfaces"]
        interfaces = near if ifindex < near.entries_max else self._maps["far_interfaces"]
        interfaces.put(_key(ifindex), _key(self._policy.fd))
        try:
            yield
        finally:
            interfaces.delete(_key(ifindex))
            self._maps["home"].put(_FIRST, was)

    def counted_by(self, send: Callable[[], object]) -> Counted:
        """What moves in all ledgers while a frame is sent by other means than BPF_PROG_TEST_RUN."""
        self._zero()
        send()
        return self._counted()

    def run(self, frame: bytes, *, at_ingress: bool, mark: int = 0, offload: Offload | None = None) -> Counted:
        """What moved in all ledgers. Asserts that the frame goes on as it came, unless it answers to a copy."""
        offload = offload or Offload()
        context = bytearray(_CONTEXT_BYTES)
        struct.pack_into("<I", context, _MARK_AT, mark)
        struct.pack_into("<I", context, _GSO_SEGS_AT, offload.segments)
        struct.pack_into("<I", context, _GSO_SIZE_AT, offload.segment_bytes)
        self._zero()
        ran = self._programs[at_ingress].test_run(frame, context=bytes(context))
        assert ran.frame == frame
        assert struct.unpack_from("<I", ran.context, _MARK_AT) == (mark,)
        counted = self._counted()
        refused = any(key[1:] == (Direction.INGRESS, InterfaceOutcome.TARGET_REFUSED) for key in counted)
        assert ran.verdict == (TCX_DROP if refused and _is_certainly_about_a_copy(frame) else TCX_NEXT)
        return counted

    def hook_figures(self, direction: Direction) -> HookFigures:
        """What the hooks have seen of the interface in the last run."""
        return abi.hook_figures(self._maps["interface_ledger"].get_percpu(_FIRST))[direction]

    def _zero(self) -> None:
        session, interface = bytes(bytearray(abi.SessionCounters())), bytes(bytearray(abi.InterfaceCounters()))
        for row in range(self._rows):
            self._maps["session_ledger"].put(_key(row), session)
            self._maps["interface_ledger"].put(_key(row), interface)
        self._maps["strays"].put(_FIRST, bytes(bytearray(abi.TallyEntry())))
        self._matched = self.matched()

    def _counted(self) -> Counted:
        counted: Counted = {}
        for row in range(self._rows):
            of_session = self._maps["session_ledger"].get_percpu(_key(row))
            of_interface = self._maps["interface_ledger"].get_percpu(_key(row))
            tallies: list[tuple[Direction, Enum, Tally]] = []
            if has_counted(of_session):
                for direction, session in abi.session_ledgers(of_session).items():
                    tallies += [(direction, *each) for each in (*session.verdicts.items(), *session.stages.items())]
            if has_counted(of_interface):
                for direction, interface in abi.interface_ledgers(of_interface).items():
                    tallies += [(direction, *each) for each in interface.outcomes.items()]
            counted.update(
                ((row, direction, name), (tally.packets, tally.bytes))
                for direction, name, tally in tallies
                if tally.packets or tally.bytes
            )
        for key, tally in self.matched().items():
            before = self._matched.get(key, Tally())
            if tally != before:
                counted[key] = tally.packets - before.packets, tally.bytes - before.bytes
        strays = b"".join(self._maps["strays"].get_percpu(_FIRST))
        assert not any(strays)
        return counted

    def matched(self) -> dict[tuple[object, ...], Tally]:
        """What rules have matched since `write`, by the keys of `Counted`."""
        return {
            (row, rule.direction, (rule.rule_id, rule.action)): rule.matched
            for row, range_ in self._ranges.items()
            for rule in self._meters.figures(row, range_)
        }


def has_counted(by_cpu: Sequence[bytes]) -> bool:
    """Whether any byte is not zero; most rows are, and taking them apart costs more than a decision."""
    return any(value.strip(b"\0") for value in by_cpu)


def _limited(wanted: Wanted, caps: Mapping[str, Rate], budget: Rate) -> Wanted:
    [interface] = wanted.interfaces
    sessions = tuple(
        replace(session, cap=caps.get(session.delivery.session_id, UNLIMITED)) for session in interface.sessions
    )
    return replace(wanted, interfaces=(replace(interface, sessions=sessions),), budget=budget)


def expected(
    scene: Scene, frame: bytes, *, at_ingress: bool, mark: int = 0, wire: tuple[int, int] | None = None
) -> Counted:
    """What the Python model says must move; ``wire``: packets and bytes on the wire, where it is a super-packet."""
    wire = wire or (1, len(frame))
    direction = Direction.INGRESS if at_ingress != scene.is_host_side else Direction.EGRESS
    (interface,) = scene.state.interfaces
    parsed = headers.parse(frame)
    counted: Counted = {}
    outcome = _before_the_filters(frame, parsed, direction, mark)
    if isinstance(parsed, headers.Headers) and outcome is None:
        candidates = [
            Candidate(session.session_id, session.number, scene.state.filters[session.filter_id].filter())
            for session in interface.sessions
        ]
        surroundings = Surroundings(
            tuple(line.exclusion() for line in scene.state.exclusions),
            frozenset(ip_address(resolver) for resolver in interface.resolvers),
        )
        sessions = {session.session_id: session for session in interface.sessions}
        rows = {each.session_id: row for row, each in enumerate(sorted(sessions.values(), key=lambda one: one.number))}
        result = evaluation.evaluate(parsed, direction, candidates, surroundings)
        if not result.excluded and (owners := _owners(scene, rows, copies.outer_of(frame, parsed))):
            return {(0, direction, InterfaceOutcome.OWN_COPY): wire}
        if not result.excluded and (owners := _owners(scene, rows, copies.outer_quoted(frame, parsed))):
            counted[0, direction, InterfaceOutcome.TARGET_REFUSED] = wire
            if direction is Direction.INGRESS and len(owners) == 1:
                counted[owners[0], direction, Stage.TARGET_REFUSED] = wire
            return counted
        for offer in result.offers:
            counted[rows[offer.session_id], direction, offer.decision.verdict] = wire
            rule = _decided_by(offer.decision)
            if rule is not None:
                counted[rows[offer.session_id], direction, rule] = wire
        outcome = InterfaceOutcome.NEVER_MIRRORED if result.excluded else InterfaceOutcome.NOT_TAKEN
        if result.taken_by is not None:
            outcome = InterfaceOutcome.TAKEN
            counted[rows[result.taken_by], direction, _stage(sessions[result.taken_by])] = wire
    counted[0, direction, outcome] = wire
    return counted


def _decided_by(decision: Decision) -> tuple[str, Action] | None:
    """Its id and action; the rules here have no ids, and so go by their numbers."""
    if decision.rule is not None:
        return f"number {decision.rule.number}", decision.rule.action
    return (AMAZON_DNS_RULE, Action.ACCEPT) if decision.taken else None


def _is_certainly_about_a_copy(frame: bytes) -> bool:
    """Not so far that what the source sent itself to the same port could be meant."""
    parsed = headers.parse(frame)
    quoted = copies.outer_quoted(frame, parsed) if isinstance(parsed, headers.Headers) else None
    return quoted is not None and quoted.vni is not None


def _owners(scene: Scene, rows: Mapping[str, int], outer: copies.Outer | None) -> list[int]:
    """The ledger rows of the sessions that send such copies; without a VNI every VNI will do."""
    (interface,) = scene.state.interfaces
    return [
        rows[session.session_id]
        for session in interface.sessions
        if outer is not None
        and isinstance(session.delivery, Destination)
        and (to := ip_address(session.delivery.address)) in (REACHABLE, REACHABLE6)
        and (outer.destination, outer.port) == (to, 4789)
        and str(outer.source) == (session.delivery.outer_source or interface.primary_address)
        and outer.vni in (None, session.vni)
    ]


def _before_the_filters(
    frame: bytes, parsed: headers.Headers | headers.NotParsed, direction: Direction, mark: int
) -> InterfaceOutcome | None:
    if mark & _MARK_MAGIC_MASK == abi.MARK_MAGIC:
        return InterfaceOutcome.OWN_COPY
    if direction is Direction.INGRESS and not frame[0] & 1 and frame[:6] != OWN_MAC:
        return InterfaceOutcome.NOT_FOR_THIS_INTERFACE
    if parsed is headers.NotParsed.MALFORMED:
        return InterfaceOutcome.MALFORMED
    if parsed is headers.NotParsed.NOT_IP:
        return InterfaceOutcome.NEVER_MIRRORED if _is_arp(frame) else InterfaceOutcome.NOT_IP
    return None


def _is_arp(frame: bytes) -> bool:
    offset = 12
    for _ in range(headers.VLAN_TAGS_MAX):
        if int.from_bytes(frame[offset : offset + 2]) in headers.VLAN_ETHERTYPES:
            offset += 4
    return int.from_bytes(frame[offset : offset + 2]) == ARP


def _stage(session: DesiredSession) -> Stage:
    if not isinstance(session.delivery, Destination):
        return Stage.UNDELIVERABLE
    reachable = ip_address(session.delivery.address) in (REACHABLE, REACHABLE6)
    return Stage.CLONE_FAILED if reachable else Stage.NO_ROUTE


def _device(scene: Scene) -> Device:
    found = FoundInterface(
        key=KEY,
        provider="netns",
        instance="web",
        name="eth0",
        device="web0",
        kind="veth",
        mac=OWN_MAC.hex(":"),
        addresses=("10.0.0.48",),
        mtu=1500,
        up=True,
    )
    return Device(found, LOOPBACK_IFINDEX, scene.is_host_side)


def _ways(scene: Scene) -> dict[RouteQuery, Way]:
    next_hops = {REACHABLE: IPv4Address("10.0.0.1"), REACHABLE6: IPv6Address("fd00::1")}
    return {
        query: Way(ifindex=7, next_hop=next_hops[query.address], mtu=1500)
        for query in route_queries(scene.state)
        if query.address in next_hops
    }


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")

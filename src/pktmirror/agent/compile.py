"""From EC2's words to the kernel's: the desired state of a host becomes map entries. Pure, and the only border.

What cannot be delivered is compiled all the same, with the stage under which the kernel counts its packets, and a
sentence that says why.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pktmirror.agent import abi
from pktmirror.agent.classifier import filter_bytes
from pktmirror.agent.exclusions import exclusion_bytes
from pktmirror.agent.inventory import Device
from pktmirror.agent.meters import meter_names
from pktmirror.agent.neighbours import NextHop, no_answer
from pktmirror.agent.shortcuts import Shortcut
from pktmirror.agent.ways import RouteQuery, Way, leaves_ahead, leaves_whole
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    StreamDocument,
    Undeliverable,
)
from pktmirror.model.exclusions import Exclusion
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.underlay import OUTER_BYTES, OUTER_BYTES_MAX, OuterSource

Address = IPv4Address | IPv6Address

ETHERNET_BYTES = 14
NO_MAC = "its MAC address is not known"


class Uncompilable(Exception):
    """The document asks for what the data plane cannot hold, or does not hang together. The message says what."""


@dataclass(frozen=True, slots=True)
class WantedDelivery:
    """Where a session's copies go; zeros where there is nowhere to go. All addresses are of one family."""

    session_id: str
    outer_source: Address
    outer_destination: Address
    next_hop: Address
    port: int
    vni: int
    ifindex: int
    packet_bytes_max: int
    room_bytes_max: int
    leaves_whole: bool = False
    leaves_ahead: bool = False
    shortcut: Shortcut | None = None

    @property
    def hop(self) -> NextHop:
        return self.ifindex, self.next_hop


@dataclass(frozen=True, slots=True)
class CopyStream:
    """How the copies of a session are known on the wire, here and at other hosts (spec 5.19)."""

    outer_source: Address
    outer_destination: Address
    vni: int
    port: int


@dataclass(frozen=True, slots=True)
class WantedSession:
    """A session at an interface: its filter as `filter_bytes` makes it, its delivery, and where its packets end."""

    filter: bytes
    delivery: WantedDelivery
    stage: Stage
    cap: Rate = UNLIMITED
    meters: bytes = b""  # their names; empty: what its rules match is not counted

    @property
    def has_way(self) -> bool:
        """Whether its delivery says where copies go, also while the next hop there does not answer."""
        return self.stage in (Stage.SENT, Stage.NEIGHBOUR_UNRESOLVED)


@dataclass(frozen=True, slots=True)
class WantedInterface:
    """A device to mirror, its sessions in ascending number."""

    ifindex: int
    mac: bytes
    is_host_side: bool
    resolvers: tuple[Address, ...]
    sessions: tuple[WantedSession, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the kernel should hold, and what stands in the way, by session."""

    interfaces: tuple[WantedInterface, ...]
    exclusions: bytes
    session_ids: frozenset[str]  # also those whose interface is gone: their ledger is kept
    problems: Mapping[str, str]
    budget: Rate = UNLIMITED
    cpus: int = 1  # that share the budget
    streams: frozenset[CopyStream] = frozenset()  # of other hosts; those of the interfaces here come with them
    lease_s: int = 0  # how long copies are made without a word of the control plane; 0: for ever

    @property
    def next_hops(self) -> frozenset[NextHop]:
        """To which copies are sent, or would be if they answered."""
        sessions = (session for interface in self.interfaces for session in interface.sessions)
        return frozenset(session.delivery.hop for session in sessions if session.has_way)


def route_queries(desired: DesiredState) -> frozenset[RouteQuery]:
    """The questions whose answers `compile_state` needs; raises Uncompilable."""
    return frozenset(
        _query(interface, session.delivery)
        for interface in desired.interfaces
        for session in interface.sessions
        if isinstance(session.delivery, Destination)
    )


class CompiledFilters:
    """Filters compiled before, so that a document that has not changed is not compiled again.

    What the last two states held is known: where one of them cannot be compiled, the agent goes on with the other, and
    asks for both in turn.
    """

    def __init__(self) -> None:
        self._known: tuple[dict[str, _Compiled], dict[str, _Compiled]] = ({}, {})

    def of(self, desired: DesiredState) -> dict[str, "_Compiled"]:
        """All filters of a state, by id. Raises Uncompilable."""
        last, before = self._known
        found: dict[str, _Compiled] = {}
        self._known = found, last
        for filter_id, document in desired.filters.items():
            candidates = (last.get(filter_id), before.get(filter_id))
            known = next((each for each in candidates if each is not None and _is_of(each, document)), None)
            found[filter_id] = known or _filter(filter_id, document)
        return found


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A filter as `filter_bytes` makes it, and the names of the meters of a session that has it."""

    document: FilterDocument
    value: bytes
    meters: bytes


def _is_of(compiled: _Compiled, document: FilterDocument) -> bool:
    return compiled.document is document or compiled.document == document


def compile_state(
    desired: DesiredState,
    devices: Iterable[Device],
    ways: Mapping[RouteQuery, Way],
    compiled: CompiledFilters | None = None,
    budget: Rate = UNLIMITED,
    cpus: int = 1,
    lease_s: int = 0,
    unresolved: frozenset[NextHop] = frozenset(),
) -> Wanted:
    """``ways`` lacks the queries that have no answer; to the ``unresolved`` next hops nothing is sent.

    Raises Uncompilable, and then nothing is to be changed.
    """
    # By its plain key too: what is desired may be of before its engine was heard (docs/decisions/0022).
    by_key = {device.found.plain_key: device for device in devices if device.found.plain_key is not None}
    by_key |= {device.found.key: device for device in devices}
    filters = (compiled or CompiledFilters()).of(desired)
    interfaces: list[WantedInterface] = []
    problems: dict[str, str] = {}
    for interface in desired.interfaces:
        device = by_key.get(interface.key)
        problem = "interface gone" if device is None else device.found.not_mirrorable
        if device is None or device.found.mac is None or problem is not None:
            problems.update((session.session_id, problem or NO_MAC) for session in interface.sessions)
            continue
        _refuse_more(len(interface.sessions), abi.SESSIONS_MAX, f"sessions at {interface.interface_id}")
        _refuse_more(len(interface.resolvers), abi.RESOLVERS_MAX, f"resolvers of {interface.interface_id}")
        sessions: list[WantedSession] = []
        for session in sorted(interface.sessions, key=lambda session: session.number):
            if session.filter_id not in filters:
                raise Uncompilable(f"{session.session_id} names the filter {session.filter_id}, which is not there")
            wanted, problem = _session(
                interface, session, device.found.mtu, filters[session.filter_id], ways, unresolved
            )
            sessions.append(wanted)
            if problem is not None:
                problems[session.session_id] = problem
        interfaces.append(
            WantedInterface(
                device.ifindex,
                bytes.fromhex(device.found.mac.replace(":", "")),
                device.is_host_side,
                tuple(_address(resolver) for resolver in interface.resolvers),
                tuple(sessions),
            )
        )
    session_ids = frozenset(session.session_id for each in desired.interfaces for session in each.sessions)
    _refuse_more(len(desired.exclusions), abi.EXCLUSIONS_MAX, "lines in the never-mirrored table")
    table = exclusion_bytes([_exclusion(line) for line in desired.exclusions])
    return Wanted(tuple(interfaces), table, session_ids, problems, budget, cpus, _streams(desired.streams), lease_s)


def _query(interface: DesiredInterface, destination: Destination) -> RouteQuery:
    underlay = interface.underlay
    return RouteQuery(_address(destination.address), underlay.route_table, underlay.device)


def _session(
    interface: DesiredInterface,
    session: DesiredSession,
    mtu: int,
    filter_: _Compiled,
    ways: Mapping[RouteQuery, Way],
    unresolved: frozenset[NextHop],
) -> tuple[WantedSession, str | None]:
    delivery = session.delivery
    if isinstance(delivery, Undeliverable):
        return _unsent(interface, session, filter_, Stage.UNDELIVERABLE), delivery.reason
    query = _query(interface, delivery)
    of_eni = _address(delivery.outer_source or interface.primary_address)
    of_host = interface.underlay.outer_source is OuterSource.HOST
    target = query.address
    if not of_host and of_eni.version != target.version:
        problem = f"the source's address {of_eni} and the target's {target} are of two families, and a copy has one"
        return _unsent(interface, session, filter_, Stage.UNDELIVERABLE), problem
    way = ways.get(query)
    by = f"table {query.table}" + (f", device {query.device}" if query.device else "")
    if way is None or way.next_hop.version != target.version:
        return _unsent(interface, session, filter_, Stage.NO_ROUTE), f"no route to the target {target} ({by})"
    source = way.source if of_host else of_eni
    if source is None or source.version != target.version:
        problem = (
            f"the route to the target {target} ({by}) has no preferred source, and the host's address is to be the "
            "outer source of the copies"
        )
        return _unsent(interface, session, filter_, Stage.NO_ROUTE), problem
    limits = [way.mtu, delivery.mtu, interface.underlay.mtu_max, OUTER_BYTES_MAX[target.version]]
    room_bytes_max = max(0, min(limit for limit in limits if limit is not None) - OUTER_BYTES[target.version])
    whole = (
        leaves_whole(interface.underlay.segmentation, way.splits)
        and target.version == 4  # each packet's outer checksum over IPv6 is made here
        and not session.packet_bytes_max
        and mtu + ETHERNET_BYTES <= room_bytes_max
    )
    to = WantedDelivery(
        session_id=session.session_id,
        outer_source=source,
        outer_destination=target,
        next_hop=way.next_hop,
        port=delivery.port,
        vni=session.vni,
        ifindex=way.ifindex,
        packet_bytes_max=session.packet_bytes_max or 0,
        room_bytes_max=room_bytes_max,
        leaves_whole=whole,
        leaves_ahead=whole and leaves_ahead(interface.underlay.segmentation, way.is_card),
        shortcut=way.shortcut if interface.underlay.shortcut else None,
    )
    if to.hop in unresolved:
        stage = Stage.NEIGHBOUR_UNRESOLVED
        return WantedSession(filter_.value, to, stage, session.cap, filter_.meters), no_answer(to.hop)
    return WantedSession(filter_.value, to, Stage.SENT, session.cap, filter_.meters), None


def _unsent(interface: DesiredInterface, session: DesiredSession, filter_: _Compiled, stage: Stage) -> WantedSession:
    """A session whose packets all end at ``stage``."""
    nowhere = IPv4Address(0)
    primary = _address(interface.primary_address)
    of_eni = interface.underlay.outer_source is OuterSource.ENI
    source = primary if of_eni and isinstance(primary, IPv4Address) else nowhere
    packet_bytes_max = session.packet_bytes_max or 0
    to = WantedDelivery(session.session_id, source, nowhere, nowhere, 0, session.vni, 0, packet_bytes_max, 0)
    return WantedSession(filter_.value, to, stage, session.cap, filter_.meters)


@functools.lru_cache(maxsize=2)  # there may be 10,000 of them, and a document is compiled every second
def _streams(documents: tuple[StreamDocument, ...]) -> frozenset[CopyStream]:
    try:
        return frozenset(_stream(each) for each in documents)
    except ValueError as error:
        raise Uncompilable(f"the copies of other hosts: {error}") from None


def _stream(document: StreamDocument) -> CopyStream:
    source, destination = ip_address(document.outer_source), ip_address(document.outer_destination)
    if source.version != destination.version:
        raise ValueError(f"{source} and {destination} are of two families")
    return CopyStream(source, destination, document.vni, document.port)


def _filter(filter_id: str, document: FilterDocument) -> _Compiled:
    _refuse_more(len(document.rules), abi.RULES_MAX, f"rules in filter {filter_id}")
    try:
        filter_ = document.filter()
        names = meter_names(filter_, [rule.rule_id for rule in document.rules])
        return _Compiled(document, filter_bytes(filter_), names)
    except ValueError as error:
        raise Uncompilable(f"filter {filter_id}: {error}") from None


def _exclusion(line: ExclusionDocument) -> Exclusion:
    try:
        return line.exclusion()
    except ValueError as error:
        raise Uncompilable(f"never-mirrored table, {line.why}: {error}") from None


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise Uncompilable(str(error)) from None


def _refuse_more(count: int, most: int, what: str) -> None:
    if count > most:
        raise Uncompilable(f"{count} {what}; the data plane holds {most}")

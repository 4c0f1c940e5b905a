"""What each host must make true: the account's resources become one document for each agent. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address

from pktmirror.control import caps
from pktmirror.control.records import (
    FilterRecord,
    InterfaceRecord,
    RuleRecord,
    SessionRecord,
    TargetRecord,
)
from pktmirror.control.store import Transaction
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    StreamDocument,
    Undeliverable,
    Underlay,
)
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Filter
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.target import InterfaceTarget
from pktmirror.model.underlay import OuterSource, Segmentation, outer_addresses
from pktmirror.networks import LINK_LOCAL_RESOLVER, Networks

TARGET_TYPE_NOT_DELIVERABLE = "target type not yet deliverable"
TARGET_INTERFACE_GONE = "target interface gone"
TARGET_WITHOUT_ADDRESS = "target interface has no primary address"
TARGET_OF_OTHER_FAMILY = "source and target have no address of one family"
OUTER_SOURCE_NOT_TOLD = "its agent has not said yet which address of the host its copies carry"

Stream = tuple[int, str, str]
"""VNI, outer source, outer destination."""


@dataclass(frozen=True)
class Resources:
    """All that placement looks at, as it stood at one revision.

    By session id: ``caps`` of those that have one, and ``outer_sources``, which their agents have told at any time.
    """

    revision: int
    interfaces: dict[str, InterfaceRecord]
    targets: dict[str, TargetRecord]
    filters: dict[str, FilterRecord]
    rules: tuple[RuleRecord, ...]
    sessions: tuple[SessionRecord, ...]
    networks: Networks = field(default_factory=Networks)
    caps: Mapping[str, Rate] = field(default_factory=dict)
    outer_sources: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, transaction: Transaction) -> "Resources":
        outer_sources: dict[str, set[str]] = {}
        for record in transaction.streams.where():
            outer_sources.setdefault(record.session_id, set()).add(record.outer_source)
        return cls(
            transaction.revision,
            {record.interface_id: record for record in transaction.interfaces.where()},
            {record.target_id: record for record in transaction.targets.where()},
            {record.filter_id: record for record in transaction.filters.where()},
            tuple(transaction.rules.where()),
            tuple(transaction.sessions.where()),
            transaction.networks,
            {session_id: caps.cap_of(tags) for session_id, tags in transaction.tags.with_keys(caps.KEYS).items()},
            {session_id: frozenset(told) for session_id, told in outer_sources.items()},
        )

    @cached_property
    def streams(self) -> Mapping[str, frozenset[Stream]]:
        """The streams of each host's sessions.

        Where the outer source is the host's, each that its agent has ever told for the session.
        """
        found: dict[str, set[Stream]] = {}
        for session in self.sessions:
            here = found.setdefault(self.interfaces[session.interface_id].host_id, set())
            for told in (None, *self.outer_sources.get(session.session_id, ())):
                match stream_of(session, self, told):
                    case (_, _, _) as stream:
                        here.add(stream)
        return {host_id: frozenset(streams) for host_id, streams in found.items()}

    @cached_property
    def taken_keys(self) -> frozenset[tuple[str, str]]:
        """By host: keys that are no interface's any more, as the device that had them is known by another one now."""
        records = self.interfaces.values()
        return frozenset(
            (r.host_id, r.found.plain_key) for r in records if r.attached and r.found.plain_key is not None
        )


def desired_state(resources: Resources, host_id: str) -> DesiredState:
    """The document of one host: its interfaces with sessions, and the filters that these use."""
    placed: dict[str, list[SessionRecord]] = {}
    for session in resources.sessions:
        interface = resources.interfaces[session.interface_id]
        # Without an address of its own nothing says where a copy came from; `status` names it as the problem. Whether
        # the device can be mirrored now its agent knows best: it keeps what it cannot mirror, as it does what is gone.
        if interface.host_id != host_id or interface.primary_address is None:
            continue
        if (host_id, interface.found.key) not in resources.taken_keys:
            placed.setdefault(session.interface_id, []).append(session)
    used = {session.filter_id for sessions in placed.values() for session in sessions}
    return DesiredState(
        host_id=host_id,
        revision=resources.revision,
        interfaces=tuple(
            _interface(resources, resources.interfaces[interface_id], sessions)
            for interface_id, sessions in sorted(placed.items())
        ),
        filters={filter_id: _filter(resources, filter_id) for filter_id in sorted(used)},
        exclusions=tuple(ExclusionDocument.of(line) for line in NEVER_MIRRORED),
        streams=streams_of_others(resources, host_id) if placed else (),
        knows_plain_keys=True,
    )


def streams_of_others(resources: Resources, host_id: str) -> tuple[StreamDocument, ...]:
    """The copies that other hosts send: all of them, as none can be known to never come by (docs/decisions/0009)."""
    others = (streams for other, streams in resources.streams.items() if other != host_id)
    found = sorted(set[Stream]().union(*others))
    return tuple(StreamDocument(outer_source, destination, vni) for vni, outer_source, destination in found)


def stream_of(session: SessionRecord, resources: Resources, told: str | None) -> Stream | Undeliverable:
    """The stream that a session uses now. Where its source has no address, it has none.

    ``told`` is the outer source that its agent says it uses: only the host knows what its routes prefer.
    """
    match delivery(session, resources):
        case Destination(address=address, outer_source=str() as own):
            return session.vni, own, address
        case Destination(address=address):
            if told is None or (":" in told) != (":" in address):  # of another family: it was told of another target
                return Undeliverable(reason=OUTER_SOURCE_NOT_TOLD)
            return session.vni, told, address
        case Undeliverable() as nowhere:
            return nowhere


def delivery(session: SessionRecord, resources: Resources) -> Destination | Undeliverable:
    """Where the copies of a session go, or why they go nowhere (spec 1.3: the objects remain, mirroring stops)."""
    target = resources.targets[session.target_id].target
    if not isinstance(target, InterfaceTarget):
        return Undeliverable(reason=TARGET_TYPE_NOT_DELIVERABLE)
    interface = resources.interfaces.get(target.interface_id)
    if interface is None or not interface.attached:
        return Undeliverable(reason=TARGET_INTERFACE_GONE)
    if interface.primary_address is None:
        return Undeliverable(reason=TARGET_WITHOUT_ADDRESS)
    source = resources.interfaces[session.interface_id]
    network = underlay(source, resources.networks)
    ends = outer_addresses(
        [ip_address(address) for address in source.addresses],
        [ip_address(address) for address in interface.addresses],
        network.outer_source,
        network.family,
    )
    if ends is None:
        over = "" if network.family is None else f" over which copies leave (IPv{network.family})"
        return Undeliverable(reason=TARGET_OF_OTHER_FAMILY + over)
    own, address = ends
    of_eni = network.outer_source is OuterSource.ENI
    return Destination(address=str(address), outer_source=str(own) if of_eni else None, mtu=interface.found.mtu)


def underlay(interface: InterfaceRecord, networks: Networks) -> Underlay:
    """The network on which the copies of an interface leave: its VPC's, or the host's main one where it has none."""
    place = networks.place(interface.primary_address) if interface.primary_address is not None else None
    if place is None:
        return Underlay()
    declared = place[0].underlay
    return Underlay(
        route_table=declared.route_table,
        device=declared.device,
        mtu_max=declared.mtu_max,
        segmentation=Segmentation(declared.segmentation),
        shortcut=declared.shortcut,
        outer_source=OuterSource(declared.outer_source),
        family=declared.family,
    )


def _interface(resources: Resources, interface: InterfaceRecord, sessions: Sequence[SessionRecord]) -> DesiredInterface:
    address = interface.primary_address
    place = resources.networks.place(address) if address is not None else None
    resolvers = (LINK_LOCAL_RESOLVER,) if place is None else place[0].resolvers
    return DesiredInterface(
        key=interface.found.key,
        interface_id=interface.interface_id,
        primary_address=str(address),
        underlay=underlay(interface, resources.networks),
        resolvers=tuple(str(resolver) for resolver in resolvers),
        sessions=tuple(
            _session(resources, session) for session in sorted(sessions, key=lambda session: session.number)
        ),
    )


def _session(resources: Resources, session: SessionRecord) -> DesiredSession:
    return DesiredSession(
        session_id=session.session_id,
        number=session.number,
        vni=session.vni,
        filter_id=session.filter_id,
        packet_bytes_max=session.packet_bytes_max,
        delivery=delivery(session, resources),
        cap=resources.caps.get(session.session_id, UNLIMITED),
    )


def _filter(resources: Resources, filter_id: str) -> FilterDocument:
    records = [record for record in resources.rules if record.filter_id == filter_id]
    ordered = sorted(records, key=lambda record: (record.rule.direction.value, record.rule.number))
    filter_ = Filter(tuple(record.rule for record in ordered), resources.filters[filter_id].services)
    return FilterDocument.of(filter_, [record.rule_id for record in ordered])

"""What each host must make true: the account's resources become one document for each agent. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    Undeliverable,
    Underlay,
)
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Filter
from pktmirror.model.target import InterfaceTarget
from pktmirror.model.underlay import OuterSource
from pktmirror.networks import LINK_LOCAL_RESOLVER, Networks

TARGET_TYPE_NOT_DELIVERABLE = "target type not yet deliverable"
TARGET_INTERFACE_GONE = "target interface gone"
TARGET_WITHOUT_ADDRESS = "target interface has no primary address"
TARGET_OF_OTHER_FAMILY = "source and target have no address of one family"


@dataclass(frozen=True)
class Resources:
    """All that placement looks at, as it stood at one revision."""

    revision: int
    interfaces: dict[str, InterfaceRecord]
    targets: dict[str, TargetRecord]
    filters: dict[str, FilterRecord]
    rules: tuple[RuleRecord, ...]
    sessions: tuple[SessionRecord, ...]
    networks: Networks = field(default_factory=Networks)

    @classmethod
    def of(cls, transaction: Transaction) -> "Resources":
        return cls(
            transaction.revision,
            {record.interface_id: record for record in transaction.interfaces.where()},
            {record.target_id: record for record in transaction.targets.where()},
            {record.filter_id: record for record in transaction.filters.where()},
            tuple(transaction.rules.where()),
            tuple(transaction.sessions.where()),
            transaction.networks,
        )


def desired_state(resources: Resources, host_id: str) -> DesiredState:
    """The document of one host: its interfaces with sessions, and the filters that these use."""
    placed: dict[str, list[SessionRecord]] = {}
    for session in resources.sessions:
        interface = resources.interfaces[session.interface_id]
        # Without an address of its own nothing says where a copy came from; `status` names it as the problem. Whether
        # the device can be mirrored now its agent knows best: it keeps what it cannot mirror, as it does what is gone.
        if interface.host_id == host_id and interface.primary_address is not None:
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
    )


def delivery(session: SessionRecord, resources: Resources) -> Destination | Undeliverable:
    """Where the copies of a session go, or why they go nowhere (spec 1.3: the objects remain, mirroring stops)."""
    target = resources.targets[session.target_id].target
    if not isinstance(target, InterfaceTarget):
        return Undeliverable(reason=TARGET_TYPE_NOT_DELIVERABLE)
    interface = resources.interfaces.get(target.interface_id)
    if interface is None or not interface.attached:
        return Undeliverable(reason=TARGET_INTERFACE_GONE)
    address = interface.primary_address
    if address is None:
        return Undeliverable(reason=TARGET_WITHOUT_ADDRESS)
    source = resources.interfaces[session.interface_id]
    own = source.primary_address
    of_eni = underlay(source, resources.networks).outer_source is OuterSource.ENI
    if of_eni and own is not None and own.version != address.version:
        return Undeliverable(reason=TARGET_OF_OTHER_FAMILY)
    return Destination(address=str(address), mtu=interface.found.mtu)


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
        outer_source=OuterSource(declared.outer_source),
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
    )


def _filter(resources: Resources, filter_id: str) -> FilterDocument:
    rules = [record.rule for record in resources.rules if record.filter_id == filter_id]
    ordered = sorted(rules, key=lambda rule: (rule.direction.value, rule.number))
    return FilterDocument.of(Filter(tuple(ordered), resources.filters[filter_id].services))

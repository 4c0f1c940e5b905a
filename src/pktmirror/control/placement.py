"""What each host must make true: the account's resources become one document for each agent. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address

import msgspec

from pktmirror.control import caps, sharing
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
    encode,
)
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Filter
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.target import InterfaceTarget
from pktmirror.model.underlay import OuterSource, Segmentation, outer_addresses
from pktmirror.networks import LINK_LOCAL_RESOLVER, Networks

TARGET_TYPE_NOT_DELIVERABLE = "target type not yet deliverable"
TARGET_INTERFACE_GONE = "target interface gone"
TARGET_NOT_SHARED = "its target is another account's, which does not share it any more"
TARGET_WITHOUT_ADDRESS = "target interface has no primary address"
TARGET_OF_OTHER_FAMILY = "source and target have no address of one family"
OUTER_SOURCE_NOT_TOLD = "its agent has not said yet which address of the host its copies carry"

_NO_STREAMS = b'"streams":[]}'
_EXCLUSIONS = tuple(ExclusionDocument.of(line) for line in NEVER_MIRRORED)
Stream = tuple[int, str, str]
"""VNI, outer source, outer destination."""


@dataclass(frozen=True)
class Resources:
    """All that placement looks at, as it stood at one revision.

    By session id: ``caps`` of those that have one, and ``outer_sources``, which their agents have told at any time.
    ``lapsed`` are those to a target that another account shares with theirs no more.
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
    lapsed: frozenset[str] = frozenset()

    @classmethod
    def placed(cls, transaction: Transaction) -> "Resources":
        """As `of`, but of all interfaces those alone that documents speak of: most hosts mirror few of theirs."""
        sources = {session.interface_id for session in transaction.sessions.where()}
        targets = (record.target for record in transaction.targets.where())
        behind = {target.interface_id for target in targets if isinstance(target, InterfaceTarget)}
        placed = transaction.interfaces.some(sources | behind)
        # What is gone may have left its key to another (`taken_keys`), of which no document speaks.
        left_by = {record.host_id for record in placed if not record.attached}
        beside = [each for host_id in sorted(left_by) for each in transaction.interfaces.where(host_id=host_id)]
        takers = [record for record in beside if record.found.plain_key is not None]
        return cls.of(transaction, {record.interface_id: record for record in (*placed, *takers)})

    @classmethod
    def of(cls, transaction: Transaction, interfaces: dict[str, InterfaceRecord] | None = None) -> "Resources":
        """``interfaces`` None: all that there are."""
        outer_sources: dict[str, set[str]] = {}
        for record in transaction.streams.where():
            outer_sources.setdefault(record.session_id, set()).add(record.outer_source)
        sessions = tuple(transaction.sessions.where())
        return cls(
            transaction.revision,
            {record.interface_id: record for record in transaction.interfaces.where()}
            if interfaces is None
            else interfaces,
            {record.target_id: record for record in transaction.targets.where()},
            {record.filter_id: record for record in transaction.filters.where()},
            tuple(transaction.rules.where()),
            sessions,
            transaction.networks,
            {session_id: caps.cap_of(tags) for session_id, tags in transaction.tags.with_keys(caps.KEYS).items()},
            {session_id: frozenset(told) for session_id, told in outer_sources.items()},
            sharing.lapsed(transaction, sessions),
        )

    @cached_property
    def interface_ids(self) -> Mapping[tuple[str, str], str]:
        """By host and key."""
        return {(record.host_id, record.found.key): record.interface_id for record in self.interfaces.values()}

    @cached_property
    def sessions_by_host(self) -> Mapping[str, Sequence[SessionRecord]]:
        found: dict[str, list[SessionRecord]] = {}
        for session in self.sessions:
            found.setdefault(self.interfaces[session.interface_id].host_id, []).append(session)
        return found

    @cached_property
    def rules_by_filter(self) -> Mapping[str, Sequence[RuleRecord]]:
        found: dict[str, list[RuleRecord]] = {}
        for record in self.rules:
            found.setdefault(record.filter_id, []).append(record)
        return found

    @cached_property
    def filter_documents(self) -> dict[str, FilterDocument]:
        """Those that some host was told of."""
        return {}

    @cached_property
    def streams_written(self) -> "WrittenStreams":
        return WrittenStreams.of(self.streams)

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


@dataclass(frozen=True)
class WrittenStreams:
    """The streams of all hosts as they stand in a document: written once, and left out where a host has them itself."""

    text: bytes
    own: Mapping[str, Sequence[tuple[int, int]]]
    """By host: where those stand that no other host has, in order."""

    @classmethod
    def of(cls, streams: Mapping[str, frozenset[Stream]]) -> "WrittenStreams":
        hosts: dict[Stream, list[str]] = {}
        for host_id, had in streams.items():
            for stream in had:
                hosts.setdefault(stream, []).append(host_id)
        parts: list[bytes] = []
        own: dict[str, list[tuple[int, int]]] = {}
        at = 0
        for stream in sorted(hosts):
            parts.append(msgspec.json.encode(_stream(stream)) + b",")
            if len(hosts[stream]) == 1:
                own.setdefault(hosts[stream][0], []).append((at, at + len(parts[-1])))
            at += len(parts[-1])
        return cls(b"".join(parts), own)

    def id_of(self, host_id: str) -> str:
        """Of what `of_others` gives, and of nothing else."""
        own = b"".join(self.text[first:end] for first, end in self.own.get(host_id, ()))
        return hashlib.blake2b(own, key=self._digest, digest_size=16).hexdigest()

    @cached_property
    def _digest(self) -> bytes:
        return hashlib.blake2b(self.text, digest_size=32).digest()

    def of_others(self, host_id: str) -> bytes:
        kept, at = [], 0
        for first, end in self.own.get(host_id, ()):
            kept.append(self.text[at:first])
            at = end
        return b"".join((*kept, self.text[at:])).removesuffix(b",")


def document(resources: Resources, host_id: str, streams_known: str = "") -> bytes:
    """`desired_state` as it is sent; without the streams where those that the host knows by their id are the same."""
    state = desired_state(resources, host_id, with_streams=False)
    if not state.interfaces:
        return encode(state)
    streams = resources.streams_written
    id_ = streams.id_of(host_id)
    if id_ == streams_known:
        return encode(msgspec.structs.replace(state, streams_id=id_, streams_kept=True))
    before, _, after = encode(msgspec.structs.replace(state, streams_id=id_)).rpartition(_NO_STREAMS)
    assert not after, "the streams are the last member of a document"
    return before + _NO_STREAMS[:-2] + streams.of_others(host_id) + _NO_STREAMS[-2:]


def desired_state(resources: Resources, host_id: str, *, with_streams: bool = True) -> DesiredState:
    """The document of one host: its interfaces with sessions, and the filters that these use."""
    placed: dict[str, list[SessionRecord]] = {}
    for session in resources.sessions_by_host.get(host_id, ()):
        interface = resources.interfaces[session.interface_id]
        # Without an address of its own nothing says where a copy came from; `status` names it as the problem. Whether
        # the device can be mirrored now its agent knows best: it keeps what it cannot mirror, as it does what is gone.
        if interface.primary_address is not None and (host_id, interface.found.key) not in resources.taken_keys:
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
        exclusions=_EXCLUSIONS,
        knows_plain_keys=True,
        streams=streams_of_others(resources, host_id) if placed and with_streams else (),
    )


def streams_of_others(resources: Resources, host_id: str) -> tuple[StreamDocument, ...]:
    """The copies that other hosts send: all of them, as none can be known to never come by (docs/decisions/0009)."""
    others = (streams for other, streams in resources.streams.items() if other != host_id)
    found = sorted(set[Stream]().union(*others))
    return tuple(map(_stream, found))


def _stream(stream: Stream) -> StreamDocument:
    vni, outer_source, destination = stream
    return StreamDocument(outer_source, destination, vni)


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
    if session.session_id in resources.lapsed:
        return Undeliverable(reason=TARGET_NOT_SHARED)
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
    made = resources.filter_documents.get(filter_id)
    if made is None:
        records = resources.rules_by_filter.get(filter_id, ())
        ordered = sorted(records, key=lambda record: (record.rule.direction.value, record.rule.number))
        filter_ = Filter(tuple(record.rule for record in ordered), resources.filters[filter_id].services)
        made = resources.filter_documents[filter_id] = FilterDocument.of(filter_, [each.rule_id for each in ordered])
    return made

"""The document between the control plane and an agent: what one host must make true, and what the agent reports back.

Versioned: an agent refuses a document of a layout it does not know. JSON on the wire, frozen values on both sides.
Agents and control planes one minor version apart work together, both ways: a member that a version adds has a default,
and is unknown to the one before, which skips it. So is another name of an outcome, verdict or stage; one that counts
nothing is not told at all.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import zip_longest
from typing import Any

import msgspec

from pktmirror.model.evaluation import Verdict
from pktmirror.model.exclusions import Exclusion
from pktmirror.model.filter import Action, Direction, Filter, Network, NetworkService, PortRange, Rule
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, RuleLedger, SessionLedger, Stage, Tally
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.underlay import OuterSource, Segmentation

LAYOUT = 1
RULES_NOT_TOLD = "its agent does not tell what its rules matched: it is of an older version"
LABELS_MAX = 64  # of an instance
WORD_CHARACTERS_MAX = 256  # of what an engine tells: a name, an owner, a label's key or its value
VXLAN_PORT = 4789  # RFC 7348; of all copies (spec 1.12)
_NAMES = {
    member: frozenset(str(name.value) for name in names)
    for member, names in (("verdicts", Verdict), ("stages", Stage), ("outcomes", InterfaceOutcome))
}


class RuleDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A `Rule` on the wire; the networks are text, as JSON has no better. Its figures go on under ``rule_id``."""

    number: int
    direction: Direction
    action: Action
    source: str
    destination: str
    protocol: int | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None
    rule_id: str | None = None

    @classmethod
    def of(cls, rule: Rule, rule_id: str | None = None) -> "RuleDocument":
        return cls(
            rule_id=rule_id,
            number=rule.number,
            direction=rule.direction,
            action=rule.action,
            source=str(rule.source),
            destination=str(rule.destination),
            protocol=rule.protocol,
            source_ports=rule.source_ports,
            destination_ports=rule.destination_ports,
        )

    def rule(self) -> Rule:
        return Rule(
            self.number,
            self.direction,
            self.action,
            _network(self.source),
            _network(self.destination),
            self.protocol,
            self.source_ports,
            self.destination_ports,
        )


class FilterDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A `Filter` on the wire."""

    rules: tuple[RuleDocument, ...] = ()
    services: tuple[NetworkService, ...] = ()

    @classmethod
    def of(cls, filter_: Filter, rule_ids: Sequence[str] = ()) -> "FilterDocument":
        """``rule_ids`` in the order of the filter's rules, or none."""
        return cls(
            rules=tuple(RuleDocument.of(rule, rule_id) for rule, rule_id in zip_longest(filter_.rules, rule_ids)),
            services=tuple(sorted(filter_.services, key=lambda service: service.value)),
        )

    def filter(self) -> Filter:
        return Filter(tuple(rule.rule() for rule in self.rules), frozenset(self.services))


class ExclusionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An `Exclusion` on the wire."""

    why: str
    address: str | None = None
    protocol: int | None = None
    ports: PortRange | None = None

    @classmethod
    def of(cls, line: Exclusion) -> "ExclusionDocument":
        address = None if line.address is None else str(line.address)
        return cls(why=line.why, address=address, protocol=line.protocol, ports=line.ports)

    def exclusion(self) -> Exclusion:
        address = None if self.address is None else ip_address(self.address)
        return Exclusion(self.why, address, self.protocol, self.ports)


class Underlay(msgspec.Struct, frozen=True, kw_only=True):
    """The network on which a copy leaves its host (spec 5.14)."""

    route_table: int = 254  # RT_TABLE_MAIN
    device: str | None = None  # None: whichever the route table says
    mtu_max: int | None = None  # None: the route's or device's MTU
    outer_source: OuterSource = OuterSource.ENI
    segmentation: Segmentation = Segmentation.AUTO
    shortcut: bool = False  # copies to a target on the source's host go past its bridge (docs/decisions/0021)
    family: int | None = None  # of the outer headers, where the operator has chosen; what came of it is in Destination


class Destination(msgspec.Struct, frozen=True, kw_only=True, tag="destination"):
    """Where the copies of a session go: an address of the target's interface, and the source's of the same family.

    ``outer_source`` None is the source's primary address. Where the underlay says the host's, neither counts.
    """

    address: str
    outer_source: str | None = None
    port: int = VXLAN_PORT
    mtu: int | None = None  # of the target's own interface, where it is known


class Undeliverable(msgspec.Struct, frozen=True, kw_only=True, tag="undeliverable"):
    """The session is kept, takes packets by its filter, and sends none; ``reason`` says why."""

    reason: str


class DesiredSession(msgspec.Struct, frozen=True, kw_only=True):
    """One session at one interface. ``packet_bytes_max`` counts from the inner Ethernet header; None: whole packets."""

    session_id: str
    number: int
    vni: int
    filter_id: str
    packet_bytes_max: int | None
    delivery: Destination | Undeliverable
    cap: Rate = UNLIMITED


class DesiredInterface(msgspec.Struct, frozen=True, kw_only=True):
    """A mirrored interface; ``key`` is the provider's stable key, as reported, never an ifindex (spec 5.15)."""

    key: str
    interface_id: str
    primary_address: str  # the outer source of copies (spec fact 71), unless a destination or the underlay has another
    underlay: Underlay
    resolvers: tuple[str, ...]
    sessions: tuple[DesiredSession, ...]


class StreamDocument(msgspec.Struct, frozen=True, array_like=True):
    """The outer headers by which the copies of a session are known wherever they come by (spec 5.19).

    A host is told those of all others, so each is a short array on the wire.
    """

    outer_source: str
    outer_destination: str
    vni: int
    port: int = VXLAN_PORT


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """All that one host must make true. ``revision`` only grows; equal revisions are equal documents.

    ``streams`` are the copies of other hosts, which are not to be mirrored again here. Those of its own sessions a host
    knows by itself, and a host without sessions is told none. ``streams_id`` is theirs: who asks with it, and there are
    no others, is told ``streams_kept`` and none of them again.
    """

    layout: int = LAYOUT
    host_id: str
    revision: int
    interfaces: tuple[DesiredInterface, ...] = ()
    filters: dict[str, FilterDocument] = {}
    exclusions: tuple[ExclusionDocument, ...] = ()
    knows_plain_keys: bool = False  # whether whoever says this takes an interface for what its plain key was
    streams_id: str = ""
    streams_kept: bool = False
    streams: tuple[StreamDocument, ...] = ()


class InstanceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine tells of the instance that an interface belongs to: a container, a virtual machine, a pod.

    ``labels`` are at most LABELS_MAX, and every text here is printable and of WORD_CHARACTERS_MAX at most.
    """

    engine: str  # "docker", "podman", "libvirt", "kubernetes"
    instance_id: str  # the engine's: a container's id, a machine's UUID, a pod's UID
    name: str  # "web", of a pod "shop/web-0"
    owner: str | None = None  # whose it is: a Compose project, a pod's controller, what a machine's metadata says
    labels: dict[str, str] = {}


class FoundInterface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface that the agent found, mirrorable or not."""

    key: str  # e.g. "netns:pktmirror-web/eth0"; stable over restarts and re-plugging
    provider: str  # "netns", "container", "tap", "nic", "libvirt", …: docs/reference/networks.md has them all
    instance: str | None  # the machine or container it belongs to, by the provider's name
    name: str  # as its owner sees it, "eth0"
    device: str  # as the host sees it, "web0"
    kind: str  # "veth", "tap", "bridge-port", "physical"
    mac: str | None  # of the interface itself, not of the device; None: not known
    addresses: tuple[str, ...]  # the primary one first
    mtu: int
    up: bool
    not_mirrorable: str | None = None  # the reason, where it cannot be a source as it is now
    neighbours: tuple[str, ...] = ()  # where ``addresses`` is empty: what the host's neighbour table has for the MAC
    facts: InstanceFacts | None = None  # None: no engine tells any now
    plain_key: str | None = None  # where it differs: the key that it has without its engine, and had in the past

    def has_key(self, key: str) -> bool:
        """Whether it is known by this key, now or without its engine."""
        return key in (self.key, self.plain_key)


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with an engine of a host, since the agent's start.

    ``problem`` None: the last question was answered. ``instances`` is of the last answer; None: there was none.
    """

    engine: str
    where: str  # the socket or URL that is asked
    asked: int
    failed: int
    instances: int | None
    problem: str | None = None
    left_out: int = 0  # interfaces of which the report does not say what it tells: it would be too long


class PathFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The way of a session's copies to their target, as its host finds it now; None: it is not known, or not there.

    ``route_mtu`` is of the route and its device alone; what may be smaller is in the desired state. ``neighbour`` is
    the link address of the next hop. ``listens``: whether something is bound to the target's port, where its namespace
    is one of this machine.
    """

    address: str
    port: int
    table: int
    device: str | None = None
    next_hop: str | None = None
    source: str | None = None
    route_mtu: int | None = None
    neighbour: str | None = None
    neighbour_failed: bool = False
    listens: bool | None = None


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a session fares on this host; ``problem`` None means that its packets are mirrored.

    ``outer_source`` is the address that its copies carry now; None while none are sent. ``path`` None: it has no target
    that copies could be sent to.
    """

    session_id: str
    problem: str | None = None
    outer_source: str | None = None
    path: PathFacts | None = None


class RuleFigures(msgspec.Struct, frozen=True, array_like=True):
    """A `RuleLedger` on the wire, a short array: a host may tell of many thousands."""

    rule_id: str
    direction: Direction
    action: Action
    packets: int
    bytes: int

    @classmethod
    def of(cls, rule: RuleLedger) -> "RuleFigures":
        return cls(rule.rule_id, rule.direction, rule.action, rule.matched.packets, rule.matched.bytes)

    def ledger(self) -> RuleLedger:
        return RuleLedger(self.rule_id, self.direction, self.action, Tally(self.packets, self.bytes))


class SessionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's counters of one session.

    ``rules`` are those that have decided anything; ``rules_lack`` says why some of it may not be in them, or is None.
    """

    session_id: str
    directions: dict[Direction, SessionLedger]
    rules: tuple[RuleFigures, ...] = ()
    rules_lack: str | None = RULES_NOT_TOLD


class InterfaceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's counters of one mirrored interface.

    ``bypassed_packets`` went past the hooks since the agent began to compare, as the device counts packets; a direction
    is left out until it is compared.
    """

    key: str
    directions: dict[Direction, InterfaceLedger]
    bypassed_packets: dict[Direction, int] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent tells: what it found, what it applied, what it could not do and why, and its counters."""

    layout: int = LAYOUT
    host_id: str
    agent_version: str
    applied_revision: int
    interfaces: tuple[FoundInterface, ...] = ()
    deleted: tuple[str, ...] = ()  # keys of interfaces that their provider has deleted: an event, not a mere absence
    statuses: tuple[SessionStatus, ...] = ()
    sessions: tuple[SessionFigures, ...] = ()
    mirrored_interfaces: tuple[InterfaceFigures, ...] = ()
    problems: tuple[str, ...] = ()
    strays: Tally = Tally()  # frames that reached a hop and are no copy of ours; they are dropped there
    budget: Rate = UNLIMITED  # what all sessions of the host together may copy
    engines: tuple[EngineStatus, ...] = ()


def _network(text: str) -> Network:
    """As ipaddress.ip_network, which for IPv6 takes three times as long: a filter may have 20,000."""
    return IPv6Network(text) if ":" in text else IPv4Network(text)


def encode(document: DesiredState | Report) -> bytes:
    """The JSON bytes of a document."""
    return msgspec.json.encode(document)


def decode_desired_state(document: bytes) -> DesiredState:
    """Raises msgspec.ValidationError where the bytes are no document of this layout."""
    state = msgspec.json.decode(document, type=DesiredState)
    _refuse_other_layout(state.layout)
    return state


def decode_report(document: bytes) -> Report:
    """Raises msgspec.ValidationError where the bytes are no report of this layout.

    What is counted under names that only a later version knows is left out.
    """
    try:
        report = msgspec.json.decode(document, type=Report)
    except msgspec.ValidationError:  # if names alone are in the way, it is worth to go through all of it
        report = msgspec.convert(_with_known_names(msgspec.json.decode(document)), Report)
    _refuse_other_layout(report.layout)
    return report


def _with_known_names(report: Any) -> Any:
    """A report as it was parsed, whatever that is, without the outcomes, verdicts and stages that nobody here knows."""
    for figures in (each for member in ("sessions", "mirrored_interfaces") for each in _members(report, member)):
        for ledger in _members(figures, "directions"):
            for member in _NAMES.keys() & (ledger if isinstance(ledger, dict) else {}):
                if isinstance(ledger[member], dict):
                    ledger[member] = {name: of for name, of in ledger[member].items() if name in _NAMES[member]}
    return report


def _members(parsed: Any, name: str) -> list[Any]:
    """The values of a member that is an array or an object; none of anything else."""
    member = parsed.get(name) if isinstance(parsed, dict) else None
    return list(member.values()) if isinstance(member, dict) else member if isinstance(member, list) else []


def _refuse_other_layout(layout: int) -> None:
    if layout != LAYOUT:
        raise msgspec.ValidationError(
            f"the document has layout {layout}, this side knows {LAYOUT}: run the same version on both sides"
        )

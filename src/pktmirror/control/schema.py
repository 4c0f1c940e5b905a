"""The tables of the store, and how a row becomes a record. With `store` and what that names the only SQL.

A change of any table raises `VERSION` and adds a step to `migrations`; a store of a later version is refused.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from ipaddress import ip_network
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    true,
)
from sqlalchemy import Text as _Text
from sqlalchemy.dialects import postgresql

from pktmirror.control.records import (
    AccessKeyRecord,
    AccountRecord,
    AssignmentRecord,
    CarriedRecord,
    EndedSessionRecord,
    FilterRecord,
    HostCertificateRecord,
    HostRecord,
    InterfaceRecord,
    InvitationRecord,
    JoinTokenRecord,
    RuleRecord,
    SessionRecord,
    SharedTargetRecord,
    ShareRecord,
    StreamRecord,
    TargetRecord,
    TokenRecord,
    UnconfirmedEndRecord,
    UserPolicyRecord,
    UserRecord,
)
from pktmirror.desired import FoundInterface
from pktmirror.model.filter import Action, Direction, NetworkService, PortRange, Rule
from pktmirror.model.target import (
    GATEWAY_LOAD_BALANCER_ENDPOINT,
    NETWORK_INTERFACE,
    NETWORK_LOAD_BALANCER,
    EndpointTarget,
    InterfaceTarget,
    LoadBalancerTarget,
    Target,
)
from pktmirror.model.template import Selector, Template

VERSION = 8

R = TypeVar("R")
Row = dict[str, Any]

METADATA = MetaData()

Text = _Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text in the order of its code points, as in SQLite, whatever the language of the database."""

OWNER = "account_id"
"""The column that says whose a row is: empty for the store's own account (docs/decisions/0018)."""


def _owner() -> Column[str]:
    return Column(OWNER, Text, nullable=False, server_default="", index=True)


SCHEMA_VERSION = Table(
    "schema_version",
    METADATA,
    Column("version", Integer, primary_key=True),
    Column("written_by", Text),  # the version of pktmirror that made or migrated it
)

SETTINGS = Table("settings", METADATA, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

TAGS = Table(
    "tags",
    METADATA,
    Column("resource_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    _owner(),
)

_ACCESS_KEYS = Table(
    "access_keys",
    METADATA,
    Column("access_key_id", Text, primary_key=True),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("user_id", Text, nullable=False, server_default="", index=True),
    Column("active", Boolean, nullable=False, server_default=true()),
    _owner(),
)

_ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("account_id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at_s", Float, nullable=False),
)

_USERS = Table(
    "users",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at_s", Float, nullable=False),
    _owner(),
    UniqueConstraint("account_id", "name"),
)

_USER_POLICIES = Table(
    "user_policies",
    METADATA,
    Column("policy_key", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.user_id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
)

# No foreign keys: an assignment outlives what is assigned, which may come back.
_ASSIGNMENTS = Table(
    "assignments",
    METADATA,
    Column("subject", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
)

_TOKENS = Table(
    "idempotency_tokens",
    METADATA,
    Column("token_key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("created_at_s", Float, nullable=False, index=True),  # each create forgets those that are too old
)

_HOSTS = Table(
    "hosts",
    METADATA,
    Column("host_id", Text, primary_key=True),
    Column("agent_version", Text, nullable=False),
    Column("reported_at_s", Float, nullable=False),
)

_INTERFACES = Table(
    "interfaces",
    METADATA,
    Column("interface_id", Text, primary_key=True),
    Column("host_id", Text, nullable=False),
    Column("provider_key", Text, nullable=False),
    Column("found", Text, nullable=False),
    Column("detached_at_s", Float),
    Column("declared_address", Text),
    _owner(),
    UniqueConstraint("host_id", "provider_key"),
)

# No foreign key to interfaces: a target outlives the resource behind it (spec 1.3).
_TARGETS = Table(
    "targets",
    METADATA,
    Column("target_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("resource", Text, nullable=False, index=True),
    Column("description", Text),
    _owner(),
)

_FILTERS = Table(
    "filters",
    METADATA,
    Column("filter_id", Text, primary_key=True),
    Column("services", Text, nullable=False),
    Column("description", Text),
    _owner(),
)

_RULES = Table(
    "filter_rules",
    METADATA,
    Column("rule_id", Text, primary_key=True),
    Column("filter_id", Text, ForeignKey("filters.filter_id"), nullable=False),
    Column("direction", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("action", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("protocol", Integer),
    Column("source_port_first", Integer),
    Column("source_port_last", Integer),
    Column("destination_port_first", Integer),
    Column("destination_port_last", Integer),
    Column("description", Text),
    _owner(),
    UniqueConstraint("filter_id", "direction", "number"),
)

_SESSIONS = Table(
    "sessions",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("interface_id", Text, ForeignKey("interfaces.interface_id"), nullable=False),
    Column("target_id", Text, ForeignKey("targets.target_id"), nullable=False, index=True),
    Column("filter_id", Text, ForeignKey("filters.filter_id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("vni", Integer, nullable=False, index=True),
    Column("packet_bytes_max", Integer),
    Column("description", Text),
    Column("target_account_id", Text, nullable=False, server_default="", index=True),
    _owner(),
    UniqueConstraint("interface_id", "number"),
)

_SHARES = Table(
    "resource_shares",
    METADATA,
    Column("share_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("allows_external", Boolean, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("updated_at_s", Float, nullable=False),
    _owner(),
)

_SHARED_TARGETS = Table(
    "shared_targets",
    METADATA,
    Column("entry", Text, primary_key=True),
    Column("share_id", Text, ForeignKey("resource_shares.share_id"), nullable=False, index=True),
    Column("target_id", Text, ForeignKey("targets.target_id"), nullable=False, index=True),
    Column("created_at_s", Float, nullable=False),
    _owner(),
)

_INVITATIONS = Table(
    "share_invitations",
    METADATA,
    Column("invitation_id", Text, primary_key=True),
    Column("share_id", Text, ForeignKey("resource_shares.share_id"), nullable=False),
    Column("receiver_id", Text, nullable=False, index=True),
    Column("invited_at_s", Float, nullable=False),
    Column("accepted", Boolean),
    Column("answered_at_s", Float),
    _owner(),
    UniqueConstraint("share_id", "receiver_id"),
)

# No foreign keys: a template whose target or filter is gone stays, and says so.
_TEMPLATES = Table(
    "session_templates",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("selector", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("filter_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("sessions_max", Integer, nullable=False),
    Column("vni", Integer),
    Column("packet_bytes_max", Integer),
    Column("description", Text),
    Column("tags", Text, nullable=False),
)

# No foreign keys below: what the ledger remembers outlives the sessions.
_STREAMS = Table(
    "session_streams",
    METADATA,
    Column("entry", Text, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("vni", Integer, nullable=False, index=True),
    Column("outer_source", Text, nullable=False),
    Column("outer_destination", Text, nullable=False),
)

_ENDED_SESSIONS = Table(
    "ended_sessions",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("sent_packets", BigInteger, nullable=False),
    Column("sent_bytes", BigInteger, nullable=False),
    Column("ended_at_s", Float, nullable=False),
)

_UNCONFIRMED_ENDS = Table(
    "unconfirmed_ends",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("host_id", Text, nullable=False, index=True),
    Column("revision", BigInteger, nullable=False),
    Column("ended_at_s", Float, nullable=False),
)

_CARRIED = Table(
    "carried_figures",
    METADATA,
    Column("subject", Text, primary_key=True),
    Column("packets", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("written_packets", BigInteger, nullable=False),
    Column("written_bytes", BigInteger, nullable=False),
)

_JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("token_id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("host_id", Text, index=True),
    Column("expires_at_s", Float, nullable=False),
    Column("used_by", Text),
)

_HOST_CERTIFICATES = Table(
    "host_certificates",
    METADATA,
    Column("serial", Text, primary_key=True),
    Column("host_id", Text, nullable=False, index=True),
    Column("ends_at_s", Float, nullable=False),
    Column("revoked_at_s", Float),
)


@functools.cache
def is_owned(table: Table) -> bool:
    """Whether its rows say whose they are."""
    return OWNER in table.c


@dataclass(frozen=True, slots=True)
class Mapping(Generic[R]):
    """A table, its key column, and the way between its rows and a record."""

    table: Table
    key: str
    row: Callable[[R], Row]
    record: Callable[[Row], R]


def _plain(table: Table, key: str, record: type[R]) -> Mapping[R]:
    """A record whose fields are columns of the table."""
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    return Mapping(
        table,
        key,
        lambda value: {name: getattr(value, name) for name in names},
        lambda row: record(**{name: row[name] for name in names}),
    )


def _target_row(record: TargetRecord) -> Row:
    match record.target:
        case InterfaceTarget(resource):
            type_ = NETWORK_INTERFACE
        case LoadBalancerTarget(resource):
            type_ = NETWORK_LOAD_BALANCER
        case EndpointTarget(resource):
            type_ = GATEWAY_LOAD_BALANCER_ENDPOINT
    return {
        "target_id": record.target_id,
        "type": type_,
        "resource": resource,
        "description": record.description,
    }


def _target(row: Row) -> TargetRecord:
    return TargetRecord(row["target_id"], _TARGET_KINDS[row["type"]](row["resource"]), row["description"])


_TARGET_KINDS: dict[str, Callable[[str], Target]] = {
    NETWORK_INTERFACE: InterfaceTarget,
    NETWORK_LOAD_BALANCER: LoadBalancerTarget,
    GATEWAY_LOAD_BALANCER_ENDPOINT: EndpointTarget,
}


def _filter_row(record: FilterRecord) -> Row:
    services = ",".join(sorted(service.value for service in record.services))
    return {"filter_id": record.filter_id, "services": services, "description": record.description}


def _filter(row: Row) -> FilterRecord:
    services = frozenset(NetworkService(name) for name in row["services"].split(",") if name)
    return FilterRecord(row["filter_id"], services, row["description"])


def _rule_row(record: RuleRecord) -> Row:
    rule = record.rule
    return {
        "rule_id": record.rule_id,
        "filter_id": record.filter_id,
        "direction": rule.direction.value,
        "number": rule.number,
        "action": rule.action.value,
        "source": str(rule.source),
        "destination": str(rule.destination),
        "protocol": rule.protocol,
        "source_port_first": rule.source_ports and rule.source_ports.first,
        "source_port_last": rule.source_ports and rule.source_ports.last,
        "destination_port_first": rule.destination_ports and rule.destination_ports.first,
        "destination_port_last": rule.destination_ports and rule.destination_ports.last,
        "description": record.description,
    }


def _rule(row: Row) -> RuleRecord:
    rule = Rule(
        row["number"],
        Direction(row["direction"]),
        Action(row["action"]),
        ip_network(row["source"]),
        ip_network(row["destination"]),
        row["protocol"],
        _ports(row["source_port_first"], row["source_port_last"]),
        _ports(row["destination_port_first"], row["destination_port_last"]),
    )
    return RuleRecord(row["rule_id"], row["filter_id"], rule, row["description"])


def _ports(first: int | None, last: int | None) -> PortRange | None:
    return None if first is None or last is None else PortRange(first, last)


def _interface_row(record: InterfaceRecord) -> Row:
    return {
        "interface_id": record.interface_id,
        "host_id": record.host_id,
        "provider_key": record.found.key,
        "found": msgspec.json.encode(record.found).decode(),
        "detached_at_s": record.detached_at_s,
        "declared_address": record.declared_address,
    }


def _interface(row: Row) -> InterfaceRecord:
    found = msgspec.json.decode(row["found"], type=FoundInterface)
    return InterfaceRecord(row["interface_id"], row["host_id"], found, row["detached_at_s"], row["declared_address"])


def _template_row(template: Template) -> Row:
    return {
        "name": template.name,
        "selector": msgspec.json.encode(template.select).decode(),
        "target_id": template.target_id,
        "filter_id": template.filter_id,
        "number": template.number,
        "sessions_max": template.limit,
        "vni": template.vni,
        "packet_bytes_max": template.packet_bytes_max,
        "description": template.description,
        "tags": msgspec.json.encode(template.tags).decode(),
    }


def _template(row: Row) -> Template:
    return Template(
        name=row["name"],
        select=msgspec.json.decode(row["selector"], type=Selector),
        target_id=row["target_id"],
        filter_id=row["filter_id"],
        number=row["number"],
        limit=row["sessions_max"],
        vni=row["vni"],
        packet_bytes_max=row["packet_bytes_max"],
        description=row["description"],
        tags=msgspec.json.decode(row["tags"], type=dict[str, str]),
    )


ACCOUNTS = _plain(_ACCOUNTS, "account_id", AccountRecord)
USERS = _plain(_USERS, "user_id", UserRecord)
USER_POLICIES = _plain(_USER_POLICIES, "policy_key", UserPolicyRecord)
ASSIGNMENTS = _plain(_ASSIGNMENTS, "subject", AssignmentRecord)
ACCESS_KEYS = _plain(_ACCESS_KEYS, "access_key_id", AccessKeyRecord)
TOKENS = _plain(_TOKENS, "token_key", TokenRecord)
HOSTS = _plain(_HOSTS, "host_id", HostRecord)
SESSIONS = _plain(_SESSIONS, "session_id", SessionRecord)
SHARES = _plain(_SHARES, "share_id", ShareRecord)
SHARED_TARGETS = _plain(_SHARED_TARGETS, "entry", SharedTargetRecord)
INVITATIONS = _plain(_INVITATIONS, "invitation_id", InvitationRecord)
STREAMS = _plain(_STREAMS, "entry", StreamRecord)
ENDED_SESSIONS = _plain(_ENDED_SESSIONS, "session_id", EndedSessionRecord)
UNCONFIRMED_ENDS = _plain(_UNCONFIRMED_ENDS, "session_id", UnconfirmedEndRecord)
CARRIED = _plain(_CARRIED, "subject", CarriedRecord)
JOIN_TOKENS = _plain(_JOIN_TOKENS, "token_id", JoinTokenRecord)
HOST_CERTIFICATES = _plain(_HOST_CERTIFICATES, "serial", HostCertificateRecord)
INTERFACES: Mapping[InterfaceRecord] = Mapping(_INTERFACES, "interface_id", _interface_row, _interface)
TARGETS: Mapping[TargetRecord] = Mapping(_TARGETS, "target_id", _target_row, _target)
FILTERS: Mapping[FilterRecord] = Mapping(_FILTERS, "filter_id", _filter_row, _filter)
TEMPLATES: Mapping[Template] = Mapping(_TEMPLATES, "name", _template_row, _template)
RULES: Mapping[RuleRecord] = Mapping(_RULES, "rule_id", _rule_row, _rule)

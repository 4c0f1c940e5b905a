"""The tables of the store, and how a row becomes a record. Together with `store` the only SQL.

A change of any table raises `VERSION`; a store of another version is refused, never guessed at.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from ipaddress import ip_network
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from pktmirror.control.records import (
    AccessKeyRecord,
    AccountRecord,
    AssignmentRecord,
    CarriedRecord,
    EndedSessionRecord,
    FilterRecord,
    HostRecord,
    InterfaceRecord,
    RuleRecord,
    SessionRecord,
    StreamRecord,
    TargetRecord,
    TokenRecord,
    UserPolicyRecord,
    UserRecord,
)
from pktmirror.desired import FoundInterface
from pktmirror.model.filter import Action, Direction, NetworkService, PortRange, Rule
from pktmirror.model.target import (
    NETWORK_INTERFACE,
    NETWORK_LOAD_BALANCER,
    InterfaceTarget,
    LoadBalancerTarget,
)

VERSION = 4

R = TypeVar("R")
Row = dict[str, Any]

METADATA = MetaData()

OWNER = "account_id"
"""The column that says whose a row is: empty for the store's own account (docs/decisions/0018)."""


def _owner() -> Column[str]:
    return Column(OWNER, Text, nullable=False, server_default="", index=True)


SCHEMA_VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))

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
    Column("created_at_s", Float, nullable=False),
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
    _owner(),
    UniqueConstraint("interface_id", "number"),
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

_CARRIED = Table(
    "carried_figures",
    METADATA,
    Column("subject", Text, primary_key=True),
    Column("packets", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("written_packets", BigInteger, nullable=False),
    Column("written_bytes", BigInteger, nullable=False),
)


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
    return {
        "target_id": record.target_id,
        "type": type_,
        "resource": resource,
        "description": record.description,
    }


def _target(row: Row) -> TargetRecord:
    kind = InterfaceTarget if row["type"] == NETWORK_INTERFACE else LoadBalancerTarget
    return TargetRecord(row["target_id"], kind(row["resource"]), row["description"])


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


ACCOUNTS = _plain(_ACCOUNTS, "account_id", AccountRecord)
USERS = _plain(_USERS, "user_id", UserRecord)
USER_POLICIES = _plain(_USER_POLICIES, "policy_key", UserPolicyRecord)
ASSIGNMENTS = _plain(_ASSIGNMENTS, "subject", AssignmentRecord)
ACCESS_KEYS = _plain(_ACCESS_KEYS, "access_key_id", AccessKeyRecord)
TOKENS = _plain(_TOKENS, "token_key", TokenRecord)
HOSTS = _plain(_HOSTS, "host_id", HostRecord)
SESSIONS = _plain(_SESSIONS, "session_id", SessionRecord)
STREAMS = _plain(_STREAMS, "entry", StreamRecord)
ENDED_SESSIONS = _plain(_ENDED_SESSIONS, "session_id", EndedSessionRecord)
CARRIED = _plain(_CARRIED, "subject", CarriedRecord)
INTERFACES: Mapping[InterfaceRecord] = Mapping(_INTERFACES, "interface_id", _interface_row, _interface)
TARGETS: Mapping[TargetRecord] = Mapping(_TARGETS, "target_id", _target_row, _target)
FILTERS: Mapping[FilterRecord] = Mapping(_FILTERS, "filter_id", _filter_row, _filter)
RULES: Mapping[RuleRecord] = Mapping(_RULES, "rule_id", _rule_row, _rule)


_OWNED_BEFORE = ("tags", "access_keys", "interfaces", "targets", "filters", "filter_rules", "sessions")
ADD_ACCOUNTS: tuple[str, ...] = (
    "ALTER TABLE access_keys ADD COLUMN user_id TEXT DEFAULT '' NOT NULL",
    "CREATE INDEX ix_access_keys_user_id ON access_keys (user_id)",
    "ALTER TABLE access_keys ADD COLUMN active BOOLEAN DEFAULT true NOT NULL",
    *(f"ALTER TABLE {table} ADD COLUMN account_id TEXT DEFAULT '' NOT NULL" for table in _OWNED_BEFORE),
    *(f"CREATE INDEX ix_{table}_account_id ON {table} (account_id)" for table in _OWNED_BEFORE),
)
"""From one account to many: all that is there belongs to the store's own account. The new tables are made beside."""


def add_accounts(connection: Connection) -> None:
    """From version 3 to version 4."""
    for statement in ADD_ACCOUNTS:
        connection.exec_driver_sql(statement)
    METADATA.create_all(connection)
    connection.execute(SCHEMA_VERSION.update().values(version=4))

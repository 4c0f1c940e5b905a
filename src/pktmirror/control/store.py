"""The store: SQLite, one writer at a time, one transaction an operation. With `schema` the only SQL.

What a transaction changed is on the disk when it ends, or nothing of it is. A change that concerns desired state
calls `Transaction.bump_revision` in the same transaction. An edge module.
"""

import functools
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from pktmirror import networks
from pktmirror.control import schema
from pktmirror.model.refusal import Refusal
from pktmirror.networks import Declaration, Networks

R = TypeVar("R")

BUSY_TIMEOUT_MS = 5_000
_REVISION = "revision"
_DECLARATION = "networks"


class Collection(Generic[R]):
    """All records of one kind within a transaction, in the order of their ids.

    With an ``owner``, where the rows have one: the records of that account alone, whatever is asked or done.
    """

    def __init__(self, connection: Connection, mapping: schema.Mapping[R], owner: str | None = None) -> None:
        self._connection = connection
        self._mapping = mapping
        self._key = mapping.table.c[mapping.key]
        self._owned = {} if owner is None or schema.OWNER not in mapping.table.c else {schema.OWNER: owner}

    def get(self, key: str) -> R | None:
        query = select(self._mapping.table).where(self._key == key, *self._conditions({}))
        row = self._connection.execute(query).mappings().first()
        return None if row is None else self._mapping.record(dict(row))

    def where(self, **equal: object) -> list[R]:
        """The records whose columns equal what is given; all of them when nothing is."""
        query = select(self._mapping.table).where(*self._conditions(equal)).order_by(self._key)
        return [self._mapping.record(dict(row)) for row in self._connection.execute(query).mappings()]

    def count(self, **equal: object) -> int:
        query = select(func.count()).select_from(self._mapping.table).where(*self._conditions(equal))
        return self._connection.execute(query).scalar_one()

    def put(self, record: R) -> None:
        """Insert, or replace what has the same id; where no owner is given, whose it is stays as it is."""
        row = self._mapping.row(record) | self._owned
        statement = insert(self._mapping.table).values(row)
        self._connection.execute(statement.on_conflict_do_update(index_elements=[self._mapping.key], set_=row))

    def remove(self, key: str) -> None:
        self._connection.execute(delete(self._mapping.table).where(self._key == key, *self._conditions({})))

    def owner_of(self, key: str) -> str | None:
        """The account that a record belongs to; None for one that is not there."""
        query = select(self._mapping.table.c[schema.OWNER]).where(self._key == key, *self._conditions({}))
        return self._connection.execute(query).scalar_one_or_none()

    def give(self, key: str, owner: str) -> None:
        """Make a record another account's."""
        statement = update(self._mapping.table).where(self._key == key, *self._conditions({}))
        self._connection.execute(statement.values({schema.OWNER: owner}))

    def remove_older(self, than_s: float) -> None:
        """For records with a ``created_at_s``: forget those from before."""
        self._connection.execute(delete(self._mapping.table).where(self._mapping.table.c.created_at_s < than_s))

    def _conditions(self, equal: dict[str, object]) -> list[Any]:
        return [self._mapping.table.c[name] == value for name, value in (equal | self._owned).items()]


class Tags:
    """The tags of all resources, by resource id; with an ``owner``, of that account's alone."""

    def __init__(self, connection: Connection, owner: str | None = None) -> None:
        self._connection = connection
        self._owned = {} if owner is None else {schema.OWNER: owner}

    def all(self) -> dict[str, dict[str, str]]:
        return self._read()

    def with_keys(self, keys: Iterable[str]) -> dict[str, dict[str, str]]:
        """Those of these keys alone."""
        return self._read(schema.TAGS.c.key.in_(list(keys)))

    def of(self, resource_id: str) -> dict[str, str]:
        return self._read(schema.TAGS.c.resource_id == resource_id).get(resource_id, {})

    def put(self, resource_id: str, key: str, value: str) -> None:
        statement = insert(schema.TAGS).values(resource_id=resource_id, key=key, value=value, **self._owned)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["resource_id", "key"], set_={"value": value})
        )

    def remove(self, resource_id: str, key: str | None = None) -> None:
        """One tag, or all of a resource."""
        statement = delete(schema.TAGS).where(schema.TAGS.c.resource_id == resource_id, *self._conditions)
        self._connection.execute(statement if key is None else statement.where(schema.TAGS.c.key == key))

    def give(self, resource_id: str, owner: str) -> None:
        """Make the tags of a resource another account's."""
        statement = update(schema.TAGS).where(schema.TAGS.c.resource_id == resource_id, *self._conditions)
        self._connection.execute(statement.values({schema.OWNER: owner}))

    @property
    def _conditions(self) -> list[Any]:
        return [schema.TAGS.c[name] == value for name, value in self._owned.items()]

    def _read(self, *conditions: Any) -> dict[str, dict[str, str]]:
        query = (
            select(schema.TAGS)
            .where(*conditions, *self._conditions)
            .order_by(schema.TAGS.c.resource_id, schema.TAGS.c.key)
        )
        tags: dict[str, dict[str, str]] = {}
        for row in self._connection.execute(query):
            tags.setdefault(row.resource_id, {})[row.key] = row.value
        return tags


class Transaction:
    """A consistent view of the store; within `Store.write` also the way to change it.

    With an ``owner`` the view of one account: what belongs to others is not there, and what is made belongs to it.
    """

    def __init__(self, connection: Connection, owner: str | None = None) -> None:
        self._connection = connection
        self.owner = owner
        self.accounts = Collection(connection, schema.ACCOUNTS)
        self.assignments = Collection(connection, schema.ASSIGNMENTS)
        self.users = Collection(connection, schema.USERS, owner)
        self.user_policies = Collection(connection, schema.USER_POLICIES)
        self.access_keys = Collection(connection, schema.ACCESS_KEYS, owner)
        self.tokens = Collection(connection, schema.TOKENS)
        self.hosts = Collection(connection, schema.HOSTS)
        self.interfaces = Collection(connection, schema.INTERFACES, owner)
        self.targets = Collection(connection, schema.TARGETS, owner)
        self.filters = Collection(connection, schema.FILTERS, owner)
        self.rules = Collection(connection, schema.RULES, owner)
        self.sessions = Collection(connection, schema.SESSIONS, owner)
        self.streams = Collection(connection, schema.STREAMS)
        self.ended_sessions = Collection(connection, schema.ENDED_SESSIONS)
        self.carried = Collection(connection, schema.CARRIED)
        self.tags = Tags(connection, owner)
        self.removed_sessions: list[str] = []
        """The ids of the sessions that this transaction has removed."""

    def of_account(self, owner: str) -> "Transaction":
        """The same transaction, as an account sees it."""
        narrowed = Transaction(self._connection, owner)
        narrowed.removed_sessions = self.removed_sessions
        return narrowed

    @property
    def revision(self) -> int:
        """Grows with every change that concerns desired state."""
        return int(self.setting(_REVISION) or 0)

    def bump_revision(self) -> None:
        self.set_setting(_REVISION, str(self.revision + 1))

    def setting(self, name: str) -> str | None:
        query = select(schema.SETTINGS.c.value).where(schema.SETTINGS.c.name == name)
        return self._connection.execute(query).scalar_one_or_none()

    def set_setting(self, name: str, value: str) -> None:
        statement = insert(schema.SETTINGS).values(name=name, value=value)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    @property
    def declaration(self) -> Declaration:
        """What the operator declares of the networks; nothing until `declare`."""
        return _declaration(self.setting(_DECLARATION))

    @property
    def networks(self) -> Networks:
        """What the declaration means."""
        return _networks(self.setting(_DECLARATION))

    def declare(self, declaration: Declaration) -> None:
        """Put another declaration in the place of the one there is. `declaration.apply` keeps all else in step."""
        self.set_setting(_DECLARATION, msgspec.json.encode(declaration).decode())

    def remove_session(self, session_id: str) -> None:
        """A session and its tags."""
        self.sessions.remove(session_id)
        self.removed_sessions.append(session_id)
        self.tags.remove(session_id)

    def remove_interface(self, interface_id: str) -> None:
        """An interface, its sessions, and the tags of all of them (spec 1.2); targets on it stay (spec 1.3)."""
        for session in self.sessions.where(interface_id=interface_id):
            self.remove_session(session.session_id)
        self.interfaces.remove(interface_id)
        self.tags.remove(interface_id)

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table, for comparison."""
        return {
            table.name: sorted((tuple(row) for row in self._connection.execute(select(table))), key=repr)
            for table in schema.METADATA.sorted_tables
        }


class Store:
    """An open store; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = threading.Lock()  # waiting here is fair; SQLite's own waiting is polling

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open or make the store in a file; raises `Refusal` for one of another version, or for no store at all."""
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        store = cls(engine)
        try:
            store._make_or_check(path)
        except (SQLAlchemyError, sqlite3.Error) as error:
            engine.dispose()
            raise Refusal(
                f"The store {path} cannot be opened.",
                found=str(getattr(error, "orig", None) or error),
                do="check that the state directory is the right one and can be written; where the file is damaged, "
                "put back a copy of it or start with an empty directory",
            ) from None
        except Refusal:
            engine.dispose()
            raise
        return store

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self._engine.connect() as connection, connection.begin():
            yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Commits at the end; an exception undoes everything."""
        with (
            self._writer,
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield Transaction(connection)

    def close(self) -> None:
        self._engine.dispose()

    def _make_or_check(self, path: Path) -> None:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if damage != "ok":
                raise sqlite3.DatabaseError(str(damage))
            if not connection.dialect.has_table(connection, "schema_version"):
                schema.METADATA.create_all(connection)
                connection.execute(schema.SCHEMA_VERSION.insert().values(version=schema.VERSION))
            found = connection.execute(select(schema.SCHEMA_VERSION.c.version)).scalar_one_or_none()
            if found == 3:
                schema.add_accounts(connection)
                found = schema.VERSION
        if found != schema.VERSION:
            raise Refusal(
                f"The store {path} is of another version of pktmirror.",
                found=f"store version {found}, and this program writes version {schema.VERSION}",
                do="run the version of pktmirror that made it, or give an empty directory as --state",
            )


@functools.lru_cache(maxsize=2)
def _declaration(stored: str | None) -> Declaration:
    return Declaration() if stored is None else msgspec.json.decode(stored, type=Declaration)


@functools.lru_cache(maxsize=2)
def _networks(stored: str | None) -> Networks:
    return networks.networks(_declaration(stored))


def _configure(connection: Any, _record: object) -> None:
    """A power cut loses no answered request (FULL); readers do not wait for the writer (WAL)."""
    connection.isolation_level = None  # BEGIN is ours: the module's own would be deferred also for writers
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a reader that turns writer can fail halfway, a writer from the start only waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The store: SQLite or PostgreSQL, one writer at a time, one transaction an operation.

What a transaction changed is on the disk when it ends, or nothing of it is. A change that concerns desired state
calls `Transaction.bump_revision` in the same transaction. With `schema`, `migrations`, `sqlite` and `postgresql` the
only SQL. An edge module.
"""

import functools
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import psycopg
import structlog
from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pktmirror import networks
from pktmirror.aws import ApiError
from pktmirror.control import migrations, postgresql, schema, sqlite
from pktmirror.model.refusal import Refusal
from pktmirror.networks import Declaration, Networks

R = TypeVar("R")

_log = structlog.get_logger("control")
REVISION_LEAP = 1_000_000
"""More changes than there are between a backup and its restoring."""
EVERYTHING = postgresql.EVERYTHING
_ROWS_AT_ONCE = 1_000
_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
REVISION = "revision"
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
        if _is_asked_in_vain({self._mapping.key: key}):
            return None
        query = select(self._mapping.table).where(self._key == key, *self._conditions({}))
        row = self._connection.execute(query).mappings().first()
        return None if row is None else self._mapping.record(dict(row))

    def where(self, **equal: object) -> list[R]:
        """The records whose columns equal what is given; all of them when nothing is."""
        if _is_asked_in_vain(equal):
            return []
        query = select(self._mapping.table).where(*self._conditions(equal)).order_by(self._key)
        return [self._mapping.record(dict(row)) for row in self._connection.execute(query).mappings()]

    def some(self, keys: Iterable[str]) -> list[R]:
        """Those of these ids that there are."""
        asked = [key for key in keys if not _is_asked_in_vain({self._mapping.key: key})]
        found: list[R] = []
        for first in range(0, len(asked), _ROWS_AT_ONCE):
            these = self._key.in_(asked[first : first + _ROWS_AT_ONCE])
            query = select(self._mapping.table).where(these, *self._conditions({}))
            found += [self._mapping.record(dict(row)) for row in self._connection.execute(query).mappings()]
        return found

    def count(self, **equal: object) -> int:
        if _is_asked_in_vain(equal):
            return 0
        query = select(func.count()).select_from(self._mapping.table).where(*self._conditions(equal))
        return self._connection.execute(query).scalar_one()

    def put(self, record: R) -> None:
        """Insert, or replace what has the same id; where no owner is given, whose it is stays as it is."""
        row = self._mapping.row(record) | self._owned
        statement = _insert(self._connection, self._mapping.table).values(row)
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
        statement = _insert(self._connection, schema.TAGS).values(
            resource_id=resource_id, key=key, value=value, **self._owned
        )
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

    With an ``owner`` the view of one account, in the tables whose rows have an owner (`schema.OWNER`): what belongs to
    others is not there, and what is made belongs to it. The other tables are the same for all, and whoever uses them
    sees to it: a policy is reached by the id of its user, a client token by a key that begins with the account;
    templates are the operator's; accounts, assignments, settings, hosts and what the ledger remembers are no account's.
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
        self.templates = Collection(connection, schema.TEMPLATES)
        self.streams = Collection(connection, schema.STREAMS)
        self.ended_sessions = Collection(connection, schema.ENDED_SESSIONS)
        self.unconfirmed_ends = Collection(connection, schema.UNCONFIRMED_ENDS)
        self.carried = Collection(connection, schema.CARRIED)
        self.join_tokens = Collection(connection, schema.JOIN_TOKENS)
        self.host_certificates = Collection(connection, schema.HOST_CERTIFICATES)
        self.tags = Tags(connection, owner)
        self.removed_sessions: dict[str, str] = {}
        """The sessions that this transaction has removed, by id, and the host of each."""
        self.news: set[str] = set()
        """What replicas are told when this transaction is committed; `REVISION` is for the one that it is then."""

    def of_account(self, owner: str) -> "Transaction":
        """The same transaction, as an account sees what has an owner."""
        narrowed = Transaction(self._connection, owner)
        narrowed.removed_sessions, narrowed.news = self.removed_sessions, self.news
        return narrowed

    @property
    def revision(self) -> int:
        """Grows with every change that concerns desired state."""
        return int(self.setting(REVISION) or 0)

    def bump_revision(self) -> None:
        self.set_setting(REVISION, str(self.revision + 1))
        self.news.add(REVISION)

    def setting(self, name: str) -> str | None:
        query = select(schema.SETTINGS.c.value).where(schema.SETTINGS.c.name == name)
        return self._connection.execute(query).scalar_one_or_none()

    def set_setting(self, name: str, value: str) -> None:
        statement = _insert(self._connection, schema.SETTINGS).values(name=name, value=value)
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
        session = self.sessions.get(session_id)
        interface = None if session is None else self.interfaces.get(session.interface_id)
        if interface is not None:
            self.removed_sessions[session_id] = interface.host_id
        self.sessions.remove(session_id)
        self.tags.remove(session_id)

    def remove_interface(self, interface_id: str) -> None:
        """An interface, its sessions, and the tags of all of them (spec 1.2); targets on it stay (spec 1.3)."""
        for session in self.sessions.where(interface_id=interface_id):
            self.remove_session(session.session_id)
        self.interfaces.remove(interface_id)
        self.tags.remove(interface_id)

    @property
    def connection(self) -> Connection:
        """For what is beside the store's tables and belongs to this transaction (`exchange`)."""
        return self._connection

    def take_over(self, other: "Transaction") -> None:
        """Put all that another store of this version holds in the place of what is here."""
        tables = [table for table in schema.METADATA.sorted_tables if table is not schema.SCHEMA_VERSION]
        for table in reversed(tables):
            self._connection.execute(delete(table))
        for table in tables:
            for rows in other._connection.execute(select(table)).mappings().partitions(_ROWS_AT_ONCE):
                self._connection.execute(table.insert(), [dict(row) for row in rows])

    def leap_revision(self, seen: int) -> None:
        """Continue with a revision that no agent has seen, of this store, of what it was taken from, or of ``seen``."""
        self.set_setting(REVISION, str(max(self.revision, seen) + REVISION_LEAP))
        self.news.add(REVISION)

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table, for comparison."""
        return {
            table.name: sorted((tuple(row) for row in self._connection.execute(select(table))), key=repr)
            for table in schema.METADATA.sorted_tables
        }


class Store:
    """An open store; safe to use from several threads, and PostgreSQL also from several processes."""

    def __init__(self, engine: Engine, name: str, url: str | None = None) -> None:
        self.name = name
        self.url = url
        """Where others may find it; None: it is this process's alone."""
        self._engine = engine
        self._writer = threading.Lock()  # waiting here is fair; SQLite's own waiting is polling
        self._options: dict[str, Any] = {} if url is None else {"version": schema.VERSION}

    @classmethod
    def open(cls, where: Path | str, *, migrate: bool = True) -> "Store":
        """Open or make the store in a file, or in the PostgreSQL database of a URL (a string).

        Raises `Refusal` for no store at all, and for one of another version that cannot be brought to this one; where
        ``migrate`` is False, for any other version.
        """
        if isinstance(where, str):
            store = cls(postgresql.engine(where), postgresql.described(where), where)
        else:
            store = cls(sqlite.engine(where), str(where))
        try:
            store._make_or_migrate(migrate)
        except (SQLAlchemyError, sqlite3.Error, psycopg.Error) as error:
            store.close()
            raise _cannot_open(store, error) from None
        except Refusal:
            store.close()
            raise
        return store

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One state of the store, whatever others do meanwhile. ApiError where the store does not answer."""
        with self._answering(), self._begun() as connection:
            yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Commits at the end; an exception undoes everything. ApiError where the store does not answer."""
        with self._answering(writes=True), self._writer, self._begun(writes=True) as connection:
            transaction = Transaction(connection)
            yield transaction
            if self.url is not None:
                for told in sorted(transaction.news):
                    postgresql.notify(connection, str(transaction.revision) if told == REVISION else told)

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """A transaction for what is beside the store's own tables; of PostgreSQL only."""
        with self._answering(writes=True), self._begun(apart=True) as connection:
            yield connection

    @contextmanager
    def listening(self, told: Callable[[str], None]) -> Iterator[None]:
        """Call ``told``, in a thread of its own, with each revision that any replica makes, with what `exchange`
        notifies, and with EVERYTHING when some may have been missed. Nothing where the store is one process's."""
        if self.url is None:
            yield
            return
        listener = postgresql.Listener(
            self.url,
            told,
            lambda error: _log.warning("the store's notifications are not heard", store=self.name, error=error),
        )
        listener.start()
        try:
            yield
        finally:
            listener.close()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _begun(self, **options: Any) -> Iterator[Connection]:
        with (
            self._engine.connect().execution_options(**self._options, **options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _answering(self, *, writes: bool = False) -> Iterator[None]:
        """What the store's being away, or busy, means for a client: to come again."""
        try:
            yield
        except postgresql.OtherVersion:
            raise ApiError(
                "Unavailable", "Another replica has upgraded the store; this one must be upgraded too"
            ) from None
        except (SQLAlchemyError, psycopg.Error) as error:
            cause = (error.orig or error) if isinstance(error, DBAPIError) else error
            if not isinstance(error, _AWAY) and not postgresql.is_away(cause, writes=writes):
                raise
            _log.error("the store does not answer", store=self.name, error=str(cause))
            raise ApiError("Unavailable", "The store does not answer. Try again") from None

    def _make_or_migrate(self, migrate: bool) -> None:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if self.url is not None:
                postgresql.check(connection)
            elif (damage := sqlite.damage(connection)) is not None:
                raise sqlite3.DatabaseError(damage)
            found, written_by = migrations.version(connection)
            if found is None and migrate and not connection.dialect.has_table(connection, "schema_version"):
                migrations.make(connection)
            elif migrate:
                migrations.migrate(connection, self.name)
            elif found != schema.VERSION:
                migrations.refuse_later(self.name, found, written_by)
                raise Refusal(
                    f"The store {self.name} is not of this version of pktmirror.",
                    found=f"store version {found}, and this program writes {schema.VERSION}",
                    do="start `pktmirror serve` of this version once: it brings the store to its own",
                )


def _insert(connection: Connection, table: Any) -> Any:
    """Both know ON CONFLICT, and SQLAlchemy has it for each by itself."""
    return (postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert)(table)


def _is_asked_in_vain(equal: dict[str, object]) -> bool:
    """No text that is stored has a NUL, and PostgreSQL does not take the question."""
    return any(isinstance(value, str) and "\0" in value for value in equal.values())


def _cannot_open(store: Store, error: Exception) -> Refusal:
    found = str(getattr(error, "orig", None) or error).strip()
    if store.url is None:
        do = (
            "check that the state directory is the right one and can be written; where the file is damaged, put back "
            "a backup of it (`pktmirror restore`) or start with an empty directory"
        )
    else:
        do = "check that the server runs, that the database exists, and that its user may make tables in it"
    return Refusal(f"The store {store.name} cannot be opened.", found=found, do=do)


@functools.lru_cache(maxsize=2)
def _declaration(stored: str | None) -> Declaration:
    return Declaration() if stored is None else msgspec.json.decode(stored, type=Declaration)


@functools.lru_cache(maxsize=2)
def _networks(stored: str | None) -> Networks:
    return networks.networks(_declaration(stored))

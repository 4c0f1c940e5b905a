"""The store: SQLite or PostgreSQL, one writer at a time, one transaction an operation.

What a transaction changed is on the disk when it ends, or nothing of it is. A change that concerns desired state
calls `Transaction.bump_revision` in the same transaction. With `schema`, `statements`, `migrations`, `sqlite` and
`postgresql` the only SQL. An edge module.
"""

import functools
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import psycopg
import structlog
from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pktmirror import networks
from pktmirror.aws import ApiError
from pktmirror.control import migrations, postgresql, schema, sqlite, statements
from pktmirror.control.turns import Turns
from pktmirror.model.refusal import Refusal
from pktmirror.model.target import InterfaceTarget
from pktmirror.networks import Declaration, Networks

R = TypeVar("R")

_log = structlog.get_logger("control")
REVISION_LEAP = 1_000_000
"""More changes than there are between a backup and its restoring."""
EVERYTHING = postgresql.EVERYTHING
_ROWS_AT_ONCE = 1_000
_AWAY = (OperationalError, InterfaceError, PoolTimeoutError, sqlite3.OperationalError)
REVISION = "revision"
_DECLARATION = "networks"


_Seen = dict[tuple[str | None, str], R | None]


class Collection(Generic[R]):
    """All records of one kind within a transaction, in the order of their ids.

    With an ``owner``, where the rows have one: the records of that account alone, whatever is asked or done. ``seen``
    holds what was asked for by its key, by owner and key, for all views of the transaction.
    """

    def __init__(
        self, connection: Connection, mapping: schema.Mapping[R], seen: "_Seen[R]", owner: str | None = None
    ) -> None:
        self._connection = connection
        self._mapping = mapping
        self._seen = seen
        self._owned = {} if owner is None or not schema.is_owned(mapping.table) else {schema.OWNER: owner}

    def get(self, key: str) -> R | None:
        asked = self._owned.get(schema.OWNER), key
        if asked not in self._seen:
            found = self.where(**{self._mapping.key: key})
            self._seen[asked] = found[0] if found else None
        return self._seen[asked]

    def where(self, **equal: object) -> list[R]:
        """The records whose columns equal what is given; all of them when nothing is."""
        if _is_asked_in_vain(equal):
            return []
        rows = statements.rows(self._connection, self._mapping.table, equal | self._owned, [self._mapping.key])
        return [self._mapping.record(row) for row in rows]

    def piece(self, above: str, most: int, /, **equal: object) -> list[R]:
        """As `where`, but only what comes after an id, and so many at most."""
        if _is_asked_in_vain({**equal, "": above}):
            return []
        rows = statements.piece(
            self._connection, self._mapping.table, equal | self._owned, self._mapping.key, above, most
        )
        return [self._mapping.record(row) for row in rows]

    def some(self, keys: Iterable[str]) -> list[R]:
        """Those of these ids that there are."""
        table, key = self._mapping.table, self._mapping.key
        return [
            self._mapping.record(row)
            for asked in _parted(keys)
            for row in statements.some(self._connection, table, self._owned, key, asked)
        ]

    def count(self, **equal: object) -> int:
        if _is_asked_in_vain(equal):
            return 0
        return statements.count(self._connection, self._mapping.table, equal | self._owned)

    def put(self, record: R) -> None:
        """Insert, or replace what has the same id; where no owner is given, whose it is stays as it is."""
        self._seen.clear()
        row = self._mapping.row(record) | self._owned
        statements.put(self._connection, self._mapping.table, [self._mapping.key], row)

    def remove(self, key: str) -> None:
        self._seen.clear()
        statements.remove(self._connection, self._mapping.table, {self._mapping.key: key} | self._owned)

    def owner_of(self, key: str) -> str | None:
        """The account that a record belongs to; None for one that is not there."""
        if _is_asked_in_vain({self._mapping.key: key}):
            return None
        rows = statements.rows(self._connection, self._mapping.table, {self._mapping.key: key} | self._owned)
        return None if not rows else str(rows[0][schema.OWNER])

    def owners(self, keys: Iterable[str]) -> dict[str, str]:
        """The account that each of these records belongs to, by id; nothing of one that is not there."""
        table, key = self._mapping.table, self._mapping.key
        return {
            str(row[key]): str(row[schema.OWNER])
            for asked in _parted(keys)
            for row in statements.some(self._connection, table, self._owned, key, asked)
        }

    def give(self, key: str, owner: str) -> None:
        """Make a record another account's."""
        self._seen.clear()
        table = self._mapping.table
        conditions = [table.c[name] == value for name, value in ({self._mapping.key: key} | self._owned).items()]
        self._connection.execute(update(table).where(*conditions).values({schema.OWNER: owner}))

    def remove_older(self, than_s: float) -> None:
        """For records with a ``created_at_s``: forget those from before."""
        self._seen.clear()
        statements.remove_below(self._connection, self._mapping.table, {"created_at_s": than_s})


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

    def of_each(self, resource_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """Those of these resources, in the order of their keys; nothing of one that has none."""
        tags: dict[str, dict[str, str]] = {}
        for asked in _parted(resource_ids):
            rows = statements.some(self._connection, schema.TAGS, self._owned, "resource_id", asked)
            for row in sorted(rows, key=lambda row: (row["resource_id"], row["key"])):
                tags.setdefault(row["resource_id"], {})[row["key"]] = row["value"]
        return tags

    def of(self, resource_id: str) -> dict[str, str]:
        if _is_asked_in_vain({"": resource_id}):
            return {}
        rows = statements.rows(self._connection, schema.TAGS, {"resource_id": resource_id} | self._owned, ["key"])
        return {row["key"]: row["value"] for row in rows}

    def put(self, resource_id: str, key: str, value: str) -> None:
        row = {"resource_id": resource_id, "key": key, "value": value, **self._owned}
        statements.put(self._connection, schema.TAGS, ["resource_id", "key"], row)

    def remove(self, resource_id: str, key: str | None = None) -> None:
        """One tag, or all of a resource."""
        if _is_asked_in_vain({"": resource_id, "key": key}):
            return
        named = {"resource_id": resource_id} | ({} if key is None else {"key": key})
        statements.remove(self._connection, schema.TAGS, named | self._owned)

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

    def __init__(
        self, connection: Connection, owner: str | None = None, seen: "defaultdict[str, _Seen[Any]] | None" = None
    ) -> None:
        self._connection = connection
        self._seen = defaultdict[str, "_Seen[Any]"](dict) if seen is None else seen  # by table
        self.owner = owner
        self.accounts = self._all(schema.ACCOUNTS)
        self.assignments = self._all(schema.ASSIGNMENTS)
        self.users = self._all(schema.USERS, owner)
        self.user_policies = self._all(schema.USER_POLICIES)
        self.access_keys = self._all(schema.ACCESS_KEYS, owner)
        self.tokens = self._all(schema.TOKENS)
        self.hosts = self._all(schema.HOSTS)
        self.interfaces = self._all(schema.INTERFACES, owner)
        self.targets = self._all(schema.TARGETS, owner)
        self.filters = self._all(schema.FILTERS, owner)
        self.rules = self._all(schema.RULES, owner)
        self.sessions = self._all(schema.SESSIONS, owner)
        self.shares = self._all(schema.SHARES, owner)
        self.shared_targets = self._all(schema.SHARED_TARGETS, owner)
        self.invitations = self._all(schema.INVITATIONS, owner)
        self.templates = self._all(schema.TEMPLATES)
        self.streams = self._all(schema.STREAMS)
        self.ended_sessions = self._all(schema.ENDED_SESSIONS)
        self.unconfirmed_ends = self._all(schema.UNCONFIRMED_ENDS)
        self.carried = self._all(schema.CARRIED)
        self.join_tokens = self._all(schema.JOIN_TOKENS)
        self.host_certificates = self._all(schema.HOST_CERTIFICATES)
        self.tags = Tags(connection, owner)
        self.removed_sessions: dict[str, str] = {}
        """The sessions that this transaction has removed, by id, and the host of each."""
        self.let_go: set[str] = set()
        """The interfaces, by id, that a removed session or target had used; `ownership.follow` looks at them."""
        self.news: set[str] = set()
        """What replicas are told when this transaction is committed; `REVISION` is for the one that it is then."""

    def _all(self, mapping: schema.Mapping[R], owner: str | None = None) -> Collection[R]:
        return Collection(self._connection, mapping, self._seen[mapping.table.name], owner)

    def of_account(self, owner: str | None) -> "Transaction":
        """The same transaction, as an account sees what has an owner. None: of all accounts, for `sharing` alone."""
        narrowed = Transaction(self._connection, owner, self._seen)
        narrowed.removed_sessions, narrowed.news = self.removed_sessions, self.news
        narrowed.let_go = self.let_go
        return narrowed

    @property
    def revision(self) -> int:
        """Grows with every change that concerns desired state."""
        return int(self.setting(REVISION) or 0)

    def bump_revision(self) -> None:
        self.set_setting(REVISION, str(self.revision + 1))
        self.news.add(REVISION)

    def setting(self, name: str) -> str | None:
        seen = self._seen[schema.SETTINGS.name]
        if (None, name) not in seen:
            found = statements.rows(self._connection, schema.SETTINGS, {"name": name})
            seen[None, name] = found[0]["value"] if found else None
        value: str | None = seen[None, name]
        return value

    def set_setting(self, name: str, value: str) -> None:
        self._seen[schema.SETTINGS.name][None, name] = value
        statements.put(self._connection, schema.SETTINGS, ["name"], {"name": name, "value": value})

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
            self.let_go.add(interface.interface_id)
        self.sessions.remove(session_id)
        self.tags.remove(session_id)

    def remove_target(self, target_id: str) -> None:
        """A target and its tags."""
        target = self.targets.get(target_id)
        if target is not None and isinstance(target.target, InterfaceTarget):
            self.let_go.add(target.target.interface_id)
        for shared in self.shared_targets.where(target_id=target_id):
            self.shared_targets.remove(shared.entry)
        self.targets.remove(target_id)
        self.tags.remove(target_id)

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
        for seen in self._seen.values():
            seen.clear()
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

    def __init__(self, readers: Engine, writers: Engine, name: str, url: str | None = None) -> None:
        self.name = name
        self.url = url
        """Where others may find it; None: it is this process's alone."""
        self.revision_written: int | None = None
        """The last one that this object has committed."""
        self._revision_to_come: int | None = None  # with the transaction that is being committed
        self._readers, self._writers = readers, writers
        self._turns = Turns(
            lambda: self._begun(writes=True), Transaction, self._before_commit, self._after_commit, _is_lost
        )
        self._options: dict[str, Any] = {} if url is None else {"version": schema.VERSION}

    @classmethod
    def open(cls, where: Path | str, *, migrate: bool = True) -> "Store":
        """Open or make the store in a file, or in the PostgreSQL database of a URL (a string).

        Raises `Refusal` for no store at all, and for one of another version that cannot be brought to this one; where
        ``migrate`` is False, for any other version.
        """
        if isinstance(where, str):
            store = cls(postgresql.engine(where), postgresql.engine(where, 1), postgresql.described(where), where)
        else:
            store = cls(sqlite.engine(where), sqlite.engine(where, 1), str(where))
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
        with self._answering(writes=True), self._turns.turn() as transaction:
            yield transaction

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

    def _before_commit(self, done: list[Transaction]) -> None:
        news = set[str]().union(*(transaction.news for transaction in done))
        self._revision_to_come = done[-1].revision if REVISION in news else None
        if self.url is not None:
            for told in sorted(news):
                postgresql.notify(done[-1].connection, str(self._revision_to_come) if told == REVISION else told)

    def _after_commit(self) -> None:
        if self._revision_to_come is not None:  # who is woken by it must find it
            self.revision_written = self._revision_to_come

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()

    @contextmanager
    def _begun(self, **options: Any) -> Iterator[Connection]:
        engine = self._writers if options.get("writes") else self._readers
        with engine.connect().execution_options(**self._options, **options) as connection:
            try:
                with connection.begin():
                    yield connection
            except psycopg.Error as error:
                # What goes to the driver directly is not seen by SQLAlchemy's own handler of errors.
                if postgresql.is_to_be_left(error, writes=bool({"writes", "apart"} & options.keys())):
                    connection.invalidate(error)
                    engine.dispose()
                raise

    @contextmanager
    def _answering(self, *, writes: bool = False) -> Iterator[None]:
        """What the store's being away, or busy, means for a client: to come again."""
        try:
            yield
        except postgresql.OtherVersion:
            raise ApiError(
                "Unavailable", "Another replica has upgraded the store; this one must be upgraded too"
            ) from None
        except (SQLAlchemyError, psycopg.Error, sqlite3.Error) as error:
            cause = (error.orig or error) if isinstance(error, DBAPIError) else error
            if not isinstance(error, _AWAY) and not postgresql.is_away(cause, writes=writes):
                raise
            _log.error("the store does not answer", store=self.name, error=str(cause))
            raise ApiError("Unavailable", "The store does not answer. Try again") from None

    def _make_or_migrate(self, migrate: bool) -> None:
        with self._writers.connect().execution_options(writes=True) as connection, connection.begin():
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


def _parted(keys: Iterable[str]) -> Iterator[list[str]]:
    """Different keys, so many as a statement takes."""
    left = [key for key in dict.fromkeys(keys) if not _is_asked_in_vain({"": key})]
    for first in range(0, len(left), statements.SOME_MAX):
        yield left[first : first + statements.SOME_MAX]


def _is_lost(error: BaseException) -> bool:
    """Whether a writer's connection has to be given up for it."""
    return postgresql.is_to_be_left(getattr(error, "orig", None) or error, writes=True)


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

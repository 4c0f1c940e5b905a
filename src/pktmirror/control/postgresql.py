"""PostgreSQL as the store of any number of replicas. An edge module.

All writers of a database, in whichever replica, take one advisory lock for the length of their transaction, as SQLite
lets one writer in (docs/decisions/0019). So what a transaction checks still holds when it ends, and none has to be
repeated. Readers see one snapshot and wait for nobody.
"""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event

from pktmirror.model.refusal import Refusal

SCHEMES = ("postgresql://", "postgres://")
LOCK_WAIT_MS = 5_000
"""For how long a writer waits for the others; SQLite's waits as long."""
IDLE_IN_TRANSACTION_MS = 10_000
"""A replica that stands still with the lock in its hands loses it."""
CONNECT_S = 5
UNANSWERED_S = 10
"""For how long a server may leave alone what was sent; the kernel by itself waits about 15 minutes, and for ever where
nothing was sent."""
NETWORK: dict[str, str | int] = {
    "connect_timeout": CONNECT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 1_000 * UNANSWERED_S,
    "fallback_application_name": "pktmirror",
}
"""What libpq is told where the URL says nothing of it (PostgreSQL manual, 34.1.2)."""
AWAY = ("25P03", "25P04")
"""What psycopg counts among internal errors: the server has ended a transaction that stood still or took too long."""
READ_ONLY = "25006"
"""A standby, or a database that is set so: to a writer as good as away."""
CHANNEL = "pktmirror"
EVERYTHING = ""
"""What is told when notifications may have been missed."""
WRITERS, REPLICAS = 0x706B746D69727201, 0x706B746D69727202
"""Advisory locks of a database: whoever writes has the first, every running replica shares the second."""
SERVER_VERSION_MIN = 130_000
LISTEN_AGAIN_S = 1.0
LISTEN_LOOK_S = 0.25

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# READ COMMITTED: a snapshot taken before the lock is had would miss what the writer before has done.
_APART = "BEGIN ISOLATION LEVEL READ COMMITTED"
_LOCK = f"SELECT pg_advisory_xact_lock({WRITERS})"
_WRITE = f"{_APART}; {_LOCK}"
_VERSION = "SELECT version FROM schema_version"


def described(url: str) -> str:
    """The database as a person knows it, without its password. Refusal for what is no URL of one."""
    try:
        if not url.startswith(SCHEMES):
            raise psycopg.ProgrammingError
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        raise Refusal(
            "The URL of the store is none of PostgreSQL.",  # not shown: it may hold a password
            do="write --store postgresql://user@host:5432/database, or leave it away for SQLite",
        ) from None
    place = parts.get("host") or parts.get("service") or "this machine"
    return f"{parts.get('dbname') or parts.get('user') or 'of this user'} at {place} (PostgreSQL)"


def engine(url: str) -> Engine:
    """Transactions of the option ``writes`` are alone; the others see one snapshot and cannot write.

    Those of the option ``version`` raise `OtherVersion` where the tables are not of that. Those of the option ``apart``
    are neither: for tables that no writer and no version of them depends on.
    """
    made = create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(url),
        pool_pre_ping=True,  # a server that was restarted costs a connection, not a request
        pool_size=8,  # with the overflow and the listener 17 of a server's 100 connections
        max_overflow=8,
    )
    event.listen(made, "begin", _begin)
    event.listen(made, "handle_error", _failed)
    return made


def is_away(error: BaseException | None, *, writes: bool) -> bool:
    """Whether a server cannot do now what it could at another moment, or another server could: psycopg's own name for
    that, OperationalError, leaves some out. A reader that writes is our mistake, and no such thing."""
    if not isinstance(error, psycopg.Error):
        return False
    return (
        isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        or error.sqlstate in AWAY
        or (writes and error.sqlstate == READ_ONLY)
    )


def check(connection: Connection) -> None:
    """Refusal for a server or database that cannot keep a store."""
    server = connection.connection.dbapi_connection
    assert isinstance(server, psycopg.Connection)
    if server.info.server_version < SERVER_VERSION_MIN:
        raise Refusal(
            "The PostgreSQL server is too old.",
            found=f"version {server.info.server_version // 10_000}",
            do=f"use version {SERVER_VERSION_MIN // 10_000} or later",
        )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise Refusal(
            "The PostgreSQL database does not keep all characters.",
            found=f"the encoding {encoding}",
            do="make a database for pktmirror alone: createdb --encoding=UTF8 --template=template0 NAME",
        )


def lock_writers(connection: Connection) -> None:
    """Be the one writer until the transaction ends."""
    connection.exec_driver_sql(_LOCK)


def notify(connection: Connection, told: str) -> None:
    """Tell every replica, when this transaction is committed."""
    connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, told))


class OtherVersion(Exception):
    """Another replica has changed the tables since this one has opened them."""


class Listener:
    """Calls ``told`` with what a replica has notified, and with EVERYTHING when something may have been missed.

    It also holds the lock that replicas share, for as long as it is connected.
    """

    def __init__(self, url: str, told: Callable[[str], None], failed: Callable[[str], None]) -> None:
        self._url = url
        self._told = told
        self._failed = failed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Nothing is told any more after this."""
        self._stop.set()
        self._thread.join(timeout=CONNECT_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with _connect(self._url) as connection:
                    self._listen(connection)
            except psycopg.Error as error:
                self._failed(str(error))
                self._stop.wait(LISTEN_AGAIN_S)

    def _listen(self, connection: "psycopg.Connection[Any]") -> None:
        share(connection)
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        payloads = [EVERYTHING]
        while not self._stop.is_set():
            for payload in payloads:
                self._told(payload)
            payloads = [each.payload for each in connection.notifies(timeout=LISTEN_LOOK_S, stop_after=1)]


def share(connection: "psycopg.Connection[Any]") -> None:
    """Hold the lock of a running replica until the connection ends."""
    connection.execute("SELECT pg_advisory_lock_shared(%s)", (REPLICAS,))


def alone(url: str) -> "psycopg.Connection[Any]":
    """A connection that keeps replicas out until it is closed; Refusal where one is running."""
    connection = _connect(url)
    [got] = connection.execute("SELECT pg_try_advisory_lock(%s)", (REPLICAS,)).fetchone() or (False,)
    if got:
        return connection
    connection.close()
    raise Refusal(
        f"The store {described(url)} is in use.",
        found="a running control plane",
        do="stop all replicas first",
    )


def _connect(url: str) -> "psycopg.Connection[Any]":
    given = conninfo_to_dict(url)
    ours = {name: value for name, value in NETWORK.items() if name not in given}
    connection = psycopg.connect(make_conninfo(url, **ours), autocommit=True)  # BEGIN is ours
    settings = {
        "lock_timeout": LOCK_WAIT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
        # What is answered is on the disk, also where the server's default would lose it in a power cut.
        **({"synchronous_commit": "on"} if _loses_commits(connection) else {}),
    }
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
    return connection


def _loses_commits(connection: "psycopg.Connection[Any]") -> bool:
    return connection.execute("SHOW synchronous_commit").fetchone() == ("off",)


def _failed(context: ExceptionContext) -> None:
    """A connection to a server that writes no more is given up with all its like: a new one may find another server."""
    options = {} if context.connection is None else context.connection.get_execution_options()
    writes = options.get("writes", False) or options.get("apart", False)
    error = context.original_exception
    if isinstance(error, psycopg.InternalError) and is_away(error, writes=writes):
        context.is_disconnect = True


def _begin(connection: Connection) -> None:
    server = connection.connection.dbapi_connection
    assert isinstance(server, psycopg.Connection)
    options = connection.get_execution_options()
    if options.get("apart", False):
        server.execute(_APART)
        return
    expected = options.get("version")
    statement = _WRITE if options.get("writes", False) else _READ
    # One message, so one round trip; several statements in one cannot be prepared.
    cursor = server.execute(statement if expected is None else f"{statement}; {_VERSION}", prepare=False)
    if expected is not None:
        while cursor.nextset():
            pass
        if cursor.fetchall() != [(expected,)]:
            raise OtherVersion

"""A server of PostgreSQL that goes away in other ways than by ending the connection."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pktmirror.aws import ApiError
from pktmirror.control.store import Store
from tests.postgresql import Server, by_tcp
from tests.waiting import wait_until

WITHIN_S = 30.0


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as store:
        yield store


@contextmanager
def unavailable() -> Iterator[None]:
    with pytest.raises(ApiError) as caught:
        yield
    assert (caught.value.code, caught.value.status) == ("Unavailable", 503)


def revision(store: Store) -> int:
    with store.read() as transaction:
        return transaction.revision


def bump(store: Store) -> None:
    with store.write() as transaction:
        transaction.bump_revision()


def test_a_database_that_is_read_only_is_away_for_writers_until_it_is_not(
    store: Store, url: str, postgresql: Server
) -> None:
    """As after a failover, where the server that is left answers, and does not write."""
    name = sql.Identifier(str(conninfo_to_dict(url)["dbname"]))
    postgresql.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    end_connections(postgresql, url)
    assert revision(store) == 0, "who reads is answered"
    with unavailable(), store.apart() as connection:
        connection.exec_driver_sql("CREATE TABLE beside (x int)")
    with unavailable():
        bump(store)
    postgresql.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    bump(store)
    assert revision(store) == 1, "the connection to what did not write is not used again"


def test_a_transaction_that_stood_still_for_too_long_is_told_to_come_again(store: Store, url: str) -> None:
    def stand_still() -> None:
        with store.write() as transaction:
            transaction.bump_revision()
            server = transaction.connection.connection.dbapi_connection
            assert isinstance(server, psycopg.Connection)
            server.execute("SET idle_in_transaction_session_timeout = 1")
            pid = server.info.backend_pid
            wait_until(lambda: pid not in pids(url), WITHIN_S, "the server waits for it")
            transaction.bump_revision()

    with unavailable():
        stand_still()
    assert revision(store) == 0
    bump(store)
    assert revision(store) == 1


def test_a_network_that_is_cut_is_noticed_in_seconds(url: str) -> None:
    """Without these the kernel waits for about 15 minutes, and where nothing was sent, for ever."""
    options = {
        "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
        "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
        "TCP_KEEPCNT": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    }
    said = {"TCP_USER_TIMEOUT": 3_000, "TCP_KEEPIDLE": 60}
    with by_tcp(url) as reached:
        for place, expected in (
            (reached, {name: value for name, (_, _, value) in options.items()}),
            (
                f"{reached}&tcp_user_timeout=3000&keepalives_idle=60",
                {name: said.get(name, value) for name, (_, _, value) in options.items()},
            ),
        ):
            with closing(Store.open(place)) as store, store.read() as transaction:
                server = transaction.connection.connection.dbapi_connection
                assert isinstance(server, psycopg.Connection)
                with socket.socket(fileno=os.dup(server.fileno())) as its:
                    found = {name: its.getsockopt(level, number) for name, (level, number, _) in options.items()}
            assert found == expected


def pids(url: str) -> set[int]:
    with psycopg.connect(url) as connection:
        return {pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity")}


def end_connections(postgresql: Server, url: str) -> None:
    name = str(conninfo_to_dict(url)["dbname"])
    postgresql.execute(
        sql.SQL("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = {}").format(name)
    )

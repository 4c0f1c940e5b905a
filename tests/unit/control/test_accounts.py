"""The store as an account sees it, and the way from a store of one account to one of many."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.control.records import AccessKeyRecord, FilterRecord
from pktmirror.control.schema import METADATA, OWNER
from pktmirror.control.store import REVISION, Store
from tests.unit.control.records import HOST, interface, session, target

RED = "111122223333"
OF_ONE_ACCOUNT = Path(__file__).parent / "schemas" / "3.sql"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


def test_an_account_sees_and_changes_what_is_its_own_alone(store: Store) -> None:
    with store.write() as transaction:
        own, red = transaction.of_account(""), transaction.of_account(RED)
        own.filters.put(FilterRecord("tmf-own"))
        red.filters.put(FilterRecord("tmf-red"))
        red.tags.put("tmf-red", "team", "red")
        own.tags.put("tmf-own", "team", "own")
    with store.write() as transaction:
        own, red = transaction.of_account(""), transaction.of_account(RED)
        assert red.filters.where() == [FilterRecord("tmf-red")]
        assert (red.filters.get("tmf-own"), red.filters.get("tmf-red")) == (None, FilterRecord("tmf-red"))
        assert (own.filters.count(), red.filters.count(), transaction.filters.count()) == (1, 1, 2)
        assert (red.tags.all(), own.tags.of("tmf-red")) == ({"tmf-red": {"team": "red"}}, {})
        own.filters.remove("tmf-red")
        own.tags.remove("tmf-red")
        assert red.filters.count() == 1
        assert red.tags.of("tmf-red") == {"team": "red"}
        red.filters.remove("tmf-red")
        assert transaction.filters.where() == [FilterRecord("tmf-own")]


def test_each_table_is_of_an_owner_or_is_known_to_be_of_none() -> None:
    whose_column_is_no_owner = {"accounts", "assignments"}
    without = {name for name, table in METADATA.tables.items() if OWNER not in table.c} | whose_column_is_no_owner
    reached_by_a_key_of_the_account = {"user_policies", "idempotency_tokens"}
    of_the_operator = {"accounts", "assignments", "session_templates", "hosts", "join_tokens", "host_certificates"}
    of_the_ledger = {"session_streams", "ended_sessions", "unconfirmed_ends", "carried_figures"}
    of_the_store = {"schema_version", "settings"}
    assert without == reached_by_a_key_of_the_account | of_the_operator | of_the_ledger | of_the_store


def test_whoever_sees_all_keeps_each_its_owner(store: Store) -> None:
    with store.write() as transaction:
        transaction.of_account(RED).interfaces.put(interface("web", "10.0.0.1"))
        transaction.interfaces.put(interface("new", "10.0.0.2"))
        transaction.interfaces.put(interface("web", "10.0.0.9"))
        assert transaction.interfaces.owner_of("eni-web") == RED
        assert transaction.interfaces.owner_of("eni-new") == ""
        assert transaction.interfaces.owner_of("eni-none") is None
        assert transaction.of_account(RED).interfaces.where() == [interface("web", "10.0.0.9")]
        transaction.interfaces.give("eni-new", RED)
        assert transaction.of_account("").interfaces.where() == []


def test_sessions_that_an_accounts_view_removes_are_remembered(store: Store) -> None:
    with store.write() as transaction:
        red = transaction.of_account(RED)
        red.interfaces.put(interface("web", "10.0.0.1"))
        red.targets.put(target("s"))
        red.filters.put(FilterRecord("tmf-f"))
        red.sessions.put(session("a", "web", "s"))
        red.remove_session("tms-a")
        assert transaction.removed_sessions == {"tms-a": HOST}
        red.bump_revision()
        assert transaction.news == {REVISION}


def test_a_store_of_one_account_is_the_store_of_its_root_afterwards(tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    Store.open(fresh).close()
    with sqlite3.connect(old) as before:
        before.executescript(OF_ONE_ACCOUNT.read_text())
        before.execute("INSERT INTO access_keys VALUES ('AKIA1', x'00', 1.0)")
        before.execute("INSERT INTO filters VALUES ('tmf-f', '', NULL)")
    store = Store.open(old)
    with store.read() as transaction:
        assert transaction.access_keys.get("AKIA1") == AccessKeyRecord("AKIA1", b"\x00", 1.0)
        assert transaction.of_account("").filters.get("tmf-f") == FilterRecord("tmf-f")
        assert transaction.of_account("").sessions.count() == transaction.sessions.count() == 1
        assert transaction.of_account(RED).filters.where() == []
    store.close()
    assert _shape(old) == _shape(fresh)
    Store.open(old).close()  # and it stays so


def _shape(path: Path) -> dict[str, object]:
    with sqlite3.connect(path) as found:
        tables = [name for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        indices = {name for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        columns = {
            table: {
                (name, type_, notnull, bool(key))
                for _, name, type_, notnull, _, key in found.execute(f"PRAGMA table_info({table})")
            }
            for table in tables
        }
    return {"columns": columns, "indices": indices}

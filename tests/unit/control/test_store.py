import sqlite3
import threading
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import psycopg
import pytest

from pktmirror.control.keys import Key
from pktmirror.control.records import FilterRecord, RuleRecord
from pktmirror.control.statedir import StateDirectory
from pktmirror.control.store import Store
from pktmirror.model.filter import Action, Direction, NetworkService, PortRange, Rule
from pktmirror.model.refusal import Refusal
from tests.postgresql import Server
from tests.unit.control.records import interface, session, target


@pytest.fixture(params=["sqlite", "postgresql"])
def where(tmp_path: Path, request: pytest.FixtureRequest) -> Path | str:
    """Where a store may be made: each test runs with both kinds."""
    if request.param == "sqlite":
        return tmp_path / "store"
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    store = Store.open(where)
    yield store
    store.close()


FILTER = FilterRecord("tmf-f", frozenset({NetworkService.AMAZON_DNS}), "d")
RULE = RuleRecord(
    "tmfr-1",
    "tmf-f",
    Rule(
        5,
        Direction.EGRESS,
        Action.REJECT,
        ip_network("10.0.0.0/8"),
        ip_network("0.0.0.0/0"),
        6,
        PortRange(0, 10),
        PortRange(22, 22),
    ),
    "rule",
)


def test_records_come_back_as_they_were_put(store: Store) -> None:
    records = [
        (interface("web", "10.0.0.1", detached_at_s=1.5), "interfaces", "eni-web"),
        (target("s"), "targets", "tmt-s"),
        (FILTER, "filters", "tmf-f"),
        (RULE, "rules", "tmfr-1"),
        (session("a", "web", "s"), "sessions", "tms-a"),
    ]
    with store.write() as transaction:
        for record, collection, _ in records:
            getattr(transaction, collection).put(record)
    with store.read() as transaction:
        for record, collection, key in records:
            assert getattr(transaction, collection).get(key) == record
            assert getattr(transaction, collection).where() == [record]
            assert getattr(transaction, collection).count() == 1
        assert transaction.rules.where(filter_id="tmf-f", number=5) == [RULE]
        assert transaction.rules.where(filter_id="tmf-f", number=6) == []


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    with store.read() as transaction:
        before = transaction.dump()

    def fail() -> None:
        with store.write() as transaction:
            transaction.filters.put(FILTER)
            transaction.tags.put("tmf-f", "a", "b")
            transaction.bump_revision()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.read() as transaction:
        assert transaction.dump() == before


def test_what_refers_to_something_needs_it_there(store: Store) -> None:
    def put(with_filter: bool) -> None:
        with store.write() as transaction:
            if with_filter:
                transaction.filters.put(FILTER)
            transaction.rules.put(RULE)

    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        put(with_filter=False)
    put(with_filter=True)


def test_writers_take_turns(store: Store, where: Path | str) -> None:
    other = Store.open(where)

    def bump(through: Store) -> None:
        for _ in range(20):
            with through.write() as transaction:
                transaction.bump_revision()

    threads = [threading.Thread(target=bump, args=[through]) for through in (store, other, store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    with store.read() as transaction:
        assert transaction.revision == 80


def test_a_reader_sees_one_state_while_others_write(store: Store) -> None:
    with store.read() as transaction:
        assert transaction.filters.count() == 0
        with store.write() as writer:
            writer.filters.put(FILTER)
        assert transaction.filters.where() == []
    with store.read() as transaction:
        assert transaction.filters.where() == [FILTER]


def test_a_reader_cannot_write_what_a_writer_might_not_see(store: Store) -> None:
    if store.url is None:
        pytest.skip("SQLite lets a reader turn writer, or fail; no operation does so")

    def put() -> None:
        with store.read() as transaction:
            transaction.filters.put(FILTER)

    with pytest.raises(psycopg.InternalError, match="read-only"):
        put()


def test_records_are_in_the_order_of_code_points(store: Store) -> None:
    ids = ["tmf-B", "tmf-_", "tmf-a", "tmf-é"]
    with store.write() as transaction:
        for id_ in reversed(ids):
            transaction.filters.put(FilterRecord(id_))
    with store.read() as transaction:
        assert [record.filter_id for record in transaction.filters.where()] == ids


def test_no_key_has_a_nul(store: Store) -> None:
    with store.read() as transaction:
        assert transaction.filters.get("tmf-\0") is None


def test_many_may_make_a_store_at_once(where: Path | str) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store.open(where))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        store.close()


def test_a_removed_interface_takes_its_sessions_and_tags_and_leaves_the_rest(store: Store) -> None:
    with store.write() as transaction:
        for record in (interface("web"), interface("db")):
            transaction.interfaces.put(record)
        transaction.targets.put(target("s"))
        transaction.filters.put(FILTER)
        for made in (session("a", "web", "s"), session("b", "db", "s")):
            transaction.sessions.put(made)
            transaction.tags.put(made.session_id, "k", "v")
        transaction.tags.put("eni-web", "k", "v")
    with store.write() as transaction:
        transaction.remove_interface("eni-web")
    with store.read() as transaction:
        assert [record.interface_id for record in transaction.interfaces.where()] == ["eni-db"]
        assert [record.session_id for record in transaction.sessions.where()] == ["tms-b"]
        assert transaction.tags.all() == {"tms-b": {"k": "v"}}
        assert transaction.targets.where() == [target("s")]


def test_no_store_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("this is no database, and long enough to be none" * 50)
    with pytest.raises(Refusal, match="cannot be opened"):
        Store.open(tmp_path / "store")


def test_a_sealed_secret_opens_with_its_key_and_its_name_only() -> None:
    key = Key(bytes(32))
    sealed = key.seal("secret", bound_to="AKIA1")
    assert b"secret" not in sealed
    assert key.open(sealed, bound_to="AKIA1") == "secret"
    for other, name in ((Key(bytes(31) + b"1"), "AKIA1"), (key, "AKIA2")):
        with pytest.raises(Refusal, match="key"):
            other.open(sealed, bound_to=name)


def test_a_damaged_key_file_is_a_refusal(tmp_path: Path) -> None:
    state = StateDirectory.open(tmp_path / "state")
    try:
        assert state.key() == state.key()
        (tmp_path / "state" / "key").write_text("12345")
        with pytest.raises(Refusal, match="damaged"):
            state.key()
    finally:
        state.close()

"""Every released store opens in this version with all that it holds; a later one is refused. `schemas/N.sql` is a store
as the program of version N wrote it."""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

import pktmirror
from pktmirror.control import migrations, postgresql, schema
from pktmirror.control.keys import Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = sorted(SCHEMAS.glob("*.sql"), key=lambda path: int(path.stem))
KEY = Key(bytes(32))


def written(released: Path, at: Path) -> Path:
    with sqlite3.connect(at) as connection:
        connection.executescript(released.read_text())
    connection.close()
    return at


def structure(at: Path) -> dict[str, Any]:
    """What the tables are, in any order of their parts."""
    engine = create_engine(f"sqlite:///{at}")
    try:
        return structure_by(engine)
    finally:
        engine.dispose()


def structure_by(engine: Engine) -> dict[str, Any]:
    found = inspect(engine)
    return {
        table: {
            "columns": {(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns(table)},
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "unique": {tuple(each["column_names"]) for each in found.get_unique_constraints(table)},
            "foreign": {
                (*each["constrained_columns"], each["referred_table"], *each["referred_columns"])
                for each in found.get_foreign_keys(table)
            },
            "indexes": {(each["name"], *each["column_names"]) for each in found.get_indexes(table)},
        }
        for table in found.get_table_names()
    }


def rows(at: Path) -> dict[str, list[tuple[Any, ...]]]:
    with sqlite3.connect(at) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    connection.close()
    return found


def test_there_is_a_step_to_every_version_since_the_earliest_and_a_store_of_each_before() -> None:
    assert sorted(migrations.STEPS) == list(range(migrations.EARLIEST + 1, schema.VERSION + 1))
    assert [int(path.stem) for path in RELEASED][:1] == [migrations.EARLIEST]


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_a_released_store_gets_the_tables_of_a_new_one_and_keeps_its_rows(released: Path, tmp_path: Path) -> None:
    Store.open(tmp_path / "new").close()
    old = written(released, tmp_path / "old")
    before = rows(old)
    Store.open(old).close()
    assert structure(old) == structure(tmp_path / "new")
    after = rows(old)
    assert after.pop("schema_version") == [(schema.VERSION, pktmirror.__version__)]
    del before["schema_version"]
    assert {table: [row[: len(before[table][0])] for row in after[table]] for table in before if before[table]} == {
        table: found for table, found in before.items() if found
    }, "no step so far changes a row"


def in_postgresql(released: Path, url: str) -> Engine:
    """The tables of a released store with PostgreSQL's types; no row but the version."""
    made = re.findall(r"^(CREATE (?:TABLE|INDEX) \S+.*?);$", released.read_text(), re.M | re.S)
    engine = postgresql.engine(url)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        tables = [table.name for table in schema.METADATA.sorted_tables]
        order = {f"CREATE TABLE {name}": place for place, name in enumerate(tables)}
        for statement in sorted(made, key=lambda each: order.get(" ".join(each.split()[:3]), len(order))):
            words = statement.replace("TEXT", 'TEXT COLLATE "C"').replace("BLOB", "BYTEA")
            connection.exec_driver_sql(words)
        connection.exec_driver_sql(f"INSERT INTO schema_version VALUES ({int(released.stem)})")
    return engine


def test_the_steps_make_the_same_tables_in_postgresql(request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgresql")
    new, old = server.database(), server.database()
    Store.open(new).close()
    engine, fresh = in_postgresql(RELEASED[0], old), postgresql.engine(new)
    Store.open(old).close()
    assert structure_by(engine) == structure_by(fresh)
    engine.dispose()
    fresh.dispose()


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_a_released_store_is_understood(released: Path, tmp_path: Path) -> None:
    store = Store.open(written(released, tmp_path / "old"))
    plane = ControlPlane(
        store,
        KEY,
        Trail(tmp_path),
        region="local-1",
        networks=None,
        quotas=Quotas(),
        eni_forget_s=None,
        now_s=1_700_000_100.0,
    )
    with store.read() as transaction:
        assert [record.number for record in transaction.sessions.where()] == [1]
        assert [record.rule.destination_ports for record in transaction.rules.where()] != [None]
        assert transaction.declaration.vpc[0].name == "office"
    desired = plane.desired("host-1")
    assert [each.key for each in desired.interfaces] == ["netns:web/eth0"]
    assert plane.callers.secret_of(plane.callers.identity.access_key_id) == plane.callers.identity.secret_access_key
    store.close()


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_a_step_that_fails_leaves_the_store_as_it_was(released: Path, tmp_path: Path) -> None:
    old = written(released, tmp_path / "old")
    with sqlite3.connect(old) as connection:  # the name that the last step wants for something of its own
        connection.execute("CREATE TABLE ix_idempotency_tokens_created_at_s (x)")
    connection.close()
    before = rows(old)
    with pytest.raises(Refusal, match="cannot be opened"):
        Store.open(old)
    assert rows(old) == before


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_was_in_no_release_is_refused(version: int, tmp_path: Path) -> None:
    old = written(RELEASED[0], tmp_path / "old")
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE schema_version SET version = ?", [version])
    connection.close()
    with pytest.raises(Refusal, match=f"store version {version}"):
        Store.open(old)


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_a_later_version_is_refused_and_says_who_wrote_it(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    at = tmp_path / "store" if where == "sqlite" else request.getfixturevalue("postgresql").database()
    store = Store.open(at)
    with store.write() as transaction:
        later = text(f"UPDATE schema_version SET version = {schema.VERSION + 1}, written_by = '99.1'")
        transaction._connection.execute(later)
    store.close()
    for migrate in (True, False):
        with pytest.raises(Refusal) as refused:
            Store.open(at, migrate=migrate)
        assert "pktmirror 99.1" in str(refused.value.found)
        assert "pktmirror 99.1" in refused.value.do
        assert "restore" in refused.value.do

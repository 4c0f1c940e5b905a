"""Every released store opens in this version with all that it holds; a later one is refused.

`schemas/N.sql` is a store of version N with rows of every kind that it knew, as the last program of that version wrote
it in answer to clients, an agent and a monitor (SQLite's dump). Its key is 32 zero bytes.
"""

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.pool import NullPool

import pktmirror
from pktmirror.control import migrations, postgresql, schema
from pktmirror.control.keys import Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.model.filter import PortRange
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = sorted(SCHEMAS.glob("*.sql"), key=lambda path: int(path.stem))
EARLIER = [path for path in RELEASED if int(path.stem) < schema.VERSION]
KEY = Key(bytes(32))
STORES = ("sqlite", "postgresql")
Rows = dict[str, list[dict[str, Any]]]


def written(released: Path, at: Path) -> Path:
    with sqlite3.connect(at) as connection:
        connection.executescript(released.read_text())
    connection.close()
    return at


def engine_of(at: Path | str) -> Engine:
    """To look into a store, past the program."""
    return postgresql.engine(at) if isinstance(at, str) else create_engine(f"sqlite:///{at}", poolclass=NullPool)


def structure(at: Path | str) -> dict[str, Any]:
    """What the tables are, in any order of their parts."""
    engine = engine_of(at)
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


def rows(at: Path | str) -> Rows:
    """All rows of all tables, in any order."""
    engine = engine_of(at)
    try:
        with engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            found = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().all() for name in tables}
    finally:
        engine.dispose()
    return {table: sorted(map(dict, each), key=repr) for table, each in found.items()}


def names(at: Path) -> set[str]:
    """Of tables and indexes."""
    with sqlite3.connect(at) as connection:
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return {name for name in found if not name.startswith("sqlite_")}


def in_postgresql(released: Path, as_sqlite: Path, url: str) -> None:
    """The same tables with PostgreSQL's types, and the same rows."""
    made = re.findall(r"^(CREATE (?:TABLE|INDEX) \S+.*?);$", released.read_text(), re.M | re.S)
    engine = postgresql.engine(url)
    tables = [table.name for table in schema.METADATA.sorted_tables]  # what refers to others comes after them
    order = {f"CREATE TABLE {name}": place for place, name in enumerate(tables)}
    held = rows(as_sqlite)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        for statement in sorted(made, key=lambda each: order.get(" ".join(each.split()[:3]), len(order))):
            words = statement.replace("TEXT", 'TEXT COLLATE "C"').replace("BLOB", "BYTEA")
            connection.exec_driver_sql(words.replace("BOOLEAN DEFAULT 1", "BOOLEAN DEFAULT true"))
        for table in sorted(held, key=tables.index):
            for row in held[table]:
                marks = ", ".join(["%s"] * len(row))
                values = tuple(bool(value) if column == "active" else value for column, value in row.items())
                connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({marks})", values)
    engine.dispose()


@pytest.fixture
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Of an empty store."""
    if request.param == "sqlite":
        return tmp_path / "store"
    url: str = request.getfixturevalue("postgresql").database()
    return url


def brought(released: Path, where: Path | str, tmp_path: Path) -> Path | str:
    """The released store, there."""
    if isinstance(where, Path):
        return written(released, where)
    in_postgresql(released, written(released, tmp_path / "as_sqlite"), where)
    return where


on_both = pytest.mark.parametrize("where", STORES, indirect=True)
each_released = pytest.mark.parametrize("released", RELEASED, ids=lambda path: f"version {path.stem}")


def test_there_is_a_step_to_every_version_since_the_earliest_and_a_store_of_each_before() -> None:
    assert sorted(migrations.STEPS) == list(range(migrations.EARLIEST + 1, schema.VERSION + 1))
    assert [int(path.stem) for path in EARLIER] == list(range(migrations.EARLIEST, schema.VERSION))


@each_released
def test_a_released_store_has_rows_in_every_table_that_its_version_knew(released: Path, tmp_path: Path) -> None:
    empty = {table for table, found in rows(written(released, tmp_path / "old")).items() if not found}
    assert empty == ({"carried_figures"} if released.stem == "3" else set())


@on_both
@each_released
def test_migrated_from_each_released_schema_a_store_has_the_tables_of_a_new_one_and_every_row_of_before(
    released: Path, where: Path | str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new = tmp_path / "new" if isinstance(where, Path) else request.getfixturevalue("postgresql").database()
    Store.open(new).close()
    brought(released, where, tmp_path)
    before = rows(where)
    Store.open(where).close()
    assert structure(where) == structure(new)
    after = rows(where)
    assert [(row["version"], row["written_by"]) for row in after.pop("schema_version")] == [
        (schema.VERSION, pktmirror.__version__)
    ]
    del before["schema_version"]
    kept = {
        table: sorted(({column: row[column] for column in found[0]} for row in after[table]), key=repr)
        for table, found in before.items()
        if found
    }
    assert kept == {table: found for table, found in before.items() if found}, "no step so far changes a row"
    assert {table for table in after if table not in before and after[table]} == set(), "nor makes one"


@on_both
@each_released
def test_what_a_released_store_held_means_the_same_in_this_version(
    released: Path, where: Path | str, tmp_path: Path
) -> None:
    version = int(released.stem)
    store = Store.open(brought(released, where, tmp_path))
    plane = ControlPlane(
        store,
        KEY,
        Trail(tmp_path),
        region="local-1",
        networks=None,
        quotas=Quotas(),
        eni_forget_s=None,
        now_s=1_800_000_000.0,
    )
    with store.read() as transaction:
        [session] = transaction.sessions.where()
        [rule] = transaction.rules.where()
        [filter_] = transaction.filters.where()
        assert (session.number, session.vni) == (1, 101)
        assert (rule.rule.destination_ports, rule.rule.protocol, rule.description) == (PortRange(22, 22), 6, "ssh")
        assert session.filter_id == rule.filter_id == filter_.filter_id
        assert [service.value for service in filter_.services] == ["amazon-dns"]
        assert {record.found.instance for record in transaction.interfaces.where()} == {"web", "db", "mon"}
        assert {type(record.target).__name__ for record in transaction.targets.where()} >= {
            "InterfaceTarget",
            "LoadBalancerTarget",
        }
        assert all(record.active for record in transaction.access_keys.where())
        assert [record.name for record in transaction.templates.where()] == (["office/db"] if version >= 6 else [])
        assert [record.host_id for record in transaction.host_certificates.where()] == (
            ["host-2"] if version >= 5 else []
        )
        assert [record.name for record in transaction.users.where()] == (["ann"] if version >= 7 else [])
        assert transaction.declaration.vpc[0].name == "office"
    desired = plane.desired("host-1")
    assert [each.key for each in desired.interfaces] == ["netns:web/eth0"]
    assert plane.callers.secret_of(plane.callers.identity.access_key_id) == plane.callers.identity.secret_access_key
    store.close()


@pytest.mark.parametrize("released", EARLIER, ids=lambda path: f"version {path.stem}")
def test_a_step_that_fails_leaves_the_store_as_it_was(released: Path, tmp_path: Path) -> None:
    Store.open(tmp_path / "new").close()
    last = written(EARLIER[-1], tmp_path / "last")
    wanted = min(names(tmp_path / "new") - names(last))  # by the last step, for something of its own
    old = written(released, tmp_path / "old")
    with sqlite3.connect(old) as connection:
        connection.execute(f"CREATE TABLE {wanted} (x)")
    connection.close()
    before = rows(old), names(old)
    with pytest.raises(Refusal, match="cannot be opened"):
        Store.open(old)
    assert (rows(old), names(old)) == before


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_was_in_no_release_is_refused(version: int, tmp_path: Path) -> None:
    old = written(RELEASED[0], tmp_path / "old")
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE schema_version SET version = ?", [version])
    connection.close()
    with pytest.raises(Refusal, match=f"store version {version}"):
        Store.open(old)


@on_both
def test_a_later_version_is_refused_and_says_who_wrote_it(where: Path | str) -> None:
    store = Store.open(where)
    with store.write() as transaction:
        later = text(f"UPDATE schema_version SET version = {schema.VERSION + 1}, written_by = '99.1'")
        transaction._connection.execute(later)
    store.close()
    for migrate in (True, False):
        with pytest.raises(Refusal) as refused:
            Store.open(where, migrate=migrate)
        assert "pktmirror 99.1" in str(refused.value.found)
        assert "pktmirror 99.1" in refused.value.do
        assert "restore" in refused.value.do

"""The store's few kinds of statements, each put together once and then handed to the driver as it is.

SQLAlchemy writes the text, in the SQL of either store. Had it also to carry each one out, building, looking up and
wrapping would take several times as long as the database does. With `store` and what that names the only SQL. An edge
module.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, Table, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.dialects.sqlite import pysqlite

Row = dict[str, Any]

_DIALECTS = {"postgresql": psycopg.dialect(paramstyle="format"), "sqlite": pysqlite.dialect(paramstyle="qmark")}  # type: ignore[no-untyped-call]
_Shape = tuple[tuple[str, bool], ...]
"""The columns of a condition, and whether each is asked to be NULL."""


def rows(connection: Connection, table: Table, equal: Mapping[str, object], order: Sequence[str] = ()) -> list[Row]:
    """All columns of the rows whose columns equal what is given, in the order of some columns."""
    text, names = _select(table, connection.dialect.name, _shape(equal), tuple(order))
    columns, flags = _columns(table)
    found = [dict(zip(columns, row, strict=True)) for row in _run(connection, text, names, equal).fetchall()]
    for name in flags:
        for row in found:
            row[name] = bool(row[name])
    return found


def count(connection: Connection, table: Table, equal: Mapping[str, object]) -> int:
    text, names = _count(table, connection.dialect.name, _shape(equal))
    return int(_run(connection, text, names, equal).fetchone()[0])


def put(connection: Connection, table: Table, key: Sequence[str], row: Row) -> None:
    """Insert, or where the columns of ``key`` are those of a row that is there, write the others into that."""
    text, names = _put(table, connection.dialect.name, tuple(key), tuple(row))
    _run(connection, text, names, row)


def remove(connection: Connection, table: Table, equal: Mapping[str, object]) -> None:
    text, names = _remove(table, connection.dialect.name, _shape(equal))
    _run(connection, text, names, equal)


def _run(connection: Connection, text: str, names: Sequence[str], values: Mapping[str, object]) -> Any:
    driver: Any = connection.connection.dbapi_connection
    return driver.execute(text, [values[name] for name in names])


def _shape(equal: Mapping[str, object]) -> _Shape:
    return tuple((name, value is None) for name, value in equal.items())


@functools.cache
def _columns(table: Table) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all, and of those that SQLite has as numbers."""
    return (
        tuple(column.name for column in table.c),
        tuple(column.name for column in table.c if isinstance(column.type, Boolean)),
    )


@functools.cache
def _select(table: Table, dialect: str, shape: _Shape, order: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    query = select(table).where(*_conditions(table, shape)).order_by(*(table.c[name] for name in order))
    return _compiled(query, dialect)


@functools.cache
def _count(table: Table, dialect: str, shape: _Shape) -> tuple[str, tuple[str, ...]]:
    return _compiled(select(func.count()).select_from(table).where(*_conditions(table, shape)), dialect)


@functools.cache
def _put(table: Table, dialect: str, key: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    insert: Callable[[Table], Any] = postgresql_insert if dialect == "postgresql" else sqlite_insert
    statement = insert(table).values({name: bindparam(name, type_=table.c[name].type) for name in names})
    changed = {name: statement.excluded[name] for name in names if name not in key}
    return _compiled(statement.on_conflict_do_update(index_elements=key, set_=changed), dialect)


@functools.cache
def _remove(table: Table, dialect: str, shape: _Shape) -> tuple[str, tuple[str, ...]]:
    return _compiled(delete(table).where(*_conditions(table, shape)), dialect)


def _conditions(table: Table, shape: _Shape) -> list[Any]:
    return [
        table.c[name].is_(None) if is_null else table.c[name] == bindparam(name, type_=table.c[name].type)
        for name, is_null in shape
    ]


def _compiled(statement: Any, dialect: str) -> tuple[str, tuple[str, ...]]:
    """The text, and the names of its parameters in their order."""
    compiled = statement.compile(dialect=_DIALECTS[dialect])
    return str(compiled), tuple(compiled.positiontup or ())

"""The store's few kinds of statements, each put together once and then handed to the driver as it is.

SQLAlchemy writes the text, in the SQL of either store. Had it also to carry each one out, building, looking up and
wrapping would take several times as long as the database does. With `store` and what that names the only SQL. An edge
module.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, Table, bindparam, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.dialects.sqlite import pysqlite

from pktmirror.control.schema import OWNER

Row = dict[str, Any]

_DIALECTS = {"postgresql": psycopg.dialect(paramstyle="format"), "sqlite": pysqlite.dialect(paramstyle="qmark")}  # type: ignore[no-untyped-call]
SOME_MAX = 1024
_ABOVE, _MOST, _ANY = "above", "most", "any_"
_Shape = tuple[tuple[str, bool], ...]
"""The columns of a condition, and whether each is asked to be NULL."""


def rows(connection: Connection, table: Table, equal: Mapping[str, object], order: Sequence[str] = ()) -> list[Row]:
    """All columns of the rows whose columns equal what is given, in the order of some columns."""
    text, names = _select(table, connection.dialect.name, _shape(equal), tuple(order))
    return _rows(table, _run(connection, text, names, equal))


def piece(
    connection: Connection, table: Table, equal: Mapping[str, object], key: str, above: str, most: int
) -> list[Row]:
    """As `rows`, in the order of ``key`` and only those above a value of it; at most so many."""
    text, names = _piece(table, connection.dialect.name, _shape(equal), key)
    return _rows(table, _run(connection, text, names, {**equal, _ABOVE: above, _MOST: most}))


def some(
    connection: Connection, table: Table, equal: Mapping[str, object], key: str, values: Sequence[str]
) -> list[Row]:
    """As `rows`, in the order of ``key`` and only those with one of some values of it: from one to `SOME_MAX`."""
    # One text for all numbers up to a power of two: the last value may be asked for twice.
    width = 1 << (len(values) - 1).bit_length()
    text, names = _some(table, connection.dialect.name, _shape(equal), key, width)
    asked = {f"{_ANY}{at}": value for at, value in enumerate([*values, *[values[-1]] * (width - len(values))])}
    return _rows(table, _run(connection, text, names, {**equal, **asked}))


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


def remove_below(connection: Connection, table: Table, limit: Mapping[str, float]) -> None:
    """Remove the rows in which a column is less than its limit."""
    text, names = _remove_below(table, connection.dialect.name, tuple(limit))
    _run(connection, text, names, limit)


def _rows(table: Table, cursor: Any) -> list[Row]:
    columns, flags = _columns(table)
    found = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    for name in flags:
        for row in found:
            row[name] = None if row[name] is None else bool(row[name])
    return found


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
    query = select(table).where(*_conditions(table, shape, dialect)).order_by(*(table.c[name] for name in order))
    return _compiled(query, dialect)


@functools.cache
def _piece(table: Table, dialect: str, shape: _Shape, key: str) -> tuple[str, tuple[str, ...]]:
    above = table.c[key] > bindparam(_ABOVE, type_=table.c[key].type)
    query = select(table).where(*_conditions(table, shape, dialect, by_key=True), above).order_by(table.c[key])
    text, names = _compiled(query, dialect)
    # As both write it; SQLAlchemy would add an offset, as a parameter of a name of its own.
    return f"{text} LIMIT {'%s' if dialect == 'postgresql' else '?'}", (*names, _MOST)


@functools.cache
def _some(table: Table, dialect: str, shape: _Shape, key: str, width: int) -> tuple[str, tuple[str, ...]]:
    any_of = table.c[key].in_([bindparam(f"{_ANY}{at}", type_=table.c[key].type) for at in range(width)])
    return _compiled(
        select(table).where(*_conditions(table, shape, dialect, by_key=True), any_of).order_by(table.c[key]), dialect
    )


@functools.cache
def _count(table: Table, dialect: str, shape: _Shape) -> tuple[str, tuple[str, ...]]:
    return _compiled(select(func.count()).select_from(table).where(*_conditions(table, shape, dialect)), dialect)


@functools.cache
def _put(table: Table, dialect: str, key: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    insert: Callable[[Table], Any] = postgresql_insert if dialect == "postgresql" else sqlite_insert
    statement = insert(table).values({name: bindparam(name, type_=table.c[name].type) for name in names})
    changed = {name: statement.excluded[name] for name in names if name not in key}
    return _compiled(statement.on_conflict_do_update(index_elements=key, set_=changed), dialect)


@functools.cache
def _remove(table: Table, dialect: str, shape: _Shape) -> tuple[str, tuple[str, ...]]:
    return _compiled(delete(table).where(*_conditions(table, shape, dialect)), dialect)


@functools.cache
def _remove_below(table: Table, dialect: str, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    limits = [table.c[name] < bindparam(name, type_=table.c[name].type) for name in names]
    return _compiled(delete(table).where(*limits), dialect)


def _conditions(table: Table, shape: _Shape, dialect: str, *, by_key: bool = False) -> list[Any]:
    """``by_key``: there is a condition on the key beside these."""
    is_narrow = by_key or len(shape) > 1
    return [
        _column(table, name, dialect, is_narrow).is_(None)
        if is_null
        else _column(table, name, dialect, is_narrow) == bindparam(name, type_=table.c[name].type)
        for name, is_null in shape
    ]


def _column(table: Table, name: str, dialect: str, is_narrow: bool) -> Any:
    """The column of a condition.

    SQLite has no figures to choose an index by, and would read a whole account to find one row of it: a ``+`` keeps it
    from the index of owners where there is another condition ("The SQLite Query Optimizer Overview", 7).
    """
    if name == OWNER and dialect == "sqlite" and is_narrow:
        return literal_column(f"+{table.name}.{name}", table.c[name].type)
    return table.c[name]


def _compiled(statement: Any, dialect: str) -> tuple[str, tuple[str, ...]]:
    """The text, and the names of its parameters in their order."""
    compiled = statement.compile(dialect=_DIALECTS[dialect])
    return str(compiled), tuple(compiled.positiontup or ())

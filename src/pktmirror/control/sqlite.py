"""SQLite as the store: one file, one writer at a time, nothing to run beside it. An edge module."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

BUSY_TIMEOUT_MS = 5_000
CONNECTIONS = 15
CACHE_KIB = 16_384
"""Of each connection, at most; what a change touches of a store of 100,000 sessions is in it."""


def engine(path: Path, connections: int = CONNECTIONS) -> Engine:
    """Transactions of the option ``writes`` have the file for themselves; the others see one state of it.

    Each connection has a cache of the file, which is of no use once another has written: who writes keeps to one.
    """
    made = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,
    )
    event.listen(made, "connect", _configure)
    event.listen(made, "begin", _begin)
    return made


def damage(connection: Connection) -> str | None:
    """What is wrong with the file; None: nothing."""
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    return None if found == "ok" else str(found)


def _configure(connection: Any, _record: object) -> None:
    """A power cut loses no answered request (FULL); readers do not wait for the writer (WAL)."""
    connection.isolation_level = None  # BEGIN is ours: the module's own would be deferred also for writers
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        f"cache_size=-{CACHE_KIB}",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a reader that turns writer can fail halfway, a writer from the start only waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""A backup: one file that holds all of a control plane, and how it comes back. An edge module.

The file is a SQLite store of its own, whichever kind it was made from, so a backup of one kind can be restored into the
other. It holds what the store held at one moment, also while control planes run, and the files of the state directory
without which that cannot be read: the key, the tokens and the CA. So it is as secret as they are.
"""

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from pktmirror.aws import ApiError
from pktmirror.control import migrations, postgresql, schema
from pktmirror.control.statedir import STORE, StateDirectory, kept_files, sync
from pktmirror.control.store import Store, Transaction
from pktmirror.model.refusal import Refusal

_FILES, _DIGEST = "backup_files", "backup_digest"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds, for people."""

    account_id: str
    revision: int
    interfaces: int
    sessions: int


def back_up(state_dir: Path, url: str | None, file: Path, *, replace: bool) -> Contents:
    """Write a backup, whole or not at all.

    Refusal where there is a file already, but for another backup where ``replace`` is given; and for any file in the
    state directory, where it could take the place of the open store, or of the key.
    """
    _refuse_within(state_dir, file)
    with _refusing(f"The backup {file} cannot be made.", "make it again: nothing is left of it"):
        if file.exists() and not replace:
            raise Refusal(f"{file} is there already.", do="name another file, or give --replace")
        if file.exists() and not _is_backup(file):
            raise Refusal(
                f"{file} is no backup, and no backup takes its place.",
                do="name another file, or move away what is there",
            )
        if url is None and not (state_dir / STORE).exists():
            raise Refusal(
                f"There is no store in {state_dir}.", do="name the directory of `pktmirror serve` with --state"
            )
        kept = kept_files(state_dir)
        store = Store.open(url or state_dir / STORE, migrate=False)
        try:
            with _fresh(file) as fresh:
                contents = _copy(store, fresh)
                _seal(fresh, kept)
        finally:
            store.close()
        return contents


def restore(file: Path, state_dir: Path, url: str | None, *, replace: bool) -> Contents:
    """Put what a backup holds in the place of what there is, in one transaction. The files are written before it, and
    take their names after it.

    Refusal where a control plane runs, where the file is no backup or of a later version, and, unless ``replace`` is
    given, where there is a store already.
    """
    kept = _opened(file)
    state = StateDirectory.open(state_dir)
    try:
        with (
            _refusing(f"{file} cannot be restored.", "restore it again: what is there is as it was, or restored whole"),
            _alone(url),
            _copied(file, state_dir) as copy,
            state.putting_back(kept),
        ):
            return _put_in_place(copy, url or state.store, state, replace)
    finally:
        state.close()


def _refuse_within(state_dir: Path, file: Path) -> None:
    state, folder = state_dir.resolve(), file.parent.resolve()
    if state in (folder, *folder.parents):
        raise Refusal(
            f"{file} is in the state directory {state_dir}, which a backup is to outlive.",
            do="name a file elsewhere, best on another disk",
        )


def _is_backup(file: Path) -> bool:
    """Whether a file is one, also a damaged one. It is only read: it may be somebody's store, and open."""
    try:
        address = f"{file.absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_FILES,))
            return found.fetchone() is not None
    except sqlite3.Error:
        return False


def _copy(store: Store, fresh: Path) -> Contents:
    copy = Store.open(fresh)
    try:
        with store.read() as transaction, copy.write() as into:
            into.take_over(transaction)
            return _contents(transaction)
    finally:
        copy.close()


def _put_in_place(copy: Store, where: Path | str, state: StateDirectory, replace: bool) -> Contents:
    store = Store.open(where)
    try:
        with copy.read() as transaction, store.write() as into:
            if (state.has_key or into.access_keys.count()) and not replace:
                raise Refusal(
                    f"There is a store already: {store.name}, with its key in {state.path}.",
                    do="name another --state or --store, or give --replace: what is there is lost then",
                )
            seen = into.revision
            into.take_over(transaction)
            into.leap_revision(seen)
            return _contents(into)
    finally:
        store.close()


@contextmanager
def _refusing(what: str, do: str) -> Iterator[None]:
    """A server that is away, and a disk that is full, are for whoever asked to mend."""
    try:
        yield
    except (OSError, sqlite3.Error, psycopg.Error, ApiError) as error:
        found = error.message if isinstance(error, ApiError) else str(error).strip()
        raise Refusal(
            what, found=found, do=f"see that the store's server runs and that there is room on the disk, and {do}"
        ) from None


def _contents(transaction: Transaction) -> Contents:
    return Contents(
        transaction.setting("account_id") or "",
        transaction.revision,
        transaction.interfaces.count(),
        transaction.sessions.count(),
    )


@contextmanager
def _fresh(file: Path) -> Iterator[Path]:
    """A new file for its owner only, which takes the name when all went well."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield fresh
        fresh.rename(file)
        sync(file.parent)
    except OSError as error:
        raise Refusal(
            f"{file} cannot be written.", found=error.strerror or str(error), do="name a file in a writable directory"
        ) from None
    finally:
        for name in (fresh, *(fresh.with_name(f"{fresh.name}{end}") for end in ("-wal", "-shm", "-journal"))):
            name.unlink(missing_ok=True)


def _seal(fresh: Path, kept: dict[str, str]) -> None:
    """Add the files and a digest of all, and make one file of it that is on the disk."""
    with contextlib.closing(sqlite3.connect(fresh)) as connection, connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute(f"CREATE TABLE {_FILES} (name TEXT PRIMARY KEY, content TEXT NOT NULL)")
        connection.executemany(f"INSERT INTO {_FILES} VALUES (?, ?)", sorted(kept.items()))
        digest = _digest(connection)
        connection.execute(f"CREATE TABLE {_DIGEST} (sha256_sum TEXT NOT NULL)")
        connection.execute(f"INSERT INTO {_DIGEST} VALUES (?)", (digest,))
    sync(fresh)


def _digest(connection: sqlite3.Connection) -> str:
    """Of every row of every other table, in whatever order: the sum of their SHA-256, in hexadecimal digits."""
    named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite@_%' ESCAPE '@' AND name <> ?"
    total = 0
    for (table,) in connection.execute(named, (_DIGEST,)).fetchall():
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            total += int.from_bytes(hashlib.sha256(repr((table, *row)).encode()).digest())
    return f"{total % 2**256:064x}"


def _damage(connection: sqlite3.Connection) -> str | None:
    """What is wrong with a backup, in words; None: it is as it was written. Earlier versions wrote no digest."""
    try:
        [[found], *_] = connection.execute("PRAGMA integrity_check(1)").fetchall()
        if found != "ok":
            return str(found)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_DIGEST,)).fetchone() is None:
            return None
        told = [digest for (digest,) in connection.execute(f"SELECT sha256_sum FROM {_DIGEST}")]
        return None if told == [_digest(connection)] else "other contents than those that were written"
    except sqlite3.Error as error:
        return str(error)


def _opened(file: Path) -> dict[str, str]:
    """The files in a backup; Refusal for what is none, for one that this program cannot read, and for a damaged one."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {_FILES, schema.SCHEMA_VERSION.name} <= there:
                raise _no_backup(file, "no table of a backup")
            connection.row_factory = sqlite3.Row
            row = dict(connection.execute(f"SELECT * FROM {schema.SCHEMA_VERSION.name}").fetchone() or {})
            connection.row_factory = None
            if isinstance(version := row.get("version"), int):
                migrations.refuse_later(str(file), version, row.get("written_by"))
            damage = _damage(connection)
            if damage is None:
                return dict(connection.execute(f"SELECT name, content FROM {_FILES}").fetchall())
    except sqlite3.Error as error:
        # Without a code it is a text that is none.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise _no_backup(file, str(error)) from None
        damage = str(error)
    raise Refusal(f"{file} is damaged.", found=damage, do="restore another backup")


def _no_backup(file: Path, found: str) -> Refusal:
    return Refusal(f"{file} is no backup of pktmirror.", found=found, do="name a file that `pktmirror backup` wrote")


@contextmanager
def _copied(file: Path, state_dir: Path) -> Iterator[Store]:
    """A copy of the backup, brought to this version; the backup itself stays as it is."""
    with TemporaryDirectory(prefix=".restoring-", dir=state_dir) as scratch:
        shutil.copyfile(file, Path(scratch) / STORE)
        copy = Store.open(Path(scratch) / STORE)
        try:
            yield copy
        finally:
            copy.close()


@contextmanager
def _alone(url: str | None) -> Iterator[None]:
    """No replica runs meanwhile. The lock of the state directory says so of SQLite."""
    if url is None:
        yield
        return
    with postgresql.alone(url):
        yield

"""Writers that come while another writes are committed together, and each is undone alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event

from pktmirror.control import sqlite
from pktmirror.control.store import Store
from pktmirror.control.turns import TURNS_MAX, Turns
from tests.waiting import wait_until


class View:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def put(self, name: str) -> None:
        self.connection.exec_driver_sql("INSERT INTO written VALUES (?)", (name,))

    def seen(self) -> list[str]:
        return [name for (name,) in self.connection.exec_driver_sql("SELECT name FROM written ORDER BY rowid")]


class Writers:
    """Turns over a file, and what of them was committed together."""

    def __init__(self, engine: Engine) -> None:
        self.together: list[list[str]] = []
        self.disk_is_full = False
        self.found_after: list[list[str]] = []
        self.turns = Turns(self._begun, View, self._before_commit, self._after_commit, together_s_max=60.0)
        self._engine = engine
        with self._begun() as connection:
            connection.exec_driver_sql("CREATE TABLE written (name TEXT UNIQUE)")

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _before_commit(self, done: list[View]) -> None:
        if self.disk_is_full:
            raise OSError("the disk is full")
        before = [name for names in self.together for name in names]
        self.together.append(done[-1].seen()[len(before) :])

    def _after_commit(self) -> None:
        self.found_after.append(self.on_the_disk())

    def on_the_disk(self) -> list[str]:
        with self._begun() as connection:
            return View(connection).seen()

    def write(self, *names: str, fails: str = "") -> dict[str, Exception | None]:
        """All at once: those after the first come while that has its turn. What each raised."""
        first_began, first_may_end = threading.Event(), threading.Event()
        raised: dict[str, Exception | None] = {}

        def write(name: str) -> None:
            try:
                with self.turns.turn() as view:
                    if name == names[0]:
                        first_began.set()
                        assert first_may_end.wait(10)
                    view.put(name)
                    if name in fails:
                        raise KeyError(name)
                raised[name] = None
            except Exception as error:
                raised[name] = error

        threads = [threading.Thread(target=write, args=[name]) for name in names]
        for number, thread in enumerate(threads):
            thread.start()
            assert first_began.wait(10)
            wait_until(lambda n=number: self.turns.waiting == n, within_s=10, else_say="a writer has not come")  # type: ignore[misc]
        first_may_end.set()
        for thread in threads:
            thread.join(10)
        return raised


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    engine = sqlite.engine(tmp_path / "store", 1)
    yield Writers(engine)
    engine.dispose()


def test_a_writer_who_is_alone_is_committed_alone(writers: Writers) -> None:
    assert writers.write("a") == {"a": None}
    assert writers.write("b") == {"b": None}
    assert writers.together == [["a"], ["b"]]
    assert writers.on_the_disk() == ["a", "b"]


def test_those_who_wait_are_committed_together(writers: Writers) -> None:
    assert writers.write(*"abcd") == dict.fromkeys("abcd")
    [together] = writers.together
    assert (together[0], sorted(together)) == ("a", [*"abcd"])
    assert writers.on_the_disk() == together


def test_one_that_fails_is_undone_alone(writers: Writers) -> None:
    raised = writers.write(*"abcd", fails="c")
    assert {name: type(error) for name, error in raised.items() if error} == {"c": KeyError}
    assert sorted(writers.on_the_disk()) == ["a", "b", "d"]


def test_the_first_that_fails_leaves_the_others_a_transaction(writers: Writers) -> None:
    raised = writers.write(*"abc", fails="a")
    assert {name: type(error) for name, error in raised.items() if error} == {"a": KeyError}
    assert sorted(writers.on_the_disk()) == ["b", "c"]


def test_where_the_commit_fails_nobody_has_written(writers: Writers) -> None:
    writers.disk_is_full = True
    raised = writers.write(*"abc")
    assert {name: type(error) for name, error in raised.items()} == dict.fromkeys("abc", OSError)
    writers.disk_is_full = False
    assert writers.write("d") == {"d": None}
    assert writers.on_the_disk() == ["d"]


def test_so_many_and_no_more_are_committed_together(writers: Writers) -> None:
    names = [f"{number:03}" for number in range(TURNS_MAX + 2)]
    assert writers.write(*names) == dict.fromkeys(names)
    assert sorted(map(len, writers.together)) == [2, TURNS_MAX]
    assert sorted(writers.on_the_disk()) == names


def test_who_is_told_of_a_commit_finds_it(writers: Writers) -> None:
    """Another connection sees by then what was written; of what was not committed nobody is told."""
    writers.write("a")
    assert writers.found_after == [["a"]]
    writers.write("b", "c")
    assert writers.found_after == [["a"], ["a", "b", "c"]]
    writers.disk_is_full = True
    writers.write("d")
    assert writers.found_after == [["a"], ["a", "b", "c"]]


def test_a_store_names_a_revision_once_others_find_it(tmp_path: Path) -> None:
    """A poll that is woken sooner would look, find nothing, and not be woken again for it."""
    store = Store.open(tmp_path / "store.sqlite")
    try:
        with store.write() as transaction:
            transaction.bump_revision()
        written = store.revision_written
        named_at_commit: list[int | None] = []
        committing = store._writers  # the edge itself: nothing outside sees the moment of a commit
        event.listen(committing, "commit", lambda _connection: named_at_commit.append(store.revision_written))
        with store.write() as transaction:
            transaction.bump_revision()
            revision = transaction.revision
        assert (named_at_commit, store.revision_written) == ([written], revision)
        with suppress(KeyError), store.write() as transaction:
            transaction.bump_revision()
            raise KeyError
        assert store.revision_written == revision
    finally:
        store.close()

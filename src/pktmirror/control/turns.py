"""Writers take turns within one transaction, which is committed when nobody waits for a turn any more.

So one write to the disk serves all who came while the last one was under way. Each sees what those before it in the
transaction have done; what fails undoes its own turn alone. Nobody is answered before the commit, and where that fails
nobody's turn has happened. A writer who is alone has a transaction to himself. With `store` the only place where a
transaction ends. An edge module.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection

TURNS_MAX = 32
TURNS_S_MAX = 0.020
"""No further turn begins in a transaction that is as old: whoever had the first one waits for its end."""
_SAVEPOINT, _RELEASE, _UNDO = "SAVEPOINT turn", "RELEASE SAVEPOINT turn", "ROLLBACK TO SAVEPOINT turn"


class Written(Protocol):
    """What one turn works on."""

    @property
    def connection(self) -> Connection: ...


W = TypeVar("W", bound=Written)


class _Together(Generic[W]):
    """One transaction, and what came of it."""

    def __init__(self, within: AbstractContextManager[Connection]) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.done: list[W] = []
        self._within = within
        self.connection = within.__enter__()
        self._began_s = time.monotonic()

    def is_full(self, s_max: float) -> bool:
        return len(self.done) >= TURNS_MAX or time.monotonic() - self._began_s > s_max

    def commit(self, before: Callable[[list[W]], None], after: Callable[[], None]) -> None:
        try:
            before(self.done)
        except BaseException as error:
            self.undo(error)
        else:
            self._end(None, after)

    def undo(self, error: BaseException) -> None:
        self._end(error)

    def _end(self, error: BaseException | None, after: Callable[[], None] = lambda: None) -> None:
        """Commits where there is no error."""
        self.error = error
        try:
            self._within.__exit__(None if error is None else type(error), error, None)
            after()
        except BaseException as failure:
            self.error = failure
        finally:
            self.ended.set()

    def execute(self, statement: str) -> None:
        driver: Any = self.connection.connection.dbapi_connection
        driver.execute(statement)


class Turns(Generic[W]):
    """``begin`` opens a transaction, which is committed when its context ends well; ``before_commit`` is called in it
    with what the turns worked on, and ``after_commit`` once that is so, before anybody is answered or begins anew.
    What ``is_lost`` is no turn's alone: the connection is good for nothing more, so the whole transaction is undone."""

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[Connection]],
        view: Callable[[Connection], W],
        before_commit: Callable[[list[W]], None],
        after_commit: Callable[[], None] = lambda: None,
        is_lost: Callable[[BaseException], bool] = lambda _error: False,
        *,
        together_s_max: float = TURNS_S_MAX,
    ) -> None:
        self._begin = begin
        self._view = view
        self._before_commit = before_commit
        self._after_commit = after_commit
        self._is_lost = is_lost
        self._together_s_max = together_s_max
        self._turn = threading.Lock()  # waiting here is fair; SQLite's own waiting is polling
        self._counting = threading.Lock()
        self._waiting = 0
        self._together: _Together[W] | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a turn now."""
        return self._waiting

    @contextmanager
    def turn(self) -> Iterator[W]:
        """The turn's changes are on the disk when this ends; an exception undoes them."""
        with self._having_waited():
            together = self._together or _Together[W](self._begin())
            self._together = together
            failure: BaseException | None = None
            is_first = not together.done
            try:
                if not is_first:
                    together.execute(_SAVEPOINT)
                mine = self._view(together.connection)
                yield mine
                if not is_first:
                    together.execute(_RELEASE)
                together.done.append(mine)
            except BaseException as error:
                failure = error
                self._undo(together, error)
            if self._together is not None and (together.is_full(self._together_s_max) or not self._waiting):
                self._together = None
                together.commit(self._before_commit, self._after_commit)
        together.ended.wait()
        if failure is not None:
            raise failure
        if together.error is not None:
            raise together.error

    @contextmanager
    def _having_waited(self) -> Iterator[None]:
        self._count(1)
        try:
            self._turn.acquire()
        finally:
            self._count(-1)
        try:
            yield
        finally:
            self._turn.release()

    def _undo(self, together: _Together[W], error: BaseException) -> None:
        """This turn alone; where that cannot be or is of no use, or there was no other, the transaction."""
        if together.done and not self._is_lost(error):
            try:
                together.execute(_UNDO)
                together.execute(_RELEASE)
            except Exception as lost:
                self._together = None
                together.undo(lost)
        else:
            self._together = None
            together.undo(error)

    def _count(self, more: int) -> None:
        with self._counting:
            self._waiting += more

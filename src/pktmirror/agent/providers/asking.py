"""Asks an engine again and again, in a thread of its own. An edge module: the thread and the clock.

It asks after an event of the host's links, and else every ``ask_every_s``; asking has no more than a share of the time,
so that an engine which needs long is asked seldom. What was told last stays while there is no answer.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from pktmirror.agent.looks import Looks
from pktmirror.agent.providers.engine import Engine, NoAnswer, Told
from pktmirror.desired import EngineStatus

_log = structlog.get_logger("agent")
ASKING_SHARE = 0.05
SOON_S = 0.2
"""After an event, so that a container that is being made is there, and many at once are one question."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with an engine. ``answers`` counts them; ``told`` is the last one."""

    asked: int = 0
    answers: int = 0
    told: Told | None = None
    problem: str | None = None


class Asking:
    """``on_change`` is called in the asking thread when an answer differs from the one before."""

    def __init__(self, engine: Engine, on_change: Callable[[], None] = lambda: None) -> None:
        self.engine = engine
        self.standing = Standing()
        self._on_change = on_change
        self._looks = Looks(ASKING_SHARE, every_s=engine.ask_every_s)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._has_asked = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=f"agent-{engine.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It asks no more; a question under way ends with the process at the latest."""
        self._stop.set()
        self._wake.set()

    def wait(self, until_s: float) -> None:
        """Until the first question is answered or was in vain, but not after ``until_s`` of the monotonic clock."""
        self._has_asked.wait(max(0.0, until_s - time.monotonic()))

    def soon(self) -> None:
        """Something has changed on the host."""
        self._wake.set()

    def status(self) -> EngineStatus | None:
        """None for an engine that is not there and never was."""
        now = self.standing
        if not now.asked:
            return None
        return EngineStatus(
            engine=self.engine.name,
            where=self.engine.where,
            asked=now.asked,
            failed=now.asked - now.answers,
            instances=None if now.told is None else len(now.told.instances),
            problem=now.problem,
        )

    def turn(self) -> None:
        """Ask once, if there is anything to ask or was before."""
        before = self.standing
        if not before.asked and not self.engine.is_there():
            return
        asked_at_s = time.monotonic()
        try:
            told = replace(self.engine.ask(), asked_at_s=asked_at_s)
        except NoAnswer as error:
            self.standing = replace(before, asked=before.asked + 1, problem=str(error))
        except Exception as error:  # a thread that ended here would never ask again
            _log.warning("an engine's answer cannot be used", engine=self.engine.name, exc_info=True)
            self.standing = replace(before, asked=before.asked + 1, problem=f"{type(error).__name__}: {error}")
        else:
            self.standing = Standing(before.asked + 1, before.answers + 1, told)
        problem = self.standing.problem
        if problem is not None and before.problem is None:
            _log.warning("an engine does not answer; what it told last stays", engine=self.engine.name, why=problem)
        elif problem is None and before.problem is not None:
            _log.info("an engine answers again", engine=self.engine.name)
        if self.standing.told != before.told:
            self._on_change()

    def _repeat(self) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            self.turn()
            self._has_asked.set()
            self._looks.looked(began_s, time.monotonic())
            self._wait()

    def _wait(self) -> None:
        """Until the next question is due; an event makes it due as soon as its share allows."""
        while not self._stop.is_set() and (due_s := self._looks.due_in_s(time.monotonic())) > 0:
            if self._wake.wait(due_s):
                self._wake.clear()
                self._stop.wait(SOON_S)
                self._looks.ask()
                self._stop.wait(self._looks.due_in_s(time.monotonic()))

"""Long polls: what wakes those who wait, and how they wait. Belongs to one event loop. An edge module."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pktmirror.control.plane import ControlPlane

WAIT_S_MAX = 60.0
T = TypeVar("T")


class Changes:
    """Wakes the long polls of one kind when what they wait for may have changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._revision: int | None = None
        self.stopping = False
        self.wakes = 0

    def next(self) -> asyncio.Event:
        """Take it before looking at the revision; it is set by whatever changes afterwards."""
        return self._changed

    async def come(self, changed: asyncio.Event, until_s: float) -> bool:
        """Wait for what `next` has given, up to a time of the monotonic clock; whether it is worth to look again."""
        left_s = until_s - time.monotonic()
        if left_s <= 0 or self.stopping:
            return False
        try:
            await asyncio.wait_for(changed.wait(), left_s)
        except TimeoutError:
            return False
        return True

    def reached(self, revision: int | None) -> None:
        """Wakes the long polls when this is another revision than before."""
        if revision != self._revision:
            self._revision = revision
            self.wake()

    def stop(self) -> None:
        """Every long poll is answered now."""
        self.stopping = True
        self.wake()

    def wake(self) -> None:
        """Every long poll looks again at what it waits for."""
        self.wakes += 1
        self._changed.set()
        self._changed = asyncio.Event()


class Polls:
    """All that is waited for at one control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self.revisions = Changes()
        self.probes = Changes()  # asked for
        self.trace_orders = Changes()  # that agents wait for
        self.traces = Changes()  # what their askers wait for
        self._plane = plane

    def stop(self) -> None:
        """Every long poll is answered now."""
        for changes in self._all():
            changes.stop()

    def wake(self) -> None:
        """Every long poll looks again, at who asks too."""
        for changes in self._all():
            changes.wake()

    def traces_changed(self) -> None:
        """Wakes who waits for live traces where one has changed."""
        for changes in (self.trace_orders, self.traces):
            changes.reached(self._plane.inquiries.traces.changes)

    async def change(self, change: Callable[..., T], *arguments: Any) -> T:
        """Run what may change desired state, and wake who waits for that."""
        try:
            return await run_in_threadpool(change, *arguments)
        finally:  # what fails may fail behind its commit
            self.revisions.reached(self._plane.revision_written)

    def _all(self) -> tuple[Changes, ...]:
        return self.revisions, self.probes, self.trace_orders, self.traces


async def answered(
    changes: Changes, answer: Callable[[], Awaitable[Response | None]], wait_s: float
) -> Response | None:
    """The answer as soon as there is one; None when the time is over, or the server stops."""
    until_s = time.monotonic() + min(wait_s, WAIT_S_MAX)
    while True:
        changed = changes.next()
        found = await answer()
        if found is not None or not await changes.come(changed, until_s):
            return found

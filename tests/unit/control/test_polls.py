"""Who waits for a change hears of it, however the readings of several that wait lie between the wakes."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from pktmirror.control.host_routes import HostRoutes
from pktmirror.control.placement import Resources
from pktmirror.control.plane import ControlPlane
from pktmirror.control.polls import Changes, Polls, answered

WAIT_S, WITHIN_S = 30.0, 10.0
TOKEN = "token"


@dataclass
class Reading:
    """One that has read, and hands on what it found once it may."""

    has_read: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)


@dataclass
class Readings:
    """In the place of a store whose readings end when the test says so."""

    revision: int
    held: list[Reading] = field(default_factory=list)

    def latest(self) -> Resources:
        found = Resources(self.revision, {}, {}, {}, (), ())
        if self.held:
            reading = self.held.pop(0)
            reading.has_read.set()
            assert reading.may_end.wait(WITHIN_S)
        return found

    def hold(self) -> Reading:
        self.held.append(Reading())
        return self.held[-1]


def asks(after: int) -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "http",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
            "query_string": f"after={after}&wait_s={WAIT_S}".encode(),
            "path_params": {"name": "vm"},
        }
    )


def test_a_poll_reads_what_no_wake_came_after() -> None:
    """A wake without a change lets one that waits begin a reading; the change comes before another waits, which
    must not take that reading for the latest: it waits for what comes after the change."""

    async def told() -> list[Response]:
        readings = Readings(10)
        polls = Polls(cast(ControlPlane, readings))
        polls.revisions.reached(10)
        [desired] = [
            route.answer
            for route in HostRoutes(cast(ControlPlane, readings), polls, TOKEN, None).routes()
            if route.path.endswith("desired")
        ]

        async def begun(reading: Reading) -> None:
            assert await asyncio.to_thread(reading.has_read.wait, WITHIN_S)

        its_first, his_first, shared = readings.hold(), readings.hold(), readings.hold()
        its_first.may_end.set()
        waits = asyncio.create_task(desired(asks(after=10)))
        await begun(its_first)
        comes = asyncio.create_task(desired(asks(after=10)))
        await begun(his_first)
        polls.wake()
        await begun(shared)
        readings.revision = 11
        polls.revisions.reached(11)
        his_first.may_end.set()
        shared.may_end.set()
        async with asyncio.timeout(WITHIN_S):
            return [await waits, await comes]

    assert [(answer.status_code, b'"revision":11' in answer.body) for answer in asyncio.run(told())] == [
        (200, True)
    ] * 2


@pytest.mark.parametrize(("ends", "is_answered"), [("wake", True), ("stop", False)])
def test_a_poll_looks_again_when_it_is_woken_and_ends_with_the_server(ends: str, is_answered: bool) -> None:
    async def found() -> Response | None:
        changes = Changes()
        looks = 0

        async def answer() -> Response | None:
            nonlocal looks
            looks += 1
            if looks == 1:
                asyncio.get_running_loop().call_soon(getattr(changes, ends))
            return Response() if looks == 2 and is_answered else None

        async with asyncio.timeout(WITHIN_S):
            return await answered(changes, answer, WAIT_S)

    assert (asyncio.run(found()) is not None) == is_answered

"""Waiting for what will be true soon, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LOOK_AGAIN_S = 0.005
PATIENCE = 3
"""A deadline ends a test that would wait for ever; it measures nothing. A busy machine has so many times as long."""


def wait_until(condition: Callable[[], T], within_s: float, else_say: str | Callable[[], str]) -> T:
    """The first truthy answer of ``condition``; AssertionError with ``else_say`` when none comes in time."""
    within_s *= PATIENCE
    deadline_s = time.monotonic() + within_s
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline_s:
            said = else_say if isinstance(else_say, str) else else_say()
            raise AssertionError(f"not within {within_s} s: {said}")
        time.sleep(LOOK_AGAIN_S)

"""The loop of a line: what ends it, what is told, and how long it waits."""

import threading

import httpx
import pytest
from structlog.testing import capture_logs

from pktmirror.agent.line import RETRY_S_MAX, Line, pause_s
from pktmirror.model.refusal import Refusal
from tests.waiting import wait_until

WITHIN_S = 30.0


def test_pauses_grow_to_a_limit_and_no_two_hosts_need_have_the_same() -> None:
    assert [pause_s(failures, 1.0, 1.0) for failures in (1, 2, 3, 4, 1000)] == [1.0, 2.0, 4.0, RETRY_S_MAX, RETRY_S_MAX]
    assert [pause_s(failures, 1.0, 0.0) for failures in (1, 2, 1000)] == [0.5, 1.0, RETRY_S_MAX / 2]
    assert pause_s(3, 60.0, 1.0) == 60.0, "never less than what was asked for"


class Turns:
    """Each turn takes the next of what it was given: an error is raised, None is a success."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.left = list(outcomes)
        self.done = threading.Event()

    def __call__(self) -> None:
        if not self.left:
            self.done.wait()
            return
        outcome = self.left.pop(0)
        if outcome is not None:
            raise outcome


def told(turns: Turns, *, tells_absence: bool) -> list[str]:
    """What is logged of these turns, by event and why."""
    broken: list[int] = []
    failures = sum(outcome is not None for outcome in turns.left)
    with capture_logs() as logs:
        line = Line("name", turns, broken=lambda: broken.append(1), tells_absence=tells_absence, retry_s=0.001)
        line.start()
        wait_until(lambda: not turns.left, WITHIN_S, "it does not turn")
        line.stop()
        turns.done.set()
        line.join(WITHIN_S)
    assert len(broken) == failures
    return [str(entry.get("why", entry["event"])) for entry in logs]


AWAY = httpx.ConnectError("nobody answers")
NOT_LET_IN = Refusal("not let in.", do="x")


@pytest.mark.parametrize("absence", [AWAY, NOT_LET_IN])
def test_that_the_control_plane_is_away_is_told_once_and_by_one_line_alone(absence: Exception) -> None:
    outcomes = (absence, absence, None, absence)
    assert told(Turns(*outcomes, None), tells_absence=True) == [
        str(absence),
        "the control plane answers again",
        str(absence),
        "the control plane answers again",
    ]
    assert told(Turns(*outcomes, None), tells_absence=False) == []


def test_what_is_no_absence_is_told_by_every_line_and_ends_none() -> None:
    outcomes = (ValueError("of our own"), ValueError("of our own"), OSError("another"), None)
    assert told(Turns(*outcomes), tells_absence=False) == ["of our own", "another"]

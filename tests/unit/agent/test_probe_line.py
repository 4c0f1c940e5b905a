"""The agent's line for probes: each is sent once, whatever becomes of the answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from pktmirror.agent.probe_line import ProbeLine
from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest, ProbeSent
from tests.unit.agent import plane as stub
from tests.waiting import wait_until

WITHIN_S = 30.0
ONE, TWO = (ProbeRequest(probe_id=f"p{n}", session_id="tms-a", token="00") for n in (1, 2))


class Plane(stub.Plane):
    """Asks for what is in `waiting` until an answer is taken; so many answers it refuses first."""

    def __init__(self) -> None:
        super().__init__(self._probes, self._answered)
        self.waiting: list[ProbeRequest] = []
        self.answers: list[ProbeAnswer] = []
        self.refusals = 0

    def _probes(self, _query: str) -> bytes | None:
        return msgspec.json.encode(self.waiting) if self.waiting else None

    def _answered(self, body: bytes) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        answers = msgspec.json.decode(body, type=list[ProbeAnswer])
        self.answers += answers
        answered = {answer.probe_id for answer in answers}
        self.waiting = [request for request in self.waiting if request.probe_id not in answered]
        return True


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    with stub.answering(plane):
        yield plane


class Sender:
    """Sends nothing, and says of what it was asked that it did; OSError for what `fails`."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.fails: set[str] = set()

    def __call__(self, request: ProbeRequest) -> ProbeAnswer:
        self.sent.append(request.probe_id)
        if request.probe_id in self.fails:
            raise OSError(19, "No such device")
        return ProbeSent(probe_id=request.probe_id, sent_at_ns=1, clock="c")


@contextmanager
def following(plane: Plane, sender: Sender) -> Iterator[ProbeLine]:
    line = ProbeLine(plane.uplink(), sender, retry_s=0.01)
    line.start()
    try:
        yield line
    finally:
        line.stop()


def test_what_is_asked_for_is_sent_in_order_and_answered_together(plane: Plane) -> None:
    sender = Sender()
    plane.waiting = [ONE, TWO]
    with following(plane, sender):
        wait_until(lambda: len(plane.answers) == 2, WITHIN_S, "no answers")
    assert sender.sent == ["p1", "p2"]
    assert [answer.probe_id for answer in plane.answers] == ["p1", "p2"]
    assert plane.paths == {"/pktmirror/v1/agents/host-1/probes"}
    assert plane.tokens == {"Bearer token"}


def test_an_answer_that_was_not_taken_is_handed_in_again_without_a_second_probe(plane: Plane) -> None:
    sender = Sender()
    plane.refusals = 3
    plane.waiting = [ONE]
    with following(plane, sender):
        wait_until(lambda: plane.answers, WITHIN_S, "no answer")
    assert sender.sent == ["p1"]
    assert plane.refusals == 0


def test_a_probe_that_cannot_be_sent_is_an_answer_and_the_next_is_sent(plane: Plane) -> None:
    sender = Sender()
    sender.fails = {"p1"}
    plane.waiting = [ONE, TWO]
    with following(plane, sender):
        wait_until(lambda: len(plane.answers) == 2, WITHIN_S, "no answers")
    assert plane.answers == [
        ProbeNotSent(probe_id="p1", reason="the agent failed: [Errno 19] No such device"),
        ProbeSent(probe_id="p2", sent_at_ns=1, clock="c"),
    ]


def test_after_its_end_nothing_is_sent(plane: Plane) -> None:
    sender = Sender()
    with following(plane, sender):
        wait_until(lambda: plane.paths, WITHIN_S, "it never asked")
    plane.waiting = [ONE]
    assert sender.sent == []

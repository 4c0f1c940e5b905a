"""The agent's line for probes: each is sent once, whatever becomes of the answer."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from pktmirror.agent.probe_line import ProbeLine
from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest, ProbeSent
from tests.waiting import wait_until

WITHIN_S = 5.0
ONE, TWO = (ProbeRequest(probe_id=f"p{n}", session_id="tms-a", token="00") for n in (1, 2))


class Plane(http.server.ThreadingHTTPServer):
    """Asks for what is in `asked` until an answer is taken; so many answers it refuses first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[ProbeRequest] = []
        self.answers: list[ProbeAnswer] = []
        self.refusals = 0
        self.paths: set[str] = set()
        self.tokens: set[str | None] = set()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def end(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Plane

    def do_GET(self) -> None:
        self.server.paths.add(self.path.partition("?")[0])
        self.server.tokens.add(self.headers["authorization"])
        self._say(200 if self.server.asked else 204, msgspec.json.encode(self.server.asked))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.refusals:
            self.server.refusals -= 1
            self._say(500)
            return
        answers = msgspec.json.decode(body, type=list[ProbeAnswer])
        self.server.answers += answers
        answered = {answer.probe_id for answer in answers}
        self.server.asked = [request for request in self.server.asked if request.probe_id not in answered]
        self._say(204)

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.end_headers()
        if status == 200:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.end()


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
    url = f"http://127.0.0.1:{plane.server_address[1]}"
    line = ProbeLine(url, "token", "host-1", sender, retry_s=0.01)
    line.start()
    try:
        yield line
    finally:
        line.stop()


def test_what_is_asked_for_is_sent_in_order_and_answered_together(plane: Plane) -> None:
    sender = Sender()
    plane.asked = [ONE, TWO]
    with following(plane, sender):
        wait_until(lambda: len(plane.answers) == 2, WITHIN_S, "no answers")
    assert sender.sent == ["p1", "p2"]
    assert [answer.probe_id for answer in plane.answers] == ["p1", "p2"]
    assert plane.paths == {"/pktmirror/v1/agents/host-1/probes"}
    assert plane.tokens == {"Bearer token"}


def test_an_answer_that_was_not_taken_is_handed_in_again_without_a_second_probe(plane: Plane) -> None:
    sender = Sender()
    plane.refusals = 3
    plane.asked = [ONE]
    with following(plane, sender):
        wait_until(lambda: plane.answers, WITHIN_S, "no answer")
    assert sender.sent == ["p1"]
    assert plane.refusals == 0


def test_a_probe_that_cannot_be_sent_is_an_answer_and_the_next_is_sent(plane: Plane) -> None:
    sender = Sender()
    sender.fails = {"p1"}
    plane.asked = [ONE, TWO]
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
    plane.asked = [ONE]
    assert sender.sent == []

"""A client that has signed all its requests before it sends the first: what is measured is the server.

A process of its own, so that it does not share the server's interpreter; on the same CPUs. It reads one JSON document
from its input, signs, says ``ready``, waits for a line, and sends over so many connections, each of which has one
request under way at any time. Then it says what came of them as JSON, and waits for the next document.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.parse import urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ANSWER_WITHIN_S = 60.0
API_VERSION = "2016-11-15"


@dataclass(slots=True)
class Sent:
    """What came of the requests: the seconds of each, from its first byte to the answer's last one."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    answer_bytes: int = 0
    last_answer: str = ""
    took_s: float = 0.0


class Client:
    """The process, as the bench sees it."""

    def __init__(self, process: "Popen[str]", environment: Mapping[str, str]) -> None:
        self._process = process
        self._environment = dict(environment)

    def send(self, forms: Sequence[Mapping[str, str]], connections: int) -> Sent:
        """Sign all, and then send them; an answer that is no success is an error of the bench."""
        document = {"environment": self._environment, "forms": [dict(form) for form in forms]}
        self._say(json.dumps(document | {"connections": connections}))
        assert self._heard() == "ready"
        self._say("go")
        sent = Sent(**json.loads(self._heard()))
        assert set(sent.statuses) == {"200"}, f"{sent.statuses}: {sent.last_answer[:500]}"
        return sent

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


@contextmanager
def client(environment: Mapping[str, str]) -> Iterator[Client]:
    """``environment`` is that of an AWS client (`pktmirror env`)."""
    with Popen([sys.executable, str(Path(__file__))], stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield Client(process, environment)
        finally:
            process.kill()


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        place = urlsplit(asked["environment"]["AWS_ENDPOINT_URL"])
        requests = [_signed(form, asked["environment"]) for form in asked["forms"]]
        _tell("ready")
        sys.stdin.readline()
        sent = _sent(requests, (str(place.hostname), place.port or 80), asked["connections"])
        _tell(json.dumps({name: getattr(sent, name) for name in Sent.__slots__}))


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _signed(form: Mapping[str, str], environment: Mapping[str, str]) -> bytes:
    body = urlencode({"Version": API_VERSION, **form}).encode()
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    request = AWSRequest("POST", environment["AWS_ENDPOINT_URL"] + "/", {"Content-Type": kind}, body)
    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "ec2", environment["AWS_REGION"]).add_auth(request)
    headers = {"Host": urlsplit(environment["AWS_ENDPOINT_URL"]).netloc, **dict(request.headers.items())}
    headers["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST / HTTP/1.1\r\n{lines}\r\n".encode() + body


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=ANSWER_WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began_s = 0.0
        self._received = b""

    def begin(self, request: bytes) -> None:
        self._received = b""
        self.began_s = time.perf_counter()
        self.socket.sendall(request)

    def answer(self) -> bytes | None:
        """The whole answer, once it is there."""
        more = self.socket.recv(1 << 20)
        if not more:
            raise ConnectionError("the server has closed a connection")
        self._received += more
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
        if not separator or length is None or len(body) < int(length.partition(b":")[2]):
            return None
        return self._received


def _sent(requests: list[bytes], address: tuple[str, int], count: int) -> Sent:
    sent, waiting = Sent(), selectors.DefaultSelector()
    left: Iterator[Any] = iter(requests)
    connections = [_Connection(address) for _ in range(min(count, len(requests)))]
    for connection in connections:
        waiting.register(connection.socket, selectors.EVENT_READ, connection)
    began_s = time.perf_counter()
    for connection in connections:
        connection.begin(next(left))
    while len(sent.seconds) < len(requests):
        ready = waiting.select(ANSWER_WITHIN_S)
        if not ready:
            raise TimeoutError("no answer")
        for key, _ in ready:
            answer = key.data.answer()
            if answer is None:
                continue
            sent.seconds.append(time.perf_counter() - key.data.began_s)
            status = int(answer[9:12])
            sent.statuses[status] = sent.statuses.get(status, 0) + 1
            sent.answer_bytes += len(answer)
            if status != 200 or len(sent.seconds) == len(requests):
                sent.last_answer = answer.decode()
            following = next(left, None)
            if following is not None:
                key.data.begin(following)
    sent.took_s = time.perf_counter() - began_s
    for connection in connections:
        connection.socket.close()
    return sent


if __name__ == "__main__":
    main()

"""An HTTP server in the place of a control plane, for what an agent says to it. It answers as the test tells it to."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pktmirror.agent.line import Uplink

HOST = "host-1"
TOKEN = "token"


class Plane(http.server.ThreadingHTTPServer):
    """``asked`` answers a GET by its query; None is 204. ``told`` takes the body of a POST, False refuses it."""

    daemon_threads = True

    def __init__(self, asked: Callable[[str], bytes | None], told: Callable[[bytes], bool]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked = asked
        self.told = told
        self.paths: set[str] = set()
        self.tokens: set[str | None] = set()

    def uplink(self) -> Uplink:
        """As the agent of `HOST` has it."""
        return Uplink(f"http://127.0.0.1:{self.server_address[1]}", TOKEN, HOST)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Plane

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.paths.add(path)
        self.server.tokens.add(self.headers["authorization"])
        answer = self.server.asked(query)
        self._say(204 if answer is None else 200, answer or b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._say(204 if self.server.told(body) else 500)

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(plane: Plane) -> Iterator[None]:
    """It serves meanwhile, and is gone afterwards."""
    thread = threading.Thread(target=plane.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        plane.shutdown()
        thread.join()
        plane.server_close()

"""The agent's line for live traces: it waits for one to be wanted, and hands in what it tells. An edge module.

A thread of its own, beside those of `controller`: a trace is for somebody who waits, and must delay nothing else.
"""

import queue
import threading
from collections.abc import Callable

import httpx
import msgspec
import structlog

from pktmirror.tracing import TraceBatch, TraceOrder

_log = structlog.get_logger("agent")

WAIT_S = 20
RETRY_S = 1.0
BATCHES_MAX = 64
"""How many batches wait for a slow control plane; where there are more, the trace ends."""


class Told(msgspec.Struct, frozen=True):
    """The control plane's answer to a batch."""

    wanted: bool


class TraceLine:
    """``on_change`` is called in the line's thread when a trace is wanted, or is wanted no longer."""

    def __init__(self, url: str, token: str, host_id: str, *, on_change: Callable[[], None]) -> None:
        self.order: TraceOrder | None = None
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/pktmirror/v1/agents/{host_id}",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(5.0, read=WAIT_S + 5.0),
            trust_env=False,
        )
        self._on_change = on_change
        self._batches: queue.Queue[TraceBatch] = queue.Queue(BATCHES_MAX)
        self._stop = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="agent-trace", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It ends with the process at the latest: a poll that is under way is not waited for."""
        self._stop.set()
        self._client.close()

    def tell(self, batch: TraceBatch) -> None:
        """Hand in a batch. Where the control plane does not keep up, the trace ends: somebody would wait in vain."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.order = None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self.order is None:
                    self._wait_for_order()
                else:
                    self._hand_in()
                self._failure = None
            except Exception as error:  # a thread that ended here would never trace again
                if self._stop.is_set():
                    return
                self._end_order()
                # That nobody answers is told by the controller's threads already.
                if self._failure != str(error) and not isinstance(error, httpx.TransportError):
                    expected = isinstance(error, (httpx.HTTPError, msgspec.DecodeError))
                    _log.warning("the line for live traces is broken", why=str(error), exc_info=not expected)
                self._failure = str(error)
                self._stop.wait(RETRY_S)

    def _wait_for_order(self) -> None:
        answer = self._client.get("trace", params={"wait_s": WAIT_S})
        answer.raise_for_status()
        if answer.status_code == httpx.codes.OK:
            while not self._batches.empty():  # of a trace that nobody wants any more
                self._batches.get_nowait()
            self.order = msgspec.json.decode(answer.content, type=TraceOrder)
            self._on_change()

    def _hand_in(self) -> None:
        try:
            batch = self._batches.get(timeout=RETRY_S)
        except queue.Empty:
            return
        answer = self._client.post("trace", content=msgspec.json.encode(batch))
        answer.raise_for_status()
        if batch.ended is not None or not msgspec.json.decode(answer.content, type=Told).wanted:
            self._end_order()

    def _end_order(self) -> None:
        if self.order is not None:
            self.order = None
            self._on_change()

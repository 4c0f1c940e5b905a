"""The agent's line for live traces: it waits for one to be wanted, and hands in what it tells. An edge module.

A line of its own, beside those of `controller`: a trace is for somebody who waits, and must delay nothing else.
"""

import queue
from collections.abc import Callable

import msgspec

from pktmirror.agent.line import Line, Uplink
from pktmirror.tracing import TraceBatch, TraceOrder

BATCH_WAIT_S = 1.0
BATCHES_MAX = 64
"""How many batches wait for a slow control plane; where there are more, the trace ends."""


class Told(msgspec.Struct, frozen=True):
    """The control plane's answer to a batch."""

    wanted: bool


class TraceLine:
    """``on_change`` is called in the line's thread when a trace is wanted, or is wanted no longer."""

    def __init__(self, uplink: Uplink, *, on_change: Callable[[], None]) -> None:
        self.order: TraceOrder | None = None
        self._uplink = uplink
        self._on_change = on_change
        self._batches: queue.Queue[TraceBatch] = queue.Queue(BATCHES_MAX)
        self._line = Line("trace", self._turn, broken=self._end_order)

    def start(self) -> None:
        self._line.start()

    def stop(self) -> None:
        self._line.stop()

    def tell(self, batch: TraceBatch) -> None:
        """Hand in a batch. Where the control plane does not keep up, the trace ends: somebody would wait in vain."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.order = None

    def _turn(self) -> None:
        if self.order is None:
            self._wait_for_order()
        else:
            self._hand_in()

    def _wait_for_order(self) -> None:
        document = self._uplink.ask("trace")
        if document is not None:
            while not self._batches.empty():  # of a trace that nobody wants any more
                self._batches.get_nowait()
            self.order = msgspec.json.decode(document, type=TraceOrder)
            self._on_change()

    def _hand_in(self) -> None:
        try:
            batch = self._batches.get(timeout=BATCH_WAIT_S)
        except queue.Empty:
            return
        answer = self._uplink.tell("trace", msgspec.json.encode(batch))
        if batch.ended is not None or not msgspec.json.decode(answer, type=Told).wanted:
            self._end_order()

    def _end_order(self) -> None:
        if self.order is not None:
            self.order = None
            self._on_change()

"""Live traces that somebody waits for, in memory: one a host, from the wish to its last packet. No I/O.

An asker who is heard of no more ends its trace, and so does an agent that does not take it up: both are found out at
the next question, whoever asks. Safe to use from several threads; the time is an argument.
"""

import secrets
import threading
from dataclasses import dataclass, field

import msgspec

from pktmirror.aws import ApiError, errors
from pktmirror.tracing import TraceBatch, TracedPacket, TraceOrder, TraceProgress, TraceWish

TRACES_MAX = 64
PACKETS_A_TIME = 500
ASKER_GONE_S = 10.0
TRACE_SILENT_S = 10.0
"""How long an agent may take to begin, and tell nothing while it traces; it does so every second."""
KEPT_S = 60.0


@dataclass(slots=True)
class _Trace:
    order: TraceOrder
    host_id: str
    asked_at_s: float
    read_at_s: float
    packets: list[TracedPacket] = field(default_factory=list)
    told_at_s: float | None = None  # when its agent told something last; None: it has not begun
    skipped: int = 0
    lost: int = 0
    ended: str | None = None
    batches: int = 0

    def settle(self, now_s: float) -> None:
        """End it where one of both sides has not been heard of."""
        if self.ended is not None:
            return
        if now_s - self.read_at_s > ASKER_GONE_S:
            self.ended = f"whoever asked for it has read nothing for {ASKER_GONE_S:.0f} s"
        elif self.told_at_s is None and now_s - self.asked_at_s > TRACE_SILENT_S:
            self.ended = f"the agent of {self.host_id} has not taken it up within {TRACE_SILENT_S:.0f} s"
        elif self.told_at_s is not None and now_s - self.told_at_s > TRACE_SILENT_S:
            self.ended = f"the agent of {self.host_id} has told nothing for {TRACE_SILENT_S:.0f} s"


class Traces:
    """``changes`` grows with each change that somebody may wait for."""

    def __init__(self) -> None:
        self.changes = 0
        self._traces: dict[str, _Trace] = {}
        self._lock = threading.Lock()

    def ask(self, wish: TraceWish, host_id: str, key: str, now_s: float) -> TraceProgress:
        """A trace for its asker. ApiError where the host has one, or too many are there."""
        with self._lock:
            self._settle(now_s)
            running = self._of_host(host_id)
            if running is not None:
                raise ApiError(
                    "TraceInProgress",
                    f"A trace of {errors.echo(running.order.key)} on {host_id} has been running for "
                    f"{now_s - running.asked_at_s:.0f} s, and a host has one at a time. It ends after "
                    f"{running.order.seconds:g} s at the latest",
                )
            if sum(trace.ended is None for trace in self._traces.values()) >= TRACES_MAX:
                raise ApiError("TraceLimitExceeded", f"{TRACES_MAX} traces are running. Try again when one has ended")
            order = TraceOrder(
                trace_id=f"trace-{secrets.token_hex(8)}",
                key=key,
                packets_max=wish.packets_max,
                seconds=wish.seconds,
                selection=wish.selection,
            )
            trace = self._traces[order.trace_id] = _Trace(order, host_id, now_s, now_s)
            self.changes += 1
            return _progress(trace, 0)

    def read(self, trace_id: str, after: int, now_s: float) -> TraceProgress:
        """What came after so many packets, and how it stands; ApiError for one that is not known."""
        with self._lock:
            trace = self._known(trace_id)
            trace.read_at_s = now_s
            self._settle(now_s)
            return _progress(trace, after)

    def stop(self, trace_id: str, now_s: float) -> None:
        """Its asker wants no more."""
        with self._lock:
            trace = self._known(trace_id)
            self._settle(now_s)
            trace.ended = trace.ended or "stopped by whoever asked for it"
            self.changes += 1

    def order(self, host_id: str, now_s: float) -> TraceOrder | None:
        """What the agent of a host should trace and has not begun to."""
        with self._lock:
            self._settle(now_s)
            trace = self._of_host(host_id)
            return None if trace is None or trace.told_at_s is not None else trace.order

    def tell(self, host_id: str, batch: TraceBatch, now_s: float, number: int | None = None) -> bool:
        """Take in what an agent tells; whether more is wanted. What nobody waits for is dropped.

        ``number`` is the batch's among those of the trace, as another replica has counted them: none counts twice.
        """
        with self._lock:
            self._settle(now_s)
            trace = self._traces.get(batch.trace_id)
            if trace is None or trace.host_id != host_id or trace.ended is not None:
                return False
            if number is not None and number < trace.batches:
                return True
            trace.batches += 1
            trace.told_at_s = now_s
            room = trace.order.packets_max - len(trace.packets)
            trace.packets += batch.packets[: max(room, 0)]
            trace.skipped, trace.lost = batch.skipped, batch.lost
            trace.ended = batch.ended
            self.changes += 1
            return trace.ended is None

    def document(self, trace_id: str) -> bytes:
        """What another replica must know of a trace that was asked for here."""
        with self._lock:
            trace = self._known(trace_id)
            return msgspec.json.encode((trace.order, trace.host_id, trace.asked_at_s))

    def asked_elsewhere(self, document: bytes) -> None:
        """Know of a trace that another replica was asked for. Raises msgspec.DecodeError."""
        order, host_id, asked_at_s = msgspec.json.decode(document, type=tuple[TraceOrder, str, float])
        with self._lock:
            if order.trace_id not in self._traces:
                self._traces[order.trace_id] = _Trace(order, host_id, asked_at_s, asked_at_s)
                self.changes += 1

    def read_elsewhere(self, trace_id: str, now_s: float) -> None:
        """Its asker has been heard of by another replica."""
        with self._lock:
            if trace_id in self._traces:
                self._traces[trace_id].read_at_s = now_s

    def knows(self, trace_id: str) -> bool:
        with self._lock:
            return trace_id in self._traces

    def batches(self, trace_id: str) -> int:
        """How many batches have been told of a trace; 0 for one that is not known."""
        with self._lock:
            trace = self._traces.get(trace_id)
            return 0 if trace is None else trace.batches

    def _known(self, trace_id: str) -> _Trace:
        trace = self._traces.get(trace_id)
        if trace is None:
            raise ApiError("InvalidTraceId.NotFound", f"The trace '{errors.echo(trace_id)}' does not exist", 404)
        return trace

    def _of_host(self, host_id: str) -> _Trace | None:
        return next((each for each in self._traces.values() if each.host_id == host_id and each.ended is None), None)

    def _settle(self, now_s: float) -> None:
        for trace in self._traces.values():
            trace.settle(now_s)
        self._traces = {
            trace_id: trace
            for trace_id, trace in self._traces.items()
            if trace.ended is None or now_s - trace.read_at_s <= KEPT_S
        }


def _progress(trace: _Trace, after: int) -> TraceProgress:
    packets = tuple(trace.packets[max(after, 0) :][:PACKETS_A_TIME])
    is_all = max(after, 0) + len(packets) >= len(trace.packets)
    return TraceProgress(
        trace_id=trace.order.trace_id,
        host_id=trace.host_id,
        packets=packets,
        began=trace.told_at_s is not None,
        skipped=trace.skipped,
        lost=trace.lost,
        ended=trace.ended if is_all else None,  # the end comes after the last packet
    )

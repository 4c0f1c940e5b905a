"""The agent's part of a live trace: it writes the kernel's request, and takes the records out. An edge module.

One trace at a time. The kernel keeps to the bounds by itself (bpf/trace.h); here it is ended as soon as they are
reached, so that no packet is looked at any more.
"""

import time
from collections.abc import Callable
from typing import Protocol

from pktmirror.agent import abi
from pktmirror.agent.plan import Tables
from pktmirror.agent.policies import Policies
from pktmirror.agent.traces import COPIES_WAIT_S, Joined, Policy, packet, request
from pktmirror.kernel import bpf
from pktmirror.kernel.ring import Ring
from pktmirror.tracing import TraceBatch, TraceOrder

BATCH_PACKETS_MAX = 500
WORD_EVERY_S = 1.0
"""How often the control plane hears of a trace in which nothing happens, and can say that nobody wants it."""

_FIRST = bytes(4)
_OFF = bytes(bytearray(abi.TraceRequest()))
_UNSPENT = bytes(bytearray(abi.TraceState()))


class Asker(Protocol):
    """Who wants a trace, and takes in what it tells."""

    @property
    def order(self) -> TraceOrder | None:
        """The trace that is wanted now."""

    def tell(self, batch: TraceBatch) -> None: ...


class KernelTrace:
    """The maps of a trace. Another version's copies and records are never seen here: each has maps of its own."""

    def __init__(self, request_: bpf.Map, state: bpf.Map, ring: bpf.Map, policies: Policies) -> None:
        self._request, self._state, self._ring_map, self._policies = request_, state, ring, policies
        self._ring: Ring | None = None
        self._id = 0

    def begin(self, entry: abi.TraceRequest) -> None:
        """Records of a former trace are dropped; their id is another."""
        self.end()
        self._ring = Ring(self._ring_map)
        self._ring.read()
        self._id = entry.id
        self._state.put(_FIRST, _UNSPENT)
        self._request.put(_FIRST, bytes(bytearray(entry)))

    def end(self) -> None:
        """Nothing is traced any more. Also what an agent left that was killed."""
        if self._request.get(_FIRST) != _OFF:
            self._request.put(_FIRST, _OFF)
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def read(self) -> list[abi.TraceRecord]:
        records = [] if self._ring is None else map(abi.TraceRecord.from_buffer_copy, self._ring.read())
        return [record for record in records if record.trace_id == self._id]

    def state(self) -> abi.TraceState:
        return abi.TraceState.from_buffer_copy(self._state.get(_FIRST) or _UNSPENT)

    def policy(self, ifindex: int) -> abi.InterfacePolicy | None:
        """The policy in force, with its generation; None where the device is not mirrored."""
        policy = self._policies.get(ifindex)
        return None if policy is None else abi.InterfacePolicy.from_buffer_copy(policy)


class Tracer:
    """Does what the asker wants, whenever `turn` is called; ``ifindex_of`` knows the device of an interface's key."""

    def __init__(self, kernel: KernelTrace) -> None:
        self._kernel = kernel
        self._running: _Running | None = None
        self._done: str | None = None  # the trace that has ended here, and may still be wanted for a moment

    def turn(self, asker: Asker, tables: Tables, revision: int, ifindex_of: Callable[[str], int | None]) -> bool:
        """Whether a trace runs, and another turn is to come soon. Comes after each change of the policies.

        What the kernel refuses ends the trace, and nothing else.
        """
        try:
            return self._turn(asker, tables, revision, ifindex_of)
        except OSError as error:
            if self._running is not None:
                why = f"the agent cannot trace any more: {error}"
                asker.tell(TraceBatch(trace_id=self._running.order.trace_id, ended=why))
            self._running = None
            return False

    def _turn(self, asker: Asker, tables: Tables, revision: int, ifindex_of: Callable[[str], int | None]) -> bool:
        order = asker.order
        if self._running is not None and (order is None or order.trace_id != self._running.order.trace_id):
            self._end()
        if order is not None and self._running is None and order.trace_id != self._done:
            self._begin(asker, order, ifindex_of(order.key))
        if self._running is None:
            return False
        self._running.learn(self._kernel.policy(self._running.ifindex), tables, revision)
        for batch in self._running.batches(self._kernel, time.monotonic()):
            asker.tell(batch)
            if batch.ended is not None:
                self._end()
        return self._running is not None

    def close(self) -> None:
        self._kernel.end()

    def _begin(self, asker: Asker, order: TraceOrder, ifindex: int | None) -> None:
        self._done = order.trace_id
        if ifindex is None or self._kernel.policy(ifindex) is None:
            why = f"nothing is mirrored at {order.key} on this host now"
            asker.tell(TraceBatch(trace_id=order.trace_id, ended=why))
            return
        until_ns = time.monotonic_ns() + int(order.seconds * 10**9)
        # Nothing of a trace is left after a reboot, and until then the clock only goes forward.
        number = (time.monotonic_ns() // 1000 & 0xFFFFFFFF) or 1
        try:
            entry = request(
                order.selection,
                trace_id=number,
                ifindex=ifindex,
                packets_max=order.packets_max,
                until_ns=until_ns,
            )
            self._kernel.begin(entry)
        except (OSError, ValueError) as error:
            asker.tell(TraceBatch(trace_id=order.trace_id, ended=f"the agent cannot trace: {error}"))
            return
        self._running = _Running(order, ifindex, until_ns / 10**9)

    def _end(self) -> None:
        self._kernel.end()
        self._running = None


class _Running:
    def __init__(self, order: TraceOrder, ifindex: int, until_s: float) -> None:
        self.order = order
        self.ifindex = ifindex
        self._until_s = until_s
        self._joined = Joined()
        self._policies: dict[int, Policy] = {}
        self._told_at_s = float("-inf")

    def learn(self, entry: abi.InterfacePolicy | None, tables: Tables, revision: int) -> None:
        """The policy in force now; what was decided by an older one is known as long as the trace runs."""
        if entry is not None:
            ids = tuple(_session_id(tables, session.mark) for session in entry.sessions[: entry.session_count])
            self._policies[entry.generation] = Policy(ids, revision)

    def batches(self, kernel: KernelTrace, now_s: float) -> list[TraceBatch]:
        """What there is to tell; nothing, mostly."""
        self._joined.take(kernel.read(), now_s)
        clock_ns = time.time_ns() - time.monotonic_ns()
        packets = [
            packet(record, copies, copied_bytes, self._policies, clock_ns=clock_ns)
            for record, copies, copied_bytes in self._joined.ready(now_s)
        ]
        state = kernel.state()
        ended = self._ended(now_s, state)
        if not packets and ended is None and now_s - self._told_at_s < WORD_EVERY_S:
            return []
        self._told_at_s = now_s
        parts = [packets[at : at + BATCH_PACKETS_MAX] for at in range(0, len(packets), BATCH_PACKETS_MAX)] or [[]]
        return [
            TraceBatch(
                trace_id=self.order.trace_id,
                packets=tuple(part),
                skipped=state.skipped,
                lost=state.lost,
                ended=ended if number == len(parts) else None,
            )
            for number, part in enumerate(parts, 1)
        ]

    def _ended(self, now_s: float, state: abi.TraceState) -> str | None:
        if self._joined.waits:
            return None
        if state.taken >= self.order.packets_max and self._joined.taken_in + state.lost >= self.order.packets_max:
            return "as many were traced as asked for"
        if now_s >= self._until_s + COPIES_WAIT_S:
            return f"{self.order.seconds:g} s have passed"
        return None


def _session_id(tables: Tables, mark: int) -> str:
    value = tables.deliveries.get(abi.slot_of(mark))
    if value is None:
        return "?"  # after a change that failed half-way, until the tables are read again
    return bytes(abi.Delivery.from_buffer_copy(value).session_id).rstrip(b"\0").decode(errors="replace")

"""What agents are asked for, and their answers: probes on the way of a session's copies, and live traces."""

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager

from pktmirror.aws import ApiError, errors
from pktmirror.control import ownership, status
from pktmirror.control.placement import Resources
from pktmirror.control.probes import Probes, Verification
from pktmirror.control.replicas import Replicas
from pktmirror.control.reports import Reports
from pktmirror.control.store import Store, Transaction
from pktmirror.control.traces import Traces
from pktmirror.model.probe import ProbeAnswer, ProbeRequest, new_token
from pktmirror.tracing import TraceBatch, TraceProgress, TraceWish


class Inquiries:
    """``latest`` is a state of the store with what documents are made of; ``traces`` is what runs of live traces."""

    def __init__(
        self,
        store: Store,
        told: Reports,
        probes: Probes,
        traces: Traces,
        replicas: Replicas,
        latest: Callable[[], AbstractContextManager[tuple[Transaction, Resources]]],
    ) -> None:
        self.traces = traces
        self._store = store
        self._reports = told
        self._probes = probes
        self._replicas = replicas
        self._latest = latest

    def ask_probe(self, session_id: str, within_s: float, shared_token: bytes, now_s: float) -> Verification:
        """Ask for a probe on the way of a session's copies. Raises ApiError for a session that is not there."""
        with self._latest() as (transaction, resources):
            session = transaction.sessions.get(session_id)
        if session is None:
            raise ApiError(
                "InvalidTrafficMirrorSessionId.NotFound",
                f"The traffic mirror session ID '{errors.echo(session_id)}' does not exist",
                404,
            )
        request = ProbeRequest(
            probe_id=secrets.token_hex(8), session_id=session_id, token=new_token(shared_token).hex()
        )
        self._replicas.hear(now_s)
        asked = self._probes.ask(session, resources, self._reports, request, within_s, now_s)
        if asked.probe_id is not None:
            self._replicas.probe_asked(asked.probe_id, now_s)
        return asked

    def probe(self, probe_id: str, now_s: float) -> Verification:
        """What is known of a probe. Raises ApiError for one that was not asked for, or is forgotten."""
        self._replicas.hear(now_s)
        found = self._probes.of(probe_id, self._reports, now_s)
        if found is None:
            raise ApiError("InvalidProbeId.NotFound", f"The probe '{errors.echo(probe_id)}' is not known", 404)
        return found

    def probes_asked_of(self, host_id: str, now_s: float) -> list[ProbeRequest]:
        """The probes that an agent is to send."""
        if self._probes.asked_of(host_id, now_s):
            self._replicas.hear(now_s)  # it may have answered another replica
        return self._probes.asked_of(host_id, now_s)

    def probes_answered(self, host_id: str, answers: tuple[ProbeAnswer, ...], now_s: float) -> None:
        """Take in what an agent did of what it was asked."""
        self._probes.answered(host_id, answers, now_s)
        self._replicas.probes_answered(host_id, answers, now_s)

    def ask_trace(self, wish: TraceWish, now_s: float) -> TraceProgress:
        """Begin a live trace of an interface; ApiError where there is nobody to do it."""
        self._replicas.hear(now_s)
        with self._store.read() as transaction:
            record = ownership.require_interface(transaction, wish.interface_id)
        silent_s = self._reports.silent_s(record.host_id, now_s)
        if not record.attached:
            raise ApiError("IncorrectState", f"{wish.interface_id} is gone from {record.host_id}: no packet passes it")
        if silent_s > status.AGENT_SILENT_S or record.host_id not in self._reports.agents:
            raise ApiError(
                "IncorrectState",
                f"The agent of {record.host_id} has not reported for {silent_s:.0f} s, and it is the one to trace. "
                "Start `pktmirror agent` there",
            )
        asked = self.traces.ask(wish, record.host_id, record.found.key, now_s)
        self._replicas.trace_asked(asked.trace_id, now_s)
        return asked

    def trace_told(self, host_id: str, batch: TraceBatch, now_s: float) -> bool:
        """Take in what an agent traced; whether more is wanted."""
        self._replicas.hear(now_s)
        number = self.traces.batches(batch.trace_id)
        wanted = self.traces.tell(host_id, batch, now_s)
        if self.traces.batches(batch.trace_id) > number:
            self._replicas.trace_told(host_id, number, batch, now_s)
        return wanted

    def trace_awaited(self, trace_id: str, now_s: float) -> None:
        """Whoever asked for a trace is there and waits for more of it."""
        self._replicas.hear(now_s)
        if self.traces.knows(trace_id):
            self._replicas.trace_awaited(trace_id, now_s)

    def stop_trace(self, trace_id: str, now_s: float) -> None:
        """End a trace; ApiError for one that is not known."""
        self._replicas.hear(now_s)
        self.traces.stop(trace_id, now_s)
        self._replicas.trace_stopped(trace_id, now_s)

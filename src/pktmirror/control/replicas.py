"""What a replica knows of what the others were told, so that any of them can answer for all.

Each keeps the reports, probes and traces in memory, as if it were alone; what one of them is told it puts into the
exchange, and the others take it in every second, and before they answer a question. In a store of one process there
are no others, and nothing here does anything. The time is an argument.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import msgspec
import structlog

from pktmirror.aws import ApiError
from pktmirror.control.exchange import Exchange, Item, Kind, Named
from pktmirror.control.probes import Probes
from pktmirror.control.reports import MonitorReport, ProbeReport, Received, Reports
from pktmirror.control.store import Store, Transaction
from pktmirror.control.traces import Traces
from pktmirror.desired import Report, decode_report, encode
from pktmirror.model.ledger import Tally
from pktmirror.model.probe import ProbeAnswer
from pktmirror.tracing import TraceBatch

PROBES, TRACES = "probes", "traces"
"""What replicas notify each other when there is news of these that somebody waits for."""
SWEPT_EVERY_S, KEPT_S = 60.0, 1200.0

_log = structlog.get_logger("control")


class _AgentTold(msgspec.Struct, frozen=True):
    """A report, and what the host's sessions had sent, also those of which the report says nothing."""

    report: msgspec.Raw
    sent: dict[str, Tally]


class Replicas:
    """The others. ``take_in`` a report and ``forget`` sessions are what is to be done when they were told so; ``known``
    are the sessions of which anything is remembered."""

    def __init__(
        self,
        store: Store,
        reports: Reports,
        probes: Probes,
        traces: Traces,
        *,
        take_in: Callable[[Report, float], None],
        known: Callable[[], set[str]],
        forget: Callable[[Iterable[str]], None],
        now_s: float,
    ) -> None:
        self._store = store
        self._reports = reports
        self._probes = probes
        self._traces = traces
        self._take_in = take_in
        self._known = known
        self._forget = forget
        self._exchange = Exchange(store)
        self._hearing = threading.Lock()
        self._sent_by_host: dict[str, set[str]] = {}  # the sessions that each agent has ever told of
        self._pruned_at: int | None = None  # the revision whose sessions alone are remembered
        self._swept_at_s = now_s

    def hear(self, now_s: float, *only: Named) -> None:
        """Take in what the others were told; where ``only`` is given, no more than that."""
        if not self._exchange.is_shared:
            return
        with self._hearing:
            for item in self._exchange.news(*only):
                try:
                    self._heard(item)
                except msgspec.DecodeError as error:  # of a replica of another version
                    _log.warning("an item of another replica cannot be read", kind=item.kind, error=str(error))
            if not only:
                self._forget_what_is_gone(now_s)

    def agent_told(
        self, report: Report, sent: Mapping[str, Tally], now_s: float, within: Transaction | None = None
    ) -> None:
        """``sent`` is what its sessions have sent, of those that there are."""
        if not self._exchange.is_shared:
            return
        known = self._reports.sent
        silent = {id_: known[id_] for id_ in [*self._sent_by_host.get(report.host_id, ())] if id_ in known}
        document = msgspec.json.encode(_AgentTold(report=msgspec.Raw(encode(report)), sent={**silent, **sent}))
        self._exchange.put(Item(Kind.AGENT, report.host_id, now_s, document), within=within)
        self._sent_by_host.setdefault(report.host_id, set()).update(sent)

    def monitor_told(
        self, monitor_id: str, report: MonitorReport, now_s: float, within: Transaction | None = None
    ) -> None:
        if self._exchange.is_shared:
            item = Item(Kind.MONITOR, monitor_id, now_s, msgspec.json.encode(report))
            self._exchange.put(item, within=within)

    def host_forgotten(self, host_id: str, within: Transaction) -> None:
        self._exchange.remove(Kind.AGENT, host_id, within)

    def probe_asked(self, probe_id: str, now_s: float) -> None:
        if self._exchange.is_shared:
            item = Item(Kind.PROBE, probe_id, now_s, self._probes.document(probe_id))
            self._exchange.put(item, notify=PROBES)

    def probes_answered(self, host_id: str, answers: Iterable[ProbeAnswer], now_s: float) -> None:
        for answer in answers:
            document = msgspec.json.encode((host_id, answer))
            self._exchange.put(Item(Kind.PROBE_ANSWER, answer.probe_id, now_s, document))

    def probe_arrived(self, monitor_id: str, clock: str, arrival: ProbeReport, now_s: float) -> None:
        document = msgspec.json.encode((monitor_id, clock, arrival))
        self._exchange.put(Item(Kind.PROBE_ARRIVED, arrival.token, now_s, document))

    def trace_asked(self, trace_id: str, now_s: float) -> None:
        if self._exchange.is_shared:
            item = Item(Kind.TRACE, trace_id, now_s, self._traces.document(trace_id))
            self._exchange.put(item, notify=TRACES)

    def trace_told(self, host_id: str, number: int, batch: TraceBatch, now_s: float) -> None:
        """``number`` is the batch's among those of the trace."""
        if self._exchange.is_shared:
            document = msgspec.json.encode((host_id, number, batch))
            item = Item(Kind.TRACE_BATCH, f"{batch.trace_id}/{number:06}", now_s, document)
            self._exchange.put(item, notify=TRACES)

    def trace_awaited(self, trace_id: str, now_s: float) -> None:
        self._exchange.put(Item(Kind.TRACE_READ, trace_id, now_s, b""))

    def trace_stopped(self, trace_id: str, now_s: float) -> None:
        self._exchange.put(Item(Kind.TRACE_STOP, trace_id, now_s, b""), notify=TRACES)

    def _heard(self, item: Item) -> None:
        match item.kind:
            case Kind.AGENT:
                known = self._reports.agents.get(item.name)
                if known is None or known.received_at_s < item.told_at_s:
                    told = msgspec.json.decode(item.document, type=_AgentTold)
                    self._reports.sent.update(told.sent)
                    self._sent_by_host.setdefault(item.name, set()).update(told.sent)
                    self._take_in(decode_report(bytes(told.report)), item.told_at_s)
            case Kind.MONITOR:
                monitor = self._reports.monitors.get(item.name)
                if monitor is None or monitor.received_at_s < item.told_at_s:
                    report = msgspec.json.decode(item.document, type=MonitorReport)
                    self._reports.monitors[item.name] = Received(report, item.told_at_s)
            case Kind.PROBE:
                self._probes.asked_elsewhere(item.document)
            case Kind.PROBE_ANSWER:
                host_id, answer = msgspec.json.decode(item.document, type=tuple[str, ProbeAnswer])
                self._probes.answered(host_id, [answer], item.told_at_s)
            case Kind.PROBE_ARRIVED:
                self._probes.arrived(*msgspec.json.decode(item.document, type=tuple[str, str, ProbeReport]))
            case Kind.TRACE:
                self._traces.asked_elsewhere(item.document)
            case Kind.TRACE_READ:
                self._traces.read_elsewhere(item.name, item.told_at_s)
            case Kind.TRACE_BATCH:
                tracer, number, batch = msgspec.json.decode(item.document, type=tuple[str, int, TraceBatch])
                self._traces.tell(tracer, batch, item.told_at_s, number)
            case Kind.TRACE_STOP:
                with suppress(ApiError):  # it has been forgotten meanwhile
                    self._traces.stop(item.name, item.told_at_s)

    def _forget_what_is_gone(self, now_s: float) -> None:
        """Forget what another replica has forgotten, and the sessions that were deleted there."""
        for kind, name in self._exchange.gone():
            if kind == Kind.AGENT:
                self._reports.agents.pop(name, None)
                self._sent_by_host.pop(name, None)
            elif kind == Kind.MONITOR:
                self._reports.monitors.pop(name, None)
        with self._store.read() as transaction:
            is_changed = transaction.revision != self._pruned_at
        if is_changed:
            known = self._known()  # before the store is read: one that is made meanwhile is not gone
            with self._store.read() as transaction:
                revision = transaction.revision
                there = {record.session_id for record in transaction.sessions.where()}
            self._forget(known - there)
            for sessions in [*self._sent_by_host.values()]:
                sessions.intersection_update(there)
            self._pruned_at = revision
        if now_s - self._swept_at_s > SWEPT_EVERY_S:
            self._swept_at_s = now_s
            self._exchange.remove_older(now_s - KEPT_S)

"""The control plane without its sockets: calls, reports and questions in, results and documents out.

One transaction each. Safe to use from several threads; the time is an argument.
"""

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

import pktmirror
from pktmirror.aws import ApiError, Call, errors
from pktmirror.control import (
    declaration,
    healing,
    history,
    inventory,
    ledger,
    metrics,
    operations,
    ownership,
    reports,
    status,
    views,
)
from pktmirror.control.access_keys import new_access_key, new_account_id
from pktmirror.control.accesses import Place, accesses
from pktmirror.control.authorization import Question, authorize
from pktmirror.control.events import OWN_SERVICE, Event, record
from pktmirror.control.exchange import Kind
from pktmirror.control.instances import Instances, Minutes, Source
from pktmirror.control.keys import Key
from pktmirror.control.operations import Context, Result
from pktmirror.control.placement import Resources, desired_state
from pktmirror.control.principals import Origin, Principal, principal_of
from pktmirror.control.probes import Probes, Verification
from pktmirror.control.records import AccessKeyRecord, AccountRecord, HostRecord, InterfaceRecord
from pktmirror.control.replicas import Replicas
from pktmirror.control.reports import (
    MonitorReport,
    Received,
    Reports,
    agent_nonsense,
    monitor_nonsense,
    sent,
)
from pktmirror.control.store import Store, Transaction
from pktmirror.control.templates import Outcome, decide
from pktmirror.control.traces import Traces
from pktmirror.control.trail import Trail, Unwritable
from pktmirror.desired import DesiredState, Report
from pktmirror.iam import Access
from pktmirror.model.ledger import Tally
from pktmirror.model.limits import Quotas
from pktmirror.model.probe import ProbeAnswer, ProbeRequest, new_token
from pktmirror.model.refusal import Refusal
from pktmirror.model.template import Template
from pktmirror.networks import Declaration, parse, with_address
from pktmirror.tracing import TraceBatch, TraceProgress, TraceWish

HOST_STORED_EVERY_S = 60.0  # a report alone is not worth a write to the disk each time
MONITORS_MAX = 1000
NO_NEWS_FOR_TEMPLATES = frozenset(
    {
        "CreateTrafficMirrorFilter",
        "CreateTrafficMirrorFilterRule",
        "CreateTrafficMirrorSession",
        "DeleteTrafficMirrorFilterRule",
        "ModifyTrafficMirrorFilterNetworkServices",
        "ModifyTrafficMirrorFilterRule",
    }
)
"""The writing operations after which no template can make or must change anything."""

AUDIT_RECORD_LOST = "AuditRecordLost"
"""Counted like a refusal: a record of a call that changed nothing, and that the audit log could not take."""

SESSION_OF_ANOTHER_HOST = "SessionOfAnotherHost"
"""Counted like a refusal: a report that speaks of sessions whose source is on another host; the rest of it is taken."""

AUDIT_RECORD_LEFT_OUT = "AuditRecordLeftOut"
"""Counted likewise: one that was left out, because too many like it came at once."""

DECISIONS_MAX = 4
"""Of one call: whoever changes what a decision depends on, again and again, gets no further ones."""

OPERATOR = ""
"""The store's own account, in which templates make sessions."""
_ACCOUNT_ID = "account_id"

_log = structlog.get_logger("control")


@dataclass(slots=True)
class Refused:
    """Requests that were refused, by code, since the start."""

    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, code: str) -> None:
        with self._lock:
            self._counts[code] += 1

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(self._counts.items()))


@dataclass(frozen=True, slots=True)
class Identity:
    """The account and its first access key."""

    account_id: str
    access_key_id: str
    secret_access_key: str = field(repr=False)


class _AnotherQuestion(Exception):
    """What a decision depends on has changed since it was made."""


class ControlPlane:
    """``eni_forget_s`` None keeps an interface that is gone, and its sessions, for ever (spec 5.15).

    ``networks`` is what the file of the start declares; None: there was no file. It is applied where it is not the
    declaration that the last file of a start was (docs/decisions/0006): ApiError where it cannot be.
    """

    def __init__(
        self,
        store: Store,
        key: Key,
        trail: Trail,
        *,
        region: str,
        networks: Declaration | None,
        quotas: Quotas,
        eni_forget_s: float | None,
        now_s: float,
    ) -> None:
        self.refused = Refused()
        self.traces = Traces()
        self._store = store
        self._key = key
        self._trail = trail
        self._region = region
        self._quotas = quotas
        self._eni_forget_s = eni_forget_s
        self._started_at_s = now_s
        self._reports = Reports()
        self._probes = Probes()
        self._instances = Instances()
        self._counting = threading.Lock()
        self._page_key = key.derived("pagination")
        self._resources: Resources | None = None  # of the last revision that was asked for
        self._reading = threading.Lock()
        self._outer_sources: dict[str, str] = {}  # by session id, as noted in the store
        self._host_of: dict[
            str, str
        ] = {}  # by session id, of those that agents have told of; a session stays where it is
        self._replicas = Replicas(
            store,
            self._reports,
            self._probes,
            self.traces,
            take_in=self._take_in,
            known=self._known_sessions,
            forget=self._forget_sessions,
            now_s=now_s,
        )
        self.identity = self._identity(now_s)
        self._identity_told: Callable[[Identity], None] = lambda _identity: None
        self.networks_applied: list[str] = []
        if networks is not None:
            with store.write() as transaction:
                self.networks_applied = declaration.apply_file(transaction, networks)
        with self._writing(now_s):
            pass  # other quotas or networks than before the start: templates may make more, or fewer

    def secret_of(self, access_key_id: str) -> str | None:
        """The secret of an access key; None for one that does not exist, or is not active."""
        with self._store.read() as transaction:
            record = transaction.access_keys.get(access_key_id)
        return self._opened(record) if record is not None and record.active else None

    def caller(self, access_key_id: str) -> tuple[str | None, Principal | None]:
        """The secret of an access key, and whose it is; None twice for one that does not exist, or is not active."""
        with self._store.read() as transaction:
            record = transaction.access_keys.get(access_key_id)
            if record is None or not record.active:
                return None, None
            return self._opened(record), principal_of(transaction, record, self.identity.account_id)

    @property
    def region(self) -> str:
        return self._region

    def principal(self, access_key_id: str) -> Principal:
        """Whose an access key is. Raises AuthFailure where it is nobody's any more."""
        with self._store.read() as transaction:
            return self._principal(transaction, access_key_id)

    def allow(self, action: str, principal: Principal, origin: Origin, now_s: float) -> None:
        """Whether our own API may be asked so: it is of the operator's account alone. Raises AccessDenied."""
        if principal.owner:
            raise ApiError("AccessDenied", f"{principal.arn} is of another account than the operator's", 403)
        with self._store.read() as transaction:
            question = Question.of(transaction, principal, lambda: [Access(f"{OWN_SERVICE}:{action}")])
        authorize(question, origin, service=OWN_SERVICE, region=self._region, now_s=now_s)

    def refused_call(self, event: Event, error: ApiError) -> None:
        """Log a call that was refused; where the log cannot take it, or has too many such, that is counted."""
        written = record(event, error=error)
        # The end of what the log says has begun must stand in it: our own failure may be that of a commit.
        is_end = event.principal is not None and (event.began or error.status >= 500)
        self._log_or_count(lambda: self._trail.write(written) if is_end else self._write_refusal(event, written))

    def log_change(self, event: Event) -> Event:
        """Log a call that is about to change something. Raises Unavailable: then it must not be carried out."""
        self._write_or_refuse(event, None)
        return replace(event, began=True)

    def log_read(self, event: Event) -> None:
        """Log a call that changed nothing; where the log cannot take it, or has too many such, that is counted."""
        written = record(event)
        self._log_or_count(lambda: self._write_read(event, written))

    def _write_read(self, event: Event, written: dict[str, Any]) -> None:
        key_id = None if event.principal is None else event.principal.access_key_id
        self._count_left_out(
            self._trail.write_unknown(written, event.at_s)
            if key_id is None
            else self._trail.write_read(written, key_id, event.at_s)
        )

    def _write_refusal(self, event: Event, written: dict[str, Any]) -> None:
        key_id = None if event.principal is None else event.principal.access_key_id
        is_offered = event.service == OWN_SERVICE or (event.service, event.operation) in operations.OPERATIONS
        operation = f"{event.service}:{event.operation}" if is_offered else ""  # else it is what anybody makes up
        self._count_left_out(
            self._trail.write_unknown(written, event.at_s)
            if key_id is None
            else self._trail.write_refusal(written, key_id, operation, event.at_s)
        )

    def _count_left_out(self, is_kept: bool) -> None:
        if not is_kept:
            self.refused.count(AUDIT_RECORD_LEFT_OUT)

    def _log_or_count(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Unwritable as error:
            self.refused.count(AUDIT_RECORD_LOST)
            _log.error("the audit log cannot be written", found=str(error))

    def _write_or_refuse(self, event: Event, result: Result | None) -> None:
        try:
            self._trail.write(record(event, result))
        except Unwritable as error:
            _log.error("the audit log cannot be written, and a change is refused", found=str(error))
            raise ApiError(
                "Unavailable", "The audit log cannot be written, and nothing is changed that cannot be logged"
            ) from None

    def perform(self, call: Call, event: Event, now_s: float) -> Result:
        """Carry out an API call of ``event.principal``; raises ApiError, and then nothing has changed.

        It is in the audit log when it is answered, and a change before it takes effect.
        """
        if event.principal is None:
            raise errors.auth_failure()
        if operations.offered(call).writes:
            result, identity = self._change(call, event, event.principal, now_s)
        else:
            result, identity = self._read(call, event, event.principal, now_s)
            self.log_read(event)
        self._known_by(identity)
        return result

    def _read(self, call: Call, event: Event, principal: Principal, now_s: float) -> tuple[Result, Identity]:
        mirrored: Minutes = {}
        if call.service == "monitoring":
            self.hear(now_s)
            with self._counting:
                mirrored = self._instances.by_minute(principal.owner)
        with self._store.read() as transaction:
            question, context = self._question(transaction, call, principal.access_key_id, now_s, mirrored)
            self._authorize(question, event, now_s)
            return operations.perform(call, context), self._identity_after(call, transaction)

    def _change(self, call: Call, event: Event, principal: Principal, now_s: float) -> tuple[Result, Identity]:
        """The decision takes its time, so it is made before the turn to write; and again, outside as before, where what
        it depends on is another by then."""
        key_id, heals = principal.access_key_id, call.operation not in NO_NEWS_FOR_TEMPLATES
        for _ in range(DECISIONS_MAX):
            decided = Question(principal)
            if not principal.is_root:
                with self._store.read() as transaction:
                    decided, _context = self._question(transaction, call, key_id, now_s, {})
            self._authorize(decided, event, now_s)
            try:
                with self._writing(now_s, heals=heals) as transaction:
                    question, context = self._question(transaction, call, key_id, now_s, {})
                    if question != decided:
                        raise _AnotherQuestion
                    result = operations.perform(call, context)
                    self._write_or_refuse(event, result)
                    return result, self._identity_after(call, transaction)
            except _AnotherQuestion:
                continue
        raise ApiError(
            "Unavailable",
            f"What decides whether {principal.arn} may do this has changed {DECISIONS_MAX} times while it was decided. "
            "Try again",
        )

    def _identity_after(self, call: Call, transaction: Transaction) -> Identity:
        return self._still_known(transaction) if call.service == "iam" else self.identity

    def follow_identity(self, told: Callable[[Identity], None]) -> None:
        """Tell the identity now, and each other one that takes its place when its key is no active key any more."""
        told(self.identity)
        self._identity_told = told

    def look_after_identity(self) -> None:
        """Find out whether another replica has taken the key away."""
        with self._store.read() as transaction:
            identity = self._still_known(transaction)
        self._known_by(identity)

    def _still_known(self, transaction: Transaction) -> Identity:
        """The identity, by another key where the one that it has does not count any more."""
        kept = transaction.access_keys.get(self.identity.access_key_id)
        if kept is not None and kept.active:
            return self.identity
        keys = transaction.access_keys.where(account_id="", user_id="", active=True)
        if not keys:  # no call takes the last one away
            return self.identity
        return replace(self.identity, access_key_id=keys[0].access_key_id, secret_access_key=self._opened(keys[0]))

    def _known_by(self, identity: Identity) -> None:
        if identity == self.identity:
            return
        self.identity = identity
        try:
            self._identity_told(identity)
        except OSError as error:
            _log.error(
                "the access key of the state directory's files counts no more, and they cannot be written",
                found=str(error),
            )

    def _question(
        self, transaction: Transaction, call: Call, access_key_id: str, now_s: float, mirrored: Minutes
    ) -> tuple[Question, Context]:
        """Whether whose key it is may do this, and what may be used for it. AuthFailure where it is nobody's."""
        principal = self._principal(transaction, access_key_id)
        context = self._context(transaction, principal, now_s, mirrored)
        place = Place(context.transaction, principal.account_id, self._region, context.zone)
        return Question.of(context.transaction, principal, lambda: accesses(call, principal, place)), context

    def _authorize(self, question: Question, event: Event, now_s: float) -> None:
        authorize(question, event.origin, service=event.service, region=self._region, now_s=now_s)

    @property
    def revision_written(self) -> int | None:
        """The last revision that this process has made; None before the first."""
        return self._store.revision_written

    @property
    def revision(self) -> int:
        with self._store.read() as transaction:
            return transaction.revision

    def desired(self, host_id: str) -> DesiredState:
        return desired_state(self.latest(), host_id)

    def latest(self) -> Resources:
        """What documents are made of."""
        with self._reading_latest() as (_, resources):
            return resources

    @contextmanager
    def _reading_latest(self) -> Iterator[tuple[Transaction, Resources]]:
        """A state of the store, and what of it many ask for after each change: one reads, and the others have it.

        Nobody takes a state before it is his turn: it would be an older one, and be read all anew.
        """
        with self._reading, self._store.read() as transaction:
            resources = self._resources
            if resources is None or resources.revision != transaction.revision:
                resources = self._resources = Resources.placed(transaction)
            yield transaction, resources

    def agent_reported(self, report: Report, now_s: float) -> None:
        """Take in what an agent tells; only what changed of its interfaces is written.

        What their provider has deleted goes, with its sessions (spec 5.15). What it says of the sessions of other hosts
        is left out, and counted.

        Raises ApiError for a report that makes no sense, and then nothing of it is kept.
        """
        nonsense = agent_nonsense(report)
        if nonsense is not None:
            raise errors.invalid_parameter_value(f"The report makes no sense: {nonsense}")
        self._replicas.hear(now_s, (Kind.AGENT, report.host_id))
        report = self._of_its_own(report)
        sent_by_session = self._take_in_sent(report, now_s)
        self._take_in(report, now_s)
        self._replicas.agent_told(report, sent_by_session, now_s)
        with self._store.read() as transaction:
            changed, deleted = _inventory_changes(transaction, report, now_s)
            host = transaction.hosts.get(report.host_id)
            told = self._outer_sources_told(transaction, report)
            confirmed = history.ends_confirmed(transaction, report)
        fresh = host is not None and now_s - host.reported_at_s < HOST_STORED_EVERY_S
        if fresh and not (changed or deleted or told or confirmed):
            return
        with self._writing(now_s, heals=False) as transaction:
            changed, deleted = _inventory_changes(transaction, report, now_s)
            for end in confirmed:
                transaction.unconfirmed_ends.remove(end.session_id)
            for record in changed:
                transaction.interfaces.put(record)
            history.interfaces_changed(transaction, changed, ways_max=history.WAYS_MAX)
            ownership.settle(transaction, changed)
            for record in deleted:
                transaction.remove_interface(record.interface_id)
            noted, are_new = history.agent_told(transaction, told)
            if changed or deleted or are_new:  # other hosts are told of a stream
                transaction.bump_revision()
            transaction.hosts.put(HostRecord(report.host_id, report.agent_version, now_s))
            if changed or deleted:
                healing.heal(transaction.of_account(OPERATOR), self._quotas)
        self._outer_sources.update(noted)

    def monitor_reported(self, monitor_id: str, report: MonitorReport, now_s: float) -> bool:
        """Take in what a monitor tells; False when there are too many monitors already.

        Raises ApiError for a report that makes no sense, and then nothing of it is kept.
        """
        nonsense = monitor_nonsense(report)
        if nonsense is not None:
            raise errors.invalid_parameter_value(f"The report makes no sense: {nonsense}")
        self._replicas.hear(now_s, (Kind.MONITOR, monitor_id))
        monitors = self._reports.monitors
        if monitor_id not in monitors and len(monitors) >= MONITORS_MAX:
            return False
        before = monitors.get(monitor_id)
        anew = [] if before is None else history.monitor_began_anew(before.report, report)
        if anew:
            with self._store.write() as transaction:
                for stream in anew:
                    history.carry_stream(transaction, stream)
                self._replicas.monitor_told(monitor_id, report, now_s, transaction)  # none of them carries it again
        monitors[monitor_id] = Received(report, now_s)
        for arrival in report.probes:
            if self._probes.arrived(monitor_id, report.clock, arrival):
                self._replicas.probe_arrived(monitor_id, report.clock, arrival, now_s)
        self._replicas.monitor_told(monitor_id, report, now_s)
        return True

    def hear(self, now_s: float) -> None:
        """Take in what other replicas were told since the last time."""
        self._replicas.hear(now_s)

    def _take_in(self, report: Report, now_s: float) -> None:
        with self._counting:
            self._instances.told(report, self._source_of, now_s)
        self._reports.agents[report.host_id] = Received(report, now_s)

    def ask_probe(self, session_id: str, within_s: float, shared_token: bytes, now_s: float) -> Verification:
        """Ask for a probe on the way of a session's copies. Raises ApiError for a session that is not there."""
        with self._reading_latest() as (transaction, resources):
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
        self.hear(now_s)
        asked = self._probes.ask(session, resources, self._reports, request, within_s, now_s)
        if asked.probe_id is not None:
            self._replicas.probe_asked(asked.probe_id, now_s)
        return asked

    def probe(self, probe_id: str, now_s: float) -> Verification:
        """What is known of a probe. Raises ApiError for one that was not asked for, or is forgotten."""
        self.hear(now_s)
        found = self._probes.of(probe_id, self._reports, now_s)
        if found is None:
            raise ApiError("InvalidProbeId.NotFound", f"The probe '{errors.echo(probe_id)}' is not known", 404)
        return found

    def probes_asked_of(self, host_id: str, now_s: float) -> list[ProbeRequest]:
        """The probes that an agent is to send."""
        if self._probes.asked_of(host_id, now_s):
            self.hear(now_s)  # it may have answered another replica
        return self._probes.asked_of(host_id, now_s)

    def probes_answered(self, host_id: str, answers: tuple[ProbeAnswer, ...], now_s: float) -> None:
        """Take in what an agent did of what it was asked."""
        self._probes.answered(host_id, answers, now_s)
        self._replicas.probes_answered(host_id, answers, now_s)

    def forget_host(self, host_id: str, now_s: float) -> None:
        """Delete a host that reports no more, with its interfaces and their sessions.

        Raises ApiError for one that is not known, and for one that reports: its interfaces would be back at once.
        """
        self.hear(now_s)
        told = self._reports.agents.get(host_id)
        if told is not None and now_s - told.received_at_s <= status.AGENT_SILENT_S:
            raise ApiError(
                "IncorrectState",
                f"The agent of {errors.echo(host_id)} reported {now_s - told.received_at_s:.0f} s ago. Stop it, "
                f"and forget the host when it has been silent for {status.AGENT_SILENT_S:.0f} s",
            )
        with self._writing(now_s) as transaction:
            if transaction.hosts.get(host_id) is None:
                raise ApiError("InvalidHostId.NotFound", f"The host '{errors.echo(host_id)}' does not exist", 404)
            for interface in transaction.interfaces.where(host_id=host_id):
                transaction.remove_interface(interface.interface_id)
            transaction.hosts.remove(host_id)
            for end in transaction.unconfirmed_ends.where(host_id=host_id):
                transaction.unconfirmed_ends.remove(end.session_id)
            transaction.bump_revision()
            self._replicas.host_forgotten(host_id, transaction)
        self._reports.agents.pop(host_id, None)

    def forget_interface(self, interface_id: str, now_s: float) -> None:
        """Delete an interface that is gone, with its sessions; targets on it stay, and their sessions send nothing.

        Raises ApiError for one that is not known, and for one that is there: it would be back at once, as a new one.
        """
        self.hear(now_s)
        with self._writing(now_s) as transaction:
            record = _interface(transaction, interface_id)
            if record.attached and self._silent_s(record.host_id, now_s) <= status.AGENT_SILENT_S:
                raise ApiError(
                    "InvalidNetworkInterface.InUse",
                    f"{interface_id} is there: {record.found.key} on {record.host_id}. Take it away from its host "
                    "first: as long as it is there it would come back as a new interface",
                )
            transaction.remove_interface(interface_id)
            transaction.bump_revision()

    def ask_trace(self, wish: TraceWish, now_s: float) -> TraceProgress:
        """Begin a live trace of an interface; ApiError where there is nobody to do it."""
        self.hear(now_s)
        with self._store.read() as transaction:
            record = _interface(transaction, wish.interface_id)
        silent_s = self._silent_s(record.host_id, now_s)
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
        self.hear(now_s)
        number = self.traces.batches(batch.trace_id)
        wanted = self.traces.tell(host_id, batch, now_s)
        if self.traces.batches(batch.trace_id) > number:
            self._replicas.trace_told(host_id, number, batch, now_s)
        return wanted

    def trace_awaited(self, trace_id: str, now_s: float) -> None:
        """Whoever asked for a trace is there and waits for more of it."""
        self.hear(now_s)
        if self.traces.knows(trace_id):
            self._replicas.trace_awaited(trace_id, now_s)

    def stop_trace(self, trace_id: str, now_s: float) -> None:
        """End a trace; ApiError for one that is not known."""
        self.hear(now_s)
        self.traces.stop(trace_id, now_s)
        self._replicas.trace_stopped(trace_id, now_s)

    def declared(self) -> dict[str, Any]:
        """The declaration, and what it means here and now."""
        with self._store.read() as transaction:
            return declaration.described(transaction)

    def declare(self, text: str, now_s: float) -> list[str]:
        """Put a ``networks.toml`` in the place of the declaration in force; what changes by it, a line each."""
        return self._apply(lambda _: parse(text), now_s)

    def set_address(self, interface_id: str, address: str | None, now_s: float) -> list[str]:
        """Declare the primary address of an interface; None takes the declared one away."""

        def changed(transaction: Transaction) -> Declaration:
            record = _interface(transaction, interface_id)
            return with_address(transaction.declaration, record.host_id, record.found.key, address)

        return self._apply(changed, now_s)

    def _apply(self, wanted: Callable[[Transaction], Declaration], now_s: float) -> list[str]:
        try:
            with self._writing(now_s) as transaction:
                return declaration.apply(transaction, wanted(transaction))
        except Refusal as refusal:
            raise errors.invalid_parameter_value(f"{refusal.what} Found: {refusal.found}") from None

    def forget_interfaces(self, now_s: float) -> None:
        """Delete the interfaces that are gone for longer than ``eni_forget_s``, with their sessions."""
        if self._eni_forget_s is None:
            return
        with self._writing(now_s) as transaction:
            gone = inventory.forgotten(transaction.interfaces.where(), now_s, self._eni_forget_s)
            for record in gone:
                transaction.remove_interface(record.interface_id)
            if gone:
                transaction.bump_revision()

    def status(self, now_s: float) -> dict[str, Any]:
        """What runs where, and each session's problem or None."""
        self.hear(now_s)
        with self._store.read() as transaction:
            resources, hosts = Resources.of(transaction), transaction.hosts.where()
            ends, restless = transaction.unconfirmed_ends.where(), history.restless(transaction)
            templates = self._templates(transaction)
        return {
            "version": pktmirror.__version__,
            "account_id": self.identity.account_id,
            "region": self._region,
            "started_at_s": self._started_at_s,
            "revision": resources.revision,
            "hosts": views.hosts(hosts, resources, restless, self._reports, now_s),
            "sessions": views.sessions(resources, self._reports, now_s),
            "deleted_sessions": views.deleted_sessions(ends, now_s),
            "monitors": views.monitors(self._reports, now_s),
            "bypassed": views.bypassed(resources, self._reports),
            "templates": templates,
            "refused_requests": self.refused.counts(),
        }

    def ledger(self, now_s: float, *, with_rules: bool = False) -> dict[str, Any]:
        """The ledger of all sessions, with all rules where they are asked for, and of the interfaces that agents
        mirror."""
        self.hear(now_s)
        with self._store.read() as transaction:
            resources, remembered = Resources.of(transaction), history.History.of(transaction)
        problems = status.problems(resources, self._reports, now_s)
        return {
            "sessions": ledger.rows(resources, self._reports, problems, remembered, with_rules=with_rules),
            "interfaces": views.mirrored_interfaces(resources, self._reports),
        }

    def metrics(self, now_s: float) -> bytes:
        """All figures, for Prometheus."""
        self.hear(now_s)
        with self._store.read() as transaction:
            resources, remembered = Resources.of(transaction), history.History.of(transaction)
            hosts = transaction.hosts.where()
            ends = transaction.unconfirmed_ends.where()
        problems = status.problems(resources, self._reports, now_s)
        with self._counting:
            instances = {instance_id: dict(figures) for instance_id, figures in self._instances.totals.items()}
        return metrics.exposition(
            metrics.Found(
                now_s=now_s,
                version=pktmirror.__version__,
                revision=resources.revision,
                hosts=tuple(hosts),
                sessions=tuple(ledger.rows(resources, self._reports, problems, remembered)),
                reports=self._reports,
                interface_ids=resources.interface_ids,
                instance_ids={
                    record.interface_id: record.instance_id
                    for record in resources.interfaces.values()
                    if record.instance_id is not None
                },
                instances=instances,
                refused=self.refused.counts(),
                unconfirmed=tuple(end.host_id for end in ends),
            )
        )

    def interfaces(self) -> list[dict[str, Any]]:
        """The inventory, mirrorable or not, with where each interface was found."""
        with self._store.read() as transaction:
            records, sessions = transaction.interfaces.where(), transaction.sessions.where()
            networks = transaction.networks
        return views.interfaces(records, sessions, networks)

    def templates(self) -> tuple[Outcome, ...]:
        """The session templates, what each has made, and why not more."""
        with self._store.read() as transaction:
            return self._templates(transaction)

    def put_template(self, template: Template, now_s: float) -> Outcome:
        """Keep a template, in the place of one of that name; how it stands then. Raises ApiError."""
        with self._writing(now_s, heals=False) as transaction:
            own = transaction.of_account(OPERATOR)
            healing.put(own, template)
            healing.heal(own, self._quotas)
            return next(each for each in self._templates(transaction) if each.template.name == template.name)

    def delete_template(self, name: str, now_s: float) -> None:
        """Forget a template and delete the sessions that it has made. Raises ApiError for one that is not there."""
        with self._writing(now_s) as transaction:
            healing.delete(transaction.of_account(OPERATOR), name)

    def _templates(self, transaction: Transaction) -> tuple[Outcome, ...]:
        if not transaction.templates.count():
            return ()
        return decide(healing.situation(transaction.of_account(OPERATOR), self._quotas)).outcomes

    @contextmanager
    def _writing(self, now_s: float, *, heals: bool = True) -> Iterator[Transaction]:
        """A transaction that may delete sessions: what they had sent is remembered with it, and an interface whose use
        it ends goes to whom it is due.

        What it changes of what templates look at is followed in it, where it ``heals``.
        """
        with self._store.write() as transaction:
            yield transaction
            heals = ownership.follow(transaction) or heals
            while heals:  # a template that lets go of an interface may give it away, and then has room for another one
                healing.heal(transaction.of_account(OPERATOR), self._quotas)
                heals = ownership.follow(transaction)
            if transaction.removed_sessions:
                self.hear(now_s)
            history.sessions_ended(transaction, self._reports.sent, now_s)
            removed = transaction.removed_sessions
        self._forget_sessions(removed)

    def _known_sessions(self) -> set[str]:
        return {*self._reports.sent, *self._outer_sources, *self._host_of}

    def _forget_sessions(self, session_ids: Iterable[str]) -> None:
        for session_id in session_ids:
            self._reports.sent.pop(session_id, None)
            self._outer_sources.pop(session_id, None)
            self._host_of.pop(session_id, None)
            with self._counting:
                self._instances.ended(session_id)

    def _of_its_own(self, report: Report) -> Report:
        """The report without what it says of sessions that are of other hosts, or not there."""
        told = reports.sessions_told(report)
        unknown = told - self._host_of.keys()
        if unknown:
            with self._store.read() as transaction:
                found = transaction.sessions.some(unknown)
                sources = transaction.interfaces.some({session.interface_id for session in found})
            hosts = {source.interface_id: source.host_id for source in sources}
            self._host_of.update((session.session_id, hosts[session.interface_id]) for session in found)
        hosts_told = {session_id: self._host_of.get(session_id) for session_id in told}
        own = {session_id for session_id, host_id in hosts_told.items() if host_id == report.host_id}
        if any(host_id not in (None, report.host_id) for host_id in hosts_told.values()):
            self.refused.count(SESSION_OF_ANOTHER_HOST)
        return report if own == told else reports.of_sessions(report, own)

    def _take_in_sent(self, report: Report, now_s: float) -> dict[str, Tally]:
        """Remember what each session has sent, by its id, and carry on where the counters of one begin anew."""
        known = self._reports.sent
        told = {session.session_id: sent(session.directions) for session in report.sessions}
        with self._store.read() as transaction:
            told = {id_: now for id_, now in told.items() if id_ in known or transaction.sessions.get(id_) is not None}
        anew = history.agent_began_anew(known, report)
        if anew:
            with self._store.write() as transaction:
                for session_id, before in anew.items():
                    history.carry_session(transaction, session_id, before)
                self._replicas.agent_told(report, told, now_s, transaction)  # none of them carries it again
        known.update(told)
        return told

    def _source_of(self, session_id: str) -> Source | None:
        """Whose a session is, and which instance it mirrors; None for a session that is not there."""
        with self._store.read() as transaction:
            account, session = transaction.sessions.owner_of(session_id), transaction.sessions.get(session_id)
            source = None if session is None else transaction.interfaces.get(session.interface_id)
        return None if source is None or account is None else Source(account, source.instance_id or "")

    def _outer_sources_told(self, transaction: Transaction, report: Report) -> dict[str, str]:
        """The outer source of each session whose agent says another one than before, by session id."""
        return {
            told.session_id: told.outer_source
            for told in report.statuses
            if told.outer_source is not None
            and self._outer_sources.get(told.session_id) != told.outer_source
            and transaction.sessions.get(told.session_id) is not None
        }

    def _silent_s(self, host_id: str, now_s: float) -> float:
        """For how long a host's agent is known to have said nothing: at most since this process started."""
        told = self._reports.agents.get(host_id)
        return now_s - (self._started_at_s if told is None else told.received_at_s)

    def _context(self, transaction: Transaction, principal: Principal, now_s: float, mirrored: Minutes) -> Context:
        """What an operation may use, as the principal's account sees it."""
        own = transaction.of_account(principal.owner)
        return Context(
            own,
            principal.account_id,
            self._region,
            self._quotas,
            self._page_key if not principal.owner else self._key.derived(f"pagination/{principal.owner}"),
            now_s,
            principal,
            lambda secret, name: self._key.seal(secret, bound_to=name),
            mirrored,
        )

    def _principal(self, transaction: Transaction, access_key_id: str) -> Principal:
        key = transaction.access_keys.get(access_key_id)
        principal = None if key is None else principal_of(transaction, key, self.identity.account_id)
        if principal is None:
            raise errors.auth_failure()
        return principal

    def _identity(self, now_s: float) -> Identity:
        """The account and key of the store; made at the first start."""
        with self._store.write() as transaction:
            account_id = transaction.setting(_ACCOUNT_ID)
            if account_id is None:
                account_id = new_account_id()
                transaction.set_setting(_ACCOUNT_ID, account_id)
            # Another version may compose other documents of the same store, and equal revisions are equal documents.
            transaction.bump_revision()
            keys = transaction.access_keys.where(account_id="", user_id="", active=True)
            if keys:
                return Identity(account_id, keys[0].access_key_id, self._opened(keys[0]))
            made, secret = self._new_root_key("", now_s)
            transaction.access_keys.put(made)
            return Identity(account_id, made.access_key_id, secret)

    def _new_root_key(self, owner: str, now_s: float) -> tuple[AccessKeyRecord, str]:
        return new_access_key(lambda secret, name: self._key.seal(secret, bound_to=name), now_s, owner=owner)

    def accounts(self) -> list[dict[str, Any]]:
        """The accounts, the operator's own first, with what each has."""
        with self._store.read() as transaction:
            own = AccountRecord(self.identity.account_id, "", self._started_at_s)
            return [
                {
                    "account_id": account.account_id,
                    "name": account.name,
                    "users": seen.users.count(),
                    "interfaces": seen.interfaces.count(),
                    "sessions": seen.sessions.count(),
                    "assigned": sorted(
                        each.subject for each in transaction.assignments.where(account_id=account.account_id)
                    ),
                }
                for account, seen in (
                    (own, transaction.of_account("")),
                    *(
                        (account, transaction.of_account(account.account_id))
                        for account in transaction.accounts.where()
                    ),
                )
            ]

    def create_account(self, name: str, now_s: float) -> dict[str, str]:
        """Make an account; the answer has the access key of its root, whose secret is shown this once."""
        with self._writing(now_s) as transaction:
            ownership.require_free_name(transaction, name)
            account = AccountRecord(new_account_id(), name, now_s)
            transaction.accounts.put(account)
            made, secret = self._new_root_key(account.account_id, now_s)
            transaction.access_keys.put(made)
        return {
            "account_id": account.account_id,
            "name": name,
            "access_key_id": made.access_key_id,
            "secret_access_key": secret,
        }

    def delete_account(self, name: str, now_s: float) -> None:
        """Delete an account that has nothing any more, with its users and keys. Raises ApiError."""
        with self._writing(now_s) as transaction:
            ownership.delete_account(transaction, ownership.require_account(transaction, name))

    def assign(self, subject: str, name: str, now_s: float) -> None:
        """Give an interface, or a VPC with all interfaces in it, to an account; an empty name takes it back."""
        with self._writing(now_s) as transaction:
            owner = ownership.require_account(transaction, name).account_id if name else ""
            ownership.assign(transaction, subject, owner)

    def _opened(self, record: AccessKeyRecord) -> str:
        return self._key.open(record.sealed_secret, bound_to=record.access_key_id)


def _inventory_changes(
    transaction: Transaction, report: Report, now_s: float
) -> tuple[list[InterfaceRecord], list[InterfaceRecord]]:
    """The records to store, and those to delete."""
    known = transaction.interfaces.where(host_id=report.host_id)
    deleted = inventory.deleted(known, report)
    kept = [record for record in known if record not in deleted]
    return inventory.changes(kept, report, now_s, transaction.networks), deleted


def _interface(transaction: Transaction, interface_id: str) -> InterfaceRecord:
    record = transaction.interfaces.get(interface_id)
    if record is None:
        raise ApiError(
            "InvalidNetworkInterfaceID.NotFound",
            f"The network interface ID '{errors.echo(interface_id)}' does not exist",
            404,
        )
    return record

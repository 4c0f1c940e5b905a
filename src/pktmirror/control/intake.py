"""What agents and monitors report, taken in: into memory, the store where it is news, and to the other replicas."""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from pktmirror.aws import errors
from pktmirror.control import history, inventory, ownership, reports
from pktmirror.control.audit import Refused
from pktmirror.control.exchange import Kind
from pktmirror.control.instances import Figures, Instances, Minutes, Source
from pktmirror.control.probes import Probes
from pktmirror.control.records import HostRecord, InterfaceRecord
from pktmirror.control.replicas import Replicas
from pktmirror.control.reports import MonitorReport, Received, Reports, agent_nonsense, monitor_nonsense, sent
from pktmirror.control.store import Store, Transaction
from pktmirror.control.traces import Traces
from pktmirror.desired import Report
from pktmirror.model.ledger import Tally

HOST_STORED_EVERY_S = 60.0  # a report alone is not worth a write to the disk each time
MONITORS_MAX = 1000

SESSION_OF_ANOTHER_HOST = "SessionOfAnotherHost"
"""Counted like a refusal: a report that speaks of sessions whose source is on another host; the rest of it is taken."""


class Writing(Protocol):
    """A transaction after which what follows from it is followed; templates too, where it ``heals``."""

    def __call__(self, now_s: float, *, heals: bool = True) -> AbstractContextManager[Transaction]: ...


class Intake:
    """``heal`` makes templates true in a transaction; what else may follow of one is the matter of ``writing``."""

    def __init__(
        self,
        store: Store,
        told: Reports,
        probes: Probes,
        traces: Traces,
        refused: Refused,
        *,
        writing: Writing,
        heal: Callable[[Transaction], None],
        now_s: float,
    ) -> None:
        self._store = store
        self._reports = told
        self._probes = probes
        self._refused = refused
        self._writing = writing
        self._heal = heal
        self._instances = Instances()
        self._counting = threading.Lock()
        self._outer_sources: dict[str, str] = {}  # by session id, as noted in the store
        self._host_of: dict[str, str] = {}  # by session id, of those that agents have told of; a session stays there
        self.replicas = Replicas(
            store,
            told,
            probes,
            traces,
            take_in=self._take_in,
            known=self._known_sessions,
            forget=self.forget_sessions,
            now_s=now_s,
        )

    def minutes(self, owner: str) -> Minutes:
        """What the instances of an account have mirrored, by the minute."""
        with self._counting:
            return self._instances.by_minute(owner)

    def instance_totals(self) -> dict[str, Figures]:
        """What each instance has mirrored since the start, by its id and by figure."""
        with self._counting:
            return {instance_id: dict(figures) for instance_id, figures in self._instances.totals.items()}

    def agent_reported(self, report: Report, now_s: float) -> None:
        """Take in what an agent tells; only what changed of its interfaces is written.

        What their provider has deleted goes, with its sessions (spec 5.15). What it says of the sessions of other hosts
        is left out, and counted.

        Raises ApiError for a report that makes no sense, and then nothing of it is kept.
        """
        nonsense = agent_nonsense(report)
        if nonsense is not None:
            raise errors.invalid_parameter_value(f"The report makes no sense: {nonsense}")
        self.replicas.hear(now_s, (Kind.AGENT, report.host_id))
        report = self._of_its_own(report)
        sent_by_session = self._take_in_sent(report, now_s)
        self._take_in(report, now_s)
        self.replicas.agent_told(report, sent_by_session, now_s)
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
                self._heal(transaction)
        self._outer_sources.update(noted)

    def monitor_reported(self, monitor_id: str, report: MonitorReport, now_s: float) -> bool:
        """Take in what a monitor tells; False when there are too many monitors already.

        Raises ApiError for a report that makes no sense, and then nothing of it is kept.
        """
        nonsense = monitor_nonsense(report)
        if nonsense is not None:
            raise errors.invalid_parameter_value(f"The report makes no sense: {nonsense}")
        self.replicas.hear(now_s, (Kind.MONITOR, monitor_id))
        monitors = self._reports.monitors
        if monitor_id not in monitors and len(monitors) >= MONITORS_MAX:
            return False
        before = monitors.get(monitor_id)
        anew = [] if before is None else history.monitor_began_anew(before.report, report)
        if anew:
            with self._store.write() as transaction:
                for stream in anew:
                    history.carry_stream(transaction, stream)
                self.replicas.monitor_told(monitor_id, report, now_s, transaction)  # none of them carries it again
        monitors[monitor_id] = Received(report, now_s)
        for arrival in report.probes:
            if self._probes.arrived(monitor_id, report.clock, arrival):
                self.replicas.probe_arrived(monitor_id, report.clock, arrival, now_s)
        self.replicas.monitor_told(monitor_id, report, now_s)
        return True

    def _take_in(self, report: Report, now_s: float) -> None:
        with self._counting:
            self._instances.told(report, self._source_of, now_s)
        self._reports.agents[report.host_id] = Received(report, now_s)

    def _known_sessions(self) -> set[str]:
        return {*self._reports.sent, *self._outer_sources, *self._host_of}

    def forget_sessions(self, session_ids: Iterable[str]) -> None:
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
            self._refused.count(SESSION_OF_ANOTHER_HOST)
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
                self.replicas.agent_told(report, told, now_s, transaction)  # none of them carries it again
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


def _inventory_changes(
    transaction: Transaction, report: Report, now_s: float
) -> tuple[list[InterfaceRecord], list[InterfaceRecord]]:
    """The records to store, and those to delete."""
    known = transaction.interfaces.where(host_id=report.host_id)
    deleted = inventory.deleted(known, report)
    kept = [record for record in known if record not in deleted]
    return inventory.changes(kept, report, now_s, transaction.networks), deleted

"""The control plane without its sockets: calls, reports and questions in, results and documents out.

One transaction each. Safe to use from several threads; the time is an argument.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

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
    status,
    views,
)
from pktmirror.control.access_keys import new_account_id
from pktmirror.control.accesses import Place, accesses
from pktmirror.control.audit import Audit, Refused
from pktmirror.control.authorization import Question, authorize
from pktmirror.control.callers import Callers, Identity
from pktmirror.control.events import OWN_SERVICE, Event
from pktmirror.control.inquiries import Inquiries
from pktmirror.control.instances import Minutes
from pktmirror.control.intake import Intake
from pktmirror.control.keys import Key
from pktmirror.control.operations import Context, Result
from pktmirror.control.placement import Resources, desired_state
from pktmirror.control.principals import Origin, Principal
from pktmirror.control.probes import Probes
from pktmirror.control.records import AccountRecord
from pktmirror.control.reports import Reports
from pktmirror.control.store import Store, Transaction
from pktmirror.control.templates import Outcome, decide
from pktmirror.control.traces import Traces
from pktmirror.control.trail import Trail
from pktmirror.desired import DesiredState
from pktmirror.iam import Access
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal
from pktmirror.model.template import Template
from pktmirror.networks import Declaration, parse, with_address

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

DECISIONS_MAX = 4
"""Of one call: whoever changes what a decision depends on, again and again, gets no further ones."""

OPERATOR = ""
"""The store's own account, in which templates make sessions."""


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
        self.audit = Audit(trail, self.refused)
        self.callers = Callers(store, key, now_s)
        self._store = store
        self._key = key
        self._region = region
        self._quotas = quotas
        self._eni_forget_s = eni_forget_s
        self._started_at_s = now_s
        self._reports = Reports(began_at_s=now_s)
        self._page_key = key.derived("pagination")
        self._resources: Resources | None = None  # of the last revision that was asked for
        self._reading = threading.Lock()
        probes, traces = Probes(), Traces()
        self.intake = Intake(
            store,
            self._reports,
            probes,
            traces,
            self.refused,
            writing=self._writing,
            heal=lambda transaction: healing.heal(transaction.of_account(OPERATOR), quotas),
            now_s=now_s,
        )
        self._replicas = self.intake.replicas
        self.inquiries = Inquiries(store, self._reports, probes, traces, self._replicas, self._reading_latest)
        self.networks_applied: list[str] = []
        if networks is not None:
            with store.write() as transaction:
                self.networks_applied = declaration.apply_file(transaction, networks)
        with self._writing(now_s):
            pass  # other quotas or networks than before the start: templates may make more, or fewer

    @property
    def region(self) -> str:
        return self._region

    def allow(self, action: str, principal: Principal, origin: Origin, now_s: float) -> None:
        """Whether our own API may be asked so: it is of the operator's account alone. Raises AccessDenied."""
        if principal.owner:
            raise ApiError("AccessDenied", f"{principal.arn} is of another account than the operator's", 403)
        with self._store.read() as transaction:
            question = Question.of(transaction, principal, lambda: [Access(f"{OWN_SERVICE}:{action}")])
        authorize(question, origin, service=OWN_SERVICE, region=self._region, now_s=now_s)

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
            self.audit.read(event)
        self.callers.known_by(identity)
        return result

    def _read(self, call: Call, event: Event, principal: Principal, now_s: float) -> tuple[Result, Identity]:
        mirrored: Minutes = {}
        asks_for_status = operations.asks_for_status(call)
        if call.service == "monitoring" or asks_for_status:
            self.hear(now_s)
        if call.service == "monitoring":
            mirrored = self.intake.minutes(principal.owner)
        with self._store.read() as transaction:
            question, context = self._question(transaction, call, principal.access_key_id, now_s, mirrored)
            self._authorize(question, event, now_s)
            if asks_for_status:
                problems = status.problems(Resources.of(transaction), self._reports, now_s)
                context = replace(context, problems=problems)
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
                    self.audit.write(event, result)
                    return result, self._identity_after(call, transaction)
            except _AnotherQuestion:
                continue
        raise ApiError(
            "Unavailable",
            f"What decides whether {principal.arn} may do this has changed {DECISIONS_MAX} times while it was decided. "
            "Try again",
        )

    def _identity_after(self, call: Call, transaction: Transaction) -> Identity:
        return self.callers.still_known(transaction) if call.service == "iam" else self.callers.identity

    def _question(
        self, transaction: Transaction, call: Call, access_key_id: str, now_s: float, mirrored: Minutes
    ) -> tuple[Question, Context]:
        """Whether whose key it is may do this, and what may be used for it. AuthFailure where it is nobody's."""
        principal = self.callers.principal_in(transaction, access_key_id)
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

    def hear(self, now_s: float) -> None:
        """Take in what other replicas were told since the last time."""
        self._replicas.hear(now_s)

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
            record = ownership.require_interface(transaction, interface_id)
            if record.attached and self._reports.silent_s(record.host_id, now_s) <= status.AGENT_SILENT_S:
                raise ApiError(
                    "InvalidNetworkInterface.InUse",
                    f"{interface_id} is there: {record.found.key} on {record.host_id}. Take it away from its host "
                    "first: as long as it is there it would come back as a new interface",
                )
            transaction.remove_interface(interface_id)
            transaction.bump_revision()

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
            record = ownership.require_interface(transaction, interface_id)
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
            "account_id": self.callers.identity.account_id,
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
                instances=self.intake.instance_totals(),
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
        self.intake.forget_sessions(removed)

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
            self.callers.sealed,
            mirrored,
        )

    def accounts(self) -> list[dict[str, Any]]:
        """The accounts, the operator's own first, with what each has."""
        with self._store.read() as transaction:
            own = AccountRecord(self.callers.identity.account_id, "", self._started_at_s)
            return ownership.accounts(transaction, own)

    def create_account(self, name: str, now_s: float) -> dict[str, str]:
        """Make an account; the answer has the access key of its root, whose secret is shown this once."""
        with self._writing(now_s) as transaction:
            ownership.require_free_name(transaction, name)
            account = AccountRecord(new_account_id(), name, now_s)
            transaction.accounts.put(account)
            made, secret = self.callers.new_root_key(account.account_id, now_s)
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

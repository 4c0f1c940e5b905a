"""What session templates make of the interfaces that there are: sessions to make, to change, to delete. Pure.

An interface that is selected has one session of the template. A session that is there stays as long as its interface
is selected, also while that is gone (spec 5.15), unless the limit wants its place for one that is there. What stands in
the way of a session is said, interface by interface, and looked at again at the next change.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pktmirror.control.operations.selection import fits
from pktmirror.control.records import InterfaceRecord, SessionRecord, TargetRecord
from pktmirror.model.limits import Quotas
from pktmirror.model.target import EndpointTarget, InterfaceTarget
from pktmirror.model.template import Selector, Template
from pktmirror.networks import Networks


@dataclass(frozen=True, slots=True)
class Situation:
    """All that is looked at. ``origins`` says which template has made a session; tags are by interface id.

    By target id: ``shared_by`` is the account that shares it, of those that are not the operator's own, and
    ``sources_of_others`` the interfaces of other accounts that have sessions to it.
    """

    templates: Sequence[Template]
    interfaces: Sequence[InterfaceRecord]
    sessions: Sequence[SessionRecord]
    origins: Mapping[str, str]
    tags: Mapping[str, Mapping[str, str]]
    targets: Mapping[str, TargetRecord]
    filters: Collection[str]
    networks: Networks
    quotas: Quotas
    shared_by: Mapping[str, str] = field(default_factory=dict)
    sources_of_others: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Making:
    """A session to make: of which template, for which interface."""

    template: Template
    interface_id: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a template has no session on an interface, or one that is not as the template says."""

    interface_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a template stands once the decision is carried out. ``problem``: why it makes nothing at all."""

    template: Template
    selected: int
    sessions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Deletions come first. ``change`` holds the records as they shall be; in this order no two sessions of an
    interface have one number at any time."""

    make: tuple[Making, ...]
    change: tuple[SessionRecord, ...]
    delete: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def is_nothing(self) -> bool:
        return not (self.make or self.change or self.delete)


def decide(situation: Situation) -> Decision:
    """What is to be done now. Templates come by their names, interfaces by host and key.

    What one decision frees may serve an earlier template: decide again until there is nothing to do.
    """
    return _Deciding(situation).decision()


def selects(selector: Selector, interface: InterfaceRecord, tags: Mapping[str, str], networks: Networks) -> bool:
    """Whether an interface, there or gone, is one that the selector means. An empty selector means none."""
    place = None if interface.primary_address is None else networks.place(interface.primary_address)
    vpc, subnet = (None, None) if place is None else place
    asked: list[tuple[str | None, Iterable[str]]] = [
        (selector.vpc, () if vpc is None else (vpc.vpc_id, vpc.name)),
        (selector.subnet, () if subnet is None else (subnet.subnet_id, subnet.name)),
        (selector.host, (interface.host_id,)),
        (selector.name, _names(interface)),
        (selector.key, filter(None, (interface.found.key, interface.found.plain_key))),
        *((pattern, _value(interface.labels, key)) for key, pattern in selector.labels.items()),
        *((pattern, _value(tags, key)) for key, pattern in selector.tags.items()),
    ]
    given = [(pattern, values) for pattern, values in asked if pattern is not None]
    return bool(given) and all(any(fits(pattern, value) for value in values) for pattern, values in given)


def _names(interface: InterfaceRecord) -> Iterable[str]:
    """What its instance is called by its provider and by its engine; the device's name where there is no instance."""
    names = {interface.found.instance, interface.instance_name} - {None, ""}
    return sorted(filter(None, names)) or (interface.found.device,)


def _value(known: Mapping[str, str], key: str) -> Iterable[str]:
    return (known[key],) if key in known else ()


@dataclass
class _Stand:
    """One template, half-way through."""

    template: Template
    problem: str | None
    selected: list[InterfaceRecord]
    held: dict[str, SessionRecord]  # its sessions, by interface id
    reasons: list[Reason] = field(default_factory=list)
    made: int = 0


class _Deciding:
    def __init__(self, situation: Situation) -> None:
        self._now = situation
        self._interfaces = {record.interface_id: record for record in situation.interfaces}
        self._behind_targets = {
            record.target.interface_id: record.target_id
            for record in situation.targets.values()
            if isinstance(record.target, InterfaceTarget)
        }
        self._sessions = {session.session_id: session for session in situation.sessions}
        self._make: list[Making] = []
        self._change: dict[str, SessionRecord] = {}
        self._delete: list[str] = []
        self._made_numbers: dict[tuple[str, int], str] = {}  # taken by what this decision makes: by which template
        self._stands = [self._stand(one) for one in sorted(situation.templates, key=lambda one: one.name)]

    def decision(self) -> Decision:
        self._delete_what_is_nobodys()
        for stand in self._stands:
            self._keep_within_limit(stand)
        self._numbers = {(each.interface_id, each.number): each for each in self._sessions.values()}
        self._count = Counter(each.interface_id for each in self._sessions.values())
        self._sources = self._sources_by_target()
        self._mend()
        for stand in self._stands:
            self._fill(stand)
        return Decision(
            tuple(self._make), tuple(self._change.values()), tuple(self._delete), tuple(map(_outcome, self._stands))
        )

    # --- what is there

    def _stand(self, template: Template) -> _Stand:
        now = self._now
        problem = None
        if template.target_id not in now.targets:
            is_there = any(session.target_id == template.target_id for session in now.sessions)
            why = "is not shared with its account any more" if is_there else "does not exist"
            problem = f"its target {template.target_id} {why}"
        elif template.filter_id not in now.filters:
            problem = f"its filter {template.filter_id} does not exist"
        selected = [
            record
            for record in now.interfaces
            if selects(template.select, record, now.tags.get(record.interface_id, {}), now.networks)
        ]
        held: dict[str, SessionRecord] = {}
        for session in sorted(now.sessions, key=lambda session: session.session_id):
            if now.origins.get(session.session_id) == template.name:
                held.setdefault(session.interface_id, session)
        return _Stand(template, problem, sorted(selected, key=_place), held)

    def _delete_what_is_nobodys(self) -> None:
        """Sessions of templates that are gone, of interfaces that are not selected any more, and second ones."""
        kept = {session.session_id for stand in self._stands for session in stand.held.values()}
        for session_id in sorted(self._now.origins.keys() & self._sessions.keys() - kept):
            self._remove(session_id)
        for stand in self._stands:
            selected = {record.interface_id for record in stand.selected}
            for interface_id in sorted(stand.held.keys() - selected):
                self._remove(stand.held.pop(interface_id).session_id)

    def _keep_within_limit(self, stand: _Stand) -> None:
        """Where the limit is less than there is: those that are gone go first."""
        held = [self._interfaces[interface_id] for interface_id in stand.held]
        ordered = sorted(held, key=lambda record: (not record.attached, _place(record)))
        for record in ordered[stand.template.limit :]:
            self._remove(stand.held.pop(record.interface_id).session_id)

    def _remove(self, session_id: str) -> None:
        del self._sessions[session_id]
        self._delete.append(session_id)

    def _sources_by_target(self) -> dict[str, Counter[str]]:
        """How many sessions each target has of each source."""
        sources: dict[str, Counter[str]] = {}
        for session in self._sessions.values():
            sources.setdefault(session.target_id, Counter())[session.interface_id] += 1
        return sources

    # --- what is not as its template says

    def _mend(self) -> None:
        """As long as one more gets what it wants, the others may get theirs by it."""
        waiting = [(stand, session) for stand in self._stands for session in stand.held.values()]
        while True:
            still = [(stand, session) for stand, session in waiting if self._mended(stand, session) is not None]
            if len(still) == len(waiting):
                break
            waiting = still
        for stand, session in waiting:
            reason = self._mended(stand, session)
            if reason is not None:
                stand.reasons.append(
                    Reason(session.interface_id, f"{session.session_id} is not as its template says: {reason}")
                )

    def _mended(self, stand: _Stand, session: SessionRecord) -> str | None:
        """Make a session as its template says, as far as that can be; why not the rest, or None."""
        template, now = stand.template, self._sessions[session.session_id]
        wanted = replace(
            now,
            target_id=template.target_id,
            target_account_id=now.target_account_id
            if template.target_id == now.target_id
            else self._now.shared_by.get(template.target_id, ""),
            filter_id=template.filter_id,
            number=template.number,
            vni=now.vni if template.vni is None else template.vni,
            packet_bytes_max=template.packet_bytes_max,
            description=template.description,
        )
        if wanted == now:
            return None
        if stand.problem is not None:
            return stand.problem
        reasons: list[str] = []
        if wanted.number != now.number and (taken := self._number_taken(now.interface_id, wanted.number)) is not None:
            reasons.append(taken)
            wanted = replace(wanted, number=now.number)
        if wanted.target_id != now.target_id and (full := self._target_full(wanted.target_id, now.interface_id)):
            reasons.append(full)
            wanted = replace(wanted, target_id=now.target_id, target_account_id=now.target_account_id)
        if wanted != now:
            self._put(stand, now, wanted)
        return "; ".join(reasons) or None

    def _put(self, stand: _Stand, now: SessionRecord, wanted: SessionRecord) -> None:
        del self._numbers[now.interface_id, now.number]
        self._numbers[wanted.interface_id, wanted.number] = wanted
        self._sources[now.target_id][now.interface_id] -= 1
        self._sources.setdefault(wanted.target_id, Counter())[now.interface_id] += 1
        self._sessions[now.session_id] = stand.held[now.interface_id] = wanted
        self._change.pop(now.session_id, None)  # its number may have become free by a change that stands behind it
        self._change[now.session_id] = wanted

    # --- what is to be made

    def _fill(self, stand: _Stand) -> None:
        if stand.problem is not None:
            return
        template = stand.template
        gone = [session for id_, session in stand.held.items() if not self._interfaces[id_].attached]
        giving_way = [session for session in gone if session.target_id == template.target_id]
        for record in stand.selected:
            if record.interface_id in stand.held or not record.attached:
                continue
            reason = self._in_the_way(template, record)
            if reason is None:
                while (reason := self._no_room(stand, record)) is not None and giving_way:
                    self._forget_gone(stand, giving_way.pop())
            if reason is not None:
                stand.reasons.append(Reason(record.interface_id, reason))
                continue
            stand.made += 1
            self._make.append(Making(template, record.interface_id))
            self._count[record.interface_id] += 1
            self._sources.setdefault(template.target_id, Counter())[record.interface_id] += 1
            self._made_numbers[record.interface_id, template.number] = template.name

    def _forget_gone(self, stand: _Stand, session: SessionRecord) -> None:
        """The place of a session whose interface is gone is wanted by one that is there."""
        del stand.held[session.interface_id]
        self._remove(session.session_id)
        self._change.pop(session.session_id, None)
        del self._numbers[session.interface_id, session.number]
        self._count[session.interface_id] -= 1
        self._sources[session.target_id][session.interface_id] -= 1

    def _in_the_way(self, template: Template, record: InterfaceRecord) -> str | None:
        """Why CreateTrafficMirrorSession would refuse this source."""
        if record.not_mirrorable is not None:
            return f"it cannot be a source: {record.not_mirrorable}"
        target_id = self._behind_targets.get(record.interface_id)
        if target_id is not None:
            return f"it is the interface of target {target_id}, and none is both source and target"
        return self._number_taken(record.interface_id, template.number) or _reached(
            self._count[record.interface_id], self._now.quotas.sessions_per_interface, "sessions_per_interface"
        )

    def _no_room(self, stand: _Stand, record: InterfaceRecord) -> str | None:
        """Why there can be no more of them, whatever the source."""
        template = stand.template
        if len(stand.held) + stand.made >= template.limit:
            return f"the template's limit of {template.limit} is reached"
        return _reached(
            len(self._sessions) + len(self._make), self._now.quotas.sessions_per_account, "sessions_per_account"
        ) or self._target_full(template.target_id, record.interface_id)

    def _number_taken(self, interface_id: str, number: int) -> str | None:
        template = self._made_numbers.get((interface_id, number))
        if template is not None:
            return f"session number {number} is wanted by template {template} too, which comes first"
        holder = self._numbers.get((interface_id, number))
        if holder is None:
            return None
        origin = self._now.origins.get(holder.session_id)
        by = "" if origin is None else f" of template {origin}"
        return f"session number {number} is taken by {holder.session_id}{by}"

    def _target_full(self, target_id: str, interface_id: str) -> str | None:
        target = self._now.targets[target_id].target
        quotas, sources = self._now.quotas, self._sources.get(target_id, Counter())
        beyond = {*self._now.sources_of_others.get(target_id, ())}
        sessions = sources.total() + len(beyond)  # of other accounts at least one each
        if not isinstance(target, EndpointTarget) and sessions >= quotas.sessions_per_target:
            return _reached(sessions, quotas.sessions_per_target, "sessions_per_target")
        if not isinstance(target, InterfaceTarget):
            return None
        others = {source for source, count in sources.items() if count > 0} | beyond
        if interface_id in others:
            return None
        return _reached(len(others), quotas.sources_per_interface_target, "sources_per_interface_target")


def _reached(count: int, quota: int, name: str) -> str | None:
    return f"the quota {name} of {quota} is reached" if count >= quota else None


def _place(record: InterfaceRecord) -> tuple[str, str]:
    return record.host_id, record.found.key


def _outcome(stand: _Stand) -> Outcome:
    sessions = sorted(session.session_id for session in stand.held.values())
    reasons = sorted(stand.reasons, key=lambda reason: reason.interface_id)
    return Outcome(stand.template, len(stand.selected), tuple(sessions), tuple(reasons), stand.problem)

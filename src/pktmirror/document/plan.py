"""From what there is to what a document says: the changes, in an order in which each finds what it needs.

A resource is an entry's by its id in the document, or by its name in `NAME_TAG`; nothing else is ever touched. What
bears the document's name and is no longer in it stays, unless the plan is to prune.

For a moment too little may be mirrored, never more than the rules say: rules that accept go first and come last, those
that reject come first and go last (`docs/decisions/0017`). EC2 cannot change a target, nor a filter's description or a
session's source. There a new one is made, and the old one goes when nothing needs it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from pktmirror.document.changes import Change, Kind, Left, Made, Plan, Ref, Verb
from pktmirror.document.numbers import Move, in_order, session_numbers
from pktmirror.document.rules import rule_changes
from pktmirror.document.state import FilterState, SessionState, State, TargetState
from pktmirror.document.text import Malformed, Mark, Problem
from pktmirror.document.values import (
    Destination,
    Document,
    FilterEntry,
    InterfaceRef,
    Located,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
)
from pktmirror.model.template import NAME_TAG, ORIGIN_TAG, Template

BALANCER_PACKET_LENGTH = 8500
"""What a session to a load balancer has where no packet length was given (spec 1.8)."""

S = TypeVar("S", TargetState, FilterState, SessionState)


def plan(document: Document, state: State, *, prune: bool = False) -> Plan:
    """The changes from the state to the document; raises `Malformed` where there can be none."""
    return _Planning(document, state, prune).plan()


class _Planning:
    def __init__(self, document: Document, state: State, prune: bool) -> None:
        self._document = document
        self._state = state
        self._prune = prune
        self._problems: list[Problem] = []
        self._left: list[Left] = []
        self._refs: dict[tuple[Kind, str], Ref] = {}
        # In the order in which they are carried out: what is in the way of others goes first.
        self._going: list[Change] = []  # sessions and templates that go
        self._filters: list[Change] = []  # and their rules
        self._letting_go: list[Change] = []  # templates that change, where a source of theirs becomes a target
        self._targets: list[Change] = []
        self._moved: list[Move] = []  # sessions that change
        self._templates: list[Change] = []  # that change
        self._last: list[Change] = []  # filters and targets that go, since nothing uses them any more
        self._coming: list[Change] = []  # sessions, then templates; an interface is either a source or a target
        self._deleted: set[str] = set()
        self._new_targets: set[str] = set()  # the interfaces that become targets
        self._final: dict[str, SessionState] = {}  # the document's sessions that stay, as they will be

    def plan(self) -> Plan:
        targets = [each for each in self._state.targets if each.is_own]
        sessions = [each for each in self._state.sessions if each.is_own]
        bound_targets = self._bind(Kind.TARGET, self._document.targets, targets, self._same_target)
        bound_filters = self._bind(Kind.FILTER, self._document.filters, self._state.filters, _same_filter)
        bound_sessions = self._bind(Kind.SESSION, self._document.sessions, sessions, self._same_session)
        for target in self._document.targets:
            self._target(target, bound_targets.get(target.name))
        for filter_ in self._document.filters:
            self._filter(filter_, bound_filters.get(filter_.name))
        self._check_ids()
        self._gone_templates()
        self._sessions(bound_sessions)
        for template in self._document.templates:
            self._template(template)
        self._check_what_goes_is_free()
        if self._problems:
            raise Malformed(self._problems)
        held = {(each.interface_id, each.number) for each in self._state.sessions if each.id not in self._deleted}
        moved = in_order(self._moved, held)
        changes = (
            *(*self._going, *self._filters, *self._letting_go, *self._targets),
            *(*moved, *self._templates, *self._last, *self._coming),
        )
        return Plan(changes, tuple(self._left))

    # --- whose is what

    def _bind(
        self, kind: Kind, entries: Sequence[Any], there: Sequence[S], same: Callable[[Any, S], bool]
    ) -> dict[str, S]:
        """The resource of each entry. What bears a name and is nobody's goes, or is left."""
        by_id = {each.id: each for each in there}
        explicit = {entry.id for entry in entries if entry.id is not None}
        named: dict[str, list[S]] = {}
        prefix = f"{self._document.name}/"
        for each in there:
            name = each.tags.get(NAME_TAG, "")
            if name.startswith(prefix) and each.id not in explicit and ORIGIN_TAG not in each.tags:
                named.setdefault(name.removeprefix(prefix), []).append(each)
        bound: dict[str, S] = {}
        for entry in entries:
            if entry.id is not None:
                if entry.id in by_id:
                    bound[entry.name] = by_id[entry.id]
                else:
                    self._wrong(
                        entry.at, f"{kind.value} {entry.name} is {entry.id}, which does not exist", "drop its id"
                    )
                continue
            # After a replacement that was interrupted there may be two: the one that is right is the entry's.
            owned = sorted(named.pop(entry.name, []), key=lambda each: (not same(entry, each), each.id))
            if owned:
                bound[entry.name] = owned[0]
            for second in owned[1:]:
                self._delete(kind, entry.name, second.id, "left over from a replacement that was interrupted")
        for name, several in sorted(named.items()):
            for each in several:
                if self._prune:
                    self._delete(kind, name, each.id, "no longer in the document")
                else:
                    self._left.append(Left(kind, name, each.id))
        return bound

    def _delete(self, kind: Kind, name: str, id_: str, why: str) -> None:
        title = kind.value.title()
        change = Change(
            Verb.DELETE,
            kind,
            name,
            f"DeleteTrafficMirror{title}",
            {f"TrafficMirror{title}Id": id_},
            id_,
            (why,),
        )
        self._deleted.add(id_)
        if kind is Kind.SESSION:
            self._going.append(change)
        elif kind is Kind.FILTER:
            self._last.insert(0, change)
        else:
            self._last.append(change)

    # --- targets

    def _same_target(self, entry: TargetEntry, there: TargetState) -> bool:
        resource = self._interface_or_none(entry.resource)
        return (entry.destination, resource, entry.description) == (
            there.destination,
            there.resource,
            there.description,
        )

    def _target(self, entry: TargetEntry, there: TargetState | None) -> None:
        resource = self._interface(entry.resource, entry.at, f"target {entry.name}")
        if there is not None and self._same_target(entry, there):
            self._refs[Kind.TARGET, entry.name] = there.id
            self._tags(Kind.TARGET, entry.name, there.id, entry.tags, there.tags, self._targets)
            return
        if entry.destination is Destination.INTERFACE:
            self._check_interface(resource, entry.at, f"target {entry.name}")
            self._new_targets.add(resource)
        details = [f"{entry.destination.name.lower().replace('_', ' ')} {resource}"]
        if there is not None:
            self._replaced(Kind.TARGET, entry, there.id, "EC2 cannot change a target")
            details.append(f"in the place of {there.id}")
        parameters = {entry.destination.value: resource, **_described(entry.description)}
        self._create(Kind.TARGET, entry, parameters, details, self._targets)

    # --- filters

    def _filter(self, entry: FilterEntry, there: FilterState | None) -> None:
        if there is None or not _same_filter(entry, there):
            details: list[str] = []
            if there is not None:
                self._replaced(Kind.FILTER, entry, there.id, "EC2 cannot change a filter's description")
                details.append(f"in the place of {there.id}")
            self._create(Kind.FILTER, entry, _described(entry.description), details, self._filters)
            there = FilterState("", description=entry.description)
            ref: Ref = Made(Kind.FILTER, entry.name)
        else:
            ref = there.id
            self._tags(Kind.FILTER, entry.name, there.id, entry.tags, there.tags, self._filters)
        self._refs[Kind.FILTER, entry.name] = ref
        self._filters += rule_changes(entry, there.rules, ref)
        self._services_of(entry, there, ref)

    def _services_of(self, entry: FilterEntry, there: FilterState, ref: Ref) -> None:
        added, removed = entry.services - there.services, there.services - entry.services
        if not (added or removed):
            return
        parameters: dict[str, Any] = {"TrafficMirrorFilterId": ref}
        for member, services in (("AddNetworkServices", added), ("RemoveNetworkServices", removed)):
            if services:
                parameters[member] = sorted(service.value for service in services)
        details = (*(f"service {s.value} added" for s in added), *(f"service {s.value} removed" for s in removed))
        self._filters.append(
            Change(
                Verb.MODIFY,
                Kind.FILTER,
                entry.name,
                "ModifyTrafficMirrorFilterNetworkServices",
                parameters,
                there.id or None,
                details,
            )
        )

    # --- sessions

    def _same_session(self, entry: SessionEntry, there: SessionState) -> bool:
        """Whether a session can become what the entry says."""
        return self._interface_or_none(entry.source) == there.interface_id

    def _sessions(self, bound: Mapping[str, SessionState]) -> None:
        sources = {
            entry.name: self._interface(entry.source, entry.at, f"session {entry.name}")
            for entry in self._document.sessions
        }
        kept: dict[str, SessionState] = {}
        for entry in self._document.sessions:
            there = bound.get(entry.name)
            if there is not None and there.interface_id == sources[entry.name]:
                kept[entry.name] = there
            elif there is not None:
                self._replaced(Kind.SESSION, entry, there.id, "EC2 cannot change a session's source")
        others = self._others({each.id for each in kept.values()})
        numbers, conflicts = session_numbers(self._document.sessions, sources, kept, others)
        self._problems += conflicts
        for entry in self._document.sessions:
            target, filter_ = self._ref(Kind.TARGET, entry.target), self._ref(Kind.FILTER, entry.filter)
            if entry.name in kept:
                self._modify_session(entry, kept[entry.name], target, filter_, numbers[entry.name])
            else:
                self._check_interface(sources[entry.name], entry.at, f"session {entry.name}")
                parameters = {
                    "NetworkInterfaceId": sources[entry.name],
                    "TrafficMirrorTargetId": target,
                    "TrafficMirrorFilterId": filter_,
                    "SessionNumber": numbers[entry.name],
                    **({} if entry.packet_length is None else {"PacketLength": entry.packet_length}),
                    **({} if entry.vni is None else {"VirtualNetworkId": entry.vni}),
                    **_described(entry.description),
                }
                details = [
                    f"source {sources[entry.name]}",
                    f"target {entry.target}, filter {entry.filter}, number {numbers[entry.name]}",
                ]
                self._create(Kind.SESSION, entry, parameters, details, self._coming)

    def _others(self, kept: Collection[str]) -> Iterable[SessionState]:
        """The sessions that are not the document's and will be there; of its templates, with their number then."""
        templates = {f"{self._document.name}/{entry.name}": entry for entry in self._document.templates}
        for session in self._state.sessions:
            if session.id in self._deleted or session.id in kept:
                continue
            entry = templates.get(session.tags.get(ORIGIN_TAG, ""))
            yield session if entry is None else replace(session, number=entry.number)

    def _modify_session(self, entry: SessionEntry, there: SessionState, target: Ref, filter_: Ref, number: int) -> None:
        parameters: dict[str, Any] = {}
        details: list[str] = []
        removed: list[str] = []
        length: int | str | None = there.packet_length
        if length == BALANCER_PACKET_LENGTH and self._to_balancer(there):
            # It is shown also where none was given. Under another target it matters which it is: it is said anew.
            if target != there.target_id:
                length = "unknown"
            elif entry.packet_length is None:
                length = None
        for member, title, before, after in (
            ("TrafficMirrorTargetId", "target", there.target_id, target),
            ("TrafficMirrorFilterId", "filter", there.filter_id, filter_),
            ("SessionNumber", "number", there.number, number),
            ("VirtualNetworkId", "vni", there.vni, there.vni if entry.vni is None else entry.vni),
            ("PacketLength", "packet-length", length, entry.packet_length),
            ("Description", "description", there.description, entry.description),
        ):
            if before == after:
                continue
            shown = f"new {after.kind.value} {after.name}" if isinstance(after, Made) else after
            details.append(f"{title} {_said(before)} → {_said(shown)}")
            if after is None:
                removed.append(title)
            else:
                parameters[member] = after
        final = replace(
            there,
            target_id=target if isinstance(target, str) else "",
            filter_id=filter_ if isinstance(filter_, str) else "",
            number=number,
        )
        self._final[there.id] = final
        self._tags(Kind.SESSION, entry.name, there.id, entry.tags, there.tags, self._coming)
        if not details:
            return
        if removed:
            parameters["RemoveFields"] = removed
        change = Change(
            Verb.MODIFY,
            Kind.SESSION,
            entry.name,
            "ModifyTrafficMirrorSession",
            {"TrafficMirrorSessionId": there.id, **parameters},
            there.id,
            tuple(details),
        )
        self._moved.append(Move(there.interface_id, there.number, number, change))

    def _to_balancer(self, session: SessionState) -> bool:
        return any(
            target.id == session.target_id and target.destination is Destination.LOAD_BALANCER
            for target in self._state.targets
        )

    # --- templates

    def _gone_templates(self) -> None:
        wanted = {f"{self._document.name}/{entry.name}" for entry in self._document.templates}
        for template in self._state.templates:
            document, _, name = template.name.partition("/")
            if document != self._document.name or template.name in wanted:
                continue
            if not self._prune:
                self._left.append(Left(Kind.TEMPLATE, name, template.name))
                continue
            made = [each.id for each in self._state.sessions if each.tags.get(ORIGIN_TAG) == template.name]
            self._deleted.update(made, [template.name])
            details = ("no longer in the document", f"with its {len(made)} sessions")
            change = Change(
                Verb.DELETE, Kind.TEMPLATE, name, "DeleteTemplate", {"name": template.name}, template.name, details
            )
            self._going.append(change)

    def _template(self, entry: TemplateEntry) -> None:
        name = f"{self._document.name}/{entry.name}"
        there = next((each for each in self._state.templates if each.name == name), None)
        target, filter_ = self._ref(Kind.TARGET, entry.target), self._ref(Kind.FILTER, entry.filter)
        wanted = Template(
            name=name,
            select=entry.select,
            target_id=target if isinstance(target, str) else "",
            filter_id=filter_ if isinstance(filter_, str) else "",
            number=entry.number,
            limit=entry.limit,
            vni=entry.vni,
            packet_bytes_max=entry.packet_length,
            description=entry.description,
            tags=dict(entry.tags),
        )
        if there == wanted:
            return
        parameters = {**msgspec.to_builtins(wanted), "target_id": target, "filter_id": filter_}
        if there is None:
            details = (f"for {_selected(entry)}, up to {entry.limit}", f"target {entry.target}, filter {entry.filter}")
            self._coming.append(
                Change(Verb.CREATE, Kind.TEMPLATE, entry.name, "PutTemplate", parameters, None, details)
            )
            return
        changed = [field for field in Template.__struct_fields__ if getattr(there, field) != getattr(wanted, field)]
        if self._lets_go and ("select" in changed or "limit" in changed):
            # The new target may be the very interface: until that is one, the template keeps the target that it has.
            last = [field for field in changed if field == "target_id" and isinstance(target, Made)]
            now = {**parameters, "target_id": there.target_id} if last else parameters
            self._letting_go.append(_put(entry, name, now, [field for field in changed if field not in last]))
            changed = last
        if changed:
            self._templates.append(_put(entry, name, parameters, changed))

    @property
    def _lets_go(self) -> bool:
        """Whether an interface that becomes a target is the source of a session that the document's templates made."""
        return any(
            session.interface_id in self._new_targets
            and session.tags.get(ORIGIN_TAG, "").startswith(f"{self._document.name}/")
            for session in self._state.sessions
        )

    # --- what all share

    def _create(
        self, kind: Kind, entry: Any, parameters: Mapping[str, Any], details: Sequence[str], changes: list[Change]
    ) -> None:
        tags = {**entry.tags, NAME_TAG: f"{self._document.name}/{entry.name}"}
        specification = {
            "ResourceType": f"traffic-mirror-{kind.value}",
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        changes.append(
            Change(
                Verb.CREATE,
                kind,
                entry.name,
                f"CreateTrafficMirror{kind.value.title()}",
                {**parameters, "TagSpecifications": [specification]},
                None,
                tuple(details),
            )
        )
        self._refs[kind, entry.name] = Made(kind, entry.name)

    def _replaced(self, kind: Kind, entry: Any, id_: str, why: str) -> None:
        if entry.id is not None:
            self._wrong(
                entry.at,
                f"{kind.value} {entry.name} is bound to {id_}, and is not as it says: {why}",
                "drop its id to make a new one, or say what there is",
            )
        else:
            self._delete(kind, entry.name, id_, f"replaced: {why}")

    def _tags(
        self,
        kind: Kind,
        name: str,
        id_: str,
        wanted: Mapping[str, str],
        there: Mapping[str, str],
        changes: list[Change],
    ) -> None:
        """Tags are as the document says, but for ours. What is bound by its id keeps a name that it may have."""
        held = {key: value for key, value in there.items() if key not in (NAME_TAG, ORIGIN_TAG)}
        gone = sorted(held.keys() - wanted.keys())
        new = {key: value for key, value in wanted.items() if held.get(key) != value}
        if gone:
            parameters = {"Resources": [id_], "Tags": [{"Key": key} for key in gone]}
            details = tuple(f"tag {key} removed" for key in gone)
            changes.append(Change(Verb.MODIFY, kind, name, "DeleteTags", parameters, id_, details))
        if new:
            parameters = {"Resources": [id_], "Tags": [{"Key": key, "Value": value} for key, value in new.items()]}
            details = tuple(f"tag {key} = {value}" for key, value in new.items())
            changes.append(Change(Verb.MODIFY, kind, name, "CreateTags", parameters, id_, details))

    def _ref(self, kind: Kind, named: str) -> Ref:
        """A name of the document, or an id."""
        return self._refs.get((kind, named), named)

    def _check_ids(self) -> None:
        there = {each.id for each in self._state.targets} | {each.id for each in self._state.filters}
        there |= {id_ for each in self._state.templates for id_ in (each.target_id, each.filter_id)}  # says so itself
        entries: tuple[SessionEntry | TemplateEntry, ...] = (*self._document.sessions, *self._document.templates)
        for entry in entries:
            for kind, named in ((Kind.TARGET, entry.target), (Kind.FILTER, entry.filter)):
                if (kind, named) not in self._refs and named not in there:
                    said = f"{entry.name} has the {kind.value} {named}, which does not exist"
                    self._wrong(entry.at, said, f"take an id of `aws ec2 describe-traffic-mirror-{kind.value}s`")

    def _interface_or_none(self, ref: InterfaceRef) -> str | None:
        return self._state.interfaces.get((ref.host, ref.key)) if isinstance(ref, Located) else ref

    def _interface(self, ref: InterfaceRef, at: Mark, what: str) -> str:
        found = self._interface_or_none(ref)
        if found is None:
            do = "take host and key from `pktmirror interfaces`, or wait until its agent has found it"
            self._wrong(at, f"{what} names {ref}, where no interface is known", do)
        return found or ""

    def _check_interface(self, interface_id: str, at: Mark, what: str) -> None:
        """Of what is to be made: the interface must be there."""
        if interface_id and interface_id not in self._state.interfaces.values():
            do = "take an id of `pktmirror interfaces`, or write `{host: HOST, key: KEY}` as it has them"
            self._wrong(at, f"{what} names {interface_id}, which is no interface that is known", do)

    def _check_what_goes_is_free(self) -> None:
        """A target or filter that goes is used by nobody then: EC2 refuses to delete it, and a template would end."""
        wanted = {f"{self._document.name}/{entry.name}": entry for entry in self._document.templates}
        for session in self._state.sessions:
            entry = wanted.get(session.tags.get(ORIGIN_TAG, ""))
            if entry is None and session.id not in self._deleted:
                final = self._final.get(session.id, session)
                self._check_free(f"session {session.id}", (final.target_id, final.filter_id))
        for template in self._state.templates:
            if template.name not in wanted and template.name not in self._deleted:
                self._check_free(f"template {template.name}", (template.target_id, template.filter_id))

    def _check_free(self, user: str, used: Collection[str]) -> None:
        for id_ in sorted(self._deleted.intersection(used)):
            self._wrong(
                Mark(1, 1),
                f"{id_} has to go, and {user} uses it, which the document does not have",
                "give that another one, say it in the document, or leave in the document what there is",
            )

    def _wrong(self, at: Mark, found: str, do: str) -> None:
        self._problems.append(Problem(at, found, do))


def _same_filter(entry: FilterEntry, there: FilterState) -> bool:
    """Whether a filter can become what the entry says."""
    return entry.description == there.description


def _described(description: str | None) -> dict[str, str]:
    return {} if description is None else {"Description": description}


def _put(entry: TemplateEntry, name: str, parameters: Mapping[str, Any], changed: Sequence[str]) -> Change:
    """The change of a template that is there."""
    details = (f"another {', '.join(field.replace('_', ' ') for field in changed)}",)
    return Change(Verb.MODIFY, Kind.TEMPLATE, entry.name, "PutTemplate", parameters, name, details)


def _selected(entry: TemplateEntry) -> str:
    select = entry.select
    given = [f"{name} {value}" for name, value in msgspec.to_builtins(select).items() if name not in ("tags", "labels")]
    given += [f"tag {key}={value}" for key, value in select.tags.items()]
    return " and ".join([*given, *(f"label {key}={value}" for key, value in select.labels.items())])


def _said(value: object) -> str:
    return "none" if value is None else str(value)

"""From what there is to a document that says the same: to apply it changes nothing.

What bears the document's name comes by its own; what nobody has named comes with its id, which binds it. What another
document has made, and the sessions of templates, are not of this one; a target or filter of theirs is named by its id,
as is a target that another account shares.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pktmirror.document.state import FilterState, SessionState, State, TargetState
from pktmirror.document.values import (
    Document,
    FilterEntry,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
    is_id,
)
from pktmirror.model.template import NAME_TAG, ORIGIN_TAG, Template, is_name

State_ = TargetState | FilterState | SessionState


def exported(state: State, document: str, *, only_named: bool = False) -> Document:
    """What there is under a document's name; unless ``only_named``, also what is under none."""
    targets = _names((each for each in state.targets if each.is_own), document, "target", only_named)
    filters = _names(state.filters, document, "filter", only_named)
    sessions = _names((each for each in state.sessions if each.is_own), document, "session", only_named)
    return Document(
        document,
        tuple(_target(each, *targets[each.id]) for each in state.targets if each.id in targets),
        tuple(_filter(each, *filters[each.id]) for each in state.filters if each.id in filters),
        tuple(_session(each, *sessions[each.id], targets, filters) for each in state.sessions if each.id in sessions),
        tuple(_template(each, targets, filters) for each in state.templates if each.name.partition("/")[0] == document),
    )


Names = Mapping[str, tuple[str, str | None]]
"""By id: the name in the document, and the id that binds it, where that is needed."""


def _names(there: Iterable[State_], document: str, kind: str, only_named: bool) -> Names:
    names: dict[str, tuple[str, str | None]] = {}
    unnamed: list[State_] = []
    taken: set[str] = set()
    for each in there:
        owner, _, name = each.tags.get(NAME_TAG, "").partition("/")
        if ORIGIN_TAG in each.tags and kind == "session":
            continue
        if owner == document and _may_be_called(name) and name not in taken:
            names[each.id] = name, None
            taken.add(name)
        elif owner in ("", document):
            unnamed.append(each)
    if only_named:
        return names
    otherwise = {each.id: _otherwise(each, kind, taken) for each in unnamed}
    taken.update(otherwise.values())
    for each in unnamed:
        called = each.tags.get("Name", "")
        name = called if _may_be_called(called) and called not in taken else otherwise[each.id]
        names[each.id] = name, each.id
        taken.add(name)
    return names


def _otherwise(each: State_, kind: str, taken: Collection[str]) -> str:
    """What is called by its id, where no name that it has will do."""
    name = f"{kind}.{each.id.partition('-')[2]}"
    while name in taken:
        name += "_"
    return name


def _may_be_called(name: str) -> bool:
    """Whether `parse` takes the name of an entry."""
    return is_name(name) and not is_id(name)


def _named(id_: str, names: Names) -> str:
    return names[id_][0] if id_ in names else id_


def _common(each: State_) -> dict[str, Any]:
    """Without the tags that are ours alone."""
    held = {key: value for key, value in each.tags.items() if key not in (NAME_TAG, ORIGIN_TAG)}
    return {"description": each.description, "tags": held}


def _target(each: TargetState, name: str, id_: str | None) -> TargetEntry:
    return TargetEntry(name, each.destination, each.resource, id=id_, **_common(each))


def _filter(each: FilterState, name: str, id_: str | None) -> FilterEntry:
    rules = tuple(
        RuleEntry(rule.rule, rule.description)
        for rule in sorted(each.rules, key=lambda rule: (rule.rule.direction.value, rule.rule.number))
    )
    return FilterEntry(name, rules, each.services, id=id_, **_common(each))


def _session(each: SessionState, name: str, id_: str | None, targets: Names, filters: Names) -> SessionEntry:
    return SessionEntry(
        name,
        each.interface_id,
        _named(each.target_id, targets),
        _named(each.filter_id, filters),
        each.number,
        each.vni,
        each.packet_length,
        id=id_,
        **_common(each),
    )


def _template(each: Template, targets: Names, filters: Names) -> TemplateEntry:
    return TemplateEntry(
        each.name.partition("/")[2],
        each.select,
        _named(each.target_id, targets),
        _named(each.filter_id, filters),
        each.number,
        each.limit,
        each.vni,
        each.packet_bytes_max,
        each.description,
        each.tags,
    )

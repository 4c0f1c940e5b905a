"""A document as text: YAML, or JSON, which is the same in other letters. `form.parse` reads either back."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import yaml

from pktmirror.document.form import RULE_PROTOCOLS
from pktmirror.document.values import (
    Destination,
    Document,
    FilterEntry,
    InterfaceRef,
    Located,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
)
from pktmirror.model.filter import Direction, PortRange

WIDTH = 120
_PROTOCOL_NAMES = {number: name for name, number in RULE_PROTOCOLS.items()}
_FIELDS = {
    Destination.INTERFACE: "interface",
    Destination.LOAD_BALANCER: "load_balancer",
    Destination.GATEWAY_ENDPOINT: "gateway_endpoint",
}


def written(document: Document, *, as_json: bool = False) -> str:
    """The text, with a newline at its end."""
    kinds = {
        "targets": {entry.name: _target(entry) for entry in document.targets},
        "filters": {entry.name: _filter(entry) for entry in document.filters},
        "sessions": {entry.name: _session(entry) for entry in document.sessions},
        "templates": {entry.name: _template(entry) for entry in document.templates},
    }
    tree = {"document": document.name, **{kind: entries for kind, entries in kinds.items() if entries}}
    if as_json:
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """No anchors: what is equal is not therefore the same."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


class _Line(dict[str, Any]):
    """A table that is written on one line."""


def _string(dumper: _Dumper, text: str) -> yaml.Node:
    """In double quotes, with escapes, where PyYAML would write a line end of Unicode as itself."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)
_Dumper.add_representer(
    _Line, lambda dumper, line: dumper.represent_mapping("tag:yaml.org,2002:map", line.items(), flow_style=True)
)


def _target(entry: TargetEntry) -> dict[str, Any]:
    return _given({_FIELDS[entry.destination]: _interface(entry.resource), **_common(entry)})


def _filter(entry: FilterEntry) -> dict[str, Any]:
    return _given(
        {
            **{direction.value: _rules(entry.rules, direction) for direction in Direction},
            "services": sorted(service.value for service in entry.services),
            **_common(entry),
        }
    )


def _session(entry: SessionEntry) -> dict[str, Any]:
    return _given({"source": _interface(entry.source), **_copying(entry), **_common(entry)})


def _template(entry: TemplateEntry) -> dict[str, Any]:
    copying = _copying(entry)
    select = msgspec.to_builtins(entry.select)
    return {"select": select, **_given({**copying}), "limit": entry.limit, **_given(_common(entry))}


def _copying(entry: SessionEntry | TemplateEntry) -> dict[str, Any]:
    return {
        "target": entry.target,
        "filter": entry.filter,
        "number": entry.number,
        "vni": entry.vni,
        "packet_length": entry.packet_length,
    }


def _common(entry: TargetEntry | FilterEntry | SessionEntry | TemplateEntry) -> dict[str, Any]:
    id_ = None if isinstance(entry, TemplateEntry) else entry.id
    return {"description": entry.description, "tags": dict(entry.tags), "id": id_}


def _rules(rules: Sequence[RuleEntry], direction: Direction) -> list[_Line]:
    return [_rule(rule) for rule in rules if rule.rule.direction is direction]


def _rule(entry: RuleEntry) -> _Line:
    rule = entry.rule
    protocol = None if rule.protocol is None else _PROTOCOL_NAMES.get(rule.protocol, rule.protocol)
    fields = {
        "number": rule.number,
        "action": rule.action.value,
        "protocol": protocol,
        "source": str(rule.source),
        "source_ports": _ports(rule.source_ports),
        "destination": str(rule.destination),
        "destination_ports": _ports(rule.destination_ports),
        "description": entry.description,
    }
    return _Line({name: value for name, value in fields.items() if value is not None})


def _ports(ports: PortRange | None) -> int | str | None:
    if ports is None:
        return None
    return ports.first if ports.first == ports.last else f"{ports.first}-{ports.last}"


def _interface(ref: InterfaceRef) -> str | dict[str, str]:
    return {"host": ref.host, "key": ref.key} if isinstance(ref, Located) else ref


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is not said."""
    return {name: value for name, value in fields.items() if value not in (None, [], {})}

"""The changes of a filter's rules, which are known by their direction and number.

For a moment too little may be mirrored, never more than the rules say, before or after: rules that accept go first and
come last, those that reject come first and go last.
"""

from collections.abc import Sequence
from typing import Any

from pktmirror.document.changes import Change, Kind, Ref, Verb
from pktmirror.document.state import RuleState
from pktmirror.document.values import FilterEntry, RuleEntry
from pktmirror.model.filter import Action


def rule_changes(entry: FilterEntry, there: Sequence[RuleState], ref: Ref) -> list[Change]:
    """From the rules that are there to those of the entry; ``ref`` is the filter."""
    before = {rule.place: rule for rule in there}
    after = {rule.place: rule for rule in entry.rules}
    gone = [rule for place, rule in before.items() if place not in after]
    new = [rule for place, rule in after.items() if place not in before]
    changed = [
        (before[place], rule)
        for place, rule in after.items()
        if place in before and not _same_rule(rule, before[place])
    ]
    rejects, accepts = Action.REJECT, Action.ACCEPT
    ordered = sorted(changed, key=lambda pair: pair[1].rule.action is accepts)
    return [
        *(_delete_rule(entry, rule) for rule in gone if rule.rule.action is accepts),
        *(_create_rule(entry, rule, ref) for rule in new if rule.rule.action is rejects),
        *(_modify_rule(entry, then, now) for then, now in ordered),
        *(_create_rule(entry, rule, ref) for rule in new if rule.rule.action is accepts),
        *(_delete_rule(entry, rule) for rule in gone if rule.rule.action is rejects),
    ]


def _same_rule(entry: RuleEntry, there: RuleState) -> bool:
    return (entry.rule, entry.description) == (there.rule, there.description)


def _create_rule(filter_: FilterEntry, entry: RuleEntry, ref: Ref) -> Change:
    rule = entry.rule
    parameters = {
        "TrafficMirrorFilterId": ref,
        "TrafficDirection": rule.direction.value,
        "RuleNumber": rule.number,
        **_rule_parameters(entry),
    }
    parameters = {key: value for key, value in parameters.items() if value is not None}
    name, details = _rule_name(filter_, entry), (_rule_line(entry),)
    return Change(Verb.CREATE, Kind.RULE, name, "CreateTrafficMirrorFilterRule", parameters, None, details)


def _modify_rule(filter_: FilterEntry, there: RuleState, entry: RuleEntry) -> Change:
    """Every field is said again; what is not there any more is removed by name."""
    fields = {
        "Protocol": "protocol",
        "SourcePortRange": "source-port-range",
        "DestinationPortRange": "destination-port-range",
        "Description": "description",
    }
    given = _rule_parameters(entry)
    before = _rule_parameters(RuleEntry(there.rule, there.description))
    removed = [field for name, field in fields.items() if given[name] is None and before[name] is not None]
    parameters = {
        "TrafficMirrorFilterRuleId": there.id,
        **{name: value for name, value in given.items() if value is not None},
        **({"RemoveFields": removed} if removed else {}),
    }
    details = (f"{_rule_line(RuleEntry(there.rule, there.description))} → {_rule_line(entry)}",)
    name = _rule_name(filter_, entry)
    return Change(Verb.MODIFY, Kind.RULE, name, "ModifyTrafficMirrorFilterRule", parameters, there.id, details)


def _delete_rule(filter_: FilterEntry, there: RuleState) -> Change:
    entry = RuleEntry(there.rule, there.description)
    parameters = {"TrafficMirrorFilterRuleId": there.id}
    name, details = _rule_name(filter_, entry), (_rule_line(entry),)
    return Change(Verb.DELETE, Kind.RULE, name, "DeleteTrafficMirrorFilterRule", parameters, there.id, details)


def _rule_parameters(entry: RuleEntry) -> dict[str, Any]:
    """What a call may say of a rule beside where it stands; None: nothing."""
    rule = entry.rule
    source, destination = rule.source_ports, rule.destination_ports
    return {
        "RuleAction": rule.action.value,
        "SourceCidrBlock": str(rule.source),
        "DestinationCidrBlock": str(rule.destination),
        "Protocol": rule.protocol,
        "SourcePortRange": source and {"FromPort": source.first, "ToPort": source.last},
        "DestinationPortRange": destination and {"FromPort": destination.first, "ToPort": destination.last},
        "Description": entry.description,
    }


def _rule_name(filter_: FilterEntry, entry: RuleEntry) -> str:
    return f"{filter_.name} {entry.rule.direction.value} {entry.rule.number}"


def _rule_line(entry: RuleEntry) -> str:
    """A rule in one line, for people."""
    rule = entry.rule
    protocol = "all" if rule.protocol is None else f"protocol {rule.protocol}"
    ends = [
        f"{network}{'' if ports is None else f' ports {ports.first}-{ports.last}'}"
        for network, ports in ((rule.source, rule.source_ports), (rule.destination, rule.destination_ports))
    ]
    described = "" if entry.description is None else f" “{entry.description}”"
    return f"{rule.action.value} {protocol} {ends[0]} to {ends[1]}{described}"

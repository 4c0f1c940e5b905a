"""Traffic mirror filter rules: create, describe, modify, delete."""

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from ipaddress import ip_network
from typing import Annotated, Any

import msgspec

from pktmirror.aws import ApiError, errors
from pktmirror.control.operations import selection, tags
from pktmirror.control.operations.operation import (
    Context,
    CreateRequest,
    DescribeRequest,
    Description,
    Ids,
    Operation,
    Request,
    Result,
    not_found,
)
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.selection import one
from pktmirror.control.records import RuleRecord
from pktmirror.control.store import Transaction
from pktmirror.model.filter import (
    RULE_NUMBER_MAX,
    RULE_NUMBER_MIN,
    TCP,
    UDP,
    Action,
    Direction,
    Network,
    PortRange,
    Rule,
)
from pktmirror.model.ids import Prefix, new_id

RuleNumber = Annotated[int, msgspec.Meta(ge=RULE_NUMBER_MIN, le=RULE_NUMBER_MAX)]
Protocol = Annotated[int, msgspec.Meta(ge=0, le=255)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]

_CIDR = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}")


class Ports(msgspec.Struct, frozen=True, rename="pascal"):
    from_port: Port | None = None
    to_port: Port | None = None


class RemovableField(Enum):
    DESTINATION_PORT_RANGE = "destination-port-range"
    SOURCE_PORT_RANGE = "source-port-range"
    PROTOCOL = "protocol"
    DESCRIPTION = "description"


class CreateTrafficMirrorFilterRule(CreateRequest, frozen=True, kw_only=True):
    traffic_mirror_filter_id: str
    traffic_direction: Direction
    rule_number: RuleNumber
    rule_action: Action
    destination_cidr_block: str
    source_cidr_block: str
    destination_port_range: Ports | None = None
    source_port_range: Ports | None = None
    protocol: Protocol | None = None


class DescribeTrafficMirrorFilterRules(DescribeRequest, frozen=True, kw_only=True):
    traffic_mirror_filter_rule_ids: Ids = ()
    traffic_mirror_filter_id: str | None = None


class ModifyTrafficMirrorFilterRule(Request, frozen=True, kw_only=True):
    traffic_mirror_filter_rule_id: str
    traffic_direction: Direction | None = None
    rule_number: RuleNumber | None = None
    rule_action: Action | None = None
    destination_cidr_block: str | None = None
    source_cidr_block: str | None = None
    destination_port_range: Ports | None = None
    source_port_range: Ports | None = None
    protocol: Protocol | None = None
    description: Description | None = None
    remove_fields: tuple[RemovableField, ...] = ()


class DeleteTrafficMirrorFilterRule(Request, frozen=True, kw_only=True):
    traffic_mirror_filter_rule_id: str


def create(request: CreateTrafficMirrorFilterRule, context: Context) -> Result:
    transaction = context.transaction
    _require_filter(transaction, request.traffic_mirror_filter_id)
    given = tags.of_specifications(request.tag_specifications, tags.FILTER_RULE)
    rule = Rule(
        request.rule_number,
        request.traffic_direction,
        request.rule_action,
        *_networks(request.source_cidr_block, request.destination_cidr_block),
        request.protocol,
        _port_range(request.source_port_range, "SourcePortRange"),
        _port_range(request.destination_port_range, "DestinationPortRange"),
    )
    if rule.source_ports or rule.destination_ports:
        _check_ports_have_a_protocol(rule)
    record = RuleRecord(new_id(Prefix.FILTER_RULE), request.traffic_mirror_filter_id, rule, request.description)
    _check_number_is_free(transaction, record)
    quota = context.quotas.rules_per_filter
    if transaction.rules.count(filter_id=record.filter_id) >= quota:
        raise ApiError(
            "TrafficMirrorFilterRuleLimitExceeded",
            f"Rules per filter limit reached ({quota}, both directions together)",
        )
    transaction.rules.put(record)
    tags.put(transaction, record.rule_id, given)
    transaction.bump_revision()
    return {"TrafficMirrorFilterRule": described(record) | ({"Tags": tags.described(given)} if given else {})}


def describe(request: DescribeTrafficMirrorFilterRules, context: Context) -> Result:
    transaction = context.transaction
    if request.traffic_mirror_filter_id is not None:
        _require_filter(transaction, request.traffic_mirror_filter_id)
    if request.traffic_mirror_filter_rule_ids:
        records = [require(transaction, id_) for id_ in dict.fromkeys(request.traffic_mirror_filter_rule_ids)]
    else:
        records = transaction.rules.where()
    if request.traffic_mirror_filter_id is not None:
        records = [record for record in records if record.filter_id == request.traffic_mirror_filter_id]
    held = transaction.tags.all()
    chosen = selection.select(records, request.filters, _FIELDS, lambda record: held.get(record.rule_id, {}))
    given, next_token = page(chosen, lambda record: record.rule_id, request, context.page_key)
    listed = [described(record) | {"Tags": tags.described(held.get(record.rule_id, {}))} for record in given]
    return {"TrafficMirrorFilterRules": listed, "NextToken": next_token}


def modify(request: ModifyTrafficMirrorFilterRule, context: Context) -> Result:
    transaction = context.transaction
    record = require(transaction, request.traffic_mirror_filter_rule_id)
    changed = _modified(record, request)
    if changed != record:
        _check_number_is_free(transaction, changed)
        transaction.rules.put(changed)
        transaction.bump_revision()
    return {"TrafficMirrorFilterRule": described(changed)}


def delete(request: DeleteTrafficMirrorFilterRule, context: Context) -> Result:
    transaction = context.transaction
    rule_id = require(transaction, request.traffic_mirror_filter_rule_id).rule_id
    transaction.rules.remove(rule_id)
    transaction.tags.remove(rule_id)
    transaction.bump_revision()
    return {"TrafficMirrorFilterRuleId": rule_id}


def require(transaction: Transaction, rule_id: str) -> RuleRecord:
    record = transaction.rules.get(rule_id)
    if record is None:
        raise not_found("TrafficMirrorFilterRuleId", "traffic mirror filter rule", rule_id)
    return record


def described(record: RuleRecord) -> dict[str, Any]:
    """A rule in botocore's output shape, without its tags: a filter and Modify show none (fact 17)."""
    rule = record.rule
    return {
        "TrafficMirrorFilterRuleId": record.rule_id,
        "TrafficMirrorFilterId": record.filter_id,
        "TrafficDirection": rule.direction.value,
        "RuleNumber": rule.number,
        "RuleAction": rule.action.value,
        "Protocol": rule.protocol,
        "DestinationPortRange": _described_ports(rule.destination_ports),
        "SourcePortRange": _described_ports(rule.source_ports),
        "DestinationCidrBlock": str(rule.destination),
        "SourceCidrBlock": str(rule.source),
        "Description": record.description,
    }


def _described_ports(ports: PortRange | None) -> dict[str, int] | None:
    return None if ports is None else {"FromPort": ports.first, "ToPort": ports.last}


def _modified(record: RuleRecord, request: ModifyTrafficMirrorFilterRule) -> RuleRecord:
    """The record after the call. A field is set or removed, not both."""
    rule, removed = record.rule, frozenset(request.remove_fields)
    source_ports = _port_range(request.source_port_range, "SourcePortRange")
    destination_ports = _port_range(request.destination_port_range, "DestinationPortRange")

    def field(name: RemovableField, given: Any, now: Any) -> Any:
        if name in removed and given is not None:
            raise errors.invalid_parameter_combination(f"{name.value} cannot be set and removed in one call")
        return None if name in removed else now if given is None else given

    source, destination = _networks(
        str(rule.source) if request.source_cidr_block is None else request.source_cidr_block,
        str(rule.destination) if request.destination_cidr_block is None else request.destination_cidr_block,
    )
    changed = Rule(
        request.rule_number or rule.number,
        request.traffic_direction or rule.direction,
        request.rule_action or rule.action,
        source,
        destination,
        field(RemovableField.PROTOCOL, request.protocol, rule.protocol),
        field(RemovableField.SOURCE_PORT_RANGE, source_ports, rule.source_ports),
        field(RemovableField.DESTINATION_PORT_RANGE, destination_ports, rule.destination_ports),
    )
    # Fact 16 is about a call that adds a range. Ranges that are there stay when their protocol goes (fact 15), and
    # still count for TCP and UDP only.
    changes_protocol = request.protocol is not None and (changed.source_ports or changed.destination_ports)
    if source_ports or destination_ports or changes_protocol:
        _check_ports_have_a_protocol(changed)
    description = field(RemovableField.DESCRIPTION, request.description, record.description)
    return replace(record, rule=changed, description=description)


def _networks(source: str, destination: str) -> tuple[Network, Network]:
    networks = _network(source, "SourceCidrBlock"), _network(destination, "DestinationCidrBlock")
    if networks[0].version != networks[1].version:
        raise errors.invalid_parameter_value(
            f"SourceCidrBlock {source} and DestinationCidrBlock {destination} must be of one address family"
        )
    return networks


def _network(text: str, name: str) -> Network:
    """Bits beyond the prefix are cleared: 10.0.0.6/24 becomes 10.0.0.0/24, as EC2 does elsewhere."""
    try:
        if _CIDR.fullmatch(text):
            return ip_network(text, strict=False)
    except ValueError:
        pass
    raise errors.invalid_value(name, text, "Expected a CIDR block such as 10.0.0.0/16 or 2001:db8::/32")


def _port_range(given: Ports | None, name: str) -> PortRange | None:
    if given is None:
        return None
    if given.from_port is None or given.to_port is None:
        raise errors.missing_parameter(f"{name}.{'FromPort' if given.from_port is None else 'ToPort'}")
    if given.from_port > given.to_port:
        raise errors.invalid_value(name, f"{given.from_port}-{given.to_port}", "Expected FromPort <= ToPort")
    return PortRange(given.from_port, given.to_port)


def _check_ports_have_a_protocol(rule: Rule) -> None:
    if rule.protocol not in (TCP, UDP):
        found = "no protocol" if rule.protocol is None else f"protocol {rule.protocol}"
        raise errors.invalid_parameter_combination(
            f"A port range needs protocol {TCP} (TCP) or {UDP} (UDP), and the rule has {found}"
        )


def _check_number_is_free(transaction: Transaction, record: RuleRecord) -> None:
    rule = record.rule
    for other in transaction.rules.where(
        filter_id=record.filter_id, direction=rule.direction.value, number=rule.number
    ):
        if other.rule_id != record.rule_id:
            raise ApiError(
                "TrafficMirrorFilterRuleAlreadyExists",
                f"The filter {record.filter_id} has an {rule.direction.value} rule {rule.number}: {other.rule_id}",
            )


def _require_filter(transaction: Transaction, filter_id: str) -> None:
    if transaction.filters.get(filter_id) is None:
        raise not_found("TrafficMirrorFilterId", "traffic mirror filter", filter_id)


_FIELDS: selection.Fields[RuleRecord] = {
    "traffic-mirror-filter-rule-id": lambda record: one(record.rule_id),
    "traffic-mirror-filter-id": lambda record: one(record.filter_id),
    "rule-number": lambda record: one(record.rule.number),
    "rule-action": lambda record: one(record.rule.action.value),
    "traffic-direction": lambda record: one(record.rule.direction.value),
    "protocol": lambda record: one(record.rule.protocol),
    "source-cidr-block": lambda record: one(record.rule.source),
    "destination-cidr-block": lambda record: one(record.rule.destination),
    "description": lambda record: one(record.description),
}

OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateTrafficMirrorFilterRule": Operation(CreateTrafficMirrorFilterRule, create, writes=True),
    "DescribeTrafficMirrorFilterRules": Operation(DescribeTrafficMirrorFilterRules, describe),
    "ModifyTrafficMirrorFilterRule": Operation(ModifyTrafficMirrorFilterRule, modify, writes=True),
    "DeleteTrafficMirrorFilterRule": Operation(DeleteTrafficMirrorFilterRule, delete, writes=True),
}

"""Traffic mirror filters: create, describe, modify their network services, delete."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control.operations import selection, tags
from pktmirror.control.operations.filter_rules import described as described_rule
from pktmirror.control.operations.operation import (
    Context,
    CreateRequest,
    DescribeRequest,
    Ids,
    Operation,
    Request,
    Result,
    not_found,
)
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.selection import one
from pktmirror.control.records import FilterRecord, RuleRecord
from pktmirror.control.store import Transaction
from pktmirror.model.filter import Direction, NetworkService
from pktmirror.model.ids import Prefix, new_id


class CreateTrafficMirrorFilter(CreateRequest, frozen=True, kw_only=True):
    pass


class DescribeTrafficMirrorFilters(DescribeRequest, frozen=True, kw_only=True):
    traffic_mirror_filter_ids: Ids = ()


class ModifyTrafficMirrorFilterNetworkServices(Request, frozen=True, kw_only=True):
    traffic_mirror_filter_id: str
    add_network_services: tuple[NetworkService, ...] = ()
    remove_network_services: tuple[NetworkService, ...] = ()


class DeleteTrafficMirrorFilter(Request, frozen=True, kw_only=True):
    traffic_mirror_filter_id: str


def create(request: CreateTrafficMirrorFilter, context: Context) -> Result:
    transaction = context.transaction
    given = tags.of_specifications(request.tag_specifications, tags.FILTER)
    if transaction.filters.count() >= context.quotas.filters_per_account:
        raise ApiError(
            "TrafficMirrorFilterLimitExceeded",
            f"Filters per account limit reached ({context.quotas.filters_per_account})",
        )
    record = FilterRecord(new_id(Prefix.FILTER), description=request.description)
    transaction.filters.put(record)
    tags.put(transaction, record.filter_id, given)
    return {"TrafficMirrorFilter": _described(record, (), given)}


def describe(request: DescribeTrafficMirrorFilters, context: Context) -> Result:
    transaction = context.transaction
    if request.traffic_mirror_filter_ids:
        records = [require(transaction, id_) for id_ in dict.fromkeys(request.traffic_mirror_filter_ids)]
    else:
        records = transaction.filters.where()
    held = transaction.tags.all()
    chosen = selection.select(records, request.filters, _FIELDS, lambda record: held.get(record.filter_id, {}))
    given, next_token = page(chosen, lambda record: record.filter_id, request, context.page_key)
    listed = [
        _described(record, transaction.rules.where(filter_id=record.filter_id), held.get(record.filter_id, {}))
        for record in given
    ]
    return {"TrafficMirrorFilters": listed, "NextToken": next_token}


def modify(request: ModifyTrafficMirrorFilterNetworkServices, context: Context) -> Result:
    """Adding what is there, or removing what is not, succeeds and changes nothing (spec 5.12)."""
    transaction = context.transaction
    record = require(transaction, request.traffic_mirror_filter_id)
    added, removed = frozenset(request.add_network_services), frozenset(request.remove_network_services)
    if added & removed:
        raise errors.invalid_parameter_combination("A network service cannot be added and removed in one call")
    changed = replace(record, services=(record.services | added) - removed)
    if changed != record:
        transaction.filters.put(changed)
        transaction.bump_revision()
    rules = transaction.rules.where(filter_id=record.filter_id)
    return {"TrafficMirrorFilter": _described(changed, rules, transaction.tags.of(record.filter_id))}


def delete(request: DeleteTrafficMirrorFilter, context: Context) -> Result:
    """The rules of a filter go with it (spec 5.9)."""
    transaction = context.transaction
    filter_id = require(transaction, request.traffic_mirror_filter_id).filter_id
    using = transaction.sessions.where(filter_id=filter_id)
    if using:
        raise ApiError("TrafficMirrorFilterInUse", f"The filter {filter_id} is in use by session {using[0].session_id}")
    for rule in transaction.rules.where(filter_id=filter_id):
        transaction.rules.remove(rule.rule_id)
        transaction.tags.remove(rule.rule_id)
    transaction.filters.remove(filter_id)
    transaction.tags.remove(filter_id)
    return {"TrafficMirrorFilterId": filter_id}


def require(transaction: Transaction, filter_id: str) -> FilterRecord:
    record = transaction.filters.get(filter_id)
    if record is None:
        raise not_found("TrafficMirrorFilterId", "traffic mirror filter", filter_id)
    return record


def _described(record: FilterRecord, rules: Sequence[RuleRecord], held: Mapping[str, str]) -> dict[str, Any]:
    def of(direction: Direction) -> list[dict[str, Any]]:
        chosen = [rule for rule in rules if rule.rule.direction is direction]
        return [described_rule(rule) for rule in sorted(chosen, key=lambda rule: rule.rule.number)]

    return {
        "TrafficMirrorFilterId": record.filter_id,
        "Description": record.description,
        "IngressFilterRules": of(Direction.INGRESS),
        "EgressFilterRules": of(Direction.EGRESS),
        "NetworkServices": sorted(service.value for service in record.services),
        "Tags": tags.described(held),
    }


_FIELDS: selection.Fields[FilterRecord] = {
    "description": lambda record: one(record.description),
    "traffic-mirror-filter-id": lambda record: one(record.filter_id),
}

OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateTrafficMirrorFilter": Operation(CreateTrafficMirrorFilter, create, writes=True),
    "DescribeTrafficMirrorFilters": Operation(DescribeTrafficMirrorFilters, describe),
    "ModifyTrafficMirrorFilterNetworkServices": Operation(
        ModifyTrafficMirrorFilterNetworkServices, modify, writes=True
    ),
    "DeleteTrafficMirrorFilter": Operation(DeleteTrafficMirrorFilter, delete, writes=True),
}

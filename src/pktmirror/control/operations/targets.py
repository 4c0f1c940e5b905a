"""Traffic mirror targets: create, describe, delete. A target has nothing to modify but its tags (spec 1.1)."""

import re
from collections.abc import Mapping
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control import sharing
from pktmirror.control.operations import selection, tags
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
from pktmirror.control.records import TargetRecord
from pktmirror.control.sharing import SeenTarget
from pktmirror.control.store import Transaction
from pktmirror.model.ids import Prefix, new_id
from pktmirror.model.target import (
    GATEWAY_LOAD_BALANCER_ENDPOINT,
    NETWORK_INTERFACE,
    NETWORK_LOAD_BALANCER,
    EndpointTarget,
    InterfaceTarget,
    LoadBalancerTarget,
    Target,
)

_LOAD_BALANCER_ARN = re.compile(
    r"arn:[a-z0-9-]+:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:loadbalancer/net/[A-Za-z0-9-]{1,32}/[A-Za-z0-9]+"
)
_ENDPOINT_ID = re.compile(r"vpce-[A-Za-z0-9]{1,32}")
_DESTINATIONS = "NetworkInterfaceId, NetworkLoadBalancerArn or GatewayLoadBalancerEndpointId"


class CreateTrafficMirrorTarget(CreateRequest, frozen=True, kw_only=True):
    network_interface_id: str | None = None
    network_load_balancer_arn: str | None = None
    gateway_load_balancer_endpoint_id: str | None = None


class DescribeTrafficMirrorTargets(DescribeRequest, frozen=True, kw_only=True):
    traffic_mirror_target_ids: Ids = ()


class DeleteTrafficMirrorTarget(Request, frozen=True, kw_only=True):
    traffic_mirror_target_id: str


def create(request: CreateTrafficMirrorTarget, context: Context) -> Result:
    transaction = context.transaction
    target = _target(request, transaction)
    given = tags.of_specifications(request.tag_specifications, tags.TARGET)
    if transaction.targets.count() >= context.quotas.targets_per_account:
        raise ApiError(
            "TrafficMirrorTargetLimitExceeded",
            f"Targets per account limit reached ({context.quotas.targets_per_account})",
        )
    record = TargetRecord(new_id(Prefix.TARGET), target, request.description)
    transaction.targets.put(record)
    tags.put(transaction, record.target_id, given)
    return {"TrafficMirrorTarget": _described(SeenTarget(record), given, context)}


def describe(request: DescribeTrafficMirrorTargets, context: Context) -> Result:
    """The account's own and those that are shared with it, of which it sees no tags."""
    transaction = context.transaction
    if request.traffic_mirror_target_ids:
        seen = [require_seen(transaction, id_) for id_ in dict.fromkeys(request.traffic_mirror_target_ids)]
    else:
        seen = sharing.targets(transaction)
    held = transaction.tags.all()
    fields: selection.Fields[SeenTarget] = {**_FIELDS, "owner-id": lambda each: one(_owner_id(each, context))}
    chosen = selection.select(seen, request.filters, fields, lambda each: held.get(each.record.target_id, {}))
    given, next_token = page(chosen, lambda each: each.record.target_id, request, context.page_key)
    listed = [_described(each, held.get(each.record.target_id, {}), context) for each in given]
    return {"TrafficMirrorTargets": listed, "NextToken": next_token}


def delete(request: DeleteTrafficMirrorTarget, context: Context) -> Result:
    transaction = context.transaction
    target_id = require(transaction, request.traffic_mirror_target_id).target_id
    using = sharing.sessions_to(transaction, target_id)
    if using:
        raise ApiError(
            "TrafficMirrorTargetInUseException",
            f"The target {target_id} is in use by session {using[0].session_id}",
        )
    transaction.remove_target(target_id)
    return {"TrafficMirrorTargetId": target_id}


def require(transaction: Transaction, target_id: str) -> TargetRecord:
    """A target of the account itself: what is to be done with it is its owner's to do."""
    seen = require_seen(transaction, target_id)
    if seen.account_id:
        raise ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. The target {target_id} is shared with you by account "
            f"{seen.account_id}, and only its owner may do this",
        )
    return seen.record


def require_seen(transaction: Transaction, target_id: str) -> SeenTarget:
    """A target that the account may use: its own, or one that is shared with it."""
    seen = sharing.target(transaction, target_id)
    if seen is None:
        raise not_found("TrafficMirrorTargetId", "traffic mirror target", target_id)
    return seen


def _target(request: CreateTrafficMirrorTarget, transaction: Transaction) -> Target:
    given = [
        value
        for value in (
            request.network_interface_id,
            request.network_load_balancer_arn,
            request.gateway_load_balancer_endpoint_id,
        )
        if value is not None
    ]
    if not given:
        raise errors.invalid_parameter_value(f"Exactly one of {_DESTINATIONS} must be given, and none is")
    if len(given) > 1:
        raise errors.invalid_parameter_combination(f"Only one of {_DESTINATIONS} may be given")
    if request.gateway_load_balancer_endpoint_id is not None:
        return _endpoint(request.gateway_load_balancer_endpoint_id)
    if request.network_load_balancer_arn is not None:
        return _load_balancer(request.network_load_balancer_arn)
    return _interface(given[0], transaction)


def _load_balancer(arn: str) -> LoadBalancerTarget:
    if _LOAD_BALANCER_ARN.fullmatch(arn) is None:
        raise ApiError(
            "InvalidNetworkLoadBalancerArn.Malformed",
            f"'{errors.echo(arn)}' is not the ARN of a network load balancer",
        )
    return LoadBalancerTarget(arn)


def _endpoint(endpoint_id: str) -> EndpointTarget:
    if _ENDPOINT_ID.fullmatch(endpoint_id) is None:
        raise ApiError(
            "InvalidVpcEndpointId.Malformed", f"'{errors.echo(endpoint_id)}' is not the id of a VPC endpoint"
        )
    return EndpointTarget(endpoint_id)


def _interface(interface_id: str, transaction: Transaction) -> InterfaceTarget:
    if transaction.interfaces.get(interface_id) is None:
        raise ApiError("InvalidTrafficMirrorTarget", f"The interface ID '{errors.echo(interface_id)}' does not exist")
    mirrored = transaction.sessions.where(interface_id=interface_id)
    if mirrored:
        raise errors.invalid_parameter_value(
            f"The network interface {interface_id} is in use by session {mirrored[0].session_id} as its source. "
            "An interface is either a source or a target"
        )
    return InterfaceTarget(interface_id)


def _owner_id(seen: SeenTarget, context: Context) -> str:
    return seen.account_id or context.account_id


def _described(seen: SeenTarget, held: Mapping[str, str], context: Context) -> dict[str, Any]:
    record = seen.record
    described: dict[str, Any] = {
        "TrafficMirrorTargetId": record.target_id,
        "Description": record.description,
        "OwnerId": _owner_id(seen, context),
        "Tags": tags.described(held),
    }
    match record.target:
        case InterfaceTarget(interface_id):
            return described | {"Type": NETWORK_INTERFACE, "NetworkInterfaceId": interface_id}
        case LoadBalancerTarget(arn):
            return described | {"Type": NETWORK_LOAD_BALANCER, "NetworkLoadBalancerArn": arn}
        case EndpointTarget(endpoint_id):
            return described | {
                "Type": GATEWAY_LOAD_BALANCER_ENDPOINT,
                "GatewayLoadBalancerEndpointId": endpoint_id,
            }


def _interface_id(record: TargetRecord) -> str | None:
    return record.target.interface_id if isinstance(record.target, InterfaceTarget) else None


def _arn(record: TargetRecord) -> str | None:
    return record.target.arn if isinstance(record.target, LoadBalancerTarget) else None


_FIELDS: selection.Fields[SeenTarget] = {
    "description": lambda each: one(each.record.description),
    "network-interface-id": lambda each: one(_interface_id(each.record)),
    "network-load-balancer-arn": lambda each: one(_arn(each.record)),
    "traffic-mirror-target-id": lambda each: one(each.record.target_id),
}

OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateTrafficMirrorTarget": Operation(CreateTrafficMirrorTarget, create, writes=True),
    "DescribeTrafficMirrorTargets": Operation(DescribeTrafficMirrorTargets, describe),
    "DeleteTrafficMirrorTarget": Operation(DeleteTrafficMirrorTarget, delete, writes=True),
}

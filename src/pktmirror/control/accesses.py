"""What a call needs to be allowed: actions on resources, with the condition keys that each carries (spec 1.14).

The tables are AWS's of "Actions, resources, and condition keys" for Amazon EC2 and for AWS RAM. An operation that is in
none of them needs its action on ``*``: whoever was allowed single resources only is then refused, never let in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pktmirror.aws import Call, errors
from pktmirror.control import shares, sharing
from pktmirror.control.declaration import place_of
from pktmirror.control.operations import tags
from pktmirror.control.principals import PARTITION, Principal
from pktmirror.control.store import Transaction
from pktmirror.iam import Access

RequestContext = dict[str, Sequence[str]]

NEEDS_NO_PERMISSION = {("sts", "GetCallerIdentity")}
"""Whoever has a key may ask whose it is, as on AWS."""

_PREFIXES = {"monitoring": "cloudwatch"}
"""The service in an action, where it is not the one in a signature."""

_ENDPOINT = "vpc-endpoint"
_CREATED: Mapping[str, str] = {
    "CreateTrafficMirrorTarget": tags.TARGET,
    "CreateTrafficMirrorFilter": tags.FILTER,
    "CreateTrafficMirrorFilterRule": tags.FILTER_RULE,
    "CreateTrafficMirrorSession": tags.SESSION,
}
_TARGET_ID = ("TrafficMirrorTargetId", tags.TARGET)
_FILTER_ID = ("TrafficMirrorFilterId", tags.FILTER)
_RULE_ID = ("TrafficMirrorFilterRuleId", tags.FILTER_RULE)
_SESSION_ID = ("TrafficMirrorSessionId", tags.SESSION)
_INTERFACE_ID = ("NetworkInterfaceId", tags.INTERFACE)
_NAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "CreateTrafficMirrorTarget": (_INTERFACE_ID, ("GatewayLoadBalancerEndpointId", _ENDPOINT)),
    "CreateTrafficMirrorFilter": (),
    "CreateTrafficMirrorFilterRule": (_FILTER_ID,),
    "CreateTrafficMirrorSession": (_INTERFACE_ID, _FILTER_ID, _TARGET_ID),
    "ModifyTrafficMirrorFilterNetworkServices": (_FILTER_ID,),
    "ModifyTrafficMirrorFilterRule": (_RULE_ID,),
    "ModifyTrafficMirrorSession": (_SESSION_ID, _FILTER_ID, _TARGET_ID),
    "DeleteTrafficMirrorTarget": (_TARGET_ID,),
    "DeleteTrafficMirrorFilter": (_FILTER_ID,),
    "DeleteTrafficMirrorFilterRule": (_RULE_ID,),
    "DeleteTrafficMirrorSession": (_SESSION_ID,),
}
"""The parameters that name resources, and of which type; those that a call leaves out are not asked for."""

_SHARE_ARNS = ("resourceShareArn", "resourceShareInvitationArn", "resourceArn")
_SHARING = {"CreateResourceShare", "AssociateResourceShare", "DisassociateResourceShare"}
_NOT_ATTRIBUTES = {"DryRun", "RemoveFields", *(name for name, _ in (_FILTER_ID, _RULE_ID, _SESSION_ID))}


@dataclass(frozen=True, slots=True)
class Place:
    """What an ARN is made of. ``transaction`` sees the caller's account alone: another's tags decide nothing."""

    transaction: Transaction
    account_id: str
    region: str
    zone: str

    def arn(self, type_: str, id_: str, account_id: str = "") -> str:
        """``account_id`` is whose it is, where that is not the caller."""
        return f"arn:{PARTITION}:ec2:{self.region}:{account_id or self.account_id}:{type_}/{id_}"

    def shared_by(self, type_: str, id_: str) -> str:
        """The number of the account that shares a target with the caller; empty for all else."""
        seen = sharing.target(self.transaction, id_) if type_ == tags.TARGET else None
        return "" if seen is None else seen.account_id


def accesses(call: Call, principal: Principal, place: Place) -> list[Access]:
    """All that must be allowed, each; none for what needs no permission. The caller's own keys are not in them yet."""
    if (call.service, call.operation) in NEEDS_NO_PERMISSION:
        return []
    action = f"{_PREFIXES.get(call.service, call.service)}:{call.operation}"
    if call.service == "iam":
        return [Access(action, _user_arn(call, principal))]
    if call.service == "ram":
        return list(_sharing(action, call, place))
    if call.service == "ec2" and call.operation in ("CreateTags", "DeleteTags"):
        return list(_tagging(action, call, place))
    if call.service == "ec2" and call.operation in _NAMED:
        return list(_on_resources(action, call, place))
    return [Access(action)]


def _on_resources(action: str, call: Call, place: Place) -> Iterator[Access]:
    asked = call.parameters
    attributes = _attributes(call)
    for name, type_ in _NAMED[call.operation]:
        id_ = asked.get(name)
        if isinstance(id_, str):
            by = place.shared_by(type_, id_)
            whose: RequestContext = {"aws:ResourceAccount": [by or place.account_id]}
            yield Access(action, place.arn(type_, id_, by), _of_resource(type_, id_, place) | whose | attributes)
            if type_ == tags.FILTER_RULE:
                rule = place.transaction.rules.get(id_)
                if rule is not None:
                    of_filter = _of_resource(tags.FILTER, rule.filter_id, place)
                    yield Access(action, place.arn(tags.FILTER, rule.filter_id), of_filter | attributes)
    created = _CREATED.get(call.operation)
    if created is not None:
        given = _request_tags(_tags_of_specifications(asked.get("TagSpecifications")))
        account: RequestContext = {"aws:ResourceAccount": [place.account_id]}
        yield Access(action, place.arn(created, "*"), given | account)
        if given:
            yield Access(
                "ec2:CreateTags",
                place.arn(created, "*"),
                given | account | {"ec2:CreateAction": [call.operation]},
            )


def _tagging(action: str, call: Call, place: Place) -> Iterator[Access]:
    given = _request_tags(_dictionaries(call.parameters.get("Tags")))
    ids = _texts(call.parameters.get("Resources"))
    tags.refuse_too_many(ids)  # before each is decided about
    held = place.transaction.tags.of_each(ids)  # at once: others may wait for the turn in which it is asked
    for id_ in ids:
        type_ = tags.resource_type(id_) or "unknown"
        keys = given
        if call.operation == "DeleteTags" and not given:
            # All tags go: the keys are those that the resource has.
            keys = {"aws:TagKeys": tuple(held.get(id_, {}))}
        yield Access(action, place.arn(type_, id_), _of_resource(type_, id_, place, held.get(id_, {})) | keys)


def _of_resource(type_: str, id_: str, place: Place, held: Mapping[str, str] | None = None) -> RequestContext:
    """What is known of a resource that is there, and the caller's; else whose it would be. ``held`` are its tags."""
    context: RequestContext = {"aws:ResourceAccount": [place.account_id]}
    for key, value in (place.transaction.tags.of(id_) if held is None else held).items():
        context[f"aws:ResourceTag/{key}"] = context[f"ec2:ResourceTag/{key}"] = [value]
    if type_ != tags.INTERFACE:
        return context
    context["ec2:NetworkInterfaceID"] = [id_]
    record = place.transaction.interfaces.get(id_)
    if record is not None:
        vpc_id, subnet_id = place_of(record, place.transaction.networks)
        context["ec2:AvailabilityZone"] = [place.zone]
        if vpc_id is not None and subnet_id is not None:
            subnets = (subnet for vpc in place.transaction.networks.vpcs for subnet in vpc.subnets)
            zones = {subnet.subnet_id: subnet.zone for subnet in subnets}
            context["ec2:AvailabilityZone"] = [zones[subnet_id] or place.zone]
            context["ec2:Vpc"] = [place.arn("vpc", vpc_id)]
            context["ec2:Subnet"] = [place.arn("subnet", subnet_id)]
    return context


def _sharing(action: str, call: Call, place: Place) -> Iterator[Access]:
    """Of what is shared with whom, each with each; lists of what the caller sees need their action on ``*``."""
    asked = call.parameters
    arn = next((asked[name] for name in _SHARE_ARNS if isinstance(asked.get(name), str)), "*")
    given = _request_tags(
        [{"Key": tag.get("key", ""), "Value": tag.get("value")} for tag in _dictionaries(asked.get("tags"))]
    )
    context = {**_of_share(str(arn), place), **given}
    if call.operation == "UntagResource":
        context["aws:TagKeys"] = tuple(_texts(asked.get("tagKeys")))
    if isinstance(asked.get("allowExternalPrincipals"), bool):
        context["ram:RequestedAllowsExternalPrincipals"] = [str(asked["allowExternalPrincipals"]).lower()]
    is_sharing = call.operation in _SHARING
    resources: list[str] = _texts(asked.get("resourceArns")) if is_sharing else []
    principals: list[str] = _texts(asked.get("principals")) if is_sharing else []
    if max(1, len(resources)) * max(1, len(principals)) > tags.RESOURCES_MAX:
        raise errors.invalid_parameter_value(
            f"A call takes at most {tags.RESOURCES_MAX} pairs of a resource and an account: share fewer in each"
        )
    for resource, principal in product(resources or [""], principals or [""]):
        own = {"ram:ResourceArn": [resource], "ram:RequestedResourceType": [shares.TARGET_TYPE]} if resource else {}
        yield Access(action, str(arn), context | own | ({"ram:Principal": [principal]} if principal else {}))
    if given and call.operation == "CreateResourceShare":
        yield Access("ram:TagResource", shares.Arns(place.region).share(place.account_id, "*"), dict(given))


def _of_share(arn: str, place: Place) -> RequestContext:
    """What is known of a share that is the caller's."""
    record = place.transaction.shares.get(arn.rpartition("/")[2])
    if record is None or shares.Arns(place.region).share(place.account_id, record.share_id) != arn:
        return {}
    context: RequestContext = {
        "aws:ResourceAccount": [place.account_id],
        "ram:ResourceShareName": [record.name],
        "ram:AllowsExternalPrincipals": ["true" if record.allows_external else "false"],
    }
    for key, value in place.transaction.tags.of(record.share_id).items():
        context[f"aws:ResourceTag/{key}"] = [value]
    return context


def _attributes(call: Call) -> RequestContext:
    """What a Modify call sets or removes, and to what it sets it."""
    if not call.operation.startswith("Modify"):
        return {}
    asked = {name: value for name, value in call.parameters.items() if name not in _NOT_ATTRIBUTES}
    removed = [name.title().replace("-", "") for name in _texts(call.parameters.get("RemoveFields"))]
    if call.operation == "ModifyTrafficMirrorSession" and "TrafficMirrorFilterId" in call.parameters:
        asked["TrafficMirrorFilterId"] = call.parameters["TrafficMirrorFilterId"]
    context: RequestContext = {
        f"ec2:Attribute/{name}": [str(value)] for name, value in asked.items() if _is_scalar(value)
    }
    return context | {"ec2:Attribute": sorted({*asked, *removed})}


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int)


def _request_tags(given: Sequence[Mapping[str, Any]]) -> RequestContext:
    """Empty where no tag is given."""
    by_key = {str(tag["Key"]): tag.get("Value") for tag in given if "Key" in tag}
    if not by_key:
        return {}
    if len(by_key) > tags.KEYS_MAX:
        raise errors.invalid_parameter_value(f"A call takes at most {tags.KEYS_MAX} tag keys")
    context: RequestContext = {f"aws:RequestTag/{key}": [str(value or "")] for key, value in by_key.items()}
    return context | {"aws:TagKeys": tuple(by_key)}


def _tags_of_specifications(found: object) -> list[Mapping[str, Any]]:
    return [tag for specification in _dictionaries(found) for tag in _dictionaries(specification.get("Tags"))]


def _dictionaries(found: object) -> list[dict[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _texts(found: object) -> list[str]:
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _user_arn(call: Call, principal: Principal) -> str:
    """The user that a call of IAM is about: the caller, where it names none; ``*`` for the root and for lists."""
    name = call.parameters.get("UserName") or (principal.user_name if call.operation != "ListUsers" else "")
    return f"arn:{PARTITION}:iam::{principal.account_id}:user/{name}" if name else "*"

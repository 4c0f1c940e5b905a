"""What every operation is made of: a request parsed once, a context, a function from both to a result.

A request is a Struct whose fields are botocore's member names; what the service model does not check (enumerations,
ranges) its types do. A result is a dict in botocore's output shape.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from pktmirror.aws import ApiError, Call, errors
from pktmirror.control.instances import Minutes
from pktmirror.control.principals import Principal
from pktmirror.control.store import Transaction
from pktmirror.model.filter import Action, Direction, NetworkService
from pktmirror.model.limits import Quotas
from pktmirror.networks import Networks, Vpc

Result = dict[str, Any]
Description = Annotated[str, msgspec.Meta(max_length=255)]
Ids = tuple[str, ...]


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", forbid_unknown_fields=True):
    """What all requests share."""

    dry_run: bool = False


class Tag(msgspec.Struct, frozen=True, rename="pascal"):
    key: str = ""
    value: str | None = None


class TagSpecification(msgspec.Struct, frozen=True, rename="pascal"):
    resource_type: str | None = None
    tags: tuple[Tag, ...] = ()


class CreateRequest(Request, frozen=True, kw_only=True):
    """A call that makes something: the client token makes it safe to repeat."""

    description: Description | None = None
    tag_specifications: tuple[TagSpecification, ...] = ()
    client_token: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class FilterOfDescribe(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""
    values: tuple[str, ...] = ()


class DescribeRequest(Request, frozen=True, kw_only=True):
    """A call that lists."""

    filters: tuple[FilterOfDescribe, ...] = ()
    max_results: Annotated[int, msgspec.Meta(ge=5, le=1000)] | None = None
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What an operation may use: an open transaction and what the operator decided. ``now_s`` is Unix time.

    ``transaction`` sees what the caller's account has. ``seal`` encrypts a secret, bound to a name.

    ``mirrored`` is what each instance has mirrored, by the minute; for CloudWatch's operations only.

    ``problems`` is how each session fares, by its id; None where the call does not ask for it.
    """

    transaction: Transaction
    account_id: str
    region: str
    quotas: Quotas
    page_key: bytes
    now_s: float
    principal: Principal
    seal: Callable[[str, str], bytes]
    mirrored: Minutes = field(default_factory=dict)
    problems: Mapping[str, str | None] | None = None

    @property
    def networks(self) -> Networks:
        """What the operator declares."""
        return self.transaction.networks

    @property
    def vpcs(self) -> tuple[Vpc, ...]:
        """Those of the caller's account, and those in which it has interfaces."""
        assigned = {each.subject: each.account_id for each in self.transaction.assignments.where()}
        networks, records = (
            self.networks,
            self.transaction.interfaces.where() if assigned or self.principal.owner else (),
        )
        places = [networks.place(record.primary_address) for record in records if record.primary_address]
        entered = {place[0].vpc_id for place in places if place is not None}
        return tuple(
            vpc
            for vpc in networks.vpcs
            if assigned.get(vpc.vpc_id, "") == self.principal.owner or vpc.vpc_id in entered
        )

    @property
    def zone(self) -> str:
        return f"{self.region}a"


Q = TypeVar("Q", bound=Request)


@dataclass(frozen=True, slots=True)
class Operation(Generic[Q]):
    """``writes`` says whether the transaction must be a writer's."""

    request: type[Q]
    perform: Callable[[Q, Context], Result]
    writes: bool = False


_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_ENUMERATIONS = {
    "RuleAction": Action,
    "TrafficDirection": Direction,
    "AddNetworkServices": NetworkService,
    "RemoveNetworkServices": NetworkService,
}


def parsed(request: type[Q], call: Call) -> Q:
    """The request in a call, or an `ApiError` that names the parameter."""
    try:
        return msgspec.convert(call.parameters, request)
    except msgspec.ValidationError as error:
        place = _PLACE.fullmatch(str(error))
        what, path = (place["what"], place["path"] or "") if place else (str(error), "")
    unknown = _UNKNOWN_FIELD.fullmatch(what)
    if unknown:
        raise errors.unsupported_operation(
            f"The parameter {unknown[1]} of {call.operation} is not offered by pktmirror."
        )
    name = path.partition("[")[0].partition(".")[0]
    enumeration = _ENUMERATIONS.get(name)
    if enumeration is not None:
        what = "Expected " + " or ".join(member.value for member in enumeration)
    if name == "MaxResults":
        raise errors.invalid_max_results(str(call.parameters.get(name, "")), what.replace("`", ""))
    raise errors.invalid_value(path, str(call.parameters.get(name, "")), what.replace("`", ""))


def not_found(kind: str, resource: str, id_: str) -> ApiError:
    """``kind`` stands in the code, as in InvalidTrafficMirrorTargetId.NotFound (spec 2.3)."""
    return ApiError(f"Invalid{kind}.NotFound", f"The {resource} ID '{errors.echo(id_)}' does not exist")

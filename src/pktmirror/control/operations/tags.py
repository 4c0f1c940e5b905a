"""Tags: CreateTags, DeleteTags, DescribeTags, and the tags given with a create call (spec 2.2, facts 41 to 43)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control import caps, sharing, status
from pktmirror.control.operations import selection
from pktmirror.control.operations.operation import (
    Context,
    DescribeRequest,
    Operation,
    Request,
    Result,
    Tag,
    TagSpecification,
    not_found,
)
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.selection import one
from pktmirror.control.store import Transaction
from pktmirror.model.rate import Rate

TARGET, FILTER = "traffic-mirror-target", "traffic-mirror-filter"
FILTER_RULE, SESSION = "traffic-mirror-filter-rule", "traffic-mirror-session"
INTERFACE = "network-interface"

TAGS_PER_RESOURCE_MAX = 50
KEY_CHARACTERS_MAX, VALUE_CHARACTERS_MAX = 127, 256
RESOURCES_MAX = 1000
KEYS_MAX = 1000
"""Of one call: more than a resource can have, as DeleteTags may name those that it has not."""

_TYPES = {"tmt": TARGET, "tmf": FILTER, "tmfr": FILTER_RULE, "tms": SESSION, "eni": INTERFACE}
_KINDS = {
    TARGET: "TrafficMirrorTargetId",
    FILTER: "TrafficMirrorFilterId",
    FILTER_RULE: "TrafficMirrorFilterRuleId",
    SESSION: "TrafficMirrorSessionId",
    INTERFACE: "NetworkInterfaceID",
}


class CreateTags(Request, frozen=True, kw_only=True):
    resources: tuple[str, ...]
    tags: tuple[Tag, ...]


class DeleteTags(Request, frozen=True, kw_only=True):
    resources: tuple[str, ...]
    tags: tuple[Tag, ...] = ()


class DescribeTags(DescribeRequest, frozen=True, kw_only=True):
    pass


def create(request: CreateTags, context: Context) -> Result:
    _require_resources(request.resources, context.transaction)
    if not request.tags:
        raise errors.missing_parameter("Tag")
    given = checked(request.tags)
    if any(resource_type(resource_id) == SESSION for resource_id in request.resources):
        _refuse_bad_cap(given)
    before = _caps(context.transaction, request.resources)
    for resource_id in request.resources:
        put(context.transaction, resource_id, given)
    if _caps(context.transaction, request.resources) != before:
        context.transaction.bump_revision()
    return {}


def delete(request: DeleteTags, context: Context) -> Result:
    """A tag without a value goes whatever its value is; with one, even an empty one, only if that is its value."""
    tags = context.transaction.tags
    _require_resources(request.resources, context.transaction)
    for tag in request.tags:
        _refuse_reserved(tag.key)
    before = _caps(context.transaction, request.resources)
    for resource_id in request.resources:
        held = tags.of(resource_id)
        gone = [
            tag.key for tag in request.tags if tag.key in held and (tag.value is None or tag.value == held[tag.key])
        ]
        for key in gone if request.tags else held:
            tags.remove(resource_id, key)
    if _caps(context.transaction, request.resources) != before:
        context.transaction.bump_revision()
    return {}


@dataclass(frozen=True, slots=True)
class _Held:
    resource_id: str
    key: str
    value: str

    @property
    def position(self) -> str:
        return f"{self.resource_id}\x00{self.key}"


_FIELDS: selection.Fields[_Held] = {
    "key": lambda tag: one(tag.key),
    "resource-id": lambda tag: one(tag.resource_id),
    "resource-type": lambda tag: one(resource_type(tag.resource_id)),
    "value": lambda tag: one(tag.value),
}


def describe(request: DescribeTags, context: Context) -> Result:
    held = [
        _Held(resource_id, key, value)
        for resource_id, tags in context.transaction.tags.all().items()
        if resource_type(resource_id) is not None  # else it is RAM's
        for key, value in tags.items()
    ]
    # tag:<key> looks at the tag itself here; tag-key is no filter of this call.
    fields: dict[str, selection.Field[_Held]] = dict(_FIELDS)
    for filter_ in request.filters:
        if filter_.name.startswith("tag:"):
            fields[filter_.name] = _value_of(filter_.name.removeprefix("tag:"))
    chosen = selection.select(held, request.filters, fields)
    given, next_token = page(chosen, lambda tag: tag.position, request, context.page_key)
    described = [
        {
            "ResourceId": tag.resource_id,
            "ResourceType": resource_type(tag.resource_id),
            "Key": tag.key,
            "Value": tag.value,
        }
        for tag in given
    ]
    return {"Tags": described, "NextToken": next_token}


def _value_of(key: str) -> selection.Field[_Held]:
    return lambda tag: one(tag.value if tag.key == key else None)


def resource_type(resource_id: str) -> str | None:
    return _TYPES.get(resource_id.partition("-")[0])


def described(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in botocore's output shape."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def of_specifications(specifications: Iterable[TagSpecification], type_: str) -> dict[str, str]:
    """The tags for a resource that is being made; they must be meant for its type (fact 41)."""
    tags: list[Tag] = []
    for specification in specifications:
        if specification.resource_type != type_:
            raise errors.invalid_parameter_value(
                f"'{errors.echo(specification.resource_type or '')}' is not a valid taggable resource type for this "
                f"operation. Expected {type_}"
            )
        tags.extend(specification.tags)
    given = checked(tags)
    if type_ == SESSION:
        _refuse_bad_cap(given)
    return given


def _refuse_reserved(key: str) -> None:
    """What is no key, and what is not for users to put or to take away."""
    if not key:
        raise ApiError("InvalidTagKey.Malformed", "A tag key cannot be empty or missing")
    lowered = key.lower()
    if lowered.startswith("aws:") or lowered == status.TAG:
        begin = "aws:" if lowered.startswith("aws:") else status.TAG
        raise errors.invalid_parameter_value(
            f"Value ({errors.echo(key)}) for parameter key is invalid. Tag keys starting with '{begin}' are "
            "reserved for internal use"
        )


def checked(tags: Sequence[Tag]) -> dict[str, str]:
    given: dict[str, str] = {}
    for tag in tags:
        _refuse_reserved(tag.key)
        if len(tag.key) > KEY_CHARACTERS_MAX:
            raise errors.invalid_parameter_value(f"Tag key exceeds the maximum length of {KEY_CHARACTERS_MAX}")
        value = tag.value or ""
        if len(value) > VALUE_CHARACTERS_MAX:
            raise errors.invalid_parameter_value(f"Tag value exceeds the maximum length of {VALUE_CHARACTERS_MAX}")
        if tag.key in given:
            raise errors.invalid_parameter_value(f"Duplicate tag key '{errors.echo(tag.key)}' specified")
        given[tag.key] = value
    return given


def put(transaction: Transaction, resource_id: str, given: Mapping[str, str]) -> None:
    """Add checked tags to a resource; what has the same key is overwritten. Raises TagLimitExceeded."""
    if not given:
        return
    if len(transaction.tags.of(resource_id).keys() | given.keys()) > TAGS_PER_RESOURCE_MAX:
        raise ApiError("TagLimitExceeded", f"A resource has at most {TAGS_PER_RESOURCE_MAX} tags: {resource_id}")
    for key, value in given.items():
        transaction.tags.put(resource_id, key, value)


def _refuse_bad_cap(given: Mapping[str, str]) -> None:
    problem = caps.problem(given)
    if problem is not None:
        raise errors.invalid_parameter_value(problem)


def _caps(transaction: Transaction, resource_ids: Sequence[str]) -> list[Rate]:
    """Of the sessions among the resources: a tag may say what a host is to make true."""
    return [caps.cap_of(transaction.tags.of(id_)) for id_ in resource_ids if resource_type(id_) == SESSION]


def refuse_too_many(resource_ids: Sequence[str]) -> None:
    if len(resource_ids) > RESOURCES_MAX:
        raise errors.invalid_parameter_value(f"A call takes at most {RESOURCES_MAX} resources")


def _require_resources(resource_ids: Sequence[str], transaction: Transaction) -> None:
    if not resource_ids:
        raise errors.missing_parameter("ResourceId")
    refuse_too_many(resource_ids)
    known: Mapping[str, Callable[[str], object]] = {
        TARGET: transaction.targets.get,
        FILTER: transaction.filters.get,
        FILTER_RULE: transaction.rules.get,
        SESSION: transaction.sessions.get,
        INTERFACE: transaction.interfaces.get,
    }
    for resource_id in resource_ids:
        type_ = resource_type(resource_id)
        if type_ is None:
            raise ApiError(
                "InvalidID",
                f"The ID '{errors.echo(resource_id)}' is not valid. Tags are kept on traffic mirror targets, filters, "
                "filter rules and sessions, and on network interfaces",
            )
        if known[type_](resource_id) is None:
            _refuse_what_is_shared(type_, resource_id, transaction)
            raise not_found(_KINDS[type_], type_, resource_id)


def _refuse_what_is_shared(type_: str, resource_id: str, transaction: Transaction) -> None:
    """What another account has and this one sees: that it is there is no secret, but it is not to be tagged by it."""
    is_seen = (type_ == TARGET and sharing.target(transaction, resource_id) is not None) or (
        type_ == SESSION
        and any(session.session_id == resource_id for session, _ in sharing.sessions_of_others(transaction))
    )
    if is_seen:
        raise ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {resource_id} is of another account, and only its "
            "owner may tag it",
        )


OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateTags": Operation(CreateTags, create, writes=True),
    "DeleteTags": Operation(DeleteTags, delete, writes=True),
    "DescribeTags": Operation(DescribeTags, describe),
}

"""The client's side, all of it botocore's own: its models, its serializers, and values that fit a modelled shape."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.awsrequest import AWSRequest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from hypothesis import strategies as st

from pktmirror.aws import service

TRAFFIC_MIRROR = (
    "CreateTrafficMirrorFilter",
    "CreateTrafficMirrorFilterRule",
    "CreateTrafficMirrorSession",
    "CreateTrafficMirrorTarget",
    "DeleteTrafficMirrorFilter",
    "DeleteTrafficMirrorFilterRule",
    "DeleteTrafficMirrorSession",
    "DeleteTrafficMirrorTarget",
    "DescribeTrafficMirrorFilterRules",
    "DescribeTrafficMirrorFilters",
    "DescribeTrafficMirrorSessions",
    "DescribeTrafficMirrorTargets",
    "ModifyTrafficMirrorFilterNetworkServices",
    "ModifyTrafficMirrorFilterRule",
    "ModifyTrafficMirrorSession",
)
INVENTORY = (
    "CreateTags",
    "DeleteTags",
    "DescribeAvailabilityZones",
    "DescribeInstances",
    "DescribeNetworkInterfaces",
    "DescribeRegions",
    "DescribeSubnets",
    "DescribeTags",
    "DescribeVpcs",
)
RIGHTS = tuple((name, operation) for name in ("iam", "sts") for operation in sorted(service.operation_names(name)))
FORM = "application/x-www-form-urlencoded; charset=utf-8"

# XML 1.0, section 2.2; the carriage return and the line feed are the ones that a careless writer would change.
_CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
TEXT = st.text(_CHARACTERS | st.sampled_from("\t\n\r&<>\"'%+=.; "), max_size=12)


@cache
def model(name: str) -> Any:
    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


def body(service_name: str, operation: str, parameters: dict[str, Any]) -> bytes:
    """What botocore puts on the wire for a call."""
    spoken = model(service_name)
    serializer = create_serializer(spoken.metadata["protocol"], include_validation=False)
    request = serializer.serialize_to_request(parameters, spoken.operation_model(operation))
    prepared: str = AWSRequest("POST", "http://localhost/", data=request["body"]).prepare().body
    return prepared.encode()


def scalars(*, time_resolution_us: int) -> dict[str, st.SearchStrategy[Any]]:
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))
    return {
        "string": TEXT,
        "boolean": st.booleans(),
        "integer": st.integers(-(1 << 31), (1 << 31) - 1),
        "long": st.integers(-(1 << 63), (1 << 63) - 1),
        "float": numbers,
        "double": numbers,
        "blob": st.binary(max_size=12),
        "timestamp": times.map(
            lambda time: time.replace(microsecond=time.microsecond // time_resolution_us * time_resolution_us)
        ),
    }


# Wide structures (DescribeInstances answers with hundreds of members) would drown an example; a few members of each
# are drawn, and over the examples all of them have their turn.
_MEMBERS_MAX = 6


@st.composite
def fitting(
    draw: st.DrawFn, shape: Any, scalar: dict[str, st.SearchStrategy[Any]], *, empty_lists: bool, empty_structures: bool
) -> Any:
    """A value of a modelled shape; the flags say what may be empty in it."""
    may_be_empty = {"empty_lists": empty_lists, "empty_structures": empty_structures}
    match shape.type_name:
        case "structure":
            names = list(shape.members)
            least = 0 if empty_structures or shape.required_members or not names else 1
            chosen = (
                draw(st.lists(st.sampled_from(names), min_size=least, max_size=_MEMBERS_MAX, unique=True))
                if names
                else []
            )
            wanted = dict.fromkeys([*shape.required_members, *chosen])
            return {name: draw(fitting(shape.members[name], scalar, **may_be_empty)) for name in wanted}
        case "list":
            size = draw(st.integers(0 if empty_lists else 1, 3))
            return [draw(fitting(shape.member, scalar, **may_be_empty)) for _ in range(size)]
        case name:
            return draw(scalar[name])

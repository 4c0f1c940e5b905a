"""The AWS JSON 1.0 protocol, which clients speak to CloudWatch: a JSON body becomes a call, a result or an error JSON.

Pure. The operation stands in the header X-Amz-Target. Names are the model's own; a time is a number of seconds since
1970. What a service model says of a request is checked here, as in query.py, with the same refusals.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from pktmirror.aws import service as models
from pktmirror.aws.errors import (
    ApiError,
    invalid_action,
    invalid_value,
    missing_parameter,
    unknown_parameter,
)
from pktmirror.aws.query import Call
from pktmirror.aws.service import List, Scalar, Shape, Structure

CONTENT_TYPE = "application/x-amz-json-1.0"
TARGET_HEADER = "x-amz-target"
ERROR_HEADER = "x-amzn-query-error"
"""Code and fault, for clients of a service that spoke the query protocol before (the trait awsQueryCompatible)."""

_LATEST_S = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def is_spoken_to(service: str) -> bool:
    """``service`` is a key of `SERVICES`."""
    return models.protocol(service) == "json"


def parse(service: str, target: str, body: bytes) -> Call:
    """The call in a JSON body. ``service`` is a key of `SERVICES`, ``target`` the value of TARGET_HEADER.

    Raises ApiError: UnsupportedOperation (another protocol), InvalidAction, SerializationException (no JSON object),
    UnknownParameter, MissingParameter, InvalidParameterValue.
    """
    if not target:
        raise ApiError(
            "UnsupportedOperation", f"{service} is spoken to in JSON 1.0 here, as current versions of botocore do it"
        )
    prefix, _, action = target.partition(".")
    if prefix != models.target_prefix(service) or action not in models.operation_names(service):
        raise invalid_action(target)
    try:
        asked = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ApiError("SerializationException", "The request body is not a JSON object")
    return Call(service, action, structure(models.operation(service, action).input, asked))


def success(result: Mapping[str, object]) -> bytes:
    """The body of a 200."""
    return msgspec.json.encode(_written(result))


def failure(error: ApiError) -> tuple[bytes, dict[str, str]]:
    """The body of an error, and its headers; its HTTP status is ``error.status``."""
    fault = "Sender" if error.status < 500 else "Receiver"
    body = msgspec.json.encode({"__type": error.code, "message": error.message})
    return body, {ERROR_HEADER: f"{error.code};{fault}"}


def structure(shape: Structure, asked: Mapping[str, object], path: str = "") -> dict[str, object]:
    """What is asked, by an input shape. ``path`` is the name so far, with its dot: empty, or ``Tags.1.``."""
    parsed: dict[str, object] = {}
    for name, value in asked.items():
        member = shape.members.get(name)
        if member is None:
            raise unknown_parameter(path + name)
        if value is not None:  # as if it were absent
            parsed[name] = _value(member.shape, value, path + name)
    for member in shape.required:
        if member.name not in parsed:
            raise missing_parameter(path + member.name)
    return parsed


def _value(shape: Shape, value: object, name: str) -> object:
    match shape, value:
        case Structure(), dict():
            return structure(shape, value, f"{name}.")
        case List(item=item), list():
            return [_value(item, each, f"{name}.{number}") for number, each in enumerate(value, 1)]
        case (Scalar("string"), str()) | (Scalar("boolean"), bool()):
            return value
        case Scalar("integer" | "long"), int() if not isinstance(value, bool):
            return value
        case Scalar("timestamp"), int() | float() if not isinstance(value, bool) and 0 <= value <= _LATEST_S:
            return datetime.fromtimestamp(value, UTC)
        case Scalar("float" | "double"), int() | float() if not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    expected = shape.type_name if isinstance(shape, Scalar) else type(shape).__name__.lower()
    raise invalid_value(name, str(value), f"Expected a {expected}")


def _written(value: object) -> object:
    match value:
        case datetime():
            return value.timestamp()
        case Mapping():
            return {name: _written(each) for name, each in value.items() if each is not None}
        case list() | tuple():
            return [_written(each) for each in value]
        case _:
            return value

"""The REST JSON protocol, which clients speak to RAM: method and path name the operation, the query or a JSON body what
is asked; a result or an error becomes JSON.

Pure. Names are the model's own; a time is a number of seconds since 1970. What a service model says of a request is
checked by the same rules as in json.py. Refusals bear RAM's codes.
"""

from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from pktmirror.aws import json
from pktmirror.aws import service as models
from pktmirror.aws.errors import (
    ApiError,
    echo,
    invalid_action,
    invalid_parameter_value,
    missing_parameter,
    unknown_parameter,
)
from pktmirror.aws.query import Call
from pktmirror.aws.service import SERVICES, Structure
from pktmirror.aws.xmltext import UNWRITABLE

CONTENT_TYPE = "application/json"
ERROR_HEADER = "x-amzn-ErrorType"
ROOT = "/"
"""Where all other protocols are spoken."""

PROTOCOL = "rest-json"

_CODES: Mapping[str, str] = {
    "AccessDenied": "AccessDeniedException",
    "IdempotentParameterMismatch": "IdempotentParameterMismatchException",
    "InternalError": "ServerInternalException",
    "InvalidPaginationToken": "InvalidNextTokenException",
    "InvalidParameterCombination": "InvalidParameterException",
    "InvalidParameterValue": "InvalidParameterException",
    "MissingParameter": "MissingRequiredParameterException",
    "RequestLimitExceeded": "ThrottlingException",
    "TagLimitExceeded": "TagLimitExceededException",
    "Unavailable": "ServiceUnavailableException",
    "UnknownParameter": "InvalidParameterException",
    "UnsupportedOperation": "OperationNotPermittedException",
}
"""How RAM calls what the other services call otherwise; statuses stay, as its model has the same ones but of this:"""
_STATUS: Mapping[str, int] = {"ThrottlingException": 429}


def is_spoken_to(service: str) -> bool:
    """``service`` is a key of `SERVICES`."""
    return models.protocol(service) == PROTOCOL


def paths() -> Mapping[str, frozenset[str]]:
    """Where something can be asked, and by which methods: of all that the models know, offered or not."""
    found: dict[str, set[str]] = {}
    for service in filter(is_spoken_to, SERVICES):
        for method, path in models.places(service):
            found.setdefault(path, set()).add(method)
    return {path: frozenset(methods) for path, methods in found.items()}


def service_at(path: str) -> str | None:
    """Whose path it is; None: that of none of these services."""
    return next(
        (each for each in filter(is_spoken_to, SERVICES) if path in {at for _, at in models.places(each)}), None
    )


def operation_at(method: str, path: str) -> str | None:
    """The operation that a request names, whatever service it is signed for; None where there is none."""
    for service in filter(is_spoken_to, SERVICES):
        name = models.places(service).get((method, path))
        if name is not None:
            return name
    return None


def parse(service: str, method: str, path: str, query: str, body: bytes) -> Call:
    """The call in a request. ``service`` is a key of `SERVICES`; ``path`` and ``query`` are still percent-encoded.

    Raises ApiError: InvalidAction, SerializationException (the body is no JSON object), UnknownParameter,
    MissingParameter, InvalidParameterValue.
    """
    name = models.places(service).get((method, path))
    if name is None or name not in models.operation_names(service):
        raise invalid_action(name or path)
    shape = models.operation(service, name).input
    asked = _body(body)
    for member_name in asked:
        if member_name in shape.members and shape.members[member_name].in_query:
            raise unknown_parameter(member_name)
    given = _query(query, shape)
    parsed = json.structure(shape, {**asked, **given})
    _refuse_unwritable(parsed, name)
    return Call(service, name, parsed)


def success(result: Mapping[str, object]) -> bytes:
    """The body of a 200."""
    return json.success(result)


def refusal(error: ApiError) -> ApiError:
    """An error in RAM's words."""
    code = _CODES.get(error.code)
    return error if code is None else ApiError(code, error.message, _STATUS.get(code, error.status))


def failure(error: ApiError) -> tuple[bytes, dict[str, str]]:
    """The body of an error, and its headers; its HTTP status is ``error.status``."""
    return msgspec.json.encode({"message": error.message}), {ERROR_HEADER: error.code}


def _body(body: bytes) -> dict[str, object]:
    try:
        asked = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ApiError("SerializationException", "The request body is not a JSON object")
    return asked


def _query(query: str, shape: Structure) -> dict[str, object]:
    """All that stands in queries here is text."""
    given: dict[str, object] = {}
    for pair in filter(None, query.split("&")):
        name, value = (_unquoted(part) for part in pair.partition("=")[::2])
        member = shape.members.get(name)
        if member is None or not member.in_query:
            raise unknown_parameter(name)
        if name in given:
            raise invalid_parameter_value(f"The parameter {echo(name)} is given more than once")
        given[name] = value
    for member in shape.required:
        if member.in_query and member.wire_name not in given:
            raise missing_parameter(member.name)
    return given


def _unquoted(text: str) -> str:
    try:
        return unquote(text.replace("+", " "), errors="strict")
    except UnicodeDecodeError:
        raise invalid_parameter_value("The query is not valid UTF-8") from None


def _refuse_unwritable(value: object, name: str) -> None:
    """What is stored is also told by services that speak XML, and no store keeps a NUL."""
    match value:
        case str() if UNWRITABLE.search(value):
            raise invalid_parameter_value(f"The value of {echo(name)} has characters that XML cannot carry")
        case dict():
            for member, each in value.items():
                _refuse_unwritable(each, member)
        case list():
            for each in value:
                _refuse_unwritable(each, name)

"""Answers as XML: a result by its output shape, or an error, in the ec2 and the query protocol.

Pure. Absent members are left out and an empty list is an empty element, as EC2 does it (spec 2.1). A result
that does not fit its shape is our own bug and raises ValueError; what XML cannot carry becomes U+FFFD.
"""

import base64
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pktmirror.aws import service as models
from pktmirror.aws.errors import ApiError
from pktmirror.aws.query import Call
from pktmirror.aws.service import List, Operation, Scalar, Shape, Structure
from pktmirror.aws.xmltext import escape

CONTENT_TYPE = "text/xml;charset=UTF-8"

_Where = tuple[str, ...]
"""The way to a value, in parts: it is text only where something does not fit."""

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def success(call: Call | tuple[str, str], result: Mapping[str, object], request_id: str) -> bytes:
    """The body of a 200. ``call`` is the call or its service and operation.

    ``result`` has the model's member names; a member that is None is left out. An operation without an output
    shape (CreateTags) takes an empty result and answers ``<return>true</return>`` in EC2.
    """
    service, name = (call.service, call.operation) if isinstance(call, Call) else call
    return write(models.operation(service, name), result, request_id)


def write(operation: Operation, result: Mapping[str, object], request_id: str) -> bytes:
    """`success` for an operation at hand."""
    name = operation.name
    parts = [_DECLARATION, f'<{name}Response xmlns="{operation.xml_namespace}">']
    if operation.protocol == "ec2":
        parts.append(f"<requestId>{escape(request_id)}</requestId>")
        _write_result(parts, operation, result)
        if operation.output is None:
            parts.append("<return>true</return>")
    else:
        if operation.output is not None:
            parts.append(f"<{name}Result>")
        _write_result(parts, operation, result)
        if operation.output is not None:
            parts.append(f"</{name}Result>")
        parts.append(f"<ResponseMetadata><RequestId>{escape(request_id)}</RequestId></ResponseMetadata>")
    parts.append(f"</{name}Response>")
    return "".join(parts).encode()


def failure(service: str, error: ApiError, request_id: str) -> bytes:
    """The body of an error; its HTTP status is ``error.status``. ``service`` is a key of `SERVICES`."""
    code, message, request = escape(error.code), escape(error.message), escape(request_id)
    if models.protocol(service) == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request}</RequestID></Response>"
        )
    else:
        fault = "Sender" if error.status < 500 else "Receiver"
        text = (
            f'<ErrorResponse xmlns="{models.xml_namespace(service)}">'
            f"<Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request}</RequestId></ErrorResponse>"
        )
    return (_DECLARATION + text).encode()


def _write_result(parts: list[str], operation: Operation, result: Mapping[str, object]) -> None:
    _write_members(parts, operation.output or Structure("NoOutput", {}, ()), result, (operation.name,))


def _write_members(parts: list[str], shape: Structure, value: Mapping[str, object], where: _Where) -> None:
    written = 0
    for member in shape.members.values():
        if member.name in value:
            written += 1
            given = value[member.name]
            if given is not None:
                _write(parts, member.wire_name, member.shape, given, (*where, ".", member.name))
    if written != len(value):
        unknown = sorted(value.keys() - {member.name for member in shape.members.values()})
        raise ValueError(f"{''.join(where)}: {shape.name} has no member {', '.join(unknown)}")


def _write(parts: list[str], tag: str, shape: Shape, value: object, where: _Where) -> None:
    """A value that is not None."""
    match shape:
        case Scalar(type_name):
            parts.append(f"<{tag}>{_SCALARS[type_name](value, where)}</{tag}>")
        case Structure():
            if not isinstance(value, Mapping):
                raise _misfit(value, where, "a mapping")
            parts.append(f"<{tag}>")
            _write_members(parts, shape, value, where)
            parts.append(f"</{tag}>")
        case List(item, item_name):
            if not isinstance(value, list | tuple):
                raise _misfit(value, where, "a list")
            if item_name is None:
                for entry in value:
                    _write_item(parts, tag, item, entry, where)
                return
            if not value:
                parts.append(f"<{tag}/>")
                return
            parts.append(f"<{tag}>")
            for entry in value:
                _write_item(parts, item_name, item, entry, where)
            parts.append(f"</{tag}>")


def _write_item(parts: list[str], tag: str, shape: Shape, value: object, where: _Where) -> None:
    if value is None:
        raise _misfit(value, where, "a list without None")
    _write(parts, tag, shape, value, (*where, "[]"))


def _misfit(value: object, where: _Where, expected: str) -> ValueError:
    return ValueError(f"{''.join(where)} is {value!r}, and the model wants {expected}")


def _string(value: object, where: _Where) -> str:
    if not isinstance(value, str):
        raise _misfit(value, where, "a string")
    return escape(value)


def _boolean(value: object, where: _Where) -> str:
    if not isinstance(value, bool):
        raise _misfit(value, where, "a boolean")
    return "true" if value else "false"


def _integer(value: object, where: _Where) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _misfit(value, where, "an integer")
    return str(value)


def _float(value: object, where: _Where) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _misfit(value, where, "a finite number")
    return repr(float(value))


def _timestamp(value: object, where: _Where) -> str:
    """ISO 8601 in UTC with milliseconds, cut and not rounded: 2024-01-31T23:59:59.999Z."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise _misfit(value, where, "a time with its zone")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _blob(value: object, where: _Where) -> str:
    if not isinstance(value, bytes):
        raise _misfit(value, where, "bytes")
    return base64.b64encode(value).decode()


_SCALARS: Mapping[str, Callable[[object, _Where], str]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "long": _integer,
    "float": _float,
    "double": _float,
    "timestamp": _timestamp,
    "blob": _blob,
}

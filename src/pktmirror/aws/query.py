"""A form body becomes a call: the ec2 protocol (``Filter.1.Value.1``) and the query protocol (``.member.1``).

Pure. The result has the nested shape that botocore's users write: the model's member names, values of the
model's types. What a service model says about a form is checked here: names, types, indices, what is required.
Enumerations, ranges and combinations are not: the control plane answers those with EC2's own codes.

Every refusal is an `ApiError`; no input makes another exception. In an ec2 form an empty list or structure
cannot be told from an absent one: neither is on the wire.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus

from pktmirror.aws import service as models
from pktmirror.aws.errors import (
    ApiError,
    echo,
    invalid_action,
    invalid_parameter_value,
    invalid_value,
    missing_parameter,
    unknown_parameter,
)
from pktmirror.aws.service import List, Operation, Scalar, Shape, Structure
from pktmirror.aws.xmltext import UNWRITABLE

BODY_BYTES_MAX = 1 << 20
"""CreateTags with 1000 resources and 50 tags of full length, every character escaped, takes a third of this."""

PARAMETERS_MAX = 4096
NAME_PARTS_MAX = 16

_FORM_TYPE = re.compile(
    r'\s*application/x-www-form-urlencoded\s*(;\s*charset\s*=\s*("utf-8"|utf-8)\s*)?', re.IGNORECASE
)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Tree = dict[str, "str | Tree"]


@dataclass(frozen=True)
class Call:
    """An operation and its parameters, as botocore's users write them. ``service`` is the signing name."""

    service: str
    operation: str
    parameters: dict[str, object]


def parse(service: str, content_type: str, body: bytes) -> Call:
    """The call in a form body. ``service`` is a key of `SERVICES`, as the verified signature names it.

    Raises ApiError: InvalidQueryParameter (no form), RequestEntityTooLarge, MissingAction, InvalidAction,
    NoSuchVersion, UnknownParameter, MissingParameter, InvalidParameterValue.
    """
    tree = form_tree(content_type, body)
    action, version = tree.pop("Action", None), tree.pop("Version", None)
    if not isinstance(action, str) or not action:
        raise ApiError("MissingAction", "The request is missing an action: it must contain the parameter Action")
    if not isinstance(version, str):
        raise missing_parameter("Version")
    if version != models.version(service):
        raise ApiError("NoSuchVersion", f"The requested version ({echo(version)}) of service {service} does not exist")
    if action not in models.operation_names(service):
        raise invalid_action(action)
    return Call(service, action, parameters(models.operation(service, action), tree))


def parameters(operation: Operation, tree: Tree) -> dict[str, object]:
    """What an operation is asked for: a form's tree without Action and Version, by the operation's input shape."""
    return _structure(operation.input, tree, "")


def form_tree(content_type: str, body: bytes) -> Tree:
    """Names split at their dots: ``Filter.1.Name=x`` is ``{"Filter": {"1": {"Name": "x"}}}``."""
    return _tree(_form(content_type, body))


def _form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """The decoded name and value pairs, in order."""
    if len(body) > BODY_BYTES_MAX:
        raise ApiError("RequestEntityTooLarge", f"The request body has more than {BODY_BYTES_MAX} bytes")
    if _FORM_TYPE.fullmatch(content_type) is None:
        raise _malformed("The content type must be application/x-www-form-urlencoded, in UTF-8")
    try:
        text = body.decode()
        if _BROKEN_ESCAPE.search(text):
            raise _malformed("The request body has a percent sign without two hexadecimal digits")
        pairs = text.split("&", PARAMETERS_MAX)
        if len(pairs) > PARAMETERS_MAX:
            raise _malformed(f"The request has more than {PARAMETERS_MAX} parameters")
        return [_pair(pair) for pair in pairs if pair]
    except UnicodeDecodeError:
        raise _malformed("The request body is not valid UTF-8") from None


def _pair(pair: str) -> tuple[str, str]:
    raw_name, equals, raw_value = pair.partition("=")
    name, value = unquote_plus(raw_name, errors="strict"), unquote_plus(raw_value, errors="strict")
    if not equals or not name:
        raise _malformed("The request body has a part that is not name=value")
    if UNWRITABLE.search(name):
        raise _malformed("The request has a parameter name with characters that XML cannot carry")
    if UNWRITABLE.search(value):
        # What is stored comes back in XML, and one such character would make every answer unreadable.
        raise invalid_parameter_value(f"The value of {echo(name)} has characters that XML cannot carry")
    return name, value


def _malformed(message: str) -> ApiError:
    return ApiError("InvalidQueryParameter", message)


def _tree(pairs: list[tuple[str, str]]) -> Tree:
    """A name is given once, and is a value or a branch, not both."""
    root: Tree = {}
    for name, value in pairs:
        *branches, leaf = name.split(".", NAME_PARTS_MAX - 1)  # a longer name ends in a part that no shape knows
        tree = root
        for part in branches:
            below = tree.setdefault(part, {})
            if isinstance(below, str):
                raise unknown_parameter(name)
            tree = below
        if leaf in tree:
            if isinstance(tree[leaf], str):
                raise invalid_parameter_value(f"The parameter {echo(name)} is given more than once")
            raise unknown_parameter(name)
        tree[leaf] = value
    return root


def _structure(shape: Structure, tree: Tree, path: str) -> dict[str, object]:
    """``path`` is the name so far, with its dot: empty, or ``Filter.1.``."""
    parsed: dict[str, object] = {}
    for wire_name, node in tree.items():
        member = shape.members.get(wire_name)
        if member is None:
            raise unknown_parameter(path + _first_name(wire_name, node))
        parsed[member.name] = _value(member.shape, node, path + wire_name)
    for member in shape.required:
        if member.name not in parsed:
            raise missing_parameter(path + member.wire_name)
    return parsed


def _first_name(name: str, node: "str | Tree") -> str:
    """The name of the first value at or under a node: what the client wrote."""
    while not isinstance(node, str):
        part, node = next(iter(node.items()))
        name = f"{name}.{part}"
    return name


def _value(shape: Shape, node: "str | Tree", name: str) -> object:
    match shape:
        case Scalar(type_name):
            if not isinstance(node, str):
                raise unknown_parameter(_first_name(name, node))
            return _SCALARS[type_name](name, node)
        case Structure():
            if isinstance(node, str):
                raise unknown_parameter(name)
            return _structure(shape, node, f"{name}.")
        case List(item, item_name):
            return _list(item, item_name, node, name)


def _list(item: Shape, item_name: str | None, node: "str | Tree", name: str) -> list[object]:
    if item_name is not None:
        if node == "":
            return []  # the query protocol, other than ec2's, sends an empty list as an empty value
        if not isinstance(node, str):
            if node.keys() != {item_name}:
                raise unknown_parameter(_first_name(name, node))
            node, name = node[item_name], f"{name}.{item_name}"
    if isinstance(node, str):
        raise unknown_parameter(name)
    by_index: dict[int, str | Tree] = {}
    for part, below in node.items():
        if _INDEX.fullmatch(part) is None:
            raise unknown_parameter(_first_name(f"{name}.{part}", below))
        by_index[int(part)] = below
    for index in range(1, len(by_index) + 1):
        if index not in by_index:
            raise invalid_parameter_value(
                f"The list {echo(name)} has {len(by_index)} items, and none with the index {index}. "
                "Number the items from 1 without gaps."
            )
    return [_value(item, by_index[index], f"{name}.{index}") for index in range(1, len(by_index) + 1)]


def _string(_name: str, text: str) -> str:
    return text


def _boolean(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise invalid_value(name, text, "Expected true or false")
    return text == "true"


def _integer(bits: int) -> Callable[[str, str], int]:
    bound: int = 1 << (bits - 1)

    def convert(name: str, text: str) -> int:
        number = int(text) if _NUMBER.fullmatch(text) else bound
        if not -bound <= number < bound:
            raise invalid_value(name, text, f"Expected a {bits}-bit integer")
        return number

    return convert


def _float(name: str, text: str) -> float:
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    if math.isinf(number):
        raise invalid_value(name, text, "Expected a finite number")
    return number


def _timestamp(name: str, text: str) -> datetime:
    try:
        if _TIMESTAMP.fullmatch(text) is None:
            raise ValueError(text)
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise invalid_value(name, text, "Expected a time in UTC such as 2024-01-31T23:59:59Z") from None


def _blob(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_value(name, text, "Expected base64") from None


_INDEX = re.compile(r"[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"-?[0-9]{1,20}")  # more digits are out of range anyhow, and long ones are slow to convert
_FLOAT = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")

_SCALARS: Mapping[str, Callable[[str, str], object]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer(32),
    "long": _integer(64),
    "float": _float,
    "double": _float,
    "timestamp": _timestamp,
    "blob": _blob,
}

"""An operation's request has what the service model says of it: what a client sends arrives as it was meant."""

from enum import Enum
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.aws import parse
from pktmirror.control.operations import OPERATIONS
from pktmirror.control.operations.operation import parsed
from tests.budget import examples
from tests.unit.aws.client import FORM, INVENTORY, TEXT, TRAFFIC_MIRROR, body, fitting, model

TAGGING = ("CreateTags", "DeleteTags", "DescribeTags")
WHOLE = (*TRAFFIC_MIRROR, *TAGGING)
"""Operations that are offered with all their parameters."""
IN_RANGE = {"string": TEXT, "boolean": st.booleans(), "integer": st.integers(5, 255)}


def members(operation: str) -> Any:
    return model("ec2").operation_model(operation).input_shape


def fields(operation: str) -> dict[str, Any]:
    """The fields of the request, by their names on the wire."""
    return {field.encode_name: field for field in msgspec.structs.fields(OPERATIONS["ec2", operation].request)}


def test_what_is_offered_of_ec2_is_what_these_and_the_wires_tests_speak_of() -> None:
    assert {name for service, name in OPERATIONS if service == "ec2"} == {*TRAFFIC_MIRROR, *INVENTORY}


@pytest.mark.parametrize("operation", WHOLE)
def test_each_parameter_of_the_model_is_offered_and_required_where_the_model_requires_it(operation: str) -> None:
    shape, known = members(operation), fields(operation)
    assert known.keys() == shape.members.keys()
    assert {name for name, field in known.items() if field.required} == set(shape.required_members)


@pytest.mark.parametrize("operation", sorted({*INVENTORY} - {*TAGGING}))
def test_of_the_inventory_no_parameter_is_offered_that_the_model_has_not(operation: str) -> None:
    """Not all are: the others are UnsupportedOperation, by name."""
    answered_and_read_only = {"MaxResults", "NextToken"}  # all describe calls here have pages
    assert fields(operation).keys() - answered_and_read_only <= members(operation).members.keys()


def values_of(annotation: Any) -> set[str]:
    """The values of an enumeration within an annotation; none where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {member.value for member in annotation}
    return {value for inner in get_args(annotation) for value in values_of(inner)}


@pytest.mark.parametrize("operation", TRAFFIC_MIRROR)
def test_enumerations_are_the_models(operation: str) -> None:
    for name, member in members(operation).members.items():
        shape = member.member if member.type_name == "list" else member
        modelled = set(getattr(shape, "enum", None) or ())
        assert values_of(fields(operation)[name].type) == modelled, name


@st.composite
def asked(draw: st.DrawFn, operation: str) -> dict[str, Any]:
    shape = members(operation)
    names = draw(st.lists(st.sampled_from(sorted(shape.members)), unique=True))
    return {name: draw(_value(shape.members[name])) for name in dict.fromkeys([*shape.required_members, *names])}


def _value(shape: Any) -> st.SearchStrategy[Any]:
    if shape.type_name == "list" and getattr(shape.member, "enum", None):
        return st.lists(st.sampled_from(shape.member.enum), min_size=1, max_size=3)
    if getattr(shape, "enum", None):
        return st.sampled_from(shape.enum)
    return fitting(shape, IN_RANGE, empty_lists=False, empty_structures=False)


@pytest.mark.parametrize("operation", WHOLE)
@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_botocore_serializes_reaches_the_operation(operation: str, data: st.DataObject) -> None:
    parameters = data.draw(asked(operation))
    request = parsed(OPERATIONS["ec2", operation].request, parse("ec2", FORM, body("ec2", operation, parameters)))
    reached = msgspec.to_builtins(request)
    not_given = {name for name, field in fields(operation).items() if name not in parameters and not field.required}
    for name in not_given:
        assert reached.pop(name) == msgspec.to_builtins(fields(operation)[name].default)
    assert _said(reached) == _said(parameters)


def _said(value: Any) -> Any:
    """Without what is the same as not said: None, an empty list, an empty name or key. A tag's empty value is not."""
    match value:
        case dict():
            said = {name: _said(below) for name, below in value.items()}
            return {
                name: below
                for name, below in said.items()
                if below not in (None, []) and not (name in ("Name", "Key") and below == "")
            }
        case list() | tuple():
            return [_said(below) for below in value]
        case _:
            return value

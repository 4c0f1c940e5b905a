"""Whatever parameters come, the answer is a result or a refusal: no 5xx, and a refusal changes nothing."""

from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.control.operations import OPERATIONS
from tests.budget import examples
from tests.contract.conftest import Maker
from tests.contract.plane import Plane
from tests.contract.test_protocol import dump

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
LIKELY = st.sampled_from(
    ["", "*", "eni-1", "ingress", "accept", "amazon-dns", "0.0.0.0/0", "::/0", "fe80::%1/64", "10.0.0.0/255.0.0.0"]
)
ODD = st.sampled_from(
    ["description", "tag:a", "tag-key", "protocol", "packet-length", "aws:x", "traffic-mirror-filter", "\x00", "٣/٣"]
)
NUMBER = st.one_of(st.integers(-2, 7), st.integers(-(2**31), 2**31 - 1), st.sampled_from([65535, 65536, 1 << 24]))


def values(shape: Any, likely: st.SearchStrategy[str], depth: int = 3) -> st.SearchStrategy[Any]:
    """Values of a shape of botocore's model, often wrong in what the model does not say."""
    match shape.type_name:
        case "structure":
            members = (
                {name: values(member, likely, depth - 1) for name, member in shape.members.items()} if depth else {}
            )
            return st.fixed_dictionaries({}, optional=members)
        case "list":
            return st.lists(values(shape.member, likely, depth), max_size=3)
        case "integer" | "long":
            return NUMBER
        case "boolean":
            return st.booleans()
        case _:
            return likely | TEXT


EC2_OPERATIONS = sorted(operation for service, operation in OPERATIONS if service == "ec2")


@pytest.mark.parametrize("operation", EC2_OPERATIONS)
def test_no_parameters_break_an_operation(plane: Plane, ec2: Any, operation: str) -> None:
    shape = ec2.meta.service_model.operation_model(operation).input_shape
    names = {name: method for method, name in ec2.meta.method_to_api_mapping.items()}
    call = getattr(ec2, names[operation])
    session = Maker(plane, ec2).session()
    likely = (
        LIKELY
        | ODD
        | st.sampled_from(
            sorted(value for name, value in session.items() if name.endswith("Id") and isinstance(value, str))
        )
    )
    # Required members are always there: without them the parser refuses everything.
    required = {name: values(shape.members[name], likely) for name in shape.required_members}
    optional = {name: values(member, likely) for name, member in shape.members.items() if name not in required}

    @settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.fixed_dictionaries(required, optional=optional))
    def attempt(parameters: dict[str, Any]) -> None:
        before = dump(plane)
        try:
            call(**parameters)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert 400 <= status < 500, error  # noqa: PT017
            assert dump(plane) == before

    attempt()
    assert "InternalError" not in plane.own("status")["refused_requests"]

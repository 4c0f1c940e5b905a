"""A JSON body becomes a call or a refusal, whatever it is; and a result JSON."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.aws import ApiError, json
from tests.budget import examples

from .client import fitting, model, scalars

OPERATIONS = ("GetMetricData", "GetMetricStatistics", "ListMetrics")
PREFIX = "GraniteServiceVersion20100801"
NAMES = st.sampled_from(
    ("Namespace", "Dimensions", "Name", "Value", "StartTime", "Period", "MetricDataQueries", "MetricStat", "x")
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


def parsed(operation: str, asked: object) -> dict[str, object]:
    return json.parse("monitoring", f"{PREFIX}.{operation}", msgspec.json.encode(asked)).parameters


def test_names_are_the_models_times_are_seconds_and_what_is_null_is_absent() -> None:
    asked = {
        "Namespace": "AWS/EC2",
        "MetricName": "NetworkMirrorIn",
        "Dimensions": [{"Name": "InstanceId", "Value": "i-1"}],
        "StartTime": 1_700_000_000,
        "EndTime": 1_700_000_060.5,
        "Period": 60,
        "Unit": None,
    }
    assert parsed("GetMetricStatistics", asked) == {
        **{name: value for name, value in asked.items() if name != "Unit"},
        "StartTime": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "EndTime": datetime(2023, 11, 14, 22, 14, 20, 500_000, tzinfo=UTC),
    }


@pytest.mark.parametrize("wrong", [True, "x", [1], {}, -1, 1e300])
def test_a_time_that_is_none_is_refused_by_its_name(wrong: object) -> None:
    asked = {"Namespace": "a", "MetricName": "b", "StartTime": wrong, "EndTime": 1, "Period": 60}
    with pytest.raises(ApiError) as refused:
        parsed("GetMetricStatistics", asked)
    assert refused.value.code == "InvalidParameterValue"
    assert "StartTime" in refused.value.message


def refusal_of(operation: str, body: bytes) -> ApiError | None:
    """None: it is a call."""
    try:
        json.parse("monitoring", f"{PREFIX}.{operation}", body)
    except ApiError as refusal:
        return refusal
    return None


@given(st.sampled_from(("ListMetrics", "GetMetricStatistics", "GetMetricData")), ANYTHING)
def test_any_document_is_a_call_or_a_refusal(operation: str, asked: object) -> None:
    refusal = refusal_of(operation, msgspec.json.encode(asked))
    if refusal is not None:
        assert refusal.status == 400
        body, headers = json.failure(refusal)
        assert msgspec.json.decode(body) == {"__type": refusal.code, "message": refusal.message}
        assert headers == {"x-amzn-query-error": f"{refusal.code};Sender"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_call_or_a_refusal(body: bytes) -> None:
    refusal = refusal_of("ListMetrics", body)
    assert refusal is None or refusal.status == 400


def test_a_result_has_times_in_seconds_and_leaves_out_what_is_none() -> None:
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    written = json.success({"Datapoints": [{"Timestamp": at, "Sum": 1.5, "Unit": None}], "NextToken": None})
    assert msgspec.json.decode(written) == {"Datapoints": [{"Timestamp": 1_700_000_000.0, "Sum": 1.5}]}


def fits(shape: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Times are whole seconds, as botocore writes them."""
    scalar = scalars(time_resolution_us=1_000_000)
    percentiles = st.dictionaries(st.text(max_size=3), scalar["double"], max_size=2)  # the one map of these shapes
    return fitting(shape, {**scalar, "map": percentiles}, empty_lists=True, empty_structures=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_botocore_serializes_is_parsed_back_to_the_same_call(operation: str, data: st.DataObject) -> None:
    modelled = model("cloudwatch").operation_model(operation)
    asked = data.draw(fits(modelled.input_shape))
    request = create_serializer("json", include_validation=False).serialize_to_request(asked, modelled)
    call = json.parse("monitoring", request["headers"]["X-Amz-Target"], request["body"])
    assert call.operation == operation
    assert call.parameters == asked


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_the_result_that_was_written(operation: str, data: st.DataObject) -> None:
    shape = model("cloudwatch").operation_model(operation).output_shape
    result = data.draw(fits(shape))
    answer = {"body": json.success(result), "headers": {}, "status_code": 200}
    read = create_parser("json").parse(answer, shape)
    read.pop("ResponseMetadata")
    assert read == result

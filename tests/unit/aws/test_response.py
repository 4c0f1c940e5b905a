"""A result becomes XML that botocore reads as the same result, and an error as the same error."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from xml.etree import ElementTree

import pytest
from botocore.parsers import create_parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.aws import ApiError, Call, failure, service, success
from pktmirror.aws.response import write
from tests.budget import examples

from .client import INVENTORY, RIGHTS, TRAFFIC_MIRROR, fitting, model, scalars

SCALARS = scalars(time_resolution_us=1000)
REQUEST_ID = "8f3e1c9a-0000-4000-8000-000000000001"


def results(service_name: str, operation: str) -> st.SearchStrategy[dict[str, Any]]:
    shape = model(service_name).operation_model(operation).output_shape
    return st.just({}) if shape is None else fitting(shape, SCALARS, empty_lists=True, empty_structures=True)


def received(service_name: str, operation: str, answer: bytes, status: int = 200) -> tuple[Any, dict[str, Any]]:
    """What botocore's user gets: the result and its ResponseMetadata."""
    spoken = model(service_name)
    parsed = create_parser(spoken.metadata["protocol"]).parse(
        {"body": answer, "headers": {}, "status_code": status}, spoken.operation_model(operation).output_shape
    )
    metadata = parsed.pop("ResponseMetadata")
    return parsed, metadata


@pytest.mark.parametrize("operation", TRAFFIC_MIRROR + INVENTORY)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_the_result_that_was_written(operation: str, data: st.DataObject) -> None:
    result = data.draw(results("ec2", operation))
    parsed, metadata = received("ec2", operation, success(("ec2", operation), result, REQUEST_ID))
    assert parsed == result
    assert metadata == {"RequestId": REQUEST_ID, "HTTPStatusCode": 200, "HTTPHeaders": {}}


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_the_result_of_every_operation_of_ec2s_model(data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted(service.operation_names("ec2"))))
    result = data.draw(results("ec2", operation))
    assert received("ec2", operation, success(("ec2", operation), result, REQUEST_ID))[0] == result


@pytest.mark.parametrize(("service_name", "operation"), RIGHTS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_the_result_of_iam_and_sts_that_was_written(
    service_name: str, operation: str, data: st.DataObject
) -> None:
    result = data.draw(results(service_name, operation))
    parsed, metadata = received(service_name, operation, success((service_name, operation), result, REQUEST_ID))
    assert parsed == result
    assert metadata == {"RequestId": REQUEST_ID, "HTTPStatusCode": 200, "HTTPHeaders": {}}


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_results_of_the_query_protocol(data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(["DescribeTargetGroups", "DescribeTargetHealth", "DescribeTags", "AddTags"]))
    result = data.draw(results("elbv2", operation))
    answer = write(service.compiled(model("elbv2"), operation), result, REQUEST_ID)
    parsed, metadata = received("elbv2", operation, answer)
    assert parsed == result
    assert metadata["RequestId"] == REQUEST_ID


def test_the_answer_of_ec2_to_the_byte() -> None:
    call = Call("ec2", "CreateTrafficMirrorFilter", {})
    result = {
        "TrafficMirrorFilter": {
            "TrafficMirrorFilterId": "tmf-1",
            "IngressFilterRules": [],
            "NetworkServices": ["amazon-dns"],
            "Description": "a < b & c > d",
            "Tags": [{"Key": "k", "Value": ""}],
        },
        "ClientToken": None,
    }
    assert success(call, result, "r-1") == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b'<CreateTrafficMirrorFilterResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        b"<requestId>r-1</requestId><trafficMirrorFilter><trafficMirrorFilterId>tmf-1</trafficMirrorFilterId>"
        b"<ingressFilterRuleSet/><networkServiceSet><item>amazon-dns</item></networkServiceSet>"
        b"<description>a &lt; b &amp; c &gt; d</description>"
        b"<tagSet><item><key>k</key><value></value></item></tagSet>"
        b"</trafficMirrorFilter></CreateTrafficMirrorFilterResponse>"
    )


def test_an_operation_without_a_result_answers_return_true() -> None:
    assert success(("ec2", "CreateTags"), {}, "r-1") == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b'<CreateTagsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        b"<requestId>r-1</requestId><return>true</return></CreateTagsResponse>"
    )


def test_sts_wraps_its_result() -> None:
    identity = {"UserId": "AIDA1", "Account": "123456789012", "Arn": "arn:aws:iam::123456789012:user/a"}
    answer = success(("sts", "GetCallerIdentity"), identity, REQUEST_ID)
    assert b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">' in answer
    parsed, metadata = received("sts", "GetCallerIdentity", answer)
    assert parsed == identity
    assert metadata["RequestId"] == REQUEST_ID


def test_items_that_the_model_does_not_name_are_called_item() -> None:
    result = {"InstanceTypes": [{"InferenceAcceleratorInfo": {"Accelerators": [{"Count": 1}]}}]}
    answer = success(("ec2", "DescribeInstanceTypes"), result, REQUEST_ID)
    assert b"<accelerators><item><count>1</count></item></accelerators>" in answer


def launched(time: Any) -> bytes:
    """An answer with one time in it."""
    result = {"Reservations": [{"Instances": [{"LaunchTime": time}]}]}
    return success(("ec2", "DescribeInstances"), result, REQUEST_ID)


def test_times_are_utc_with_milliseconds() -> None:
    assert b"<launchTime>2024-02-29T23:59:59.000Z</" in launched(datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC))
    east = timezone(timedelta(hours=2))
    assert b"<launchTime>2024-01-01T10:00:00.999Z</" in launched(datetime(2024, 1, 1, 12, 0, 0, 999_999, tzinfo=east))


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        pytest.param({"Colour": "red"}, "has no member Colour", id="a member that the shape has not"),
        pytest.param({"Subnets": [{"Colour": "red"}]}, "has no member Colour", id="the same, inside"),
        pytest.param({"Subnets": {}}, "wants a list", id="a mapping for a list"),
        pytest.param({"Subnets": "abc"}, "wants a list", id="a string for a list"),
        pytest.param({"Subnets": [None]}, "without None", id="nothing as an item"),
        pytest.param({"Subnets": ["abc"]}, "wants a mapping", id="a string for a structure"),
        pytest.param({"NextToken": 1}, "wants a string", id="a number for a string"),
        pytest.param({"Subnets": [{"AvailableIpAddressCount": "1"}]}, "wants an integer", id="a string for a number"),
        pytest.param({"Subnets": [{"AvailableIpAddressCount": True}]}, "wants an integer", id="a boolean for a number"),
        pytest.param({"Subnets": [{"DefaultForAz": 1}]}, "wants a boolean", id="a number for a boolean"),
        pytest.param({"Subnets": [{"DefaultForAz": "true"}]}, "wants a boolean", id="a string for a boolean"),
    ],
)
def test_a_result_that_does_not_fit_is_our_own_bug(result: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        success(("ec2", "DescribeSubnets"), result, REQUEST_ID)


def test_a_time_without_a_zone_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="a time with its zone"):
        launched(datetime(2024, 1, 1))


def test_an_operation_that_is_not_spoken_cannot_be_answered() -> None:
    with pytest.raises(KeyError, match="sts has no operation AssumeRole"):
        success(("sts", "AssumeRole"), {}, REQUEST_ID)


@settings(max_examples=examples(200))
@given(st.text(st.characters(), max_size=20))
def test_whatever_a_host_calls_its_things_the_answer_can_be_read(name: str) -> None:
    """Not only what the parser lets in: lone surrogates come from interface names that are not UTF-8."""
    result = {"NextToken": name}
    root = ElementTree.fromstring(success(("ec2", "DescribeVpcs"), result, name))
    error = ElementTree.fromstring(failure("ec2", ApiError(name, name), name))
    texts = {node.text or "" for node in [*root, error[0][0][0], error[0][0][1], error[1]]}
    assert len(texts) == 1
    assert all(got in (sent, "\ufffd") for got, sent in zip(texts.pop(), name, strict=True))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ApiError("InvalidParameterValue", 'a < b & "c"'), 400),
        (ApiError("AuthFailure", "no"), 401),
        (ApiError("UnauthorizedOperation", "no"), 403),
        (ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set."), 412),
        (ApiError("RequestLimitExceeded", "slower"), 503),
        (ApiError("InternalError", "sorry"), 500),
        (ApiError("Teapot", "short and stout", 418), 418),
    ],
    ids=lambda value: value.code if isinstance(value, ApiError) else str(value),
)
@pytest.mark.parametrize(("service_name", "operation"), [("ec2", "DescribeVpcs"), ("sts", "GetCallerIdentity")])
def test_botocore_reads_the_error_that_was_written(
    service_name: str, operation: str, error: ApiError, status: int
) -> None:
    answer = failure(service_name, error, REQUEST_ID)
    parsed, metadata = received(service_name, operation, answer, error.status)
    fault = {} if service_name == "ec2" else {"Type": "Sender" if status < 500 else "Receiver"}
    assert parsed == {"Error": {"Code": error.code, "Message": error.message, **fault}}
    assert metadata == {"RequestId": REQUEST_ID, "HTTPStatusCode": status, "HTTPHeaders": {}}


def test_the_error_of_ec2_to_the_byte() -> None:
    assert failure("ec2", ApiError("InvalidAction", "a<b"), "r-1") == (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b"<Response><Errors><Error><Code>InvalidAction</Code><Message>a&lt;b</Message></Error></Errors>"
        b"<RequestID>r-1</RequestID></Response>"
    )

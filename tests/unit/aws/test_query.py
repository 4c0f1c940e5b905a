"""A form body becomes a call: the same call that botocore was given."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.aws import BODY_BYTES_MAX, ApiError, Call, parse, service
from pktmirror.aws.query import PARAMETERS_MAX, form_tree, parameters
from tests.budget import examples

from .client import FORM, INVENTORY, RIGHTS, TRAFFIC_MIRROR, body, fitting, model, scalars

SCALARS = scalars(time_resolution_us=1)


def inputs(service_name: str, operation: str) -> st.SearchStrategy[dict[str, Any]]:
    """Calls without an empty list or structure: an ec2 form cannot say them, and botocore leaves them out."""
    shape = model(service_name).operation_model(operation).input_shape
    return st.just({}) if shape is None else fitting(shape, SCALARS, empty_lists=False, empty_structures=False)


def ec2(text: str) -> bytes:
    return f"Version=2016-11-15&{text}".encode()


def refusal(request: bytes, content_type: str = FORM, service_name: str = "ec2") -> ApiError:
    with pytest.raises(ApiError) as refused:
        parse(service_name, content_type, request)
    return refused.value


@pytest.mark.parametrize("operation", TRAFFIC_MIRROR + INVENTORY)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_botocore_serializes_is_parsed_back_to_the_same_call(operation: str, data: st.DataObject) -> None:
    given_parameters = data.draw(inputs("ec2", operation))
    parsed = parse("ec2", FORM, body("ec2", operation, given_parameters))
    assert parsed == Call("ec2", operation, given_parameters)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_operation_of_ec2s_model_is_parsed_back_to_the_same_call(data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted(service.operation_names("ec2"))))
    given_parameters = data.draw(inputs("ec2", operation))
    assert parse("ec2", FORM, body("ec2", operation, given_parameters)).parameters == given_parameters


@pytest.mark.parametrize(("service_name", "operation"), RIGHTS)
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_botocore_serializes_for_iam_and_sts_is_parsed_back_to_the_same_call(
    service_name: str, operation: str, data: st.DataObject
) -> None:
    shape = model(service_name).operation_model(operation).input_shape
    given_parameters = data.draw(fitting(shape, SCALARS, empty_lists=True, empty_structures=False))
    parsed = parse(service_name, FORM, body(service_name, operation, given_parameters))
    assert parsed == Call(service_name, operation, given_parameters)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_query_protocol_is_parsed_back_too(data: st.DataObject) -> None:
    """Its lists are ``.member.N`` and may be empty; the load balancers' model has many of them."""
    elbv2 = model("elbv2")
    operation = data.draw(
        st.sampled_from(["CreateTargetGroup", "RegisterTargets", "DescribeTags", "AddTags", "ModifyTargetGroup"])
    )
    shape = elbv2.operation_model(operation).input_shape
    given_parameters = data.draw(fitting(shape, SCALARS, empty_lists=True, empty_structures=False))
    tree = form_tree(FORM, body("elbv2", operation, given_parameters))
    assert (tree.pop("Action"), tree.pop("Version")) == (operation, "2015-12-01")
    assert parameters(service.compiled(elbv2, operation), tree) == given_parameters


def test_what_is_empty_is_not_on_the_wire_of_ec2() -> None:
    sent = {"SourcePortRange": {}, "TrafficMirrorFilterRuleId": "tmfr-1", "RemoveFields": []}
    request = body("ec2", "ModifyTrafficMirrorFilterRule", sent)
    assert parse("ec2", FORM, request).parameters == {"TrafficMirrorFilterRuleId": "tmfr-1"}


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ("TargetGroupArn=x&Targets.1.Id=i", "UnknownParameter", "Targets.1.Id"),
        ("TargetGroupArn=x&Targets.member=i", "UnknownParameter", "Targets.member"),
        ("TargetGroupArn=x&Targets=i", "UnknownParameter", "Targets"),
        ("TargetGroupArn=x&Targets.member.1.Port=1", "MissingParameter", "Targets.member.1.Id"),
    ],
)
def test_the_query_protocol_refuses(fields: str, code: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        parameters(service.compiled(model("elbv2"), "RegisterTargets"), form_tree(FORM, fields.encode()))
    assert refused.value.code == code
    assert f"parameter {message}" in refused.value.message


def test_sts_knows_who_is_asking_and_nothing_else() -> None:
    assert parse("sts", FORM, b"Action=GetCallerIdentity&Version=2011-06-15") == Call("sts", "GetCallerIdentity", {})
    error = refusal(b"Action=GetSessionToken&Version=2011-06-15", service_name="sts")
    assert (error.code, error.message) == (
        "InvalidAction",
        "The action GetSessionToken is not valid for this web service.",
    )


def test_values_have_the_types_of_the_model() -> None:
    request = ec2(
        "Action=CreateTrafficMirrorSession&NetworkInterfaceId=eni-1&TrafficMirrorTargetId=tmt-1"
        "&TrafficMirrorFilterId=tmf-1&SessionNumber=007&DryRun=true&Description=caf%C3%A9+%2B1"
        "&TagSpecification.1.ResourceType=traffic-mirror-session"
        "&TagSpecification.1.Tag.2.Key=b&TagSpecification.1.Tag.1.Key=a&TagSpecification.1.Tag.1.Value="
    )
    assert parse("ec2", "Application/X-WWW-Form-URLencoded", request) == Call(
        "ec2",
        "CreateTrafficMirrorSession",
        {
            "NetworkInterfaceId": "eni-1",
            "TrafficMirrorTargetId": "tmt-1",
            "TrafficMirrorFilterId": "tmf-1",
            "SessionNumber": 7,
            "DryRun": True,
            "Description": "café +1",
            "TagSpecifications": [
                {"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "a", "Value": ""}, {"Key": "b"}]}
            ],
        },
    )


def test_enumerations_and_ranges_are_left_to_the_control_plane() -> None:
    request = ec2("Action=DescribeTrafficMirrorFilters&MaxResults=-5&Filter.1.Name=no-such-filter")
    assert parse("ec2", FORM, request).parameters == {"MaxResults": -5, "Filters": [{"Name": "no-such-filter"}]}


def test_more_than_nine_items_keep_their_order() -> None:
    names = [f"eni-{number}" for number in range(1, 13)]
    request = ec2(
        "Action=DescribeNetworkInterfaces&"
        + "&".join(f"NetworkInterfaceId.{index}={name}" for index, name in reversed(list(enumerate(names, 1))))
    )
    assert parse("ec2", FORM, request).parameters == {"NetworkInterfaceIds": names}


def test_a_query_name_of_the_model_wins_over_its_location_name() -> None:
    """ipv6AddressesSet in answers is Ipv6Addresses in forms; hardly any member of EC2 has both names."""
    interfaces = [{"Ipv6Addresses": [{"Ipv6Address": "::1"}]}]
    call = {"MinCount": 1, "MaxCount": 1, "NetworkInterfaces": interfaces}
    request = body("ec2", "RunInstances", call)
    assert b"NetworkInterface.1.Ipv6Addresses.1.Ipv6Address=" in request
    assert parse("ec2", FORM, request).parameters == call


def test_a_timestamp_is_a_time_in_utc() -> None:
    request = ec2("Action=DescribeSpotPriceHistory&StartTime=2024-02-29T23:59:59.5Z")
    assert parse("ec2", FORM, request).parameters == {
        "StartTime": datetime(2024, 2, 29, 23, 59, 59, 500_000, tzinfo=UTC)
    }


DESCRIBE = "Action=DescribeTrafficMirrorFilters&"
SESSION = "Action=CreateTrafficMirrorSession&NetworkInterfaceId=e&TrafficMirrorTargetId=t&TrafficMirrorFilterId=f&"


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        pytest.param(b"", "MissingAction", "Action", id="an empty body"),
        pytest.param(b"Version=2016-11-15", "MissingAction", "Action", id="no action"),
        pytest.param(ec2("Action="), "MissingAction", "Action", id="an empty action"),
        pytest.param(ec2("Action.1=DescribeVpcs"), "MissingAction", "Action", id="a list of actions"),
        pytest.param(ec2("Action=DescribeUnicorns"), "InvalidAction",
                     "The action DescribeUnicorns is not valid for this web service.", id="an unknown action"),
        pytest.param(ec2("Action=describevpcs"), "InvalidAction", "describevpcs", id="an action in the wrong case"),
        pytest.param(b"Action=DescribeVpcs", "MissingParameter",
                     "The request must contain the parameter Version", id="no version"),
        pytest.param(b"Action=DescribeVpcs&Version=2014-10-01", "NoSuchVersion", "2014-10-01", id="another version"),
        pytest.param(ec2(DESCRIBE + "Colour=red"), "UnknownParameter",
                     "The parameter Colour is not recognized", id="an unknown parameter"),
        pytest.param(ec2(DESCRIBE + "Filter.1.Colour.2=red"), "UnknownParameter",
                     "The parameter Filter.1.Colour.2 is not recognized", id="an unknown parameter inside a list"),
        pytest.param(ec2(DESCRIBE + "Filters.1.Name=x"), "UnknownParameter", "Filters.1.Name",
                     id="the member's name where the wire has another"),
        pytest.param(ec2(DESCRIBE + "Filter=x"), "UnknownParameter", "Filter", id="a value for a list"),
        pytest.param(ec2(DESCRIBE + "Filter.1=x"), "UnknownParameter", "Filter.1", id="a value for a structure"),
        pytest.param(ec2(DESCRIBE + "Filter.Name=x"), "UnknownParameter", "Filter.Name", id="a list without an index"),
        pytest.param(ec2(DESCRIBE + "NextToken.1=x"), "UnknownParameter", "NextToken.1", id="a list for a value"),
        pytest.param(ec2(DESCRIBE + "Filter..Name=x"), "UnknownParameter", "Filter..Name", id="an empty part"),
        pytest.param(ec2(DESCRIBE + "Filter.1=x&Filter.1.Name=y"), "UnknownParameter", "Filter.1.Name",
                     id="a value and then a structure of one name"),
        pytest.param(ec2(DESCRIBE + "Filter.1.Name=y&Filter.1=x"), "UnknownParameter", "Filter.1",
                     id="a structure and then a value of one name"),
        pytest.param(ec2(DESCRIBE + "Filter." * 40 + "x=1"), "UnknownParameter", "Filter.Filter", id="too deep a name"),
        pytest.param(ec2("Action=DeleteTrafficMirrorFilter"), "MissingParameter",
                     "The request must contain the parameter TrafficMirrorFilterId", id="a missing parameter"),
        pytest.param(ec2("Action=CreateTags&ResourceId.1=x"), "MissingParameter",
                     "The request must contain the parameter Tag", id="a missing list, by its wire name"),
        pytest.param(ec2("Action=ModifyVpcEncryptionControl&VpcEncryptionControlId=x&DryRun=1"),
                     "InvalidParameterValue", "DryRun", id="a boolean that is a number"),
        pytest.param(ec2(DESCRIBE + "DryRun=True"), "InvalidParameterValue",
                     "Value (True) for parameter DryRun is invalid. Expected true or false.", id="True is not true"),
        pytest.param(ec2(DESCRIBE + "DryRun="), "InvalidParameterValue", "DryRun", id="an empty boolean"),
        pytest.param(ec2(SESSION + "SessionNumber=one"), "InvalidParameterValue",
                     "Value (one) for parameter SessionNumber is invalid. Expected a 32-bit integer.",
                     id="a word for a number"),
        pytest.param(ec2(SESSION + "SessionNumber=1.0"), "InvalidParameterValue", "SessionNumber", id="a fraction"),
        pytest.param(ec2(SESSION + "SessionNumber="), "InvalidParameterValue", "SessionNumber", id="an empty number"),
        pytest.param(ec2(SESSION + "SessionNumber=+1"), "InvalidParameterValue", "SessionNumber", id="a blank"),
        pytest.param(ec2(SESSION + "SessionNumber=%D9%A1"), "InvalidParameterValue", "SessionNumber",
                     id="digits that are not ASCII"),
        pytest.param(ec2(SESSION + "SessionNumber=2147483648"), "InvalidParameterValue", "SessionNumber",
                     id="one more than 32 bits hold"),
        pytest.param(ec2(SESSION + "SessionNumber=-2147483649"), "InvalidParameterValue", "SessionNumber",
                     id="one less than 32 bits hold"),
        pytest.param(ec2(SESSION + "SessionNumber=" + 9999 * "9"), "InvalidParameterValue", "SessionNumber",
                     id="a number of ten thousand digits"),
        pytest.param(ec2(SESSION + "SessionNumber=1&SessionNumber=1"), "InvalidParameterValue",
                     "The parameter SessionNumber is given more than once", id="the same parameter twice"),
        pytest.param(ec2(DESCRIBE + "Filter.0.Name=x"), "UnknownParameter", "Filter.0.Name", id="an index of zero"),
        pytest.param(ec2(DESCRIBE + "Filter.01.Name=x"), "UnknownParameter", "Filter.01.Name", id="a padded index"),
        pytest.param(ec2(DESCRIBE + "Filter.-1.Name=x"), "UnknownParameter", "Filter.-1.Name", id="a negative index"),
        pytest.param(ec2(DESCRIBE + "Filter.2.Name=x"), "InvalidParameterValue", "the index 1", id="no first"),
        pytest.param(ec2(DESCRIBE + "Filter.1.Name=x&Filter.3.Name=y"), "InvalidParameterValue",
                     "none with the index 2", id="a gap"),
        pytest.param(ec2(DESCRIBE + "Filter.999999999.Name=x"), "InvalidParameterValue", "none with the index 1",
                     id="an absurd index"),
        pytest.param(ec2(DESCRIBE + f"Filter.{9999 * '9'}.Name=x"), "UnknownParameter", "Filter.999",
                     id="an index of ten thousand digits"),
        pytest.param(ec2(DESCRIBE + "NextToken=a%00b"), "InvalidParameterValue",
                     "The value of NextToken has characters that XML cannot carry", id="a zero byte"),
        pytest.param(ec2(DESCRIBE + "NextToken=%EF%BF%BF"), "InvalidParameterValue", "NextToken", id="U+FFFF"),
        pytest.param(ec2(DESCRIBE + "Next%1BToken=a"), "InvalidQueryParameter", "XML", id="an escape in a name"),
        pytest.param(ec2(DESCRIBE + "NextToken=%FF"), "InvalidQueryParameter", "UTF-8", id="escaped bytes, no UTF-8"),
        pytest.param(ec2(DESCRIBE) + b"NextToken=\xff", "InvalidQueryParameter", "UTF-8", id="bare bytes, no UTF-8"),
        pytest.param(ec2(DESCRIBE + "NextToken=%ED%A0%80"), "InvalidQueryParameter", "UTF-8", id="a lone surrogate"),
        pytest.param(ec2(DESCRIBE + "NextToken=%4"), "InvalidQueryParameter", "percent sign", id="half an escape"),
        pytest.param(ec2(DESCRIBE + "NextToken"), "InvalidQueryParameter", "name=value", id="a name without a value"),
        pytest.param(ec2(DESCRIBE + "=x"), "InvalidQueryParameter", "name=value", id="a value without a name"),
        pytest.param(b'{"Action": "DescribeVpcs"}', "InvalidQueryParameter", "name=value", id="JSON"),
        pytest.param(ec2("&".join(f"X.{i}=" for i in range(PARAMETERS_MAX))), "InvalidQueryParameter",
                     "more than 4096 parameters", id="too many parameters"),
        pytest.param(ec2(DESCRIBE + PARAMETERS_MAX * "&" + "NextToken=a&DryRun=true"), "InvalidQueryParameter",
                     "more than 4096 parameters", id="too many parameters, though most are empty"),
        pytest.param(b"x" * (BODY_BYTES_MAX + 1), "RequestEntityTooLarge", "bytes", id="too long a body"),
        pytest.param(ec2("Action=DescribeSpotPriceHistory&StartTime=2024-02-30T00:00:00Z"), "InvalidParameterValue",
                     "StartTime", id="a day that does not exist"),
        pytest.param(ec2("Action=DescribeSpotPriceHistory&StartTime=2024-01-01"), "InvalidParameterValue",
                     "StartTime", id="a day for a time"),
        pytest.param(ec2("Action=ImportKeyPair&KeyName=k&PublicKeyMaterial=%21"), "InvalidParameterValue",
                     "Expected base64", id="no base64"),
    ],
)  # fmt: skip
def test_parsing_refuses(request_: bytes, code: str, message: str) -> None:
    error = refusal(request_)
    assert error.code == code
    assert message in error.message
    assert error.status == (413 if code == "RequestEntityTooLarge" else 400)
    assert len(error.message) < 400


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain",
        f"{FORM}x",
        "application/x-www-form-urlencoded; charset=latin-1",
    ],
)
def test_a_body_of_another_content_type_is_refused(content_type: str) -> None:
    assert refusal(ec2("Action=DescribeVpcs"), content_type).code == "InvalidQueryParameter"


def test_a_body_of_the_greatest_length_and_count_is_parsed() -> None:
    names = [f"{index:x}".rjust(200, "-") for index in range(PARAMETERS_MAX - 2)]
    fields = [("Action", "DescribeVpcs"), ("Version", "2016-11-15")]
    fields += [(f"VpcId.{index}", name) for index, name in enumerate(names, 1)]
    request = urlencode(fields).encode()
    assert len(fields) == PARAMETERS_MAX
    assert len(request) <= BODY_BYTES_MAX
    assert parse("ec2", FORM, request).parameters == {"VpcIds": names}


def outcome(service_name: str, content_type: str, request: bytes) -> Call | ApiError:
    try:
        return parse(service_name, content_type, request)
    except ApiError as error:
        return error


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(["ec2", "sts"]), st.just(FORM) | st.text(max_size=30), st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_never_break_the_parser(
    service_name: str, content_type: str, request: bytes
) -> None:
    assert isinstance(outcome(service_name, content_type, request), ApiError)


PARTS = st.sampled_from(
    ["Filter", "Name", "Value", "Values", "TagSpecification", "Tag", "Key", "ResourceId", "DryRun", "MaxResults",
     "SessionNumber", "1", "2", "3", "0", "01", "-1", "999999999", "member", "", "é", "Action", "Version"]
)  # fmt: skip
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join) | st.text(max_size=6)
VALUES = st.sampled_from(["", "true", "1", "99999999999", "-1", "x", "\x00", "\ud800"]) | st.text(max_size=6)


@settings(max_examples=examples(500), deadline=None)
@given(st.sampled_from(TRAFFIC_MIRROR + INVENTORY), st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_junk_that_looks_like_a_form_gives_a_call_or_an_api_error(operation: str, junk: list[tuple[str, str]]) -> None:
    fields = "&".join(
        f"{quote(name, errors='surrogatepass')}={quote(value, errors='surrogatepass')}" for name, value in junk
    )
    result = outcome("ec2", FORM, ec2(f"Action={operation}&{fields}"))
    assert isinstance(result, ApiError) or result.operation == operation

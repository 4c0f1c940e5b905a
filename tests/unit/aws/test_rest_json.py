"""A path, a query and a JSON body become a call or a refusal, whatever they are; and a result JSON."""

from typing import Any

import msgspec
import pytest
from botocore.awsrequest import AWSRequest
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pktmirror.aws import SERVICES, ApiError, rest_json
from tests.budget import examples

from .client import fitting, model, scalars

OPERATIONS = sorted(SERVICES["ram"].operations or ())
SHARE = "arn:aws:ram:local-1:111122223333:resource-share/x"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("name", "tags", "key", "value", "principals", "maxResults", "x")), inner)
    ),
    max_leaves=12,
)


def parsed(path: str, query: str = "", body: bytes = b"", method: str = "POST") -> Any:
    return rest_json.parse("ram", method, path, query, body)


def refusal(path: str, query: str = "", body: bytes = b"", method: str = "POST") -> ApiError:
    with pytest.raises(ApiError) as refused:
        parsed(path, query, body, method)
    return rest_json.refusal(refused.value)


def test_the_path_names_the_operation_and_the_body_what_is_asked() -> None:
    call = parsed("/createresourceshare", body=b'{"name": "a", "principals": ["1"], "clientToken": null}')
    assert (call.service, call.operation) == ("ram", "CreateResourceShare")
    assert call.parameters == {"name": "a", "principals": ["1"]}
    assert parsed("/getresourceshareinvitations").parameters == {}


def test_what_the_model_places_in_the_query_is_read_there_and_nowhere_else() -> None:
    query = "resourceShareArn=arn%3Aaws%3Aram%3Ax&clientToken=a+b"
    call = parsed("/deleteresourceshare", query, method="DELETE")
    assert call.parameters == {"resourceShareArn": "arn:aws:ram:x", "clientToken": "a b"}
    for wrong in (
        refusal("/deleteresourceshare", "resourceShareArn=a&resourceShareArn=b", method="DELETE"),
        refusal("/deleteresourceshare", "resourceShareArn=a&other=b", method="DELETE"),
        refusal("/deleteresourceshare", "resourceShareArn=%ff", method="DELETE"),
        refusal("/deleteresourceshare", "resourceShareArn=a", b'{"clientToken": "b"}', method="DELETE"),
        refusal("/updateresourceshare", "resourceShareArn=a", b'{"resourceShareArn": "a"}'),
    ):
        assert (wrong.code, wrong.status) == ("InvalidParameterException", 400)
    missing = refusal("/deleteresourceshare", body=b'{"resourceShareArn": "a"}', method="DELETE")
    assert missing.code == "InvalidParameterException"
    assert refusal("/deleteresourceshare", method="DELETE").code == "MissingRequiredParameterException"


def test_an_unknown_action_is_refused_as_by_the_other_protocols() -> None:
    for path, method in (
        ("/nosuchaction", "POST"),
        ("/", "POST"),
        ("/createresourceshare", "DELETE"),
        ("/createpermission", "POST"),  # in the model, and not offered
        ("/%63reateresourceshare", "POST"),
    ):
        assert refusal(path, method=method, body=b"{}").code == "InvalidAction", path


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[]", "SerializationException"),
        (b"{", "SerializationException"),
        (b'{"name": 1}', "InvalidParameterException"),
        (b'{"name": "a", "principals": "1"}', "InvalidParameterException"),
        (b'{"name": "a", "Name": "a"}', "InvalidParameterException"),
        (b'{"name": "a\\u0000"}', "InvalidParameterException"),
        (b'{"name": "a", "tags": [{"key": "\\u0001"}]}', "InvalidParameterException"),
        (b"{}", "MissingRequiredParameterException"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_rams_codes(body: bytes, code: str) -> None:
    assert refusal("/createresourceshare", body=body).code == code


def test_an_error_has_its_code_in_a_header_and_the_models_status() -> None:
    body, headers = rest_json.failure(ApiError("UnknownResourceException", "no such share"))
    assert (msgspec.json.decode(body), headers) == (
        {"message": "no such share"},
        {"x-amzn-ErrorType": "UnknownResourceException"},
    )
    modelled = {
        name: shape["error"]["httpStatusCode"]
        for name, shape in model("ram")._shape_resolver._shape_map.items()
        if "error" in shape
    }
    for code in ("InternalError", "Unavailable", "RequestLimitExceeded", "InvalidParameterValue", "TagLimitExceeded"):
        error = rest_json.refusal(ApiError(code, "x"))
        assert error.status == modelled[error.code], code
    assert rest_json.refusal(ApiError("AuthFailure", "x")).code == "AuthFailure"


def status_of(method: str, path: str, query: str, body: bytes) -> int | None:
    """Of a refusal; None: it is a call."""
    try:
        parsed(path, query, body, method)
    except ApiError as error:
        return rest_json.refusal(error).status
    return None


@settings(deadline=None)
@given(st.sampled_from(("/createresourceshare", "/getresourceshares", "/tagresource")), ANYTHING)
def test_any_document_is_a_call_or_a_refusal(path: str, asked: object) -> None:
    assert status_of("POST", path, "", msgspec.json.encode(asked)) in (None, 400)


@settings(deadline=None)
@given(st.text(max_size=60), st.binary(max_size=60))
def test_any_query_and_any_bytes_are_a_call_or_a_refusal(query: str, body: bytes) -> None:
    for method, path in (("DELETE", "/deleteresourceshare"), ("POST", "/listresources")):
        assert status_of(method, path, query, body) in (None, 400)


def fits(shape: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Times are whole seconds, as botocore writes them."""
    return fitting(shape, scalars(time_resolution_us=1_000_000), empty_lists=True, empty_structures=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_botocore_serializes_is_parsed_back_to_the_same_call(operation: str, data: st.DataObject) -> None:
    modelled = model("ram").operation_model(operation)
    asked = data.draw(fits(modelled.input_shape))
    request = create_serializer("rest-json", include_validation=False).serialize_to_request(asked, modelled)
    sent = AWSRequest(
        request["method"],
        f"http://localhost{request['url_path']}",
        data=request["body"],
        params=request["query_string"],
    ).prepare()
    path, _, query = sent.url.removeprefix("http://localhost").partition("?")
    call = rest_json.parse("ram", sent.method, path, query, sent.body or b"")
    assert call.operation == operation
    assert call.parameters == asked


@pytest.mark.parametrize("operation", OPERATIONS)
@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_botocore_reads_the_result_that_was_written(operation: str, data: st.DataObject) -> None:
    shape = model("ram").operation_model(operation).output_shape
    result = data.draw(fits(shape))
    answer = {"body": rest_json.success(result), "headers": {}, "status_code": 200}
    read = create_parser("rest-json").parse(answer, shape)
    read.pop("ResponseMetadata")
    assert read == result

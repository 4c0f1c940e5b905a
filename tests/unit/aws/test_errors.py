"""Refusals carry EC2's code, EC2's wording and an HTTP status."""

import pytest

from pktmirror.aws import ApiError, errors


@pytest.mark.parametrize(
    ("error", "code", "message", "status"),
    [
        (errors.missing_parameter("Tag"), "MissingParameter", "The request must contain the parameter Tag", 400),
        (errors.unknown_parameter("Filter.1.X"), "UnknownParameter", "The parameter Filter.1.X is not recognized", 400),
        (
            errors.invalid_value("MaxResults", "4", "Expected 5 to 1000"),
            "InvalidParameterValue",
            "Value (4) for parameter MaxResults is invalid. Expected 5 to 1000.",
            400,
        ),
        (errors.invalid_parameter_value("a"), "InvalidParameterValue", "a", 400),
        (errors.invalid_parameter_combination("a"), "InvalidParameterCombination", "a", 400),
        (errors.invalid_action("Fly"), "InvalidAction", "The action Fly is not valid for this web service.", 400),
        (errors.unsupported_operation("a"), "UnsupportedOperation", "a", 400),
        (
            errors.dry_run_operation(),
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
            412,
        ),
        (
            errors.auth_failure(),
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            401,
        ),
        (errors.internal_error(), "InternalError", "An internal error has occurred", 500),
        (ApiError("UnauthorizedOperation", "a"), "UnauthorizedOperation", "a", 403),
        (ApiError("TrafficMirrorFilterInUse", "a"), "TrafficMirrorFilterInUse", "a", 400),
        (ApiError("InternalError", "a", 599), "InternalError", "a", 599),
    ],
    ids=lambda value: value.code if isinstance(value, ApiError) else "",
)
def test_an_error_says_its_code_its_sentence_and_its_status(
    error: ApiError, code: str, message: str, status: int
) -> None:
    assert (error.code, error.message, error.status) == (code, message, status)
    assert str(error) == f"{code}: {message}"


def test_what_the_client_sent_is_cut_before_it_is_repeated() -> None:
    assert len(errors.unknown_parameter("x" * 100_000).message) < 200
    assert len(errors.invalid_value("y" * 100_000, "x" * 100_000, "Expected less").message) < 300

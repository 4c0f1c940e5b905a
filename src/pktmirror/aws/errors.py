"""What the API answers when it refuses: EC2's code, EC2's wording, the HTTP status.

Clients act on the code alone; the message is for people. The codes are those of AWS's pages "Error codes for the
Amazon EC2 API" and "Common Errors"; spec 2.3 lists those of traffic mirroring. A code that is not in
`HTTP_STATUS` travels with 400.
"""

from collections.abc import Mapping

HTTP_STATUS: Mapping[str, int] = {
    "AccessDenied": 403,
    "AuthFailure": 401,
    "DryRunOperation": 412,
    "IncompleteSignature": 400,
    "InternalError": 500,
    "InvalidClientTokenId": 403,
    "MissingAuthenticationToken": 403,
    "NoSuchEntity": 404,
    "RequestEntityTooLarge": 413,
    "RequestExpired": 400,
    "RequestLimitExceeded": 503,
    "SignatureDoesNotMatch": 403,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}
"""The statuses of the codes; spec 2.3 marks them as general EC2 knowledge, since SDKs read the code only."""

_ECHO_CHARACTERS_MAX = 100


class ApiError(Exception):
    """A refusal on the wire. ``status`` is the HTTP status: the table's, or 400."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = HTTP_STATUS.get(code, 400) if status is None else status


def echo(text: str) -> str:
    """What the client sent, short enough to stand in a message."""
    return text if len(text) <= _ECHO_CHARACTERS_MAX else f"{text[:_ECHO_CHARACTERS_MAX]}…"


def missing_parameter(name: str) -> ApiError:
    return ApiError("MissingParameter", f"The request must contain the parameter {echo(name)}")


def unknown_parameter(name: str) -> ApiError:
    return ApiError("UnknownParameter", f"The parameter {echo(name)} is not recognized")


def invalid_parameter_value(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def invalid_value(name: str, value: str, expected: str) -> ApiError:
    """EC2's sentence for one value of one parameter; ``expected`` ends it: "Expected a 32-bit integer"."""
    return invalid_parameter_value(f"Value ({echo(value)}) for parameter {echo(name)} is invalid. {expected}.")


def invalid_max_results(value: str, expected: str) -> ApiError:
    """Of a page that is too short or too long."""
    return ApiError(
        "InvalidMaxResults", f"Value ({echo(value)}) for parameter MaxResults is invalid. {expected}. It is 5 to 1000"
    )


def invalid_filter(name: str, offered: str) -> ApiError:
    """Of a describe call; ``offered`` are the filters that it has."""
    return ApiError("InvalidFilter", f"The filter '{echo(name)}' is invalid. Offered here: {offered}")


def invalid_parameter_combination(message: str) -> ApiError:
    return ApiError("InvalidParameterCombination", message)


def invalid_action(action: str) -> ApiError:
    return ApiError("InvalidAction", f"The action {echo(action)} is not valid for this web service.")


def unsupported_operation(message: str) -> ApiError:
    return ApiError("UnsupportedOperation", message)


def dry_run_operation() -> ApiError:
    """The answer to a call with DryRun that would have succeeded."""
    return ApiError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")


def auth_failure() -> ApiError:
    """The same words for an unknown key and for a wrong signature, as EC2 has it."""
    return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials")


def internal_error() -> ApiError:
    return ApiError("InternalError", "An internal error has occurred")

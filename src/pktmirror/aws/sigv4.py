"""Who signed a request: AWS Signature Version 4, the server's half.

Pure: the secret comes from a function, the time is an argument. Written from AWS's page "Create a signed AWS API
request" and not on top of botocore's signer, which stands on the other side in the tests.

A signature covers the method, the path, the query, the signed headers and the body; nothing else of a request
is to be believed. `host` and `x-amz-date` are always among the signed headers.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from botocore.utils import normalize_url_path

from pktmirror.aws.errors import ApiError, auth_failure, echo, unsupported_operation

SKEW_S_MAX = 300

_ALGORITHM = "AWS4-HMAC-SHA256"
_DATE_FORMAT = "%Y%m%dT%H%M%SZ"
_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SCOPE = re.compile(r"([\w+=,.@-]{1,128})/([0-9]{8})/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/aws4_request", re.ASCII)
_HEADER_NAMES = re.compile(r"[a-z0-9_-]+(;[a-z0-9_-]+)*")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignedRequest:
    """A request as it came. ``path`` and ``query`` are still percent-encoded, ``query`` without its ``?``.

    Header names are in any case; header values are text, one byte a character.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Signer:
    """Whose secret made the signature, and for which region and service it was made."""

    access_key_id: str
    region: str
    service: str


@dataclass(frozen=True, slots=True)
class _Claim:
    """The Authorization header, parsed and not yet believed."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def verify(
    request: SignedRequest,
    secret_of: Callable[[str], str | None],
    now: datetime,
    *,
    services: frozenset[str],
    skew_s_max: int = SKEW_S_MAX,
) -> Signer:
    """Who made the signature, or an ApiError.

    ``secret_of`` gives the secret of an access key id, None for one that does not exist; ``now`` has a zone.
    Errors: MissingAuthenticationToken; UnsupportedOperation (presigned); InvalidClientTokenId (a session token:
    none is issued here); IncompleteSignature (malformed); RequestExpired (the clocks differ by more than
    ``skew_s_max``); AuthFailure (no such key or, for ec2, a wrong signature); SignatureDoesNotMatch (a wrong
    signature for another service, or a scope that names none of ``services``).
    """
    headers = _by_name(request.headers)
    _refuse_other_ways(request.query, headers)
    claim = _claim(_only(headers, "authorization"))
    if claim.service not in services:
        expected = ", ".join(sorted(services))
        raise ApiError("SignatureDoesNotMatch", f"Credential should be scoped to a correct service: one of {expected}")
    stamp = _only(headers, "x-amz-date")
    _check_time(claim, stamp, now, skew_s_max)
    missing = [name for name in claim.signed_headers if name not in headers]
    if missing:
        raise _incomplete(f"the signed header {echo(missing[0])} is not in the request")
    secret = secret_of(claim.access_key_id)
    if secret is None:
        raise auth_failure()
    payload_hash = hashlib.sha256(request.body).hexdigest()
    if headers.get("x-amz-content-sha256", [payload_hash]) != [payload_hash]:
        raise _incomplete("x-amz-content-sha256 must be the SHA-256 of the body; a payload cannot go unsigned")
    try:
        computed = _signature(secret, claim, stamp, _canonical(request, headers, claim, payload_hash))
    except UnicodeEncodeError:  # a lone surrogate: no client signed that
        raise _mismatch(claim.service) from None
    if not hmac.compare_digest(computed, claim.signature):
        raise _mismatch(claim.service)
    return Signer(claim.access_key_id, claim.region, claim.service)


def claimed_service(request: SignedRequest, *, services: frozenset[str], otherwise: str = "ec2") -> str:
    """Which of ``services`` an unverified request says it is for: good for the form of an error answer only."""
    for name, value in request.headers:
        if name.lower() == "authorization":
            scope = _SCOPE.search(value)
            return scope[4] if scope and scope[4] in services else otherwise
    return otherwise


def _by_name(headers: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = {}
    for name, value in headers:
        by_name.setdefault(name.lower(), []).append(value)
    return by_name


def _refuse_other_ways(query: str, headers: dict[str, list[str]]) -> None:
    """What is not a signature in the Authorization header with a key of our own is refused by name."""
    presigned = any(pair.partition("=")[0].lower() == "x-amz-signature" for pair in query.split("&"))
    if presigned:
        raise unsupported_operation("Presigned requests are not supported; sign with the Authorization header.")
    if "x-amz-security-token" in headers:
        raise ApiError("InvalidClientTokenId", "The security token included in the request is invalid.")
    if "authorization" not in headers:
        raise ApiError("MissingAuthenticationToken", "The request must contain a valid AWS access key ID")


def _only(headers: dict[str, list[str]], name: str) -> str:
    values = headers.get(name, [])
    if len(values) != 1:
        raise _incomplete(f"it must have one {name} header and has {len(values)}")
    return values[0]


def _claim(authorization: str) -> _Claim:
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != _ALGORITHM:
        raise _incomplete(f"the Authorization header must begin with {_ALGORITHM}")
    fields = [field.strip().partition("=") for field in rest.split(",")]
    named = {name: value for name, _, value in fields}
    if len(fields) != 3 or named.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise _incomplete("the Authorization header must have Credential, SignedHeaders and Signature, once each")
    scope = _SCOPE.fullmatch(named["Credential"])
    if scope is None:
        raise _incomplete("Credential must be <access key id>/<yyyymmdd>/<region>/<service>/aws4_request")
    names = tuple(named["SignedHeaders"].split(";"))
    if _HEADER_NAMES.fullmatch(named["SignedHeaders"]) is None or list(names) != sorted(set(names)):
        raise _incomplete("SignedHeaders must be lower-case names in order, each once, with ; between them")
    for required in ("host", "x-amz-date"):
        if required not in names:
            raise _incomplete(f"the header {required} must be signed")
    if _SIGNATURE.fullmatch(named["Signature"]) is None:
        raise _incomplete("Signature must be 64 hexadecimal digits in lower case")
    return _Claim(scope[1], scope[2], scope[3], scope[4], names, named["Signature"])


def _check_time(claim: _Claim, stamp: str, now: datetime, skew_s_max: int) -> None:
    try:
        if _DATE.fullmatch(stamp) is None:
            raise ValueError(stamp)
        signed_at = datetime.strptime(stamp, _DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete(f"x-amz-date must look like 20240131T235959Z, not {echo(stamp)}") from None
    if claim.date != stamp[:8]:
        raise _incomplete(f"the date of the credential scope is {claim.date} and that of x-amz-date {stamp[:8]}")
    if abs((now - signed_at).total_seconds()) > skew_s_max:
        server_time = now.astimezone(UTC).strftime(_DATE_FORMAT)
        raise ApiError(
            "RequestExpired",
            f"Request has expired. It is signed at {stamp} and the time here is {server_time}; they may differ "
            f"by {skew_s_max} seconds. Set the clock of the client.",
        )


def _canonical(request: SignedRequest, headers: dict[str, list[str]], claim: _Claim, payload_hash: str) -> str:
    query = sorted(pair.partition("=")[::2] for pair in request.query.split("&")) if request.query else []
    return "\n".join(
        (
            request.method,
            quote(normalize_url_path(request.path), safe="/~"),  # encoded twice, as every service but S3 has it
            "&".join(f"{name}={value}" for name, value in query),
            *(
                f"{name}:{','.join(' '.join(value.split()) for value in headers[name])}"
                for name in claim.signed_headers
            ),
            "",
            ";".join(claim.signed_headers),
            payload_hash,
        )
    )


def _signature(secret: str, claim: _Claim, stamp: str, canonical: str) -> str:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in claim.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"{_ALGORITHM}\n{stamp}\n{claim.scope}\n{digest}".encode(), "sha256").hex()


def _incomplete(what: str) -> ApiError:
    return ApiError("IncompleteSignature", f"The request signature does not conform to AWS standards: {what}.")


def _mismatch(service: str) -> ApiError:
    """EC2 does not say why; the other services say that it is the signature."""
    if service == "ec2":
        return auth_failure()
    return ApiError(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your secret access key and signing method.",
    )

"""What is read of a request, and how an answer of our own API is written. An edge module."""

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pktmirror.aws import ApiError, SignedRequest, errors, json, rest_json
from pktmirror.model.template import is_full_name

FORM_TYPE = "application/x-www-form-urlencoded"
CLAIMED_BYTES_MAX = 4096

_CLAIMED_ACTION = re.compile(rb"(?:^|&)Action=([A-Za-z0-9]{1,128})(?:&|$)")
_CLAIMED_KEY = re.compile(r"Credential=([\w+=,.@-]{1,128})/", re.ASCII)
_ACTION_NAME = re.compile(r"[A-Za-z0-9]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """A route of our own API, below ``/pktmirror/v1``.

    With an ``action``, as a policy calls it, only who has signed and may do that gets to ``answer``, and the body is
    ``request.state.body``. Without one ``answer`` is open, or asks for a token or a certificate itself.
    """

    method: str
    path: str
    answer: Callable[[Request], Awaitable[Response]]
    action: str | None = None


async def read_signed(request: Request, bytes_max: int) -> SignedRequest:
    """The request as its sender signed it."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    body = await read_body(request, bytes_max)
    return SignedRequest(request.method, path.decode("latin-1"), query.decode("latin-1"), headers, body)


async def read_body(request: Request, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise ApiError("RequestEntityTooLarge", f"The request body has more than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def form_of(signed: SignedRequest, content_type: str) -> tuple[str, bytes]:
    """The content type and the text of a form: the body, or the query of a GET."""
    if signed.method == "GET":
        return FORM_TYPE, signed.query.encode("latin-1")
    return content_type, signed.body


def claimed_action(signed: SignedRequest) -> str:
    """Which operation an unverified request says it is: good for the audit log only."""
    if signed.path != rest_json.ROOT:
        return rest_json.operation_at(signed.method, signed.path) or "Unknown"
    target = next((value for name, value in signed.headers if name.lower() == json.TARGET_HEADER), "")
    found = _CLAIMED_ACTION.search(form_of(signed, "")[1][:CLAIMED_BYTES_MAX])
    name = target.rpartition(".")[2] if target else found[1].decode() if found else ""
    return name if _ACTION_NAME.fullmatch(name) else "Unknown"


def claimed_key_id(request: Request) -> str | None:
    """Which access key an unverified request names: good for the audit log only."""
    claimed = _CLAIMED_KEY.search(request.headers.get("authorization", ""))
    return None if claimed is None else claimed[1]


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise errors.invalid_parameter_value(f"The body cannot be read: {error}") from None


def text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_parameter_value(f"The body is no text: {error.reason} at byte {error.start}") from None


def name_of(request: Request) -> str:
    return checked_name(request.path_params["name"])


def checked_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise errors.invalid_value("name", name, "Expected letters, digits, '.', '_' and '-'")
    return name


def template_name_of(request: Request) -> str:
    name = f"{request.path_params['document']}/{request.path_params['name']}"
    if not is_full_name(name):
        raise errors.invalid_value("name", name, "Expected a document's name and one in it, as in office/web")
    return name


def number_of(request: Request, name: str, otherwise: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", text) is None:
        raise errors.invalid_value(name, text, "Expected a number")
    return float(text)


def as_json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def require_token(request: Request, expected: bytes, file: str) -> None:
    """AuthFailure unless the bearer token is that of a file of the state directory."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected):
        raise ApiError("AuthFailure", f"The bearer token is not the one in STATE/{file} of the control plane", 401)

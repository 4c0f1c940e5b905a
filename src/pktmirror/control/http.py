"""The sockets' side of the control plane: EC2 and STS at ``/``, and an API of our own beside it.

============================================  ======================================================
``POST /``                                    EC2 and STS, signed (SigV4); XML
``GET /pktmirror/v1/agents/HOST/desired``     long poll of an agent, bearer token; JSON, or 204
``POST /pktmirror/v1/agents/HOST/report``     an agent's report, bearer token
``POST /pktmirror/v1/monitors/ID/report``     a monitor's report, bearer token
``GET /pktmirror/v1/status``                  signed for the service ``pktmirror``; JSON; likewise
                                              ``ledger`` (``?rules=1``: of each rule too),
                                              ``interfaces`` and ``hosts/HOST/desired``
``DELETE /pktmirror/v1/hosts/HOST``           signed likewise: forget a host that reports no more,
                                              with its interfaces and their sessions; 204
``DELETE /pktmirror/v1/interfaces/ENI``       signed: delete an interface that is gone, with its sessions
``GET /pktmirror/v1/networks``                signed: the declaration of networks, and what it means
``PUT /pktmirror/v1/networks``                signed: another declaration (TOML); the changes, as JSON
``PUT /pktmirror/v1/interfaces/ENI/address``  signed: declare its primary address (plain text); ``DELETE``
                                              takes the declared one away; the changes, as JSON
============================================  ======================================================

Every refusal has a code and is counted by it. What goes wrong here is logged, and nothing of it is in the answer.
An edge module.
"""

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pktmirror.aws import (
    BODY_BYTES_MAX,
    CONTENT_TYPE,
    SERVICES,
    ApiError,
    SignedRequest,
    claimed_service,
    errors,
    failure,
    parse,
    success,
    verify,
)
from pktmirror.control.plane import ControlPlane
from pktmirror.control.reports import MonitorReport
from pktmirror.desired import decode_report, encode

REPORT_BYTES_MAX = 16 * 1024 * 1024
WAIT_S_MAX = 60.0
OWN_SERVICE = "pktmirror"
FORGET_EVERY_S = 1.0
CLIENT_DISCONNECTED = "ClientDisconnected"
"""Counted like a refusal; no client ever sees it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_log = structlog.get_logger("control")
T = TypeVar("T")

WELCOME = """This is pktmirror's control plane: Amazon EC2's traffic mirroring API for a Linux network of your own.
Use an AWS client with this address as its endpoint, for example:
  aws ec2 describe-traffic-mirror-sessions --endpoint-url URL
`pktmirror env` prints the credentials' environment.
"""


class Revisions:
    """Wakes the long polls when desired state may have changed. Belongs to one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._revision: int | None = None
        self.stopping = False

    def next(self) -> asyncio.Event:
        """Take it before looking at the revision; it is set by whatever changes afterwards."""
        return self._changed

    def reached(self, revision: int) -> None:
        """Wakes the long polls when this is another revision than before."""
        if revision != self._revision:
            self._revision = revision
            self._wake()

    def stop(self) -> None:
        """Every long poll is answered now."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Endpoint:
    """The routes over one control plane. ``agent_token`` is what agents and monitors show."""

    def __init__(self, plane: ControlPlane, agent_token: str, *, started: Callable[[], None] = lambda: None) -> None:
        self.revisions = Revisions()
        self._plane = plane
        self._agent_token = agent_token.encode()
        self._started = started

    def app(self) -> Starlette:
        own = "/pktmirror/v1"
        routes = [
            Route("/", self._aws, methods=["POST"]),
            Route("/", _welcome, methods=["GET"]),
            Route(f"{own}/agents/{{name}}/desired", self._own(self._agents_desired), methods=["GET"]),
            Route(f"{own}/agents/{{name}}/report", self._own(self._agent_report), methods=["POST"]),
            Route(f"{own}/monitors/{{name}}/report", self._own(self._monitor_report), methods=["POST"]),
            Route(f"{own}/status", self._own(self._status), methods=["GET"]),
            Route(f"{own}/ledger", self._own(self._ledger), methods=["GET"]),
            Route(f"{own}/interfaces", self._own(self._interfaces), methods=["GET"]),
            Route(f"{own}/interfaces/{{name}}", self._own(self._forget_interface), methods=["DELETE"]),
            Route(f"{own}/interfaces/{{name}}/address", self._own(self._set_address), methods=["PUT", "DELETE"]),
            Route(f"{own}/networks", self._own(self._networks), methods=["GET"]),
            Route(f"{own}/networks", self._own(self._declare), methods=["PUT"]),
            Route(f"{own}/hosts/{{name}}/desired", self._own(self._desired), methods=["GET"]),
            Route(f"{own}/hosts/{{name}}", self._own(self._forget_host), methods=["DELETE"]),
        ]
        return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        forgetting = asyncio.create_task(self._forget())
        self._started()
        try:
            yield
        finally:
            forgetting.cancel()

    async def _forget(self) -> None:
        while True:
            try:
                await self._changing(self._plane.forget_interfaces, time.time())
            except Exception:  # the next turn may succeed; what failed is in the log
                _log.exception("interfaces that are gone could not be forgotten")
            await asyncio.sleep(FORGET_EVERY_S)

    async def _aws(self, request: Request) -> Response:
        request_id = str(uuid.uuid4())
        service = "ec2"
        try:
            signed = await _signed(request, BODY_BYTES_MAX)
            service = claimed_service(signed, services=frozenset(SERVICES), otherwise=service)
            identity = await run_in_threadpool(
                verify, signed, self._plane.secret_of, datetime.now(UTC), services=frozenset(SERVICES)
            )
            service = identity.service
            call = parse(service, request.headers.get("content-type", ""), signed.body)
            result = await self._changing(self._plane.perform, call, time.time())
            return Response(success(call, result, request_id), 200, media_type=CONTENT_TYPE)
        except ApiError as refusal:
            error = refusal
        except ClientDisconnect:
            return self._hung_up()
        except Exception:
            _log.exception("a request failed", request_id=request_id)
            error = errors.internal_error()
        self._plane.refused.count(error.code)
        return Response(failure(service, error, request_id), error.status, media_type=CONTENT_TYPE)

    def _own(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A route of our own API: the same errors, as JSON."""

        async def guarded(request: Request) -> Response:
            try:
                return await answer(request)
            except ApiError as refusal:
                error = refusal
            except ClientDisconnect:
                return self._hung_up()
            except Exception:
                _log.exception("a request failed", path=request.url.path)
                error = errors.internal_error()
            self._plane.refused.count(error.code)
            return _json({"code": error.code, "message": error.message}, error.status)

        return guarded

    def _hung_up(self) -> Response:
        """The client went away before its request was whole: nothing was done, and nobody reads the answer."""
        self._plane.refused.count(CLIENT_DISCONNECTED)
        return Response(status_code=400)

    async def _agents_desired(self, request: Request) -> Response:
        self._require_token(request)
        host_id = _name(request)
        after = _number(request, "after", -1.0)
        until_s = time.monotonic() + min(_number(request, "wait_s", 0.0), WAIT_S_MAX)
        while True:
            changed = self.revisions.next()
            if await run_in_threadpool(self._revision) != after:
                return _json(await run_in_threadpool(self._plane.desired, host_id))
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self.revisions.stopping:
                return Response(status_code=204)
            try:
                await asyncio.wait_for(changed.wait(), left_s)
            except TimeoutError:
                return Response(status_code=204)

    async def _agent_report(self, request: Request) -> Response:
        self._require_token(request)
        host_id = _name(request)
        report = _decoded(decode_report, await _body(request, REPORT_BYTES_MAX))
        if report.host_id != host_id:
            raise errors.invalid_parameter_value(
                f"The report is of host {errors.echo(report.host_id)} and was sent for {host_id}"
            )
        await self._changing(self._plane.agent_reported, report, time.time())
        return Response(status_code=204)

    async def _monitor_report(self, request: Request) -> Response:
        self._require_token(request)
        monitor_id = _name(request)
        body = await _body(request, REPORT_BYTES_MAX)
        report = _decoded(lambda document: msgspec.json.decode(document, type=MonitorReport), body)
        if not self._plane.monitor_reported(monitor_id, report, time.time()):
            raise ApiError("MonitorLimitExceeded", "Too many monitors report here; restart to forget those gone")
        return Response(status_code=204)

    async def _status(self, request: Request) -> Response:
        await self._require_signature(request)
        return _json(await run_in_threadpool(self._plane.status, time.time()))

    async def _ledger(self, request: Request) -> Response:
        await self._require_signature(request)
        with_rules = _number(request, "rules", 0.0) != 0
        return _json(await run_in_threadpool(self._plane.ledger, time.time(), with_rules=with_rules))

    async def _interfaces(self, request: Request) -> Response:
        await self._require_signature(request)
        return _json(await run_in_threadpool(self._plane.interfaces))

    async def _desired(self, request: Request) -> Response:
        await self._require_signature(request)
        return Response(encode(await run_in_threadpool(self._plane.desired, _name(request))), 200)

    async def _forget_host(self, request: Request) -> Response:
        await self._require_signature(request)
        await self._changing(self._plane.forget_host, _name(request), time.time())
        return Response(status_code=204)

    async def _forget_interface(self, request: Request) -> Response:
        await self._require_signature(request)
        await self._changing(self._plane.forget_interface, _name(request), time.time())
        return Response(status_code=204)

    async def _networks(self, request: Request) -> Response:
        await self._require_signature(request)
        return _json(await run_in_threadpool(self._plane.declared))

    async def _declare(self, request: Request) -> Response:
        text = _text(await self._require_signature(request))
        return _json(await self._changing(self._plane.declare, text, time.time()))

    async def _set_address(self, request: Request) -> Response:
        text = _text(await self._require_signature(request))
        address = None if request.method == "DELETE" else text.strip()
        return _json(await self._changing(self._plane.set_address, _name(request), address, time.time()))

    async def _changing(self, change: Callable[..., T], *arguments: Any) -> T:
        """Run what may change desired state, and wake who waits for that."""
        result = await run_in_threadpool(change, *arguments)  # what fails has changed nothing
        self.revisions.reached(await run_in_threadpool(self._revision))
        return result

    def _revision(self) -> int:
        return self._plane.revision

    def _require_token(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._agent_token):
            raise ApiError(
                "AuthFailure", "The bearer token is not the one in STATE/agent-token of the control plane", 401
            )

    async def _require_signature(self, request: Request) -> bytes:
        """The body, which the signature covers."""
        signed = await _signed(request, BODY_BYTES_MAX)
        await run_in_threadpool(
            verify, signed, self._plane.secret_of, datetime.now(UTC), services=frozenset({OWN_SERVICE})
        )
        return signed.body


class SecurityHeaders:
    """Nothing here is a page, and no browser shall keep, frame or guess at it."""

    HEADERS = (
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self.HEADERS]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _welcome(_request: Request) -> Response:
    return PlainTextResponse(WELCOME)


async def _signed(request: Request, bytes_max: int) -> SignedRequest:
    """The request as its sender signed it."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    body = await _body(request, bytes_max)
    return SignedRequest(request.method, path.decode("latin-1"), query.decode("latin-1"), headers, body)


async def _body(request: Request, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise ApiError("RequestEntityTooLarge", f"The request body has more than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except msgspec.DecodeError as error:
        raise errors.invalid_parameter_value(f"The report cannot be read: {error}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_parameter_value(f"The body is no text: {error.reason} at byte {error.start}") from None


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if _NAME.fullmatch(name) is None:
        raise errors.invalid_value("name", name, "Expected letters, digits, '.', '_' and '-'")
    return name


def _number(request: Request, name: str, otherwise: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return otherwise
    if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", text) is None:
        raise errors.invalid_value(name, text, "Expected a number")
    return float(text)


def _json(document: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")

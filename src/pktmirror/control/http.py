"""The sockets' side of the control plane: EC2 and STS at ``/``, and an API of our own beside it.

============================================  ======================================================
``POST /``                                    EC2 and STS, signed (SigV4); XML; and CloudWatch; JSON
``POST /createresourceshare`` …               RAM, a path for each operation, signed; JSON
``GET /?Action=…``                            the same of EC2 and STS, the form in the place of the query
``GET /pktmirror/v1/ca``                      the certificate of the own CA, where there is TLS; PEM
``POST /pktmirror/v1/join-tokens``            signed for the service ``pktmirror``: make a token for a host
``POST /pktmirror/v1/join``                   a token and a request for a certificate: the certificate of a host
``POST /pktmirror/v1/agents/HOST/certificate`` by TLS, with the host's certificate: its next one
``DELETE /pktmirror/v1/hosts/HOST/certificates`` signed: revoke all certificates of a host; 204
``GET /pktmirror/v1/agents/HOST/desired``     long poll of an agent, bearer token; JSON, or 204
``POST /pktmirror/v1/agents/HOST/report``     an agent's report, bearer token
``GET /pktmirror/v1/agents/HOST/trace``       long poll: the live trace that is wanted of a host, or 204;
                                              ``POST``: what it tells, and the answer is whether to go on
``POST /pktmirror/v1/monitors/ID/report``     a monitor's report, bearer token
``GET /pktmirror/v1/agents/HOST/probes``      long poll of an agent: probes that it is to send; 204 for none
``POST /pktmirror/v1/agents/HOST/probes``     what became of them at the host
``POST /pktmirror/v1/sessions/TMS/probes``    signed for the service ``pktmirror``: ask for a probe, which shall
                                              arrive within ``?within_s=``; JSON, as that of the next
``GET /pktmirror/v1/probes/ID``               signed: what is known of a probe now
``GET /pktmirror/v1/status``                  signed for the service ``pktmirror``; JSON; likewise
                                              ``ledger`` (``?rules=1``: of each rule too),
                                              ``interfaces`` and ``hosts/HOST/desired``
``POST /pktmirror/v1/traces``                 signed likewise: begin a live trace
``GET /pktmirror/v1/traces/ID``               signed: its packets ``after`` so many, long poll; ``DELETE`` ends it
``DELETE /pktmirror/v1/hosts/HOST``           signed likewise: forget a host that reports no more,
                                              with its interfaces and their sessions; 204
``DELETE /pktmirror/v1/interfaces/ENI``       signed: delete an interface that is gone, with its sessions
``GET /metrics``                              all figures for Prometheus, bearer token (``metrics-token``)
``GET /pktmirror/v1/networks``                signed: the declaration of networks, and what it means
``PUT /pktmirror/v1/networks``                signed: another declaration (TOML); the changes, as JSON
``GET /pktmirror/v1/accounts``                signed: the accounts; ``POST /pktmirror/v1/accounts/NAME`` makes one,
                                              and its answer has the root's key; ``DELETE`` deletes it
``PUT /pktmirror/v1/assignments/ID``          signed: give an interface or VPC to an account (its name, plain
                                              text); ``DELETE`` takes it back
``PUT /pktmirror/v1/interfaces/ENI/address``  signed: declare its primary address (plain text); ``DELETE``
                                              takes the declared one away; the changes, as JSON
``GET /pktmirror/v1/templates``               signed: session templates, what each made, and why not more
``PUT /pktmirror/v1/templates/DOC/NAME``      signed: another template of that name (JSON), its sessions at once;
                                              ``DELETE``: it and its sessions; 204
============================================  ======================================================

What is signed is allowed or refused by the caller's policies, and is in the audit log (docs/reference/audit.md).
What an agent asks by TLS needs its host's certificate and no token, and what else it asks the token and no certificate.

Every refusal has a code and is counted by it. What goes wrong here is logged, and nothing of it is in the answer.
An edge module.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
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
    Call,
    SignedRequest,
    claimed_service,
    errors,
    failure,
    json,
    parse,
    rest_json,
    success,
    verify,
)
from pktmirror.control.connections import gave_up
from pktmirror.control.events import OWN_SERVICE, Event
from pktmirror.control.host_routes import HostRoutes
from pktmirror.control.joins import HOSTS, Joins
from pktmirror.control.own_routes import OwnRoutes
from pktmirror.control.plane import ControlPlane
from pktmirror.control.polls import Polls
from pktmirror.control.principals import Origin, Principal
from pktmirror.control.replicas import PROBES
from pktmirror.control.requests import (
    OwnRoute,
    as_json,
    claimed_action,
    claimed_key_id,
    form_of,
    read_signed,
    require_token,
)
from pktmirror.control.store import EVERYTHING
from pktmirror.control.tls import came_by_tls
from pktmirror.model.probe import probe_key

OWN_PATH = "/pktmirror/v1"
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FORGET_EVERY_S = 1.0
REQUEST_ID_HEADER = "x-amzn-RequestId"
CLIENT_DISCONNECTED = "ClientDisconnected"
"""Counted like a refusal; no client ever sees it."""

_log = structlog.get_logger("control")

WELCOME = """This is pktmirror's control plane: Amazon EC2's traffic mirroring API for a Linux network of your own.
Use an AWS client with this address as its endpoint, for example:
  aws ec2 describe-traffic-mirror-sessions --endpoint-url URL
`pktmirror env` prints the credentials' environment.
"""


@dataclass(slots=True)
class _Asked:
    """What is known of a request to AWS's side so far; good for its refusal, where that is all there ever is."""

    event: Event
    service: str


class Endpoint:
    """The routes over one control plane. ``agent_token`` is what agents and monitors show, ``metrics_token`` what may
    read the metrics. ``joins`` None: there is no TLS, so no host can join."""

    def __init__(
        self,
        plane: ControlPlane,
        agent_token: str,
        metrics_token: str,
        *,
        joins: Joins | None = None,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self.polls = Polls(plane)
        self._plane = plane
        self._hearings: set[asyncio.Future[None]] = set()  # the loop itself keeps no task alive
        self._metrics_token = metrics_token.encode()
        self._started = started
        self._own = [
            *HostRoutes(plane, self.polls, agent_token, joins).routes(),
            *OwnRoutes(plane, self.polls, probe_key(agent_token), joins).routes(),
        ]

    def app(self) -> Starlette:
        metrics = self._guarded(OwnRoute("GET", "metrics", self._metrics))
        routes = [
            Route("/", self._aws, methods=["POST"]),
            Route("/", self._aws_or_welcome, methods=["GET"]),
            *(Route(path, self._aws, methods=sorted(methods)) for path, methods in rest_json.paths().items()),
            Route("/metrics", metrics, methods=["GET"]),
            *(Route(f"{OWN_PATH}/{own.path}", self._guarded(own), methods=[own.method]) for own in self._own),
        ]
        return Starlette(routes=routes, middleware=[Middleware(SecurityHeaders)], lifespan=self._lifespan)

    def stop(self) -> None:
        """Every long poll is answered now."""
        self.polls.stop()

    def told_elsewhere(self, told: str) -> None:
        """A replica has changed something that others wait for (`Store.listening`)."""
        if told.isdecimal():
            self.polls.revisions.reached(int(told))
            return
        if told in (HOSTS, EVERYTHING):
            self.polls.wake()
        if told == HOSTS:
            return
        hearing = asyncio.ensure_future(self._hear(told))
        self._hearings.add(hearing)
        hearing.add_done_callback(self._hearings.discard)

    async def _hear(self, told: str) -> None:
        try:
            await run_in_threadpool(self._plane.hear, time.time())
        except ApiError:
            _log.warning("what other replicas were told cannot be read; it is tried again every second")
        if told in (PROBES, EVERYTHING):
            self.polls.probes.wake()
        self.polls.traces_changed()

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
                await self.polls.change(self._plane.forget_interfaces, time.time())
                await run_in_threadpool(self._plane.hear, time.time())
                await run_in_threadpool(self._plane.callers.look_after)
            except Exception:  # the next turn may succeed; what failed is in the log
                _log.exception("what is done every second could not be done")
            await asyncio.sleep(FORGET_EVERY_S)

    async def _aws_or_welcome(self, request: Request) -> Response:
        return await (self._aws(request) if request.url.query else _welcome(request))

    async def _aws(self, request: Request) -> Response:
        """The request id stands in the answer's body, where the protocol has a place for it, and in a header, which is
        where the SDK for JavaScript looks."""
        event = self._event(request, rest_json.service_at(request.url.path) or "ec2", "Unknown")
        response = await self._answered(request, event)
        response.headers[REQUEST_ID_HEADER] = event.request_id
        return response

    async def _answered(self, request: Request, event: Event) -> Response:
        asked = _Asked(event, event.service)
        try:
            signed = await read_signed(request, BODY_BYTES_MAX)
            performed = partial(self._performed, asked, signed, request.headers)  # as one: each hop costs as a query
            return await self.polls.change(performed)
        except ApiError as refusal:
            error = refusal
        except ClientDisconnect:
            return self._hung_up(request)
        except Exception:
            _log.exception("a request failed", request_id=event.request_id)
            error = errors.internal_error()
        if rest_json.is_spoken_to(asked.service):
            error = rest_json.refusal(error)
        self._plane.refused.count(error.code)
        await run_in_threadpool(self._plane.audit.refusal, asked.event, error)
        if rest_json.is_spoken_to(asked.service):
            body, headers = rest_json.failure(error)
            return Response(body, error.status, headers, media_type=rest_json.CONTENT_TYPE)
        if json.is_spoken_to(asked.service):
            body, headers = json.failure(error)
            return Response(body, error.status, headers, media_type=json.CONTENT_TYPE)
        return Response(failure(asked.service, error, event.request_id), error.status, media_type=CONTENT_TYPE)

    def _performed(self, asked: _Asked, signed: SignedRequest, headers: Headers) -> Response:
        """Believe, parse and carry out a call. ``asked`` learns what the request is on the way."""
        asked.service = claimed_service(signed, services=frozenset(SERVICES), otherwise=asked.service)
        asked.event = replace(asked.event, service=asked.service, operation=claimed_action(signed))
        principal: Principal | None = None

        def secret_of(access_key_id: str) -> str | None:
            nonlocal principal
            secret, principal = self._plane.callers.caller(access_key_id)
            return secret

        identity = verify(signed, secret_of, datetime.now(UTC), services=frozenset(SERVICES))
        service = asked.service = identity.service
        if principal is None:  # its user is gone
            raise errors.auth_failure()
        asked.event = replace(asked.event, service=service, principal=principal)
        call = _call(service, signed, headers)
        asked.event = replace(asked.event, operation=call.operation, parameters=call.parameters)
        result = self._plane.perform(call, asked.event, time.time())
        for protocol in (json, rest_json):
            if protocol.is_spoken_to(service):
                return Response(protocol.success(result), 200, media_type=protocol.CONTENT_TYPE)
        return Response(success(call, result, asked.event.request_id), 200, media_type=CONTENT_TYPE)

    def _event(self, request: Request, service: str, operation: str) -> Event:
        """What is known of a request before anything of it is believed."""
        return Event(
            request_id=str(uuid.uuid4()),
            at_s=time.time(),
            region=self._plane.region,
            origin=Origin.of(
                request.client.host if request.client else "",
                request.headers.get("user-agent", ""),
                secure=came_by_tls(request),
            ),
            service=service,
            operation=operation,
            claimed_key_id=claimed_key_id(request),
        )

    def _guarded(self, route: OwnRoute) -> Callable[[Request], Awaitable[Response]]:
        """The same errors as EC2's, as JSON."""
        answer, action = route.answer, route.action

        async def guarded(request: Request) -> Response:
            event = self._event(request, OWN_SERVICE, action or "")
            asked = {**request.path_params, **request.query_params}
            request.state.event = replace(event, parameters=asked)
            try:
                if action is not None:
                    request.state.body = await self._require_signature(request)
                response = await answer(request)
                if action is not None and request.method == "GET":
                    await run_in_threadpool(self._plane.audit.read, request.state.event)
                return response
            except ApiError as refusal:
                error = refusal
            except ClientDisconnect:
                return self._hung_up(request)
            except Exception:
                _log.exception("a request failed", path=request.url.path)
                error = errors.internal_error()
            self._plane.refused.count(error.code)
            if action is not None:
                await run_in_threadpool(self._plane.audit.refusal, request.state.event, error)
            return as_json({"code": error.code, "message": error.message}, error.status)

        return guarded

    def _hung_up(self, request: Request) -> Response:
        """The client went away before its request was whole: nothing was done, and nobody reads the answer."""
        if not gave_up(request):
            self._plane.refused.count(CLIENT_DISCONNECTED)
        return Response(status_code=400)

    async def _metrics(self, request: Request) -> Response:
        require_token(request, self._metrics_token, "metrics-token")
        return Response(await run_in_threadpool(self._plane.metrics, time.time()), 200, media_type=EXPOSITION_TYPE)

    async def _require_signature(self, request: Request) -> bytes:
        """The body, which the signature covers, of a caller who may ask this. A change is in the audit log by then."""
        signed = await read_signed(request, BODY_BYTES_MAX)
        identity = await run_in_threadpool(
            verify, signed, self._plane.callers.secret_of, datetime.now(UTC), services=frozenset({OWN_SERVICE})
        )
        principal = await run_in_threadpool(self._plane.callers.principal, identity.access_key_id)
        event = request.state.event = replace(request.state.event, principal=principal)
        await run_in_threadpool(self._plane.allow, event.operation, principal, event.origin, time.time())
        if request.method != "GET":
            request.state.event = await run_in_threadpool(self._plane.audit.change, event)
        return signed.body


def _call(service: str, signed: SignedRequest, headers: Headers) -> Call:
    """What a request asks, by the protocol of its service."""
    if rest_json.is_spoken_to(service):
        return rest_json.parse(service, signed.method, signed.path, signed.query, signed.body)
    if signed.path != rest_json.ROOT:
        raise errors.invalid_action(signed.path)
    if json.is_spoken_to(service):
        return json.parse(service, headers.get(json.TARGET_HEADER, ""), signed.body)
    return parse(service, *form_of(signed, headers.get("content-type", "")))


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

"""The sockets' side of the control plane: EC2 and STS at ``/``, and an API of our own beside it.

============================================  ======================================================
``POST /``                                    EC2 and STS, signed (SigV4); XML; and CloudWatch; JSON
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
import hmac
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
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
    json,
    parse,
    success,
    verify,
)
from pktmirror.control.events import Event
from pktmirror.control.joins import HOSTS, Joins
from pktmirror.control.plane import ControlPlane
from pktmirror.control.principals import Origin
from pktmirror.control.replicas import PROBES
from pktmirror.control.reports import MonitorReport
from pktmirror.control.store import EVERYTHING
from pktmirror.control.tls import came_by_tls, shown
from pktmirror.control.traces import ASKER_GONE_S
from pktmirror.desired import decode_report, encode
from pktmirror.model.join import JoinRequest, RenewalRequest, TokenWish
from pktmirror.model.probe import ProbeAnswer, probe_key
from pktmirror.model.template import Template, is_full_name
from pktmirror.tracing import TraceBatch, TraceWish

REPORT_BYTES_MAX = 16 * 1024 * 1024
WAIT_S_MAX = 60.0
PROBE_WITHIN_S = 5.0
OWN_SERVICE = "pktmirror"
FORM_TYPE = "application/x-www-form-urlencoded"
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FORGET_EVERY_S = 1.0
REQUEST_ID_HEADER = "x-amzn-RequestId"
CLIENT_DISCONNECTED = "ClientDisconnected"
"""Counted like a refusal; no client ever sees it."""

CLAIMED_BYTES_MAX = 4096

_CLAIMED_ACTION = re.compile(rb"(?:^|&)Action=([A-Za-z0-9]{1,128})(?:&|$)")
_CLAIMED_KEY = re.compile(r"Credential=([\w+=,.@-]{1,128})/", re.ASCII)
_ACTION_NAME = re.compile(r"[A-Za-z0-9]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_log = structlog.get_logger("control")
T = TypeVar("T")

WELCOME = """This is pktmirror's control plane: Amazon EC2's traffic mirroring API for a Linux network of your own.
Use an AWS client with this address as its endpoint, for example:
  aws ec2 describe-traffic-mirror-sessions --endpoint-url URL
`pktmirror env` prints the credentials' environment.
"""


class Revisions:
    """Wakes the long polls of one kind when what they wait for may have changed. Belongs to one event loop."""

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
            self.wake()

    def stop(self) -> None:
        """Every long poll is answered now."""
        self.stopping = True
        self.wake()

    def wake(self) -> None:
        """Every long poll looks again at what it waits for."""
        self._changed.set()
        self._changed = asyncio.Event()


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
        self.revisions = Revisions()
        self.probes = Revisions()  # asked for
        self.trace_orders = Revisions()  # that agents wait for
        self.traces = Revisions()  # what their askers wait for
        self._hearings: set[asyncio.Future[None]] = set()  # the loop itself keeps no task alive
        self._plane = plane
        self._agent_token = agent_token.encode()
        self._probe_key = probe_key(agent_token)
        self._metrics_token = metrics_token.encode()
        self._joins = joins
        self._started = started

    def stop(self) -> None:
        """Every long poll is answered now."""
        for changes in self._polled_for():
            changes.stop()

    def told_elsewhere(self, told: str) -> None:
        """A replica has changed something that others wait for (`Store.listening`)."""
        if told.isdecimal():
            self.revisions.reached(int(told))
            return
        if told in (HOSTS, EVERYTHING):
            self.wake()
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
            self.probes.wake()
        self._traces_changed()

    def _traces_changed(self) -> None:
        for changes in (self.trace_orders, self.traces):
            changes.reached(self._plane.traces.changes)

    def wake(self) -> None:
        """Every long poll looks again, at who asks too."""
        for changes in self._polled_for():
            changes.wake()

    def _polled_for(self) -> tuple[Revisions, ...]:
        return self.revisions, self.probes, self.trace_orders, self.traces

    def app(self) -> Starlette:
        own = "/pktmirror/v1"
        routes = [
            Route("/", self._aws, methods=["POST"]),
            Route("/", self._aws_or_welcome, methods=["GET"]),
            Route("/metrics", self._own(self._metrics), methods=["GET"]),
            Route(f"{own}/ca", self._own(self._ca), methods=["GET"]),
            Route(f"{own}/join-tokens", self._own(self._make_join_token, "CreateJoinToken"), methods=["POST"]),
            Route(f"{own}/join", self._own(self._join), methods=["POST"]),
            Route(f"{own}/agents/{{name}}/certificate", self._own(self._renew), methods=["POST"]),
            Route(f"{own}/hosts/{{name}}/certificates", self._own(self._revoke, "RevokeHost"), methods=["DELETE"]),
            Route(f"{own}/agents/{{name}}/desired", self._own(self._agents_desired), methods=["GET"]),
            Route(f"{own}/agents/{{name}}/report", self._own(self._agent_report), methods=["POST"]),
            Route(f"{own}/agents/{{name}}/trace", self._own(self._agents_trace), methods=["GET"]),
            Route(f"{own}/agents/{{name}}/trace", self._own(self._agent_traced), methods=["POST"]),
            Route(f"{own}/traces", self._own(self._ask_trace, "StartTrace"), methods=["POST"]),
            Route(f"{own}/traces/{{name}}", self._own(self._traced, "GetTrace"), methods=["GET"]),
            Route(f"{own}/traces/{{name}}", self._own(self._stop_trace, "StopTrace"), methods=["DELETE"]),
            Route(f"{own}/agents/{{name}}/probes", self._own(self._agents_probes), methods=["GET"]),
            Route(f"{own}/agents/{{name}}/probes", self._own(self._probes_answered), methods=["POST"]),
            Route(f"{own}/sessions/{{name}}/probes", self._own(self._ask_probe, "StartProbe"), methods=["POST"]),
            Route(f"{own}/probes/{{name}}", self._own(self._probe, "GetProbe"), methods=["GET"]),
            Route(f"{own}/monitors/{{name}}/report", self._own(self._monitor_report), methods=["POST"]),
            Route(f"{own}/status", self._own(self._status, "GetStatus"), methods=["GET"]),
            Route(f"{own}/ledger", self._own(self._ledger, "GetLedger"), methods=["GET"]),
            Route(f"{own}/interfaces", self._own(self._interfaces, "ListInterfaces"), methods=["GET"]),
            Route(
                f"{own}/interfaces/{{name}}", self._own(self._forget_interface, "ForgetInterface"), methods=["DELETE"]
            ),
            Route(
                f"{own}/interfaces/{{name}}/address",
                self._own(self._set_address, "SetAddress"),
                methods=["PUT", "DELETE"],
            ),
            Route(f"{own}/networks", self._own(self._networks, "GetNetworks"), methods=["GET"]),
            Route(f"{own}/networks", self._own(self._declare, "PutNetworks"), methods=["PUT"]),
            Route(f"{own}/accounts", self._own(self._accounts, "ListAccounts"), methods=["GET"]),
            Route(f"{own}/accounts/{{name}}", self._own(self._create_account, "CreateAccount"), methods=["POST"]),
            Route(f"{own}/accounts/{{name}}", self._own(self._delete_account, "DeleteAccount"), methods=["DELETE"]),
            Route(f"{own}/assignments/{{name}}", self._own(self._assign, "Assign"), methods=["PUT", "DELETE"]),
            Route(f"{own}/templates", self._own(self._templates, "ListTemplates"), methods=["GET"]),
            Route(
                f"{own}/templates/{{document}}/{{name}}", self._own(self._put_template, "PutTemplate"), methods=["PUT"]
            ),
            Route(
                f"{own}/templates/{{document}}/{{name}}",
                self._own(self._delete_template, "DeleteTemplate"),
                methods=["DELETE"],
            ),
            Route(f"{own}/hosts/{{name}}/desired", self._own(self._desired, "GetDesiredState"), methods=["GET"]),
            Route(f"{own}/hosts/{{name}}", self._own(self._forget_host, "ForgetHost"), methods=["DELETE"]),
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
                await run_in_threadpool(self._plane.hear, time.time())
                await run_in_threadpool(self._plane.look_after_identity)
            except Exception:  # the next turn may succeed; what failed is in the log
                _log.exception("what is done every second could not be done")
            await asyncio.sleep(FORGET_EVERY_S)

    async def _aws_or_welcome(self, request: Request) -> Response:
        return await (self._aws(request) if request.url.query else _welcome(request))

    async def _aws(self, request: Request) -> Response:
        """The request id stands in the answer's body, where the protocol has a place for it, and in a header, which is
        where the SDK for JavaScript looks."""
        event = self._event(request, "ec2", "Unknown")
        response = await self._answered(request, event)
        response.headers[REQUEST_ID_HEADER] = event.request_id
        return response

    async def _answered(self, request: Request, event: Event) -> Response:
        request_id, service = event.request_id, event.service
        try:
            signed = await _signed(request, BODY_BYTES_MAX)
            service = claimed_service(signed, services=frozenset(SERVICES), otherwise=service)
            event = replace(event, service=service, operation=_claimed_action(signed))
            identity = await run_in_threadpool(
                verify, signed, self._plane.secret_of, datetime.now(UTC), services=frozenset(SERVICES)
            )
            service = identity.service
            principal = await run_in_threadpool(self._plane.principal, identity.access_key_id)
            event = replace(event, service=service, principal=principal)
            if json.is_spoken_to(service):
                call = json.parse(service, request.headers.get(json.TARGET_HEADER, ""), signed.body)
            else:
                call = parse(service, *_form(signed, request.headers.get("content-type", "")))
            event = replace(event, operation=call.operation, parameters=call.parameters)
            result = await self._changing(self._plane.perform, call, event, time.time())
            if json.is_spoken_to(service):
                return Response(json.success(result), 200, media_type=json.CONTENT_TYPE)
            return Response(success(call, result, request_id), 200, media_type=CONTENT_TYPE)
        except ApiError as refusal:
            error = refusal
        except ClientDisconnect:
            return self._hung_up()
        except Exception:
            _log.exception("a request failed", request_id=request_id)
            error = errors.internal_error()
        self._plane.refused.count(error.code)
        await run_in_threadpool(self._plane.refused_call, event, error)
        if json.is_spoken_to(service):
            body, headers = json.failure(error)
            return Response(body, error.status, headers, media_type=json.CONTENT_TYPE)
        return Response(failure(service, error, request_id), error.status, media_type=CONTENT_TYPE)

    def _event(self, request: Request, service: str, operation: str) -> Event:
        """What is known of a request before anything of it is believed."""
        claimed = _CLAIMED_KEY.search(request.headers.get("authorization", ""))
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
            claimed_key_id=None if claimed is None else claimed[1],
        )

    def _own(
        self, answer: Callable[[Request], Awaitable[Response]], action: str | None = None
    ) -> Callable[[Request], Awaitable[Response]]:
        """A route of our own API: the same errors, as JSON.

        With an ``action``, as a policy calls it, only who has signed and may do that gets to ``answer``, and the body
        is ``request.state.body``. Without one ``answer`` is open, or asks for a token or a certificate itself.
        """

        async def guarded(request: Request) -> Response:
            event = self._event(request, OWN_SERVICE, action or "")
            asked = {**request.path_params, **request.query_params}
            request.state.event = replace(event, parameters=asked)
            try:
                if action is not None:
                    request.state.body = await self._require_signature(request)
                response = await answer(request)
                if action is not None and request.method == "GET":
                    await run_in_threadpool(self._plane.log_read, request.state.event)
                return response
            except ApiError as refusal:
                error = refusal
            except ClientDisconnect:
                return self._hung_up()
            except Exception:
                _log.exception("a request failed", path=request.url.path)
                error = errors.internal_error()
            self._plane.refused.count(error.code)
            if action is not None:
                await run_in_threadpool(self._plane.refused_call, request.state.event, error)
            return _json({"code": error.code, "message": error.message}, error.status)

        return guarded

    def _hung_up(self) -> Response:
        """The client went away before its request was whole: nothing was done, and nobody reads the answer."""
        self._plane.refused.count(CLIENT_DISCONNECTED)
        return Response(status_code=400)

    async def _agents_desired(self, request: Request) -> Response:
        host_id = _name(request)
        after = _number(request, "after", -1.0)

        async def changed() -> Response | None:
            if await run_in_threadpool(self._revision) == after:
                return None
            return _json(await run_in_threadpool(self._plane.desired, host_id))

        return await self._polled(request, self.revisions, changed)

    async def _polled(
        self, request: Request, changes: "Revisions", answer: Callable[[], Awaitable[Response | None]]
    ) -> Response:
        """The answer to an agent as soon as there is one; 204 where there is none in time.

        Whether it is that agent is asked each time: one that is revoked while it waits is told nothing more.
        """
        until_s = time.monotonic() + min(_number(request, "wait_s", 0.0), WAIT_S_MAX)
        while True:
            changed = changes.next()
            await self._require_agent(request)
            found = await answer()
            if found is not None:
                return found
            left_s = until_s - time.monotonic()
            if left_s <= 0 or changes.stopping:
                return Response(status_code=204)
            try:
                await asyncio.wait_for(changed.wait(), left_s)
            except TimeoutError:
                return Response(status_code=204)

    async def _agents_probes(self, request: Request) -> Response:
        host_id = _name(request)

        async def asked() -> Response | None:
            found = await run_in_threadpool(self._plane.probes_asked_of, host_id, time.time())
            return _json(found) if found else None

        return await self._polled(request, self.probes, asked)

    async def _probes_answered(self, request: Request) -> Response:
        host_id = _name(request)
        body = await self._agents_body(request, BODY_BYTES_MAX)
        answers = _decoded(lambda document: msgspec.json.decode(document, type=tuple[ProbeAnswer, ...]), body)
        await run_in_threadpool(self._plane.probes_answered, host_id, answers, time.time())
        return Response(status_code=204)

    async def _ask_probe(self, request: Request) -> Response:
        within_s = _number(request, "within_s", PROBE_WITHIN_S)
        if not 0 < within_s <= WAIT_S_MAX:
            raise errors.invalid_value("within_s", str(within_s), f"Expected a number up to {WAIT_S_MAX:.0f}")
        asked = await run_in_threadpool(self._plane.ask_probe, _name(request), within_s, self._probe_key, time.time())
        self.probes.wake()
        return _json(asked)

    async def _probe(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.probe, _name(request), time.time()))

    async def _agent_report(self, request: Request) -> Response:
        host_id = _name(request)
        report = _decoded(decode_report, await self._agents_body(request, REPORT_BYTES_MAX))
        if report.host_id != host_id:
            raise errors.invalid_parameter_value(
                f"The report is of host {errors.echo(report.host_id)} and was sent for {host_id}"
            )
        await self._changing(self._plane.agent_reported, report, time.time())
        return Response(status_code=204)

    async def _agents_trace(self, request: Request) -> Response:
        await self._require_agent(request)
        host_id = _name(request)

        def order() -> Response | None:
            found = self._plane.traces.order(host_id, time.time())
            return None if found is None else _json(found)

        waited = await self._when(self.trace_orders, order, _number(request, "wait_s", 0.0))
        await self._require_agent(request)  # still
        return waited or Response(status_code=204)

    async def _agent_traced(self, request: Request) -> Response:
        host_id = _name(request)
        body = await self._agents_body(request, REPORT_BYTES_MAX)
        batch = _decoded(lambda document: msgspec.json.decode(document, type=TraceBatch), body)
        wanted = await run_in_threadpool(self._plane.trace_told, host_id, batch, time.time())
        self.traces.reached(self._plane.traces.changes)
        return _json({"wanted": wanted})

    async def _ask_trace(self, request: Request) -> Response:
        body: bytes = request.state.body
        wish = _decoded(lambda document: msgspec.json.decode(document, type=TraceWish), body)
        try:
            wish.selection.networks()
        except ValueError as error:
            raise errors.invalid_parameter_value(f"The packets to trace cannot be read: {error}") from None
        asked = await run_in_threadpool(self._plane.ask_trace, wish, time.time())
        self.trace_orders.reached(self._plane.traces.changes)
        return _json(asked)

    async def _traced(self, request: Request) -> Response:
        trace_id, after = _name(request), int(_number(request, "after", 0))
        await run_in_threadpool(self._plane.trace_awaited, trace_id, time.time())
        knows_it_began = _number(request, "began", 0) != 0

        def news() -> Response | None:
            progress = self._plane.traces.read(trace_id, after, time.time())
            is_new = progress.packets or progress.ended is not None or progress.began != knows_it_began
            return _json(progress) if is_new else None

        waited = await self._when(self.traces, news, min(_number(request, "wait_s", 0.0), ASKER_GONE_S / 2))
        return waited or _json(self._plane.traces.read(trace_id, after, time.time()))

    async def _stop_trace(self, request: Request) -> Response:
        await run_in_threadpool(self._plane.stop_trace, _name(request), time.time())
        self.traces.reached(self._plane.traces.changes)
        return Response(status_code=204)

    async def _when(
        self, changes: "Revisions", answer: Callable[[], Response | None], wait_s: float
    ) -> Response | None:
        """The answer as soon as there is one to what is asked of live traces; None when the time is over."""
        until_s = time.monotonic() + min(wait_s, WAIT_S_MAX)
        while True:
            changed = changes.next()
            found = answer()
            left_s = until_s - time.monotonic()
            if found is not None or left_s <= 0 or changes.stopping:
                return found
            try:
                await asyncio.wait_for(changed.wait(), left_s)
            except TimeoutError:
                return None

    async def _monitor_report(self, request: Request) -> Response:
        monitor_id = _name(request)
        body = await self._agents_body(request, REPORT_BYTES_MAX)
        report = _decoded(lambda document: msgspec.json.decode(document, type=MonitorReport), body)
        if not self._plane.monitor_reported(monitor_id, report, time.time()):
            raise ApiError("MonitorLimitExceeded", "Too many monitors report here; restart to forget those gone")
        return Response(status_code=204)

    async def _status(self, _request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.status, time.time()))

    async def _ledger(self, request: Request) -> Response:
        with_rules = _number(request, "rules", 0.0) != 0
        return _json(await run_in_threadpool(self._plane.ledger, time.time(), with_rules=with_rules))

    async def _metrics(self, request: Request) -> Response:
        self._require_token(request, self._metrics_token, "metrics-token")
        return Response(await run_in_threadpool(self._plane.metrics, time.time()), 200, media_type=EXPOSITION_TYPE)

    async def _interfaces(self, _request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.interfaces))

    async def _desired(self, request: Request) -> Response:
        return Response(encode(await run_in_threadpool(self._plane.desired, _name(request))), 200)

    async def _forget_host(self, request: Request) -> Response:
        await self._changing(self._plane.forget_host, _name(request), time.time())
        return Response(status_code=204)

    async def _forget_interface(self, request: Request) -> Response:
        await self._changing(self._plane.forget_interface, _name(request), time.time())
        return Response(status_code=204)

    async def _accounts(self, _request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.accounts))

    async def _create_account(self, request: Request) -> Response:
        return _json(await self._changing(self._plane.create_account, _name(request), time.time()))

    async def _delete_account(self, request: Request) -> Response:
        await self._changing(self._plane.delete_account, _name(request), time.time())
        return Response(status_code=204)

    async def _assign(self, request: Request) -> Response:
        text = _text(request.state.body).strip()
        if (request.method == "PUT") != bool(text):
            raise errors.invalid_parameter_value("PUT takes the name of an account as its body, and DELETE none")
        await self._changing(self._plane.assign, _name(request), text, time.time())
        return Response(status_code=204)

    async def _networks(self, _request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.declared))

    async def _declare(self, request: Request) -> Response:
        text = _text(request.state.body)
        return _json(await self._changing(self._plane.declare, text, time.time()))

    async def _set_address(self, request: Request) -> Response:
        text = _text(request.state.body)
        address = None if request.method == "DELETE" else text.strip()
        return _json(await self._changing(self._plane.set_address, _name(request), address, time.time()))

    async def _templates(self, _request: Request) -> Response:
        return _json(await run_in_threadpool(self._plane.templates))

    async def _put_template(self, request: Request) -> Response:
        body: bytes = request.state.body
        template = _decoded(lambda document: msgspec.json.decode(document, type=Template), body)
        if template.name != _template_name(request):
            raise errors.invalid_parameter_value(
                f"The template is called {errors.echo(template.name)} and was sent as {_template_name(request)}"
            )
        return _json(await self._changing(self._plane.put_template, template, time.time()))

    async def _delete_template(self, request: Request) -> Response:
        await self._changing(self._plane.delete_template, _template_name(request), time.time())
        return Response(status_code=204)

    async def _changing(self, change: Callable[..., T], *arguments: Any) -> T:
        """Run what may change desired state, and wake who waits for that."""
        result = await run_in_threadpool(change, *arguments)  # what fails has changed nothing
        try:
            self.revisions.reached(await run_in_threadpool(self._revision))
        except ApiError:  # the change has happened all the same, and is answered so
            _log.warning("which revision a change made cannot be read; all who wait look for themselves")
            self.revisions.wake()
        return result

    def _revision(self) -> int:
        return self._plane.revision

    async def _ca(self, _request: Request) -> Response:
        return Response(self._hosts_join().ca_pem, 200, media_type="application/x-pem-file")

    async def _make_join_token(self, request: Request) -> Response:
        body: bytes = request.state.body
        wish = _decoded(lambda document: msgspec.json.decode(document, type=TokenWish), body)
        if wish.host_id is not None:
            _host_id(wish.host_id)
        return _json(await run_in_threadpool(self._hosts_join().make_token, wish, time.time()))

    async def _join(self, request: Request) -> Response:
        joins = self._hosts_join()
        if not came_by_tls(request):
            raise ApiError("AuthFailure", "A token is shown by TLS alone", 403)
        body = await _body(request, BODY_BYTES_MAX)
        wish = _decoded(lambda document: msgspec.json.decode(document, type=JoinRequest), body)
        _host_id(wish.host_id)
        certified = await run_in_threadpool(joins.join, wish, time.time())
        self.wake()
        _log.info("a host has joined", host=wish.host_id)
        return _json(certified)

    async def _renew(self, request: Request) -> Response:
        await self._require_agent(request)
        if not came_by_tls(request):
            raise ApiError("AuthFailure", "A certificate is renewed by TLS alone", 403)
        body = await _body(request, BODY_BYTES_MAX)
        asked = _decoded(lambda document: msgspec.json.decode(document, type=RenewalRequest), body)
        renew = self._hosts_join().renew
        return _json(await run_in_threadpool(renew, shown(request), _name(request), asked.csr, time.time()))

    async def _revoke(self, request: Request) -> Response:
        await run_in_threadpool(self._hosts_join().revoke, _name(request), time.time())
        self.wake()
        _log.info("the certificates of a host are revoked", host=_name(request))
        return Response(status_code=204)

    def _hosts_join(self) -> Joins:
        if self._joins is None:
            raise ApiError(
                "UnsupportedOperation", "No host can join: `pktmirror serve` was started without --listen-tls"
            )
        return self._joins

    async def _require_agent(self, request: Request) -> None:
        """By TLS the certificate of the host that the request is about; elsewhere the token that all agents share."""
        if not came_by_tls(request):
            self._require_token(request, self._agent_token, "agent-token")
        else:
            refuse = self._hosts_join().refuse_stranger
            await run_in_threadpool(refuse, shown(request), _name(request), time.time())

    async def _agents_body(self, request: Request, bytes_max: int) -> bytes:
        """What an agent sends, if it still is that agent when all of it is here: it may be revoked meanwhile."""
        await self._require_agent(request)
        body = await _body(request, bytes_max)
        await self._require_agent(request)
        return body

    def _require_token(self, request: Request, expected: bytes, file: str) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), expected):
            raise ApiError("AuthFailure", f"The bearer token is not the one in STATE/{file} of the control plane", 401)

    async def _require_signature(self, request: Request) -> bytes:
        """The body, which the signature covers, of a caller who may ask this. A change is in the audit log by then."""
        signed = await _signed(request, BODY_BYTES_MAX)
        identity = await run_in_threadpool(
            verify, signed, self._plane.secret_of, datetime.now(UTC), services=frozenset({OWN_SERVICE})
        )
        principal = await run_in_threadpool(self._plane.principal, identity.access_key_id)
        event = request.state.event = replace(request.state.event, principal=principal)
        await run_in_threadpool(self._plane.allow, event.operation, principal, event.origin, time.time())
        if request.method != "GET":
            request.state.event = await run_in_threadpool(self._plane.log_change, event)
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


def _claimed_action(signed: SignedRequest) -> str:
    """Which operation an unverified request says it is: good for the audit log only."""
    target = next((value for name, value in signed.headers if name.lower() == json.TARGET_HEADER), "")
    found = _CLAIMED_ACTION.search(_form(signed, "")[1][:CLAIMED_BYTES_MAX])
    name = target.rpartition(".")[2] if target else found[1].decode() if found else ""
    return name if _ACTION_NAME.fullmatch(name) else "Unknown"


async def _signed(request: Request, bytes_max: int) -> SignedRequest:
    """The request as its sender signed it."""
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    body = await _body(request, bytes_max)
    return SignedRequest(request.method, path.decode("latin-1"), query.decode("latin-1"), headers, body)


def _form(signed: SignedRequest, content_type: str) -> tuple[str, bytes]:
    """The content type and the text of a form: the body, or the query of a GET."""
    if signed.method == "GET":
        return FORM_TYPE, signed.query.encode("latin-1")
    return content_type, signed.body


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
        raise errors.invalid_parameter_value(f"The body cannot be read: {error}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_parameter_value(f"The body is no text: {error.reason} at byte {error.start}") from None


def _name(request: Request) -> str:
    return _host_id(request.path_params["name"])


def _host_id(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise errors.invalid_value("name", name, "Expected letters, digits, '.', '_' and '-'")
    return name


def _template_name(request: Request) -> str:
    name = f"{request.path_params['document']}/{request.path_params['name']}"
    if not is_full_name(name):
        raise errors.invalid_value("name", name, "Expected a document's name and one in it, as in office/web")
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

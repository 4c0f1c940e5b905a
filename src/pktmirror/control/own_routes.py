"""What people and their tools ask beside EC2's API; each is signed, and is allowed or refused by its action. An edge
module.
"""

import time

import msgspec
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pktmirror.aws import errors
from pktmirror.control.joins import Joins, offered
from pktmirror.control.plane import ControlPlane
from pktmirror.control.polls import WAIT_S_MAX, Polls, answered
from pktmirror.control.requests import (
    OwnRoute,
    as_json,
    checked_name,
    decoded,
    name_of,
    number_of,
    template_name_of,
    text_of,
)
from pktmirror.control.traces import ASKER_GONE_S
from pktmirror.desired import encode
from pktmirror.model.join import TokenWish
from pktmirror.model.template import Template
from pktmirror.tracing import TraceWish

PROBE_WITHIN_S = 5.0
_log = structlog.get_logger("control")


class OwnRoutes:
    """``probe_key`` is of the token that agents share. ``joins`` None: there is no TLS, so no host can join."""

    def __init__(self, plane: ControlPlane, polls: Polls, probe_key: bytes, joins: Joins | None) -> None:
        self._plane = plane
        self._polls = polls
        self._probe_key = probe_key
        self._joins = joins

    def routes(self) -> list[OwnRoute]:
        address, template = "interfaces/{name}/address", "templates/{document}/{name}"
        return [
            OwnRoute("GET", "status", self._status, "GetStatus"),
            OwnRoute("GET", "ledger", self._ledger, "GetLedger"),
            OwnRoute("GET", "interfaces", self._interfaces, "ListInterfaces"),
            OwnRoute("DELETE", "interfaces/{name}", self._forget_interface, "ForgetInterface"),
            OwnRoute("PUT", address, self._set_address, "SetAddress"),
            OwnRoute("DELETE", address, self._set_address, "SetAddress"),
            OwnRoute("GET", "networks", self._networks, "GetNetworks"),
            OwnRoute("PUT", "networks", self._declare, "PutNetworks"),
            OwnRoute("GET", "accounts", self._accounts, "ListAccounts"),
            OwnRoute("POST", "accounts/{name}", self._create_account, "CreateAccount"),
            OwnRoute("DELETE", "accounts/{name}", self._delete_account, "DeleteAccount"),
            OwnRoute("PUT", "assignments/{name}", self._assign, "Assign"),
            OwnRoute("DELETE", "assignments/{name}", self._assign, "Assign"),
            OwnRoute("GET", "templates", self._templates, "ListTemplates"),
            OwnRoute("PUT", template, self._put_template, "PutTemplate"),
            OwnRoute("DELETE", template, self._delete_template, "DeleteTemplate"),
            OwnRoute("GET", "hosts/{name}/desired", self._desired, "GetDesiredState"),
            OwnRoute("DELETE", "hosts/{name}", self._forget_host, "ForgetHost"),
            OwnRoute("DELETE", "hosts/{name}/certificates", self._revoke, "RevokeHost"),
            OwnRoute("POST", "join-tokens", self._make_join_token, "CreateJoinToken"),
            OwnRoute("POST", "sessions/{name}/probes", self._ask_probe, "StartProbe"),
            OwnRoute("GET", "probes/{name}", self._probe, "GetProbe"),
            OwnRoute("POST", "traces", self._ask_trace, "StartTrace"),
            OwnRoute("GET", "traces/{name}", self._traced, "GetTrace"),
            OwnRoute("DELETE", "traces/{name}", self._stop_trace, "StopTrace"),
        ]

    async def _status(self, _request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.status, time.time()))

    async def _ledger(self, request: Request) -> Response:
        with_rules = number_of(request, "rules", 0.0) != 0
        return as_json(await run_in_threadpool(self._plane.ledger, time.time(), with_rules=with_rules))

    async def _interfaces(self, _request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.interfaces))

    async def _desired(self, request: Request) -> Response:
        return Response(encode(await run_in_threadpool(self._plane.desired, name_of(request))), 200)

    async def _forget_host(self, request: Request) -> Response:
        await self._polls.change(self._plane.forget_host, name_of(request), time.time())
        return Response(status_code=204)

    async def _forget_interface(self, request: Request) -> Response:
        await self._polls.change(self._plane.forget_interface, name_of(request), time.time())
        return Response(status_code=204)

    async def _set_address(self, request: Request) -> Response:
        text = text_of(request.state.body)
        address = None if request.method == "DELETE" else text.strip()
        return as_json(await self._polls.change(self._plane.set_address, name_of(request), address, time.time()))

    async def _networks(self, _request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.declared))

    async def _declare(self, request: Request) -> Response:
        text = text_of(request.state.body)
        return as_json(await self._polls.change(self._plane.declare, text, time.time()))

    async def _accounts(self, _request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.accounts))

    async def _create_account(self, request: Request) -> Response:
        return as_json(await self._polls.change(self._plane.create_account, name_of(request), time.time()))

    async def _delete_account(self, request: Request) -> Response:
        await self._polls.change(self._plane.delete_account, name_of(request), time.time())
        return Response(status_code=204)

    async def _assign(self, request: Request) -> Response:
        text = text_of(request.state.body).strip()
        if (request.method == "PUT") != bool(text):
            raise errors.invalid_parameter_value("PUT takes the name of an account as its body, and DELETE none")
        await self._polls.change(self._plane.assign, name_of(request), text, time.time())
        return Response(status_code=204)

    async def _templates(self, _request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.templates))

    async def _put_template(self, request: Request) -> Response:
        body: bytes = request.state.body
        template = decoded(lambda document: msgspec.json.decode(document, type=Template), body)
        if template.name != template_name_of(request):
            raise errors.invalid_parameter_value(
                f"The template is called {errors.echo(template.name)} and was sent as {template_name_of(request)}"
            )
        return as_json(await self._polls.change(self._plane.put_template, template, time.time()))

    async def _delete_template(self, request: Request) -> Response:
        await self._polls.change(self._plane.delete_template, template_name_of(request), time.time())
        return Response(status_code=204)

    async def _ask_probe(self, request: Request) -> Response:
        within_s = number_of(request, "within_s", PROBE_WITHIN_S)
        if not 0 < within_s <= WAIT_S_MAX:
            raise errors.invalid_value("within_s", str(within_s), f"Expected a number up to {WAIT_S_MAX:.0f}")
        asked = await run_in_threadpool(
            self._plane.inquiries.ask_probe, name_of(request), within_s, self._probe_key, time.time()
        )
        self._polls.probes.wake()
        return as_json(asked)

    async def _probe(self, request: Request) -> Response:
        return as_json(await run_in_threadpool(self._plane.inquiries.probe, name_of(request), time.time()))

    async def _ask_trace(self, request: Request) -> Response:
        body: bytes = request.state.body
        wish = decoded(lambda document: msgspec.json.decode(document, type=TraceWish), body)
        try:
            wish.selection.networks()
        except ValueError as error:
            raise errors.invalid_parameter_value(f"The packets to trace cannot be read: {error}") from None
        asked = await run_in_threadpool(self._plane.inquiries.ask_trace, wish, time.time())
        self._polls.traces_changed()
        return as_json(asked)

    async def _traced(self, request: Request) -> Response:
        trace_id, after = name_of(request), int(number_of(request, "after", 0))
        await run_in_threadpool(self._plane.inquiries.trace_awaited, trace_id, time.time())
        knows_it_began = number_of(request, "began", 0) != 0

        async def news() -> Response | None:
            progress = self._plane.inquiries.traces.read(trace_id, after, time.time())
            is_new = progress.packets or progress.ended is not None or progress.began != knows_it_began
            return as_json(progress) if is_new else None

        waited = await answered(self._polls.traces, news, min(number_of(request, "wait_s", 0.0), ASKER_GONE_S / 2))
        return waited or as_json(self._plane.inquiries.traces.read(trace_id, after, time.time()))

    async def _stop_trace(self, request: Request) -> Response:
        await run_in_threadpool(self._plane.inquiries.stop_trace, name_of(request), time.time())
        self._polls.traces_changed()
        return Response(status_code=204)

    async def _make_join_token(self, request: Request) -> Response:
        body: bytes = request.state.body
        wish = decoded(lambda document: msgspec.json.decode(document, type=TokenWish), body)
        if wish.host_id is not None:
            checked_name(wish.host_id)
        return as_json(await run_in_threadpool(offered(self._joins).make_token, wish, time.time()))

    async def _revoke(self, request: Request) -> Response:
        await run_in_threadpool(offered(self._joins).revoke, name_of(request), time.time())
        self._polls.wake()
        _log.info("the certificates of a host are revoked", host=name_of(request))
        return Response(status_code=204)

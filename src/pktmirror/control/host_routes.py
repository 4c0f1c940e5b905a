"""What agents and monitors ask: what is desired, what they report, and how a host joins. An edge module.

By TLS a host shows its certificate; elsewhere all show the token that they share.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from pktmirror.aws import BODY_BYTES_MAX, ApiError, errors
from pktmirror.control.joins import Joins, offered
from pktmirror.control.placement import Resources, document
from pktmirror.control.plane import ControlPlane
from pktmirror.control.polls import WAIT_S_MAX, Changes, Polls, answered
from pktmirror.control.records import HostCertificateRecord
from pktmirror.control.reports import MonitorReport
from pktmirror.control.requests import (
    OwnRoute,
    as_json,
    checked_name,
    decoded,
    name_of,
    number_of,
    read_body,
    require_token,
)
from pktmirror.control.tls import came_by_tls, shown
from pktmirror.desired import decode_report
from pktmirror.model.join import JoinRequest, RenewalRequest
from pktmirror.model.probe import ProbeAnswer
from pktmirror.tracing import TraceBatch

REPORT_BYTES_MAX = 16 * 1024 * 1024
_log = structlog.get_logger("control")
_News = tuple[Resources, Mapping[str, HostCertificateRecord]]
"""What is desired now, and the certificates that were given out."""


class HostRoutes:
    """``joins`` None: there is no TLS, so no host can join."""

    def __init__(self, plane: ControlPlane, polls: Polls, agent_token: str, joins: Joins | None) -> None:
        self._plane = plane
        self._polls = polls
        self._agent_token = agent_token.encode()
        self._joins = joins
        self._news: asyncio.Future[_News] | None = None
        self._news_wakes = 0  # so many there were when its reading began

    def routes(self) -> list[OwnRoute]:
        """Each asks for the token or certificate itself."""
        agent = "agents/{name}"
        return [
            OwnRoute("GET", "ca", self._ca),
            OwnRoute("POST", "join", self._join),
            OwnRoute("POST", f"{agent}/certificate", self._renew),
            OwnRoute("GET", f"{agent}/desired", self._agents_desired),
            OwnRoute("POST", f"{agent}/report", self._agent_report),
            OwnRoute("GET", f"{agent}/trace", self._agents_trace),
            OwnRoute("POST", f"{agent}/trace", self._agent_traced),
            OwnRoute("GET", f"{agent}/probes", self._agents_probes),
            OwnRoute("POST", f"{agent}/probes", self._probes_answered),
            OwnRoute("POST", "monitors/{name}/report", self._monitor_report),
        ]

    async def _agents_desired(self, request: Request) -> Response:
        """As `_polled`; but all that a change has woken look at what one of them has read."""
        host_id = name_of(request)
        after = number_of(request, "after", -1.0)
        until_s = time.monotonic() + min(number_of(request, "wait_s", 0.0), WAIT_S_MAX)
        changed = self._polls.revisions.next()
        if not came_by_tls(request):
            await self._require_agent(request)
        latest = await run_in_threadpool(self._look, request, host_id)
        while latest.revision == after:
            if not await self._polls.revisions.come(changed, until_s):
                return Response(status_code=204)
            changed = self._polls.revisions.next()
            latest, given_out = await self._latest_news()
            if came_by_tls(request):
                offered(self._joins).refuse_stranger(shown(request), host_id, time.time(), given_out)
        known = request.query_params.get("streams", "")
        return Response(document(latest, host_id, known), 200, media_type="application/json")

    def _look(self, request: Request, host_id: str) -> Resources:
        if came_by_tls(request):
            offered(self._joins).refuse_stranger(shown(request), host_id, time.time())
        return self._plane.latest()

    def _latest_news(self) -> "asyncio.Future[_News]":
        """What is read once for all whom one wake has woken: no other wake came since the reading began."""
        if self._news is None or self._news_wakes < self._polls.revisions.wakes:
            self._news_wakes = self._polls.revisions.wakes
            self._news = asyncio.ensure_future(run_in_threadpool(self._read_news))
        return asyncio.shield(self._news)

    def _read_news(self) -> _News:
        return self._plane.latest(), {} if self._joins is None else self._joins.given_out()

    async def _agents_probes(self, request: Request) -> Response:
        host_id = name_of(request)

        async def asked() -> Response | None:
            found = await run_in_threadpool(self._plane.inquiries.probes_asked_of, host_id, time.time())
            return as_json(found) if found else None

        return await self._polled(request, self._polls.probes, asked)

    async def _probes_answered(self, request: Request) -> Response:
        host_id = name_of(request)
        body = await self._agents_body(request, BODY_BYTES_MAX)
        answers = decoded(lambda document: msgspec.json.decode(document, type=tuple[ProbeAnswer, ...]), body)
        await run_in_threadpool(self._plane.inquiries.probes_answered, host_id, answers, time.time())
        return Response(status_code=204)

    async def _agent_report(self, request: Request) -> Response:
        host_id = name_of(request)
        report = decoded(decode_report, await self._agents_body(request, REPORT_BYTES_MAX))
        if report.host_id != host_id:
            raise errors.invalid_parameter_value(
                f"The report is of host {errors.echo(report.host_id)} and was sent for {host_id}"
            )
        await self._polls.change(self._plane.intake.agent_reported, report, time.time())
        return Response(status_code=204)

    async def _agents_trace(self, request: Request) -> Response:
        host_id = name_of(request)

        async def order() -> Response | None:
            found = self._plane.inquiries.traces.order(host_id, time.time())
            return None if found is None else as_json(found)

        return await self._polled(request, self._polls.trace_orders, order)

    async def _agent_traced(self, request: Request) -> Response:
        host_id = name_of(request)
        body = await self._agents_body(request, REPORT_BYTES_MAX)
        batch = decoded(lambda document: msgspec.json.decode(document, type=TraceBatch), body)
        wanted = await run_in_threadpool(self._plane.inquiries.trace_told, host_id, batch, time.time())
        self._polls.traces_changed()
        return as_json({"wanted": wanted})

    async def _monitor_report(self, request: Request) -> Response:
        monitor_id = name_of(request)
        body = await self._agents_body(request, REPORT_BYTES_MAX)
        report = decoded(lambda document: msgspec.json.decode(document, type=MonitorReport), body)
        if not await run_in_threadpool(self._plane.intake.monitor_reported, monitor_id, report, time.time()):
            raise ApiError("MonitorLimitExceeded", "Too many monitors report here; restart to forget those gone")
        return Response(status_code=204)

    async def _ca(self, _request: Request) -> Response:
        return Response(offered(self._joins).ca_pem, 200, media_type="application/x-pem-file")

    async def _join(self, request: Request) -> Response:
        joins = offered(self._joins)
        if not came_by_tls(request):
            raise ApiError("AuthFailure", "A token is shown by TLS alone", 403)
        body = await read_body(request, BODY_BYTES_MAX)
        wish = decoded(lambda document: msgspec.json.decode(document, type=JoinRequest), body)
        checked_name(wish.host_id)
        certified = await run_in_threadpool(joins.join, wish, time.time())
        self._polls.wake()
        _log.info("a host has joined", host=wish.host_id)
        return as_json(certified)

    async def _renew(self, request: Request) -> Response:
        await self._require_agent(request)
        if not came_by_tls(request):
            raise ApiError("AuthFailure", "A certificate is renewed by TLS alone", 403)
        body = await read_body(request, BODY_BYTES_MAX)
        asked = decoded(lambda document: msgspec.json.decode(document, type=RenewalRequest), body)
        renew = offered(self._joins).renew
        return as_json(await run_in_threadpool(renew, shown(request), name_of(request), asked.csr, time.time()))

    async def _polled(
        self, request: Request, changes: Changes, answer: Callable[[], Awaitable[Response | None]]
    ) -> Response:
        """The answer to an agent as soon as there is one; 204 where there is none in time.

        Whether it is that agent is asked each time: one that is revoked while it waits is told nothing more.
        """

        async def still_it() -> Response | None:
            await self._require_agent(request)
            return await answer()

        return await answered(changes, still_it, number_of(request, "wait_s", 0.0)) or Response(status_code=204)

    async def _require_agent(self, request: Request) -> None:
        """By TLS the certificate of the host that the request is about; elsewhere the token that all agents share."""
        if not came_by_tls(request):
            require_token(request, self._agent_token, "agent-token")
        else:
            refuse = offered(self._joins).refuse_stranger
            await run_in_threadpool(refuse, shown(request), name_of(request), time.time())

    async def _agents_body(self, request: Request, bytes_max: int) -> bytes:
        """What an agent sends, if it still is that agent when all of it is here: it may be revoked meanwhile."""
        await self._require_agent(request)
        body = await read_body(request, bytes_max)
        await self._require_agent(request)
        return body

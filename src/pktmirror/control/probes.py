"""Probes that were asked for: who is to send them, and what came of each. In memory only, the time is an argument.

A probe goes from the control plane to the agent of the source's host, from there the way of the session's copies, and
comes back in the report of a monitor that it reached. What is not known is said so: where no monitor of ours watches
the target, nobody can say whether a probe arrived.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from pktmirror.aws import ApiError
from pktmirror.control.placement import Resources, delivery
from pktmirror.control.records import SessionRecord
from pktmirror.control.reports import MonitorReport, ProbeReport, Reports
from pktmirror.control.status import agent_silence, not_placed
from pktmirror.desired import VXLAN_PORT, Destination
from pktmirror.model.ledger import Stage
from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest, ProbeSent

KEPT_S = 600.0
KEPT_MAX = 20_000
ASKED_AT_ONCE_MAX = 64
"""So many an agent is handed at once: it answers for all of them together."""
MONITOR_SILENT_S = 10.0
"""A monitor reports each second; one that has said nothing for so long watches nothing."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True, tag="waiting"):
    """For whom: ``agent`` or ``monitor``."""

    waits_for: str


class NotSent(msgspec.Struct, frozen=True, kw_only=True, tag="not sent"):
    reason: str


class Arrived(msgspec.Struct, frozen=True, kw_only=True, tag="arrived"):
    """``milliseconds`` is by one clock where agent and monitor are on one machine (``one_clock``), else by two; None:
    the agent has not told when it sent it.
    """

    monitor_id: str
    outer_source: str
    outer_destination: str
    milliseconds: float | None
    one_clock: bool


class ArrivalUnknown(msgspec.Struct, frozen=True, kw_only=True, tag="sent, arrival unknown"):
    reason: str


class NotSeen(msgspec.Struct, frozen=True, kw_only=True, tag="sent, not seen"):
    """Monitors watch the target, and none has told of it in ``within_s``.

    ``problem`` is what the agent says of the session, or said before it was asked. ``refused``: meanwhile an ICMP error
    about a copy came back.
    ``socket_queue_full``: meanwhile a monitor's socket had no room for something.
    """

    monitors: tuple[str, ...]
    within_s: float
    problem: str | None = None
    refused: bool = False
    socket_queue_full: bool = False


Outcome = Waiting | NotSent | Arrived | ArrivalUnknown | NotSeen


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A probe and what is known of it; ``probe_id`` None: nobody was asked to send one."""

    probe_id: str | None
    session_id: str
    host_id: str
    vni: int
    target: str | None
    outcome: Outcome


@dataclass(slots=True)
class _Probe:
    request: ProbeRequest
    host_id: str
    vni: int
    target: str
    within_s: float
    asked_at_s: float
    problem_before: str | None  # a next hop that is asked for anew by the probe itself is no problem meanwhile
    refused_before: int
    queue_full_before: int
    answer: ProbeAnswer | None = None
    answered_at_s: float = 0.0
    arrived: tuple[str, str, ProbeReport] | None = None  # at which monitor, by which clock


@dataclass(slots=True)
class Probes:
    """The probes of the last minutes. Safe to use from several threads."""

    kept_max: int = KEPT_MAX
    _probes: dict[str, _Probe] = field(default_factory=dict)  # in the order in which they were asked for
    _by_token: dict[str, _Probe] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(
        self,
        session: SessionRecord,
        resources: Resources,
        reports: Reports,
        request: ProbeRequest,
        within_s: float,
        now_s: float,
    ) -> Verification:
        """Ask for a probe of a session, unless it is known already that none can be sent.

        Raises ApiError where too many were asked for.
        """
        host_id = resources.interfaces[session.interface_id].host_id
        where = delivery(session, resources)
        target = where.address if isinstance(where, Destination) else None
        reason = not_placed(session, resources) or agent_silence(host_id, reports, now_s)
        if reason is not None or target is None:
            return Verification(
                probe_id=None,
                session_id=session.session_id,
                host_id=host_id,
                vni=session.vni,
                target=target,
                outcome=NotSent(reason=str(reason)),
            )
        probe = _Probe(
            request,
            host_id,
            session.vni,
            target,
            within_s,
            now_s,
            _agents_problem(host_id, session.session_id, reports),
            _refused(host_id, session.session_id, reports),
            _queue_full(_watching(target, reports, now_s), reports),
        )
        with self._lock:
            self._forget(now_s)
            if len(self._probes) >= self.kept_max:
                raise ApiError(
                    "RequestLimitExceeded",
                    f"{self.kept_max} probes were asked for in {KEPT_S:.0f} s. Wait, and try again",
                )
            self._probes[request.probe_id] = self._by_token[request.token] = probe
        return _told(probe, Waiting(waits_for="agent"))

    def asked_of(self, host_id: str, now_s: float) -> list[ProbeRequest]:
        """What an agent has still to answer, the oldest first."""
        with self._lock:
            waiting = [
                probe.request
                for probe in self._probes.values()
                if probe.host_id == host_id and probe.answer is None and now_s < probe.asked_at_s + probe.within_s
            ]
        return waiting[:ASKED_AT_ONCE_MAX]

    def answered(self, host_id: str, answers: Iterable[ProbeAnswer], now_s: float) -> None:
        """Take in what an agent has done; what it was not asked for is ignored, as is a second answer."""
        with self._lock:
            for answer in answers:
                probe = self._probes.get(answer.probe_id)
                if probe is not None and probe.host_id == host_id and probe.answer is None:
                    probe.answer, probe.answered_at_s = answer, now_s

    def monitor_told(self, monitor_id: str, report: MonitorReport) -> None:
        """Take in which probes have reached a monitor; the first one to tell of a probe counts."""
        for arrival in report.probes:
            self.arrived(monitor_id, report.clock, arrival)

    def arrived(self, monitor_id: str, clock: str, arrival: ProbeReport) -> bool:
        """Take in that a probe has reached a monitor; whether that is news of a probe that was asked for."""
        with self._lock:
            probe = self._by_token.get(arrival.token)
            if probe is None or probe.arrived is not None:
                return False
            probe.arrived = monitor_id, clock, arrival
            return True

    def document(self, probe_id: str) -> bytes:
        """What another replica must know of a probe that was asked for here."""
        with self._lock:
            return msgspec.json.encode(self._probes[probe_id])

    def asked_elsewhere(self, document: bytes) -> None:
        """Know of a probe that another replica was asked for. Raises msgspec.DecodeError."""
        probe = msgspec.json.decode(document, type=_Probe)
        with self._lock:
            if probe.request.probe_id not in self._probes:
                self._probes[probe.request.probe_id] = self._by_token[probe.request.token] = probe

    def of(self, probe_id: str, reports: Reports, now_s: float) -> Verification | None:
        """What is known of a probe now; None for one that was not asked for, or is forgotten."""
        with self._lock:
            probe = self._probes.get(probe_id)
            return None if probe is None else _told(probe, _outcome(probe, reports, now_s))

    def _forget(self, now_s: float) -> None:
        for probe_id, probe in [*self._probes.items()]:
            if now_s - probe.asked_at_s < KEPT_S:
                return
            del self._probes[probe_id], self._by_token[probe.request.token]


def _outcome(probe: _Probe, reports: Reports, now_s: float) -> Outcome:
    if probe.answer is None and now_s < probe.asked_at_s + probe.within_s:
        return Waiting(waits_for="agent")
    if probe.arrived is not None:
        return _arrived(probe.answer if isinstance(probe.answer, ProbeSent) else None, *probe.arrived)
    match probe.answer:
        case None:
            silence = agent_silence(probe.host_id, reports, now_s)
            return NotSent(reason=silence or f"the agent of {probe.host_id} has not taken the request in time")
        case ProbeNotSent(reason=reason):
            return NotSent(reason=reason)
        case ProbeSent():
            return _not_arrived(probe, reports, now_s)


def _arrived(sent: ProbeSent | None, monitor_id: str, clock: str, arrival: ProbeReport) -> Arrived:
    return Arrived(
        monitor_id=monitor_id,
        outer_source=arrival.outer_source,
        outer_destination=arrival.outer_destination,
        milliseconds=None if sent is None else round((arrival.arrived_at_ns - sent.sent_at_ns) / 1e6, 3),
        one_clock=sent is not None and clock == sent.clock != "",
    )


def _not_arrived(probe: _Probe, reports: Reports, now_s: float) -> Outcome:
    watching = _watching(probe.target, reports, now_s)
    if not watching:
        return ArrivalUnknown(reason=f"no monitor of ours watches {probe.target}")
    if now_s < probe.answered_at_s + probe.within_s:
        return Waiting(waits_for="monitor")
    return NotSeen(
        monitors=watching,
        within_s=probe.within_s,
        problem=_agents_problem(probe.host_id, probe.request.session_id, reports) or probe.problem_before,
        refused=_refused(probe.host_id, probe.request.session_id, reports) > probe.refused_before,
        socket_queue_full=_queue_full(watching, reports) > probe.queue_full_before,
    )


def _watching(target: str, reports: Reports, now_s: float) -> tuple[str, ...]:
    """The monitors that would tell of a probe which reaches the target."""
    return tuple(
        monitor_id
        for monitor_id, told in sorted(reports.monitors.items())
        if now_s - told.received_at_s <= MONITOR_SILENT_S and _watches(told.report, target)
    )


def _watches(report: MonitorReport, target: str) -> bool:
    address, _, port = report.listening.rpartition(":")
    seen = {stream.outer_destination for stream in report.streams}
    return not report.stopped and port == str(VXLAN_PORT) and target in {address.strip("[]"), *report.addresses, *seen}


def _agents_problem(host_id: str, session_id: str, reports: Reports) -> str | None:
    told = reports.agents.get(host_id)
    statuses = () if told is None else told.report.statuses
    return next((each.problem for each in statuses if each.session_id == session_id), None)


def _refused(host_id: str, session_id: str, reports: Reports) -> int:
    """How many errors about copies of a session came back, by the last report."""
    told = reports.agents.get(host_id)
    return sum(
        ledger.stage(Stage.TARGET_REFUSED).packets
        for figures in (() if told is None else told.report.sessions)
        if figures.session_id == session_id
        for ledger in figures.directions.values()
    )


def _queue_full(monitor_ids: Iterable[str], reports: Reports) -> int:
    return sum(reports.monitors[monitor_id].report.socket_queue_full for monitor_id in monitor_ids)


def _told(probe: _Probe, outcome: Outcome) -> Verification:
    return Verification(
        probe_id=probe.request.probe_id,
        session_id=probe.request.session_id,
        host_id=probe.host_id,
        vni=probe.vni,
        target=probe.target,
        outcome=outcome,
    )

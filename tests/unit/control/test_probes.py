"""What the control plane makes of a probe, as time passes and agents and monitors tell."""

from dataclasses import dataclass, field

import msgspec
import pytest

from pktmirror.aws import ApiError
from pktmirror.control.placement import Resources
from pktmirror.control.probes import (
    ArrivalUnknown,
    Arrived,
    NotSeen,
    NotSent,
    Outcome,
    Probes,
    Waiting,
)
from pktmirror.control.reports import MonitorReport, ProbeReport, Received, Reports, StreamReport
from pktmirror.desired import SessionFigures, SessionStatus
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from pktmirror.model.probe import ProbeNotSent, ProbeRequest, ProbeSent
from pktmirror.model.target import LoadBalancerTarget
from tests.unit.control.records import HOST, interface, report, resources, session, target

WEB, SENSOR = interface("web", "10.0.0.1"), interface("s", "10.0.0.9")
ONE = resources([WEB, SENSOR], [target("s")], [session("a", "web", "s")])
REQUEST = ProbeRequest(probe_id="p1", session_id="tms-a", token="00ff")
WITHIN_S = 5.0
CLOCK = "of this machine"
SENT = ProbeSent(probe_id="p1", sent_at_ns=1_000_000_000, clock=CLOCK)
WATCHING = MonitorReport(listening="10.0.0.9:4789", clock=CLOCK)


@dataclass
class Scene:
    """A control plane in which a probe of tms-a was asked for at 100 s, of an agent that reports."""

    reports: Reports = field(default_factory=lambda: Reports(agents={HOST: Received(report(), 100.0)}))
    all_: Resources = ONE
    probes: Probes = field(default_factory=Probes)

    def ask(self, request: ProbeRequest = REQUEST, now_s: float = 100.0) -> Outcome:
        [record] = self.all_.sessions
        return self.probes.ask(record, self.all_, self.reports, request, WITHIN_S, now_s).outcome

    def outcome(self, now_s: float) -> Outcome:
        known = self.probes.of("p1", self.reports, now_s)
        assert known is not None
        return known.outcome

    def monitor(self, told: MonitorReport, at_s: float = 100.0, name: str = "m") -> None:
        self.reports.monitors[name] = Received(told, at_s)
        self.probes.monitor_told(name, told)


def arrival(token: str = REQUEST.token, at_ns: int = 1_002_500_000) -> ProbeReport:
    return ProbeReport(token=token, vni=7, outer_source="10.0.0.1", outer_destination="10.0.0.9", arrived_at_ns=at_ns)


def with_probes(*told: ProbeReport, clock: str = CLOCK) -> MonitorReport:
    return msgspec.structs.replace(WATCHING, probes=told, clock=clock)


def test_a_probe_waits_for_its_agent_then_for_a_monitor_and_arrives() -> None:
    scene = Scene()
    scene.monitor(WATCHING)
    assert scene.ask() == Waiting(waits_for="agent")
    assert scene.outcome(100.5) == Waiting(waits_for="agent")
    assert scene.probes.asked_of(HOST, 100.5) == [REQUEST]
    scene.probes.answered(HOST, [SENT], 101.0)
    assert scene.probes.asked_of(HOST, 101.0) == [], "it is sent once"
    assert scene.outcome(101.5) == Waiting(waits_for="monitor")
    scene.monitor(with_probes(arrival()), 102.0)
    assert scene.outcome(102.0) == Arrived(
        monitor_id="m", outer_source="10.0.0.1", outer_destination="10.0.0.9", milliseconds=2.5, one_clock=True
    )
    scene.monitor(WATCHING, 170.0)
    assert isinstance(scene.outcome(170.0), Arrived), "also when the monitor tells of it no more"


def test_times_of_two_clocks_are_said_to_be_that() -> None:
    scene = Scene()
    scene.ask()
    scene.probes.answered(HOST, [SENT], 101.0)
    scene.monitor(with_probes(arrival(), clock="of another machine"))
    outcome = scene.outcome(101.0)
    assert isinstance(outcome, Arrived)
    assert not outcome.one_clock


def test_a_token_that_was_not_asked_for_confuses_nothing() -> None:
    scene = Scene()
    scene.ask()
    scene.probes.answered(HOST, [SENT], 101.0)
    scene.monitor(with_probes(arrival("00fe"), arrival("")))
    assert scene.outcome(101.0) == Waiting(waits_for="monitor")


def test_without_a_monitor_at_the_target_the_arrival_is_unknown_at_once() -> None:
    scene = Scene()
    scene.monitor(msgspec.structs.replace(WATCHING, listening="10.0.0.10:4789"))
    scene.ask()
    scene.probes.answered(HOST, [SENT], 100.1)
    assert scene.outcome(100.1) == ArrivalUnknown(reason="no monitor of ours watches 10.0.0.9")


@pytest.mark.parametrize(
    ("told", "watches"),
    [
        pytest.param(WATCHING, True, id="at the address"),
        pytest.param(MonitorReport(listening="0.0.0.0:4789", addresses=("10.0.0.9",)), True, id="on all, it too"),
        pytest.param(MonitorReport(listening="[::]:4789", addresses=("10.0.0.9",)), True, id="on all of IPv6 too"),
        pytest.param(MonitorReport(listening="0.0.0.0:4789", addresses=("10.0.0.8",)), False, id="on all of another"),
        pytest.param(MonitorReport(listening="10.0.0.9:4790"), False, id="at another port"),
        pytest.param(msgspec.structs.replace(WATCHING, stopped=True), False, id="one that has ended"),
        pytest.param(
            MonitorReport(
                listening="0.0.0.0:4789",
                streams=(
                    StreamReport(
                        vni=1,
                        outer_source="10.0.0.3",
                        outer_destination="10.0.0.9",
                        received_packets=1,
                        received_bytes=1,
                        written_packets=1,
                        written_bytes=1,
                    ),
                ),
            ),
            True,
            id="that has received something there",
        ),
    ],
)
def test_who_watches_a_target(told: MonitorReport, watches: bool) -> None:
    scene = Scene()
    scene.monitor(told)
    scene.ask()
    scene.probes.answered(HOST, [SENT], 100.1)
    assert isinstance(scene.outcome(100.1), Waiting if watches else ArrivalUnknown)


def test_a_monitor_that_reports_no_more_watches_nothing() -> None:
    scene = Scene()
    scene.monitor(WATCHING, at_s=89.0)
    scene.ask()
    scene.probes.answered(HOST, [SENT], 100.1)
    assert isinstance(scene.outcome(100.1), ArrivalUnknown)


def test_what_a_monitor_has_not_seen_in_time_is_said_with_what_else_was_seen() -> None:
    scene = Scene()
    scene.monitor(WATCHING)
    scene.ask()
    scene.probes.answered(HOST, [SENT], 101.0)
    assert scene.outcome(105.9) == Waiting(waits_for="monitor")
    scene.monitor(WATCHING, 106.0)
    assert scene.outcome(106.0) == NotSeen(monitors=("m",), within_s=WITHIN_S)
    refused = SessionFigures(
        session_id="tms-a", directions={Direction.INGRESS: SessionLedger({}, {Stage.TARGET_REFUSED: Tally(1, 70)})}
    )
    problem = SessionStatus(session_id="tms-a", problem="the next hop 10.0.0.9 does not answer ARP")
    scene.reports.agents[HOST] = Received(
        msgspec.structs.replace(report(), sessions=(refused,), statuses=(problem,)), 106.0
    )
    scene.monitor(msgspec.structs.replace(WATCHING, socket_queue_full=3), 106.0)
    assert scene.outcome(106.0) == NotSeen(
        monitors=("m",), within_s=WITHIN_S, problem=problem.problem, refused=True, socket_queue_full=True
    )
    scene.monitor(with_probes(arrival()), 107.0)
    assert isinstance(scene.outcome(107.0), Arrived), "late is better than never"


def test_refusals_and_full_queues_of_before_are_no_clue() -> None:
    refused = SessionFigures(
        session_id="tms-a", directions={Direction.INGRESS: SessionLedger({}, {Stage.TARGET_REFUSED: Tally(1, 70)})}
    )
    scene = Scene()
    scene.reports.agents[HOST] = Received(msgspec.structs.replace(report(), sessions=(refused,)), 100.0)
    scene.monitor(msgspec.structs.replace(WATCHING, socket_queue_full=3))
    scene.ask()
    scene.probes.answered(HOST, [SENT], 100.1)
    assert scene.outcome(106.0) == NotSeen(monitors=("m",), within_s=WITHIN_S)


def test_a_problem_of_before_is_a_clue_also_where_the_probe_makes_the_host_ask_for_its_next_hop_anew() -> None:
    problem = SessionStatus(session_id="tms-a", problem="the next hop 10.0.0.9 does not answer ARP")
    scene = Scene()
    scene.reports.agents[HOST] = Received(msgspec.structs.replace(report(), statuses=(problem,)), 100.0)
    scene.monitor(WATCHING)
    scene.ask()
    scene.probes.answered(HOST, [SENT], 100.1)
    scene.reports.agents[HOST] = Received(report(), 101.0)
    assert scene.outcome(106.0) == NotSeen(monitors=("m",), within_s=WITHIN_S, problem=problem.problem)


def test_what_the_agent_could_not_send_is_not_sent() -> None:
    scene = Scene()
    scene.ask()
    scene.probes.answered(HOST, [ProbeNotSent(probe_id="p1", reason="no route")], 100.1)
    assert scene.outcome(100.1) == NotSent(reason="no route")
    scene.probes.answered(HOST, [SENT], 100.2)
    assert scene.outcome(100.2) == NotSent(reason="no route"), "the first answer counts"


def test_an_agent_that_does_not_answer_in_time_has_not_sent_and_is_asked_no_more() -> None:
    scene = Scene()
    scene.ask()
    assert scene.outcome(105.0) == NotSent(reason="the agent of h1 has not taken the request in time")
    assert scene.probes.asked_of(HOST, 105.0) == []


def test_only_the_agent_that_was_asked_answers() -> None:
    scene = Scene()
    scene.ask()
    assert scene.probes.asked_of("h2", 100.0) == []
    scene.probes.answered("h2", [SENT], 100.1)
    scene.probes.answered(HOST, [ProbeSent(probe_id="p2", sent_at_ns=1, clock="")], 100.1)
    assert scene.outcome(100.1) == Waiting(waits_for="agent")


def test_a_probe_that_arrives_counts_whatever_its_agent_says_of_it() -> None:
    scene = Scene()
    scene.ask()
    scene.monitor(with_probes(arrival()))
    assert scene.outcome(100.1) == Waiting(waits_for="agent")
    outcome = scene.outcome(105.0)
    assert isinstance(outcome, Arrived)
    assert (outcome.milliseconds, outcome.one_clock) == (None, False)


@pytest.mark.parametrize(
    ("all_", "reason"),
    [
        pytest.param(
            resources([interface("web", "10.0.0.1", detached_at_s=1.0), SENSOR], [target("s")], [ONE.sessions[0]]),
            "interface gone",
            id="the source is gone",
        ),
        pytest.param(
            resources([WEB, interface("s", "10.0.0.9", detached_at_s=1.0)], [target("s")], [ONE.sessions[0]]),
            "target interface gone",
            id="the target is gone",
        ),
        pytest.param(
            resources([WEB, SENSOR], [target("s", LoadBalancerTarget("arn"))], [ONE.sessions[0]]),
            "target type not yet deliverable",
            id="a load balancer",
        ),
    ],
)
def test_where_nothing_can_be_sent_nobody_is_asked(all_: Resources, reason: str) -> None:
    scene = Scene(all_=all_)
    assert scene.ask() == NotSent(reason=reason)
    assert scene.probes.asked_of(HOST, 100.0) == []


def test_an_agent_that_is_away_is_not_asked() -> None:
    scene = Scene(reports=Reports())
    assert scene.ask() == NotSent(reason="the agent of h1 has not reported since the control plane started")
    scene = Scene()
    assert scene.ask(now_s=131.0) == NotSent(reason="the agent of h1 has not reported for 31 s")
    assert scene.probes.asked_of(HOST, 131.0) == []


def test_probes_are_forgotten_in_time_and_no_more_are_taken_than_there_is_room_for() -> None:
    scene = Scene(probes=Probes(kept_max=2))
    others = [msgspec.structs.replace(REQUEST, probe_id=f"p{n}", token=f"0{n}") for n in (2, 3)]
    scene.ask()
    scene.ask(others[0])
    with pytest.raises(ApiError) as refusal:
        scene.ask(others[1])
    assert refusal.value.code == "RequestLimitExceeded"
    scene.reports.agents[HOST] = Received(report(), 700.0)
    scene.ask(others[1], now_s=700.0)
    assert scene.probes.of("p1", scene.reports, 700.0) is None
    assert scene.probes.asked_of(HOST, 700.0) == [others[1]]

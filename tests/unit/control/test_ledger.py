import msgspec
import pytest

from pktmirror.control import status
from pktmirror.control.ledger import CollectorRow, SessionRow, Uncollected, rows
from pktmirror.control.placement import Resources
from pktmirror.control.reports import MonitorReport, Received, Reports, StreamReport
from pktmirror.desired import Report, SessionFigures, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from tests.unit.control.records import interface, report, resources, session, target

SOURCE, SENSOR = interface("web", "10.0.0.1"), interface("s", "10.0.0.9")


def figures(session_id: str, taken: int, sent: int) -> SessionFigures:
    ledger = SessionLedger({Verdict.TAKEN: Tally(taken, taken * 100)}, {Stage.SENT: Tally(sent, sent * 100)})
    return SessionFigures(session_id=session_id, directions={Direction.EGRESS: ledger})


def told(*sessions: SessionFigures, at_s: float = 100.0) -> Received[Report]:
    statuses = tuple(SessionStatus(session_id=one.session_id) for one in sessions)
    return Received(msgspec.structs.replace(report(), sessions=sessions, statuses=statuses), at_s)


def stream(source: str, received: int, written: int, vni: int = 7) -> StreamReport:
    return StreamReport(
        vni=vni,
        outer_source=source,
        outer_destination="10.0.0.9",
        received_packets=received,
        received_bytes=received * 100,
        written_packets=written,
        written_bytes=written * 100,
    )


def monitor(*streams: StreamReport, listening: str = "0.0.0.0:4789") -> Received[MonitorReport]:
    return Received(MonitorReport(listening=listening, streams=streams), 100.0)


def all_rows(all_: Resources, reports: Reports, now_s: float = 101.0) -> list[SessionRow]:
    return rows(all_, reports, status.problems(all_, reports, now_s))


ONE = resources([SOURCE, SENSOR], [target("s")], [session("a", "web", "s")])


def test_what_the_agent_sent_stands_beside_what_the_monitor_received() -> None:
    reports = Reports({"h1": told(figures("tms-a", 10, 9))}, {"m": monitor(stream("10.0.0.1", 8, 5))})
    [row] = all_rows(ONE, reports)
    assert row.problem is None
    assert row.sent == Tally(9, 900)
    assert row.directions["egress"].offered == Tally(10, 1000)
    assert row.directions["egress"].lost_in_hop_packets == 1
    assert row.directions["ingress"].offered == Tally()
    assert row.collector == CollectorRow(
        monitors=("m",),
        received=Tally(8, 800),
        written=Tally(5, 500),
        not_written=Tally(3, 300),
        lost_on_wire_packets=1,
        shared_with=(),
    )


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(stream("10.0.0.2", 8, 8), id="another source"),
        pytest.param(stream("10.0.0.1", 8, 8, vni=8), id="another VNI"),
    ],
)
def test_a_stream_that_is_not_the_sessions_counts_for_nothing(other: StreamReport) -> None:
    reports = Reports({"h1": told(figures("tms-a", 1, 1))}, {"m": monitor(other)})
    assert all_rows(ONE, reports)[0].collector == Uncollected(reason="no monitor reports this target")


def test_a_monitor_at_the_targets_address_that_saw_nothing_received_nothing() -> None:
    reports = Reports({"h1": told(figures("tms-a", 4, 4))}, {"m": monitor(listening="10.0.0.9:4789")})
    collector = all_rows(ONE, reports)[0].collector
    assert isinstance(collector, CollectorRow)
    assert (collector.received, collector.lost_on_wire_packets) == (Tally(), 4)


def test_sessions_that_share_a_stream_are_compared_together() -> None:
    all_ = resources([SOURCE, SENSOR], [target("s")], [session("a", "web", "s", 1), session("b", "web", "s", 2)])
    agents = {"h1": told(figures("tms-a", 5, 5), figures("tms-b", 3, 3))}
    a, b = all_rows(all_, Reports(agents, {"m": monitor(stream("10.0.0.1", 7, 7))}))
    for row, other in ((a, "tms-b"), (b, "tms-a")):
        assert isinstance(row.collector, CollectorRow)
        assert row.collector.lost_on_wire_packets == 1
        assert row.collector.shared_with == (other,)
    assert (a.sent, b.sent) == (Tally(5, 500), Tally(3, 300))


def test_two_monitors_of_one_stream_are_summed() -> None:
    monitors = {"m1": monitor(stream("10.0.0.1", 2, 2)), "m2": monitor(stream("10.0.0.1", 3, 1))}
    collector = all_rows(ONE, Reports({"h1": told(figures("tms-a", 5, 5))}, monitors))[0].collector
    assert isinstance(collector, CollectorRow)
    assert (collector.monitors, collector.received, collector.written) == (
        ("m1", "m2"),
        Tally(5, 500),
        Tally(3, 300),
    )


@pytest.mark.parametrize(
    ("all_", "reports", "problem"),
    [
        pytest.param(ONE, Reports({"h1": told(figures("tms-a", 0, 0))}), None, id="mirrored"),
        pytest.param(ONE, Reports(), "the agent of h1 has not reported since the control plane started", id="mute"),
        pytest.param(
            ONE,
            Reports({"h1": told(figures("tms-a", 0, 0), at_s=50.0)}),
            "the agent of h1 has not reported for 51 s",
            id="silent",
        ),
        pytest.param(ONE, Reports({"h1": told()}), "the agent of h1 has not applied it yet", id="not applied"),
        pytest.param(
            ONE,
            Reports(
                {
                    "h1": Received(
                        msgspec.structs.replace(
                            report(), statuses=(SessionStatus(session_id="tms-a", problem="no tcx"),)
                        ),
                        100.0,
                    )
                }
            ),
            "no tcx",
            id="the agent's own words",
        ),
        pytest.param(
            resources(
                [interface("web", "10.0.0.1", detached_at_s=1.0), SENSOR], [target("s")], [session("a", "web", "s")]
            ),
            Reports(),
            "interface gone",
            id="gone",
        ),
        pytest.param(
            resources([interface("web"), SENSOR], [target("s")], [session("a", "web", "s")]),
            Reports(),
            "source interface has no primary address",
            id="no address",
        ),
        pytest.param(
            resources([SOURCE], [target("s")], [session("a", "web", "s")]),
            Reports(),
            "target interface gone",
            id="target gone",
        ),
    ],
)
def test_a_session_says_why_it_does_not_mirror(all_: Resources, reports: Reports, problem: str | None) -> None:
    assert status.problems(all_, reports, 101.0) == {"tms-a": problem}

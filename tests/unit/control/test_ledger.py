from dataclasses import replace

import msgspec
import pytest

from pktmirror.control import status
from pktmirror.control.history import History, subject
from pktmirror.control.ledger import CollectorRow, SessionRow, Uncollected, rows
from pktmirror.control.placement import OUTER_SOURCE_NOT_TOLD, Resources, Stream
from pktmirror.control.records import NO_PRIMARY_ADDRESS, CarriedRecord
from pktmirror.control.reports import MonitorReport, Received, Reports, StreamReport
from pktmirror.desired import RULES_NOT_TOLD, Report, RuleFigures, SessionFigures, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from pktmirror.networks import load
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


def all_rows(
    all_: Resources, reports: Reports, now_s: float = 101.0, remembered: History | None = None
) -> list[SessionRow]:
    return rows(all_, reports, status.problems(all_, reports, now_s), remembered or History())


def compared(collector: CollectorRow | Uncollected) -> tuple[Tally, int, tuple[str, ...]]:
    """What was received, what is missing of it, and with whom."""
    assert isinstance(collector, CollectorRow), collector
    return collector.received, collector.lost_on_wire_packets, collector.shared_with


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
    assert compared(all_rows(ONE, reports)[0].collector) == (Tally(), 1, ())


def test_where_no_monitor_counts_at_the_target_nothing_is_compared() -> None:
    elsewhere = msgspec.structs.replace(stream("10.0.0.1", 8, 8), outer_destination="10.0.0.8")
    for monitors in ({}, {"m": monitor(elsewhere, listening="10.0.0.8:4789")}):
        reports = Reports({"h1": told(figures("tms-a", 1, 1))}, monitors)
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


def used(vni: int, destination: str = "10.0.0.9") -> Stream:
    return vni, "10.0.0.1", destination


def test_what_was_sent_before_a_change_of_the_vni_is_compared_where_it_went() -> None:
    remembered = History({"tms-a": frozenset({used(7), used(6)})})
    reports = Reports({"h1": told(figures("tms-a", 10, 10))}, {"m": monitor(stream("10.0.0.1", 10, 10, vni=6))})
    assert compared(all_rows(ONE, reports, remembered=remembered)[0].collector) == (Tally(10, 1000), 0, ())
    assert compared(all_rows(ONE, reports)[0].collector) == (Tally(), 10, ())


def test_a_target_of_before_at_which_nobody_counts_leaves_nothing_to_compare() -> None:
    remembered = History({"tms-a": frozenset({used(7), used(7, "10.0.0.8")})})
    reports = Reports({"h1": told(figures("tms-a", 10, 10))}, {"m": monitor(stream("10.0.0.1", 4, 4))})
    [row] = all_rows(ONE, reports, remembered=remembered)
    assert row.collector == Uncollected(reason="no monitor reports 10.0.0.8, one of its targets")


def test_a_deleted_session_counts_with_the_one_that_has_its_stream_now() -> None:
    remembered = History({"tms-old": frozenset({used(7)}), "tms-other": frozenset({used(5)})}, {"tms-old": Tally(10)})
    reports = Reports({"h1": told(figures("tms-a", 3, 3))}, {"m": monitor(stream("10.0.0.1", 12, 12))})
    [row] = all_rows(ONE, reports, remembered=remembered)
    assert compared(row.collector) == (Tally(12, 1200), 1, ("tms-old",))
    assert row.sent == Tally(3, 300)


def test_what_a_deleted_session_sent_at_last_is_unknown_and_no_loss_of_another() -> None:
    remembered = History({"tms-old": frozenset({used(7)})}, {"tms-old": Tally(10)})
    reports = Reports({"h1": told(figures("tms-a", 3, 3))}, {"m": monitor(stream("10.0.0.1", 14, 14))})
    collector = all_rows(ONE, reports, remembered=remembered)[0].collector
    assert isinstance(collector, Uncollected)
    assert collector.reason.startswith("1 packets more received than are known to be sent: what tms-old sent")


def test_sessions_are_joined_also_through_a_third_and_no_further() -> None:
    all_ = resources(
        [SOURCE, SENSOR],
        [target("s")],
        [session("a", "web", "s", 1, vni=1), session("b", "web", "s", 2, vni=3), session("c", "web", "s", 3, vni=4)],
    )
    remembered = History(
        {"tms-old": frozenset({used(1), used(2)}), "tms-b": frozenset({used(2)})}, {"tms-old": Tally()}
    )
    reports = Reports(
        {"h1": told(figures("tms-a", 1, 1), figures("tms-b", 2, 2), figures("tms-c", 4, 4))},
        {
            "m": monitor(
                stream("10.0.0.1", 1, 1, vni=1), stream("10.0.0.1", 2, 2, vni=3), stream("10.0.0.1", 3, 3, vni=4)
            )
        },
    )
    a, b, c = (compared(row.collector) for row in all_rows(all_, reports, remembered=remembered))
    assert a == (Tally(3, 300), 0, ("tms-b", "tms-old"))
    assert b == (Tally(3, 300), 0, ("tms-a", "tms-old"))
    assert c == (Tally(3, 300), 1, ())


def test_what_a_restarted_monitor_had_counted_still_counts() -> None:
    carried = {subject(used(7)): CarriedRecord(subject(used(7)), 6, 600, 5, 500)}
    reports = Reports({"h1": told(figures("tms-a", 8, 8))}, {"m": monitor(stream("10.0.0.1", 2, 2))})
    collector = all_rows(ONE, reports, remembered=History(carried=carried))[0].collector
    assert compared(collector) == (Tally(8, 800), 0, ())
    assert isinstance(collector, CollectorRow)
    assert (collector.written, collector.not_written) == (Tally(7, 700), Tally(1, 100))


def test_what_is_missing_after_a_monitor_was_restarted_is_not_called_a_loss() -> None:
    carried = {subject(used(7)): CarriedRecord(subject(used(7)), 5, 500, 5, 500)}
    reports = Reports({"h1": told(figures("tms-a", 8, 8))}, {"m": monitor(stream("10.0.0.1", 2, 2))})
    collector = all_rows(ONE, reports, remembered=History(carried=carried))[0].collector
    assert isinstance(collector, Uncollected)
    assert collector.reason.startswith("a monitor began to count anew, and 1 sent packets")


def test_what_a_session_had_sent_before_its_host_was_purged_still_counts() -> None:
    carried = {"tms-a": CarriedRecord("tms-a", 6, 600, 0, 0)}
    agents = {"h1": told(figures("tms-a", 2, 2))}
    exact = Reports(agents, {"m": monitor(stream("10.0.0.1", 8, 8))})
    [row] = all_rows(ONE, exact, remembered=History(carried=carried))
    assert compared(row.collector) == (Tally(8, 800), 0, ())
    assert row.sent == Tally(2, 200), "the source's own figures are as its agent reports them"
    more = Reports(agents, {"m": monitor(stream("10.0.0.1", 9, 9))})
    collector = all_rows(ONE, more, remembered=History(carried=carried))[0].collector
    assert isinstance(collector, Uncollected)
    assert "the counters of tms-a began anew" in collector.reason


def test_a_session_that_no_agent_reports_is_not_compared() -> None:
    reports = Reports({"h1": told()}, {"m": monitor(stream("10.0.0.1", 9, 9))})
    assert all_rows(ONE, reports)[0].collector == Uncollected(reason="no agent reports this session")


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
            NO_PRIMARY_ADDRESS,
            id="no address",
        ),
        pytest.param(
            resources(
                [replace(SOURCE, found=msgspec.structs.replace(SOURCE.found, mac=None, not_mirrorable="nobody"))],
                [target("s")],
                [session("a", "web", "s")],
            ),
            Reports(),
            "nobody",
            id="not mirrorable",
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


OF_HOST = load("""
[[vpc]]
name = "v"
cidr = "10.0.0.0/16"
underlay = { outer_source = "host" }
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
""")


def told_with_source(outer_source: str | None) -> Received[Report]:
    [status_] = told(figures("tms-a", 5, 5)).report.statuses
    statuses = (msgspec.structs.replace(status_, outer_source=outer_source),)
    return Received(msgspec.structs.replace(told(figures("tms-a", 5, 5)).report, statuses=statuses), 100.0)


def test_where_the_host_is_the_outer_source_the_stream_is_the_one_that_the_agent_says() -> None:
    all_ = resources([SOURCE, SENSOR], [target("s")], [session("a", "web", "s")], networks=OF_HOST)
    monitors = {"m": monitor(stream("10.0.0.3", 5, 5), stream("10.0.0.1", 99, 99))}
    [row] = all_rows(all_, Reports({"h1": told_with_source("10.0.0.3")}, monitors))
    assert (row.outer_source, row.outer_destination) == ("10.0.0.3", "10.0.0.9")
    assert compared(row.collector) == (Tally(5, 500), 0, ()), "the interface's own address is somebody else's stream"


def test_before_the_agent_has_said_it_there_is_nothing_to_compare() -> None:
    all_ = resources([SOURCE, SENSOR], [target("s")], [session("a", "web", "s")], networks=OF_HOST)
    monitors = {"m": monitor(stream("10.0.0.3", 5, 5))}
    [row] = all_rows(all_, Reports({"h1": told_with_source(None)}, monitors))
    assert row.outer_source is None
    assert row.collector == Uncollected(reason=OUTER_SOURCE_NOT_TOLD)


def test_what_left_from_both_addresses_is_of_one_session() -> None:
    all_ = resources([SOURCE, SENSOR], [target("s")], [session("a", "web", "s")], networks=OF_HOST)
    monitors = {"m": monitor(stream("10.0.0.1", 2, 2), stream("10.0.0.3", 3, 3))}
    remembered = History(streams={"tms-a": frozenset({(7, "10.0.0.1", "10.0.0.9"), (7, "10.0.0.3", "10.0.0.9")})})
    [row] = all_rows(all_, Reports({"h1": told_with_source("10.0.0.3")}, monitors), remembered=remembered)
    assert compared(row.collector) == (Tally(5, 500), 0, ())


def test_the_rules_figures_are_summed_up_and_their_rows_are_there_when_they_are_asked_for() -> None:
    told_rules = (
        RuleFigures("tmfr-a", Direction.EGRESS, Action.ACCEPT, 7, 700),
        RuleFigures("tmfr-b", Direction.EGRESS, Action.ACCEPT, 3, 300),
        RuleFigures("tmfr-c", Direction.EGRESS, Action.REJECT, 2, 200),
    )
    with_rules = msgspec.structs.replace(figures("tms-a", 10, 9), rules=told_rules, rules_lack=None)
    reports = Reports({"h1": told(with_rules)}, {})
    [row] = all_rows(ONE, reports)
    assert row.directions["egress"].by_rules == {"accept": Tally(10, 1000), "reject": Tally(2, 200)}
    assert row.directions["ingress"].by_rules == {"accept": Tally(), "reject": Tally()}
    assert (row.rules, row.rules_lack) == (None, None)
    [row] = rows(ONE, reports, {}, History(), with_rules=True)
    assert row.rules is not None
    assert {(rule.rule_id, rule.matched.packets) for rule in row.rules} == {("tmfr-a", 7), ("tmfr-b", 3), ("tmfr-c", 2)}


def test_an_agent_that_tells_nothing_of_rules_is_named_as_the_reason() -> None:
    [row] = all_rows(ONE, Reports({"h1": told(figures("tms-a", 10, 9))}, {}))
    assert row.rules_lack == RULES_NOT_TOLD
    [row] = all_rows(ONE, Reports())
    assert row.rules_lack == "no agent reports this session"

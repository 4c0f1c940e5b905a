"""The sums of CloudWatch's figures by instance: what is counted, from when on, and by which minute."""

from pathlib import Path

from msgspec.structs import replace

from pktmirror.control.instances import KEPT_MINUTES, Instances, Mirrored, Source, counter
from pktmirror.desired import Report, SessionFigures
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from tests.unit.control import records
from tests.unit.control.office import NOW_S, opened
from tests.unit.control.records import found

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
OWNERS = {
    "tms-1": Source("", "i-a"),
    "tms-2": Source("", "i-a"),
    "tms-3": Source("", "i-b"),
    "tms-nobody": Source("", ""),
    "tms-red": Source("111122223333", "i-a"),
}


def tallies(packets: int) -> Tally:
    return Tally(packets, 10 * packets)


def report(host_id: str = "h", **sent: int) -> Report:
    """What each session has sent of egress; the names are ``tms_1`` and so on."""
    sessions = tuple(
        SessionFigures(
            session_id=name.replace("_", "-"), directions={EGRESS: SessionLedger({}, {Stage.SENT: tallies(packets)})}
        )
        for name, packets in sent.items()
    )
    return Report(host_id=host_id, agent_version="", applied_revision=1, sessions=sessions)


def sent(instances: Instances, instance_id: str) -> int:
    return counter(instances.totals.get(instance_id, {}), EGRESS, skipped=False).packets


def test_what_had_been_counted_before_a_host_reports_for_the_first_time_is_left_out() -> None:
    instances = Instances()
    instances.told(report(tms_1=100), OWNERS.get, 0.0)
    assert sent(instances, "i-a") == 0
    instances.told(report(tms_1=103), OWNERS.get, 1.0)
    assert sent(instances, "i-a") == 3


def test_a_session_that_comes_later_counts_from_its_beginning() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    instances.told(report(tms_1=4), OWNERS.get, 1.0)
    assert sent(instances, "i-a") == 4


def test_sessions_are_summed_by_instance_and_those_of_none_are_left_out() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    instances.told(report(tms_1=1, tms_2=2, tms_3=4, tms_nobody=8, tms_unknown=16), OWNERS.get, 1.0)
    assert (sent(instances, "i-a"), sent(instances, "i-b")) == (3, 4)
    assert set(instances.totals) == {"i-a", "i-b"}


def test_what_a_session_has_mirrored_stays_when_it_ends_and_when_its_counters_begin_anew() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    instances.told(report(tms_1=10, tms_2=5), OWNERS.get, 1.0)
    instances.ended("tms-2")
    instances.told(report(tms_1=2), OWNERS.get, 2.0)
    assert sent(instances, "i-a") == 17


def test_what_was_capped_or_not_cloned_is_skipped_and_other_losses_are_neither() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    stages = {stage: tallies(2**number) for number, stage in enumerate(Stage)}
    session = SessionFigures(session_id="tms-1", directions={INGRESS: SessionLedger({}, stages)})
    told = Report(host_id="h", agent_version="", applied_revision=1, sessions=(session,))
    instances.told(told, OWNERS.get, 1.0)
    skipped = stages[Stage.CAPPED] + stages[Stage.CLONE_FAILED]
    assert instances.totals["i-a"] == {INGRESS: Mirrored(stages[Stage.SENT], skipped), EGRESS: Mirrored()}


def test_figures_are_kept_by_the_minute_and_the_oldest_are_forgotten() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    for minute in range(KEPT_MINUTES + 5):
        instances.told(report(tms_1=minute + 1), OWNERS.get, 60.0 * minute + 59.9)
    assert list(instances.minutes) == list(range(5, KEPT_MINUTES + 5))
    each = {EGRESS: Mirrored(tallies(1)), INGRESS: Mirrored()}
    assert all(figures == {"i-a": each} for figures in instances.by_minute("").values())


def test_an_account_is_told_what_its_own_sessions_of_an_instance_mirrored() -> None:
    instances = Instances()
    instances.told(report(), OWNERS.get, 0.0)
    instances.told(report(tms_1=1, tms_2=2, tms_red=4), OWNERS.get, 60.0)
    instances.ended("tms-red")
    assert sent(instances, "i-a") == 7

    def seen(account: str) -> dict[int, dict[str, int]]:
        return {
            minute: {id_: counter(figures, EGRESS, skipped=False).packets for id_, figures in found.items()}
            for minute, found in instances.by_minute(account).items()
        }

    assert seen("") == {1: {"i-a": 3}}
    assert seen("111122223333") == {1: {"i-a": 4}}
    assert seen("444455556666") == {1: {}}


def test_an_instance_of_two_accounts_shows_each_its_own(tmp_path: Path) -> None:
    with opened(tmp_path) as office:
        web = [replace(found("web", "10.0.0.1"), key=f"web/{number}") for number in range(2)]
        office.plane.intake.agent_reported(records.report(*web, found("tool", "10.0.0.9")), NOW_S)
        ids = {each["key"]: each["interface_id"] for each in office.plane.interfaces()}
        red = office.plane.create_account("red", NOW_S)
        office.plane.assign(ids["web/1"], "red", NOW_S)
        target_id = office.call("CreateTrafficMirrorTarget", NetworkInterfaceId=ids["tool"])["TrafficMirrorTarget"]
        made = office.call(
            "CreateTrafficMirrorSession",
            NetworkInterfaceId=ids["web/0"],
            TrafficMirrorTargetId=target_id["TrafficMirrorTargetId"],
            TrafficMirrorFilterId=office.filter(),
            SessionNumber=1,
        )
        figures = SessionFigures(
            session_id=made["TrafficMirrorSession"]["TrafficMirrorSessionId"],
            directions={EGRESS: SessionLedger({}, {Stage.SENT: tallies(3)})},
        )
        told = replace(records.report(*web, found("tool", "10.0.0.9")), sessions=(figures,))
        office.plane.intake.agent_reported(told, NOW_S + 1)
        own = office.call("ListMetrics", service="monitoring")["Metrics"]
        instances = {each["key"]: each["instance_id"] for each in office.plane.interfaces()}
        assert {each["Dimensions"][0]["Value"] for each in own} == {instances["web/0"]}
        assert office.call("ListMetrics", red["access_key_id"], service="monitoring")["Metrics"] == []

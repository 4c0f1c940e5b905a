"""The sums of CloudWatch's figures by instance: what is counted, from when on, and by which minute."""

from pktmirror.control.instances import KEPT_MINUTES, Instances, Mirrored, counter
from pktmirror.desired import Report, SessionFigures
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
OWNERS = {"tms-1": "i-a", "tms-2": "i-a", "tms-3": "i-b", "tms-nobody": ""}


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
    assert all(figures == {"i-a": each} for figures in instances.minutes.values())

"""What a report tells of sessions, and what it says of rules that it cannot tell of."""

from pktmirror.agent.figures import NO_METERS, NO_ROOM_IN_REPORT, session_figures
from pktmirror.desired import RuleFigures
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import RuleLedger, SessionLedger, Tally

TAKEN = {Direction.INGRESS: SessionLedger({Verdict.TAKEN: Tally(3, 300)})}


def rules(count: int) -> tuple[RuleLedger, ...]:
    return tuple(
        RuleLedger(f"tmfr-{n}", Direction.INGRESS, Action.ACCEPT, Tally(n, n * 100)) for n in range(1, count + 1)
    )


def test_a_session_is_told_with_all_its_rules_and_no_other_session_is() -> None:
    [told] = session_figures({"a": TAKEN, "ended": TAKEN}, {"a": (rules(2), True)}, frozenset({"a", "without figures"}))
    assert (told.session_id, told.directions, told.rules_lack) == ("a", TAKEN, None)
    assert told.rules == (
        RuleFigures("tmfr-1", Direction.INGRESS, Action.ACCEPT, 1, 100),
        RuleFigures("tmfr-2", Direction.INGRESS, Action.ACCEPT, 2, 200),
    )


def test_rules_that_were_not_counted_for_a_time_are_told_with_what_they_lack() -> None:
    [told] = session_figures({"a": TAKEN}, {"a": (rules(1), False)}, frozenset({"a"}))
    assert (len(told.rules), told.rules_lack) == (1, NO_METERS)


def test_a_report_has_room_for_so_many_rules_and_sessions_beyond_say_so() -> None:
    directions = {name: TAKEN for name in "abc"}
    by_rule = {"a": (rules(2), True), "b": (rules(3), True), "c": (rules(2), True)}
    told = session_figures(directions, by_rule, frozenset("abc"), rules_max=4)
    assert [(one.session_id, len(one.rules), one.rules_lack) for one in told] == [
        ("a", 2, None),
        ("b", 0, NO_ROOM_IN_REPORT),
        ("c", 2, None),
    ]
    assert [one.directions for one in told] == [TAKEN] * 3

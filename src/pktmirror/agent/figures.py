"""What a report tells of the sessions' figures. Pure."""

from collections.abc import Mapping

from pktmirror.agent import abi
from pktmirror.desired import RuleFigures, SessionFigures
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import RuleLedger, SessionLedger

RULES_REPORTED_MAX = 100_000  # some 6 MB of a report that may have 16
NO_METERS = (
    f"for a time the {abi.METER_BLOCKS * abi.METERS_A_BLOCK:,} meters of its host had no room for its rules, and what "
    "they matched then is in no rule's figure"
)
NO_ROOM_IN_REPORT = "more rules of its host have matched than a report has room for"


def session_figures(
    directions: Mapping[str, Mapping[Direction, SessionLedger]],
    by_rule: Mapping[str, tuple[tuple[RuleLedger, ...], bool]],
    session_ids: frozenset[str],
    *,
    rules_max: int = RULES_REPORTED_MAX,
) -> tuple[SessionFigures, ...]:
    """Of these sessions, as far as they have figures. Both mappings are by session id, as `DataPlane` gives them.

    The rules of a session are told all or not at all; of those for which there is no room it is said.
    """
    figures = []
    for session_id in sorted(directions.keys() & session_ids):
        rules, is_whole = by_rule.get(session_id, ((), False))
        lack = None if is_whole else NO_METERS
        if len(rules) > rules_max:
            rules, lack = (), NO_ROOM_IN_REPORT
        rules_max -= len(rules)
        figures.append(
            SessionFigures(
                session_id=session_id,
                directions=dict(directions[session_id]),
                rules=tuple(RuleFigures.of(rule) for rule in rules),
                rules_lack=lack,
            )
        )
    return tuple(figures)

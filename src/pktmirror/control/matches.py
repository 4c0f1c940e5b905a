"""What each rule of a session matched, as the ledger shows it. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pktmirror.control.placement import Resources
from pktmirror.control.records import RuleRecord
from pktmirror.model.filter import Action, Direction, NetworkService
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES, RuleLedger, Tally


class RuleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One rule in one direction, with one action. ``number`` None: it is not in the session's filter, or none has.

    ``in_force`` false: what it matched before it was changed, or left the filter.
    """

    rule_id: str
    number: int | None
    direction: Direction
    action: Action
    matched: Tally
    in_force: bool


def rules_by_filter(resources: Resources) -> Mapping[str, Sequence[RuleRecord]]:
    """The rules of each filter, by number."""
    found: dict[str, list[RuleRecord]] = defaultdict(list)
    for record in sorted(resources.rules, key=lambda record: record.rule.number):
        found[record.filter_id].append(record)
    return found


def rule_rows(
    records: Sequence[RuleRecord], services: frozenset[NetworkService], told: Iterable[RuleLedger]
) -> tuple[RuleRow, ...]:
    """By direction: the network service, the rules of the filter by number, then what is in force no longer.

    All that is in force, also what has matched nothing; of the rest what has.
    """
    left = {(rule.rule_id, rule.direction, rule.action): rule.matched for rule in told}
    numbers = {record.rule_id: record.rule.number for record in records}
    rows = []
    for direction in Direction:
        in_force: list[tuple[int | None, str, Action]] = []
        if NetworkService.AMAZON_DNS in services:
            in_force.append((None, AMAZON_DNS_RULE, Action.ACCEPT))
        in_force += [
            (record.rule.number, record.rule_id, record.rule.action)
            for record in records
            if record.rule.direction is direction
        ]
        rows += [
            _row(rule_id, number, direction, action, left.pop((rule_id, direction, action), Tally()), True)
            for number, rule_id, action in in_force
        ]
        others = [key for key in left if key[1] is direction]
        rows += [
            _row(rule_id, numbers.get(rule_id), direction, action, left[rule_id, direction, action], False)
            for rule_id, _, action in sorted(others, key=lambda key: (key[0] == FORMER_RULES, key[0], key[2].value))
        ]
    return tuple(rows)


def _row(
    rule_id: str, number: int | None, direction: Direction, action: Action, matched: Tally, in_force: bool
) -> RuleRow:
    return RuleRow(
        rule_id=rule_id, number=number, direction=direction, action=action, matched=matched, in_force=in_force
    )

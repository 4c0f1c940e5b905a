"""What the ledger shows of rules: all that are in force, and of the rest what has matched."""

from ipaddress import ip_network

from pktmirror.control.matches import RuleRow, rule_rows
from pktmirror.control.records import RuleRecord
from pktmirror.model.filter import Action, Direction, NetworkService, Rule
from pktmirror.model.ledger import AMAZON_DNS_RULE, FORMER_RULES, RuleLedger, Tally

IN, OUT = Direction.INGRESS, Direction.EGRESS
ACCEPT, REJECT = Action.ACCEPT, Action.REJECT
ANY4 = ip_network("0.0.0.0/0")


def record(rule_id: str, number: int, direction: Direction, action: Action = ACCEPT) -> RuleRecord:
    return RuleRecord(rule_id, "tmf-1", Rule(number, direction, action, ANY4, ANY4))


def told(rule_id: str, direction: Direction, action: Action, packets: int) -> RuleLedger:
    return RuleLedger(rule_id, direction, action, Tally(packets, packets * 100))


def shown(row: RuleRow) -> tuple[str, int | None, Direction, Action, int, bool]:
    assert row.matched.bytes == 100 * row.matched.packets
    return row.rule_id, row.number, row.direction, row.action, row.matched.packets, row.in_force


def test_all_rules_of_the_filter_by_number_then_what_is_in_force_no_longer() -> None:
    records = [record("tmfr-a", 10, IN), record("tmfr-b", 20, IN, REJECT), record("tmfr-a2", 10, OUT)]
    figures = [
        told(FORMER_RULES, IN, REJECT, 1),
        told("tmfr-b", IN, REJECT, 2),
        told("tmfr-b", IN, ACCEPT, 3),
        told("tmfr-gone", OUT, ACCEPT, 4),
        told(AMAZON_DNS_RULE, OUT, ACCEPT, 5),
    ]
    assert [shown(row) for row in rule_rows(records, frozenset({NetworkService.AMAZON_DNS}), figures)] == [
        (AMAZON_DNS_RULE, None, IN, ACCEPT, 0, True),
        ("tmfr-a", 10, IN, ACCEPT, 0, True),
        ("tmfr-b", 20, IN, REJECT, 2, True),
        ("tmfr-b", 20, IN, ACCEPT, 3, False),
        (FORMER_RULES, None, IN, REJECT, 1, False),
        (AMAZON_DNS_RULE, None, OUT, ACCEPT, 5, True),
        ("tmfr-a2", 10, OUT, ACCEPT, 0, True),
        ("tmfr-gone", None, OUT, ACCEPT, 4, False),
    ]


def test_what_amazon_dns_took_is_shown_also_when_the_service_is_no_longer_enabled() -> None:
    assert [shown(row) for row in rule_rows([], frozenset(), [told(AMAZON_DNS_RULE, IN, ACCEPT, 5)])] == [
        (AMAZON_DNS_RULE, None, IN, ACCEPT, 5, False)
    ]

"""A live trace in the agent: decisions and copies are brought together, and a request says what was asked."""

from ipaddress import ip_address
from typing import Any

import pytest

from pktmirror.agent import abi
from pktmirror.agent.traces import COPIES_WAIT_S, Joined, Policy, packet, request
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import TCP, Direction, PortRange
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.tracing import Offered, Selection

MARK = abi.mark(5, 3)
OTHER_MARK = abi.mark(5, 4)
SENT, CUT, STALE, CLONE_FAILED = (
    abi.STAGES.index(stage) for stage in (Stage.SENT, Stage.CUT, Stage.STALE, Stage.CLONE_FAILED)
)
NO_STAGE = len(abi.STAGES)


def decision(**changed: Any) -> abi.TraceRecord:
    """A packet of 100 bytes that the second session takes and that is cloned."""
    fields: dict[str, Any] = {
        "kind": abi.TRACE_DECISION,
        "time_ns": 10,
        "mark": MARK,
        "wire_packets": 1,
        "wire_bytes": 100,
        "flow": 9,
        "outcome": abi.OUTCOMES.index(InterfaceOutcome.TAKEN),
        "stage": SENT,
        "taken_by": 1,
        "generation": 77,
        "family": 4,
        "protocol": TCP,
    }
    return abi.TraceRecord(**fields | changed)


def copy(**changed: Any) -> abi.TraceRecord:
    fields: dict[str, Any] = {
        "kind": abi.TRACE_COPY,
        "mark": MARK,
        "wire_packets": 1,
        "wire_bytes": 100,
        "copied_bytes": 100,
        "flow": 9,
        "stage": SENT,
    }
    return abi.TraceRecord(**fields | changed)


def joined(*records: abi.TraceRecord, later_s: float = 0.0) -> list[dict[Stage, int]]:
    """The copies of each decision that is ready."""
    joined_ = Joined()
    joined_.take(records, 100.0)
    return [dict(copies) for _, copies, _ in joined_.ready(100.0 + later_s)]


def test_a_decision_waits_for_its_copy_and_no_longer_than_that():
    joined_ = Joined()
    joined_.take([decision()], 100.0)
    assert (joined_.ready(100.0), joined_.waits, joined_.taken_in) == ([], True, 1)
    joined_.take([copy(stage=CUT, copied_bytes=64)], 100.1)
    [(record, copies, copied_bytes)] = joined_.ready(100.1)
    assert (record.mark, copies, copied_bytes) == (MARK, {Stage.CUT: 1}, 64)
    assert (joined_.ready(200.0), joined_.waits) == ([], False)


def test_a_copy_that_never_comes_is_not_waited_for_longer():
    assert joined(decision(), later_s=COPIES_WAIT_S / 2) == []
    assert joined(decision(), later_s=COPIES_WAIT_S) == [{}]


def test_a_copy_that_is_told_before_its_decision_is_kept():
    joined_ = Joined()
    joined_.take([copy()], 100.0)
    joined_.take([decision()], 100.1)
    assert [dict(copies) for _, copies, _ in joined_.ready(100.1)] == [{Stage.SENT: 1}]


def test_a_copy_whose_decision_never_comes_is_nobody_s():
    joined_ = Joined()
    joined_.take([copy()], 100.0)
    joined_.take([], 100.0 + COPIES_WAIT_S)
    joined_.take([decision()], 100.1 + COPIES_WAIT_S)
    assert joined_.ready(100.1 + COPIES_WAIT_S) == []


def test_the_oldest_packet_of_a_flow_gets_the_first_copy():
    assert joined(decision(), decision(), copy(stage=CUT)) == [{Stage.CUT: 1}]
    assert joined(decision(), decision(), copy(stage=CUT), copy()) == [{Stage.CUT: 1}, {Stage.SENT: 1}]


@pytest.mark.parametrize(
    "changed",
    [{"mark": OTHER_MARK}, {"direction": 1}, {"flow": 10}, {"wire_bytes": 101}],
    ids=["another session's", "the other direction's", "another flow's", "another length"],
)
def test_a_copy_of_something_else_is_not_taken_for_it(changed: dict[str, int]):
    assert joined(decision(), copy(**changed)) == []


def test_a_copy_whose_flow_cannot_be_read_is_known_by_the_rest():
    assert joined(decision(), copy(flow=abi.TRACE_FLOW_UNKNOWN, stage=STALE)) == [{Stage.STALE: 1}]


def test_a_super_packet_gets_the_copies_that_it_becomes_whatever_their_length():
    large = decision(wire_packets=3, wire_bytes=4162)
    assert joined(large, copy(wire_bytes=1514), copy(wire_bytes=1514)) == []
    copies = [copy(wire_bytes=size) for size in (1514, 1514, 1134, 1134)]
    assert joined(large, *copies[:3]) == [{Stage.SENT: 3}]
    assert joined(large, *copies) == [{Stage.SENT: 3}], "the fourth is nobody's"


def test_what_was_not_cloned_has_no_copies_to_wait_for():
    assert joined(decision(stage=CLONE_FAILED)) == [{}]
    assert joined(decision(stage=NO_STAGE, mark=0)) == [{}]


def told(record: abi.TraceRecord, *session_ids: str) -> Any:
    policies = {77: Policy(session_ids, 4)} if session_ids else {}
    return packet(record, {}, 0, policies, clock_ns=1000)


def test_the_sessions_that_were_asked_are_told_in_their_order():
    record = decision(rejected=0b01)
    assert told(record, "a", "b", "c").offers == (
        Offered("a", Verdict.REJECTED_BY_RULE),
        Offered("b", Verdict.TAKEN),
    )
    assert (told(record, "a", "b").taken_by, told(record, "a", "b").revision) == ("b", 4)
    assert told(record, "a", "b").time_ns == 1010


def test_nobody_takes_what_no_session_wants():
    record = decision(
        outcome=abi.OUTCOMES.index(InterfaceOutcome.NOT_TAKEN),
        taken_by=abi.SESSIONS_MAX,
        rejected=0b10,
        stage=NO_STAGE,
        mark=0,
    )
    told_ = told(record, "a", "b")
    assert told_.offers == (Offered("a", Verdict.NO_RULE_MATCHED), Offered("b", Verdict.REJECTED_BY_RULE))
    assert (told_.taken_by, told_.stage) == (None, None)
    record.amazon_dns, record.rejected = 1, 0
    assert {offer.verdict for offer in told(record, "a", "b").offers} == {Verdict.SERVICE_NOT_ENABLED}


def test_a_policy_that_is_not_known_any_more_leaves_the_verdicts_open():
    told_ = told(decision())
    assert (told_.offers, told_.taken_by, told_.revision) == (None, None, None)
    assert told(decision(), "only one").offers is None, "it says that a second one took it"


@pytest.mark.parametrize("outcome", [InterfaceOutcome.NOT_IP, InterfaceOutcome.MALFORMED])
def test_what_cannot_be_read_has_no_addresses(outcome: InterfaceOutcome):
    told_ = told(decision(outcome=abi.OUTCOMES.index(outcome), family=6, stage=NO_STAGE), "a")
    assert (told_.protocol, told_.source, told_.destination, told_.offers) == (None, None, None, ())


def test_addresses_and_ports_are_told_where_there_are_any():
    record = decision(has_ports=1, source_port=40000, destination_port=22)
    record.source_be[:] = abi.address_bytes(ip_address("10.0.0.6"))
    record.destination_be[:] = abi.address_bytes(ip_address("10.0.0.48"))
    told_ = told(record, "a", "b")
    assert (told_.source, told_.source_port, told_.destination, told_.destination_port) == (
        *("10.0.0.6", 40000),
        *("10.0.0.48", 22),
    )
    assert told_.icmp_type is None
    record.family, record.has_ports, record.has_icmp_type, record.icmp_type = 6, 0, 1, 128
    told_ = told(record, "a", "b")
    assert (told_.source, told_.source_port, told_.icmp_type) == ("a00:6::", None, 128)


def asked(selection: Selection) -> abi.TraceRequest:
    return request(selection, trace_id=1, ifindex=3, packets_max=10, until_ns=99)


def test_a_request_without_a_selection_asks_for_every_frame():
    entry = asked(Selection())
    assert (entry.id, entry.ifindex, entry.packets_max, entry.until_ns) == (1, 3, 10, 99)
    assert (entry.directions, entry.family, entry.protocol_mask, entry.names_ports, entry.names_ip) == (3, 0, 0, 0, 0)
    assert entry.packet_ticks > 0, "it has a rate"


def test_a_request_names_what_is_selected():
    entry = asked(
        Selection(direction=Direction.EGRESS, protocol=TCP, source="10.0.0.0/24", destination_ports=PortRange(22, 23))
    )
    assert (entry.directions, entry.protocol, entry.protocol_mask, entry.family) == (2, TCP, 0xFF, 4)
    assert bytes(entry.source_be)[:4] == bytes((10, 0, 0, 0))
    assert bytes(entry.source_mask_be) == b"\xff\xff\xff".ljust(16, b"\0")
    assert not any(bytes(entry.destination_mask_be))
    assert (entry.source_port_first, entry.source_port_last) == (0, 0xFFFF)
    assert (entry.destination_port_first, entry.destination_port_last, entry.names_ip) == (22, 23, 1)


@pytest.mark.parametrize(
    "selection", [Selection(protocol=0), Selection(source="10.0.0.6"), Selection(source_ports=PortRange(1, 1))]
)
def test_a_request_for_ip_packets_does_not_ask_for_other_frames(selection: Selection):
    assert asked(selection).names_ip == 1


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        pytest.param(Selection(source="nowhere"), "nowhere", id="no network"),
        pytest.param(Selection(source="10.0.0.0/24", destination="2001:db8::/64"), "two families", id="two families"),
        pytest.param(Selection(source_ports=PortRange(5, 4)), "5-4 is no range", id="an empty range"),
        pytest.param(Selection(destination_ports=PortRange(0, 70_000)), "0-70000 is no range", id="no port"),
    ],
)
def test_a_selection_that_is_none_is_refused(selection: Selection, why: str):
    with pytest.raises(ValueError, match=why):
        asked(selection)

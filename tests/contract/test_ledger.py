"""The ledger of both ends through what becomes of sessions: changes, deletion, restarts of whoever counts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pktmirror.desired import Report, RuleFigures, SessionFigures, encode
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import FORMER_RULES, SessionLedger, Stage, Tally
from tests.contract.conftest import Maker, rule
from tests.contract.plane import Plane, found, running

NOTHING = {"packets": 0, "bytes": 0}
_numbers = count(1)


@dataclass
class Wire:
    """A source and a target with what either end counts; `tell` is a second that passes."""

    plane: Plane
    source: str
    target: str
    parameters: dict[str, Any]
    sent: dict[str, int] = field(default_factory=dict)
    streams: dict[tuple[int, str, str], int] = field(default_factory=dict)
    counts_from_ns: int = 1
    listening: str = ""
    monitor_id: str = ""

    def copies(self, packets: int, session: dict[str, Any], destination: str | None = None) -> None:
        """So many copies of a session are sent, and arrive."""
        self.sent[session["TrafficMirrorSessionId"]] = self.sent.get(session["TrafficMirrorSessionId"], 0) + packets
        stream = session["VirtualNetworkId"], self.source, destination or self.target
        self.streams[stream] = self.streams.get(stream, 0) + packets

    def tell(self) -> None:
        self.plane.report(
            *self.plane.reported.values(),
            sessions=tuple(
                SessionFigures(
                    session_id=session_id,
                    directions={
                        Direction.INGRESS: SessionLedger(
                            {Verdict.TAKEN: Tally(packets, packets * 100)}, {Stage.SENT: Tally(packets, packets * 100)}
                        )
                    },
                )
                for session_id, packets in self.sent.items()
            ),
        )
        streams = [
            {
                "vni": vni,
                "outer_source": source,
                "outer_destination": destination,
                "first_seen_ns": self.counts_from_ns,
                "received_packets": packets,
                "received_bytes": packets * 100,
                "written_packets": packets,
                "written_bytes": packets * 100,
            }
            for (vni, source, destination), packets in self.streams.items()
        ]
        report = {"listening": self.listening, "streams": streams}
        answer = self.plane.agent("POST", f"monitors/{self.monitor_id}/report", json=report)
        assert answer.status_code == 204, answer.text

    def collector(self, session: dict[str, Any]) -> dict[str, Any]:
        self.tell()
        [row] = [
            row
            for row in self.plane.own("ledger")["sessions"]
            if row["session_id"] == session["TrafficMirrorSessionId"]
        ]
        return dict(row["collector"])


@pytest.fixture
def wire(plane: Plane, ec2: Any, make: Maker) -> Iterator[Wire]:
    made = wire_on(plane, make)
    yield made
    made.streams.clear()
    for session_id in list(made.sent):
        made.sent.pop(session_id)


def wire_on(plane: Plane, make: Maker) -> Wire:
    number = next(_numbers)
    source, target = f"10.0.1.{2 * number}", f"10.0.1.{2 * number + 1}"
    source_id, target_id = plane.find(found(f"source{number}", source), found(f"target{number}", target))
    parameters = {"NetworkInterfaceId": source_id, "TrafficMirrorTargetId": make.target(NetworkInterfaceId=target_id)}
    return Wire(plane, source, target, parameters, listening=f"{target}:4789", monitor_id=f"m{number}")


def assert_compared(collector: dict[str, Any], received: int, shared_with: list[str] | None = None) -> None:
    """Everything sent has been received, and it is so much."""
    all_ = {"packets": received, "bytes": received * 100}
    assert collector.pop("monitors")
    assert collector == {
        "type": "collected",
        "received": all_,
        "written": all_,
        "not_written": NOTHING,
        "lost_on_wire_packets": 0,
        "shared_with": shared_with or [],
    }


def test_a_session_adds_up_through_changes_of_its_vni_and_back(wire: Wire, ec2: Any, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1001)
    wire.copies(10, session)
    assert_compared(wire.collector(session), 10)
    for vni, total in ((4242, 13), (1001, 16)):
        session = ec2.modify_traffic_mirror_session(
            TrafficMirrorSessionId=session["TrafficMirrorSessionId"], VirtualNetworkId=vni
        )["TrafficMirrorSession"]
        assert_compared(wire.collector(session), total - 3)
        wire.copies(3, session)
        assert_compared(wire.collector(session), total)


def test_a_session_adds_up_through_a_change_of_its_target(wire: Wire, ec2: Any, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1002)
    wire.copies(10, session)
    wire.tell()
    second = wire_on(wire.plane, make)
    ec2.modify_traffic_mirror_session(
        TrafficMirrorSessionId=session["TrafficMirrorSessionId"],
        TrafficMirrorTargetId=second.parameters["TrafficMirrorTargetId"],
    )
    assert wire.collector(session) == {
        "type": "uncollected",
        "reason": f"no monitor reports {second.target}, one of its targets",
    }
    second.sent = wire.sent
    second.tell()
    assert_compared(wire.collector(session), 10)
    wire.copies(2, session, second.target)
    assert_compared(wire.collector(session), 12)


def test_a_session_adds_up_when_the_address_of_its_target_changes(wire: Wire, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1003)
    wire.copies(10, session)
    wire.tell()
    name = next(key for key, known in wire.plane.reported.items() if wire.target in known.addresses)
    wire.plane.find(found(name.removeprefix("netns:").removesuffix("/eth0"), "10.0.1.201"))
    wire.copies(4, session, "10.0.1.201")
    assert_compared(wire.collector(session), 14)


def test_a_session_that_takes_over_the_vni_of_a_deleted_one_adds_up(wire: Wire, ec2: Any, make: Maker) -> None:
    old = make.session(**wire.parameters, VirtualNetworkId=1004)
    wire.copies(10, old)
    wire.tell()
    old_id = old["TrafficMirrorSessionId"]
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=old_id)
    del wire.sent[old_id]
    session = make.session(**wire.parameters, VirtualNetworkId=1004)
    wire.copies(0, session)
    assert_compared(wire.collector(session), 10, [old_id])
    wire.copies(5, session)
    assert_compared(wire.collector(session), 15, [old_id])
    wire.sent[session["TrafficMirrorSessionId"]] += 1
    assert wire.collector(session)["lost_on_wire_packets"] == 1


def test_what_a_deleted_session_sent_unreported_is_said_and_not_a_difference(wire: Wire, ec2: Any, make: Maker) -> None:
    old = make.session(**wire.parameters, VirtualNetworkId=1005)
    wire.copies(10, old)
    wire.tell()
    wire.copies(2, old)
    old_id = old["TrafficMirrorSessionId"]
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=old_id)
    del wire.sent[old_id]
    session = make.session(**wire.parameters, VirtualNetworkId=1005)
    wire.copies(0, session)
    collector = wire.collector(session)
    assert collector["type"] == "uncollected"
    assert collector["reason"].startswith("2 packets more received than are known to be sent")
    assert old_id in collector["reason"]


def test_a_monitor_that_is_restarted_loses_nothing_of_what_it_reported(wire: Wire, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1006)
    wire.copies(10, session)
    wire.tell()
    wire.streams.clear()
    wire.counts_from_ns = 2
    assert_compared(wire.collector(session), 10)
    wire.copies(20, session)
    assert_compared(wire.collector(session), 30)
    wire.streams.clear()
    wire.counts_from_ns = 3
    wire.copies(25, session)
    assert_compared(wire.collector(session), 55)


def test_counters_of_a_host_that_was_purged_begin_anew_and_still_add_up(wire: Wire, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1007)
    wire.copies(10, session)
    wire.tell()
    wire.sent.clear()
    assert wire.collector(session) == {"type": "uncollected", "reason": "no agent reports this session"}
    wire.copies(4, session)
    assert_compared(wire.collector(session), 14)


def test_the_ledger_adds_up_after_a_restart_of_the_control_plane(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        make = Maker(plane, plane.client())
        wire = wire_on(plane, make)
        old = make.session(**wire.parameters, VirtualNetworkId=1008)
        wire.copies(10, old)
        wire.tell()
        plane.client().delete_traffic_mirror_session(TrafficMirrorSessionId=old["TrafficMirrorSessionId"])
        wire.sent.clear()
        session = make.session(**wire.parameters, VirtualNetworkId=1008)
        session = plane.client().modify_traffic_mirror_session(
            TrafficMirrorSessionId=session["TrafficMirrorSessionId"], VirtualNetworkId=1009
        )["TrafficMirrorSession"]
        wire.copies(1, session)
    with running(tmp_path / "state") as again:
        again.reported = plane.reported
        wire.plane = again
        assert_compared(wire.collector(session), 11, [old["TrafficMirrorSessionId"]])


def test_rules_of_a_filter_are_no_business_of_the_ledger(wire: Wire, ec2: Any, make: Maker) -> None:
    session = make.session(**wire.parameters, VirtualNetworkId=1010)
    wire.copies(3, session)
    ec2.create_traffic_mirror_filter_rule(**rule(session["TrafficMirrorFilterId"]))
    assert_compared(wire.collector(session), 3)


def test_the_ledger_tells_of_each_rule_when_it_is_asked(wire: Wire, ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    one, two = (make.rule(filter_id, number)["TrafficMirrorFilterRuleId"] for number in (20, 10))
    session = make.session(**wire.parameters, TrafficMirrorFilterId=filter_id, VirtualNetworkId=1011)
    session_id = session["TrafficMirrorSessionId"]
    desired = wire.plane.desired()
    assert desired is not None
    assert [rule.rule_id for rule in desired.filters[filter_id].rules] == [two, one]

    def report() -> dict[str, Any]:
        directions = {Direction.INGRESS: SessionLedger({Verdict.TAKEN: Tally(5, 500)}, {Stage.SENT: Tally(5, 500)})}
        told = (
            RuleFigures(one, Direction.INGRESS, Action.ACCEPT, 3, 300),
            RuleFigures(FORMER_RULES, Direction.INGRESS, Action.ACCEPT, 2, 200),
        )
        figures = SessionFigures(session_id=session_id, directions=directions, rules=told, rules_lack=None)
        wire.plane.report(*wire.plane.reported.values(), sessions=(figures,))
        [row] = [row for row in wire.plane.own("ledger?rules=1")["sessions"] if row["session_id"] == session_id]
        return dict(row)

    row = report()
    assert row["rules_lack"] is None
    assert row["directions"]["ingress"]["by_rules"] == {"accept": {"packets": 5, "bytes": 500}, "reject": NOTHING}
    assert [
        (rule["number"], rule["rule_id"], rule["matched"]["packets"], rule["in_force"]) for rule in row["rules"]
    ] == [
        (10, two, 0, True),
        (20, one, 3, True),
        (None, FORMER_RULES, 2, False),
    ]
    ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=one, RuleNumber=5, RuleAction="reject")
    assert [(rule["number"], rule["rule_id"], rule["action"], rule["in_force"]) for rule in report()["rules"]] == [
        (5, one, "reject", True),
        (10, two, "accept", True),
        (5, one, "accept", False),
        (None, FORMER_RULES, "accept", False),
    ]
    [plain] = [row for row in wire.plane.own("ledger")["sessions"] if row["session_id"] == session_id]
    assert plain["rules"] is None


def test_a_report_that_tells_a_rule_twice_is_refused(plane: Plane) -> None:
    rule_ = RuleFigures("tmfr-1", Direction.INGRESS, Action.ACCEPT, 3, 300)
    for rules, code in (((rule_,), 204), ((rule_, rule_), 400)):
        figures = SessionFigures(session_id="tms-1", directions={}, rules=rules, rules_lack=None)
        told = Report(host_id="host-2", agent_version="test", applied_revision=0, sessions=(figures,))
        answer = plane.agent("POST", "agents/host-2/report", content=encode(told))
        assert answer.status_code == code, answer.text
    assert "the rule tmfr-1 of tms-1 stands in it twice" in answer.text

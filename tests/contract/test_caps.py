"""Caps of sessions by an unmodified client: tags, as EC2's API has no parameter for them (docs/decisions/0009)."""

from typing import Any

import pytest

from pktmirror.desired import InterfaceFigures, SessionFigures, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Stage, Tally
from pktmirror.model.rate import UNLIMITED, Rate
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, found, refusal_of
from tests.contract.test_cli_questions import Program
from tests.contract.test_tags import tags_of

PACKETS, BITS = "pktmirror:packets-per-second", "pktmirror:bits-per-second"


def tag(key: str, value: str) -> dict[str, str]:
    return {"Key": key, "Value": value}


def specification(*tags: dict[str, str]) -> dict[str, Any]:
    return {"TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": list(tags)}]}


def cap_of(plane: Plane, session_id: str) -> Rate:
    """What the agent is told."""
    desired = plane.desired()
    assert desired is not None
    [cap] = [each.cap for there in desired.interfaces for each in there.sessions if each.session_id == session_id]
    return cap


def revision(plane: Plane) -> int:
    return int(plane.own("status")["revision"])


def test_a_cap_given_at_create_reaches_the_agent(plane: Plane, make: Maker) -> None:
    made = make.session(**specification(tag(PACKETS, "1000"), tag(BITS, "8000000"), tag("Name", "web")))
    assert {tag["Key"]: tag["Value"] for tag in made["Tags"]} == {PACKETS: "1000", BITS: "8000000", "Name": "web"}
    assert cap_of(plane, made["TrafficMirrorSessionId"]) == Rate(1000, 8_000_000)
    assert cap_of(plane, make.session()["TrafficMirrorSessionId"]) == UNLIMITED


def test_a_cap_is_set_changed_and_taken_off_by_tags_and_each_time_agents_are_told(
    plane: Plane, ec2: Any, make: Maker
) -> None:
    session_id, other = (make.session()["TrafficMirrorSessionId"] for _ in range(2))
    for change, cap in (
        (lambda: ec2.create_tags(Resources=[session_id], Tags=[tag(PACKETS, "5")]), Rate(5)),
        (lambda: ec2.create_tags(Resources=[session_id], Tags=[tag(PACKETS, "6"), tag(BITS, "7")]), Rate(6, 7)),
        (lambda: ec2.delete_tags(Resources=[session_id], Tags=[{"Key": PACKETS}]), Rate(None, 7)),
        (lambda: ec2.delete_tags(Resources=[session_id]), UNLIMITED),
    ):
        before = revision(plane)
        change()
        assert cap_of(plane, session_id) == cap
        assert revision(plane) > before
        assert cap_of(plane, other) == UNLIMITED


def test_tags_that_change_no_cap_tell_agents_nothing(plane: Plane, ec2: Any, make: Maker) -> None:
    session_id, filter_id = make.session(**specification(tag(PACKETS, "5")))["TrafficMirrorSessionId"], make.filter()
    before = revision(plane)
    ec2.create_tags(Resources=[session_id], Tags=[tag("Name", "web"), tag(PACKETS, "5")])
    ec2.delete_tags(Resources=[session_id], Tags=[{"Key": "Name"}, tag(PACKETS, "6")])
    ec2.create_tags(Resources=[filter_id], Tags=[tag(PACKETS, "of a filter it is a tag like any other")])
    assert revision(plane) == before
    assert cap_of(plane, session_id) == Rate(5)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (tag(PACKETS, "0"), "It is a number from 1 to 300000000"),
        (tag(BITS, "10M"), "It is a number from 1 to 100000000000"),
        (tag(PACKETS, ""), "It is a number"),
        (tag("pktmirror:packets-per-sec", "5"), "a session takes pktmirror:packets-per-second and"),
    ],
)
def test_what_is_no_cap_is_refused_with_a_sentence_and_changes_nothing(
    plane: Plane, ec2: Any, make: Maker, bad: dict[str, str], said: str
) -> None:
    session_id, filter_id = make.session(**specification(tag(PACKETS, "5")))["TrafficMirrorSessionId"], make.filter()
    asked = make.session_parameters(**specification(tag("Name", "web"), bad))
    before, sessions = revision(plane), ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
    for call, parameters in (
        (ec2.create_tags, {"Resources": [filter_id, session_id], "Tags": [tag("Name", "web"), bad]}),
        (ec2.create_traffic_mirror_session, asked),
    ):
        code, message = refusal_of(call, **parameters)
        assert code == "InvalidParameterValue"
        assert said in message
    assert tags_of(ec2, session_id) == {PACKETS: "5"}
    assert tags_of(ec2, filter_id) == {}
    assert ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == sessions
    assert revision(plane) == before
    assert cap_of(plane, session_id) == Rate(5)


def test_status_and_ledger_show_the_cap_the_budget_and_what_was_capped(plane: Plane, make: Maker) -> None:
    [interface_id] = plane.find(found("capped", "10.0.1.200"))
    capped = make.session(NetworkInterfaceId=interface_id, **specification(tag(PACKETS, "1000")))
    session_id, program = capped["TrafficMirrorSessionId"], Program(plane.state)
    ledger = SessionLedger({Verdict.TAKEN: Tally(9, 900)}, {Stage.SENT: Tally(5, 500), Stage.CAPPED: Tally(4, 400)})
    plane.report(
        *plane.reported.values(),
        statuses=(SessionStatus(session_id=session_id),),
        sessions=(SessionFigures(session_id=session_id, directions={Direction.INGRESS: ledger}),),
        mirrored_interfaces=(
            InterfaceFigures(
                key="netns:capped/eth0",
                directions={Direction.INGRESS: InterfaceLedger({InterfaceOutcome.TAKEN: Tally(9, 900)})},
            ),
        ),
        budget=Rate(packets_per_s=50_000),
    )
    told = program.json("status")
    [host] = [host for host in told["hosts"] if host["host_id"] == HOST]
    assert host["budget"] == {"packets_per_s": 50_000, "bits_per_s": None}
    [shown] = [session for session in told["sessions"] if session["session_id"] == session_id]
    assert shown["cap"] == {"packets_per_s": 1000, "bits_per_s": None}
    assert shown["capped"] == {"packets": 4, "bytes": 400}
    people = program.run("status")
    assert "50,000 packets/s" in people
    assert f"{session_id}: cap 1,000 packets/s; 4 packets over it or over the budget" in people
    told = program.json("ledger", session_id)
    assert told["adds_up"] is True
    assert told["sessions"][0]["cap"] == {"packets_per_s": 1000, "bits_per_s": None}
    assert told["sessions"][0]["directions"]["ingress"]["stages"]["capped"] == {"packets": 4, "bytes": 400}
    people = program.run("ledger", session_id)
    assert "cap: 1,000 packets/s; 4 packets were over it" in people

"""Why a session does not mirror: in `pktmirror status`, in the ledger, in the metrics, and as a tag of
DescribeTrafficMirrorSessions for who asks for it (docs/decisions/0025). The time is the test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pktmirror.aws import ApiError, Call
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import Report, SessionFigures, SessionStatus
from pktmirror.model.limits import Quotas
from tests.calls import perform
from tests.contract.conftest import Maker
from tests.contract.endpoint import HOST, InProcess
from tests.contract.plane import Plane, code_of, found, refusal_of

STATUS = "pktmirror:status"
ASKS = [{"Name": "tag-key", "Values": [STATUS]}]
BLOCKED = "the hook is refused: " + "x" * 300


class Watched:
    """A control plane with three sources of one host, a session on each, and a time that passes when it is told so."""

    def __init__(self, endpoint: InProcess, now_s: float) -> None:
        self.plane, self.now_s = endpoint.plane, now_s
        self.found = {name: found(name, f"10.0.0.{number}") for number, name in enumerate(("a", "b", "c", "tool"), 5)}
        self.report()
        ids = {each["instance"]: each["interface_id"] for each in self.plane.interfaces()}
        target = self.call("CreateTrafficMirrorTarget", NetworkInterfaceId=ids["tool"])["TrafficMirrorTarget"]
        filter_ = self.call("CreateTrafficMirrorFilter")["TrafficMirrorFilter"]
        to = {"TrafficMirrorTargetId": target["TrafficMirrorTargetId"]}
        by = {"TrafficMirrorFilterId": filter_["TrafficMirrorFilterId"]}
        self.sessions: dict[str, str] = {}
        for name in ("a", "b", "c"):
            asked = to | by | {"NetworkInterfaceId": ids[name], "SessionNumber": 1}
            made = self.call("CreateTrafficMirrorSession", **asked)["TrafficMirrorSession"]
            self.sessions[name] = made["TrafficMirrorSessionId"]

    def call(self, operation: str, **parameters: Any) -> Any:
        return perform(self.plane, Call("ec2", operation, parameters), self.now_s)

    def report(self, *names: str, **problems: str | None) -> None:
        """The agent tells of these interfaces, all by default, and of the sessions that are named how they fare."""
        statuses = tuple(
            SessionStatus(session_id=self.sessions[name], problem=problem) for name, problem in problems.items()
        )
        known = tuple(self.found[name] for name in names or self.found)
        figures = tuple(SessionFigures(session_id=self.sessions[name], directions={}) for name in problems)
        told = Report(
            host_id=HOST,
            agent_version="test",
            applied_revision=0,
            interfaces=known,
            statuses=statuses,
            sessions=figures,
        )
        self.plane.intake.agent_reported(told, self.now_s)

    def problems(self) -> dict[str, str | None]:
        """Of each session; status, ledger and metrics must agree."""
        names = {session_id: name for name, session_id in self.sessions.items()}
        told = {names[each["session_id"]]: each["problem"] for each in self.plane.status(self.now_s)["sessions"]}
        ledger = {names[row.session_id]: row.problem for row in self.plane.ledger(self.now_s)["sessions"]}
        mirrors = {names[labels["session"]]: value == 1 for labels, value in self.samples("pktmirror_session_mirrors")}
        assert ledger == told
        assert mirrors == {name: problem is None for name, problem in told.items()}
        return told

    def samples(self, metric: str) -> list[tuple[dict[str, str], float]]:
        families = text_string_to_metric_families(self.plane.metrics(self.now_s).decode())
        return [(each.labels, each.value) for family in families for each in family.samples if each.name == metric]

    def tags(self, *filters: dict[str, Any], **more: Any) -> dict[str, str | None]:
        """What the tag says of each session that DescribeTrafficMirrorSessions lists; None where it is not shown."""
        names = {session_id: name for name, session_id in self.sessions.items()}
        asked = {"Filters": list(filters)} if filters else {}
        return {
            names[each["TrafficMirrorSessionId"]]: {tag["Key"]: tag["Value"] for tag in each["Tags"]}.get(STATUS)
            for each in self.call("DescribeTrafficMirrorSessions", **asked, **more)["TrafficMirrorSessions"]
        }


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    store, trail = Store.open(tmp_path / "store"), Trail(tmp_path)
    try:
        endpoint = InProcess(store, trail, Quotas())
        yield Watched(endpoint, endpoint.plane.status(0.0)["started_at_s"])
    finally:
        store.close()
        trail.close()


def test_each_reason_why_a_session_does_not_mirror_is_said_alike_everywhere(watched: Watched) -> None:
    not_yet = f"the agent of {HOST} has not applied it yet"
    assert watched.problems() == dict.fromkeys("abc", not_yet)
    unreachable = "no route to the target"
    watched.report(a=None, b=unreachable, c=None)
    assert watched.problems() == {"a": None, "b": unreachable, "c": None}
    watched.report("a", "b", "tool", a=None, b=unreachable)
    assert watched.problems() == {"a": None, "b": unreachable, "c": "interface gone"}
    watched.report("a", "b", a=None, b=unreachable)
    gone = "target interface gone"
    assert watched.problems() == {"a": gone, "b": gone, "c": "interface gone"}
    watched.report(a=None, b=None, c=None)
    assert watched.problems() == {"a": None, "b": None, "c": None}


def test_a_host_whose_agent_has_stopped_is_not_silent(watched: Watched) -> None:
    watched.report(a=None, b=None, c=None)
    watched.now_s += 30
    assert watched.problems() == {"a": None, "b": None, "c": None}
    [(labels, age_s)] = watched.samples("pktmirror_agent_report_age_seconds")
    assert (labels, age_s) == ({"host": HOST}, 30)
    watched.now_s += 1
    assert watched.problems() == dict.fromkeys("abc", f"the agent of {HOST} has not reported for 31 s")
    [host] = watched.plane.status(watched.now_s)["hosts"]
    assert host["reported_s_ago"] == 31
    watched.now_s += 3600
    assert watched.tags(*ASKS) == dict.fromkeys("abc", f"the agent of {HOST} has not reported for 3631 s")
    watched.report(a=None, b=None, c=None)
    assert watched.problems() == {"a": None, "b": None, "c": None}


def test_the_status_is_a_tag_for_who_asks_and_for_nobody_else(watched: Watched) -> None:
    watched.report(a=None, b="no route to the target", c=None)
    told = {"a": "mirroring", "b": "no route to the target", "c": "mirroring"}
    assert watched.tags(*ASKS) == told
    assert watched.tags({"Name": f"tag:{STATUS}", "Values": ["*"]}) == told
    assert watched.tags({"Name": f"tag:{STATUS}", "Values": ["no route*"]}) == {"b": told["b"]}
    assert watched.tags(*ASKS, TrafficMirrorSessionIds=[watched.sessions["a"]]) == {"a": "mirroring"}
    watched.call("CreateTags", Resources=[watched.sessions["a"]], Tags=[{"Key": "Name", "Value": "web"}])
    unseen = {"a": None, "b": None, "c": None}
    assert watched.tags() == unseen
    assert watched.tags({"Name": "tag-key", "Values": ["*"]}) == {"a": None}, "the tag is none of the user's own"
    assert watched.tags({"Name": "tag-key", "Values": ["pktmirror:*"]}) == {}
    assert [tag["Key"] for tag in watched.call("DescribeTags")["Tags"]] == ["Name"]


def test_the_tag_is_the_sentence_of_the_status_as_far_as_a_tag_takes_it(watched: Watched) -> None:
    watched.report(a=BLOCKED, b="y" * 256, c=None)
    assert watched.problems()["a"] == BLOCKED
    tags = watched.tags(*ASKS)
    assert tags == {"a": f"{BLOCKED[:255]}…", "b": "y" * 256, "c": "mirroring"}
    assert {len(value or "") for value in tags.values()} == {256, len("mirroring")}


def test_a_tag_that_is_asked_for_costs_no_room(watched: Watched) -> None:
    session_id = watched.sessions["a"]
    watched.call("CreateTags", Resources=[session_id], Tags=[{"Key": f"k{n}", "Value": ""} for n in range(50)])
    [described] = watched.call("DescribeTrafficMirrorSessions", TrafficMirrorSessionIds=[session_id], Filters=ASKS)[
        "TrafficMirrorSessions"
    ]
    assert len(described["Tags"]) == 51
    with pytest.raises(ApiError) as refusal:
        watched.call("CreateTags", Resources=[session_id], Tags=[{"Key": "one more", "Value": ""}])
    assert refusal.value.code == "TagLimitExceeded"


@pytest.mark.parametrize("key", [STATUS, "PKTMIRROR:status"])
def test_nobody_puts_or_takes_away_the_tag_of_the_status(plane: Plane, ec2: Any, make: Maker, key: str) -> None:
    session = make.session()
    session_id = session["TrafficMirrorSessionId"]
    for resource_id in (session_id, session["TrafficMirrorFilterId"]):
        for call in (ec2.create_tags, ec2.delete_tags):
            code, message = refusal_of(call, Resources=[resource_id], Tags=[{"Key": key, "Value": "mirroring"}])
            assert code == "InvalidParameterValue"
            assert f"Value ({key}) for parameter key is invalid" in message
            assert "reserved for internal use" in message
    specification = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": key, "Value": "mirroring"}]}]
    asked = make.session_parameters(TagSpecifications=specification)
    assert code_of(ec2.create_traffic_mirror_session, **asked) == "InvalidParameterValue"
    described = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session_id])["TrafficMirrorSessions"]
    assert described == [session]
    [told] = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session_id], Filters=ASKS)[
        "TrafficMirrorSessions"
    ]
    assert told == session | {"Tags": [{"Key": STATUS, "Value": "the agent of host-1 has not applied it yet"}]}
    ec2.delete_tags(Resources=[session_id])

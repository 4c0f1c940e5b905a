"""Session templates in a running control plane: EC2's clients see ordinary sessions come and go."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Maker
from tests.contract.plane import HOST, NETWORKS, Plane, code_of, found, running
from tests.contract.test_cli_questions import Program

ORIGIN = "pktmirror:template"


@pytest.fixture
def own(plane: Plane) -> Plane:
    """The module's control plane, without interfaces, sessions and templates of earlier tests."""
    for each in plane.own("templates"):
        assert plane.own_answer(f"templates/{each['template']['name']}", method="DELETE").status_code == 204
    plane.report(deleted=tuple(plane.reported))
    plane.reported.clear()
    answer = plane.own_answer("networks", method="PUT", body=NETWORKS)
    assert answer.status_code == 200, answer.text
    return plane


@pytest.fixture
def parts(own: Plane) -> dict[str, Any]:
    """What a template needs: a target, a filter."""
    make = Maker(own, own.client())
    [sensor] = own.find(found("sensor", "10.0.0.200"))
    return {"target_id": make.target(NetworkInterfaceId=sensor), "filter_id": make.filter(), "number": 5, "limit": 10}


def put(plane: Plane, name: str = "office/web", **template: Any) -> Any:
    answer = plane.own_answer(f"templates/{name}", method="PUT", body=json.dumps({"name": name, **template}))
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(plane: Plane, name: str, document: Any, method: str = "PUT") -> tuple[int, str, str]:
    answer = plane.own_answer(f"templates/{name}", method=method, body=json.dumps(document))
    return answer.status_code, answer.json()["code"], answer.json()["message"]


_CLIENTS: dict[tuple[str, str], Any] = {}


def client(plane: Plane) -> Any:
    """One for each control plane: to make one takes a while. A later one may have the port of one that has ended."""
    known = plane.url, plane.environment["AWS_ACCESS_KEY_ID"]
    if known not in _CLIENTS:
        _CLIENTS[known] = plane.client()
    return _CLIENTS[known]


def made(plane: Plane, name: str = "office/web") -> list[dict[str, Any]]:
    """The sessions of a template, as boto3 finds them by their tag."""
    wanted = [{"Name": f"tag:{ORIGIN}", "Values": [name]}]
    answer = client(plane).describe_traffic_mirror_sessions(Filters=wanted)
    listed: list[dict[str, Any]] = sorted(answer["TrafficMirrorSessions"], key=lambda each: each["NetworkInterfaceId"])
    return listed


def sources(plane: Plane) -> set[str]:
    return {each["NetworkInterfaceId"] for each in made(plane)}


def test_sessions_come_with_their_interfaces_are_ordinary_ones_and_end_with_the_template(
    own: Plane, parts: dict[str, Any]
) -> None:
    [web1, other] = own.find(found("web1", "10.0.0.1"), found("db", "10.0.0.3"))
    told = put(own, select={"name": "web*"}, **parts, packet_bytes_max=96, description="all web", tags={"team": "net"})
    assert (told["selected"], len(told["sessions"]), told["reasons"], told["problem"]) == (1, 1, [], None)
    [first] = made(own)
    assert first["Tags"] == [{"Key": ORIGIN, "Value": "office/web"}, {"Key": "team", "Value": "net"}]
    assert {name: first[name] for name in first.keys() - {"TrafficMirrorSessionId", "VirtualNetworkId", "Tags"}} == {
        "NetworkInterfaceId": web1,
        "TrafficMirrorTargetId": parts["target_id"],
        "TrafficMirrorFilterId": parts["filter_id"],
        "SessionNumber": 5,
        "PacketLength": 96,
        "Description": "all web",
        "OwnerId": first["OwnerId"],
    }
    revision = own.desired().revision  # type: ignore[union-attr]
    [web2] = own.find(found("web2", "10.0.0.2"))
    assert sources(own) == {web1, web2}
    desired = own.desired()
    assert desired is not None
    assert desired.revision > revision
    placed = {each.interface_id: [session.number for session in each.sessions] for each in desired.interfaces}
    assert placed == {web1: [5], web2: [5]}
    assert other not in placed
    assert own.own_answer("templates/office/web", method="DELETE").status_code == 204
    assert made(own) == []
    assert own.own("templates") == []
    assert refused(own, "office/web", {}, "DELETE")[:2] == (404, "InvalidTemplate.NotFound")


def test_an_interface_that_is_gone_keeps_its_session_and_one_that_is_deleted_loses_it(
    own: Plane, parts: dict[str, Any]
) -> None:
    web1, web2 = own.find(found("web1", "10.0.0.1"), found("web2", "10.0.0.2"))
    put(own, select={"name": "web*"}, **parts)
    before = made(own)
    own.report(found("web2", "10.0.0.2"), found("sensor", "10.0.0.200"))
    assert made(own) == before
    own.report(found("web2", "10.0.0.2"), found("sensor", "10.0.0.200"), deleted=("netns:web1/eth0",))
    assert sources(own) == {web2}
    own.report(found("web1", "10.0.0.1"), found("web2", "10.0.0.2"), found("sensor", "10.0.0.200"))
    assert len(sources(own)) == 2
    assert web1 not in sources(own), "it came back as a new interface"


def test_tags_select_as_they_are_put_on_and_taken_off(own: Plane, parts: dict[str, Any]) -> None:
    web1, _ = own.find(found("web1", "10.0.0.1"), found("web2", "10.0.0.2"))
    put(own, select={"tags": {"mirror": "y*"}}, **parts)
    ec2 = own.client()
    assert sources(own) == set()
    ec2.create_tags(Resources=[web1], Tags=[{"Key": "mirror", "Value": "yes"}])
    assert sources(own) == {web1}
    ec2.create_tags(Resources=[web1], Tags=[{"Key": "mirror", "Value": "no"}])
    assert sources(own) == set()
    ec2.create_tags(Resources=[web1], Tags=[{"Key": "mirror", "Value": "y"}])
    ec2.delete_tags(Resources=[web1], Tags=[{"Key": "mirror"}])
    assert sources(own) == set()


def test_subnets_and_vpcs_select_by_the_declaration_in_force(own: Plane, parts: dict[str, Any]) -> None:
    _, in_b = own.find(found("web1", "10.0.0.1"), found("web2", "10.0.1.2"))
    put(own, select={"vpc": "office", "subnet": "b"}, **parts)
    assert sources(own) == {in_b}
    nowhere = own.own_answer("networks", method="PUT", body='[[vpc]]\nname = "x"\ncidr = "192.0.2.0/24"\n')
    assert nowhere.json()["code"] == "DependencyViolation", "an interface in use is not moved, whoever uses it"


def test_what_somebody_does_to_a_session_of_a_template_is_put_right(own: Plane, parts: dict[str, Any]) -> None:
    [web1] = own.find(found("web1", "10.0.0.1"))
    put(own, select={"name": "web*"}, **parts)
    [before] = made(own)
    ec2, session_id = own.client(), before["TrafficMirrorSessionId"]
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, SessionNumber=9, PacketLength=64)
    assert made(own) == [before]
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
    [after] = made(own)
    assert after["TrafficMirrorSessionId"] != session_id
    assert after["NetworkInterfaceId"] == web1
    ec2.delete_tags(Resources=[after["TrafficMirrorSessionId"]], Tags=[{"Key": ORIGIN}])
    assert made(own) == [], "without its tag it is nobody's, and holds the number"
    [template] = own.own("templates")
    assert template["reasons"] == [
        {
            "interface_id": web1,
            "reason": f"session number 5 is taken by {after['TrafficMirrorSessionId']}",
        }
    ]
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=after["TrafficMirrorSessionId"])
    assert sources(own) == {web1}
    tag = [{"Key": ORIGIN, "Value": "office/web"}]
    assert code_of(ec2.create_tags, Resources=[made(own)[0]["TrafficMirrorSessionId"]], Tags=tag) == (
        "InvalidParameterValue"
    )


def test_another_template_of_the_name_changes_the_sessions_that_are_there(own: Plane, parts: dict[str, Any]) -> None:
    own.find(found("web1", "10.0.0.1"), found("web2", "10.0.0.2"))
    put(own, select={"name": "web*"}, **parts, tags={"a": "1", "pktmirror:packets-per-second": "100"})
    before = {each["TrafficMirrorSessionId"]: each for each in made(own)}
    other = Maker(own, own.client()).filter()
    put(own, select={"name": "web*"}, **{**parts, "filter_id": other, "number": 7, "limit": 1}, tags={"b": "2"})
    [after] = made(own)
    assert after == before[after["TrafficMirrorSessionId"]] | {
        "TrafficMirrorFilterId": other,
        "SessionNumber": 7,
        "Tags": [{"Key": "b", "Value": "2"}, {"Key": ORIGIN, "Value": "office/web"}],
    }
    [template] = own.own("templates")
    assert [each["reason"] for each in template["reasons"]] == ["the template's limit of 1 is reached"]


def test_templates_outlive_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        make = Maker(plane, plane.client())
        sensor, _ = plane.find(found("sensor", "10.0.0.200"), found("web1", "10.0.0.1"))
        target, filter_ = make.target(NetworkInterfaceId=sensor), make.filter()
        put(plane, select={"name": "web*"}, target_id=target, filter_id=filter_, number=5, limit=10)
        templates, sessions = plane.own("templates"), made(plane)
    with running(tmp_path / "state") as plane:
        assert (plane.own("templates"), made(plane)) == (templates, sessions)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"select": {}}, "InvalidParameterValue", "selects by nothing"),
        ({"select": {"colour": "red"}}, "InvalidParameterValue", "unknown field `colour`"),
        ({"number": 0}, "InvalidParameterValue", ">= 1"),
        ({"limit": None}, "InvalidParameterValue", "limit"),
        ({"target_id": "tmt-0"}, "InvalidTrafficMirrorTargetId.NotFound", "tmt-0"),
        ({"filter_id": "tmf-0"}, "InvalidTrafficMirrorFilterId.NotFound", "tmf-0"),
        ({"name": "office/other"}, "InvalidParameterValue", "was sent as office/web"),
        ({"tags": {"aws:x": "1"}}, "InvalidParameterValue", "reserved"),
        ({"tags": {"pktmirror:packets-per-second": "many"}}, "InvalidParameterValue", "a number from 1"),
        ({"tags": {"pktmirror:name": "office/x"}}, "InvalidParameterValue", "no template's"),
        ({"tags": {f"k{number}": "" for number in range(50)}}, "TagLimitExceeded", "at most 49"),
    ],
)
def test_a_template_that_cannot_be_kept_is_refused_and_nothing_is_made(
    own: Plane, make: Maker, changes: dict[str, Any], code: str, said: str
) -> None:
    whole = {
        "name": "office/web",
        "select": {"name": "*"},
        "target_id": make.target(),
        "filter_id": make.filter(),
        "number": 5,
        "limit": 5,
    }
    _, told, message = refused(own, "office/web", whole | changes)
    assert told == code
    assert said in message
    assert own.own("templates") == []


def test_a_template_needs_a_signature_and_a_name(plane: Plane) -> None:
    for method, path in (("GET", "templates"), ("PUT", "templates/office/web"), ("DELETE", "templates/office/web")):
        assert plane.agent(method, path).json()["code"] == "IncompleteSignature", "an agent's token is not enough"
    assert refused(plane, "office/.web", {}, "DELETE")[1] == "InvalidParameterValue"


def test_status_says_what_a_template_made_and_why_not_more(own: Plane, parts: dict[str, Any]) -> None:
    web1, web2, nic = own.find(
        found("web1", "10.0.0.1"), found("web2", "10.0.0.2"), found("webnic", not_mirrorable="it belongs to a bond")
    )
    put(own, select={"name": "web*", "host": HOST}, **{**parts, "limit": 1})
    program = Program(own.state)
    [told] = program.json("status")["templates"]
    assert (told["selected"], len(told["sessions"])) == (3, 1)
    assert {each["interface_id"]: each["reason"] for each in told["reasons"]} == {
        web2: "the template's limit of 1 is reached",
        nic: "it cannot be a source: it belongs to a bond",
    }
    shown = program.run("status")
    assert "host host-1 and name web*" in shown
    assert f"office/web: {nic}: it cannot be a source: it belongs to a bond" in shown
    assert sources(own) == {web1}

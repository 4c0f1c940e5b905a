"""The declaration of networks in a running control plane: read, replaced, refused, and kept."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pktmirror.control import serve
from pktmirror.desired import DesiredInterface, SessionFigures, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from pktmirror.model.refusal import Refusal
from pktmirror.model.underlay import OuterSource
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, NETWORKS, Plane, code_of, found, refusal_of, running, wait_until
from tests.contract.test_cli_questions import Program

OF_HOST = NETWORKS.replace("route_table = 100", 'route_table = 100\nouter_source = "host"')
LAB = """
[[vpc]]
name = "lab"
cidr = "192.0.2.0/24"
[[vpc.subnet]]
name = "a"
cidr = "192.0.2.0/25"
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Plane]:
    """A control plane of the test's own."""
    with running(tmp_path / "state") as plane:
        yield plane


@pytest.fixture
def make_own(own: Plane) -> Maker:
    return Maker(own, own.client())


def apply(plane: Plane, text: str) -> Any:
    answer = plane.own_answer("networks", method="PUT", body=text)
    assert answer.status_code == 200, answer.text
    return answer.json()


def names(plane: Plane) -> list[str]:
    return [vpc["name"] for vpc in plane.own("networks")["vpcs"]]


def desired_of(plane: Plane, interface_id: str) -> DesiredInterface:
    desired = plane.desired()
    assert desired is not None
    [interface] = [each for each in desired.interfaces if each.interface_id == interface_id]
    return interface


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "networks"),
        ("PUT", "networks"),
        ("PUT", "interfaces/eni-0123456789abcdef0/address"),
        ("DELETE", "interfaces/eni-0123456789abcdef0/address"),
        ("DELETE", "interfaces/eni-0123456789abcdef0"),
    ],
)
def test_nothing_of_it_is_told_or_changed_without_the_users_signature(plane: Plane, method: str, path: str) -> None:
    before = plane.own("networks")
    unsigned = plane.agent(method, path, headers={})
    by_agent = plane.agent(method, path)
    for_ec2 = plane.own_answer(path, "ec2", method, LAB)
    assert {unsigned.status_code, by_agent.status_code, for_ec2.status_code} <= {400, 401, 403}
    assert plane.own("networks") == before


def test_the_signature_covers_the_declaration(plane: Plane) -> None:
    before = plane.own("networks")
    answer = plane.own_answer("networks", method="PUT", body=NETWORKS, sent_body=LAB)
    assert answer.json()["code"] == "SignatureDoesNotMatch"
    assert plane.own("networks") == before


def test_another_declaration_takes_effect_at_once_on_who_waits(own: Plane, make_own: Maker) -> None:
    session = make_own.session()
    source = session["NetworkInterfaceId"]
    assert desired_of(own, source).underlay.outer_source is OuterSource.ENI
    now = own.desired()
    assert now is not None
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(own.desired(after=now.revision, wait_s=20)))
    waiting.start()
    assert apply(own, OF_HOST + LAB) == ["VPC lab: added", "VPC office: changed"]
    waiting.join()
    assert got[0] is not None, "nobody woke the poll"
    [underlay] = [each.underlay for each in got[0].interfaces if each.interface_id == source]
    assert (underlay.outer_source, underlay.route_table) == (OuterSource.HOST, 100)
    assert names(own) == ["office", "lab"]
    vpcs = own.client().describe_vpcs()["Vpcs"]
    assert {vpc["CidrBlock"] for vpc in vpcs} == {"10.0.0.0/16", "192.0.2.0/24"}


def test_the_same_declaration_changes_nothing(own: Plane) -> None:
    before = own.desired()
    assert apply(own, "# as before, with a remark" + NETWORKS) == []
    assert own.desired() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[vpc]", "networks"),
        (NETWORKS.replace("10.0.1.0/24", "10.9.1.0/24"), "subnet b (10.9.1.0/24) lies outside its VPC office"),
        (OF_HOST.replace('"host"', '"guest"'), 'outer_source is "guest"'),
    ],
    ids=["no TOML", "a subnet outside", "an outer source that nobody knows"],
)
def test_what_is_no_declaration_is_refused_and_changes_nothing(plane: Plane, text: str, said: str) -> None:
    before = plane.own("networks"), plane.desired()
    answer = plane.own_answer("networks", method="PUT", body=text)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameterValue")
    assert said in answer.json()["message"]
    assert (plane.own("networks"), plane.desired()) == before


def test_a_network_is_not_taken_from_under_an_interface_in_use(own: Plane, make_own: Maker) -> None:
    session = make_own.session()
    before = own.own("networks"), own.desired()
    refused = own.own_answer("networks", method="PUT", body=LAB)
    assert (refused.status_code, refused.json()["code"]) == (400, "DependencyViolation")
    assert "delete that first" in refused.json()["message"]
    assert (own.own("networks"), own.desired()) == before
    ec2 = own.client()
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session["TrafficMirrorSessionId"])
    assert own.own_answer("networks", method="PUT", body=LAB).status_code == 400, "the target is in it too"
    ec2.delete_traffic_mirror_target(TrafficMirrorTargetId=session["TrafficMirrorTargetId"])
    assert len(apply(own, LAB)) == 2
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[session["NetworkInterfaceId"]])[
        "NetworkInterfaces"
    ]
    assert "VpcId" not in interface, "one that nothing uses is placed anew"


def test_what_was_applied_outlives_a_restart_with_the_file_of_before(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        apply(plane, OF_HOST + LAB)
    with running(tmp_path / "state") as plane:
        assert names(plane) == ["office", "lab"]
    with running(tmp_path / "state", "# the same, with a remark" + NETWORKS) as plane:
        assert names(plane) == ["office", "lab"]


def test_another_file_at_the_start_takes_the_place_of_what_was_applied(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        apply(plane, OF_HOST + LAB)
    with running(tmp_path / "state", LAB) as plane:
        assert names(plane) == ["lab"]


def test_a_file_at_the_start_that_takes_a_network_away_from_an_interface_in_use_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        session = Maker(plane, plane.client()).session()
    other = tmp_path / "other.toml"
    other.write_text(LAB)
    with pytest.raises(Refusal) as refusal:
        serve("127.0.0.1:0", tmp_path / "state", other, stop=threading.Event())
    assert session["TrafficMirrorSessionId"] in str(refusal.value) or session["TrafficMirrorTargetId"] in str(
        refusal.value
    )
    assert "start without --networks" in refusal.value.do
    with running(tmp_path / "state") as plane:
        assert names(plane) == ["office"], "nothing has changed"


def test_an_interface_without_an_address_becomes_a_source_when_one_is_declared(own: Plane, make_own: Maker) -> None:
    [bare] = own.find(found("bare"))
    asked = make_own.session_parameters(NetworkInterfaceId=bare)
    ec2 = own.client()
    code, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert (code, "network set-address" in message) == ("NetworkInterfaceNotSupported", True)
    program = Program(own.state)
    assert (
        program.run("network", "set-address", "bare", "10.0.0.48") == f"address of netns:bare/eth0 on {HOST}: added\n"
    )
    session = ec2.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
    assert desired_of(own, bare).primary_address == "10.0.0.48"
    assert desired_of(own, bare).underlay.route_table == 100, "the address says which network it is in"
    [listed] = [each for each in own.own("interfaces") if each["interface_id"] == bare]
    assert (listed["addresses"], listed["address_from"], listed["not_mirrorable"]) == (["10.0.0.48"], "operator", None)
    [described] = ec2.describe_network_interfaces(NetworkInterfaceIds=[bare])["NetworkInterfaces"]
    assert described["PrivateIpAddress"] == "10.0.0.48"
    with pytest.raises(Refusal, match="would have no primary address any more"):
        program.run("network", "clear-address", bare)
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session["TrafficMirrorSessionId"])
    assert program.run("network", "clear-address", bare) == f"address of netns:bare/eth0 on {HOST}: removed\n"
    assert code_of(ec2.create_traffic_mirror_session, **asked) == "NetworkInterfaceNotSupported"


def test_the_declared_address_comes_before_the_one_that_was_found(own: Plane, make_own: Maker) -> None:
    source = make_own.session()["NetworkInterfaceId"]
    found_address = desired_of(own, source).primary_address
    program = Program(own.state)
    program.run("network", "set-address", source, "10.0.0.200")
    own.report(*own.reported.values())
    assert desired_of(own, source).primary_address == "10.0.0.200", "also after the next report"
    program.run("network", "clear-address", source)
    assert desired_of(own, source).primary_address == found_address


@pytest.mark.parametrize(
    ("interface", "address", "said"),
    [
        ("WEB", "10.0.0.256", "'10.0.0.256'"),
        ("WEB", "2001:db8::1", "is not IPv4"),
        ("WEB", "10.0.1.7", "would move to subnet b of VPC office"),
        ("eni-00000000000000000", "10.0.0.48", "No interface is known as"),
    ],
)
def test_an_address_that_cannot_be_is_refused(
    own: Plane, make_own: Maker, interface: str, address: str, said: str
) -> None:
    source = make_own.session()["NetworkInterfaceId"]
    before = own.own("networks"), own.desired()
    with pytest.raises(Refusal) as refusal:
        Program(own.state).run("network", "set-address", source if interface == "WEB" else interface, address)
    assert said in str(refusal.value)
    assert (own.own("networks"), own.desired()) == before


def test_the_neighbour_tables_address_counts_where_nobody_else_tells_one(own: Plane, make_own: Maker) -> None:
    bare = found("bare")
    from_table = type(bare)(
        **{name: getattr(bare, name) for name in bare.__struct_fields__} | {"neighbours": ("10.0.0.3",)}
    )
    [source] = own.find(from_table)
    make_own.session(NetworkInterfaceId=source)
    assert desired_of(own, source).primary_address == "10.0.0.3"
    own.report(*(own.reported | {bare.key: bare}).values())
    assert desired_of(own, source).primary_address == "10.0.0.3", "an entry that expired takes nothing away"


def test_where_the_host_is_the_outer_source_both_ends_meet_by_what_the_agent_says(tmp_path: Path) -> None:
    with running(tmp_path / "state", OF_HOST) as plane:
        make = Maker(plane, plane.client())
        session = make.session(VirtualNetworkId=7)
        session_id = session["TrafficMirrorSessionId"]
        assert row(plane, session_id)["outer_source"] is None
        assert state_of(plane, session_id)["outer_source"] is None
        tell(plane, session_id, 5)
        target = row(plane, session_id)["outer_destination"]
        assert row(plane, session_id)["outer_source"] == "10.0.0.3"
        assert state_of(plane, session_id)["outer_source"] == "10.0.0.3"
        received(plane, target, {7: 5})
        assert collected(plane, session_id) == (5, 0)
        plane.client().modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, VirtualNetworkId=8)
        tell(plane, session_id, 9)
        received(plane, target, {7: 5, 8: 4})
        assert collected(plane, session_id) == (9, 0)
        plane.client().modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, VirtualNetworkId=9)
        tell(plane, session_id, 10)
        received(plane, target, {7: 5, 8: 4, 9: 1})
        assert collected(plane, session_id) == (10, 0)
        reported = plane.reported
    with running(tmp_path / "state", OF_HOST) as plane:
        plane.reported = reported
        received(plane, target, {7: 5, 8: 4, 9: 1})
        tell(plane, session_id, 10)
        assert collected(plane, session_id) == (10, 0), "what was used before is remembered"
        apply(plane, NETWORKS)
        assert row(plane, session_id)["outer_source"] not in (None, "10.0.0.3")
        assert collected(plane, session_id) == (10, 0)


def test_each_address_that_was_declared_counts_for_what_left_from_it(own: Plane, make_own: Maker) -> None:
    [web] = own.find(found("web", "10.0.0.48"))
    session_id = make_own.session(NetworkInterfaceId=web, VirtualNetworkId=7)["TrafficMirrorSessionId"]
    for address in ("10.0.0.49", "10.0.0.50"):
        assert own.own_answer(f"interfaces/{web}/address", method="PUT", body=address).status_code == 200
    target = row(own, session_id)["outer_destination"]
    streams = [stream(target, 7, packets, source) for source, packets in (("10.0.0.48", 1), ("10.0.0.49", 2))]
    tell(own, session_id, 3, None)
    report = {"listening": f"{target}:4789", "streams": [*streams, stream(target, 7, 99, "10.0.0.51")]}
    assert own.agent("POST", "monitors/m1/report", json=report).status_code == 204
    assert row(own, session_id)["outer_source"] == "10.0.0.50"
    assert collected(own, session_id) == (3, 0)


def tell(plane: Plane, session_id: str, packets: int, outer_source: str | None = "10.0.0.3") -> None:
    """The agent says what the session has sent, and from which address."""
    tally = Tally(packets, packets * 100)
    ledger = SessionLedger({Verdict.TAKEN: tally}, {Stage.SENT: tally})
    plane.report(
        *plane.reported.values(),
        statuses=(SessionStatus(session_id=session_id, outer_source=outer_source),),
        sessions=(SessionFigures(session_id=session_id, directions={Direction.INGRESS: ledger}),),
    )


def stream(target: str, vni: int, packets: int, outer_source: str = "10.0.0.3") -> dict[str, Any]:
    """What a monitor has of it."""
    return {
        "vni": vni,
        "outer_source": outer_source,
        "outer_destination": target,
        "received_packets": packets,
        "received_bytes": packets * 100,
        "written_packets": packets,
        "written_bytes": packets * 100,
        "first_seen_ns": 1,
    }


def received(plane: Plane, target: str, packets_by_vni: dict[int, int]) -> None:
    streams = [stream(target, vni, packets) for vni, packets in packets_by_vni.items()]
    report = {"listening": f"{target}:4789", "streams": streams}
    assert plane.agent("POST", "monitors/m1/report", json=report).status_code == 204


def row(plane: Plane, session_id: str) -> dict[str, Any]:
    [row] = [row for row in plane.own("ledger")["sessions"] if row["session_id"] == session_id]
    return dict(row)


def state_of(plane: Plane, session_id: str) -> dict[str, Any]:
    [state] = [state for state in plane.own("status")["sessions"] if state["session_id"] == session_id]
    return dict(state)


def collected(plane: Plane, session_id: str) -> tuple[int, int]:
    """What was received, and what is missing."""
    collector = row(plane, session_id)["collector"]
    assert collector["type"] == "collected", collector
    return collector["received"]["packets"], collector["lost_on_wire_packets"]


def test_an_outer_source_that_is_no_address_is_refused(own: Plane, make_own: Maker) -> None:
    session_id = make_own.session()["TrafficMirrorSessionId"]
    with pytest.raises(AssertionError, match="is no address"):
        tell(own, session_id, 5, "the host")
    assert own.own("status")["sessions"][0]["problem"].endswith("has not applied it yet")


# --- the commands


def test_a_file_is_checked_without_a_control_plane(tmp_path: Path) -> None:
    file = tmp_path / "networks.toml"
    program = Program(tmp_path / "nowhere")
    file.write_text(NETWORKS + LAB)
    assert program.run("network", "check", str(file)) == f"{file}: 2 VPCs, 3 subnets, 0 addresses of interfaces\n"
    file.write_text(file.read_text(), encoding="utf-8-sig")  # as editors write it that put a mark first
    assert program.run("network", "check", str(file)) == f"{file}: 2 VPCs, 3 subnets, 0 addresses of interfaces\n"
    for text, said in (
        (OF_HOST.replace('"host"', '"guest"'), '"guest"'),
        ("vpc = 3", "array"),
        (NETWORKS * 2, "twice"),
    ):
        file.write_text(text)
        with pytest.raises(Refusal, match=said) as refusal:
            program.run("network", "check", str(file))
        assert refusal.value.do
    with pytest.raises(Refusal, match="cannot be read"):
        program.run("network", "check", str(tmp_path / "none.toml"))


def test_what_is_shown_can_be_edited_and_applied(own: Plane, make_own: Maker, tmp_path: Path) -> None:
    [web] = own.find(found("web", "10.0.0.48"))
    program, file = Program(own.state), tmp_path / "edited.toml"
    program.run("network", "set-address", web, "10.0.0.49")
    shown = program.run("network", "show", "--toml")
    file.write_text(shown)
    assert program.run("network", "apply", str(file)) == "nothing changes\n"
    file.write_text(shown.replace('"10.0.0.49"', '"10.0.0.50"').replace("route_table = 100", 'outer_source = "host"'))
    assert program.run("network", "apply", str(file)).splitlines() == [
        "VPC office: changed",
        f"address of netns:web/eth0 on {HOST}: changed",
    ]
    told = program.json("network", "show")
    assert told["vpcs"][0]["underlay"]["outer_source"] == "host"
    assert [subnet["interfaces"] for subnet in told["vpcs"][0]["subnets"]] == [1, 0]
    assert told["addresses"] == [
        {"host_id": HOST, "key": "netns:web/eth0", "address": "10.0.0.50", "interface_id": web}
    ]
    for_people = program.run("network", "show")
    for said in ("office", "10.0.0.0/24", "outer source host", "10.0.0.50", web, "netns:web/eth0"):
        assert said in for_people
    assert "netns:web/eth0" in program.run("interfaces"), "where a user finds the key"


def test_a_file_with_an_error_is_not_sent(own: Plane, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(NETWORKS * 2)
    refused_before = own.own("status")["refused_requests"]
    with pytest.raises(Refusal, match="declared twice"):
        Program(own.state).run("network", "apply", str(file))
    assert own.own("status")["refused_requests"] == refused_before


# --- the end of an interface (spec 5.15)


def ids(plane: Plane) -> list[str]:
    return [each["NetworkInterfaceId"] for each in plane.client().describe_network_interfaces()["NetworkInterfaces"]]


def sessions(plane: Plane) -> list[str]:
    listed = plane.client().describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
    return [each["TrafficMirrorSessionId"] for each in listed]


def take_away(plane: Plane, key: str, **more: Any) -> None:
    """The agent finds the interface no more."""
    plane.reported.pop(key, None)
    plane.report(*plane.reported.values(), **more)


def test_an_interface_is_forgotten_with_its_sessions_once_it_is_gone(own: Plane, make_own: Maker) -> None:
    [web] = own.find(found("web", "10.0.0.7"))
    kept, gone = make_own.session(), make_own.session(NetworkInterfaceId=web)
    program = Program(own.state)
    with pytest.raises(Refusal, match=r"InvalidNetworkInterface\.InUse.*would come back as a new interface"):
        program.run("forget", web)
    assert len(sessions(own)) == 2
    take_away(own, "netns:web/eth0")
    assert state_of(own, gone["TrafficMirrorSessionId"])["problem"] == "interface gone"
    program.run("forget", web)
    assert web not in ids(own)
    assert sessions(own) == [kept["TrafficMirrorSessionId"]]
    with pytest.raises(Refusal, match=r"InvalidNetworkInterfaceID\.NotFound"):
        program.run("forget", web)
    assert own.find(found("web", "10.0.0.7")) != [web], "what comes back is a new interface"


def test_the_targets_on_a_forgotten_interface_stay_and_their_sessions_send_nothing(own: Plane, make_own: Maker) -> None:
    [sensor] = own.find(found("sensor", "10.0.0.9"))
    target = make_own.target(NetworkInterfaceId=sensor)
    session = make_own.session(TrafficMirrorTargetId=target)
    take_away(own, "netns:sensor/eth0")
    assert own.own_answer(f"interfaces/{sensor}", method="DELETE").status_code == 204
    listed = own.client().describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    assert [each["TrafficMirrorTargetId"] for each in listed] == [target]
    assert sessions(own) == [session["TrafficMirrorSessionId"]]
    assert state_of(own, session["TrafficMirrorSessionId"])["problem"] == "target interface gone"


def test_an_interface_whose_agent_has_not_spoken_since_the_start_is_taken_for_there(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        [web] = plane.find(found("web", "10.0.0.7"))
    with running(tmp_path / "state") as plane:
        answer = plane.own_answer(f"interfaces/{web}", method="DELETE")
        assert answer.json()["code"] == "InvalidNetworkInterface.InUse"
        assert ids(plane) == [web]


def test_what_its_provider_deletes_goes_with_its_sessions(own: Plane, make_own: Maker) -> None:
    [web] = own.find(found("web", "10.0.0.7"))
    kept = make_own.session()
    make_own.session(NetworkInterfaceId=web, TrafficMirrorTargetId=kept["TrafficMirrorTargetId"])
    before = own.desired()
    take_away(own, "netns:web/eth0", deleted=("netns:web/eth0",))
    assert web not in ids(own)
    assert sessions(own) == [kept["TrafficMirrorSessionId"]]
    after = own.desired()
    assert before is not None
    assert after is not None
    assert after.revision > before.revision
    take_away(own, "netns:web/eth0", deleted=("netns:web/eth0",))
    assert own.desired() == after, "it is told again and again, and happens once"
    [back] = own.find(found("web", "10.0.0.7"))
    assert back != web
    assert sessions(own) == [kept["TrafficMirrorSessionId"]]


@pytest.mark.parametrize(
    "deleted",
    [(), ("netns:db/eth0",), ("netns:web/eth1",)],
    ids=["a device that vanishes", "another instance", "another interface of it"],
)
def test_what_was_not_deleted_stays_detached_with_its_sessions_and_heals(
    own: Plane, make_own: Maker, deleted: tuple[str, ...]
) -> None:
    web = found("web", "10.0.0.7")
    [web_id] = own.find(web)
    session_id = make_own.session(NetworkInterfaceId=web_id)["TrafficMirrorSessionId"]
    take_away(own, web.key, deleted=deleted)
    assert state_of(own, session_id)["problem"] == "interface gone"
    assert own.find(web) == [web_id]
    assert state_of(own, session_id)["problem"] != "interface gone"


def test_another_hosts_agent_deletes_nothing_here(own: Plane, make_own: Maker) -> None:
    [web] = own.find(found("web", "10.0.0.7"))
    session_id = make_own.session(NetworkInterfaceId=web)["TrafficMirrorSessionId"]
    own.report(host="host-2", deleted=("netns:web/eth0",))
    assert web in ids(own)
    assert sessions(own) == [session_id]


def test_what_is_reported_as_there_is_not_deleted(own: Plane, make_own: Maker) -> None:
    [web] = own.find(found("web", "10.0.0.7"))
    own.report(*own.reported.values(), deleted=("netns:web/eth0",))
    assert web in ids(own)


def test_a_host_whose_agent_finds_nothing_any_more_loses_no_session(own: Plane, make_own: Maker) -> None:
    session_id = make_own.session()["TrafficMirrorSessionId"]
    own.report()
    wait_until(
        lambda: state_of(own, session_id)["problem"] == "interface gone", within_s=30, else_say="it is not detached"
    )
    assert sessions(own) == [session_id]

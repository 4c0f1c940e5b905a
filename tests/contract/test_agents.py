"""The API of our own: what agents and monitors send and get, and what a user reads beside EC2."""

import threading
import time
from typing import Any

import httpx
import pytest

from pktmirror.desired import Report, SessionFigures, SessionStatus, encode
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, found


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"agents/{HOST}/desired"), ("POST", f"agents/{HOST}/report"), ("POST", "monitors/m/report")],
)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}])
def test_an_agent_without_the_token_is_refused(plane: Plane, method: str, path: str, headers: dict[str, str]) -> None:
    answer = plane.agent(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "AuthFailure"


@pytest.mark.parametrize("path", ["status", "ledger", "interfaces", f"hosts/{HOST}/desired"])
def test_what_users_read_needs_their_signature(plane: Plane, path: str) -> None:
    assert plane.own_answer(path).status_code == 200
    assert (
        httpx.get(f"{plane.url}/pktmirror/v1/{path}", trust_env=False, timeout=30).json()["code"]
        == "MissingAuthenticationToken"
    )
    assert plane.own_answer(path, service="ec2").json()["code"] == "SignatureDoesNotMatch"
    assert plane.agent("GET", path).status_code in (400, 403), "the agents' token opens none of it"


def test_every_answer_carries_the_security_headers(plane: Plane) -> None:
    for path in ("/", "/nothing", "/docs", "/pktmirror/v1/status"):
        answer = httpx.get(f"{plane.url}{path}", trust_env=False, timeout=30)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert httpx.get(f"{plane.url}/docs", trust_env=False, timeout=30).status_code == 404
    assert "pktmirror" in httpx.get(plane.url, trust_env=False, timeout=30).text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"layout":99,"host_id":"host-1","agent_version":"","applied_revision":0}',
        encode(Report(host_id="another", agent_version="", applied_revision=0)),
    ],
)
def test_a_report_that_makes_no_sense_is_refused_with_a_sentence(plane: Plane, body: bytes) -> None:
    before = plane.own("interfaces")
    answer = plane.agent("POST", f"agents/{HOST}/report", content=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == "InvalidParameterValue"
    assert answer.json()["message"]
    assert plane.own("interfaces") == before


def test_an_agent_gets_its_own_interfaces_with_sessions_and_no_others(plane: Plane, ec2: Any, make: Maker) -> None:
    mine, _idle = make.interfaces(2)
    plane.report(found("elsewhere", "10.0.1.77"), host="host-2")
    [other] = [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == "host-2"]
    filter_id = make.filter()
    make.rule(filter_id, 20)
    make.rule(filter_id, 10, TrafficDirection="egress", Protocol=17)
    ec2.modify_traffic_mirror_filter_network_services(
        TrafficMirrorFilterId=filter_id, AddNetworkServices=["amazon-dns"]
    )
    unused = make.filter()
    ours = make.session(NetworkInterfaceId=mine, TrafficMirrorFilterId=filter_id, PacketLength=99, SessionNumber=4)
    theirs = make.session(NetworkInterfaceId=other)
    desired, elsewhere = plane.desired(), plane.desired("host-2")
    assert desired is not None
    assert elsewhere is not None
    placed = {interface.interface_id: interface for interface in desired.interfaces}
    assert other not in placed
    [session] = placed[mine].sessions
    assert (session.session_id, session.number, session.packet_bytes_max) == (ours["TrafficMirrorSessionId"], 4, 99)
    assert session.vni == ours["VirtualNetworkId"]
    assert placed[mine].underlay.route_table == 100
    assert placed[mine].resolvers == ("10.0.0.2", "169.254.169.253")
    assert [rule.number for rule in desired.filters[filter_id].rules] == [10, 20]
    assert [service.value for service in desired.filters[filter_id].services] == ["amazon-dns"]
    assert unused not in desired.filters
    assert [interface.interface_id for interface in elsewhere.interfaces] == [other]
    assert list(elsewhere.filters) == [theirs["TrafficMirrorFilterId"]]
    assert plane.desired("host-3").interfaces == ()  # type: ignore[union-attr]


def test_a_long_poll_ends_with_the_change_and_not_before(plane: Plane, make: Maker) -> None:
    asked = make.session_parameters()
    now = plane.desired()
    assert now is not None
    begun_s = time.monotonic()
    assert plane.desired(after=now.revision, wait_s=0.3) is None, "nothing has changed"
    assert time.monotonic() - begun_s >= 0.3
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(plane.desired(after=now.revision, wait_s=20)))
    waiting.start()
    make.filter()
    waiting.join(timeout=0.3)
    assert waiting.is_alive(), "a filter that nobody uses concerns no desired state"
    session = make.session(**asked)
    waiting.join()
    assert got[0] is not None, "nobody woke the poll (decision 5.11)"
    assert session["TrafficMirrorSessionId"] in str(got[0])
    assert got[0].revision > now.revision


def test_a_changed_interface_is_a_new_revision(plane: Plane, make: Maker) -> None:
    [source] = plane.find(found("moving", "10.0.1.20"))
    make.session(NetworkInterfaceId=source)
    before = plane.desired()
    plane.find(found("moving", "10.0.1.21"))
    after = plane.desired()
    assert before is not None
    assert after is not None
    assert after.revision > before.revision
    addresses = {interface.interface_id: interface.primary_address for interface in after.interfaces}
    assert addresses[source] == "10.0.1.21"


def test_a_report_that_says_nothing_new_changes_no_revision(plane: Plane, make: Maker) -> None:
    make.interface()
    before = plane.desired()
    plane.report(*plane.reported.values())
    assert plane.desired() == before


def test_the_ledger_joins_both_ends(plane: Plane, make: Maker) -> None:
    [source, target] = plane.find(found("ledger-source", "10.0.1.10"), found("ledger-target", "10.0.1.11"))
    session = make.session(NetworkInterfaceId=source, TrafficMirrorTargetId=make.target(NetworkInterfaceId=target))
    session_id = session["TrafficMirrorSessionId"]

    def row() -> dict[str, Any]:
        [row] = [row for row in plane.own("ledger")["sessions"] if row["session_id"] == session_id]
        return dict(row)

    assert row()["collector"] == {"type": "uncollected", "reason": "no monitor reports this target"}
    ingress = SessionLedger(
        {Verdict.TAKEN: Tally(10, 1000), Verdict.NO_RULE_MATCHED: Tally(3, 300)},
        {Stage.SENT: Tally(8, 800), Stage.NO_ROUTE: Tally(1, 100)},
    )
    plane.report(
        *plane.reported.values(),
        statuses=(SessionStatus(session_id=session_id),),
        sessions=(SessionFigures(session_id=session_id, directions={Direction.INGRESS: ingress}),),
    )
    stream = {
        "vni": session["VirtualNetworkId"],
        "outer_source": "10.0.1.10",
        "outer_destination": "10.0.1.11",
        "received_packets": 7,
        "received_bytes": 700,
        "written_packets": 6,
        "written_bytes": 600,
    }
    other = stream | {"outer_source": "10.0.1.99", "received_packets": 1000}
    report = {"listening": "10.0.1.11:4789", "streams": [stream, other], "refused": {"no VXLAN": 2}}
    assert plane.agent("POST", "monitors/m1/report", json=report).status_code == 204
    assert row()["problem"] is None
    assert row()["sent"] == {"packets": 8, "bytes": 800}
    assert row()["directions"]["ingress"]["offered"] == {"packets": 13, "bytes": 1300}
    assert row()["directions"]["ingress"]["lost_in_hop_packets"] == 1
    assert row()["directions"]["egress"]["offered"] == {"packets": 0, "bytes": 0}
    assert row()["collector"] == {
        "type": "collected",
        "monitors": ["m1"],
        "received": {"packets": 7, "bytes": 700},
        "written": {"packets": 6, "bytes": 600},
        "not_written": {"packets": 1, "bytes": 100},
        "lost_on_wire_packets": 1,
        "shared_with": [],
    }
    [monitor] = plane.own("status")["monitors"]
    assert monitor["refused"] == {"no VXLAN": 2}


def test_of_another_hosts_session_an_agent_is_not_believed(plane: Plane, make: Maker) -> None:
    [far] = report_far(plane, "far-source", "10.0.1.230")
    [target] = plane.find(found("near-target", "10.0.1.231"))
    near, theirs = (
        make.session(NetworkInterfaceId=source, TrafficMirrorTargetId=make.target(NetworkInterfaceId=target))
        for source in (make.interface(), far)
    )
    mine, others = near["TrafficMirrorSessionId"], theirs["TrafficMirrorSessionId"]

    def rows() -> dict[str, tuple[int, str | None]]:
        found_rows = [row for row in plane.own("ledger")["sessions"] if row["session_id"] in (mine, others)]
        return {row["session_id"]: (row["sent"]["packets"], row["problem"]) for row in found_rows}

    report_far(plane, "far-source", "10.0.1.230", **says(others, 5))
    plane.report(*plane.reported.values(), **says(mine, 7))
    assert rows() == {mine: (7, None), others: (5, None)}
    both = {what: (*says(mine, 8)[what], *says(others, 1000)[what]) for what in ("sessions", "statuses")}
    plane.report(*plane.reported.values(), **both)
    assert rows() == {mine: (8, None), others: (5, None)}, "what it says of its own is taken"
    plane.report(*plane.reported.values(), **says(mine, 9), host="host-3")
    assert rows() == {mine: (8, None), others: (5, None)}


FAR = "host-far"


def says(session_id: str, packets: int) -> dict[str, Any]:
    """What an agent's report says of a session that has sent so many packets."""
    ledger = SessionLedger({Verdict.TAKEN: Tally(packets, 0)}, {Stage.SENT: Tally(packets, 0)})
    figures = SessionFigures(session_id=session_id, directions={Direction.INGRESS: ledger})
    return {"sessions": (figures,), "statuses": (SessionStatus(session_id=session_id),)}


def report_far(plane: Plane, name: str, address: str, **more: Any) -> list[str]:
    """The report of another host with one interface; the interface's id."""
    plane.report(found(name, address), host=FAR, **more)
    return [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == FAR]


def test_a_session_to_a_load_balancer_says_why_it_delivers_nothing(plane: Plane, make: Maker) -> None:
    session_id = make.session(TrafficMirrorTargetId=make.nlb_target())["TrafficMirrorSessionId"]
    reason = "target type not yet deliverable"
    [state] = [s for s in plane.own("status")["sessions"] if s["session_id"] == session_id]
    assert state["problem"] == reason
    [row] = [row for row in plane.own("ledger")["sessions"] if row["session_id"] == session_id]
    assert row["problem"] == reason
    assert row["collector"]["reason"] == reason

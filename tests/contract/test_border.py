"""What must not get in: reports that make no sense, clients that hang up, tokens and stores that are damaged."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pktmirror.desired import InterfaceFigures, Report, SessionFigures, encode
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Tally
from tests.contract.conftest import Maker, rule
from tests.contract.plane import HOST, SERVER, Plane, found, refusal_of, running, wait_until

WEB = found("web", "10.0.0.5")
NEGATIVE = SessionFigures(
    session_id="tms-1", directions={Direction.INGRESS: SessionLedger({Verdict.TAKEN: Tally(-1, 0)}, {})}
)
TOO_MANY = InterfaceFigures(
    key="k", directions={Direction.EGRESS: InterfaceLedger({InterfaceOutcome.TAKEN: Tally(1, 1 << 70)})}
)
NEGATIVE_BYPASSED = InterfaceFigures(
    key="k", directions={Direction.EGRESS: InterfaceLedger()}, bypassed_packets={Direction.EGRESS: -5}
)
STREAM = {
    "vni": 7,
    "outer_source": "10.0.0.1",
    "outer_destination": "10.0.0.2",
    "received_packets": 1,
    "received_bytes": 1,
    "written_packets": 1,
    "written_bytes": 1,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"interfaces": (found("web", "not-an-address"),)}, "not-an-address", id="an address that is none"),
        pytest.param({"interfaces": (WEB, WEB)}, "twice", id="two interfaces of one key"),
        pytest.param({"interfaces": (found("web", mtu=-1),)}, "MTU", id="a negative MTU"),
        pytest.param({"interfaces": (msgspec.structs.replace(WEB, key=""),)}, "no key", id="an interface of no key"),
        pytest.param({"applied_revision": -1}, "applied_revision", id="a negative revision"),
        pytest.param({"applied_revision": 1 << 61}, "applied_revision", id="a revision beyond all"),
        pytest.param({"sessions": (NEGATIVE,)}, "counts -1", id="negative figures"),
        pytest.param({"sessions": (NEGATIVE, NEGATIVE)}, "twice", id="figures of one session twice"),
        pytest.param({"mirrored_interfaces": (TOO_MANY,)}, "k counts", id="figures beyond all"),
        pytest.param({"mirrored_interfaces": (NEGATIVE_BYPASSED,)}, "k counts -5", id="less than nothing went past"),
    ],
)
def test_a_report_of_an_agent_that_makes_no_sense_is_refused_whole(
    plane: Plane, make: Maker, ec2: Any, changed: dict[str, Any], said: str
) -> None:
    make.interface()
    before = plane.own("interfaces"), plane.own("ledger"), plane.own("status")["revision"]
    told = {"host_id": HOST, "agent_version": "", "applied_revision": 0, "interfaces": (), **changed}
    body = msgspec.json.encode(told) if changed.get("mirrored_interfaces") else encode(Report(**told))
    answer = plane.agent("POST", f"agents/{HOST}/report", content=body)
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert (plane.own("interfaces"), plane.own("ledger"), plane.own("status")["revision"]) == before
    assert ec2.describe_network_interfaces()["NetworkInterfaces"]


@pytest.mark.parametrize(
    "report",
    [
        {"listening": "", "streams": [STREAM | {"received_packets": -1}]},
        {"listening": "", "streams": [STREAM | {"written_bytes": 1 << 62}]},
        {"listening": "", "streams": [STREAM | {"vni": 1 << 24}]},
        {"listening": "", "refused": {"too short": -1}},
        {"listening": "", "socket_queue_full": -1},
    ],
)
def test_a_report_of_a_monitor_that_makes_no_sense_is_refused_whole(plane: Plane, report: dict[str, Any]) -> None:
    before = [monitor["monitor_id"] for monitor in plane.own("status")["monitors"]]
    answer = plane.agent("POST", "monitors/nonsense/report", json=report)
    assert answer.status_code == 400
    assert "makes no sense" in answer.json()["message"]
    assert [monitor["monitor_id"] for monitor in plane.own("status")["monitors"]] == before


def test_a_report_that_makes_sense_is_taken_beside_those(plane: Plane) -> None:
    answer = plane.agent("POST", "monitors/sense/report", json={"listening": "", "streams": [STREAM]})
    assert answer.status_code == 204


@pytest.mark.parametrize("path", ["/", f"/pktmirror/v1/agents/{HOST}/report"])
def test_a_client_that_hangs_up_is_counted(plane: Plane, path: str) -> None:
    def hung_up() -> int:
        return int(plane.own("status")["refused_requests"].get("ClientDisconnected", 0))

    before, to = hung_up(), urlsplit(plane.url)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {plane.token}\r\ncontent-length: 100\r\n\r\nhalf"
    with socket.create_connection((to.hostname, to.port)) as connection:
        connection.sendall(head.encode())
    wait_until(lambda: hung_up() == before + 1, within_s=30, else_say="the client that hung up was not counted")


@pytest.mark.parametrize("name", ["TrafficMirrorTargetId", "TrafficMirrorFilterId"])
def test_an_empty_id_is_refused_at_modify_as_at_create(ec2: Any, make: Maker, name: str) -> None:
    session = make.session()
    refusal = refusal_of(
        ec2.modify_traffic_mirror_session,
        TrafficMirrorSessionId=session["TrafficMirrorSessionId"],
        VirtualNetworkId=4711,
        **{name: ""},
    )
    assert refusal == refusal_of(ec2.create_traffic_mirror_session, **make.session_parameters() | {name: ""})
    [now] = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session["TrafficMirrorSessionId"]])[
        "TrafficMirrorSessions"
    ]
    assert now == session | {"Tags": now["Tags"]}


@pytest.mark.parametrize("name", ["SourceCidrBlock", "DestinationCidrBlock"])
def test_an_empty_network_is_refused_at_modify_as_at_create(ec2: Any, make: Maker, name: str) -> None:
    filter_id = make.filter()
    made = make.rule(filter_id)
    rule_id = made["TrafficMirrorFilterRuleId"]
    refusal = refusal_of(
        ec2.modify_traffic_mirror_filter_rule, TrafficMirrorFilterRuleId=rule_id, RuleNumber=99, **{name: ""}
    )
    assert refusal == refusal_of(ec2.create_traffic_mirror_filter_rule, **rule(filter_id, 50) | {name: ""})
    [now] = ec2.describe_traffic_mirror_filter_rules(TrafficMirrorFilterRuleIds=[rule_id])["TrafficMirrorFilterRules"]
    assert now["RuleNumber"] == made["RuleNumber"]


def forget(plane: Plane, host: str) -> httpx.Response:
    known = plane.environment
    request = AWSRequest("DELETE", f"{plane.url}/pktmirror/v1/hosts/{host}")
    credentials = Credentials(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "pktmirror", known["AWS_REGION"]).add_auth(request)
    return httpx.delete(request.url, headers=dict(request.headers.items()), trust_env=False)


def test_a_host_that_reports_no_more_is_forgotten_with_its_interfaces_and_sessions_and_no_other(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        plane.report(found("typo", "10.0.1.9"), host="typo")
        assert forget(plane, "typo").json()["code"] == "IncorrectState", "its agent would report it again"
        assert len(plane.own("interfaces")) == 1
    with running(tmp_path / "state") as plane:  # nobody has reported to this one
        make = Maker(plane, plane.client())
        kept = make.interface()
        [typo] = [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == "typo"]
        gone, stays = make.session(NetworkInterfaceId=typo), make.session(NetworkInterfaceId=kept)
        path = f"{plane.url}/pktmirror/v1/hosts/typo"
        assert httpx.delete(path, trust_env=False).json()["code"] == "MissingAuthenticationToken"
        before = plane.own("status")["revision"]
        assert forget(plane, "typo").status_code == 204
        status = plane.own("status")
        assert [host["host_id"] for host in status["hosts"]] == [HOST]
        assert status["revision"] > before
        assert [session["session_id"] for session in status["sessions"]] == [stays["TrafficMirrorSessionId"]]
        assert gone["TrafficMirrorSessionId"] not in str(plane.own("ledger"))
        assert {known["host_id"] for known in plane.own("interfaces")} == {HOST}
        assert forget(plane, "typo").status_code == 404


def empty_token(state: Path) -> None:
    (state / "agent-token").write_text("\n")


def token_of_two_lines(state: Path) -> None:
    (state / "agent-token").write_text("0123456789abcdef\n0123456789abcdef\n")


def no_metrics_token(state: Path) -> None:
    (state / "metrics-token").write_text("short\n")


def random_bytes(state: Path) -> None:
    (state / "pktmirror.sqlite").write_bytes(random.Random(1).randbytes(100_000))


def damaged_within(state: Path) -> None:
    store = state / "pktmirror.sqlite"
    whole = bytearray(store.read_bytes())
    whole[4096:] = random.Random(1).randbytes(len(whole) - 4096)
    store.write_bytes(whole)


def a_directory(state: Path) -> None:
    (state / "pktmirror.sqlite").unlink()
    (state / "pktmirror.sqlite").mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (empty_token, "agent-token is no token"),
        (token_of_two_lines, "agent-token is no token"),
        (no_metrics_token, "metrics-token is no token"),
        (random_bytes, "cannot be opened"),
        (damaged_within, "cannot be opened"),
        (a_directory, "cannot be opened"),
    ],
)
def test_a_damaged_state_directory_is_refused_with_a_sentence(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    with running(tmp_path / "state"):
        pass
    damage(tmp_path / "state")
    ended = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path / "state"), str(tmp_path / "networks.toml"), "{}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("pktmirror.model.refusal.Refusal: "), last
    assert said in last
    assert "Next: " in last

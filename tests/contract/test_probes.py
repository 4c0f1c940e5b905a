"""The HTTP of probes: who may ask, who is asked, and what must not get in."""

import threading
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pktmirror.cli.program import app
from pktmirror.desired import SessionFigures
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally
from pktmirror.model.probe import ProbeRequest, ProbeSent, is_token, probe_key
from pktmirror.model.refusal import Refusal
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane


def post(plane: Plane, path: str, service: str = "pktmirror") -> Any:
    return plane.own_answer(path, service=service, method="POST")


def ask(plane: Plane, session_id: str, within_s: float = 5) -> dict[str, Any]:
    answer = post(plane, f"sessions/{session_id}/probes?within_s={within_s}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def asked_of(plane: Plane, host: str = HOST, wait_s: float = 0) -> list[ProbeRequest]:
    answer = plane.agent("GET", f"agents/{host}/probes", params={"wait_s": wait_s})
    return msgspec.json.decode(answer.content, type=list[ProbeRequest]) if answer.status_code == 200 else []


def tell(plane: Plane, *answers: object, host: str = HOST) -> int:
    body = msgspec.json.encode(answers)
    return plane.agent("POST", f"agents/{host}/probes", content=body).status_code


def outcome(plane: Plane, asked: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = plane.own(f"probes/{asked['probe_id']}")["outcome"]
    return known


@pytest.fixture
def session_id(make: Maker) -> str:
    return str(make.session()["TrafficMirrorSessionId"])


def test_a_probe_goes_from_the_question_to_the_agent_and_comes_back_from_a_monitor(
    plane: Plane, session_id: str
) -> None:
    asked = ask(plane, session_id)
    assert asked["outcome"] == {"type": "waiting", "waits_for": "agent"}
    [request] = asked_of(plane)
    assert (request.probe_id, request.session_id) == (asked["probe_id"], session_id)
    token = bytes.fromhex(request.token)
    assert is_token(probe_key(plane.token), token)
    assert request.token not in str(asked), "whoever asks needs not know the nonce"
    assert tell(plane, ProbeSent(probe_id=request.probe_id, sent_at_ns=1_000_000, clock="c")) == 204
    assert asked_of(plane) == []
    assert outcome(plane, asked)["type"] == "sent, arrival unknown"
    arrival = {
        "token": request.token,
        "vni": 7,
        "outer_source": "10.0.0.1",
        "outer_destination": "10.0.0.2",
        "arrived_at_ns": 2_500_000,
    }
    report = {"listening": "0.0.0.0:4789", "probes": [arrival], "probes_received": 1, "clock": "c"}
    assert plane.agent("POST", "monitors/m1/report", json=report).status_code == 204
    assert outcome(plane, asked) == {
        "type": "arrived",
        "monitor_id": "m1",
        "outer_source": "10.0.0.1",
        "outer_destination": "10.0.0.2",
        "milliseconds": 1.5,
        "one_clock": True,
    }
    [monitor] = plane.own("status")["monitors"]
    assert monitor["probes_received"] == 1


def test_the_long_poll_of_the_agent_ends_with_the_question_and_that_of_another_does_not(
    plane: Plane, session_id: str
) -> None:
    got: dict[str, list[ProbeRequest]] = {}

    def follow(host: str, wait_s: float) -> None:
        got[host] = asked_of(plane, host, wait_s)

    threads = [threading.Thread(target=follow, args=each) for each in ((HOST, 20.0), ("host-2", 1.0))]
    for thread in threads:
        thread.start()
    threads[0].join(timeout=0.2)
    assert threads[0].is_alive(), "nothing is asked for yet"
    asked = ask(plane, session_id)
    threads[0].join()
    assert [request.probe_id for request in got[HOST]] == [asked["probe_id"]]
    threads[1].join()
    assert got["host-2"] == []
    tell(plane, ProbeSent(probe_id=asked["probe_id"], sent_at_ns=1, clock=""))


def test_a_question_changes_no_desired_state(plane: Plane, session_id: str) -> None:
    before = plane.desired()
    asked = ask(plane, session_id, within_s=0.1)
    assert plane.desired() == before
    assert asked["outcome"]["type"] == "waiting"


def test_a_session_to_a_load_balancer_is_not_probed(plane: Plane, make: Maker) -> None:
    session = make.session(TrafficMirrorTargetId=make.nlb_target())["TrafficMirrorSessionId"]
    asked = ask(plane, session)
    assert asked["probe_id"] is None
    assert asked["outcome"] == {"type": "not sent", "reason": "target type not yet deliverable"}


def test_the_stages_of_probes_are_no_loss_and_no_copy_of_the_session(plane: Plane, session_id: str) -> None:
    stages = {Stage.PROBE_SENT: Tally(3, 309), Stage.PROBE_LOST: Tally(1, 103)}
    figures = SessionFigures(session_id=session_id, directions={Direction.INGRESS: SessionLedger({}, stages)})
    plane.report(*plane.reported.values(), sessions=(figures,))
    [row] = [row for row in plane.own("ledger")["sessions"] if row["session_id"] == session_id]
    assert row["sent"] == {"packets": 0, "bytes": 0}
    assert row["directions"]["ingress"]["lost_in_hop_packets"] == 0
    assert row["directions"]["ingress"]["stages"]["probes sent"] == {"packets": 3, "bytes": 309}
    plane.report(*plane.reported.values())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("sessions/tms-0123456789abcdef0/probes", "InvalidTrafficMirrorSessionId.NotFound"),
        ("sessions/SESSION/probes?within_s=0", "InvalidParameterValue"),
        ("sessions/SESSION/probes?within_s=61", "InvalidParameterValue"),
        ("sessions/SESSION/probes?within_s=soon", "InvalidParameterValue"),
        ("sessions/.SESSION/probes", "InvalidParameterValue"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(plane: Plane, session_id: str, path: str, code: str) -> None:
    answer = post(plane, path.replace("SESSION", session_id))
    assert answer.json()["code"] == code


def test_a_probe_that_nobody_asked_for_is_not_known(plane: Plane) -> None:
    answer = plane.own_answer("probes/0123456789abcdef")
    assert (answer.status_code, answer.json()["code"]) == (404, "InvalidProbeId.NotFound")


def test_asking_needs_a_signature_and_answering_a_token(plane: Plane, session_id: str) -> None:
    assert plane.agent("POST", f"sessions/{session_id}/probes").json()["code"] != "", "an agent's token opens it not"
    assert plane.agent("POST", f"sessions/{session_id}/probes").status_code in (400, 401, 403)
    assert post(plane, f"sessions/{session_id}/probes", service="ec2").status_code in (400, 401, 403)
    assert plane.agent("GET", "probes/x").status_code in (400, 401, 403)
    nobody = {"authorization": "Bearer nonsense"}
    assert plane.agent("GET", f"agents/{HOST}/probes", headers=nobody).status_code == 401
    assert plane.agent("POST", f"agents/{HOST}/probes", headers=nobody, content=b"[]").status_code == 401


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"probe_id":"x"}]', b'[{"type":"sent","probe_id":"x"}]'])
def test_an_answer_that_cannot_be_read_is_refused(plane: Plane, body: bytes) -> None:
    answer = plane.agent("POST", f"agents/{HOST}/probes", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameterValue")


def test_a_monitor_that_tells_of_a_probe_before_its_time_is_refused(plane: Plane) -> None:
    arrival = {
        "token": "00",
        "vni": 7,
        "outer_source": "10.0.0.1",
        "outer_destination": "10.0.0.2",
        "arrived_at_ns": -1,
    }
    answer = plane.agent("POST", "monitors/m1/report", json={"listening": "x:4789", "probes": [arrival]})
    assert answer.json()["code"] == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "found: neither a session nor --all"),
        (("SESSION", "--all"), "found: both"),
        (("tms-0123456789abcdef0",), "There is no session tms-0123456789abcdef0."),
    ],
)
def test_the_command_refuses_what_names_no_session_or_too_much(
    plane: Plane, session_id: str, words: tuple[str, ...], said: str
) -> None:
    asked = ["verify", *(word.replace("SESSION", session_id) for word in words)]
    result = CliRunner().invoke(app, asked, env={"PKTMIRROR_STATE": str(plane.state)})
    assert isinstance(result.exception, Refusal)
    assert said.lower() in str(result.exception).lower()
    assert asked_of(plane) == []

"""`pktmirror ledger`, `status`, `interfaces` and `explain` against a control plane in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from pktmirror.cli.program import app
from pktmirror.desired import InterfaceFigures, SessionFigures, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Stage, Tally
from pktmirror.model.refusal import Refusal
from tests.contract.conftest import NLB, Maker
from tests.contract.plane import HOST, Plane, found

SSH = ("ingress", "tcp", "10.0.0.6:40000", "10.0.0.48:22")
AWS_IN_THE_SHELL = {"AWS_ACCESS_KEY_ID": "AKIAOFAWSITSELF", "AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "work"}

PROGRAM = "from pktmirror.cli import main; main()"


class Program:
    """The commands, asked with a state directory, in a shell that is set up for AWS itself."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def run(self, *words: str, env: dict[str, str | None] | None = None) -> str:
        """What it prints; raises the Refusal that it ends with."""
        given = {**AWS_IN_THE_SHELL, "PKTMIRROR_STATE": str(self._state), "COLUMNS": "250", **(env or {})}
        result = CliRunner().invoke(app, list(words), env=given)
        if isinstance(result.exception, Refusal):
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture(scope="module")
def program(plane: Plane) -> Program:
    return Program(plane.state)


@pytest.fixture(scope="module")
def world(plane: Plane, ec2: Any) -> dict[str, str]:
    """A web server that is mirrored to a collector by session 10, and by session 20 to a load balancer."""
    make = Maker(plane, ec2)
    web, collector, nic = plane.find(
        found("web", "10.0.0.48"), found("collector", "10.0.0.9"), found("nic", not_mirrorable="it is a NIC")
    )
    ssh, udp = make.filter(), make.filter()
    rule = make.rule(ssh, 100, Protocol=6, DestinationPortRange={"FromPort": 22, "ToPort": 22})
    make.rule(udp, 5, Protocol=17)
    first = make.session(
        NetworkInterfaceId=web,
        TrafficMirrorTargetId=make.target(NetworkInterfaceId=collector),
        TrafficMirrorFilterId=ssh,
        SessionNumber=10,
        VirtualNetworkId=7,
    )
    second = make.session(
        NetworkInterfaceId=web, TrafficMirrorTargetId=make.nlb_target(), TrafficMirrorFilterId=udp, SessionNumber=20
    )
    return {
        "web": web,
        "collector": collector,
        "nic": nic,
        "target": first["TrafficMirrorTargetId"],
        "rule": rule["TrafficMirrorFilterRuleId"],
        "first": first["TrafficMirrorSessionId"],
        "second": second["TrafficMirrorSessionId"],
    }


@pytest.fixture
def reported(plane: Plane, world: dict[str, str]) -> None:
    """The agent and the monitor have told their figures: five taken, sent, received and written."""
    tally = Tally(5, 500)
    session = SessionLedger({Verdict.TAKEN: tally, Verdict.NO_RULE_MATCHED: Tally(2, 200)}, {Stage.SENT: tally})
    outcomes = {InterfaceOutcome.TAKEN: tally, InterfaceOutcome.NOT_TAKEN: Tally(2, 200)}
    plane.report(
        *plane.reported.values(),
        statuses=(SessionStatus(session_id=world["first"]),),
        sessions=(SessionFigures(session_id=world["first"], directions={Direction.INGRESS: session}),),
        mirrored_interfaces=(
            InterfaceFigures(key="netns:web/eth0", directions={Direction.INGRESS: InterfaceLedger(outcomes)}),
        ),
        problems=("web0: something the agent could not do",),
    )
    received(plane, 5)


def received(plane: Plane, packets: int, written: int | None = None) -> None:
    """The monitor's report of what came of the session's stream, all of it written unless it says otherwise.

    Fewer received than before would be a monitor that was restarted.
    """
    kept = packets if written is None else written
    stream = {
        "vni": 7,
        "outer_source": "10.0.0.48",
        "outer_destination": "10.0.0.9",
        "received_packets": packets,
        "received_bytes": packets * 100,
        "written_packets": kept,
        "written_bytes": kept * 100,
    }
    document = {"listening": "10.0.0.9:4789", "streams": [stream], "refused": {"too short": 1}}
    answer = plane.agent("POST", "monitors/monitor-1/report", content=msgspec.json.encode(document))
    assert answer.status_code == 204, answer.text


def test_the_ledger_of_a_session_adds_up_from_the_offer_to_the_file(
    program: Program, world: dict[str, str], reported: None
):
    told = program.json("ledger", world["first"])
    assert told["adds_up"] is True
    [session] = told["sessions"]
    assert session["directions"]["ingress"]["offered"] == {"packets": 7, "bytes": 700}
    assert session["directions"]["egress"]["offered"] == {"packets": 0, "bytes": 0}
    assert session["collector"]["written"] == {"packets": 5, "bytes": 500}
    [interface] = told["interfaces"]
    assert interface["interface_id"] == world["web"]
    shown = program.run("ledger", world["first"])
    assert shown.count("✓ adds up") == 2
    assert world["second"] not in shown


def test_the_ledger_shows_the_rules_when_they_are_asked_for(
    program: Program, ec2: Any, world: dict[str, str], reported: None
):
    [session] = program.json("ledger", world["first"])["sessions"]
    assert isinstance(session["rules"], list)
    assert "older version" in session["rules_lack"]
    assert "what its rules matched" in program.run("ledger", world["first"], "--rules")
    assert "what its rules matched" not in program.run("ledger", world["first"])


def test_the_ledger_says_where_a_packet_is_missing(
    program: Program, plane: Plane, world: dict[str, str], reported: None
):
    received(plane, 5, written=4)
    told = program.json("ledger")
    assert told["adds_up"] is False
    by_id = {session["session_id"]: session for session in told["sessions"]}
    [difference] = by_id[world["first"]]["differences"]
    assert difference.startswith("1 packet received and not written")
    assert by_id[world["second"]]["adds_up"] is True
    assert f"✗ {difference}" in program.run("ledger")


def test_a_session_that_delivers_nothing_says_why_in_ledger_and_status(
    program: Program, world: dict[str, str], reported: None
):
    assert "target type not yet deliverable" in program.run("ledger", world["second"])
    problems = {session["session_id"]: session["problem"] for session in program.json("status")["sessions"]}
    assert problems == {world["first"]: None, world["second"]: "target type not yet deliverable"}


def test_a_session_that_is_not_there_is_refused(program: Program, world: dict[str, str]):
    with pytest.raises(Refusal, match="There is no session tms-9") as refusal:
        program.run("ledger", "tms-9")
    assert world["first"] in str(refusal.value)


def test_the_status_shows_hosts_monitors_and_what_was_refused(
    program: Program, plane: Plane, world: dict[str, str], reported: None
):
    assert plane.agent("GET", f"agents/{HOST}/desired", headers={}).status_code == 401
    told = program.json("status")
    [host] = told["hosts"]
    assert (host["host_id"], host["applied_revision"]) == (HOST, 0)
    assert told["refused_requests"]["AuthFailure"] >= 1
    shown = program.run("status")
    for said in (
        f"0 of {told['revision']}",
        "! host-1: web0: something the agent could not do",
        "10.0.0.9:4789",
        "too short 1",
        "mirroring",
    ):
        assert said in shown


def test_the_interfaces_are_listed_with_what_they_are_to_the_mirror(program: Program, world: dict[str, str]):
    by_id = {interface["interface_id"]: interface for interface in program.json("interfaces")}
    web, collector, nic = (by_id[world[name]] for name in ("web", "collector", "nic"))
    assert sorted(web["sessions"]) == sorted([world["first"], world["second"]])
    assert (web["targets"], web["not_mirrorable"]) == ([], None)
    assert collector["targets"] == [world["target"]]
    assert nic["not_mirrorable"] == "it is a NIC"
    shown = program.run("interfaces")
    for said in ("source of 2 sessions", "target", "no: it is a NIC"):
        assert said in shown


@pytest.mark.parametrize("name", ["web", "10.0.0.48", None])
def test_a_login_is_taken_by_the_session_whose_rule_names_its_port(
    program: Program, world: dict[str, str], reported: None, name: str | None
):
    told = program.json("explain", name or world["web"], *SSH)
    assert told["interface_id"] == world["web"]
    assert (told["taken_by"], told["mirrored"]) == (world["first"], True)
    verdicts = [(one["number"], one["verdict"], one["rule_id"]) for one in told["sessions"]]
    assert verdicts == [(10, "taken", world["rule"]), (20, None, None)]
    [note] = told["notes"]
    assert note.startswith(f"the agent of {HOST} has applied revision 0")


def test_the_explanation_is_told_session_by_session(program: Program, world: dict[str, str], reported: None):
    shown = program.run("explain", "web", *SSH)
    assert f"taken: rule 100 ({world['rule']}), accept tcp" in shown
    assert "not asked: a session before it takes the packet" in shown
    assert f"Mirrored by {world['first']}." in shown


def test_a_packet_that_is_taken_for_a_load_balancer_does_not_arrive(
    program: Program, world: dict[str, str], reported: None
):
    told = program.json("explain", "web", "ingress", "udp", "10.0.0.6:40000", "10.0.0.48:9")
    assert [one["verdict"] for one in told["sessions"]] == ["no rule matched", "taken"]
    assert (told["taken_by"], told["mirrored"]) == (world["second"], False)
    assert told["conclusion"].endswith("does not arrive: target type not yet deliverable.")


@pytest.mark.parametrize(
    ("words", "conclusion"),
    [
        pytest.param(("ingress", "tcp", "10.0.0.6:40000", "10.0.0.48:80"), "no session takes it", id="another port"),
        pytest.param(("egress", "tcp", "10.0.0.48:22", "10.0.0.6:4"), "no session takes it", id="the way back"),
        pytest.param(("ingress", "udp", "10.0.0.6:67", "10.0.0.48:68"), "Never mirrored", id="dhcp"),
        pytest.param(
            ("ingress", "udp", "10.0.0.2:53", "10.0.0.48:5"), "no session takes it", id="an answer of the resolver"
        ),
        pytest.param(
            ("ingress", "tcp", "10.0.0.6", "10.0.0.48", "--fragment"), "no session takes it", id="a later fragment"
        ),
    ],
)
def test_what_must_not_match_does_not(
    program: Program, world: dict[str, str], reported: None, words: tuple[str, ...], conclusion: str
):
    told = program.json("explain", "web", *words)
    assert conclusion in told["conclusion"]
    assert (told["taken_by"], told["mirrored"]) == (None, False)


def test_an_interface_without_a_session_says_so(program: Program, world: dict[str, str]):
    told = program.json("explain", world["nic"], *SSH)
    assert told["conclusion"] == "Not mirrored: the interface has no session."
    assert f"{world['nic']} cannot be mirrored: it is a NIC" in told["notes"]


def test_the_shells_own_endpoint_serves_as_well(program: Program, plane: Plane, world: dict[str, str]):
    shell = {**plane.environment, "PKTMIRROR_STATE": None}
    assert world["web"] in program.run("interfaces", env=shell)


def test_a_key_that_is_not_known_is_refused_with_the_way_out(program: Program, plane: Plane, world: dict[str, str]):
    shell = {**plane.environment, "PKTMIRROR_STATE": None}
    for changed in ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, {"AWS_SECRET_ACCESS_KEY": "wrong"}):
        with pytest.raises(Refusal, match="refuses the access key") as refusal:
            program.run("status", env=shell | changed)
        assert "pktmirror env" in refusal.value.do


def test_a_control_plane_that_does_not_answer_is_named(program: Program, plane: Plane):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        shell = {**plane.environment, "PKTMIRROR_STATE": None, "AWS_ENDPOINT_URL": url}
        with pytest.raises(Refusal, match=f"The control plane at {url} does not answer"):
            program.run("status", env=shell)
        with pytest.raises(Refusal, match="does not answer"):
            program.run("explain", "web", *SSH, env=shell)


def test_somebody_else_at_the_address_is_not_taken_for_a_control_plane(program: Program, plane: Plane):
    shell = {**plane.environment, "PKTMIRROR_STATE": None, "AWS_ENDPOINT_URL": f"{plane.url}/elsewhere"}
    with pytest.raises(Refusal, match="HTTP 404"):
        program.run("status", env=shell)


def test_before_the_first_start_there_is_nothing_to_ask(tmp_path: Path):
    with pytest.raises(Refusal, match="pktmirror serve"):
        Program(tmp_path).run("status")


def test_a_load_balancer_target_is_no_interface(program: Program, world: dict[str, str]):
    listed = [target for interface in program.json("interfaces") for target in interface["targets"]]
    assert NLB not in listed
    assert listed == [world["target"]]


def test_a_watched_ledger_follows_the_figures_until_it_is_interrupted(
    plane: Plane, world: dict[str, str], reported: None
):
    listening = ["env", "--default-signal=INT"]  # a job in the background is started with it ignored
    words = [*listening, sys.executable, "-c", PROGRAM, "ledger", world["first"], "--watch", "--json"]
    environment = {**os.environ, "PKTMIRROR_STATE": str(plane.state), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as watching:
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["adds_up"] is True
            received(plane, 5, written=4)
            assert any(not json.loads(line)["adds_up"] for line in watching.stdout)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(timeout=10) == 0
        finally:
            watching.kill()


def test_a_refusal_is_one_line_on_stderr_and_exit_status_1(tmp_path: Path):
    words = [sys.executable, "-c", PROGRAM, "status", "--state", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"pktmirror: There are no credentials in {tmp_path}.")
    assert "Next: " in line


def test_a_host_is_forgotten_only_when_it_is_known_and_its_agent_is_gone(program: Program, world: dict[str, str]):
    with pytest.raises(Refusal, match="nowhere"):
        program.run("forget", "nowhere")
    with pytest.raises(Refusal, match="IncorrectState"):
        program.run("forget", HOST)
    assert HOST in {host["host_id"] for host in program.json("status")["hosts"]}


@pytest.mark.parametrize("name", ["a/b", "", "..", "-x/", "a b"])
def test_what_can_be_no_name_is_not_forgotten_but_refused_as_such(program: Program, name: str) -> None:
    with pytest.raises(Refusal, match="neither the id of a host nor of an interface"):
        program.run("forget", "--", name)


@pytest.mark.parametrize(
    "quota",
    ["rules=3", "rules_per_filter=x", "rules_per_filter=10001", "sessions_per_interface=65", "rules_per_filter"],
)
def test_a_quota_that_is_none_is_refused_by_name(program: Program, quota: str, tmp_path: Path):
    with pytest.raises(Refusal, match="quota"):
        program.run("serve", "--listen", "127.0.0.1:0", "--state", str(tmp_path), "--quota", quota)
    assert not list(tmp_path.iterdir())

"""`pktmirror explain` for captures and live traces, against a control plane in a process of its own.

The test is the agent here, by its HTTP side; tests/lab has a real one.
"""

import json
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pktmirror.desired import PathFacts, SessionStatus
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction, PortRange
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.model.refusal import Refusal
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Packet, Unreadable
from pktmirror.tracing import Offered, Selection, TraceBatch, TracedPacket, TraceOrder
from tests.captures.published import published, write_capture, write_packets
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, found, wait_until
from tests.contract.test_cli_questions import Program
from tests.unit.packet.frames import IPV4, ipv4, tcp

TCP = 6
WEB_MAC, CLIENT_MAC = "02:00:00:00:00:03", "02:00:00:00:00:06"
PATH = PathFacts(
    address="10.0.0.9",
    port=4789,
    table=100,
    device="up0",
    next_hop="10.0.0.9",
    source="10.0.0.48",
    route_mtu=1500,
    neighbour="02:00:00:00:00:09",
)


@pytest.fixture(scope="module")
def program(plane: Plane) -> Program:
    return Program(plane.state)


@pytest.fixture(scope="module")
def world(plane: Plane, ec2: Any) -> dict[str, str]:
    """A web server whose logins are mirrored to a collector, and an interface without a session."""
    make = Maker(plane, ec2)
    web, collector, idle = plane.find(
        found("web", "10.0.0.48"), found("collector", "10.0.0.9"), found("idle", "10.0.0.77")
    )
    filter_id = make.filter()
    rule = make.rule(filter_id, 100, Protocol=TCP, DestinationPortRange={"FromPort": 22, "ToPort": 22})
    session = make.session(
        NetworkInterfaceId=web,
        TrafficMirrorTargetId=make.target(NetworkInterfaceId=collector),
        TrafficMirrorFilterId=filter_id,
        SessionNumber=10,
        VirtualNetworkId=7,
    )
    session_id = session["TrafficMirrorSessionId"]
    report(plane, session_id)
    return {"web": web, "idle": idle, "session": session_id, "rule": rule["TrafficMirrorFilterRuleId"]}


@pytest.fixture(autouse=True)
def _the_agent_is_heard_of(plane: Plane, world: dict[str, str]) -> None:
    """Each test begins with a report: the agent of one that is silent for long is not asked."""
    report(plane, world["session"])


def report(plane: Plane, session_id: str, path: PathFacts = PATH, problem: str | None = None) -> None:
    plane.report(*plane.reported.values(), statuses=(SessionStatus(session_id=session_id, problem=problem, path=path),))


def frame(payload: bytes, source: str = CLIENT_MAC, destination: str = WEB_MAC) -> bytes:
    macs = bytes.fromhex((destination + source).replace(":", ""))
    return macs + struct.pack("!H", IPV4) + payload


LOGIN, ANSWER = frame(ipv4(tcp(40000, 22), TCP)), frame(ipv4(tcp(22, 40000), TCP), WEB_MAC, CLIENT_MAC)
WEB = frame(ipv4(tcp(40000, 80), TCP))


def test_a_described_packet_s_copy_is_followed_to_the_target(
    program: Program, plane: Plane, world: dict[str, str]
) -> None:
    words = ("explain", "web", "ingress", "tcp", "10.0.0.6:40000", "10.0.0.48:22")
    told = program.json(*words)
    steps = {step["step"]: (step["state"], step["do"] is None) for step in told["path"][world["session"]]}
    assert steps["route"] == steps["neighbour"] == steps["MTU"] == ("good", True)
    assert steps["listener"] == ("unknown", False)
    silent = msgspec.structs.replace(PATH, neighbour=None, neighbour_failed=True, listens=False)
    report(plane, world["session"], silent, problem="the next hop 10.0.0.9 does not answer ARP")
    try:
        shown = " ".join(program.run(*words).split())
        assert "✗ neighbour 10.0.0.9 does not answer ARP at up0 Next: see that 10.0.0.9 is up" in shown
        assert "✗ listener nothing is bound to 10.0.0.9, UDP port 4789 Next: start a collector" in shown
    finally:
        report(plane, world["session"])
    unmatched = program.json("explain", "web", "ingress", "tcp", "10.0.0.6:40000", "10.0.0.48:23")
    assert unmatched["path"] == {}, "there is no copy"


def test_each_packet_of_a_capture_is_explained_with_a_summary_by_answer(
    program: Program, world: dict[str, str], tmp_path: Path
) -> None:
    file = write_capture(tmp_path / "some.pcapng", [LOGIN, WEB, ANSWER, LOGIN])
    shown = program.run("explain", "web", "--capture", str(file))
    lines = [line for line in shown.splitlines() if line.startswith("#")]
    mirrored = f"mirrored by {world['session']} (number 10, rule 100)"
    assert [line.split(": ", 1)[1] for line in lines] == [
        mirrored,
        f"not mirrored: {world['session']}: no rule matched",
        f"not mirrored: {world['session']}: no rule matched",
        mirrored,
    ]
    assert [line.split()[3] for line in lines] == ["ingress", "ingress", "egress", "ingress"]
    assert "4 packets of the file" in shown
    assert f"the way of the copies of {world['session']}" in shown

    *packets, summary = [
        json.loads(line) for line in program.run("explain", "web", "--capture", str(file), "--json").splitlines()
    ]
    assert [packet["mirrored"] for packet in packets] == [True, False, False, True]
    assert packets[0]["sessions"][0]["rule_id"] == world["rule"]
    assert (packets[0]["copied_bytes"], packets[1]["copied_bytes"]) == (len(LOGIN), None)
    assert (summary["packets"], summary["unreadable"]) == (4, None)
    assert {line["answer"]: line["packets"] for line in summary["summary"]} == {
        mirrored: 2,
        f"not mirrored: {world['session']}: no rule matched": 2,
    }
    only = program.run("explain", "web", "--capture", str(file), "--summary")
    assert "#1 " not in only
    assert "4 packets of the file" in only


def test_a_packet_longer_than_the_snap_length_is_cut_to_the_target_as_it_was_sent(
    program: Program, world: dict[str, str], tmp_path: Path
) -> None:
    file = write_packets(tmp_path / "cut.pcapng", [Packet(0, None, LOGIN[:60], 1514)])
    packet, summary = [
        json.loads(line) for line in program.run("explain", "web", "--capture", str(file), "--json").splitlines()
    ]
    assert (packet["bytes"], packet["captured_bytes"], packet["copied_bytes"]) == (1514, len(LOGIN[:60]), 1464)
    [mtu] = [step for step in summary["path"][world["session"]] if step["step"] == "MTU"]
    assert (mtu["state"], "this one of 1514 is cut" in mtu["found"]) == ("limits", True)


def test_the_direction_can_be_said_for_a_capture_of_other_machines(
    program: Program, world: dict[str, str], tmp_path: Path
) -> None:
    file = write_capture(tmp_path / "other.pcapng", [frame(ipv4(tcp(40000, 22), TCP), CLIENT_MAC, CLIENT_MAC)])
    elsewhere = program.run("explain", "web", "--capture", str(file))
    assert "not for this interface" in elsewhere
    said = program.run("explain", "web", "--capture", str(file), "--direction", "ingress")
    assert "mirrored by" in said


@pytest.mark.parametrize("capture", published(), ids=lambda path: path.name)
def test_every_published_capture_is_explained_to_its_last_packet(
    program: Program, world: dict[str, str], capture: Path
) -> None:
    words = ("explain", "web", "--capture", str(capture), "--direction", "ingress", "--summary", "--json")
    blocks, torn = 0, False
    try:
        for block in pcapng.read(capture.read_bytes()):
            blocks += isinstance(block, Packet)
    except Unreadable:
        torn = True
    if torn:
        with pytest.raises(Refusal, match=f"{blocks} packets before that were explained"):
            program.run(*words)
        return
    summary = json.loads(program.run(*words).splitlines()[-1])
    assert summary["unreadable"] is None
    assert summary["packets"] == sum(line["packets"] for line in summary["summary"]) == blocks


def test_a_file_that_stops_being_a_capture_is_explained_so_far_and_then_refused(
    program: Program, world: dict[str, str], tmp_path: Path
) -> None:
    whole = write_capture(tmp_path / "whole.pcapng", [LOGIN, WEB]).read_bytes()
    (tmp_path / "torn.pcapng").write_bytes(whole[:-10])
    with pytest.raises(Refusal, match="cannot be read to its end") as refused:
        program.run("explain", "web", "--capture", str(tmp_path / "torn.pcapng"))
    assert "1 packets before that were explained" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no capture at all", bytes(100)], ids=["nothing", "text", "zeros"])
def test_what_is_no_capture_is_refused(program: Program, world: dict[str, str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "none").write_bytes(content)
    with pytest.raises(Refusal, match="cannot be read to its end"):
        program.run("explain", "web", "--capture", str(tmp_path / "none"))


def test_a_file_that_is_not_there_and_a_directory_are_refused(
    program: Program, world: dict[str, str], tmp_path: Path
) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(Refusal, match="cannot be read"):
            program.run("explain", "web", "--capture", str(path))


@pytest.mark.parametrize(
    "words",
    [
        ("--capture", "x", "--live"),
        ("ingress", "tcp", "10.0.0.6:1", "10.0.0.48:2", "--live"),
        ("ingress", "--capture", "x"),
        ("--summary", "--live"),
        ("--protocol", "tcp", "--capture", "x"),
        ("ingress", "tcp", "10.0.0.6:1", "10.0.0.48:2", "--direction", "ingress"),
    ],
)
def test_two_questions_at_once_are_refused(program: Program, words: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match="One question at a time"):
        program.run("explain", "web", *words)


@pytest.mark.parametrize("words", [(), ("ingress",), ("ingress", "tcp", "10.0.0.6:1")])
def test_half_a_packet_is_refused(program: Program, world: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(Refusal, match="not described to the end"):
        program.run("explain", "web", *words)


# --- live


def packet(port: int, **changed: Any) -> TracedPacket:
    fields: dict[str, Any] = {
        "time_ns": 1_700_000_000_000_000_000,
        "direction": Direction.INGRESS,
        "bytes": 54,
        "packets": 1,
        "outcome": InterfaceOutcome.NOT_TAKEN,
        "protocol": TCP,
        "source": "10.0.0.6",
        "destination": "10.0.0.48",
        "source_port": 40000,
        "destination_port": port,
    }
    return TracedPacket(**{**fields, **changed})


@contextmanager
def agent(plane: Plane, tells: Callable[[TraceOrder], list[TraceBatch]]) -> Iterator[list[TraceOrder]]:
    """An agent that answers the next order with these batches; the orders that it got."""
    orders: list[TraceOrder] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            answer = plane.agent("GET", f"agents/{HOST}/trace", params={"wait_s": 1})
            if answer.status_code == 200:
                orders.append(msgspec.json.decode(answer.content, type=TraceOrder))
                for batch in tells(orders[-1]):
                    plane.agent("POST", f"agents/{HOST}/trace", content=msgspec.json.encode(batch))
                return

    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve)
        try:
            yield orders
        finally:
            stop.set()
            serving.result(timeout=10)


def test_a_live_trace_goes_to_the_interface_s_host_and_comes_back_with_rules(
    program: Program, plane: Plane, world: dict[str, str]
) -> None:
    revision = plane.own("status")["revision"]

    def tells(order: TraceOrder) -> list[TraceBatch]:
        taken = packet(
            22,
            revision=revision,
            outcome=InterfaceOutcome.TAKEN,
            offers=(Offered(world["session"], Verdict.TAKEN),),
            taken_by=world["session"],
            stage=Stage.SENT.value,
            copies={Stage.SENT.value: 1},
            copied_bytes=54,
        )
        other = packet(80, revision=revision, offers=(Offered(world["session"], Verdict.NO_RULE_MATCHED),))
        end = TraceBatch(trace_id=order.trace_id, packets=(other,), skipped=3, lost=1, ended="that was all")
        return [TraceBatch(trace_id=order.trace_id, packets=(taken,)), end]

    with agent(plane, tells) as orders:
        shown = program.run(
            *("explain", "web", "--live", "--count", "5", "--seconds", "3"),
            *("--direction", "ingress", "--protocol", "tcp", "--source", "10.0.0.0/24", "--destination", ":1-1024"),
        )
    [order] = orders
    assert (order.key, order.packets_max, order.seconds) == ("netns:web/eth0", 5, 3.0)
    assert order.selection == Selection(
        direction=Direction.INGRESS, protocol=TCP, source="10.0.0.0/24", destination_ports=PortRange(1, 1024)
    )
    told = " ".join(shown.split())
    for said in (
        f"taken by {world['session']}, 1 copy sent, 54 B",
        f"#10 {world['session']}: taken: rule 100 ({world['rule']})",
        "2 packets traced, 1 taken by a session; that was all.",
        "3 more were asked for, over the number or the rate of a trace",
        "1 records were lost for want of room",
        f"the way of the copies of {world['session']}",
    ):
        assert said in told, shown
    assert "DISAGREE" not in shown


def test_a_stage_of_a_later_version_comes_from_the_agent_to_the_asker_in_its_own_words(
    program: Program, plane: Plane, world: dict[str, str]
) -> None:
    taken: dict[str, Any] = {
        "revision": plane.own("status")["revision"],
        "outcome": InterfaceOutcome.TAKEN,
        "offers": (Offered(world["session"], Verdict.TAKEN),),
        "taken_by": world["session"],
    }
    not_copied = packet(22, **taken, stage="new in the next version")
    lost = packet(22, **taken, stage=Stage.SENT.value, copies={"lost by what is new": 1})
    with agent(plane, lambda order: [TraceBatch(trace_id=order.trace_id, packets=(not_copied, lost), ended="done")]):
        told = " ".join(program.run("explain", "web", "--live").split())
    assert f"taken by {world['session']}, and not copied: new in the next version" in told
    assert f"taken by {world['session']}, 1 copy lost: lost by what is new" in told


def test_a_disagreement_of_kernel_and_model_is_loud(program: Program, plane: Plane, world: dict[str, str]) -> None:
    revision = plane.own("status")["revision"]
    wrong = packet(22, revision=revision, offers=(Offered(world["session"], Verdict.NO_RULE_MATCHED),))
    with (
        agent(plane, lambda order: [TraceBatch(trace_id=order.trace_id, packets=(wrong,), ended="done")]),
        pytest.raises(Refusal, match="The kernel and the model disagree about 1 of 1 packets") as refused,
    ):
        program.run("explain", "web", "--live", "--json")
    assert f"{world['session']}: taken" in str(refused.value)


def test_an_agent_that_cannot_trace_says_why(program: Program, plane: Plane, world: dict[str, str]) -> None:
    why = "nothing is mirrored at netns:web/eth0 on this host now"
    with agent(plane, lambda order: [TraceBatch(trace_id=order.trace_id, ended=why)]):
        shown = program.run("explain", "web", "--live")
    assert f"0 packets traced, 0 taken by a session; {why}." in shown


def test_an_interface_without_a_session_cannot_be_watched(program: Program, world: dict[str, str]) -> None:
    with pytest.raises(Refusal, match=f"Nothing looks at the packets of {world['idle']}"):
        program.run("explain", "idle", "--live")


@pytest.mark.parametrize(
    "options",
    [("--protocol", "smtp"), ("--source", "nowhere"), ("--destination", "10.0.0.6:70000"), ("--source", "10.0.0.6/40")],
)
def test_packets_that_cannot_be_are_not_traced(
    program: Program, world: dict[str, str], options: tuple[str, ...]
) -> None:
    with pytest.raises(Refusal) as refused:
        program.run("explain", "web", "--live", *options)
    assert refused.value.do


WISH = {"interface_id": "eni-nowhere", "packets_max": 1, "seconds": 1}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(WISH, 404, "InvalidNetworkInterfaceID.NotFound", id="no interface"),
        pytest.param(WISH | {"packets_max": 0}, 400, "InvalidParameterValue", id="no packet"),
        pytest.param(WISH | {"packets_max": 10_001}, 400, "InvalidParameterValue", id="too many"),
        pytest.param(WISH | {"seconds": 601}, 400, "InvalidParameterValue", id="too long"),
        pytest.param(WISH | {"selection": {"source": "nowhere"}}, 400, "InvalidParameterValue", id="no network"),
        pytest.param(WISH | {"selection": {"port": 1}}, 400, "InvalidParameterValue", id="no such field"),
        pytest.param([], 400, "InvalidParameterValue", id="no wish"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(plane: Plane, body: Any, status: int, code: str) -> None:
    answer = plane.own_answer("traces", method="POST", body=json.dumps(body))
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_rights_are_those_of_the_other_private_operations(plane: Plane, world: dict[str, str]) -> None:
    wish = {"interface_id": world["web"], "packets_max": 1, "seconds": 1}
    unsigned, elsewhere = plane.agent("POST", "traces", content=json.dumps(wish)), plane.agent("GET", "status")
    assert (unsigned.status_code, unsigned.json()) == (elsewhere.status_code, elsewhere.json())
    assert unsigned.status_code >= 400, "the agents' token opens nothing of a user's"
    for_another = plane.own_answer("traces", service="ec2", method="POST", body=json.dumps(wish))
    assert for_another.status_code >= 400
    assert for_another.json() == plane.own_answer("status", service="ec2").json()
    for method in ("GET", "POST"):
        assert plane.agent(method, f"agents/{HOST}/trace", headers={}).status_code == 401
    assert plane.own_answer("traces/trace-0000000000000000").status_code == 404


def test_a_trace_that_is_stopped_is_wanted_no_longer(plane: Plane, world: dict[str, str]) -> None:
    wish = {"interface_id": world["web"], "packets_max": 1, "seconds": 60}
    trace_id = plane.own_answer("traces", method="POST", body=json.dumps(wish)).json()["trace_id"]
    batch = msgspec.json.encode(TraceBatch(trace_id=trace_id))
    assert plane.agent("POST", f"agents/{HOST}/trace", content=batch).json() == {"wanted": True}
    assert plane.own_answer(f"traces/{trace_id}", method="DELETE").status_code == 204
    assert plane.agent("POST", f"agents/{HOST}/trace", content=batch).json() == {"wanted": False}
    wait_until(
        lambda: plane.own(f"traces/{trace_id}?after=0")["ended"] == "stopped by whoever asked for it",
        within_s=5,
        else_say="it goes on",
    )


WITH_A_PACKET = msgspec.json.encode(TraceBatch(trace_id=f"trace-{0:016x}", packets=(packet(22, stage="sent"),)))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b'{"trace_id": "x"}', b'{"trace_id": "trace-0", "packets": 1}'),
        WITH_A_PACKET.replace(b'"stage":"sent"', b'"stage":7'),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(plane: Plane, body: bytes) -> None:
    assert plane.agent("POST", f"agents/{HOST}/trace", content=WITH_A_PACKET).status_code == 200
    assert plane.agent("POST", f"agents/{HOST}/trace", content=body).status_code == 400

"""`pktmirror verify`: a probe takes the way of copies, production knows nothing of it, and its ends are told apart."""

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pktmirror.agent import abi
from pktmirror.agent import probe as sender
from pktmirror.agent.apply import DataPlane
from pktmirror.cli.program import app
from pktmirror.kernel import netns
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Stage, Tally
from pktmirror.model.probe import ProbeNotSent, ProbeRequest, ProbeSent, is_token, new_token, probe_key
from pktmirror.packet import probe as wire
from pktmirror.packet.checksum import Check, checksums_of
from tests.contract.conftest import Maker
from tests.lab.arrivals import Tap
from tests.lab.line import WITHIN_S, Line, line
from tests.lab.mirror import Mirror, Session
from tests.lab.test_hops import break_hops
from tests.lab.test_interface_life import ip, say, session_parameters
from tests.lab.test_mirror_sessions import sent, udp
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
ARRIVED, NOT_SENT, UNKNOWN, NOT_SEEN = 0, 1, 3, 4
MARKED = b"pktmirror probe tms-"


def session_on(whole: Line, target: str = "monitor", **changed: Any) -> str:
    """A session of what web says to the client, to a target; once its agent mirrors it."""
    make = Maker(whole.plane, whole.plane.client())
    parameters = session_parameters(whole, "web") | changed
    if target != "monitor":
        parameters["TrafficMirrorTargetId"] = make.target(NetworkInterfaceId=whole.found(target)["interface_id"])
    session_id = str(make.session(**parameters)["TrafficMirrorSessionId"])
    whole.wait_for_problem(session_id, None)
    return session_id


def verify(whole: Line, *words: str) -> tuple[int, str]:
    """Exit status and output."""
    result = CliRunner().invoke(app, ["verify", *words], env={"PKTMIRROR_STATE": str(whole.plane.state)})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def verified(whole: Line, *words: str) -> Any:
    return json.loads(verify(whole, *words, "--json")[1])


@contextmanager
def unseen_by_production(whole: Line) -> Iterator[None]:
    """No interface of the source or of its peer, and no device of the host before them, sees a probe."""
    host = whole.lab.inside("host")
    taps = [Tap(host, host_device(name)) for name in ("web", "client")]
    places = [whole.lab.inside(name) for name in ("web", "client")]
    taps += [Tap(place) for place in places]
    try:
        yield
        for tap in taps:
            assert not [each for each in tap.read() if MARKED in each.frame]
    finally:
        for tap in taps:
            tap.close()
        for visitor in (host, *places):
            visitor.close()


def stages_of(row: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {
        (direction, stage): tally["packets"]
        for direction, figures_ in row["directions"].items()
        for stage, tally in figures_["stages"].items()
    }


def test_a_probe_arrives_and_nothing_of_production_has_moved(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:
        session_id = session_on(whole)
        say(whole, 5)
        whole.wait_until_collected(session_id, 5)
        before = whole.plane.own("ledger")
        with unseen_by_production(whole):
            status, said = verify(whole, session_id)
        assert status == ARRIVED, said
        assert re.fullmatch(rf"arrived after [0-9.]+ ms at {whole.lab.namespace('monitor')}\n", said)

        def counted() -> bool:
            return stages_of(whole.row(session_id))["ingress", "probes sent"] == 1

        wait_until(counted, WITHIN_S, lambda: str(whole.row(session_id)))
        after = whole.plane.own("ledger")
        [row], [row_before] = after["sessions"], before["sessions"]
        probes = row["directions"]["ingress"]["stages"].pop("probes sent")
        assert row_before["directions"]["ingress"]["stages"].pop("probes sent") == {"packets": 0, "bytes": 0}
        assert probes == {"packets": 1, "bytes": wire.FRAME_BYTES}
        assert after == before, "and no other figure of any session, stream or interface"
        [monitor] = whole.plane.own("status")["monitors"]
        assert (monitor["probes_received"], monitor["refused"], monitor["socket_queue_full"]) == (1, {}, 0)
        [host] = whole.plane.own("status")["hosts"]
        assert (host["stray_packets"], host["problems"]) == (0, [])
        whole.end("monitor")
        [capture] = (tmp_path / "captures").iterdir()
        assert MARKED not in capture.read_bytes(), "a probe is no mirrored packet"
        say(whole, 1)


def test_verify_as_json_names_both_ends(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:
        session_id = session_on(whole)
        told = verified(whole, session_id)
        assert 0 <= told.pop("milliseconds") < 1000
        assert told == {
            "session_id": session_id,
            "host_id": whole.host_id,
            "target": "10.0.0.90",
            "vni": 7,
            "outcome": "arrived",
            "monitor_id": whole.lab.namespace("monitor"),
            "outer_source": "10.0.0.48",
            "outer_destination": "10.0.0.90",
            "one_clock": True,
            "next_steps": [],
        }


def test_a_collector_that_is_not_ours_gets_exactly_one_probe_and_its_arrival_is_unknown(
    lab: Build, tmp_path: Path
) -> None:
    with (
        line(lab(VPC), tmp_path) as whole,
        whole.lab.inside("client") as client,
        client.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as collector,
    ):
        collector.bind(("10.0.0.6", 4789))
        collector.settimeout(WITHIN_S)
        session_id = session_on(whole, "client")
        status, said = verify(whole, session_id)
        assert status == UNKNOWN
        assert said.startswith("sent, arrival unknown: no monitor of ours watches 10.0.0.6\n")
        assert "192.0.2.1 > 192.0.2.2" in said
        datagram, sender_ = collector.recvfrom(65535)
        assert sender_[0] == "10.0.0.48"
        assert datagram[:8] == bytes((8, 0, 0, 0, 0, 0, 7, 0)), "VXLAN, the flag of a VNI and no other, VNI 7"
        frame = datagram[8:]
        assert len(frame) == wire.FRAME_BYTES
        token = wire.token_in(frame)
        assert token is not None
        assert is_token(probe_key(whole.plane.token), token)
        assert frame.endswith(MARKED[:-4] + session_id.encode())
        checks = checksums_of(frame)
        assert (checks.ip, checks.l4) == (Check.RIGHT, Check.RIGHT)  # type: ignore[union-attr]
        collector.settimeout(0.3)
        with pytest.raises(TimeoutError):
            collector.recvfrom(65535)


def test_a_firewall_at_the_target_is_told_from_arrival_with_what_to_look_at(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:
        session_id = session_on(whole)
        monitor = whole.lab.namespace("monitor")
        rules = "table ip t { chain c { type filter hook input priority 0; udp dport 4789 drop; }; }"
        subprocess.run(netns.command(monitor, ["nft", rules]), check=True)
        status, said = verify(whole, session_id, "--within-s", "1")
        assert status == NOT_SEEN, said
        assert said.startswith(f"sent, and the monitor {monitor} at the target has not seen it within 1 s\n")
        assert [line_.split(":")[0] for line_ in said.splitlines() if line_.startswith("  · ")] == [
            "  · the neighbour",
            "  · the firewall",
            "  · the listener",
        ]
        subprocess.run(netns.command(monitor, ["nft", "delete", "table", "ip", "t"]), check=True)
        assert verify(whole, session_id)[0] == ARRIVED


def test_a_next_hop_that_does_not_answer_is_named_as_the_reason(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    with line(built, tmp_path) as whole:
        session_id = session_on(whole)
        ip("-n", built.namespace("monitor"), "link", "set", "eth0", "arp", "off")
        ip("-n", built.namespace("host"), "neighbour", "flush", "all")
        problem = "the next hop 10.0.0.90 does not answer ARP"
        whole.wait_for_problem(session_id, problem)
        status, said = verify(whole, session_id)
        assert status == NOT_SENT
        assert said == (
            f"not sent: {problem}\n"
            "  · see that the next hop is up: `ip neighbour` on the host of the source shows who answers\n"
        )
        ip("-n", built.namespace("monitor"), "link", "set", "eth0", "arp", "on")
        whole.wait_for_problem(session_id, None)
        assert verify(whole, session_id)[0] == ARRIVED


def test_a_target_at_which_nobody_listens_refuses_the_probe_and_the_source_hears_nothing_of_it(
    lab: Build, tmp_path: Path
) -> None:
    with line(lab(VPC), tmp_path) as whole, whole.lab.inside("web") as web:
        session_id = session_on(whole)
        whole.end("monitor")
        with Tap(web) as tap:
            status, said = verify(whole, session_id, "--within-s", "1")
            assert status == UNKNOWN, "a monitor that has ended watches nothing"
            assert "no monitor of ours watches 10.0.0.90" in said

            def refused() -> bool:
                return stages_of(whole.row(session_id))["ingress", "target refused"] == 1

            wait_until(refused, WITHIN_S, lambda: str(whole.row(session_id)))
            assert not [each for each in tap.read() if MARKED in each.frame or each.frame[23:24] == b"\x01"]


def test_a_session_that_delivers_to_nobody_is_not_probed_and_the_answer_says_what_to_do(
    lab: Build, tmp_path: Path
) -> None:
    with line(lab(VPC), tmp_path) as whole:
        make = Maker(whole.plane, whole.plane.client())
        parameters = session_parameters(whole, "web") | {"TrafficMirrorTargetId": make.nlb_target()}
        session_id = str(make.session(**parameters)["TrafficMirrorSessionId"])
        status, said = verify(whole, session_id)
        assert status == NOT_SENT
        assert said == (
            "not sent: target type not yet deliverable\n  · give the session a target that is a network interface\n"
        )
        ip("-n", whole.lab.namespace("host"), "link", "delete", host_device("web"))
        whole.wait_for_problem(session_id, "interface gone")
        assert verified(whole, session_id)["reason"] == "interface gone"


def test_an_agent_that_is_away_does_not_send_and_the_command_ends(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:
        session_id = session_on(whole)
        whole.end("agent")
        status, said = verify(whole, session_id, "--within-s", "0.5")
        assert status == NOT_SENT
        assert said.startswith(f"not sent: the agent of {whole.host_id} has not taken the request in time\n")
        whole.start_agent()
        assert verify(whole, session_id)[0] == ARRIVED, "and no late probe of the former request was sent"
        [monitor] = whole.plane.own("status")["monitors"]
        assert monitor["probes_received"] == 1


def test_all_sessions_are_verified_at_once_and_the_worst_of_them_is_the_exit_status(lab: Build, tmp_path: Path) -> None:
    with line(lab(VPC), tmp_path) as whole:
        ours = session_on(whole)
        foreign = session_on(whole, "client", SessionNumber=2, VirtualNetworkId=8)
        status, said = verify(whole, "--all", "--json")
        assert {each["session_id"]: each["outcome"] for each in json.loads(said)} == {
            ours: "arrived",
            foreign: "sent, arrival unknown",
        }
        assert status == UNKNOWN


# --- at the agent alone


def asked(mirror: Mirror, session: Session) -> ProbeSent | ProbeNotSent:
    """What web's agent answers to a request for a probe."""
    request = ProbeRequest(probe_id="p", session_id=session.session_id("web"), token=new_token(b"shared").hex())
    host = mirror.agents[mirror.host_of("web")].host
    return mirror.inside(mirror.host_of("web")).run(host.probe, request)


def probes(mirror: Mirror, stage: Stage) -> Tally:
    return sum((ledger.stage(stage) for ledger in mirror.ledger("web").values()), Tally())


@pytest.mark.parametrize(
    ("broken", "answer"),
    [pytest.param("d", ProbeNotSent, id="the finishing hop"), pytest.param("f", ProbeSent, id="the splitting hop")],
)
def test_a_probe_goes_as_the_copies_of_a_session_without_super_packets(
    lab: Build, broken: str, answer: type[ProbeSent] | type[ProbeNotSent]
) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("monitor")
        mirror.mirror({"web": [session]})
        mirror.unheard.add(session.vni)
        break_hops(mirror, broken)
        assert isinstance(asked(mirror, session), answer)


@pytest.mark.parametrize("packet_bytes", [wire.RECOGNISED_BYTES, wire.RECOGNISED_BYTES + 1, wire.FRAME_BYTES])
def test_a_probe_is_cut_to_the_packet_length_and_known_as_long_as_its_token_is_there(
    lab: Build, packet_bytes: int
) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("monitor", packet_bytes_max=packet_bytes)
        mirror.mirror({"web": [session]})
        assert isinstance(asked(mirror, session), ProbeSent)
        [copy] = mirror.wait_for_copies("monitor", 1)
        assert len(copy.frame) == packet_bytes
        assert is_token(b"shared", wire.token_in(copy.frame) or b"")
        assert probes(mirror, Stage.PROBE_SENT) == Tally(1, packet_bytes)
        assert mirror.stages("web", Direction.INGRESS) == {Stage.PROBE_SENT: 1}, "not as cut, nor as sent"
        assert mirror.stages("web", Direction.EGRESS) == {}


def test_a_packet_length_that_cuts_the_token_is_the_reason_why_nothing_is_sent(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("monitor", packet_bytes_max=wire.RECOGNISED_BYTES - 1)
        mirror.mirror({"web": [session]})
        assert asked(mirror, session) == ProbeNotSent(
            probe_id="p", reason="its copies are cut to 57 bytes, and a probe is known by its first 58"
        )
        assert mirror.stages("web", Direction.INGRESS) == {}
        assert mirror.collector("monitor").copies() == []


def test_no_route_to_the_target_is_the_reason_why_nothing_is_sent(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("203.0.113.9")
        mirror.mirror({"web": [session]})
        assert asked(mirror, session) == ProbeNotSent(
            probe_id="p", reason="no route to the target 203.0.113.9 (table 254)"
        )
        assert mirror.stages("web", Direction.INGRESS) == {}


def test_a_session_that_is_not_there_any_more_gets_no_probe(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor")]})
        assert asked(mirror, Session("monitor", vni=8)) == ProbeNotSent(probe_id="p", reason=sender.NOT_APPLIED)


def another_generation(plane: DataPlane, way: sender.SessionWay) -> None:
    entry = _delivery(plane, way)
    entry.retired_generation, entry.retired_ledger_row = entry.generation, way.ledger_row
    entry.generation += 1
    plane._maps["deliveries"].put(abi.slot_of(way.mark).to_bytes(4, "little"), bytes(entry))


def no_room(plane: DataPlane, way: sender.SessionWay) -> None:
    entry = _delivery(plane, way)
    entry.room_bytes_max = 0
    plane._maps["deliveries"].put(abi.slot_of(way.mark).to_bytes(4, "little"), bytes(entry))


def _delivery(plane: DataPlane, way: sender.SessionWay) -> abi.Delivery:
    value = plane._maps["deliveries"].get(abi.slot_of(way.mark).to_bytes(4, "little"))
    assert value is not None
    return abi.Delivery.from_buffer_copy(value)


@pytest.mark.parametrize("change", [another_generation, no_room])
def test_a_probe_that_the_data_plane_drops_is_counted_apart_from_copies_that_it_drops(
    lab: Build, change: Callable[[DataPlane, sender.SessionWay], None]
) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("monitor")
        mirror.mirror({"web": [session]})
        agent = mirror.agents[mirror.host_of("web")]
        way = sender.way_of(agent.host._data_plane.tables, session.session_id("web"))
        assert way is not None
        change(agent.host._data_plane, way)
        assert asked(mirror, session) == ProbeNotSent(probe_id="p", reason="the data plane could not encapsulate it")
        assert mirror.stages("web", Direction.INGRESS) == {Stage.PROBE_LOST: 1}
        assert mirror.stages("web", Direction.EGRESS) == {}
        assert mirror.collector("monitor").copies() == []
        assert mirror.report("web").strays == Tally()


def test_a_probe_that_is_cut_to_the_targets_mtu_is_no_copy_that_was_cut(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        session = Session("monitor")
        mirror.mirror({"web": [session]})
        plane = mirror.agents[mirror.host_of("web")].host._data_plane
        way = sender.way_of(plane.tables, session.session_id("web"))
        assert way is not None
        entry = _delivery(plane, way)
        entry.room_bytes_max = wire.RECOGNISED_BYTES
        plane._maps["deliveries"].put(abi.slot_of(way.mark).to_bytes(4, "little"), bytes(entry))
        assert isinstance(asked(mirror, session), ProbeSent)
        [copy] = mirror.wait_for_copies("monitor", 1)
        assert len(copy.frame) == wire.RECOGNISED_BYTES
        assert mirror.stages("web", Direction.INGRESS) == {Stage.PROBE_SENT: 1}


def test_production_goes_on_beside_probes_and_keeps_its_order_and_its_figures(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, mirror.tap("client") as production:
        session = Session("monitor")
        mirror.mirror({"web": [session]})
        frames = []
        for port in range(1000, 1010):
            frames += sent(mirror, udp(port))
            assert isinstance(asked(mirror, session), ProbeSent)
        assert mirror.stages("web", Direction.EGRESS) == {Stage.SENT: 10}
        assert mirror.stages("web", Direction.INGRESS) == {Stage.PROBE_SENT: 10}
        copies = [copy.frame for copy in mirror.wait_for_copies("monitor", 20)]
        assert [frame for frame in copies if wire.token_in(frame) is None] == frames
        assert production.received(lambda frame: frame in set(frames)) == frames
        assert not production.received(lambda frame: MARKED in frame)

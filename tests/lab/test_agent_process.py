"""`pktmirror agent`, `purge` and `up` as processes: what they refuse, in one line, and what does not end them.

Each works in a network namespace of the test, with a bpffs, a state directory and a host id of its own.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from pktmirror.agent import abi
from pktmirror.agent.apply import pins_of
from pktmirror.agent.locks import bpffs_lock, forget_killed
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    Underlay,
    encode,
)
from pktmirror.kernel import bpffs, netns
from pktmirror.lab import Lab, Topology
from pktmirror.model.filter import UDP, Direction, PortRange
from pktmirror.model.rate import default_budget
from tests.lab.alone import alone
from tests.lab.mirror import Mirror, Session, accepting
from tests.lab.topologies import VPC
from tests.unit.agent.engine_server import EngineServer, recorded
from tests.waiting import wait_until

pytestmark = pytest.mark.root

PKTMIRROR = Path(sys.executable).with_name("pktmirror")
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
HOST = "host-1"
NOBODY = "http://127.0.0.1:9"  # the discard port of a namespace in which nobody listens
START_S = 20.0


@dataclass
class Place:
    """A network namespace and a directory in which nothing but the test's processes work."""

    name: str
    directory: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf"

    @property
    def kept(self) -> Path:
        return self.state / f"desired-{HOST}.json"

    def argv(self, command: str, *options: str, before: tuple[str, ...] = ()) -> list[str]:
        return netns.command(self.name, [*before, str(PKTMIRROR), command, *options])

    def agent_options(self, **changed: object) -> list[str]:
        options: dict[str, object] = {"control": NOBODY, "state": self.state, "host_id": HOST, "bpffs": self.bpffs}
        return [f"--{name.replace('_', '-')}={value}" for name, value in (options | changed).items()]

    def start(self, said: list[str] | None = None, **options: object) -> "subprocess.Popen[str]":
        """An agent whose loop turns; what it says until then goes to ``said``."""
        argv = self.argv("agent", *self.agent_options(**options))
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        wait_until(lambda: self.pins() or process.poll() is not None, START_S, "nothing is pinned")
        assert process.stdout is not None
        for line in process.stdout:
            if said is not None:
                said.append(line)
            if "control plane cannot be used" in line:
                return process
        raise AssertionError(f"the agent ended with {process.wait()}")

    def pins(self) -> list[Path]:
        """A walk may meet a load that is renamed into place: what vanishes under it is left out."""
        return [Path(where, name) for where, _, names in os.walk(pins_of(self.bpffs, HOST)) for name in names]

    def tree(self) -> set[Path]:
        return set(self.directory.rglob("*"))


@pytest.fixture
def place(lab_name: str, tmp_path: Path) -> Iterator[Place]:
    name = f"{lab_name}-host"
    netns.create(name)
    place = Place(name, tmp_path)
    place.state.mkdir()
    (place.state / "agent-token").write_text("none")
    try:
        yield place
    finally:
        for process in place.processes:
            process.kill()
            process.communicate()
        bpffs_lock(place.bpffs, HOST).unlink(missing_ok=True)  # of one that was killed
        if bpffs.is_mounted(place.bpffs):
            bpffs.unmount(place.bpffs)
        if netns.exists(name):
            netns.remove(name)


def refused(argv: list[str]) -> str:
    """What a command says that must end at once with one line and exit status 1."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1, said
    assert len(said) == 1, "\n".join(said)
    assert said[0].startswith("pktmirror: ")
    assert " Next: " in said[0]
    return said[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"netns": "nope"}, "cannot enter the network namespace nope"),
        ({"netns": "../../proc/1/ns/net"}, "cannot enter the network namespace"),
        ({"bpffs": "DIR/state/agent-token"}, "cannot load its programs"),
        ({"bpffs": "DIR/state/agent-token/bpf"}, "cannot load its programs"),
        ({"control": "http://127.0.0.1:bad"}, "not the URL of a control plane"),
        ({"control": "foo"}, "not the URL of a control plane"),
        ({"token_file": "DIR/empty"}, "no agent token"),
        ({"token_file": "DIR/nowhere"}, "no agent token"),
        ({"host_id": "../../x"}, "cannot be the name of a host"),
        ({"state": "DIR/empty", "token_file": "DIR/state/agent-token"}, "cannot use the state directory"),
        ({"state": "DIR/new", "token_file": "DIR/state/agent-token", "netns": "nope"}, "cannot enter"),
    ],
)
def test_an_agent_that_cannot_start_says_why_in_one_line_and_leaves_nothing(
    place: Place, options: dict[str, str], says: str
) -> None:
    (place.directory / "empty").write_text("\n")
    before = place.tree()
    placed = {name: value.replace("DIR", str(place.directory)) for name, value in options.items()}
    assert says in refused(place.argv("agent", *place.agent_options(**placed)))
    assert place.tree() == before
    assert not bpffs.is_mounted(place.bpffs)


@pytest.mark.parametrize("mounted", [False, True])
def test_an_agent_without_privileges_says_so_in_one_line_and_leaves_nothing(place: Place, mounted: bool) -> None:
    if mounted:
        bpffs.mount(place.bpffs)
    before = place.tree()
    said = refused(place.argv("agent", *place.agent_options(bpffs=place.bpffs), before=UNPRIVILEGED))
    assert "run it as root" in said
    new = place.argv("agent", *place.agent_options(netns=place.name), before=UNPRIVILEGED)
    assert "entering one needs root" in refused(new)
    assert place.tree() == before


def test_up_without_privileges_ends_with_one_line_and_without_a_traceback(tmp_path: Path) -> None:
    def scene() -> None:
        argv = [*UNPRIVILEGED, str(PKTMIRROR), "up", f"--state={tmp_path / 'state'}", "--listen=127.0.0.1:8773"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        lines = done.stderr.splitlines()
        assert done.returncode == 1, lines
        assert "Traceback" not in done.stderr, done.stderr
        assert [line for line in lines if line.startswith("pktmirror: ")] == lines[-1:], lines
        assert "run it as root" in lines[-1]
        assert not Path("/run/pktmirror").exists()

    alone(scene)


def test_a_second_agent_of_the_same_host_and_state_is_refused_while_the_first_lives(place: Place) -> None:
    first = place.start()
    pins = place.pins()
    assert f"Another agent of the host {HOST}" in refused(place.argv("agent", *place.agent_options()))
    assert first.poll() is None
    assert place.pins() == pins
    first.kill()  # its lock file stays and locks nothing
    first.wait()
    second = place.start()
    second.send_signal(signal.SIGTERM)
    assert second.wait(START_S) == 0
    assert {path.name for path in place.state.iterdir()} == {"agent-token"}


@pytest.mark.long
def test_a_second_agent_of_the_same_host_and_bpffs_is_refused_whatever_its_state(place: Place) -> None:
    first = place.start()
    pins = place.pins()
    other = place.directory / "other"
    options = place.agent_options(state=other, token_file=place.state / "agent-token")
    assert f"Another agent of the host {HOST} works with {place.bpffs}" in refused(place.argv("agent", *options))
    assert first.poll() is None
    assert place.pins() == pins
    assert not other.exists()


@pytest.mark.long
def test_a_pin_that_is_missing_is_named_and_the_purge_that_mends_it(place: Place) -> None:
    process = place.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S) == 0
    [deliveries] = [pin for pin in place.pins() if pin.name == "deliveries"]
    deliveries.unlink()
    said = refused(place.argv("agent", *place.agent_options()))
    assert said.startswith(f"pktmirror: {deliveries} is missing")
    assert "pktmirror purge" in said
    purge = place.argv("purge", f"--host-id={HOST}", f"--bpffs={place.bpffs}")
    assert subprocess.run(purge, capture_output=True, check=False).returncode == 0
    place.start()


@pytest.mark.long
def test_an_up_that_cannot_start_leaves_the_mirroring_of_another_alone(tmp_path: Path) -> None:
    def pins() -> list[Path]:
        return sorted(path for path in Path("/run/pktmirror").rglob("*") if path.is_file())

    def scene() -> None:
        state = tmp_path / "state"
        up = [str(PKTMIRROR), "up", f"--state={state}", "--listen=127.0.0.1:8773"]
        first = subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert first.stderr is not None
            said = next((line for line in first.stderr if "pktmirror is up" in line), None)
            assert said is not None, "the first does not start"
            before = pins()
            assert before
            bad = tmp_path / "bad.toml"
            bad.write_text("[[vpc]]")
            other = f"--state={tmp_path / 'other'}"
            for options, says in (
                ([f"--state={state}", "--listen=127.0.0.1:8773"], ""),
                ([other, "--listen=127.0.0.1:8773"], ""),
                ([other, "--listen=127.0.0.1:8774", f"--networks={bad}"], "networks"),
                ([other, "--listen=127.0.0.1:8774"], "Another agent of the host"),
            ):
                argv = [str(PKTMIRROR), "up", *options]
                done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 1, (options, done.stderr)
                assert says in done.stderr.splitlines()[-1], done.stderr
                assert pins() == before, options
                assert first.poll() is None
            first.send_signal(signal.SIGINT)
            first.communicate(timeout=START_S)
            assert not Path("/run/pktmirror").exists(), "its own end is the end of its mirroring"
        finally:
            first.kill()
            first.communicate()

    alone(scene)


@pytest.mark.parametrize("kept", ["a directory", "no JSON", "another host", "a bad address", "a bad exclusion"])
def test_nothing_that_was_kept_ends_an_agent(place: Place, kept: str) -> None:
    state = DesiredState(host_id=HOST, revision=1)
    session = DesiredSession(
        session_id="tms-1",
        number=1,
        vni=1,
        filter_id="tmf-1",
        packet_bytes_max=None,
        delivery=Destination(address="not-an-address"),
    )
    interface = DesiredInterface(
        key="k",
        interface_id="eni-1",
        primary_address="10.0.0.1",
        underlay=Underlay(),
        resolvers=(),
        sessions=(session,),
    )
    documents = {
        "no JSON": b"{",
        "another host": encode(msgspec.structs.replace(state, host_id="another")),
        "a bad address": encode(msgspec.structs.replace(state, interfaces=(interface,))),
        "a bad exclusion": encode(
            msgspec.structs.replace(state, exclusions=(ExclusionDocument(why="x", address="not-an-address"),))
        ),
    }
    if kept == "a directory":
        place.kept.mkdir()
    else:
        place.kept.write_bytes(documents[kept])
    process = place.start()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said


@pytest.mark.long
def test_purge_removes_nothing_but_pins(place: Place) -> None:
    victim = place.directory / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    bpffs.mount(place.bpffs)
    (place.bpffs / "pktmirror").mkdir()
    for host_id in ("../../victim", "../../../victim", ".."):
        said = refused(place.argv("purge", f"--host-id={host_id}", f"--bpffs={place.bpffs}"))
        assert "cannot be the name of a host" in said
    tree = place.directory / "pktmirror" / HOST
    tree.mkdir(parents=True)
    said = refused(place.argv("purge", f"--host-id={HOST}", f"--bpffs={place.directory}"))
    assert "no directory of a bpffs" in said
    assert tree.is_dir()
    assert (victim / "file").read_text() == "kept"


def test_purge_removes_the_pins_of_an_agent_whose_namespace_is_gone(place: Place) -> None:
    process = place.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(START_S) == 0
    assert place.pins()
    netns.remove(place.name)
    argv = [str(PKTMIRROR), "purge", f"--netns={place.name}", f"--host-id={HOST}", f"--bpffs={place.bpffs}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
    assert (done.returncode, done.stderr) == (0, "removed\n")
    assert not place.bpffs.exists()
    assert "cannot enter the network namespace" in refused(argv), "nothing tells this from a wrong name any more"


def test_purge_takes_away_the_lock_of_an_agent_that_was_killed_and_not_of_one_at_work(place: Place) -> None:
    killed = place.start()
    lock = bpffs_lock(place.bpffs, HOST)
    forget_killed(place.bpffs, HOST)
    assert lock.exists(), "it is held"
    killed.kill()
    killed.wait()
    assert lock.exists()
    argv = place.argv("purge", f"--host-id={HOST}", f"--bpffs={place.bpffs}")
    assert subprocess.run(argv, timeout=START_S, check=False).returncode == 0
    assert not lock.exists()


def test_an_agent_whose_pins_are_purged_under_it_says_so_and_ends(place: Place) -> None:
    place.kept.write_bytes(encode(DesiredState(host_id=HOST, revision=1)))
    process = place.start()
    done = subprocess.run(
        place.argv("purge", f"--host-id={HOST}", f"--bpffs={place.bpffs}"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "removed\n")
    assert process.poll() == 1, "the purge has waited for its end"
    said, _ = process.communicate(timeout=START_S)
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("pktmirror: The agent's programs and maps are gone.")


Spoil = Callable[[DesiredState], DesiredState]


def with_session(**changed: object) -> Spoil:
    def spoil(state: DesiredState) -> DesiredState:
        [interface] = state.interfaces
        [session] = interface.sessions
        changed_session = msgspec.structs.replace(session, **changed)
        return msgspec.structs.replace(
            state, interfaces=(msgspec.structs.replace(interface, sessions=(changed_session,)),)
        )

    return spoil


def with_interface(**changed: object) -> Spoil:
    def spoil(state: DesiredState) -> DesiredState:
        [interface] = state.interfaces
        return msgspec.structs.replace(state, interfaces=(msgspec.structs.replace(interface, **changed),))

    return spoil


def with_too_many_rules(state: DesiredState) -> DesiredState:
    [(filter_id, document)] = state.filters.items()
    [rule] = document.rules
    return msgspec.structs.replace(
        state, filters={filter_id: msgspec.structs.replace(document, rules=(rule,) * (abi.RULES_MAX + 1))}
    )


SPOILT: dict[str, Spoil] = {
    "an unknown filter": with_session(filter_id="tmf-unknown"),
    "a bad target": with_session(delivery=Destination(address="not-an-address")),
    "a bad source": with_session(delivery=Destination(address="10.0.0.90", outer_source="10.0.0.256")),
    "a bad resolver": with_interface(resolvers=("x",)),
    "too many resolvers": with_interface(resolvers=tuple(f"10.9.9.{last}" for last in range(9))),
    "too many rules": with_too_many_rules,
    "too many exclusions": lambda state: msgspec.structs.replace(state, exclusions=(ExclusionDocument(why="x"),) * 33),
}


def test_a_document_that_cannot_be_compiled_is_a_problem_and_the_last_good_one_stays_in_force(
    lab: Callable[[Topology], Lab],
) -> None:
    filter_ = accepting(UDP, directions=[Direction.EGRESS], families=[4], to_ports=PortRange(9999, 9999))
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]
        mirror.mirror({"web": [Session("monitor", filter=filter_)]})
        good = agent.desk.desired
        assert good is not None
        pins = agent.pins
        for copies, (what, spoil) in enumerate(SPOILT.items(), 1):
            agent.desk.desired = msgspec.structs.replace(spoil(good), revision=good.revision + 1)
            report = agent.turn()
            [problem] = report.problems
            assert "cannot be compiled" in problem, what
            assert f"revision {good.revision + 1} " in problem
            assert report.applied_revision == good.revision
            assert [status.problem for status in report.statuses] == [None]
            assert agent.pins == pins
            send_one(mirror)
            mirror.wait_for_copies("monitor", copies)
        agent.desk.desired = msgspec.structs.replace(good, revision=good.revision + 1, interfaces=())
        report = agent.turn()
        assert (report.problems, report.applied_revision, report.sessions) == ((), good.revision + 1, ())
        agent.desk.desired = good
        mirror.sources = {}
        mirror.unheard.add(7)


def test_events_are_followed_by_looks_for_a_share_of_the_time_only(lab: Callable[[Topology], Lab]) -> None:
    with Mirror(lab(VPC)) as mirror:
        agent = mirror.agents["host"]

        def found_after_it_is_made(device: str) -> bool:
            argv = ["ip", "link", "add", device, "type", "veth", "peer", "name", f"{device}-peer"]
            subprocess.run(netns.command(mirror.lab.namespace("host"), argv), check=True)
            return any(device in interface.key for interface in agent.turn().interfaces)

        agent.turn()
        assert found_after_it_is_made("first")
        agent.stop()
        agent.looks_share = 1e-6
        agent.start()
        assert any("first" in interface.key for interface in agent.turn().interfaces), "the first look is at once"
        assert not found_after_it_is_made("second")


def send_one(mirror: Mirror) -> None:
    """A datagram that the filter takes."""
    with mirror.inside("web").run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (mirror.address("client"), 9999))


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({}, str(default_budget(os.cpu_count() or 1))),
        ({"budget_packets_per_second": 1000, "budget_bits_per_second": 8000}, "1,000 packets/s and 8,000 bits/s"),
        ({"budget_packets_per_second": 0}, "none"),
    ],
)
def test_an_agent_says_at_its_start_within_which_budget_it_copies(
    place: Place, options: dict[str, object], budget: str
) -> None:
    said: list[str] = []
    place.start(said, **options)
    assert [line for line in said if "the agent runs" in line and budget in line], said


@pytest.mark.parametrize("budget", ["-1", "many", "300000001"])
def test_a_budget_that_is_none_is_refused_and_nothing_is_loaded(place: Place, budget: str) -> None:
    argv = place.argv("agent", *place.agent_options(budget_packets_per_second=budget))
    ended = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--budget-packets-per-second" in ended.stderr
    assert place.pins() == []


def test_an_agent_asks_the_engines_that_it_is_told_of_and_refuses_what_is_none(place: Place) -> None:
    with EngineServer(place.directory / "docker.sock", recorded("docker-running")) as docker:
        place.start(engine=f"docker={docker.path}")
        wait_until(lambda: docker.requests, START_S, "it is not asked")
        assert set(docker.requests) == {"GET /containers/json?all=true HTTP/1.1"}
    argv = place.argv("agent", *place.agent_options(engine="moby=/run/docker.sock"))
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "names no engine" in refused.stderr

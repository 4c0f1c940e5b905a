"""Engines asked beside the agent's turns: what was told stays, what is deleted is told, and nobody is waited for.

The engines are recorded answers over a real unix socket, and of `virsh` (`engine_server`).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pktmirror.agent.inventory import Device
from pktmirror.agent.providers import Memory, Roster, engines_of
from pktmirror.agent.providers.asking import Asking
from pktmirror.agent.providers.docker import Docker
from pktmirror.agent.providers.libvirt import Libvirt
from pktmirror.desired import EngineStatus, FoundInterface
from pktmirror.model.refusal import Refusal
from tests.unit.agent.engine_server import RECORDED, EngineServer, Virsh, recorded
from tests.unit.agent.test_libvirt import WEB_ID, WEB_MAC
from tests.unit.agent.test_naming import interface
from tests.waiting import wait_until

WITHIN_S = 10.0
DB, WEB = "db", "web"


def id_of(name: str, state: str = "docker-running") -> str:
    containers = msgspec.json.decode((RECORDED / f"{state}.json").read_bytes())
    return next(each["Id"] for each in containers if f"/{name}" in each["Names"])


def container(name: str, ifindex: int) -> Device:
    return interface(f"container:{id_of(name)}/eth0", f"veth{ifindex}", ifindex=ifindex, mac="02:00:00:00:00:07")


DEVICES = [container(WEB, 7), container(DB, 8)]


@contextmanager
def running(roster: Roster, ifindexes: tuple[int, ...] = ()) -> Iterator[Roster]:
    roster.start(ifindexes)
    try:
        yield roster
    finally:
        roster.stop()


def asked(roster: Roster) -> int:
    return sum(status.asked for status in roster.statuses())


def ask(roster: Roster) -> Roster:
    """Each engine once, in this thread."""
    for asking in roster.askings:
        asking.turn()
    return roster


def names(devices: list[Device]) -> list[str | None]:
    return [None if device.found.facts is None else device.found.facts.name for device in devices]


def put(roster: Roster, devices: list[Device] = DEVICES) -> list[FoundInterface]:
    return [device.found for device in roster.named(devices, keys_of_engines=True)]


def test_a_removed_container_is_a_deletion_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as server:
        roster = ask(Roster([Docker("docker", server.path)], gone_s=0.0))
        assert names(roster.named(DEVICES, keys_of_engines=True)) == [WEB, DB]
        server.answer = recorded("docker-stopped")
        put(ask(roster), DEVICES[1:])
        assert roster.deleted() == (), "its device is gone, and the container is there"
        server.answer = recorded("docker-removed")
        put(ask(roster), DEVICES[1:])
        assert roster.deleted() == (f"container:{id_of(WEB)}/eth0",)


def test_an_engine_that_is_away_deletes_nothing_and_what_it_told_stays(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with EngineServer(path, recorded("docker-running")) as server:
        roster = ask(Roster([Docker("docker", path)], gone_s=0.0))
        assert names(roster.named(DEVICES, keys_of_engines=True)) == [WEB, DB]
        [status] = roster.statuses()
        assert status == EngineStatus(engine="docker", where=str(path), asked=1, failed=0, instances=4)
        for answer in (recorded("docker-notfound"), b""):
            server.answer = answer
            assert names(ask(roster).named(DEVICES, keys_of_engines=True)) == [WEB, DB]
            put(roster, [])
            assert roster.deleted() == ()
    put(ask(roster), [])
    assert roster.deleted() == (), "its socket is gone, as where it is stopped"
    [status] = roster.statuses()
    assert (status.instances, status.asked, status.failed) == (4, 4, 3)
    assert status.problem is not None
    assert status.problem.startswith(f"docker at {path}")
    with EngineServer(path, recorded("docker-removed")):
        put(ask(roster), [])
    assert roster.deleted() == (f"container:{id_of(WEB)}/eth0",)
    assert roster.statuses()[0].problem is None


def test_nobody_waits_for_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    """The question stays under way for as long as the test likes, and all that a turn asks for is there."""
    with EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as server:
        roster = ask(Roster([Docker("docker", server.path, within_s=60.0, read_within_s=60.0)]))
        server.hold()
        with running(roster):
            wait_until(lambda: len(server.requests) == 2, WITHIN_S, "it does not ask")
            assert names(roster.named(DEVICES, keys_of_engines=True)) == [WEB, DB]
            assert (roster.deleted(), asked(roster)) == ((), 1)
            server.let_go()
            wait_until(lambda: asked(roster) == 2, WITHIN_S, "it is not answered")


def test_a_first_look_waits_a_second_for_engines_and_no_longer(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as server:
        server.hold()
        with running(Roster([Docker("docker", server.path, within_s=60.0, read_within_s=60.0)])) as roster:
            assert names(roster.named(DEVICES, keys_of_engines=True)) == [None, None]
            assert len(server.requests) <= 1
            server.let_go()


def test_an_agent_is_woken_by_another_answer_and_not_by_the_same(tmp_path: Path) -> None:
    woken: list[None] = []
    with EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as server:
        asking = Asking(Docker("docker", server.path), lambda: woken.append(None))
        asking.turn()
        asking.turn()
        assert (len(woken), asking.standing.answers) == (1, 2)
        server.answer = recorded("docker-removed")
        asking.turn()
        assert len(woken) == 2


def test_an_engine_is_asked_seldom_where_its_answers_take_long(tmp_path: Path) -> None:
    """However many events there are on the host."""
    with EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as server:
        server.hold()
        with running(
            Roster([Docker("docker", server.path, within_s=60.0, read_within_s=60.0)])
        ) as roster:  # held for a second at least
            server.let_go()
            wait_until(lambda: asked(roster) == 1, WITHIN_S, "it is not answered")
            for _ in range(20):
                roster.soon()
            asking = roster.askings[0]
            assert asking._looks.due_in_s(time.monotonic()) > 1.0, "it has a twentieth of the time"


def test_an_engine_that_never_was_there_is_not_spoken_of(tmp_path: Path) -> None:
    roster = Roster([Docker("docker", tmp_path / "none"), Docker("podman", tmp_path / "none", configured=True)])
    ask(roster)
    assert [(each.engine, each.failed) for each in roster.statuses()] == [("podman", 1)]


def test_two_engines_of_one_kind_do_not_delete_each_others_containers(tmp_path: Path) -> None:
    with (
        EngineServer(tmp_path / "a.sock", recorded("docker-running")) as one,
        EngineServer(tmp_path / "b.sock", recorded("docker-none")) as other,
    ):
        roster = ask(Roster([Docker("docker", other.path), Docker("docker", one.path)], gone_s=0.0))
        put(roster)
        put(roster, [])
        assert roster.deleted() == ()
        assert roster.knows(id_of(WEB))
        assert not roster.knows("0" * 64)


def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "engines.json")


def test_a_taps_machine_is_known_over_a_restart_of_the_agent_with_an_engine_that_is_away(tmp_path: Path) -> None:
    virsh = Virsh(tmp_path, "running")
    vnet0 = interface("tap:vnet0", "vnet0", ifindex=4)
    key = f"libvirt:{WEB_ID}/{WEB_MAC}"

    def roster(*ifindexes: int) -> Roster:
        made = Roster([Libvirt(virsh=str(virsh.program), configured=True)], memory(tmp_path), gone_s=0.0)
        made.saw(ifindexes)
        return ask(made)

    assert [found.key for found in put(roster(4), [vnet0])] == [key]
    virsh.state = "down"
    second = roster(4)
    [found] = put(second, [vnet0])
    assert (found.key, second.deleted()) == (key, ())
    assert second.statuses()[0].problem is not None
    virsh.state = "restarted"  # the machine is at vnet1 now
    devices = [interface("tap:vnet1", "vnet1", ifindex=6)]
    assert put(ask(second), devices) == [], "it was asked before it saw the device"
    assert [(found.key, found.device) for found in put(ask(second), devices)] == [(key, "vnet1")]
    virsh.state = "removed"
    put(ask(second), [])
    assert second.deleted() == (key,), "what is neither defined nor runs"


def test_what_was_kept_of_another_boot_or_cannot_be_read_is_forgotten(tmp_path: Path) -> None:
    virsh = Virsh(tmp_path, "running")
    roster = Roster([Libvirt(virsh=str(virsh.program), configured=True)], memory(tmp_path))
    roster.saw([4])
    put(ask(roster), [interface("tap:vnet0", "vnet0", ifindex=4)])
    assert memory(tmp_path).read().keys() == {4}
    kept = msgspec.json.decode((tmp_path / "engines.json").read_bytes())
    for broken in ({**kept, "boot_id": "another"}, {**kept, "namespace": 1}, {"bonds": 7}):
        (tmp_path / "engines.json").write_bytes(msgspec.json.encode(broken))
        assert memory(tmp_path).read() == {}
    (tmp_path / "engines.json").unlink()
    assert memory(tmp_path).read() == {}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ([], ["/run/docker.sock", "/run/podman/podman.sock", "qemu:///system"]),
        (["none"], []),
        (["docker=unix:///srv/d.sock", "libvirt=qemu+unix:///system"], ["/srv/d.sock", "qemu+unix:///system"]),
    ],
)
def test_engines_are_asked_at_their_standard_places_or_where_the_operator_says(
    options: list[str], where: list[str]
) -> None:
    assert [engine.where for engine in engines_of(options)] == where


@pytest.mark.parametrize("option", ["docker", "docker=", "moby=/run/x", "docker=run/x", "docker=/" + "x" * 107])
def test_what_names_no_engine_is_refused(option: str) -> None:
    with pytest.raises(Refusal):
        engines_of([option])

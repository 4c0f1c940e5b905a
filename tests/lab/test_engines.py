"""What engines tell of the sources on a host: containers of Docker and Podman, a machine of libvirt.

The engines are recorded answers (`tests/unit/agent/engine_server.py`); namespaces, control groups, taps and packets are
real.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pktmirror.agent.departures import Departures
from pktmirror.agent.providers import Memory, Roster
from pktmirror.agent.providers.docker import Docker
from pktmirror.agent.providers.libvirt import Libvirt
from pktmirror.kernel import netns
from tests.lab.machines import Container, cable, ip
from tests.lab.mirror import Elsewhere, Mirror, Session
from tests.lab.test_sources import (
    ADDRESS,
    CGROUPS,
    GUEST_MAC,
    WITHIN_S,
    Build,
    arrived,
    found,
    guest_at_bridge,
    hello,
    nobody,
    udp,
)
from tests.lab.topologies import VPC
from tests.unit.agent.engine_server import EngineServer, Virsh, recorded
from tests.unit.agent.test_libvirt import WEB_ID, WEB_MAC
from tests.unit.agent.test_roster import ask, id_of
from tests.waiting import wait_until

pytestmark = pytest.mark.root

TAP, MACHINE = "tap:vnet0", f"libvirt:{WEB_ID}/{WEB_MAC}"


def follow(mirror: Mirror, roster: Roster) -> Roster:
    """The host's agent asks these engines."""
    agent = mirror.agents["host"]
    agent.host.roster = roster
    if agent.desk.desired is None:
        mirror.mirror({})
    links = agent._inside.run(lambda: list(agent.host.netlink.links()))
    roster.saw(link.ifindex for link in links)
    return ask(roster)


@contextmanager
def container_of(name: str, group_name: str) -> Iterator[Container]:
    """A container in a control group as its runtime makes one."""
    root = next(each for each in CGROUPS if (each / "cgroup.procs").exists()) / group_name
    try:
        with Container(root / name) as container:
            yield container
    finally:
        root.rmdir()


def test_a_container_is_told_by_name_and_labels_and_ends_when_docker_removes_it(
    lab: Build, lab_name: str, tmp_path: Path
) -> None:
    web = id_of("web")
    key = f"container:{web}/eth0"
    with (
        EngineServer(tmp_path / "docker.sock", recorded("docker-running")) as docker,
        Mirror(lab(VPC)) as mirror,
    ):
        with container_of(web, lab_name) as container:
            cable(mirror.lab.namespace("host"), "veth1", container.inside, GUEST_MAC, f"{ADDRESS}/24")
            before = wait_until(lambda: found(mirror, key), WITHIN_S, "it is not found")
            roster = follow(mirror, Roster([Docker("docker", docker.path)], gone_s=0.0))
            after = found(mirror, key) or nobody()
            assert msgspec.structs.replace(after, facts=None) == before, "the interface that it was, and is told of"
            assert after.facts is not None
            assert (after.facts.name, after.facts.owner, after.facts.labels["tier"]) == ("web", "shop", "front")
            docker.answer = recorded("docker-removed")
            assert mirror.agents["host"].turn().deleted == ()
            ask(roster)
            report = mirror.agents["host"].turn()
            assert report.deleted == (), "it is there, whatever its engine says"
        wait_until(lambda: found(mirror, key) is None, WITHIN_S, "it is there")
        assert mirror.agents["host"].turn().deleted == (key,)
        [status] = mirror.agents["host"].turn().engines
        assert (status.engine, status.asked, status.failed, status.problem) == ("docker", 2, 0, None)


def test_a_container_of_podman_is_the_same_after_its_next_start_under_another_namespace(
    lab: Build, lab_name: str, tmp_path: Path
) -> None:
    """Podman, containerd and CRI-O give the namespace a name, and another one at each start."""
    web = id_of("web", "podman-running")
    key = f"container:{web}/eth0"
    with EngineServer(tmp_path / "podman.sock", recorded("podman-running")) as podman, Mirror(lab(VPC)) as mirror:
        mirror.agents["host"].host._departures = Departures(0.0)
        for life in range(2):
            name = f"netns-{uuid.uuid5(uuid.NAMESPACE_OID, f'{lab_name} {life}')}"
            with container_of(f"libpod-{web}", lab_name) as container:
                ip("netns", "attach", name, str(container.pid))
                try:
                    cable(mirror.lab.namespace("host"), f"veth{life}", container.inside, GUEST_MAC, f"{ADDRESS}/24")
                    follow(mirror, Roster([Docker("podman", podman.path)], gone_s=0.0))
                    app = wait_until(lambda: found(mirror, key), WITHIN_S, "it is not found") or nobody()
                    assert (app.plain_key, app.instance) == (f"netns:{name}/eth0", web[:12])
                    assert app.facts is not None
                    assert (app.facts.engine, app.facts.name) == ("podman", "web")
                finally:
                    netns.remove(name)
            wait_until(lambda: found(mirror, key) is None, WITHIN_S, "it is there")
            assert mirror.agents["host"].turn().deleted == (), "Podman has it, though its namespace's name is gone"
        follow(mirror, Roster())
        assert mirror.agents["host"].turn().deleted == (key,), "without an engine the name is all that tells"


def test_a_machine_is_mirrored_on_while_its_tap_gets_its_machines_key_and_while_libvirt_is_away(
    lab: Build, tmp_path: Path
) -> None:
    virsh = Virsh(tmp_path, "running")
    frames: list[bytes] = []

    def roster() -> Roster:
        memory = mirror.agents["host"]._inside.run(Memory, tmp_path / "engines.json")
        return Roster([Libvirt(virsh=str(virsh.program), configured=True)], memory, gone_s=0.0)

    def mirrored(text: str) -> None:
        frames.append(udp(GUEST_MAC, mirror.mac("client"), text))
        guest.send(frames[-1])
        mirror.wait_for_copies("monitor", len(frames))

    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab) as guest:
        mirror.elsewhere["guest"] = Elsewhere(TAP, ADDRESS)
        guest.send(hello(GUEST_MAC))
        wait_until(lambda: (found(mirror, TAP) or nobody()).mac == GUEST_MAC, WITHIN_S, "it is not known")
        mirror.mirror({"guest": [Session("monitor")]})
        mirrored("by its name")
        follow(mirror, roster())
        assert (found(mirror, MACHINE) or nobody()).plain_key == TAP
        assert found(mirror, TAP) is None
        assert mirror.status("guest") is None, "what is desired is of before"
        mirrored("desired under its name, and known under its machine's")
        mirror.elsewhere["guest"] = Elsewhere(MACHINE, ADDRESS)
        mirror.mirror({"guest": [Session("monitor")]})
        mirrored("under its machine's")

        virsh.state = "down"
        mirror.agents["host"].stop()
        mirror.agents["host"].start()
        follow(mirror, roster())
        report = mirror.agents["host"].turn()
        assert (report.problems, report.deleted, mirror.status("guest")) == ((), (), None)
        assert report.engines[0].problem is not None
        mirrored("by an agent that has begun anew without libvirt")
        assert arrived(mirror) == frames


def test_a_machine_is_a_source_before_anybody_has_heard_it(lab: Build, tmp_path: Path) -> None:
    virsh = Virsh(tmp_path, "running")
    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab):
        heard = wait_until(lambda: found(mirror, TAP), WITHIN_S, "it is not found") or nobody()
        assert (heard.mac, heard.not_mirrorable is None) == (None, False)
        follow(mirror, Roster([Libvirt(virsh=str(virsh.program), configured=True)]))
        told = found(mirror, MACHINE) or nobody()
        assert (told.mac, told.not_mirrorable) == (GUEST_MAC, None)

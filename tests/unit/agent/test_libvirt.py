"""What libvirt tells of its machines: what `virsh` 9.0.0 wrote (`engine_server`), written again by a program."""

from pathlib import Path

import pytest

from pktmirror.agent.providers.engine import Instance, NoAnswer, Tap
from pktmirror.agent.providers.libvirt import Libvirt, is_generated, read
from tests.unit.agent.engine_server import RECORDED, Virsh

WEB_ID, NOVA_ID = "6c5b1f0e-8c1d-4e0a-9a4f-1f2d3c4b5a69", "0f2f3f4f-0000-4000-8000-000000000002"
WEB_MAC, WEB1_MAC = "52:54:00:00:00:77", "52:54:00:00:00:78"


def libvirt(tmp_path: Path, state: str, within_s: float = 10.0) -> tuple[Libvirt, Virsh]:
    virsh = Virsh(tmp_path, state)
    return Libvirt(virsh=str(virsh.program), configured=True, within_s=within_s), virsh


def told(tmp_path: Path, state: str) -> dict[str, Instance]:
    engine, _ = libvirt(tmp_path, state)
    return {instance.name: instance for instance in engine.ask().instances.values()}


def test_libvirt_tells_its_machines_with_their_taps(tmp_path: Path) -> None:
    found = told(tmp_path, "running")
    assert found.keys() == {"web", "instance-00000001", "off"}
    assert found["web"].instance_id == WEB_ID
    assert found["web"].taps == (Tap("vnet0", WEB_MAC, generated=True), Tap("web1", WEB1_MAC, generated=False))
    assert found["instance-00000001"].taps == (Tap("tap4a5b6c7d-8e", "fa:16:3e:00:00:02", generated=False),)
    assert found["off"].taps == ()


def test_owner_and_labels_are_of_the_machines_metadata(tmp_path: Path) -> None:
    found = told(tmp_path, "running")
    assert (found["web"].owner, found["web"].labels) == ("shop", {"tier": "front", "team": "blue"})
    nova = found["instance-00000001"]
    assert nova.owner == "accounting"
    assert nova.labels == {"nova:name": "db-1", "nova:project": "accounting", "nova:flavor": "m1.tiny"}
    assert (found["off"].owner, found["off"].labels) == (None, {})


def test_a_machine_that_is_started_again_has_another_device_and_the_same_id(tmp_path: Path) -> None:
    stopped = told(tmp_path, "stopped")["web"]
    assert (stopped.instance_id, stopped.taps) == (WEB_ID, ()), "it is defined, and has no device"
    again = told(tmp_path, "restarted")["web"]
    assert again.instance_id == WEB_ID
    assert again.taps == (Tap("vnet1", WEB_MAC, generated=True), Tap("web1", WEB1_MAC, generated=False))


def test_one_that_is_neither_defined_nor_runs_is_not_there(tmp_path: Path) -> None:
    assert told(tmp_path, "removed").keys() == {"instance-00000001", "off"}


def test_two_questions_are_asked_by_the_connection_that_can_change_nothing(tmp_path: Path) -> None:
    engine, virsh = libvirt(tmp_path, "removed")
    engine.ask()
    asked, described = virsh.calls
    assert asked == "-r -q -c qemu:///system list --all --uuid"
    assert described == "-r -q -c qemu:///system " + "; ".join(
        f"dumpxml {line}" for line in (RECORDED / "libvirt-removed.list").read_text().split()
    )


def test_a_daemon_that_is_away_or_hangs_is_no_answer(tmp_path: Path) -> None:
    engine, virsh = libvirt(tmp_path, "down")
    with pytest.raises(NoAnswer, match=r"libvirt at qemu:///system: it does not answer: failed to connect to the"):
        engine.ask()
    virsh.state = "hangs"
    hanging = Libvirt(virsh=str(virsh.program), configured=True, within_s=0.1)
    with pytest.raises(NoAnswer, match="it has not answered after 0 s"):
        hanging.ask()
    with pytest.raises(NoAnswer, match="cannot be run: No such file or directory"):
        Libvirt(virsh=str(tmp_path / "nothing")).ask()


def test_a_machine_of_which_nothing_is_told_is_not_taken_for_deleted(tmp_path: Path) -> None:
    engine, virsh = libvirt(tmp_path, "running")
    virsh.program.write_text(virsh.program.read_text().replace("libvirt-$state.xml", "libvirt-removed.xml"))
    with pytest.raises(NoAnswer, match=f"it tells nothing of the machine {WEB_ID}"):
        engine.ask()


def test_libvirt_is_asked_where_there_are_its_program_and_its_socket(tmp_path: Path) -> None:
    virsh = Virsh(tmp_path, "running")
    assert not Libvirt(virsh=str(virsh.program), sockets=[tmp_path / "none"]).is_there()
    assert Libvirt(virsh=str(virsh.program), sockets=[tmp_path / "none"], configured=True).is_there()


@pytest.mark.parametrize(
    "answer",
    ["<domain type='qemu'><name>a</name>", "<domain type='qemu'><name>a</name></domain>", "error: words"],
    ids=["cut off", "no UUID", "no XML"],
)
def test_what_describes_no_machine_is_no_answer(answer: str) -> None:
    with pytest.raises(NoAnswer):
        read(answer)


def test_a_description_cannot_grow_by_entities() -> None:
    bomb = '<domain type="x">\n<!DOCTYPE lolz [<!ENTITY a "aaaa">]></domain>'
    with pytest.raises(NoAnswer, match="document type"):
        read(bomb)


@pytest.mark.parametrize(("device", "generated"), [("vnet0", True), ("vnet17", True), ("vnet", False), ("web0", False)])
def test_libvirt_makes_up_names_of_one_form(device: str, generated: bool) -> None:
    assert is_generated(device) is generated

"""What engines tell of interfaces, in a running control plane: kept, shown to EC2's clients, selectable by templates.

And the upgrade: an interface that was known by its tap's name keeps its id and its sessions when libvirt tells whose
it is.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pktmirror.desired import LABELS_MAX, EngineStatus, FoundInterface, InstanceFacts, Report, encode
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, found, running
from tests.contract.test_metrics import scraped
from tests.contract.test_templates import put, sources

ID = "4bab25ca3a288b0e6ff3249071e3ab57b128694f78fbfe84612ca7a5f81551a5"
MAC, MACHINE = "52:54:00:00:00:77", "6c5b1f0e-8c1d-4e0a-9a4f-1f2d3c4b5a69"
LABELS = {"tier": "front", "aws:owner": "x", "k" * 200: "v"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(tmp_path_factory.mktemp("engines") / "state") as plane:
        yield plane


def container(
    name: str, address: str, number: int, facts: InstanceFacts | None = None, **labels: str
) -> FoundInterface:
    id_ = f"{number:012}" + ID[12:]
    told = InstanceFacts(engine="docker", instance_id=id_, name=name, owner="shop", labels=labels)
    plain = found(name, address)
    return msgspec.structs.replace(
        plain, key=f"container:{id_}/eth0", provider="container", instance=id_[:12], facts=facts or told
    )


def silent(interface: FoundInterface) -> FoundInterface:
    """As it is reported while its engine does not answer."""
    return msgspec.structs.replace(interface, facts=None)


def test_ec2_shows_an_instance_by_its_engines_name_owner_and_labels(plane: Plane) -> None:
    web = container("web", "10.0.0.11", 1, **LABELS)
    [eni] = plane.find(web)
    ec2 = plane.client()

    def instances(**filters: str) -> list[dict[str, Any]]:
        asked = [{"Name": name.replace("__", ":"), "Values": [value]} for name, value in filters.items()]
        return [one for each in ec2.describe_instances(Filters=asked)["Reservations"] for one in each["Instances"]]

    [instance] = instances(tag__tier="fr*")
    assert {tag["Key"]: tag["Value"] for tag in instance["Tags"]} == {
        "Name": "web",
        "pktmirror:engine": "docker",
        "pktmirror:owner": "shop",
        "tier": "front",
    }, "what cannot be a tag of EC2 is in `pktmirror interfaces --json`"
    assert instances(tag__tier="back") == []
    [described] = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"]
    assert described["Description"].startswith("eth0 of web (")
    assert described["Attachment"]["InstanceId"] == instance["InstanceId"]
    [listed] = [each for each in plane.own("interfaces") if each["interface_id"] == eni]
    assert listed["facts"] == {
        "engine": "docker",
        "instance_id": web.facts and web.facts.instance_id,
        "name": "web",
        "owner": "shop",
        "labels": LABELS,
    }


def test_a_template_selects_by_labels_and_keeps_its_sessions_while_the_engine_says_nothing(plane: Plane) -> None:
    make = Maker(plane, plane.client())
    front, back = container("f1", "10.0.0.21", 21, role="front"), container("b1", "10.0.0.22", 22, role="back")
    front_id, _back_id, sensor = plane.find(silent(front), back, found("sensor", "10.0.0.200"))
    target_id = make.target(NetworkInterfaceId=sensor)
    parts = {"target_id": target_id, "filter_id": make.filter(), "number": 5, "limit": 10}
    put(plane, select={"labels": {"role": "fr?nt"}}, **parts)
    assert sources(plane) == set()
    plane.find(front)
    assert sources(plane) == {front_id}, "its engine is heard"
    plane.find(silent(front), silent(back))
    assert sources(plane) == {front_id}, "its engine does not answer"
    plane.find(container("f1", "10.0.0.21", 21, role="other"))
    assert sources(plane) == set(), "it has another label"
    refused = plane.own_answer(
        "templates/office/x",
        method="PUT",
        body=json.dumps({"name": "office/x", "select": {"labels": {"a": ""}}, **parts}),
    )
    assert refused.status_code == 400


def test_a_removed_container_ends_its_interface_and_its_sessions(plane: Plane) -> None:
    make = Maker(plane, plane.client())
    gone = container("gone", "10.0.0.31", 31)
    [eni] = plane.find(gone)
    session = make.session(NetworkInterfaceId=eni)
    plane.reported.pop(gone.key)
    plane.report(*plane.reported.values())
    assert eni in {each["interface_id"] for each in plane.own("interfaces")}, "stopped: it is detached"
    plane.report(*plane.reported.values(), deleted=(gone.key,))
    assert eni not in {each["interface_id"] for each in plane.own("interfaces")}
    assert session["TrafficMirrorSessionId"] not in str(plane.client().describe_traffic_mirror_sessions())


def test_after_an_upgrade_a_machine_keeps_its_eni_and_its_sessions_also_over_a_restart(tmp_path: Path) -> None:
    before = msgspec.structs.replace(
        found("vm", "10.0.0.7"), key="tap:vnet0", provider="tap", instance=None, device="vnet0", mac=MAC
    )
    facts = InstanceFacts(engine="libvirt", instance_id=MACHINE, name="vm")
    after = msgspec.structs.replace(
        before, key=f"libvirt:{MACHINE}/{MAC}", plain_key="tap:vnet0", provider="libvirt", instance=MACHINE, facts=facts
    )
    state = tmp_path / "state"
    with running(state) as plane:
        [eni] = plane.find(before)
        session = Maker(plane, plane.client()).session(NetworkInterfaceId=eni)
        desired = plane.desired()
        assert desired is not None
        assert desired.knows_plain_keys
        assert [one.key for one in desired.interfaces] == ["tap:vnet0"]
    with running(state) as plane:
        plane.report(after)
        [known] = [each for each in plane.own("interfaces") if each["host_id"] == HOST and each["attached"]]
        assert (known["interface_id"], known["key"]) == (eni, after.key)
        desired = plane.desired()
        assert desired is not None
        [placed] = desired.interfaces
        assert (placed.key, placed.interface_id) == (after.key, eni)
        assert [one.session_id for one in placed.sessions] == [session["TrafficMirrorSessionId"]]
        named = [{"Name": "tag:Name", "Values": ["vm"]}]
        [reservation] = plane.client().describe_instances(Filters=named)["Reservations"]
        [interface] = reservation["Instances"][0]["NetworkInterfaces"]
        assert interface["NetworkInterfaceId"] == eni


def test_a_record_whose_device_is_anothers_by_now_is_not_desired_of_it(tmp_path: Path) -> None:
    """Its sessions are of a machine that is gone: nothing of the one that has its tap's name now is copied."""
    before = msgspec.structs.replace(
        found("vm", "10.0.0.7"), key="tap:vnet0", provider="tap", instance=None, device="vnet0", mac="52:54:00:00:00:01"
    )
    after = msgspec.structs.replace(before, key=f"libvirt:{MACHINE}/{MAC}", plain_key="tap:vnet0", mac=MAC)
    with running(tmp_path / "state") as plane:
        [eni] = plane.find(before)
        make = Maker(plane, plane.client())
        session = make.session(NetworkInterfaceId=eni)
        plane.report(after)
        desired = plane.desired()
        assert desired is not None
        assert desired.interfaces == ()
        [told] = [
            each for each in plane.own("status")["sessions"] if each["session_id"] == session["TrafficMirrorSessionId"]
        ]
        assert told["problem"] == "interface gone"


def test_an_engine_that_does_not_answer_is_a_problem_of_its_host_and_counted(plane: Plane) -> None:
    engines = (
        EngineStatus(engine="docker", where="/run/docker.sock", asked=7, failed=2, instances=3, problem="it says no"),
        EngineStatus(engine="libvirt", where="qemu:///system", asked=7, failed=0, instances=1, left_out=3),
    )
    plane.report(*plane.reported.values(), engines=engines)
    [host] = [each for each in plane.own("status")["hosts"] if each["host_id"] == HOST]
    assert host["problems"] == [
        "libvirt at qemu:///system tells so long names and labels that those of 3 interfaces are left out, the "
        "longest: what was known of them before stays",
        "it says no (2 of 7 questions since the agent's start): names, labels and deletions of its instances stay as "
        "it told them last",
    ]
    assert [each["engine"] for each in host["engines"]] == ["docker", "libvirt"]
    metrics = scraped(plane).text
    labels = f'{{engine="docker",host="{HOST}",where="/run/docker.sock"}}'
    assert f"pktmirror_agent_engine_failures_total{labels} 2.0" in metrics
    assert f"pktmirror_agent_engine_answers{labels} 0.0" in metrics


@pytest.mark.parametrize(
    "facts",
    [
        InstanceFacts(engine="docker", instance_id=ID, name="web", labels={str(n): "" for n in range(LABELS_MAX + 1)}),
        InstanceFacts(engine="docker", instance_id=ID, name="web", labels={"a": "b\x1b[2J"}),
        InstanceFacts(engine="docker", instance_id=ID, name="w" * 257),
        InstanceFacts(engine="docker", instance_id=ID, name="web", owner="\n"),
    ],
)
def test_a_report_of_what_cannot_be_shown_is_refused(plane: Plane, facts: InstanceFacts) -> None:
    told = Report(
        host_id=HOST, agent_version="test", applied_revision=0, interfaces=(container("w", "10.0.0.1", 99, facts),)
    )
    answer = plane.agent("POST", f"agents/{HOST}/report", content=encode(told))
    assert answer.status_code == 400
    assert "no sense" in answer.text

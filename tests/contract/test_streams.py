"""The copies of all other hosts reach each agent, so that none mirrors a copy again (spec 5.19)."""

from pathlib import Path
from typing import Any

from pktmirror.control.history import WAYS_MAX
from pktmirror.desired import SessionStatus, StreamDocument
from tests.contract.conftest import Maker
from tests.contract.plane import Plane, found, running
from tests.contract.test_networks import OF_HOST


def test_a_host_is_told_the_copies_of_another_as_soon_as_they_can_be_sent(plane: Plane, ec2: Any, make: Maker) -> None:
    make.session()  # a host without sessions is told nothing
    plane.report(found("far", "10.0.1.220"), host="host-2")
    [far] = [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == "host-2"]
    [sensor] = plane.find(found("sensor", "10.0.1.221"))
    made = make.session(NetworkInterfaceId=far, TrafficMirrorTargetId=make.target(NetworkInterfaceId=sensor))
    stream = StreamDocument("10.0.1.220", "10.0.1.221", made["VirtualNetworkId"])
    here, there = plane.desired(), plane.desired("host-2")
    assert here is not None
    assert there is not None
    assert stream in here.streams
    assert stream not in there.streams
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=made["TrafficMirrorSessionId"], VirtualNetworkId=99)
    here = plane.desired(after=here.revision)
    assert here is not None
    assert StreamDocument("10.0.1.220", "10.0.1.221", 99) in here.streams
    assert stream not in here.streams
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=made["TrafficMirrorSessionId"])
    here = plane.desired(after=here.revision)
    assert here is not None
    assert "10.0.1.220" not in {each.outer_source for each in here.streams}


def test_an_outer_source_that_only_its_agent_knows_is_told_to_the_others(tmp_path: Path) -> None:
    with running(tmp_path / "state", OF_HOST) as plane:
        make = Maker(plane, plane.client())
        made = make.session(VirtualNetworkId=7)  # on host-1
        session_id = made["TrafficMirrorSessionId"]
        plane.report(found("far", "10.0.1.220"), host="host-2")
        [far] = [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == "host-2"]
        make.session(NetworkInterfaceId=far, VirtualNetworkId=8)
        there = plane.desired("host-2")
        assert there is not None
        assert there.streams == (), "nobody has said it yet"
        tell(plane, session_id, "10.0.0.3")
        there = plane.desired("host-2", after=there.revision)
        assert there is not None
        [stream] = there.streams
        assert (stream.outer_source, stream.vni) == ("10.0.0.3", 7)
        tell(plane, session_id, "10.0.0.3")
        assert plane.desired("host-2", after=there.revision) is None, "it is known"


def test_of_ever_other_outer_sources_so_many_are_remembered_and_the_last_is_always_one_of_them(tmp_path: Path) -> None:
    with running(tmp_path / "state", OF_HOST) as plane:
        make = Maker(plane, plane.client())
        session_id = make.session()["TrafficMirrorSessionId"]
        other_id = make.session()["TrafficMirrorSessionId"]
        plane.report(found("far", "10.0.1.220"), host="host-2")
        [far] = [known["interface_id"] for known in plane.own("interfaces") if known["host_id"] == "host-2"]
        make.session(NetworkInterfaceId=far)
        for number in range(WAYS_MAX - 1):
            tell(plane, session_id, f"10.9.0.{number}")
        assert "pairs of outer addresses" not in reason(plane, session_id)
        tell(plane, session_id, "10.9.1.0")
        there = plane.desired("host-2")
        assert there is not None
        assert len(there.streams) == WAYS_MAX
        assert "pairs of outer addresses" in reason(plane, session_id)
        for another in ("10.9.2.0", "10.9.3.0", "10.8.0.0"):
            tell(plane, session_id, another)
            there = plane.desired("host-2", after=there.revision)
            assert there is not None, "the other hosts are told of what is in use now"
            assert another in [stream.outer_source for stream in there.streams]
            assert len(there.streams) == WAYS_MAX
            tell(plane, session_id, another)
            assert plane.desired("host-2", after=there.revision) is None, "it is known"
        assert "pairs of outer addresses" in reason(plane, session_id)
        [told] = [host["problems"] for host in plane.own("status")["hosts"] if host["host_id"] == "host-1"]
        assert [problem for problem in told if "outer addresses" in problem and session_id in problem] == told
        assert len(told) == 1
        tell(plane, other_id, "10.9.2.0")
        there = plane.desired("host-2", after=there.revision)
        assert there is not None
        assert len(there.streams) == WAYS_MAX + 1
        assert "pairs of outer addresses" not in reason(plane, other_id)


def test_an_agent_whose_interface_has_ever_other_addresses_leaves_only_so_many_streams(
    plane: Plane, ec2: Any, make: Maker
) -> None:
    [source] = plane.find(found("restless", "10.0.2.1"))
    session_id = make.session(NetworkInterfaceId=source)["TrafficMirrorSessionId"]
    for number in range(2, WAYS_MAX + 5):
        plane.reported["netns:restless/eth0"] = found("restless", f"10.0.2.{number}")
        plane.report(*plane.reported.values())
    with plane.opened().read() as transaction:
        known = transaction.streams.where(session_id=session_id)
    assert len(known) == WAYS_MAX
    assert f"10.0.2.{WAYS_MAX + 4}" in [stream.outer_source for stream in known], "the one in use"
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, VirtualNetworkId=5)
    with plane.opened().read() as transaction:
        known = transaction.streams.where(session_id=session_id, vni=5)
    assert [stream.outer_source for stream in known] == [f"10.0.2.{WAYS_MAX + 4}"], "the operator is believed"


def test_all_outer_sources_that_an_agent_told_are_kept_for_the_address_that_its_target_has_now(tmp_path: Path) -> None:
    """Which of them is in use it does not tell again: another address of its target is no change of it."""
    with running(tmp_path / "state", OF_HOST) as plane:
        make = Maker(plane, plane.client())
        [sensor] = plane.find(found("sensor", "10.0.1.221"))
        made = make.session(TrafficMirrorTargetId=make.target(NetworkInterfaceId=sensor))
        session_id = made["TrafficMirrorSessionId"]
        for number in range(WAYS_MAX):
            tell(plane, session_id, f"10.9.0.{number}")
        plane.reported["netns:sensor/eth0"] = found("sensor", "10.0.1.222")
        plane.report(*plane.reported.values())
        with plane.opened().read() as transaction:
            known = transaction.streams.where(session_id=session_id)
        assert {(stream.outer_source, stream.outer_destination) for stream in known} == {
            (f"10.9.0.{number}", "10.0.1.222") for number in range(WAYS_MAX)
        }


def reason(plane: Plane, session_id: str) -> str:
    """Why the ledger does not compare the ends of a session."""
    [row] = [row for row in plane.own("ledger")["sessions"] if row["session_id"] == session_id]
    return str(row["collector"]["reason"])


def tell(plane: Plane, session_id: str, outer_source: str) -> None:
    told = SessionStatus(session_id=session_id, outer_source=outer_source)
    plane.report(*plane.reported.values(), statuses=(told,))

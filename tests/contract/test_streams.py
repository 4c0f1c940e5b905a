"""The copies of all other hosts reach each agent, so that none mirrors a copy again (spec 5.19)."""

from pathlib import Path
from typing import Any

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


def tell(plane: Plane, session_id: str, outer_source: str) -> None:
    told = SessionStatus(session_id=session_id, outer_source=outer_source)
    plane.report(*plane.reported.values(), statuses=(told,))

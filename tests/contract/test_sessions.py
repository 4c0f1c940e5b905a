"""Traffic mirror sessions as an unmodified client sees them. Numbers are those of the facts in the specification."""

import re
from typing import Any

import msgspec
import pytest

from pktmirror.desired import Destination
from tests.contract.conftest import Maker
from tests.contract.plane import Plane, code_of, found, refusal_of


def described(ec2: Any, session_id: str) -> dict[str, Any]:
    [session] = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session_id])["TrafficMirrorSessions"]
    return dict(session)


@pytest.mark.fact(3, 24)
def test_a_session_is_returned_with_what_was_asked_and_a_vni(ec2: Any, make: Maker) -> None:
    asked = make.session_parameters(SessionNumber=5, Description="d")
    made = make.session(**asked)
    assert re.fullmatch(r"tms-[0-9a-f]{17}", made["TrafficMirrorSessionId"]), "fact 3"
    assert 1 <= made["VirtualNetworkId"] <= 16777215, "fact 24"
    fresh = {name: made[name] for name in ("TrafficMirrorSessionId", "OwnerId", "VirtualNetworkId")}
    assert made == asked | fresh | {"Tags": []}
    assert described(ec2, made["TrafficMirrorSessionId"]) == made


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        pytest.param("SessionNumber", [0, 32767, -1], [1, 32766], id="session number", marks=pytest.mark.fact(18)),
        pytest.param("PacketLength", [0, 8501], [1, 8500], id="packet length", marks=pytest.mark.fact(22)),
        pytest.param("VirtualNetworkId", [0, 16777216], [1, 16777215], id="VNI", marks=pytest.mark.fact(26)),
    ],
)
def test_a_number_out_of_range(ec2: Any, make: Maker, name: str, bad: list[int], good: list[int]) -> None:
    asked = make.session_parameters()
    for value in bad:
        assert code_of(ec2.create_traffic_mirror_session, **(asked | {name: value})) == "InvalidParameterValue"
    for value in good:
        made = make.session(**(asked | {name: value}))
        assert made[name] == value
        for worse in bad:
            modify = {"TrafficMirrorSessionId": made["TrafficMirrorSessionId"], name: worse}
            assert code_of(ec2.modify_traffic_mirror_session, **modify) == "InvalidParameterValue"
        assert described(ec2, made["TrafficMirrorSessionId"]) == made
        ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=made["TrafficMirrorSessionId"])


@pytest.mark.fact(19)
def test_fact_19_a_number_is_used_once_on_an_interface(ec2: Any, make: Maker) -> None:
    target_id = make.target()
    first = make.session(TrafficMirrorTargetId=target_id, SessionNumber=3)
    again = {name: first[name] for name in ("NetworkInterfaceId", "TrafficMirrorTargetId", "TrafficMirrorFilterId")}
    code, message = refusal_of(ec2.create_traffic_mirror_session, **again, SessionNumber=3)
    assert code == "InvalidParameterValue"
    assert "already being used" in message
    second = make.session(**again, SessionNumber=4)
    modify = {"TrafficMirrorSessionId": second["TrafficMirrorSessionId"], "SessionNumber": 3}
    assert code_of(ec2.modify_traffic_mirror_session, **modify) == "InvalidParameterValue"
    make.session(TrafficMirrorTargetId=target_id, SessionNumber=3)


@pytest.mark.fact(20)
def test_fact_20_an_interface_has_three_sessions(ec2: Any, make: Maker) -> None:
    asked = make.session_parameters()
    for number in (1, 2, 3):
        make.session(**(asked | {"SessionNumber": number}))
    assert code_of(ec2.create_traffic_mirror_session, **(asked | {"SessionNumber": 4})) == (
        "TrafficMirrorSessionsPerInterfaceLimitExceeded"
    )


@pytest.mark.fact(21)
def test_fact_21_an_interface_target_takes_ten_sources_and_a_load_balancer_any_number(ec2: Any, make: Maker) -> None:
    sources = make.interfaces(11)
    target_id, nlb_id, filter_id = make.target(), make.nlb_target(), make.filter()
    for source in sources[:10]:
        make.session(NetworkInterfaceId=source, TrafficMirrorTargetId=target_id, TrafficMirrorFilterId=filter_id)
    more = {"TrafficMirrorTargetId": target_id, "TrafficMirrorFilterId": filter_id}
    make.session(NetworkInterfaceId=sources[0], SessionNumber=2, **more)
    asked = {"NetworkInterfaceId": sources[10], "SessionNumber": 1, **more}
    code, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert code == "TrafficMirrorSourcesPerTargetLimitExceeded"
    assert "Sources per interface-target limit reached (11)" in message
    for source in sources:
        made = make.session(
            NetworkInterfaceId=source, TrafficMirrorTargetId=nlb_id, TrafficMirrorFilterId=filter_id, SessionNumber=3
        )
    moved = {"TrafficMirrorSessionId": made["TrafficMirrorSessionId"], "TrafficMirrorTargetId": target_id}
    assert code_of(ec2.modify_traffic_mirror_session, **moved) == "TrafficMirrorSourcesPerTargetLimitExceeded"


@pytest.mark.fact(23, 29)
def test_fact_23_the_packet_length_of_a_load_balancer_defaults_to_8500(ec2: Any, make: Maker) -> None:
    to_interface, nlb_id = make.session(), make.nlb_target()
    assert "PacketLength" not in to_interface
    to_balancer = make.session(TrafficMirrorTargetId=nlb_id)
    assert to_balancer["PacketLength"] == 8500
    assert make.session(TrafficMirrorTargetId=nlb_id, PacketLength=99)["PacketLength"] == 99
    session_id = to_balancer["TrafficMirrorSessionId"]
    moved = ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, TrafficMirrorTargetId=make.target())
    assert moved["TrafficMirrorSession"]["TrafficMirrorSessionId"] == session_id, "fact 29"
    assert "PacketLength" not in moved["TrafficMirrorSession"]


@pytest.mark.fact(24, 25)
def test_facts_24_and_25_automatic_vnis_differ_and_chosen_ones_may_repeat(make: Maker) -> None:
    asked = make.session_parameters()
    automatic = [make.session(**(asked | {"SessionNumber": number})) for number in (1, 2, 3)]
    assert len({session["VirtualNetworkId"] for session in automatic}) == 3
    chosen = [make.session(VirtualNetworkId=7) for _ in range(2)]
    assert [session["VirtualNetworkId"] for session in chosen] == [7, 7]


@pytest.mark.fact(27, 28)
def test_facts_27_and_28_removed_fields_return_to_their_defaults(ec2: Any, make: Maker) -> None:
    made = make.session(VirtualNetworkId=9, PacketLength=100, Description="d")
    session_id = made["TrafficMirrorSessionId"]

    def modify(**change: Any) -> dict[str, Any]:
        answer = ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, **change)
        assert answer["TrafficMirrorSession"] == described(ec2, session_id)
        return dict(answer["TrafficMirrorSession"])

    changed = modify(Description="e", RemoveFields=["packet-length"])
    assert changed == {**{k: v for k, v in made.items() if k != "PacketLength"}, "Description": "e"}
    changed = modify(RemoveFields=["virtual-network-id", "description"])
    assert isinstance(changed["VirtualNetworkId"], int)
    assert changed["VirtualNetworkId"] != 9
    assert "Description" not in changed
    both = {"TrafficMirrorSessionId": session_id, "PacketLength": 5, "RemoveFields": ["packet-length"]}
    assert code_of(ec2.modify_traffic_mirror_session, **both) == "InvalidParameterCombination"
    on_balancer = make.session(TrafficMirrorTargetId=make.nlb_target(), PacketLength=50)
    answer = ec2.modify_traffic_mirror_session(
        TrafficMirrorSessionId=on_balancer["TrafficMirrorSessionId"], RemoveFields=["packet-length"]
    )
    assert answer["TrafficMirrorSession"]["PacketLength"] == 8500


@pytest.mark.fact(30)
def test_fact_30_the_source_of_a_session_cannot_be_changed(ec2: Any, make: Maker) -> None:
    members = ec2.meta.service_model.operation_model("ModifyTrafficMirrorSession").input_shape.members
    assert "NetworkInterfaceId" not in members


@pytest.mark.fact(33)
def test_fact_33_delete_returns_only_the_id(ec2: Any, make: Maker) -> None:
    session_id = make.session()["TrafficMirrorSessionId"]
    answer = ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
    answer.pop("ResponseMetadata")
    assert answer == {"TrafficMirrorSessionId": session_id}


@pytest.mark.fact(34)
@pytest.mark.parametrize(
    ("member", "code"),
    [
        ("NetworkInterfaceId", "InvalidNetworkInterfaceID.NotFound"),
        ("TrafficMirrorTargetId", "InvalidTrafficMirrorTargetId.NotFound"),
        ("TrafficMirrorFilterId", "InvalidTrafficMirrorFilterId.NotFound"),
    ],
)
def test_fact_34_a_session_of_something_unknown(ec2: Any, make: Maker, member: str, code: str) -> None:
    asked = make.session_parameters() | {member: "x-1"}
    found, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert found == code
    assert "'x-1' does not exist" in message


@pytest.mark.parametrize(
    ("interface", "reason"),
    [
        pytest.param(found("noaddress"), "no primary address is known", id="without an address"),
        pytest.param(
            found("trunk", "10.0.0.9", not_mirrorable="a bridge is no interface"), "a bridge is no", id="with a reason"
        ),
        pytest.param(
            msgspec.structs.replace(found("vnet0", not_mirrorable="nobody was heard"), mac=None),
            "nobody was heard",
            id="whose MAC is not known",
        ),
    ],
)
def test_an_interface_that_cannot_be_mirrored_is_listed_but_no_source(
    plane: Plane, ec2: Any, make: Maker, interface: Any, reason: str
) -> None:
    [interface_id] = plane.find(interface)
    [listed] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    assert listed.get("MacAddress") == interface.mac
    asked = make.session_parameters(NetworkInterfaceId=interface_id)
    code, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert code == "NetworkInterfaceNotSupported"
    assert interface_id in message
    assert reason in message


def test_an_interface_with_ipv6_alone_is_a_source_unlike_at_aws(plane: Plane, ec2: Any, make: Maker) -> None:
    ipv6 = msgspec.structs.replace(found("ipv6"), addresses=("2001:db8::48",))
    sensor = msgspec.structs.replace(found("sensor6"), addresses=("10.0.0.66", "2001:db8::66"))
    source, target = plane.find(ipv6, sensor)
    [listed] = ec2.describe_network_interfaces(NetworkInterfaceIds=[source])["NetworkInterfaces"]
    assert [each["Ipv6Address"] for each in listed["Ipv6Addresses"]] == ["2001:db8::48"]
    assert (listed.get("PrivateIpAddress"), listed["PrivateIpAddresses"]) == (None, [])
    make.session(
        NetworkInterfaceId=source, TrafficMirrorTargetId=make.target(NetworkInterfaceId=target), VirtualNetworkId=66
    )
    desired = plane.desired()
    assert desired is not None
    [placed] = [each for each in desired.interfaces if each.interface_id == source]
    delivery = placed.sessions[0].delivery
    assert isinstance(delivery, Destination)
    assert (delivery.outer_source, delivery.address) == ("2001:db8::48", "2001:db8::66")


@pytest.mark.fact(45)
def test_fact_45_and_decision_5_15_a_session_outlives_the_device_of_its_source(
    plane: Plane, ec2: Any, make: Maker
) -> None:
    [interface_id] = plane.find(found("fact45", "10.0.0.201"))
    session_id = make.session(NetworkInterfaceId=interface_id)["TrafficMirrorSessionId"]
    gone = plane.reported.pop("netns:fact45/eth0")
    plane.report(*plane.reported.values())

    def problem() -> str:
        return str(next(s["problem"] for s in plane.own("status")["sessions"] if s["session_id"] == session_id))

    assert problem() == "interface gone"
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    assert interface["Status"] == "available"
    assert "Attachment" not in interface
    assert described(ec2, session_id)["NetworkInterfaceId"] == interface_id
    make.session(NetworkInterfaceId=interface_id, SessionNumber=2)
    assert plane.find(gone) == [interface_id]
    assert problem() != "interface gone"

"""Traffic mirror targets as an unmodified client sees them. Numbers are those of the facts in the specification."""

import re
from itertools import combinations
from typing import Any

import pytest

from tests.contract.conftest import NLB, Maker
from tests.contract.plane import Plane, code_of, found, refusal_of

ENDPOINT = "vpce-0f3a0c0d0e0f1a2b3"


@pytest.mark.fact(1)
def test_fact_1_a_target_has_exactly_one_destination(ec2: Any, make: Maker) -> None:
    destinations = {
        "NetworkInterfaceId": make.interface(),
        "NetworkLoadBalancerArn": NLB,
        "GatewayLoadBalancerEndpointId": ENDPOINT,
    }
    before = ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    assert code_of(ec2.create_traffic_mirror_target, Description="of nothing") == "InvalidParameterValue"
    for number in (2, 3):
        for names in combinations(destinations, number):
            asked = {name: destinations[name] for name in names}
            assert code_of(ec2.create_traffic_mirror_target, **asked) == "InvalidParameterCombination"
    assert ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"] == before


@pytest.mark.fact(2, 3)
def test_facts_2_and_3_the_type_follows_the_destination_and_the_id_has_ec2s_form(ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    by_interface = ec2.create_traffic_mirror_target(NetworkInterfaceId=interface_id)["TrafficMirrorTarget"]
    assert by_interface.pop("TrafficMirrorTargetId").startswith("tmt-")
    assert re.fullmatch(r"\d{12}", by_interface.pop("OwnerId"))
    assert by_interface == {"Type": "network-interface", "NetworkInterfaceId": interface_id, "Tags": []}
    by_arn = ec2.create_traffic_mirror_target(NetworkLoadBalancerArn=NLB)["TrafficMirrorTarget"]
    assert by_arn["Type"] == "network-load-balancer"
    assert re.fullmatch(r"tmt-[0-9a-f]{17}", by_arn["TrafficMirrorTargetId"])
    by_endpoint = ec2.create_traffic_mirror_target(GatewayLoadBalancerEndpointId=ENDPOINT)["TrafficMirrorTarget"]
    target_id = by_endpoint["TrafficMirrorTargetId"]
    assert re.fullmatch(r"tmt-[0-9a-f]{17}", target_id)
    [described] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    assert described == by_endpoint
    assert described == {
        "TrafficMirrorTargetId": target_id,
        "Type": "gateway-load-balancer-endpoint",
        "GatewayLoadBalancerEndpointId": ENDPOINT,
        "OwnerId": by_arn["OwnerId"],
        "Tags": [],
    }


def test_what_is_no_id_of_an_endpoint_is_malformed(ec2: Any) -> None:
    for text in ("vpce-", "eni-1", "vpce-1/2"):
        code, message = refusal_of(ec2.create_traffic_mirror_target, GatewayLoadBalancerEndpointId=text)
        assert code == "InvalidVpcEndpointId.Malformed"
        assert text in message


@pytest.mark.fact(21, 47)
@pytest.mark.parametrize(
    ("target", "packet_length"),
    [
        pytest.param({"NetworkLoadBalancerArn": NLB}, 8500, id="a network load balancer"),
        pytest.param({"GatewayLoadBalancerEndpointId": "vpce-1"}, None, id="a gateway load balancer endpoint"),
    ],
)
def test_what_nothing_is_delivered_to_is_a_target_and_its_sessions_say_why(
    plane: Plane, ec2: Any, make: Maker, target: dict[str, str], packet_length: int | None
) -> None:
    target_id, filter_id, sources = make.target(**target), make.filter(), make.interfaces(11)
    more = {"TrafficMirrorTargetId": target_id, "TrafficMirrorFilterId": filter_id}
    made = [make.session(NetworkInterfaceId=source, **more) for source in sources]
    assert {session.get("PacketLength") for session in made} == {packet_length}
    problems = {session["session_id"]: session["problem"] for session in plane.own("status")["sessions"]}
    assert {problems[session["TrafficMirrorSessionId"]] for session in made} == {"target type not yet deliverable"}


@pytest.mark.parametrize("arn", ["nlb", NLB.replace("/net/", "/app/"), NLB + "/", NLB.replace("111122223333", "1")])
def test_an_arn_of_no_network_load_balancer_is_malformed(ec2: Any, arn: str) -> None:
    assert code_of(ec2.create_traffic_mirror_target, NetworkLoadBalancerArn=arn) == (
        "InvalidNetworkLoadBalancerArn.Malformed"
    )


def test_an_unknown_interface_is_no_target(ec2: Any) -> None:
    code, message = refusal_of(ec2.create_traffic_mirror_target, NetworkInterfaceId="eni-nowhere")
    assert code == "InvalidTrafficMirrorTarget"
    assert message == "The interface ID 'eni-nowhere' does not exist"


@pytest.mark.fact(30)
def test_fact_30_nothing_changes_the_description_of_a_target_or_a_filter(ec2: Any, make: Maker) -> None:
    assert not hasattr(ec2, "modify_traffic_mirror_target")
    target_id, filter_id = (
        make.target(NetworkInterfaceId=make.interface(), Description="t"),
        make.filter(Description="f"),
    )
    session_id = make.session(TrafficMirrorTargetId=target_id, TrafficMirrorFilterId=filter_id)[
        "TrafficMirrorSessionId"
    ]
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, Description="s")
    asked = {"TrafficMirrorFilterId": filter_id, "AddNetworkServices": ["amazon-dns"]}
    changed = ec2.modify_traffic_mirror_filter_network_services(**asked)["TrafficMirrorFilter"]
    ec2.create_tags(Resources=[target_id, filter_id], Tags=[{"Key": "Description", "Value": "tag"}])
    [target] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    [filter_] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])["TrafficMirrorFilters"]
    assert (target["Description"], filter_["Description"], changed["Description"]) == ("t", "f", "f")


@pytest.mark.fact(31, 33)
def test_fact_31_a_target_in_use_is_not_deleted(ec2: Any, make: Maker) -> None:
    target_id = make.target()
    session = make.session(TrafficMirrorTargetId=target_id)
    delete = ec2.delete_traffic_mirror_target
    assert code_of(delete, TrafficMirrorTargetId=target_id) == "TrafficMirrorTargetInUseException"
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session["TrafficMirrorSessionId"])
    answer = delete(TrafficMirrorTargetId=target_id)
    answer.pop("ResponseMetadata")
    assert answer == {"TrafficMirrorTargetId": target_id}, "fact 33: only the id"
    assert code_of(delete, TrafficMirrorTargetId=target_id) == "InvalidTrafficMirrorTargetId.NotFound"


@pytest.mark.fact(44)
def test_fact_44_a_target_is_no_source_and_a_source_no_target(ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    target_id = make.target(NetworkInterfaceId=interface_id)
    asked = make.session_parameters(NetworkInterfaceId=interface_id)
    code, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert code == "InvalidParameterValue"
    assert f"{interface_id} is in use by target {target_id}" in message
    source = make.session()["NetworkInterfaceId"]
    code, message = refusal_of(ec2.create_traffic_mirror_target, NetworkInterfaceId=source)
    assert code == "InvalidParameterValue"
    assert "is in use by session tms-" in message


@pytest.mark.fact(46, 47)
def test_facts_46_and_47_objects_outlive_the_resource_behind_a_target_and_heal(
    plane: Plane, ec2: Any, make: Maker
) -> None:
    [target_eni] = plane.find(found("fact46", "10.0.0.200", mtu=9000))
    target_id = make.target(NetworkInterfaceId=target_eni)
    session = make.session(TrafficMirrorTargetId=target_id)

    def delivery() -> Any:
        desired = plane.desired()
        assert desired is not None
        [delivery] = [
            placed.delivery
            for interface in desired.interfaces
            for placed in interface.sessions
            if placed.session_id == session["TrafficMirrorSessionId"]
        ]
        return delivery

    assert (delivery().address, delivery().mtu) == ("10.0.0.200", 9000)
    gone = plane.reported.pop("netns:fact46/eth0")
    plane.report(*plane.reported.values())
    assert delivery().reason == "target interface gone"
    assert ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    session_id = session["TrafficMirrorSessionId"]
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, TrafficMirrorTargetId=make.nlb_target())
    assert delivery().reason == "target type not yet deliverable"
    other = make.target()
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, TrafficMirrorTargetId=other)
    assert delivery().address
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, TrafficMirrorTargetId=target_id)
    assert plane.find(gone) == [target_eni], "it is the same interface when it returns"
    assert delivery().address == "10.0.0.200"

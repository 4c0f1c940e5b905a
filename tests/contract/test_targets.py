"""Traffic mirror targets as an unmodified client sees them. Numbers are those of the facts in the specification."""

import re
from typing import Any

import pytest

from tests.contract.conftest import NLB, Maker
from tests.contract.plane import Plane, code_of, found, refusal_of


def test_fact_1_a_target_has_exactly_one_destination(ec2: Any, make: Maker) -> None:
    before = ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
    assert code_of(ec2.create_traffic_mirror_target) == "InvalidParameterValue"
    both = {"NetworkInterfaceId": make.interface(), "NetworkLoadBalancerArn": NLB}
    assert code_of(ec2.create_traffic_mirror_target, **both) == "InvalidParameterCombination"
    assert ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"] == before


def test_facts_2_and_3_the_type_follows_the_destination_and_the_id_has_ec2s_form(ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    by_interface = ec2.create_traffic_mirror_target(NetworkInterfaceId=interface_id)["TrafficMirrorTarget"]
    assert by_interface.pop("TrafficMirrorTargetId").startswith("tmt-")
    assert re.fullmatch(r"\d{12}", by_interface.pop("OwnerId"))
    assert by_interface == {"Type": "network-interface", "NetworkInterfaceId": interface_id, "Tags": []}
    by_arn = ec2.create_traffic_mirror_target(NetworkLoadBalancerArn=NLB)["TrafficMirrorTarget"]
    assert by_arn["Type"] == "network-load-balancer"
    assert re.fullmatch(r"tmt-[0-9a-f]{17}", by_arn["TrafficMirrorTargetId"])


def test_a_gateway_load_balancer_endpoint_is_refused_with_a_sentence(ec2: Any) -> None:
    code, message = refusal_of(ec2.create_traffic_mirror_target, GatewayLoadBalancerEndpointId="vpce-1")
    assert code == "UnsupportedOperation"
    assert "not offered by pktmirror yet" in message


@pytest.mark.parametrize("arn", ["nlb", NLB.replace("/net/", "/app/"), NLB + "/", NLB.replace("111122223333", "1")])
def test_an_arn_of_no_network_load_balancer_is_malformed(ec2: Any, arn: str) -> None:
    assert code_of(ec2.create_traffic_mirror_target, NetworkLoadBalancerArn=arn) == (
        "InvalidNetworkLoadBalancerArn.Malformed"
    )


def test_an_unknown_interface_is_no_target(ec2: Any) -> None:
    code, message = refusal_of(ec2.create_traffic_mirror_target, NetworkInterfaceId="eni-nowhere")
    assert code == "InvalidTrafficMirrorTarget"
    assert message == "The interface ID 'eni-nowhere' does not exist"


def test_fact_30_a_target_has_no_modify_call(ec2: Any, make: Maker) -> None:
    assert not hasattr(ec2, "modify_traffic_mirror_target")


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


def test_fact_44_a_target_is_no_source_and_a_source_no_target(ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    target_id = make.target(NetworkInterfaceId=interface_id)
    asked = make.session_parameters(NetworkInterfaceId=interface_id)
    code, message = refusal_of(ec2.create_traffic_mirror_session, **asked)
    assert f"{interface_id} is in use by target {target_id}" in message
    source = make.session()["NetworkInterfaceId"]
    code, message = refusal_of(ec2.create_traffic_mirror_target, NetworkInterfaceId=source)
    assert code == "InvalidParameterValue"
    assert "is in use by session tms-" in message


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

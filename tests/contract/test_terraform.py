"""Section 2.4 of the specification, fact 49: the calls that the terraform provider makes, and what it reads back.

The provider itself is not run here. Its order is: create with tokens and tags, read by id, modify with every changed
field in one call, read again and find no difference, delete, read and find nothing.
"""

from typing import Any
from uuid import uuid4

from tests.contract.conftest import NLB, Maker
from tests.contract.plane import code_of


def tagged(type_: str, **tags: str) -> dict[str, Any]:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {
        "ClientToken": str(uuid4()),
        "TagSpecifications": [{"ResourceType": f"traffic-mirror-{type_}", "Tags": listed}],
    }


def test_a_target_lives_and_dies(ec2: Any, make: Maker) -> None:
    made = ec2.create_traffic_mirror_target(NetworkLoadBalancerArn=NLB, Description="t", **tagged("target", a="1"))
    target_id = made["TrafficMirrorTarget"]["TrafficMirrorTargetId"]
    [read] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    assert read == made["TrafficMirrorTarget"]
    ec2.create_tags(Resources=[target_id], Tags=[{"Key": "b", "Value": "2"}])
    ec2.delete_tags(Resources=[target_id], Tags=[{"Key": "a"}])
    [read] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    assert read == made["TrafficMirrorTarget"] | {"Tags": [{"Key": "b", "Value": "2"}]}
    ec2.delete_traffic_mirror_target(TrafficMirrorTargetId=target_id)
    gone = {"TrafficMirrorTargetIds": [target_id]}
    assert code_of(ec2.describe_traffic_mirror_targets, **gone) == "InvalidTrafficMirrorTargetId.NotFound"


def test_a_filter_and_its_rules_live_and_die(ec2: Any) -> None:
    made = ec2.create_traffic_mirror_filter(Description="f", **tagged("filter", Name="f"))["TrafficMirrorFilter"]
    filter_id = made["TrafficMirrorFilterId"]
    ec2.modify_traffic_mirror_filter_network_services(
        TrafficMirrorFilterId=filter_id, AddNetworkServices=["amazon-dns"]
    )
    minimal = {
        "TrafficMirrorFilterId": filter_id,
        "TrafficDirection": "ingress",
        "RuleNumber": 1,
        "RuleAction": "accept",
        "DestinationCidrBlock": "10.0.0.0/16",
        "SourceCidrBlock": "0.0.0.0/0",
    }
    created = ec2.create_traffic_mirror_filter_rule(**minimal, ClientToken=str(uuid4()))["TrafficMirrorFilterRule"]
    rule_id = created["TrafficMirrorFilterRuleId"]

    def read() -> dict[str, Any]:
        [filter_] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])["TrafficMirrorFilters"]
        assert filter_["NetworkServices"] == ["amazon-dns"]
        assert filter_["Tags"] == [{"Key": "Name", "Value": "f"}]
        [rule] = [
            rule
            for rule in [*filter_["IngressFilterRules"], *filter_["EgressFilterRules"]]
            if rule["TrafficMirrorFilterRuleId"] == rule_id
        ]
        return dict(rule)

    assert read() == minimal | {"TrafficMirrorFilterRuleId": rule_id}
    full = {
        "TrafficDirection": "egress",
        "RuleNumber": 2,
        "RuleAction": "reject",
        "Protocol": 6,
        "Description": "full",
        "SourcePortRange": {"FromPort": 0, "ToPort": 10},
        "DestinationPortRange": {"FromPort": 22, "ToPort": 53},
    }
    ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, **full)
    assert read() == minimal | {"TrafficMirrorFilterRuleId": rule_id} | full
    ec2.modify_traffic_mirror_filter_rule(
        TrafficMirrorFilterRuleId=rule_id,
        TrafficDirection="ingress",
        RuleNumber=1,
        RuleAction="accept",
        RemoveFields=["protocol", "description", "source-port-range", "destination-port-range"],
    )
    assert read() == minimal | {"TrafficMirrorFilterRuleId": rule_id}
    ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id)
    ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=filter_id)
    gone = {"TrafficMirrorFilterIds": [filter_id]}
    assert code_of(ec2.describe_traffic_mirror_filters, **gone) == "InvalidTrafficMirrorFilterId.NotFound"


def test_a_session_lives_and_dies(ec2: Any, make: Maker) -> None:
    asked = make.session_parameters(TrafficMirrorTargetId=make.nlb_target())
    made = make.session(**asked, **tagged("session", Name="s"))
    session_id = made["TrafficMirrorSessionId"]

    def read() -> dict[str, Any]:
        answer = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session_id])
        [session] = answer["TrafficMirrorSessions"]
        return dict(session)

    assert read() == made
    assert made["PacketLength"] == 8500, "optional and computed"
    full = {"SessionNumber": 32766, "PacketLength": 1, "VirtualNetworkId": 16777215, "Description": "full"}
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, **full)
    assert read() == made | full
    removed = ["packet-length", "virtual-network-id", "description"]
    ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=session_id, SessionNumber=1, RemoveFields=removed)
    assert read() == made | {"VirtualNetworkId": read()["VirtualNetworkId"]}
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
    gone = {"TrafficMirrorSessionIds": [session_id]}
    assert code_of(ec2.describe_traffic_mirror_sessions, **gone) == "InvalidTrafficMirrorSessionId.NotFound"

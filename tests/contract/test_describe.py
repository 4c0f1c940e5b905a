"""Describe calls: filters, pages, unknown ids. Numbers are those of the facts in the specification."""

from typing import Any

import pytest

from tests.contract.conftest import NLB, Maker
from tests.contract.plane import Plane, code_of, refusal_of

CALLS = {
    "filters": ("describe_traffic_mirror_filters", "TrafficMirrorFilters", "TrafficMirrorFilterId"),
    "rules": ("describe_traffic_mirror_filter_rules", "TrafficMirrorFilterRules", "TrafficMirrorFilterRuleId"),
    "sessions": ("describe_traffic_mirror_sessions", "TrafficMirrorSessions", "TrafficMirrorSessionId"),
    "targets": ("describe_traffic_mirror_targets", "TrafficMirrorTargets", "TrafficMirrorTargetId"),
}


@pytest.fixture(scope="module")
def one_of_each(plane: Plane, ec2: Any) -> dict[str, dict[str, Any]]:
    """One resource of each kind that a filter finds, beside others that it must not find."""
    make = Maker(plane, ec2)
    target_id = make.target(NetworkInterfaceId=make.interface(), Description="the target")
    filter_id = make.filter(Description="the filter")
    rule = make.rule(
        filter_id, 77, Protocol=17, SourceCidrBlock="10.9.0.0/16", RuleAction="reject", Description="the rule"
    )
    make.rule(filter_id, 78, TrafficDirection="egress", Protocol=6)
    session = make.session(
        TrafficMirrorTargetId=target_id,
        TrafficMirrorFilterId=filter_id,
        SessionNumber=77,
        PacketLength=777,
        VirtualNetworkId=7777,
        Description="the session",
    )
    make.session()
    make.rule(make.filter(), DestinationCidrBlock="10.8.0.0/16")
    make.target(NetworkLoadBalancerArn=NLB, Description="a balancer")
    [target] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])["TrafficMirrorTargets"]
    [filter_] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])["TrafficMirrorFilters"]
    return {"targets": target, "filters": filter_, "rules": rule, "sessions": session}


def listed(ec2: Any, kind: str, **parameters: Any) -> list[str]:
    call, member, id_ = CALLS[kind]
    return [item[id_] for item in getattr(ec2, call)(**parameters)[member]]


DOCUMENTED = {
    "filters": {"description": "Description", "traffic-mirror-filter-id": "TrafficMirrorFilterId"},
    "rules": {
        "traffic-mirror-filter-rule-id": "TrafficMirrorFilterRuleId",
        "traffic-mirror-filter-id": "TrafficMirrorFilterId",
        "rule-number": "RuleNumber",
        "rule-action": "RuleAction",
        "traffic-direction": "TrafficDirection",
        "protocol": "Protocol",
        "source-cidr-block": "SourceCidrBlock",
        "destination-cidr-block": "DestinationCidrBlock",
        "description": "Description",
    },
    "sessions": {
        "description": "Description",
        "network-interface-id": "NetworkInterfaceId",
        "owner-id": "OwnerId",
        "packet-length": "PacketLength",
        "session-number": "SessionNumber",
        "traffic-mirror-filter-id": "TrafficMirrorFilterId",
        "traffic-mirror-session-id": "TrafficMirrorSessionId",
        "traffic-mirror-target-id": "TrafficMirrorTargetId",
        "virtual-network-id": "VirtualNetworkId",
    },
    "targets": {
        "description": "Description",
        "network-interface-id": "NetworkInterfaceId",
        "owner-id": "OwnerId",
        "traffic-mirror-target-id": "TrafficMirrorTargetId",
    },
}


@pytest.mark.fact(36)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in DOCUMENTED.items() for name in names])
def test_fact_36_each_documented_filter_works(ec2: Any, one_of_each: Any, kind: str, name: str) -> None:
    wanted = one_of_each[kind]
    id_ = wanted[CALLS[kind][2]]
    value = str(wanted[DOCUMENTED[kind][name]])
    found = listed(ec2, kind, Filters=[{"Name": name, "Values": [value]}])
    assert id_ in found
    assert listed(ec2, kind, Filters=[{"Name": name, "Values": [f"{value}x"]}]) == []
    everything = listed(ec2, kind)
    if name != "owner-id":
        assert len(found) < len(everything), "the others are not found"


@pytest.mark.fact(36)
def test_fact_36_targets_are_found_by_their_load_balancer(ec2: Any, one_of_each: Any) -> None:
    answer = ec2.describe_traffic_mirror_targets(Filters=[{"Name": "network-load-balancer-arn", "Values": [NLB]}])
    assert {target["Type"] for target in answer["TrafficMirrorTargets"]} == {"network-load-balancer"}


@pytest.mark.fact(36)
@pytest.mark.parametrize("kind", CALLS)
def test_fact_36_an_unknown_filter_is_refused(ec2: Any, kind: str) -> None:
    code, message = refusal_of(getattr(ec2, CALLS[kind][0]), Filters=[{"Name": "colour", "Values": ["red"]}])
    assert code == "InvalidFilter"
    assert "The filter 'colour' is invalid" in message


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_has_a_bounded_number_of_filters_and_values(ec2: Any, kind: str) -> None:
    filter_ = {"Name": "description", "Values": ["nothing has this"]}
    assert listed(ec2, kind, Filters=[filter_] * 50) == []
    describe = getattr(ec2, CALLS[kind][0])
    assert code_of(describe, Filters=[filter_] * 51) == "FilterLimitExceeded"
    assert code_of(describe, Filters=[filter_ | {"Values": ["x"] * 201}]) == "FilterLimitExceeded"


@pytest.mark.fact(37)
def test_fact_37_values_are_or_filters_are_and_and_there_are_wildcards(ec2: Any, make: Maker) -> None:
    a, b, c = (make.filter(Description=f"fact 37 {name}") for name in ("alpha", "beta", "gam*ma"))

    def found(*filters: tuple[str, list[str]]) -> set[str]:
        asked = [{"Name": name, "Values": values} for name, values in filters]
        return set(listed(ec2, "filters", Filters=asked))

    assert found(("description", ["fact 37 alpha", "fact 37 beta"])) == {a, b}
    assert found(("description", ["fact 37 *"]), ("traffic-mirror-filter-id", [a, c])) == {a, c}
    assert found(("description", ["fact 37 *"]), ("description", ["*beta"])) == {b}
    assert found(("description", ["fact 37 ?e?a"])) == {b}
    assert found(("description", ["fact 37 gam\\*ma"])) == {c}
    assert found(("description", ["FACT 37 *"])) == set()


@pytest.mark.fact(34)
@pytest.mark.parametrize("kind", CALLS)
def test_fact_34_an_unknown_id_is_not_found(ec2: Any, kind: str) -> None:
    call, _member, id_ = CALLS[kind]
    code, message = refusal_of(getattr(ec2, call), **{f"{id_}s": ["t-1"]})
    assert code == f"Invalid{id_}.NotFound"
    assert "'t-1' does not exist" in message


@pytest.mark.fact(35)
@pytest.mark.parametrize("kind", CALLS)
def test_fact_35_a_filter_that_matches_nothing_gives_an_empty_list(ec2: Any, kind: str) -> None:
    assert listed(ec2, kind, Filters=[{"Name": "description", "Values": ["nothing has this"]}]) == []


@pytest.mark.fact(38)
def test_fact_38_pages_of_five(ec2: Any, make: Maker) -> None:
    made = {make.filter(Description="fact 38") for _ in range(12)}
    asked: dict[str, Any] = {"Filters": [{"Name": "description", "Values": ["fact 38"]}], "MaxResults": 5}
    seen: list[str] = []
    sizes: list[int] = []
    token: dict[str, str] = {}
    while True:
        answer = ec2.describe_traffic_mirror_filters(**asked, **token)
        sizes.append(len(answer["TrafficMirrorFilters"]))
        seen += [filter_["TrafficMirrorFilterId"] for filter_ in answer["TrafficMirrorFilters"]]
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
        ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=seen[-1])  # the position is gone; the place is not
    assert sizes == [5, 5, 2]
    assert len(seen) == 12
    assert set(seen) == made


@pytest.mark.fact(38)
@pytest.mark.parametrize("max_results", [4, 1001, 0, -1])
@pytest.mark.parametrize("kind", CALLS)
def test_fact_38_pages_have_a_smallest_and_a_largest_size(ec2: Any, kind: str, max_results: int) -> None:
    assert code_of(getattr(ec2, CALLS[kind][0]), MaxResults=max_results) == "InvalidMaxResults"


@pytest.mark.fact(39)
def test_fact_39_a_forged_token_is_refused(ec2: Any, make: Maker) -> None:
    for _ in range(6):
        make.filter(Description="fact 39")
    describe = ec2.describe_traffic_mirror_filters
    asked = {"Filters": [{"Name": "description", "Values": ["fact 39"]}], "MaxResults": 5}
    token = describe(**asked)["NextToken"]
    changed = ("A" if token[0] != "A" else "B") + token[1:]
    for forged in ("x", "AAAA", changed, token[:-4], "é", token + "="):
        assert code_of(describe, **asked, NextToken=forged) == "InvalidPaginationToken", forged
    assert code_of(describe, MaxResults=5, NextToken=token) == "InvalidPaginationToken", "of another call"
    assert len(describe(**asked, NextToken=token)["TrafficMirrorFilters"]) == 1


@pytest.mark.fact(40)
def test_fact_40_paginators_enumerate_everything(ec2: Any, one_of_each: Any, make: Maker) -> None:
    for _ in range(7):
        make.session()
    for kind in ("filters", "sessions", "targets"):
        call, member, id_ = CALLS[kind]
        pages = ec2.get_paginator(call).paginate(PaginationConfig={"PageSize": 5})
        found = [item[id_] for page in pages for item in page[member]]
        assert sorted(found) == sorted(listed(ec2, kind))
        assert len(found) == len(set(found)) > 5
    assert not ec2.can_paginate("describe_traffic_mirror_filter_rules")


def test_the_inventory_is_described_in_ec2s_words(plane: Plane, ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface_id])["NetworkInterfaces"]
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    assert (vpc["CidrBlock"], vpc["Tags"]) == ("10.0.0.0/16", [{"Key": "Name", "Value": "office"}])
    subnets = {subnet["SubnetId"]: subnet for subnet in ec2.describe_subnets()["Subnets"]}
    assert subnets[interface["SubnetId"]]["CidrBlock"] == "10.0.0.0/24"
    assert interface["VpcId"] == vpc["VpcId"]
    assert interface["Status"] == "in-use"
    assert interface["InterfaceType"] == "interface"
    instance_id = interface["Attachment"]["InstanceId"]
    [reservation] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    [instance] = reservation["Instances"]
    assert instance["State"]["Name"] == "running"
    assert [i["NetworkInterfaceId"] for i in instance["NetworkInterfaces"]] == [interface_id]
    for name, value in (
        ("private-ip-address", interface["PrivateIpAddress"]),
        ("attachment.instance-id", instance_id),
        ("network-interface-id", interface_id),
    ):
        found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert [i["NetworkInterfaceId"] for i in found] == [interface_id], name
    by_vpc = ec2.describe_network_interfaces(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])
    assert interface_id in [i["NetworkInterfaceId"] for i in by_vpc["NetworkInterfaces"]]
    assert [region["RegionName"] for region in ec2.describe_regions()["Regions"]] == ["local-1"]
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in zones] == ["local-1a", "local-1b"]
    account = plane.client("sts").get_caller_identity()
    assert account["Account"] == interface["OwnerId"]
    assert account["Arn"] == f"arn:aws:iam::{account['Account']}:root"


@pytest.mark.parametrize(
    ("call", "parameters", "code"),
    [
        ("describe_network_interfaces", {"NetworkInterfaceIds": ["eni-1"]}, "InvalidNetworkInterfaceID.NotFound"),
        ("describe_instances", {"InstanceIds": ["i-1"]}, "InvalidInstanceID.NotFound"),
        ("describe_vpcs", {"VpcIds": ["vpc-1"]}, "InvalidVpcID.NotFound"),
        ("describe_subnets", {"SubnetIds": ["subnet-1"]}, "InvalidSubnetID.NotFound"),
        ("describe_regions", {"RegionNames": ["mars-1"]}, "InvalidParameterValue"),
        ("describe_availability_zones", {"ZoneNames": ["mars-1a"]}, "InvalidParameterValue"),
    ],
)
def test_what_surrounds_the_interfaces_is_not_found(ec2: Any, call: str, parameters: Any, code: str) -> None:
    assert code_of(getattr(ec2, call), **parameters) == code

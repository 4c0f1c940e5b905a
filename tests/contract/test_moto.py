"""What the traffic mirror tests of moto, a simulation of AWS, expect of the API: asked of this server.

Read in moto as of August 2026 and written anew. Where it differs from AWS, or from what is decided here, the test says
so. moto's interfaces need not exist; here they must.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import Maker
from tests.contract.plane import Plane, refusal_of, running

TAGS = [{"Key": "key1", "Value": "value1"}, {"Key": "key2", "Value": "value2"}]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """An account in which nobody has made anything."""
    with running(Path(tmp_path_factory.mktemp("empty")) / "state") as plane:
        yield plane


@pytest.mark.parametrize("kind", ["Filter", "FilterRule", "Session", "Target"])
def test_at_first_there_is_nothing(empty: Plane, kind: str) -> None:
    ec2 = empty.client()
    method = {name: method for method, name in ec2.meta.method_to_api_mapping.items()}[f"DescribeTrafficMirror{kind}s"]
    answer = getattr(ec2, method)()
    assert answer[f"TrafficMirror{kind}s"] == []
    assert "NextToken" not in answer


def test_a_filter_is_made_with_everything_that_a_caller_may_say(ec2: Any) -> None:
    answer = ec2.create_traffic_mirror_filter(
        Description="moto",
        TagSpecifications=[{"ResourceType": "traffic-mirror-filter", "Tags": TAGS}],
        ClientToken="token-of-a-filter",
        DryRun=False,
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0
    assert answer["ClientToken"] == "token-of-a-filter"
    made = answer["TrafficMirrorFilter"]
    assert made["TrafficMirrorFilterId"]
    assert (made["Description"], made["Tags"]) == ("moto", TAGS)


def test_a_target_is_made_with_everything_that_a_caller_may_say(ec2: Any, make: Maker) -> None:
    interface_id = make.interface()
    answer = ec2.create_traffic_mirror_target(
        NetworkInterfaceId=interface_id,
        Description="moto",
        TagSpecifications=[{"ResourceType": "traffic-mirror-target", "Tags": TAGS}],
        ClientToken="token-of-a-target",
        DryRun=False,
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0
    assert answer["ClientToken"] == "token-of-a-target"
    made = answer["TrafficMirrorTarget"]
    assert made.pop("TrafficMirrorTargetId")
    assert made.pop("OwnerId")
    assert made == {
        "Description": "moto",
        "NetworkInterfaceId": interface_id,
        "Tags": TAGS,
        "Type": "network-interface",
    }


def test_a_target_of_two_things_is_refused(ec2: Any) -> None:
    """moto answers `InvalidInput`, which is no code of EC2's."""
    both = {"NetworkInterfaceId": "string", "GatewayLoadBalancerEndpointId": "string"}
    code, message = refusal_of(ec2.create_traffic_mirror_target, **both)
    assert code == "InvalidParameterCombination"
    assert "Only one of NetworkInterfaceId, NetworkLoadBalancerArn or GatewayLoadBalancerEndpointId" in message


def test_a_filter_is_found_among_others_by_its_id_and_by_a_filter(ec2: Any, make: Maker) -> None:
    make.filter()
    make.filter(Description="one of three")
    last = make.filter(Description="the third of three")
    for asked in (
        {"TrafficMirrorFilterIds": [last]},
        {"Filters": [{"Name": "traffic-mirror-filter-id", "Values": [last]}]},
        {"Filters": [{"Name": "description", "Values": ["the third of three"]}]},
    ):
        [found] = ec2.describe_traffic_mirror_filters(**asked)["TrafficMirrorFilters"]
        assert found["TrafficMirrorFilterId"] == last


def test_a_target_is_found_among_others_by_its_id_and_by_a_filter(ec2: Any, make: Maker) -> None:
    interfaces = make.interfaces(3)
    *_, last = [make.target(NetworkInterfaceId=interface_id) for interface_id in interfaces]
    for asked in (
        {"TrafficMirrorTargetIds": [last]},
        {"Filters": [{"Name": "traffic-mirror-target-id", "Values": [last]}]},
        {"Filters": [{"Name": "network-interface-id", "Values": [interfaces[2]]}]},
    ):
        [found] = ec2.describe_traffic_mirror_targets(**asked)["TrafficMirrorTargets"]
        assert found["TrafficMirrorTargetId"] == last


def test_the_tags_of_each_resource_are_found_without_knowing_what_it_is(ec2: Any, make: Maker) -> None:
    """moto asks its Resource Groups Tagging API, which is not offered here; EC2's own call tells the same."""
    specifications = {
        kind: {"TagSpecifications": [{"ResourceType": f"traffic-mirror-{kind}", "Tags": TAGS}]}
        for kind in ("filter", "target")
    }
    filter_id = make.filter(**specifications["filter"])
    target_id = make.target(NetworkInterfaceId=make.interface(), **specifications["target"])
    for id_, kind in ((filter_id, "filter"), (target_id, "target")):
        found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [id_]}])["Tags"]
        assert [{"Key": tag["Key"], "Value": tag["Value"]} for tag in found] == TAGS
        assert {tag["ResourceType"] for tag in found} == {f"traffic-mirror-{kind}"}

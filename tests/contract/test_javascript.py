"""A client of another make: the AWS SDK for JavaScript, version 3, unmodified. It and boto3 see the same things."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.conftest import Maker, rule
from tests.contract.javascript_client import INSTALL_S, JavaScript, Refused, running
from tests.contract.plane import Plane

pytestmark = pytest.mark.timeout(INSTALL_S + 120)
"""The first of them may have to wait for npm."""


@pytest.fixture(scope="module")
def javascript(plane: Plane) -> Iterator[JavaScript]:
    with running(plane.environment) as speaking:
        yield speaking


def refusal(javascript: JavaScript, command: str, **input_: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        javascript(command, **input_)
    return refused.value


def test_what_one_client_makes_the_other_sees(javascript: JavaScript, ec2: Any, make: Maker) -> None:
    def tagged(type_: str) -> list[dict[str, Any]]:
        return [{"ResourceType": f"traffic-mirror-{type_}", "Tags": [{"Key": "Name", "Value": "ä & <b>\n"}]}]

    target = javascript(
        "CreateTrafficMirrorTarget",
        NetworkInterfaceId=make.interface(),
        Description="\"t\" — 'ü' 😀",
        TagSpecifications=tagged("target"),
    )["TrafficMirrorTarget"]
    filter_ = javascript("CreateTrafficMirrorFilter", TagSpecifications=tagged("filter"))["TrafficMirrorFilter"]
    filter_id = filter_["TrafficMirrorFilterId"]
    made = javascript(
        "CreateTrafficMirrorFilterRule",
        **rule(filter_id),
        Protocol=17,
        DestinationPortRange={"FromPort": 0, "ToPort": 53},
        TagSpecifications=tagged("filter-rule"),
    )["TrafficMirrorFilterRule"]
    session = javascript(
        "CreateTrafficMirrorSession",
        NetworkInterfaceId=make.interface(),
        TrafficMirrorTargetId=target["TrafficMirrorTargetId"],
        TrafficMirrorFilterId=filter_id,
        SessionNumber=1,
        TagSpecifications=tagged("session"),
    )["TrafficMirrorSession"]
    assert filter_["IngressFilterRules"] == filter_["EgressFilterRules"] == filter_["NetworkServices"] == []
    [seen] = ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target["TrafficMirrorTargetId"]])[
        "TrafficMirrorTargets"
    ]
    assert seen == target
    [seen] = ec2.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[session["TrafficMirrorSessionId"]])[
        "TrafficMirrorSessions"
    ]
    assert seen == session
    [seen] = ec2.describe_traffic_mirror_filter_rules(TrafficMirrorFilterId=filter_id)["TrafficMirrorFilterRules"]
    assert seen == made
    [seen] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])["TrafficMirrorFilters"]
    assert seen == filter_ | {"IngressFilterRules": [{name: made[name] for name in made if name != "Tags"}]}


@pytest.mark.parametrize(
    "command",
    [
        "DescribeTrafficMirrorTargets",
        "DescribeTrafficMirrorFilters",
        "DescribeTrafficMirrorFilterRules",
        "DescribeTrafficMirrorSessions",
        "DescribeTags",
        "DescribeNetworkInterfaces",
        "DescribeInstances",
        "DescribeVpcs",
        "DescribeSubnets",
        "DescribeRegions",
        "DescribeAvailabilityZones",
    ],
)
def test_both_clients_read_the_same(javascript: JavaScript, ec2: Any, make: Maker, command: str) -> None:
    session = make.session(PacketLength=99, VirtualNetworkId=7, Description="<&>")
    make.rule(session["TrafficMirrorFilterId"], Protocol=6, SourcePortRange={"FromPort": 1, "ToPort": 2})
    ec2.create_tags(Resources=[session["TrafficMirrorSessionId"]], Tags=[{"Key": "a", "Value": ""}])
    names = {name: method for method, name in ec2.meta.method_to_api_mapping.items()}
    expected = getattr(ec2, names[command])()
    expected.pop("ResponseMetadata")
    assert javascript(command) == expected
    assert any(expected.values())


def test_objects_are_changed_and_deleted(javascript: JavaScript, ec2: Any, make: Maker) -> None:
    made = make.session(PacketLength=99, Description="d")
    known = {"TrafficMirrorSessionId": made["TrafficMirrorSessionId"]}
    changed = javascript(
        "ModifyTrafficMirrorSession", **known, SessionNumber=2, RemoveFields=["packet-length", "description"]
    )["TrafficMirrorSession"]
    assert changed == {
        **{name: value for name, value in made.items() if name not in ("PacketLength", "Description")},
        "SessionNumber": 2,
    }
    filter_id = made["TrafficMirrorFilterId"]
    rule_id = make.rule(filter_id, Description="d")["TrafficMirrorFilterRuleId"]
    changed = javascript(
        "ModifyTrafficMirrorFilterRule", TrafficMirrorFilterRuleId=rule_id, RemoveFields=["description"]
    )
    assert changed["TrafficMirrorFilterRule"] == rule(filter_id) | {"TrafficMirrorFilterRuleId": rule_id}
    changed = javascript(
        "ModifyTrafficMirrorFilterNetworkServices", TrafficMirrorFilterId=filter_id, AddNetworkServices=["amazon-dns"]
    )
    assert changed["TrafficMirrorFilter"]["NetworkServices"] == ["amazon-dns"]
    javascript("CreateTags", Resources=[filter_id], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}])
    javascript("DeleteTags", Resources=[filter_id], Tags=[{"Key": "a"}, {"Key": "b", "Value": "other"}])
    [seen] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])["TrafficMirrorFilters"]
    assert seen["Tags"] == [{"Key": "b", "Value": ""}]
    for resource, id_ in (
        ("FilterRule", rule_id),
        ("Session", made["TrafficMirrorSessionId"]),
        ("Filter", filter_id),
        ("Target", made["TrafficMirrorTargetId"]),
    ):
        asked = {f"TrafficMirror{resource}Id": id_}
        assert javascript(f"DeleteTrafficMirror{resource}", **asked) == asked
        refused = refusal(javascript, f"DeleteTrafficMirror{resource}", **asked)
        assert refused.code == f"InvalidTrafficMirror{resource}Id.NotFound"


def test_its_paginators_enumerate_everything(javascript: JavaScript, ec2: Any, make: Maker) -> None:
    for _ in range(7):
        make.session()
    for kind in ("Filter", "Session", "Target"):
        pages = javascript.pages(f"DescribeTrafficMirror{kind}s", 5)
        whole = javascript(f"DescribeTrafficMirror{kind}s")[f"TrafficMirror{kind}s"]
        assert [len(page[f"TrafficMirror{kind}s"]) for page in pages[:-1]] == [5] * (len(pages) - 1)
        assert [item for page in pages for item in page[f"TrafficMirror{kind}s"]] == whole
        assert len(pages) > 1


def test_it_sends_a_token_of_its_own_and_a_repeated_one_makes_nothing_twice(javascript: JavaScript) -> None:
    first, second = (javascript("CreateTrafficMirrorFilter") for _ in range(2))
    assert first["ClientToken"] != second["ClientToken"]
    asked = {"Description": "d", "ClientToken": "of-the-caller"}
    made = javascript("CreateTrafficMirrorFilter", **asked)
    assert javascript("CreateTrafficMirrorFilter", **asked) == made
    changed = refusal(javascript, "CreateTrafficMirrorFilter", **asked | {"Description": "e"})
    assert (changed.code, changed.status) == ("IdempotentParameterMismatch", 400)


def test_it_throws_ec2s_errors(javascript: JavaScript, make: Maker) -> None:
    for command, input_, code, status in (
        ("CreateTrafficMirrorTarget", {}, "InvalidParameterValue", 400),
        ("CreateTrafficMirrorFilter", {"DryRun": True}, "DryRunOperation", 412),
        ("CreateTrafficMirrorFilterRule", {"TrafficMirrorFilterId": make.filter()}, "MissingParameter", 400),
        ("DescribeTrafficMirrorFilters", {"MaxResults": 4}, "InvalidMaxResults", 400),
        ("DescribeTrafficMirrorFilters", {"NextToken": "forged"}, "InvalidPaginationToken", 400),
        ("RunInstances", {"MinCount": 1, "MaxCount": 1}, "UnsupportedOperation", 400),
    ):
        refused = refusal(javascript, command, **input_)
        assert (refused.code, refused.status) == (code, status), refused
        assert refused.message
        assert refused.request_id

"""Tags as an unmodified client sees them. Numbers are those of the facts in the specification."""

from typing import Any

import pytest

from tests.contract.conftest import Maker, rule
from tests.contract.plane import code_of


def tags_of(ec2: Any, resource_id: str) -> dict[str, str]:
    answer = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [resource_id]}])
    return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}


@pytest.mark.fact(41)
def test_fact_41_tags_given_with_a_create_call_are_returned(ec2: Any, make: Maker) -> None:
    def specification(type_: str) -> list[dict[str, Any]]:
        return [{"ResourceType": type_, "Tags": [{"Key": "Name", "Value": type_}, {"Key": "empty"}]}]

    made = [
        ec2.create_traffic_mirror_target(
            NetworkInterfaceId=make.interface(), TagSpecifications=specification("traffic-mirror-target")
        )["TrafficMirrorTarget"],
        ec2.create_traffic_mirror_filter(TagSpecifications=specification("traffic-mirror-filter"))[
            "TrafficMirrorFilter"
        ],
        make.rule(make.filter(), TagSpecifications=specification("traffic-mirror-filter-rule")),
        make.session(TagSpecifications=specification("traffic-mirror-session")),
    ]
    for resource, type_ in zip(made, ("target", "filter", "filter-rule", "session"), strict=True):
        tags = {tag["Key"]: tag["Value"] for tag in resource["Tags"]}
        assert tags == {"Name": f"traffic-mirror-{type_}", "empty": ""}


@pytest.mark.fact(41)
def test_fact_41_tags_for_another_type_are_refused(ec2: Any, make: Maker) -> None:
    wrong = {"TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "a", "Value": "b"}]}]}
    before = ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]
    assert code_of(ec2.create_traffic_mirror_filter, **wrong) == "InvalidParameterValue"
    assert ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"] == before
    asked = rule(make.filter()) | wrong
    assert code_of(ec2.create_traffic_mirror_filter_rule, **asked) == "InvalidParameterValue"


@pytest.mark.fact(42)
def test_fact_42_create_overwrites_and_delete_looks_at_the_value(ec2: Any, make: Maker) -> None:
    one, other = make.filter(), make.filter()
    ec2.create_tags(Resources=[one, other], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    ec2.create_tags(Resources=[one], Tags=[{"Key": "a", "Value": "3"}])
    assert tags_of(ec2, one) == {"a": "3", "b": "2"}
    ec2.delete_tags(Resources=[one], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}])
    assert tags_of(ec2, one) == {"a": "3", "b": "2"}
    ec2.delete_tags(Resources=[one], Tags=[{"Key": "a", "Value": "3"}])
    assert tags_of(ec2, one) == {"b": "2"}
    ec2.delete_tags(Resources=[one], Tags=[{"Key": "b"}])
    assert tags_of(ec2, one) == {}
    assert tags_of(ec2, other) == {"a": "1", "b": "2"}
    ec2.delete_tags(Resources=[other])
    assert tags_of(ec2, other) == {}


@pytest.mark.fact(43)
def test_fact_43_tags_are_found_by_the_type_of_their_resource(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    ec2.create_tags(Resources=[filter_id, rule_id], Tags=[{"Key": "fact43", "Value": "x"}])
    by_type = {"Name": "resource-type", "Values": ["traffic-mirror-filter-rule"]}
    for more in ({"Name": "key", "Values": ["fact43"]}, {"Name": "tag:fact43", "Values": ["x"]}):
        [tag] = ec2.describe_tags(Filters=[by_type, more])["Tags"]
        assert tag == {
            "ResourceId": rule_id,
            "ResourceType": "traffic-mirror-filter-rule",
            "Key": "fact43",
            "Value": "x",
        }
    assert ec2.describe_tags(Filters=[by_type, {"Name": "value", "Values": ["y"]}])["Tags"] == []


def test_resources_are_found_by_their_tags(ec2: Any, make: Maker) -> None:
    filter_id, interface_id = make.filter(), make.interface()
    make.filter()
    ec2.create_tags(Resources=[filter_id, interface_id], Tags=[{"Key": "team", "Value": "red"}])
    for filters in ([{"Name": "tag:team", "Values": ["r*"]}], [{"Name": "tag-key", "Values": ["team"]}]):
        [found] = ec2.describe_traffic_mirror_filters(Filters=filters)["TrafficMirrorFilters"]
        assert found["TrafficMirrorFilterId"] == filter_id
        [interface] = ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        assert interface["NetworkInterfaceId"] == interface_id
        assert interface["TagSet"] == [{"Key": "team", "Value": "red"}]


@pytest.mark.parametrize("kind", ["target", "filter", "filter_rule", "session"])
def test_each_kind_is_found_by_its_tags_with_wildcards(ec2: Any, make: Maker, kind: str) -> None:
    made = {
        "target": make.target,
        "filter": make.filter,
        "filter_rule": lambda: make.rule(make.filter())["TrafficMirrorFilterRuleId"],
        "session": lambda: make.session()["TrafficMirrorSessionId"],
    }[kind]
    red, reddish, plain = made(), made(), made()
    ec2.create_tags(Resources=[red], Tags=[{"Key": "colour", "Value": "red"}, {"Key": "shape", "Value": "*"}])
    ec2.create_tags(Resources=[reddish], Tags=[{"Key": "colour", "Value": "reddish"}])
    describe = getattr(ec2, f"describe_traffic_mirror_{kind}s")
    member = "TrafficMirror" + "".join(part.title() for part in kind.split("_"))

    def found(*filters: tuple[str, str]) -> set[str]:
        asked = [{"Name": name, "Values": [value]} for name, value in filters]
        listed = describe(Filters=asked)[f"{member}s"]
        return {item[f"{member}Id"] for item in listed} & {red, reddish, plain}

    assert found(("tag:colour", "red")) == {red}
    assert found(("tag:colour", "red*")) == {red, reddish}
    assert found(("tag:colour", "red????")) == {reddish}
    assert found(("tag:shape", "\\*")) == {red}
    assert found(("tag-key", "col*")) == {red, reddish}
    assert found(("tag-key", "colour"), ("tag:shape", "?")) == {red}
    assert found(("tag:Colour", "*")) == set()


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        pytest.param([{"Key": "aws:x", "Value": ""}], "InvalidParameterValue", id="a reserved key"),
        pytest.param([{"Key": "k" * 128, "Value": ""}], "InvalidParameterValue", id="a key too long"),
        pytest.param([{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue", id="a value too long"),
        pytest.param([{"Key": "k"}, {"Key": "k"}], "InvalidParameterValue", id="a key twice"),
        pytest.param([{"Value": "v"}], "InvalidTagKey.Malformed", id="no key"),
        pytest.param([{"Key": "", "Value": "v"}], "InvalidTagKey.Malformed", id="an empty key"),
        pytest.param([{"Key": f"k{n}", "Value": ""} for n in range(51)], "TagLimitExceeded", id="51 tags"),
    ],
)
def test_bad_tags_change_nothing(ec2: Any, make: Maker, tags: list[dict[str, str]], code: str) -> None:
    filter_id = make.filter()
    asked = {"Resources": [filter_id], "Tags": tags}
    assert code_of(ec2.create_tags, **asked) == code
    assert tags_of(ec2, filter_id) == {}


def test_a_tag_to_delete_has_a_key(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    ec2.create_tags(Resources=[filter_id], Tags=[{"Key": "a", "Value": "b"}])
    for tag in ({"Value": "b"}, {"Key": "", "Value": "b"}):
        asked = {"Resources": [filter_id], "Tags": [tag]}
        assert code_of(ec2.delete_tags, **asked) == "InvalidTagKey.Malformed"
    for key in ("aws:x", "AWS:x"):
        asked = {"Resources": [filter_id], "Tags": [{"Key": key}]}
        assert code_of(ec2.delete_tags, **asked) == "InvalidParameterValue"
    assert tags_of(ec2, filter_id) == {"a": "b"}


def test_tags_of_nothing(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    for resource_id, code in (
        ("tms-1", "InvalidTrafficMirrorSessionId.NotFound"),
        ("eni-1", "InvalidNetworkInterfaceID.NotFound"),
        ("vol-1", "InvalidID"),
    ):
        asked = {"Resources": [filter_id, resource_id], "Tags": [{"Key": "a", "Value": "b"}]}
        assert code_of(ec2.create_tags, **asked) == code
    assert tags_of(ec2, filter_id) == {}


def test_the_tags_of_what_is_deleted_are_gone(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    ec2.create_tags(Resources=[filter_id, rule_id], Tags=[{"Key": "gone", "Value": "soon"}])
    ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=filter_id)
    assert ec2.describe_tags(Filters=[{"Name": "key", "Values": ["gone"]}])["Tags"] == []

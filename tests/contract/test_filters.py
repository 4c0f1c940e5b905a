"""Filters and their rules as an unmodified client sees them. Numbers are those of the facts in the specification."""

import re
from typing import Any

import pytest

from tests.contract.conftest import Maker, rule
from tests.contract.plane import Plane, code_of, refusal_of


def described(ec2: Any, filter_id: str) -> dict[str, Any]:
    answer = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])
    [filter_] = answer["TrafficMirrorFilters"]
    return dict(filter_)


@pytest.mark.fact(3, 7)
def test_facts_3_and_7_a_new_filter_is_empty_and_says_so(ec2: Any) -> None:
    made = ec2.create_traffic_mirror_filter(Description="d")["TrafficMirrorFilter"]
    assert re.fullmatch(r"tmf-[0-9a-f]{17}", made.pop("TrafficMirrorFilterId"))
    assert made == {
        "Description": "d",
        "IngressFilterRules": [],
        "EgressFilterRules": [],
        "NetworkServices": [],
        "Tags": [],
    }


@pytest.mark.fact(8)
def test_fact_8_network_services_are_added_and_removed_by_a_call_of_their_own(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    modify = ec2.modify_traffic_mirror_filter_network_services

    def services(**change: Any) -> list[str]:
        answer = modify(TrafficMirrorFilterId=filter_id, **change)["TrafficMirrorFilter"]
        assert answer == described(ec2, filter_id)
        return list(answer["NetworkServices"])

    create = ec2.meta.service_model.operation_model("CreateTrafficMirrorFilter")
    assert "NetworkServices" not in create.input_shape.members
    assert services(AddNetworkServices=["amazon-dns"]) == ["amazon-dns"]
    assert services(AddNetworkServices=["amazon-dns"]) == ["amazon-dns"], "decision 5.12"
    bad = {"TrafficMirrorFilterId": filter_id, "AddNetworkServices": ["ntp"]}
    assert code_of(modify, **bad) == "InvalidParameterValue"
    assert services(RemoveNetworkServices=["amazon-dns"]) == []
    assert services(RemoveNetworkServices=["amazon-dns"]) == []


@pytest.mark.fact(9)
@pytest.mark.parametrize(
    "missing",
    [
        "TrafficMirrorFilterId",
        "TrafficDirection",
        "RuleNumber",
        "RuleAction",
        "DestinationCidrBlock",
        "SourceCidrBlock",
    ],
)
def test_fact_9_a_rule_without_a_required_member(ec2: Any, make: Maker, missing: str) -> None:
    asked = rule(make.filter())
    del asked[missing]
    assert code_of(ec2.create_traffic_mirror_filter_rule, **asked) == "MissingParameter"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"RuleAction": "allow"}, "InvalidParameterValue", id="action", marks=pytest.mark.fact(10)),
        pytest.param({"RuleAction": "ACCEPT"}, "InvalidParameterValue", id="capitals", marks=pytest.mark.fact(10)),
        pytest.param({"TrafficDirection": "in"}, "InvalidParameterValue", id="way", marks=pytest.mark.fact(10)),
        pytest.param({"DestinationCidrBlock": "::/0"}, "InvalidParameterValue", id="to6", marks=pytest.mark.fact(11)),
        pytest.param({"SourceCidrBlock": "::/0"}, "InvalidParameterValue", id="from6", marks=pytest.mark.fact(11)),
        pytest.param({"SourceCidrBlock": "10.0.0.0"}, "InvalidParameterValue", id="an address is no CIDR block"),
        pytest.param({"SourceCidrBlock": "10.0.0.0/33"}, "InvalidParameterValue", id="a prefix too long"),
        pytest.param({"RuleNumber": 0}, "InvalidParameterValue", id="decision 5.4: number 0"),
        pytest.param({"RuleNumber": 32767}, "InvalidParameterValue", id="decision 5.4: number 32767"),
        pytest.param({"Protocol": 256}, "InvalidParameterValue", id="protocol 256"),
        pytest.param({"Protocol": -1}, "InvalidParameterValue", id="protocol -1"),
        pytest.param(
            {"Protocol": 6, "SourcePortRange": {"FromPort": 2, "ToPort": 1}}, "InvalidParameterValue", id="ports back"
        ),
        pytest.param(
            {"Protocol": 6, "SourcePortRange": {"FromPort": 0, "ToPort": 65536}}, "InvalidParameterValue", id="port"
        ),
        pytest.param({"Protocol": 6, "SourcePortRange": {"FromPort": 1}}, "MissingParameter", id="half a range"),
        pytest.param(
            {"SourcePortRange": {"FromPort": 1, "ToPort": 2}}, "InvalidParameterCombination", id="ports, no protocol"
        ),
        pytest.param(
            {"Protocol": 1, "SourcePortRange": {"FromPort": 1, "ToPort": 2}},
            "InvalidParameterCombination",
            id="ports of ICMP",
        ),
        pytest.param({"Description": "x" * 256}, "InvalidParameterValue", id="a description too long"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(ec2: Any, make: Maker, change: dict[str, Any], code: str) -> None:
    filter_id = make.filter()
    assert code_of(ec2.create_traffic_mirror_filter_rule, **(rule(filter_id, 9) | change)) == code
    assert described(ec2, filter_id)["IngressFilterRules"] == []
    made = make.rule(filter_id)
    modify = {"TrafficMirrorFilterRuleId": made["TrafficMirrorFilterRuleId"], **change}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **modify) == code
    assert described(ec2, filter_id)["IngressFilterRules"] == [made]


@pytest.mark.fact(12)
def test_fact_12_a_number_is_used_once_in_a_direction(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    make.rule(filter_id, 7)
    again = rule(filter_id, 7)
    assert code_of(ec2.create_traffic_mirror_filter_rule, **again) == "TrafficMirrorFilterRuleAlreadyExists"
    other = make.rule(filter_id, 7, TrafficDirection="egress")
    modify = {"TrafficMirrorFilterRuleId": other["TrafficMirrorFilterRuleId"], "TrafficDirection": "ingress"}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **modify) == "TrafficMirrorFilterRuleAlreadyExists"


@pytest.mark.fact(13)
def test_fact_13_a_filter_holds_ten_rules_of_both_directions_together(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    for number in range(1, 6):
        make.rule(filter_id, number)
        make.rule(filter_id, number, TrafficDirection="egress")
    for way in ("ingress", "egress"):
        more = rule(filter_id, 6) | {"TrafficDirection": way}
        assert code_of(ec2.create_traffic_mirror_filter_rule, **more) == "TrafficMirrorFilterRuleLimitExceeded"
    make.rule(make.filter(), 6)
    gone = described(ec2, filter_id)["EgressFilterRules"][0]["TrafficMirrorFilterRuleId"]
    ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=gone)
    make.rule(filter_id, 6)


@pytest.mark.fact(3, 14)
def test_fact_14_what_a_rule_does_not_have_is_not_returned(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    made = make.rule(filter_id)
    rule_id = made["TrafficMirrorFilterRuleId"]
    assert re.fullmatch(r"tmfr-[0-9a-f]{17}", rule_id)
    assert made == rule(filter_id) | {"TrafficMirrorFilterRuleId": rule_id}
    assert described(ec2, filter_id)["IngressFilterRules"] == [made]


def test_bits_beyond_the_prefix_are_cleared(make: Maker) -> None:
    made = make.rule(make.filter(), SourceCidrBlock="10.0.0.6/24", DestinationCidrBlock="10.0.0.48/32")
    assert made["SourceCidrBlock"] == "10.0.0.0/24"
    assert made["DestinationCidrBlock"] == "10.0.0.48/32"


FULL = {
    "Protocol": 6,
    "Description": "full",
    "SourcePortRange": {"FromPort": 0, "ToPort": 65535},
    "DestinationPortRange": {"FromPort": 22, "ToPort": 22},
}


@pytest.mark.fact(15)
@pytest.mark.parametrize(
    ("field", "member"),
    [
        ("protocol", "Protocol"),
        ("description", "Description"),
        ("source-port-range", "SourcePortRange"),
        ("destination-port-range", "DestinationPortRange"),
    ],
)
def test_fact_15_remove_field_clears_that_member_only(ec2: Any, make: Maker, field: str, member: str) -> None:
    filter_id = make.filter()
    made = make.rule(filter_id, **FULL)
    rule_id = made["TrafficMirrorFilterRuleId"]
    answer = ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, RemoveFields=[field])
    expected = {name: value for name, value in made.items() if name != member}
    assert answer["TrafficMirrorFilterRule"] == expected
    assert described(ec2, filter_id)["IngressFilterRules"] == [expected]


@pytest.mark.fact(16)
def test_fact_16_a_port_range_is_added_together_with_its_protocol(ec2: Any, make: Maker) -> None:
    rule_id = make.rule(make.filter())["TrafficMirrorFilterRuleId"]
    change = {"TrafficMirrorFilterRuleId": rule_id, "DestinationPortRange": {"FromPort": 22, "ToPort": 23}}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **change) == "InvalidParameterCombination"
    changed = ec2.modify_traffic_mirror_filter_rule(**change, Protocol=6)["TrafficMirrorFilterRule"]
    assert (changed["Protocol"], changed["DestinationPortRange"]) == (6, {"FromPort": 22, "ToPort": 23})
    other = {"TrafficMirrorFilterRuleId": rule_id, "Protocol": 1}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **other) == "InvalidParameterCombination"
    source = {"FromPort": 1024, "ToPort": 65535}
    changed = ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, SourcePortRange=source)
    assert changed["TrafficMirrorFilterRule"]["SourcePortRange"] == source, "the rule has a protocol by now"


def test_a_field_is_set_or_removed(ec2: Any, make: Maker) -> None:
    rule_id = make.rule(make.filter())["TrafficMirrorFilterRuleId"]
    change = {"TrafficMirrorFilterRuleId": rule_id, "Description": "x", "RemoveFields": ["description"]}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **change) == "InvalidParameterCombination"
    change = {"TrafficMirrorFilterRuleId": rule_id, "RemoveFields": ["rule-number"]}
    assert code_of(ec2.modify_traffic_mirror_filter_rule, **change) == "InvalidParameterValue"


def test_everything_but_the_filter_of_a_rule_is_modified(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    change = FULL | {
        "TrafficDirection": "egress",
        "RuleNumber": 11,
        "RuleAction": "reject",
        "SourceCidrBlock": "2001:db8::/32",
        "DestinationCidrBlock": "::/0",
    }
    answer = ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, **change)
    expected = change | {"TrafficMirrorFilterRuleId": rule_id, "TrafficMirrorFilterId": filter_id}
    assert answer["TrafficMirrorFilterRule"] == expected
    assert described(ec2, filter_id)["IngressFilterRules"] == []
    assert described(ec2, filter_id)["EgressFilterRules"] == [expected]


@pytest.mark.fact(17)
def test_fact_17_modify_shows_no_tags_and_describe_rules_does(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    specification = [{"ResourceType": "traffic-mirror-filter-rule", "Tags": [{"Key": "a", "Value": "b"}]}]
    rule_id = make.rule(filter_id, TagSpecifications=specification)["TrafficMirrorFilterRuleId"]
    changed = ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, RuleNumber=9)
    assert "Tags" not in changed["TrafficMirrorFilterRule"]
    [listed] = ec2.describe_traffic_mirror_filter_rules(TrafficMirrorFilterId=filter_id)["TrafficMirrorFilterRules"]
    assert listed["Tags"] == [{"Key": "a", "Value": "b"}]


@pytest.mark.fact(31, 32, 33)
def test_facts_31_to_33_a_filter_goes_with_its_rules_unless_it_is_in_use(plane: Plane, ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    kept = make.filter()
    kept_rule = make.rule(kept)
    session = make.session(TrafficMirrorFilterId=filter_id)
    delete = ec2.delete_traffic_mirror_filter
    assert code_of(delete, TrafficMirrorFilterId=filter_id) == "TrafficMirrorFilterInUse"
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session["TrafficMirrorSessionId"])
    answer = delete(TrafficMirrorFilterId=filter_id)
    answer.pop("ResponseMetadata")
    assert answer == {"TrafficMirrorFilterId": filter_id}
    gone = {"TrafficMirrorFilterRuleIds": [rule_id]}
    assert code_of(ec2.describe_traffic_mirror_filter_rules, **gone) == "InvalidTrafficMirrorFilterRuleId.NotFound"
    assert described(ec2, kept)["IngressFilterRules"] == [kept_rule]
    answer = ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=kept_rule["TrafficMirrorFilterRuleId"])
    answer.pop("ResponseMetadata")
    assert answer == {"TrafficMirrorFilterRuleId": kept_rule["TrafficMirrorFilterRuleId"]}
    assert described(ec2, kept)["IngressFilterRules"] == []


def test_rules_are_listed_in_the_order_in_which_they_are_tried(ec2: Any, make: Maker) -> None:
    filter_id = make.filter()
    for number in (30, 10, 20):
        make.rule(filter_id, number)
    assert [line["RuleNumber"] for line in described(ec2, filter_id)["IngressFilterRules"]] == [10, 20, 30]


def test_an_unknown_rule_is_not_found(ec2: Any) -> None:
    code, message = refusal_of(ec2.delete_traffic_mirror_filter_rule, TrafficMirrorFilterRuleId="tmfr-1")
    assert code == "InvalidTrafficMirrorFilterRuleId.NotFound"
    assert "'tmfr-1' does not exist" in message

"""Who may do what: users of two accounts against a real server, by boto3. Each right that is refused stands below the
one that is allowed."""

import base64
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import boto3
import httpx
import psycopg
import pytest
from botocore.config import Config
from psycopg import sql

from pktmirror.control.store import Store
from tests.contract.conftest import rule
from tests.contract.plane import NETWORKS, Plane, code_of, found, refusal_of, running
from tests.contract.test_metrics import scraped
from tests.postgresql import Server

CAPTAIN = {"Effect": "Allow", "Action": "*", "Resource": "*"}
REFUSED = "UnauthorizedOperation"
HOWTO = Path(__file__).parents[2] / "docs/howto/allow-others.md"


@dataclass(frozen=True)
class Someone:
    """A key, and clients that use it."""

    url: str
    access_key_id: str
    secret: str

    @functools.cache  # noqa: B019 - a client takes long to make
    def client(self, service: str = "ec2") -> Any:
        return boto3.client(
            service,
            region_name="local-1",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret,
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
        )


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(*actions: str, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource} | more


class Office:
    """The operator's account and one more, red, with an interface each."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.root = Someone(
            plane.url, plane.environment["AWS_ACCESS_KEY_ID"], plane.environment["AWS_SECRET_ACCESS_KEY"]
        )
        answer = plane.own_answer("accounts/red", method="POST")
        assert answer.status_code == 200, answer.text
        made = answer.json()
        self.red_id = made["account_id"]
        self.red = Someone(plane.url, made["access_key_id"], made["secret_access_key"])
        self.own_id = str(plane.own("status")["account_id"])
        self.own_eni, self.red_eni, self.other_eni = plane.find(
            found("own", "10.0.0.5"), found("red", "10.0.0.6"), found("tool", "10.0.0.7")
        )
        assert plane.own_answer(f"assignments/{self.red_eni}", method="PUT", body="red").status_code == 204
        self._users = 0

    def user(self, *statements: dict[str, Any], of: Someone | None = None) -> tuple[str, Someone]:
        """A new user with one policy; none where no statement is given."""
        self._users += 1
        name, iam = f"user{self._users}", (of or self.root).client("iam")
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        if statements:
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(*statements))
        return name, Someone(self.plane.url, key["AccessKeyId"], key["SecretAccessKey"])

    def filter(self, **tags: str) -> str:
        given = [{"Key": key, "Value": value} for key, value in tags.items()]
        specifications = [{"ResourceType": "traffic-mirror-filter", "Tags": given}] if tags else []
        made = self.root.client().create_traffic_mirror_filter(TagSpecifications=specifications)
        return str(made["TrafficMirrorFilter"]["TrafficMirrorFilterId"])


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with running(tmp_path_factory.mktemp("office") / "state") as plane:
        yield Office(plane)


def dump(office: Office) -> Any:
    store = Store.open(office.plane.state / "pktmirror.sqlite")
    try:
        with store.read() as transaction:
            return transaction.dump()
    finally:
        store.close()


def test_each_key_is_of_somebody(office: Office) -> None:
    name, user = office.user()
    assert office.root.client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{office.own_id}:root"
    assert office.red.client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{office.red_id}:root"
    told = user.client("sts").get_caller_identity()  # a user without any right may ask this
    assert told["Arn"] == f"arn:aws:iam::{office.own_id}:user/{name}"
    assert (told["Account"], told["UserId"][:4]) == (office.own_id, "AIDA")


def test_a_user_may_do_what_a_policy_allows_and_nothing_else(office: Office) -> None:
    name, user = office.user(allow("ec2:DescribeTrafficMirrorFilters", "ec2:CreateTrafficMirrorFilter"))
    ec2 = user.client()
    made = ec2.create_traffic_mirror_filter(Description="mine")["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    assert made in [
        each["TrafficMirrorFilterId"] for each in ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]
    ]
    before = dump(office)
    code, message = refusal_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=made)
    assert code == REFUSED
    assert message == (
        f"You are not authorized to perform this operation. User: arn:aws:iam::{office.own_id}:user/{name} is not "
        "authorized to perform: ec2:DeleteTrafficMirrorFilter on resource: "
        f"arn:aws:ec2:local-1:{office.own_id}:traffic-mirror-filter/{made} because no identity-based policy allows "
        "the ec2:DeleteTrafficMirrorFilter action"
    )
    assert code_of(ec2.describe_traffic_mirror_sessions) == REFUSED
    assert code_of(ec2.describe_network_interfaces) == REFUSED
    assert code_of(user.client("iam").list_users) == "AccessDenied"
    assert dump(office) == before


def test_a_deny_wins_and_is_said(office: Office) -> None:
    deny = {"Effect": "Deny", "Action": "ec2:Delete*", "Resource": "*"}
    _, user = office.user(CAPTAIN, deny)
    filter_id = office.filter()
    assert user.client().describe_traffic_mirror_filters(TrafficMirrorFilterIds=[filter_id])
    code, message = refusal_of(user.client().delete_traffic_mirror_filter, TrafficMirrorFilterId=filter_id)
    assert (code, message.endswith("with an explicit deny in an identity-based policy")) == (REFUSED, True)


def test_fact_6_a_dry_run_says_whether_one_may(office: Office) -> None:
    _, user = office.user(allow("ec2:CreateTrafficMirrorFilter"))
    before = dump(office)
    assert code_of(user.client().create_traffic_mirror_filter, DryRun=True) == "DryRunOperation"
    assert (
        code_of(user.client().create_traffic_mirror_target, NetworkInterfaceId=office.own_eni, DryRun=True) == REFUSED
    )
    assert dump(office) == before


def test_a_session_needs_the_right_to_each_of_its_four_resources(office: Office) -> None:
    root = office.root.client()
    target = root.create_traffic_mirror_target(NetworkInterfaceId=office.other_eni)["TrafficMirrorTarget"]
    filter_id, prefix = office.filter(), f"arn:aws:ec2:*:{office.own_id}:"
    asked = {
        "NetworkInterfaceId": office.own_eni,
        "TrafficMirrorTargetId": target["TrafficMirrorTargetId"],
        "TrafficMirrorFilterId": filter_id,
        "SessionNumber": 1,
        "DryRun": True,
    }
    needed = [
        f"{prefix}network-interface/{office.own_eni}",
        f"{prefix}traffic-mirror-target/{target['TrafficMirrorTargetId']}",
        f"{prefix}traffic-mirror-filter/{filter_id}",
        f"{prefix}traffic-mirror-session/*",
    ]
    _, user = office.user(allow("ec2:CreateTrafficMirrorSession", resource=needed))
    assert code_of(user.client().create_traffic_mirror_session, **asked) == "DryRunOperation"
    for missing in needed:
        others = [each for each in needed if each != missing]
        _, user = office.user(allow("ec2:CreateTrafficMirrorSession", resource=others))
        code, message = refusal_of(user.client().create_traffic_mirror_session, **asked)
        assert (code, missing.rpartition(":")[2] in message) == (REFUSED, True)
    root.delete_traffic_mirror_target(TrafficMirrorTargetId=target["TrafficMirrorTargetId"])


def test_a_rule_needs_the_right_to_its_filter_too(office: Office) -> None:
    filter_id = office.filter()
    made = office.root.client().create_traffic_mirror_filter_rule(**rule(filter_id))["TrafficMirrorFilterRule"]
    rule_id = made["TrafficMirrorFilterRuleId"]
    both = [f"arn:aws:ec2:*:*:traffic-mirror-filter/{filter_id}", "arn:aws:ec2:*:*:traffic-mirror-filter-rule/*"]
    calls = ("ec2:ModifyTrafficMirrorFilterRule", "ec2:DeleteTrafficMirrorFilterRule")
    _, user = office.user(allow(*calls, resource=both))
    ec2 = user.client()
    assert ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id, RuleNumber=7)
    for one in both:
        _, other = office.user(allow(*calls, resource=one))
        assert code_of(other.client().delete_traffic_mirror_filter_rule, TrafficMirrorFilterRuleId=rule_id) == REFUSED
    assert ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=rule_id)


def test_tags_of_a_resource_and_of_a_request_decide(office: Office) -> None:
    red, blue = office.filter(team="red"), office.filter(team="blue")
    _, user = office.user(
        allow("ec2:DeleteTrafficMirrorFilter", Condition={"StringEquals": {"aws:ResourceTag/team": "red"}}),
        allow(
            "ec2:CreateTrafficMirrorFilter",
            "ec2:CreateTags",
            Condition={
                "StringEquals": {"aws:RequestTag/team": "red"},
                "ForAllValues:StringEquals": {"aws:TagKeys": ["team", "Name"]},
            },
        ),
    )
    ec2 = user.client()

    def create(**tags: str) -> dict[str, Any]:
        given = [{"Key": key, "Value": value} for key, value in tags.items()]
        return {"TagSpecifications": [{"ResourceType": "traffic-mirror-filter", "Tags": given}], "DryRun": True}

    assert ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=red)
    assert code_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=blue) == REFUSED
    assert code_of(ec2.create_traffic_mirror_filter, **create(team="red", Name="x")) == "DryRunOperation"
    assert code_of(ec2.create_traffic_mirror_filter, **create(team="blue")) == REFUSED
    assert code_of(ec2.create_traffic_mirror_filter, **create(team="red", owner="x")) == REFUSED
    assert code_of(ec2.create_traffic_mirror_filter, DryRun=True) == REFUSED


def test_tags_at_creation_need_the_right_to_tag_too(office: Office) -> None:
    tagged = {"TagSpecifications": [{"ResourceType": "traffic-mirror-filter", "Tags": [{"Key": "a", "Value": "b"}]}]}
    _, both = office.user(
        allow("ec2:CreateTrafficMirrorFilter"),
        allow("ec2:CreateTags", Condition={"StringEquals": {"ec2:CreateAction": "CreateTrafficMirrorFilter"}}),
    )
    _, one = office.user(allow("ec2:CreateTrafficMirrorFilter"))
    assert code_of(both.client().create_traffic_mirror_filter, DryRun=True, **tagged) == "DryRunOperation"
    assert code_of(one.client().create_traffic_mirror_filter, DryRun=True) == "DryRunOperation"
    code, message = refusal_of(one.client().create_traffic_mirror_filter, DryRun=True, **tagged)
    assert (code, "ec2:CreateTags" in message) == (REFUSED, True)
    # A right to tag what one makes is none to tag what is there.
    later = {"Resources": [office.filter()], "Tags": [{"Key": "a", "Value": "b"}]}
    assert code_of(both.client().create_tags, **later) == REFUSED


def test_the_network_and_the_attributes_decide(office: Office) -> None:
    [vpc_id] = [vpc["VpcId"] for vpc in office.root.client().describe_vpcs()["Vpcs"]]

    def may_target(vpc: str) -> str:
        condition = {"StringEquals": {"ec2:Vpc": f"arn:aws:ec2:local-1:{office.own_id}:vpc/{vpc}"}}
        _, user = office.user(
            allow("ec2:CreateTrafficMirrorTarget", resource="arn:aws:ec2:*:*:network-interface/*", Condition=condition),
            allow("ec2:CreateTrafficMirrorTarget", resource="arn:aws:ec2:*:*:traffic-mirror-target/*"),
        )
        return code_of(user.client().create_traffic_mirror_target, NetworkInterfaceId=office.other_eni, DryRun=True)

    assert may_target(vpc_id) == "DryRunOperation"
    assert may_target("vpc-00000000000000000") == REFUSED
    filter_id = office.filter()
    made = office.root.client().create_traffic_mirror_filter_rule(**rule(filter_id))["TrafficMirrorFilterRule"]
    _, user = office.user(
        allow(
            "ec2:ModifyTrafficMirrorFilterRule",
            Condition={"ForAllValues:StringEquals": {"ec2:Attribute": ["Description", "RuleNumber"]}},
        )
    )
    modify, rule_id = user.client().modify_traffic_mirror_filter_rule, made["TrafficMirrorFilterRuleId"]
    assert modify(TrafficMirrorFilterRuleId=rule_id, RuleNumber=8, RemoveFields=["description"])
    assert code_of(modify, TrafficMirrorFilterRuleId=rule_id, RuleAction="reject") == REFUSED
    assert code_of(modify, TrafficMirrorFilterRuleId=rule_id, RemoveFields=["protocol"]) == REFUSED


@pytest.mark.parametrize(
    ("key", "here", "elsewhere"),
    [
        ("ec2:NetworkInterfaceID", "{eni}", "eni-00000000000000000"),
        ("ec2:Subnet", "arn:aws:ec2:local-1:{own}:subnet/{subnet}", "arn:aws:ec2:local-1:{own}:subnet/subnet-0"),
        ("ec2:Subnet", "arn:aws:ec2:local-1:{own}:subnet/{subnet}", "{subnet}"),
        ("ec2:AvailabilityZone", "local-1b", "local-1a"),
        ("ec2:Region", "local-1", "us-east-1"),
    ],
)
def test_where_an_interface_is_decides_who_may_mirror_it_or_to_it(
    office: Office, key: str, here: str, elsewhere: str
) -> None:
    """For the calls that name an interface (spec 1.14); what names none has no such key but the region."""
    [eni] = office.plane.find(found("zoned", "10.0.1.9"))  # in subnet b, of zone local-1b
    root = office.root.client()
    [described] = root.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"]
    target = root.create_traffic_mirror_target(NetworkInterfaceId=office.other_eni)["TrafficMirrorTarget"]
    actions = ("ec2:CreateTrafficMirrorTarget", "ec2:CreateTrafficMirrorSession")
    asked = {
        "NetworkInterfaceId": eni,
        "TrafficMirrorTargetId": target["TrafficMirrorTargetId"],
        "TrafficMirrorFilterId": office.filter(),
        "SessionNumber": 1,
        "DryRun": True,
    }

    def codes(value: str) -> set[str]:
        named = value.format(own=office.own_id, eni=eni, subnet=described["SubnetId"])
        condition = {"StringEquals": {key: named}}
        _, user = office.user(
            allow(*actions, resource="arn:aws:ec2:*:*:network-interface/*", Condition=condition),
            allow(*actions, resource="arn:aws:ec2:*:*:traffic-mirror-*"),
        )
        ec2 = user.client()
        return {
            code_of(ec2.create_traffic_mirror_target, NetworkInterfaceId=eni, DryRun=True),
            code_of(ec2.create_traffic_mirror_session, **asked),
        }

    assert codes(here) == {"DryRunOperation"}
    assert codes(elsewhere) == {REFUSED}
    root.delete_traffic_mirror_target(TrafficMirrorTargetId=target["TrafficMirrorTargetId"])


def test_the_region_is_a_key_of_every_call_and_the_network_of_those_alone_that_name_an_interface(
    office: Office,
) -> None:
    for condition, may in (
        ({"ec2:Region": "local-1"}, True),
        ({"ec2:Region": "us-east-1"}, False),
        ({"ec2:AvailabilityZone": "local-1a"}, False),
    ):
        _, user = office.user(
            allow("ec2:DescribeTrafficMirrorFilters", "ec2:Create*", Condition={"StringEquals": condition})
        )
        create = code_of(user.client().create_traffic_mirror_filter, DryRun=True)
        describe = code_of(user.client().describe_traffic_mirror_filters, DryRun=True)
        assert {create, describe} == {"DryRunOperation" if may else REFUSED}, condition


def test_a_session_is_moved_to_a_target_only_by_who_has_the_right_to_that_target(office: Office) -> None:
    root = office.root.client()
    one, other, source = office.plane.find(*(found(f"move{n}", f"10.0.0.{40 + n}") for n in range(3)))
    targets = [
        root.create_traffic_mirror_target(NetworkInterfaceId=eni)["TrafficMirrorTarget"]["TrafficMirrorTargetId"]
        for eni in (one, other)
    ]
    made = root.create_traffic_mirror_session(
        NetworkInterfaceId=source,
        TrafficMirrorTargetId=targets[0],
        TrafficMirrorFilterId=office.filter(),
        SessionNumber=1,
    )["TrafficMirrorSession"]
    session, prefix = {"TrafficMirrorSessionId": made["TrafficMirrorSessionId"]}, f"arn:aws:ec2:*:{office.own_id}:"
    needed = [
        f"{prefix}traffic-mirror-session/{made['TrafficMirrorSessionId']}",
        f"{prefix}traffic-mirror-target/{targets[1]}",
    ]
    _, user = office.user(allow("ec2:ModifyTrafficMirrorSession", resource=needed))
    modify = functools.partial(user.client().modify_traffic_mirror_session, **session)
    assert modify(SessionNumber=2)["TrafficMirrorSession"]["SessionNumber"] == 2
    assert code_of(modify, TrafficMirrorTargetId=targets[0]) == REFUSED, "although it is the session's own"
    _, without = office.user(allow("ec2:ModifyTrafficMirrorSession", resource=needed[:1]))
    code, message = refusal_of(
        without.client().modify_traffic_mirror_session, **session, TrafficMirrorTargetId=targets[1]
    )
    assert (code, f"traffic-mirror-target/{targets[1]}" in message) == (REFUSED, True)
    assert root.describe_traffic_mirror_sessions(TrafficMirrorSessionIds=[made["TrafficMirrorSessionId"]])[
        "TrafficMirrorSessions"
    ] == [made | {"SessionNumber": 2}]
    moved = modify(TrafficMirrorTargetId=targets[1])["TrafficMirrorSession"]
    assert moved["TrafficMirrorTargetId"] == targets[1]
    root.delete_traffic_mirror_session(**session)
    for target_id in targets:
        root.delete_traffic_mirror_target(TrafficMirrorTargetId=target_id)


def test_a_target_behind_an_endpoint_needs_the_right_to_that_endpoint(office: Office) -> None:
    endpoint_id = "vpce-0123456789abcdef0"
    needed = [
        f"arn:aws:ec2:local-1:{office.own_id}:vpc-endpoint/{endpoint_id}",
        f"arn:aws:ec2:local-1:{office.own_id}:traffic-mirror-target/*",
    ]
    asked = {"GatewayLoadBalancerEndpointId": endpoint_id, "DryRun": True}

    def code(*resources: str) -> str:
        _, user = office.user(allow("ec2:CreateTrafficMirrorTarget", resource=list(resources)))
        return code_of(user.client().create_traffic_mirror_target, **asked)

    assert code(*needed) == "DryRunOperation"
    assert code(needed[0]) == code(needed[1]) == REFUSED
    assert code(needed[0].replace(endpoint_id, "vpce-0"), needed[1]) == REFUSED


def test_where_from_and_until_when_decide(office: Office) -> None:
    conditions = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}, "DateLessThan": {"aws:CurrentTime": "2099-01-01"}}
    elsewhere = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    over = {"DateLessThan": {"aws:CurrentTime": "2020-01-01"}}
    for condition, may in ((conditions, True), (elsewhere, False), (over, False)):
        _, user = office.user(allow("ec2:DescribeTrafficMirrorFilters", Condition=condition))
        if may:
            assert user.client().describe_traffic_mirror_filters()
        else:
            assert code_of(user.client().describe_traffic_mirror_filters) == REFUSED


def test_nobody_says_for_himself_where_he_comes_from(office: Office) -> None:
    condition = {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}
    _, user = office.user(allow("ec2:DescribeTrafficMirrorFilters", Condition=condition))
    client = user.client()
    client.meta.events.register(
        "before-sign.ec2.*", lambda request, **_: request.headers.add_header("X-Forwarded-For", "192.0.2.1")
    )
    assert code_of(client.describe_traffic_mirror_filters) == REFUSED


def test_the_policy_of_the_howto_holds_what_it_says(office: Office) -> None:
    root, tags = office.root.client(), {key: [{"Key": "team", "Value": key}] for key in ("red", "blue")}

    def tagged(team: str) -> dict[str, Any]:
        return {"TagSpecifications": [{"ResourceType": "traffic-mirror-session", "Tags": tags[team]}]}

    reds, blues = office.plane.find(found("howto-red", "10.0.0.11"), found("howto-blue", "10.0.0.12"))
    target = root.create_traffic_mirror_target(NetworkInterfaceId=office.other_eni)["TrafficMirrorTarget"]
    target_id, red, blue = target["TrafficMirrorTargetId"], office.filter(team="red"), office.filter(team="blue")
    root.create_tags(Resources=[reds, target_id], Tags=tags["red"])
    root.create_tags(Resources=[blues], Tags=tags["blue"])
    with_red = {"TrafficMirrorTargetId": target_id, "TrafficMirrorFilterId": red}
    others = [
        root.create_traffic_mirror_session(NetworkInterfaceId=blues, **with_red, SessionNumber=number, **specified)[
            "TrafficMirrorSession"
        ]["TrafficMirrorSessionId"]
        for number, specified in ((1, {}), (2, tagged("blue")))
    ]
    [document] = re.findall(r"```json\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    _, user = office.user(*json.loads(document)["Statement"])
    ec2 = user.client()
    assert ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
    create = functools.partial(ec2.create_traffic_mirror_session, SessionNumber=1)
    made = create(NetworkInterfaceId=reds, **with_red, **tagged("red"))["TrafficMirrorSession"]
    mine = {"TrafficMirrorSessionId": made["TrafficMirrorSessionId"]}
    before = dump(office)
    for refused in (
        {"NetworkInterfaceId": blues, **with_red, **tagged("red")},
        {"NetworkInterfaceId": reds, **with_red, "TrafficMirrorFilterId": blue, **tagged("red")},
        {"NetworkInterfaceId": reds, **with_red, **tagged("blue")},
        {"NetworkInterfaceId": reds, **with_red},
    ):
        assert code_of(create, **refused) == REFUSED, refused
    assert code_of(ec2.modify_traffic_mirror_session, **mine, TrafficMirrorFilterId=blue) == REFUSED
    for other in others:
        assert code_of(ec2.modify_traffic_mirror_session, TrafficMirrorSessionId=other, SessionNumber=9) == REFUSED
        assert code_of(ec2.delete_traffic_mirror_session, TrafficMirrorSessionId=other) == REFUSED
        assert code_of(ec2.create_tags, Resources=[other], Tags=tags["red"]) == REFUSED
    assert code_of(ec2.delete_tags, Resources=[mine["TrafficMirrorSessionId"]]) == REFUSED
    assert code_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=red) == REFUSED
    assert dump(office) == before
    assert ec2.modify_traffic_mirror_session(**mine, SessionNumber=9, TrafficMirrorFilterId=red)
    assert ec2.delete_traffic_mirror_session(**mine)
    for other in others:
        root.delete_traffic_mirror_session(TrafficMirrorSessionId=other)
    root.delete_traffic_mirror_target(TrafficMirrorTargetId=target_id)


def test_what_is_another_accounts_is_not_there(office: Office) -> None:
    own, red = office.root.client(), office.red.client()
    filter_id, red_filter = office.filter(team="own"), red.create_traffic_mirror_filter()["TrafficMirrorFilter"]
    red_id = red_filter["TrafficMirrorFilterId"]

    def listed(ec2: Any) -> set[str]:
        return {each["TrafficMirrorFilterId"] for each in ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]}

    assert (filter_id in listed(own), red_id in listed(own)) == (True, False)
    assert listed(red) == {red_id}
    not_found = "InvalidTrafficMirrorFilterId.NotFound"
    before = dump(office)
    assert code_of(red.describe_traffic_mirror_filters, TrafficMirrorFilterIds=[filter_id]) == not_found
    assert code_of(red.delete_traffic_mirror_filter, TrafficMirrorFilterId=filter_id) == not_found
    assert code_of(red.create_traffic_mirror_filter_rule, **rule(filter_id)) == not_found
    assert code_of(red.create_tags, Resources=[filter_id], Tags=[{"Key": "a", "Value": "b"}]) == not_found
    assert code_of(own.delete_traffic_mirror_filter, TrafficMirrorFilterId=red_id) == not_found
    assert dump(office) == before
    assert red.describe_tags()["Tags"] == []
    assert red.delete_traffic_mirror_filter(TrafficMirrorFilterId=red_id)


def test_an_interface_is_its_accounts_alone(office: Office) -> None:
    own, red = office.root.client(), office.red.client()
    [seen] = red.describe_network_interfaces()["NetworkInterfaces"]
    assert (seen["NetworkInterfaceId"], seen["OwnerId"]) == (office.red_eni, office.red_id)
    assert office.red_eni not in str(own.describe_network_interfaces()["NetworkInterfaces"])
    [instance] = [each for r in red.describe_instances()["Reservations"] for each in r["Instances"]]
    assert instance["Tags"] == [{"Key": "Name", "Value": "red"}]
    assert [vpc["VpcId"] for vpc in red.describe_vpcs()["Vpcs"]] == [seen["VpcId"]]
    asked = {"NetworkInterfaceId": office.own_eni}
    assert code_of(red.create_traffic_mirror_target, **asked) == "InvalidTrafficMirrorTarget"
    made = red.create_traffic_mirror_target(NetworkInterfaceId=office.red_eni)["TrafficMirrorTarget"]
    assert made["OwnerId"] == office.red_id
    in_use = office.plane.own_answer(f"assignments/{office.red_eni}", method="DELETE")
    assert in_use.json()["code"] == "DependencyViolation"
    red.delete_traffic_mirror_target(TrafficMirrorTargetId=made["TrafficMirrorTargetId"])


def test_a_client_token_of_one_account_is_unknown_to_another(office: Office) -> None:
    own = office.root.client().create_traffic_mirror_filter(ClientToken="same", Description="own")
    red = office.red.client().create_traffic_mirror_filter(ClientToken="same", Description="red")
    assert own["TrafficMirrorFilter"]["TrafficMirrorFilterId"] != red["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    again = office.red.client().create_traffic_mirror_filter(ClientToken="same", Description="red")
    assert again["TrafficMirrorFilter"] == red["TrafficMirrorFilter"]
    office.red.client().delete_traffic_mirror_filter(
        TrafficMirrorFilterId=red["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    )


def test_a_vpc_brings_its_interfaces_also_those_to_come_and_quotas_are_per_account(tmp_path: Any) -> None:
    networks = (
        f'{NETWORKS}\n[[vpc]]\nname = "lab"\ncidr = "10.1.0.0/16"\n[[vpc.subnet]]\nname = "l"\ncidr = "10.1.0.0/24"\n'
    )
    from pktmirror.model.limits import Quotas

    with running(tmp_path / "state", networks, quotas=Quotas(filters_per_account=1)) as plane:
        office = Office(plane)
        first, own = plane.find(found("first", "10.1.0.5"), found("home", "10.0.0.9"))
        [vpc_id] = [
            vpc["VpcId"] for vpc in office.root.client().describe_vpcs()["Vpcs"] if vpc["CidrBlock"] == "10.1.0.0/16"
        ]
        assert plane.own_answer(f"assignments/{vpc_id}", method="PUT", body=office.red_id).status_code == 204
        [second] = plane.find(found("second", "10.1.0.6"))
        red = office.red.client()
        seen = {each["NetworkInterfaceId"] for each in red.describe_network_interfaces()["NetworkInterfaces"]}
        assert seen == {first, second, office.red_eni}
        assert own not in seen
        mine = {each["VpcId"] for each in red.describe_vpcs()["Vpcs"]}
        assert vpc_id in mine
        assert vpc_id not in str(office.root.client().describe_vpcs()["Vpcs"])
        for ec2 in (red, office.root.client()):
            assert ec2.create_traffic_mirror_filter()
            assert code_of(ec2.create_traffic_mirror_filter) == "TrafficMirrorFilterLimitExceeded"


def test_what_is_not_understood_is_no_policy(office: Office) -> None:
    name, user = office.user(CAPTAIN)
    iam = office.root.client("iam")
    put = {"UserName": name, "PolicyName": "p"}
    bad = policy(allow("*", Condition={"StringEquals": {"aws:MultiFactorAuthPresent": "true"}}))
    code, message = refusal_of(iam.put_user_policy, **put, PolicyDocument=bad)
    assert (code, "aws:MultiFactorAuthPresent" in message) == ("MalformedPolicyDocument", True)
    assert iam.get_user_policy(**put)["PolicyDocument"]["Statement"] == [CAPTAIN]
    assert user.client().describe_traffic_mirror_filters()
    iam.put_user_policy(**put, PolicyDocument=policy(allow("ec2:DescribeVpcs")))
    assert code_of(user.client().describe_traffic_mirror_filters) == REFUSED
    iam.delete_user_policy(**put)
    assert code_of(user.client().describe_vpcs) == REFUSED


def test_a_key_that_is_inactive_or_gone_opens_nothing(office: Office) -> None:
    name, user = office.user(CAPTAIN)
    iam, key = office.root.client("iam"), {"UserName": name, "AccessKeyId": user.access_key_id}
    assert user.client().describe_traffic_mirror_filters()
    iam.update_access_key(**key, Status="Inactive")
    assert code_of(user.client().describe_traffic_mirror_filters) == "AuthFailure"
    iam.update_access_key(**key, Status="Active")
    assert user.client().describe_traffic_mirror_filters()
    assert code_of(iam.delete_user, UserName=name) == "DeleteConflict"
    iam.delete_access_key(**key)
    assert code_of(user.client().describe_traffic_mirror_filters) == "AuthFailure"


def test_the_last_key_of_a_root_stays(office: Office) -> None:
    for someone in (office.root, office.red):
        iam = someone.client("iam")
        assert code_of(iam.delete_access_key, AccessKeyId=someone.access_key_id) == "DeleteConflict"
        made = iam.create_access_key()["AccessKey"]
        assert code_of(iam.create_access_key) == "LimitExceeded"
        iam.delete_access_key(AccessKeyId=made["AccessKeyId"])


def test_users_of_other_accounts_are_not_there(office: Office) -> None:
    name, user = office.user(CAPTAIN, of=office.red)
    assert name in str(office.red.client("iam").list_users()["Users"])
    assert name not in str(office.root.client("iam").list_users()["Users"])
    gone = {"UserName": name, "AccessKeyId": user.access_key_id}
    assert code_of(office.root.client("iam").delete_access_key, **gone) == "NoSuchEntity"
    assert user.client().describe_traffic_mirror_filters()


def test_a_user_can_be_allowed_to_change_his_own_keys_only(office: Office) -> None:
    name, user = office.user(allow("iam:*AccessKey*", resource="arn:aws:iam::*:user/${aws:username}"))
    iam = user.client("iam")
    assert iam.list_access_keys()["AccessKeyMetadata"][0]["UserName"] == name
    assert iam.list_access_keys(UserName=name)
    other, _ = office.user()
    assert code_of(iam.create_access_key, UserName=other) == "AccessDenied"
    assert code_of(iam.put_user_policy, UserName=name, PolicyName="p", PolicyDocument=policy(CAPTAIN)) == "AccessDenied"


def test_the_operators_own_api_is_for_the_operators_account_and_by_its_policies(office: Office) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    def asked(someone: Someone, path: str, method: str = "GET") -> tuple[int, str]:
        request = AWSRequest(method, f"{office.plane.url}/pktmirror/v1/{path}", data=b"")
        SigV4Auth(Credentials(someone.access_key_id, someone.secret), "pktmirror", "local-1").add_auth(request)
        answer = httpx.request(method, request.url, headers=dict(request.headers.items()), trust_env=False, timeout=30)
        return answer.status_code, answer.text

    _, reader = office.user(allow("pktmirror:Get*"))
    assert asked(reader, "status")[0] == 200
    status, text = asked(reader, "accounts/blue", "POST")
    assert (status, "pktmirror:CreateAccount" in text) == (403, True)
    assert "blue" not in str(office.plane.own("accounts"))
    assert asked(office.red, "status")[0] == 403
    _, red_user = office.user(CAPTAIN, of=office.red)
    assert asked(red_user, "status")[0] == 403


def test_no_secret_stands_in_the_open(office: Office) -> None:
    _, user = office.user(CAPTAIN)
    for file in (path for path in office.plane.state.rglob("*") if path.is_file()):
        assert file.stat().st_mode & 0o077 == 0, file
        data = file.read_bytes()
        for secret in (user.secret, office.red.secret):
            assert secret.encode() not in data, file


def test_a_secret_is_shown_once_and_no_list_has_it(office: Office) -> None:
    name, user = office.user(CAPTAIN)
    iam = office.root.client("iam")
    for listed in (iam.list_access_keys(UserName=name), user.client("iam").list_access_keys()):
        [key] = listed["AccessKeyMetadata"]
        assert key.keys() == {"UserName", "AccessKeyId", "Status", "CreateDate"}
        assert key["AccessKeyId"] == user.access_key_id
        assert user.secret not in str(listed)


def test_no_secret_stands_in_the_open_in_postgresql(postgresql: Server, tmp_path: Path) -> None:
    store = postgresql.database()
    with running(tmp_path / "state", store=store) as plane:
        office = Office(plane)
        _, user = office.user(CAPTAIN)
        secrets = {"user": user.secret, "account": office.red.secret, "root": office.root.secret, "agents": plane.token}
        with psycopg.connect(store) as connection:
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
            ).fetchall()
            rows = {
                name: connection.execute(
                    sql.SQL("SELECT row_to_json(t)::text FROM {} AS t").format(sql.Identifier(name))
                ).fetchall()
                for (name,) in tables
            }
    held = "\n".join(row for of_table in rows.values() for (row,) in of_table)
    assert user.access_key_id in held, "the keys are among what was read"
    for whose, secret in secrets.items():
        for written in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode()):
            assert written not in held, whose


def test_a_signature_is_good_for_its_key_its_words_and_its_time_only(office: Office) -> None:
    _, user = office.user(allow("ec2:DescribeTrafficMirrorFilters"))
    _, other = office.user(CAPTAIN)
    body = "Action=DescribeTrafficMirrorFilters&Version=2016-11-15"

    def sent(headers: dict[str, str], content: str = body) -> tuple[int, str]:
        answer = httpx.post(f"{office.plane.url}/", content=content, headers=headers, trust_env=False, timeout=30)
        code = ElementTree.fromstring(answer.text).findtext("Errors/Error/Code")
        return answer.status_code, code or ""

    signed = signed_headers(user, body, datetime.now(UTC))
    before = dump(office)
    assert sent(signed) == (200, "")
    authorization = signed["Authorization"]
    as_other = signed | {"Authorization": authorization.replace(user.access_key_id, other.access_key_id)}
    assert sent(as_other) == (401, "AuthFailure")
    as_nobody = signed | {"Authorization": authorization.replace(user.access_key_id, "AKIANOBODY")}
    assert sent(as_nobody) == (401, "AuthFailure")
    tampered = body.replace("DescribeTrafficMirrorFilters", "CreateTrafficMirrorFilter")
    assert sent(signed, tampered) == (401, "AuthFailure")
    for minutes in (-6, 6):
        replayed = signed_headers(user, body, datetime.now(UTC) + timedelta(minutes=minutes))
        assert sent(replayed) == (400, "RequestExpired")
        fresh = signed_headers(user, body, datetime.now(UTC))
        assert sent(replayed | {"X-Amz-Date": fresh["X-Amz-Date"]})[0] in (400, 401)
    assert dump(office) == before


def test_a_signed_request_that_comes_again_within_five_minutes_counts_again(office: Office) -> None:
    """As on AWS: who may have heard it can repeat it, and a client token alone keeps it from happening twice."""
    _, user = office.user(allow("ec2:CreateTrafficMirrorFilter"))

    def sent(body: str, headers: dict[str, str]) -> tuple[int, str]:
        answer = httpx.post(f"{office.plane.url}/", content=body, headers=headers, trust_env=False, timeout=30)
        found = re.search("<trafficMirrorFilterId>(.*)</trafficMirrorFilterId>|<Code>(.*)</Code>", answer.text)
        assert found is not None
        return answer.status_code, found[1] or found[2]

    plain = "Action=CreateTrafficMirrorFilter&Version=2016-11-15"
    late = datetime.now(UTC) - timedelta(minutes=4)
    made = {}
    for body in (plain, f"{plain}&ClientToken=heard"):
        headers = signed_headers(user, body, late)
        made[body] = [sent(body, headers) for _ in range(2)]
        assert [status for status, _ in made[body]] == [200, 200]
    (_, first), (_, again) = made[plain]
    assert first != again
    (_, first), (_, again) = made[f"{plain}&ClientToken=heard"]
    assert first == again

    def expired() -> int:
        return int(office.plane.own("status")["refused_requests"].get("RequestExpired", 0))

    before, filters = expired(), dump(office)
    too_late = signed_headers(user, plain, datetime.now(UTC) - timedelta(minutes=6))
    assert sent(plain, too_late) == sent(plain, too_late) == (400, "RequestExpired")
    assert expired() == before + 2
    assert f'pktmirror_requests_refused_total{{code="RequestExpired"}} {expired()}.0' in scraped(office.plane).text
    assert dump(office) == filters


def signed_headers(someone: Someone, body: str, at: datetime) -> dict[str, str]:
    """Signed by AWS's algorithm at any time, which botocore's signer takes from the clock."""
    stamp, host = at.strftime("%Y%m%dT%H%M%SZ"), someone.url.removeprefix("http://")
    scope = f"{stamp[:8]}/local-1/ec2/aws4_request"
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    canonical = "\n".join(
        (
            *("POST", "/", "", f"content-type:{kind}", f"host:{host}", f"x-amz-date:{stamp}", ""),
            *("content-type;host;x-amz-date", hashlib.sha256(body.encode()).hexdigest()),
        )
    )
    key = f"AWS4{someone.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {
        "Content-Type": kind,
        "X-Amz-Date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={someone.access_key_id}/{scope}, "
        f"SignedHeaders=content-type;host;x-amz-date, Signature={signature}",
    }

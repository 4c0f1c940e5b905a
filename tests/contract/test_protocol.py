"""What all calls share: tokens, dry runs, errors, signatures. Numbers are those of the facts in the specification."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from pktmirror.aws import BODY_BYTES_MAX, service
from pktmirror.control.operations import OPERATIONS
from tests.contract.conftest import Maker, rule
from tests.contract.plane import Plane, code_of, refusal_of

EC2 = "{http://ec2.amazonaws.com/doc/2016-11-15/}"


def dump(plane: Plane) -> Any:
    """Every row of the store, read beside the running server."""
    store = plane.opened()
    try:
        with store.read() as transaction:
            return transaction.dump()
    finally:
        store.close()


def post(plane: Plane, body: str, *, secret: str | None = None, signed_for: str = "ec2") -> httpx.Response:
    known = plane.environment
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request = AWSRequest("POST", f"{plane.url}/", data=body.encode(), headers=headers)
    credentials = Credentials(known["AWS_ACCESS_KEY_ID"], secret or known["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, signed_for, "local-1").add_auth(request)
    return httpx.post(
        request.url, content=body.encode(), headers=dict(request.headers.items()), trust_env=False, timeout=30
    )


def creates(make: Maker) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each create call, its parameters, and a change of them."""
    return [
        ("target", {"NetworkInterfaceId": make.interface()}, {"Description": "other"}),
        ("filter", {"Description": "a"}, {"Description": "b"}),
        ("filter_rule", rule(make.filter()), {"RuleNumber": 11}),
        ("session", make.session_parameters(), {"SessionNumber": 2}),
    ]


@pytest.mark.fact(4, 5)
def test_facts_4_and_5_a_repeated_create_call_makes_nothing_twice(plane: Plane, ec2: Any, make: Maker) -> None:
    for number, (resource, asked, change) in enumerate(creates(make)):
        create = getattr(ec2, f"create_traffic_mirror_{resource}")
        asked["ClientToken"] = f"token-{number}"
        first = create(**asked)
        assert first["ClientToken"] == f"token-{number}"
        before = dump(plane)
        again = create(**asked)
        first.pop("ResponseMetadata")
        again.pop("ResponseMetadata")
        assert again == first
        assert code_of(create, **(asked | change)) == "IdempotentParameterMismatch"
        assert dump(plane) == before


@pytest.mark.fact(30)
@pytest.mark.parametrize(
    ("action", "parameter"),
    [
        ("ModifyTrafficMirrorSession&TrafficMirrorSessionId", "NetworkInterfaceId"),
        ("ModifyTrafficMirrorFilterNetworkServices&TrafficMirrorFilterId", "Description"),
        ("ModifyTrafficMirrorFilterRule&TrafficMirrorFilterRuleId", "TrafficMirrorFilterId"),
    ],
)
def test_what_cannot_be_changed_is_no_parameter(plane: Plane, action: str, parameter: str) -> None:
    answer = post(plane, f"Action={action}=x&Version=2016-11-15&{parameter}=y")
    error = ElementTree.fromstring(answer.text).find("Errors/Error")
    assert error is not None
    assert error.findtext("Code") == "UnknownParameter"
    assert error.findtext("Message") == f"The parameter {parameter} is not recognized"
    assert "ModifyTrafficMirrorTarget" not in service.operation_names("ec2")


@pytest.mark.fact(33)
def test_delete_calls_answer_with_the_id_and_nothing_else(plane: Plane, make: Maker) -> None:
    """To the element: an SDK would hide what its model does not know."""
    session = make.session()
    rule_id = make.rule(make.filter())["TrafficMirrorFilterRuleId"]
    for resource, id_ in (
        ("FilterRule", rule_id),
        ("Session", session["TrafficMirrorSessionId"]),
        ("Filter", session["TrafficMirrorFilterId"]),
        ("Target", session["TrafficMirrorTargetId"]),
    ):
        name = f"TrafficMirror{resource}Id"
        answer = post(plane, f"Action=DeleteTrafficMirror{resource}&Version=2016-11-15&{name}={id_}")
        told = {element.tag.removeprefix(EC2): element.text for element in ElementTree.fromstring(answer.text)}
        assert told.pop("requestId")
        assert told == {name[0].lower() + name[1:]: id_}


@pytest.mark.fact(34)
@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        ("Target", ["DeleteTrafficMirrorTarget"]),
        ("Filter", ["DeleteTrafficMirrorFilter", "ModifyTrafficMirrorFilterNetworkServices"]),
        ("Filter", ["DescribeTrafficMirrorFilterRules"]),
        ("FilterRule", ["DeleteTrafficMirrorFilterRule", "ModifyTrafficMirrorFilterRule"]),
        ("Session", ["DeleteTrafficMirrorSession", "ModifyTrafficMirrorSession"]),
    ],
)
def test_whatever_is_asked_of_something_unknown_it_is_not_found(plane: Plane, kind: str, actions: list[str]) -> None:
    name = f"TrafficMirror{kind}Id"
    for asked in (f"DescribeTrafficMirror{kind}s&{name}.1", *(f"{action}&{name}" for action in actions)):
        answer = post(plane, f"Action={asked}=x-1&Version=2016-11-15")
        assert answer.status_code == 400
        error = ElementTree.fromstring(answer.text).find("Errors/Error")
        assert error is not None
        assert error.findtext("Code") == f"Invalid{name}.NotFound"
        assert "'x-1' does not exist" in (error.findtext("Message") or "")


def test_a_token_that_comes_many_times_at_once_makes_one_thing(plane: Plane, ec2: Any) -> None:
    with ThreadPoolExecutor(8) as callers:
        made = list(
            callers.map(
                lambda _: ec2.create_traffic_mirror_filter(ClientToken="at-once", Description="at once"), range(16)
            )
        )
    assert len({answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"] for answer in made}) == 1
    asked = {"Filters": [{"Name": "description", "Values": ["at once"]}]}
    assert len(ec2.describe_traffic_mirror_filters(**asked)["TrafficMirrorFilters"]) == 1


def test_a_client_token_belongs_to_its_call(ec2: Any, make: Maker) -> None:
    make.filter(ClientToken="shared")
    make.target(NetworkInterfaceId=make.interface(), ClientToken="shared")
    assert code_of(ec2.create_traffic_mirror_filter, ClientToken="x" * 65) == "InvalidParameterValue"


@pytest.mark.fact(6)
def test_fact_6_a_dry_run_succeeds_by_an_error_and_changes_nothing(plane: Plane, ec2: Any, make: Maker) -> None:
    session = make.session()
    session_id, target_id = session["TrafficMirrorSessionId"], make.target()
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    parameters: dict[str, dict[str, Any]] = {
        "CreateTags": {"Resources": [filter_id], "Tags": [{"Key": "a", "Value": "b"}]},
        "DeleteTags": {"Resources": [filter_id]},
        "DeleteTrafficMirrorTarget": {"TrafficMirrorTargetId": target_id},
        "DeleteTrafficMirrorFilter": {"TrafficMirrorFilterId": filter_id},
        "DeleteTrafficMirrorFilterRule": {"TrafficMirrorFilterRuleId": rule_id},
        "DeleteTrafficMirrorSession": {"TrafficMirrorSessionId": session_id},
        "ModifyTrafficMirrorFilterRule": {"TrafficMirrorFilterRuleId": rule_id, "RuleNumber": 3},
        "ModifyTrafficMirrorSession": {"TrafficMirrorSessionId": session_id, "SessionNumber": 3},
        "ModifyTrafficMirrorFilterNetworkServices": {
            "TrafficMirrorFilterId": filter_id,
            "AddNetworkServices": ["amazon-dns"],
        },
    }
    for resource, asked, _change in creates(make):
        parameters["CreateTrafficMirror" + "".join(part.title() for part in resource.split("_"))] = asked
    before = dump(plane)
    names = {name: method for method, name in ec2.meta.method_to_api_mapping.items()}
    for of_service, operation in sorted(OPERATIONS):
        if of_service == "ec2":
            call = getattr(ec2, names[operation])
            code, message = refusal_of(call, DryRun=True, **parameters.get(operation, {}))
            assert (operation, code) == (operation, "DryRunOperation")
            assert message == "Request would have succeeded, but DryRun flag is set."
    bad = {"TrafficMirrorSessionId": "tms-1", "DryRun": True}
    assert code_of(ec2.delete_traffic_mirror_session, **bad) == "InvalidTrafficMirrorSessionId.NotFound"
    assert dump(plane) == before


def test_a_refused_call_changes_nothing(plane: Plane, ec2: Any, make: Maker) -> None:
    used = make.session()
    filter_id = make.filter()
    rule_id = make.rule(filter_id)["TrafficMirrorFilterRuleId"]
    session = {name: used[name] for name in ("NetworkInterfaceId", "TrafficMirrorTargetId", "TrafficMirrorFilterId")}
    many = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": f"{n}", "Value": ""} for n in range(51)]}]
    before = dump(plane)
    for call, asked in (
        (ec2.create_traffic_mirror_session, session | {"SessionNumber": 1}),
        (ec2.create_traffic_mirror_session, session | {"SessionNumber": 2, "TagSpecifications": many}),
        (ec2.create_traffic_mirror_filter_rule, rule(filter_id, 10)),
        (ec2.create_traffic_mirror_target, {"NetworkInterfaceId": used["NetworkInterfaceId"]}),
        (ec2.delete_traffic_mirror_filter, {"TrafficMirrorFilterId": used["TrafficMirrorFilterId"]}),
        (ec2.delete_traffic_mirror_target, {"TrafficMirrorTargetId": used["TrafficMirrorTargetId"]}),
        (ec2.modify_traffic_mirror_filter_rule, {"TrafficMirrorFilterRuleId": rule_id, "SourceCidrBlock": "::/0"}),
        (
            ec2.modify_traffic_mirror_session,
            {"TrafficMirrorSessionId": used["TrafficMirrorSessionId"], "TrafficMirrorTargetId": "tmt-1"},
        ),
        (ec2.create_tags, {"Resources": [filter_id, "tmf-1"], "Tags": [{"Key": "a", "Value": "b"}]}),
    ):
        assert code_of(call, **asked)
        assert dump(plane) == before, (call, asked)


@pytest.mark.fact(50)
def test_fact_50_the_xml_is_ec2s(plane: Plane) -> None:
    answer = post(plane, "Action=DescribeTrafficMirrorTargets&Version=2016-11-15")
    root = ElementTree.fromstring(answer.text)
    assert answer.status_code == 200
    assert root.tag == f"{EC2}DescribeTrafficMirrorTargetsResponse"
    assert root.findtext(f"{EC2}requestId") == answer.headers["x-amzn-requestid"]
    assert root.find(f"{EC2}trafficMirrorTargetSet") is not None
    refused = post(plane, "Action=DeleteTrafficMirrorTarget&Version=2016-11-15&TrafficMirrorTargetId=tmt-1")
    root = ElementTree.fromstring(refused.text)
    assert refused.status_code == 400
    assert root.tag == "Response"
    assert root.findtext("Errors/Error/Code") == "InvalidTrafficMirrorTargetId.NotFound"
    assert root.findtext("RequestID") == refused.headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    ("service_name", "method"),
    [("ec2", "describe_vpcs"), ("sts", "get_caller_identity"), ("cloudwatch", "list_metrics")],
)
def test_each_answer_has_an_id_of_its_own(plane: Plane, service_name: str, method: str) -> None:
    call = getattr(plane.client(service_name), method)
    ids = {call()["ResponseMetadata"]["RequestId"] for _ in range(3)}
    assert len(ids) == 3


def get(plane: Plane, query: str, signed_query: str | None = None) -> httpx.Response:
    """As `curl --aws-sigv4` does it; ``signed_query`` is what was signed in the place of what is sent."""
    known = plane.environment
    request = AWSRequest("GET", f"{plane.url}/?{query if signed_query is None else signed_query}")
    credentials = Credentials(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
    SigV4Auth(credentials, "ec2", "local-1").add_auth(request)
    return httpx.get(f"{plane.url}/?{query}", headers=dict(request.headers.items()), trust_env=False, timeout=30)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("way", [[], ["--get"]], ids=["POST", "GET"])
def test_curl_signs_by_itself(plane: Plane, make: Maker, way: list[str]) -> None:
    """Names in their order: curl up to 8 signs a query as it stands, where it has to be sorted."""
    known, filter_id = plane.environment, make.filter()
    asked = f"Action=DescribeTrafficMirrorFilters&TrafficMirrorFilterId.1={filter_id}&Version=2016-11-15"
    key = f"{known['AWS_ACCESS_KEY_ID']}:{known['AWS_SECRET_ACCESS_KEY']}"
    signing = ["--aws-sigv4", f"aws:amz:{known['AWS_REGION']}:ec2", "--config", "-"]
    ran = subprocess.run(
        ["curl", "--silent", "--show-error", "--noproxy", "*", *signing, *way, "--data", asked, f"{plane.url}/"],
        input=f'user = "{key}"',
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = ElementTree.fromstring(ran.stdout).findtext(f".//{EC2}trafficMirrorFilterId")
    assert found == filter_id, ran.stdout


def test_a_call_may_stand_in_the_query_of_a_get(plane: Plane, make: Maker) -> None:
    known, other = make.filter(Description="a b+c"), make.filter()
    asked = (
        "Action=DescribeTrafficMirrorFilters&Filter.1.Name=description&Filter.1.Value.1=a%20b%2Bc&Version=2016-11-15"
    )
    answer = get(plane, asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/xml")
    assert known in answer.text
    assert other not in answer.text
    forged = get(plane, asked.replace("a%20b%2Bc", "*"), signed_query=asked)
    assert forged.status_code == 401
    assert get(plane, "Colour=red").status_code == 400
    assert httpx.get(f"{plane.url}/?{asked}", trust_env=False, timeout=30).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1", 400, "UnsupportedOperation"),
        ("Action=MirrorTheWorld&Version=2016-11-15", 400, "InvalidAction"),
        ("Version=2016-11-15", 400, "MissingAction"),
        ("Action=DescribeVpcs&Version=2016-11-15&Colour=red", 400, "UnknownParameter"),
        ("Action=DescribeNetworkInterfaces&Version=2016-11-15&MaxResults=x", 400, "InvalidParameterValue"),
        ("Action=DescribeVpcs&Version=2016-11-15&DryRun=true", 412, "DryRunOperation"),
        (f"Action=DescribeVpcs&Version=2016-11-15&VpcId.1={'x' * BODY_BYTES_MAX}", 413, "RequestEntityTooLarge"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else None,
)
def test_a_bad_request_gets_its_code(plane: Plane, body: str, status: int, code: str) -> None:
    before = plane.own("status")["refused_requests"].get(code, 0)
    answer = post(plane, body)
    assert answer.status_code == status
    assert ElementTree.fromstring(answer.text).findtext("Errors/Error/Code") == code
    assert plane.own("status")["refused_requests"][code] == before + 1


def test_an_operation_that_is_not_offered_is_named(ec2: Any) -> None:
    code, message = refusal_of(ec2.create_vpc, CidrBlock="10.0.0.0/16")
    assert (code, message) == ("UnsupportedOperation", "CreateVpc is not offered by pktmirror.")


def test_a_parameter_that_is_not_offered_is_named(ec2: Any) -> None:
    code, message = refusal_of(ec2.create_tags, Resources=["tmf-1"], Tags=[{"Key": "a", "Value": "b"}], DryRun=False)
    assert code == "InvalidTrafficMirrorFilterId.NotFound", "all of these are offered"
    operation = ec2.meta.service_model.operation_model("DescribeNetworkInterfaces")
    for name in operation.input_shape.members.keys() - {
        "NetworkInterfaceIds",
        "Filters",
        "MaxResults",
        "NextToken",
        "DryRun",
    }:
        code, message = refusal_of(ec2.describe_network_interfaces, **{name: True})
        assert code == "UnsupportedOperation"
        assert name in message


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [
        ("AKIAAAAAAAAAAAAAAAAA", "x" * 40, "AuthFailure"),
        (None, "x" * 40, "AuthFailure"),
    ],
    ids=["an unknown key", "a wrong secret"],
)
def test_who_does_not_hold_a_key_is_refused(plane: Plane, key: str | None, secret: str, code: str) -> None:
    client = boto3.client(
        "ec2",
        region_name="local-1",
        endpoint_url=plane.url,
        aws_access_key_id=key or plane.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    before = dump(plane)
    assert code_of(client.create_traffic_mirror_filter) == code
    assert dump(plane) == before


def test_an_unsigned_request_is_refused(plane: Plane) -> None:
    answer = httpx.post(
        f"{plane.url}/", data={"Action": "DescribeVpcs", "Version": "2016-11-15"}, trust_env=False, timeout=30
    )
    assert answer.status_code == 403
    assert ElementTree.fromstring(answer.text).findtext("Errors/Error/Code") == "MissingAuthenticationToken"


def test_the_secret_stands_nowhere_in_the_open(plane: Plane) -> None:
    secret = plane.environment["AWS_SECRET_ACCESS_KEY"].encode()
    files = [path for path in plane.state.rglob("*") if path.is_file()]
    holding = {file.name for file in files if secret in file.read_bytes()}
    assert holding == {"aws-credentials", "client.json"}
    for file in [*plane.state.iterdir(), *files]:
        assert file.stat().st_mode & 0o077 == 0, f"{file.name} can be read by others"


def test_the_ready_files_are_enough_for_a_client(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(Path(plane.state) / "aws-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(Path(plane.state) / "aws-config"))
    session = boto3.session.Session()
    assert session.client("sts").get_caller_identity()["Account"] == plane.own("status")["account_id"]

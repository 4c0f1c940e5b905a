"""The audit log: every call, allowed or not, in CloudTrail's format; and what happens where it cannot be written."""

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from click.testing import Result
from typer.testing import CliRunner

from pktmirror.cli.program import app
from pktmirror.model.refusal import Refusal
from tests.contract.plane import Plane, code_of, refusal_of, running
from tests.contract.test_protocol import dump, post


def records(plane: Plane) -> list[dict[str, Any]]:
    text = "".join(path.read_text() for path in sorted((plane.state / "audit").glob("*.jsonl")))
    return [json.loads(line) for line in text.split("\n")[:-1]]


def last(plane: Plane, name: str) -> dict[str, Any]:
    return [each for each in records(plane) if each["eventName"] == name][-1]


def test_a_change_is_recorded_with_who_what_from_where_and_the_outcome(plane: Plane, ec2: Any) -> None:
    answer = ec2.create_traffic_mirror_filter(Description="for the record")
    made = answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
    record = last(plane, "CreateTrafficMirrorFilter")
    account = plane.own("status")["account_id"]
    assert record.keys() == {
        *("eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress"),
        *("userAgent", "requestParameters", "responseElements", "requestID", "eventID", "readOnly", "eventType"),
        *("managementEvent", "eventCategory", "recipientAccountId"),
    }
    assert record["userIdentity"] == {
        "type": "Root",
        "principalId": account,
        "arn": f"arn:aws:iam::{account}:root",
        "accountId": account,
        "accessKeyId": plane.environment["AWS_ACCESS_KEY_ID"],
    }
    assert (record["eventSource"], record["awsRegion"], record["sourceIPAddress"]) == (
        "ec2.amazonaws.com",
        "local-1",
        "127.0.0.1",
    )
    assert (record["eventVersion"], record["readOnly"], record["eventType"]) == ("1.08", False, "AwsApiCall")
    assert "Boto3" in record["userAgent"]
    assert record["requestParameters"]["description"] == "for the record"
    assert record["responseElements"]["trafficMirrorFilter"]["trafficMirrorFilterId"] == made
    assert record["requestID"] == answer["ResponseMetadata"]["RequestId"]


def test_a_read_a_refusal_and_a_dry_run_are_recorded_too(plane: Plane, ec2: Any) -> None:
    ec2.describe_traffic_mirror_filters(MaxResults=5)
    record = last(plane, "DescribeTrafficMirrorFilters")
    assert (record["readOnly"], record["responseElements"]) == (True, None)
    assert record["requestParameters"] == {"maxResults": 5}
    assert "errorCode" not in record
    code, message = refusal_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId="tmf-0")
    record = last(plane, "DeleteTrafficMirrorFilter")
    assert (record["errorCode"], record["errorMessage"]) == (f"Client.{code}", message)
    assert record["responseElements"] is None
    assert code_of(ec2.create_traffic_mirror_filter, DryRun=True) == "DryRunOperation"
    assert last(plane, "CreateTrafficMirrorFilter")["errorCode"] == "Client.DryRunOperation"
    plane.own("status")
    assert (last(plane, "GetStatus")["eventSource"], last(plane, "GetStatus")["readOnly"]) == ("pktmirror", True)


def test_who_cannot_prove_who_he_is_is_recorded_as_unknown(plane: Plane) -> None:
    assert post(plane, "Action=DescribeVpcs&Version=2016-11-15", secret="wrong").status_code == 401
    record = last(plane, "DescribeVpcs")
    assert record["userIdentity"] == {"type": "Unknown", "accessKeyId": plane.environment["AWS_ACCESS_KEY_ID"]}
    assert record["errorCode"] == "Client.AuthFailure"
    assert "recipientAccountId" not in record


def test_a_flood_of_unknown_callers_is_counted_and_not_kept(plane: Plane, ec2: Any) -> None:
    before, sent = len(records(plane)), 400
    client = boto3.client(
        "ec2",
        region_name="local-1",
        endpoint_url=plane.url,
        aws_access_key_id="AKIANOBODY",
        aws_secret_access_key="x",
        config=Config(retries={"total_max_attempts": 1}),
    )
    for _ in range(sent):
        assert code_of(client.describe_vpcs) == "AuthFailure"
    found = records(plane)[before:]
    left_out = sum(each.get("additionalEventData", {}).get("recordsOfUnknownCallersLeftOut", 0) for each in found)
    assert len(found) + left_out <= sent
    ec2.describe_vpcs()  # who is known is recorded all the same
    assert last(plane, "DescribeVpcs")["userIdentity"]["type"] == "Root"


def test_no_secret_is_ever_in_it(plane: Plane) -> None:
    iam = plane.client("iam")
    iam.create_user(UserName="audited")
    key = iam.create_access_key(UserName="audited")["AccessKey"]
    answer = plane.own_answer("accounts/audited", method="POST").json()
    record = last(plane, "CreateAccessKey")
    assert record["responseElements"]["accessKey"]["accessKeyId"] == key["AccessKeyId"]
    assert record["responseElements"]["accessKey"].keys() == {"userName", "accessKeyId", "status", "createDate"}
    text = json.dumps(records(plane))
    for secret in (key["SecretAccessKey"], answer["secret_access_key"], plane.environment["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in text


def test_a_line_is_a_record_whatever_is_sent(plane: Plane, ec2: Any) -> None:
    before = len(records(plane))
    ec2.create_traffic_mirror_filter(Description='a\n{"eventName": "x"}\r\u2028')
    assert len(records(plane)) == before + 1
    assert (
        last(plane, "CreateTrafficMirrorFilter")["requestParameters"]["description"] == 'a\n{"eventName": "x"}\r\u2028'
    )


def test_what_is_very_long_is_left_out_and_said(plane: Plane, ec2: Any) -> None:
    assert code_of(ec2.create_traffic_mirror_filter, Description="x" * 200_000) == "InvalidParameterValue"
    found = last(plane, "CreateTrafficMirrorFilter")["requestParameters"]
    assert (found["omitted"], found["originalSize"] > 200_000) == (True, True)


def test_where_the_log_cannot_be_written_nothing_changes_and_what_reads_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        ec2 = plane.client()
        kept = ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
        for path in (plane.state / "audit").iterdir():
            path.unlink()
        (plane.state / "audit").rmdir()
        (plane.state / "audit").write_text("in the way")
        before = dump(plane)
        code, message = refusal_of(ec2.create_traffic_mirror_filter)
        assert (code, "audit log" in message) == ("Unavailable", True)
        assert code_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=kept) == "Unavailable"
        assert plane.own_answer("accounts/blue", method="POST").status_code == 503
        assert dump(plane) == before
        assert ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]
        assert plane.own("status")["refused_requests"]["AuditRecordLost"] >= 1
        (plane.state / "audit").unlink()
        assert ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=kept)
        assert last(plane, "DeleteTrafficMirrorFilter")["responseElements"] == {"trafficMirrorFilterId": kept}


def test_an_ipv4_caller_of_a_socket_of_both_families_is_recorded_as_one(tmp_path: Path) -> None:
    with running(tmp_path / "state", listen_tls="[::]:0") as plane:
        assert plane.tls_url is not None
        known = plane.environment
        client = boto3.client(
            "ec2",
            region_name="local-1",
            endpoint_url=f"https://127.0.0.1:{plane.tls_url.rpartition(':')[2].rstrip('/')}",
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            verify=str(plane.state / "ca.pem"),
        )
        assert client.describe_vpcs()["Vpcs"]
        assert last(plane, "DescribeVpcs")["sourceIPAddress"] == "127.0.0.1"


def pktmirror(plane: Plane, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--state", str(plane.state)])


def test_the_command_reads_it(plane: Plane, ec2: Any) -> None:
    ec2.create_traffic_mirror_filter(Description="shown")
    refusal_of(ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId="tmf-shown")
    refused = pktmirror(plane, "audit", "--refused", "--what", "Delete*Filter", "--since", "1h", "--json")
    found = [json.loads(line) for line in refused.stdout.splitlines()]
    assert found
    assert {each["eventName"] for each in found} == {"DeleteTrafficMirrorFilter"}
    assert all("errorCode" in each for each in found)
    table = pktmirror(plane, "audit", "--changes", "--who", "Root").stdout
    assert ("CreateTrafficMirrorFilter" in table, "Describe" in table) == (True, False)
    assert pktmirror(plane, "audit", "--who", "nobody", "--json").stdout == ""
    assert pktmirror(plane, "audit", "--since", "soon").exit_code == 1


def test_the_commands_make_accounts_users_and_policies(plane: Plane, tmp_path: Path) -> None:
    document = tmp_path / "policy.json"
    document.write_text('{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}')
    assert "1 statement" in CliRunner().invoke(app, ["iam", "check-policy", str(document)]).stdout
    made = pktmirror(plane, "iam", "create-account", "blue")
    assert "export AWS_SECRET_ACCESS_KEY=" in made.stdout, made.output
    assert "blue" in pktmirror(plane, "iam", "accounts").stdout
    assert "user/ada" in pktmirror(plane, "iam", "create-user", "ada").stdout
    key = pktmirror(plane, "iam", "create-key", "ada").stdout
    assert key.startswith("export AWS_ACCESS_KEY_ID=AKIA")
    assert pktmirror(plane, "iam", "put-policy", "ada", "all", str(document)).exit_code == 0
    assert '"Effect": "Allow"' in pktmirror(plane, "iam", "policies", "ada").stdout
    twice = pktmirror(plane, "iam", "create-user", "ADA")
    assert (twice.exit_code, "EntityAlreadyExists" in str(twice.exception)) == (1, True)
    document.write_text(document.read_text(), encoding="utf-8-sig")  # as editors write it that put a mark first
    assert "1 statement" in CliRunner().invoke(app, ["iam", "check-policy", str(document)]).stdout
    assert pktmirror(plane, "iam", "put-policy", "ada", "marked", str(document)).exit_code == 0
    document.write_text('{"Statement": {"Effect": "Maybe"}}')
    assert pktmirror(plane, "iam", "put-policy", "ada", "all", str(document)).exit_code == 1
    assert pktmirror(plane, "iam", "delete-account", "blue").exit_code == 0
    assert "blue" not in pktmirror(plane, "iam", "accounts").stdout


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../templates/mv/t", "a?b#c", "ten ant", "a%2Fb", "naïve", "a;b=c", "\udcff"]
)
def test_a_name_on_the_command_line_leads_nowhere_else(plane: Plane, name: str) -> None:
    """Each is refused for what it is, and nothing is made or taken away; the signature holds for all of them."""
    before = dump(plane)
    for words in (
        ("iam", "create-account", name),
        ("iam", "delete-account", name),
        ("iam", "assign", name, "blue"),
        ("iam", "unassign", name),
        ("forget", name),
        ("agent", "revoke", name),
        ("verify", name),
        ("network", "set-address", name, "10.0.0.1"),
        ("network", "clear-address", name),
    ):
        refused = pktmirror(plane, *words)
        assert isinstance(refused.exception, Refusal), (words, refused.output, refused.exception)
        told = str(refused.exception)
        for wrong in ("SignatureDoesNotMatch", "HTTP 3", "does not answer", "is not understood"):
            assert wrong not in told, words
    assert dump(plane) == before

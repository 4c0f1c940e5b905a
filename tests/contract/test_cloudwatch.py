"""CloudWatch's metrics of traffic mirroring, by unmodified clients: boto3, and the aws CLI."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from pktmirror.control.operations.cloudwatch import METRICS
from tests.contract.plane import Plane, running
from tests.contract.test_metrics import Line

UNITS = {"Bytes", "Count"}
EXPECTED = {
    "NetworkMirrorIn": 1200.0,
    "NetworkPacketsMirrorIn": 12.0,
    "NetworkSkipMirrorIn": 100.0,
    "NetworkPacketsSkipMirrorIn": 1.0,
    "NetworkMirrorOut": 0.0,
    "NetworkPacketsMirrorOut": 0.0,
    "NetworkSkipMirrorOut": 0.0,
    "NetworkPacketsSkipMirrorOut": 0.0,
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """An instance of two interfaces whose sessions have mirrored 12 packets of 100 bytes of ingress; 1 was capped."""
    with running(tmp_path_factory.mktemp("cloudwatch") / "state") as plane:
        line = Line(plane)
        line.tell((5, 1), (7, 0), (9, 2))
        yield line


@pytest.fixture(scope="module")
def cloudwatch(line: Line) -> Any:
    return line.plane.client("cloudwatch")


@pytest.fixture(scope="module")
def instance_id(line: Line) -> str:
    known = {each["interface_id"]: each["instance_id"] for each in line.plane.own("interfaces")}
    return str(known[line.sources[0]])


def around_now() -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"StartTime": now - timedelta(minutes=20), "EndTime": now + timedelta(minutes=2)}


def dimensions(instance_id: str) -> list[dict[str, str]]:
    return [{"Name": "InstanceId", "Value": instance_id}]


def statistics(cloudwatch: Any, instance_id: str, name: str = "NetworkMirrorIn", **more: Any) -> list[dict[str, Any]]:
    asked = {
        "Namespace": "AWS/EC2",
        "MetricName": name,
        "Dimensions": dimensions(instance_id),
        **around_now(),
        "Period": 3600,
        "Statistics": ["Sum"],
        **more,
    }
    answer = cloudwatch.get_metric_statistics(**asked)
    assert answer["Label"] == asked["MetricName"]
    points: list[dict[str, Any]] = answer["Datapoints"]
    return points


def refusal(cloudwatch: Any, operation: str, **asked: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as refused:
        getattr(cloudwatch, operation)(**asked)
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


def test_an_instance_has_the_eight_metrics_of_ec2_and_what_belongs_to_none_has_none(
    cloudwatch: Any, instance_id: str
) -> None:
    assert set(METRICS) == set(EXPECTED)
    listed = cloudwatch.list_metrics()["Metrics"]
    assert {metric["MetricName"] for metric in listed} == set(EXPECTED)
    assert len(listed) == len(EXPECTED)
    for metric in listed:
        assert (metric["Namespace"], metric["Dimensions"]) == ("AWS/EC2", dimensions(instance_id))


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"Namespace": "AWS/EC2"}, 8),
        ({"Namespace": "AWS/S3"}, 0),
        ({"MetricName": "NetworkMirrorOut"}, 1),
        ({"MetricName": "CPUUtilization"}, 0),
        ({"Dimensions": [{"Name": "InstanceId"}]}, 8),
        ({"Dimensions": [{"Name": "InstanceId", "Value": "i-00000000000000000"}]}, 0),
        ({"Dimensions": [{"Name": "ImageId"}]}, 0),
        ({"RecentlyActive": "PT3H"}, 8),
    ],
)
def test_list_metrics_is_narrowed(cloudwatch: Any, asked: dict[str, Any], count: int) -> None:
    assert len(cloudwatch.list_metrics(**asked)["Metrics"]) == count


@pytest.mark.parametrize("name", EXPECTED)
def test_the_sum_over_an_instances_interfaces_has_ec2s_unit(cloudwatch: Any, instance_id: str, name: str) -> None:
    points = statistics(cloudwatch, instance_id, name)
    assert sum(point["Sum"] for point in points) == EXPECTED[name]
    assert {point["Unit"] for point in points} == {"Count" if "Packets" in name else "Bytes"}
    assert all(set(point) == {"Timestamp", "Unit", "Sum"} for point in points)
    assert all(point["Timestamp"].second == 0 for point in points)
    [unit] = {point["Unit"] for point in points}
    [other] = UNITS - {unit}
    assert statistics(cloudwatch, instance_id, name, Unit=unit)
    assert statistics(cloudwatch, instance_id, name, Unit=other) == []


def test_what_nobody_counts_has_no_datapoints(cloudwatch: Any, instance_id: str) -> None:
    assert statistics(cloudwatch, "i-00000000000000000") == []
    assert statistics(cloudwatch, instance_id, "CPUUtilization") == []
    assert statistics(cloudwatch, instance_id, Namespace="AWS/S3") == []
    assert statistics(cloudwatch, instance_id, Dimensions=[]) == []
    past = datetime.now(UTC) - timedelta(days=1)
    assert statistics(cloudwatch, instance_id, StartTime=past, EndTime=past + timedelta(hours=1)) == []


def test_all_statistics_are_there_by_the_period(cloudwatch: Any, instance_id: str) -> None:
    names = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"]
    points = statistics(cloudwatch, instance_id, "NetworkPacketsMirrorIn", Period=60, Statistics=names)
    for point in points:
        assert point["SampleCount"] == 1
        assert point["Sum"] == point["Average"] == point["Minimum"] == point["Maximum"]
    assert sum(point["Sum"] for point in points) == 12


def test_get_metric_data_answers_each_query(cloudwatch: Any, instance_id: str) -> None:
    queries = [
        {
            "Id": name.lower(),
            "MetricStat": {
                "Metric": {"Namespace": "AWS/EC2", "MetricName": name, "Dimensions": dimensions(instance_id)},
                "Period": 3600,
                "Stat": "Sum",
            },
        }
        for name in EXPECTED
    ]
    queries[0]["Label"] = "mine"
    queries[1]["ReturnData"] = False
    answer = cloudwatch.get_metric_data(MetricDataQueries=queries, **around_now())["MetricDataResults"]
    sums = {result["Id"]: sum(result["Values"]) for result in answer}
    assert sums == {name.lower(): figure for name, figure in list(EXPECTED.items()) if name != "NetworkPacketsMirrorIn"}
    assert [result["Label"] for result in answer][:2] == ["mine", "NetworkSkipMirrorIn"]
    for result in answer:
        assert result["StatusCode"] == "Complete"
        assert len(result["Timestamps"]) == len(result["Values"]) > 0


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"Period": 59}, "InvalidParameterValue", "Expected a multiple of 60"),
        ({"Period": 90}, "InvalidParameterValue", "Expected a multiple of 60"),
        ({"Period": "x"}, "InvalidParameterValue", "Expected a integer"),
        ({"Statistics": ["p99"]}, "InvalidParameterValue", "p99"),
        ({"Statistics": []}, "MissingParameter", "Statistics"),
        ({"ExtendedStatistics": ["p99"]}, "UnsupportedOperation", "ExtendedStatistics"),
        ({"StartTime": datetime(2030, 1, 1, tzinfo=UTC)}, "ValidationError", "StartTime"),
        ({"Period": 60, "StartTime": datetime(2020, 1, 1, tzinfo=UTC)}, "InvalidParameterCombination", "1440"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_code(
    cloudwatch: Any, instance_id: str, changed: dict[str, Any], code: str, said: str
) -> None:
    asked = {
        "Namespace": "AWS/EC2",
        "MetricName": "NetworkMirrorIn",
        "Dimensions": dimensions(instance_id),
        **around_now(),
        "Period": 60,
        "Statistics": ["Sum"],
        **changed,
    }
    found = refusal(cloudwatch, "get_metric_statistics", **asked)
    assert found[0] == code
    assert said in found[1]


def test_math_and_operations_that_are_not_offered_are_refused(cloudwatch: Any) -> None:
    expression = [{"Id": "a", "Expression": "SUM(METRICS())"}]
    code, said = refusal(cloudwatch, "get_metric_data", MetricDataQueries=expression, **around_now())
    assert code in ("UnsupportedOperation", "InvalidParameterValue")
    assert "Expression" in said
    assert refusal(cloudwatch, "put_metric_data", Namespace="X", MetricData=[])[0] == "InvalidAction"


def test_the_aws_cli_reads_them(line: Line, instance_id: str) -> None:
    times = around_now()
    argv = [
        *(str(Path(sys.executable).with_name("aws")), "cloudwatch", "get-metric-statistics"),
        *("--namespace", "AWS/EC2", "--metric-name", "NetworkPacketsMirrorIn", "--statistics", "Sum"),
        *("--dimensions", f"Name=InstanceId,Value={instance_id}", "--period", "3600", "--output", "json"),
        *("--start-time", times["StartTime"].isoformat(), "--end-time", times["EndTime"].isoformat()),
    ]
    environment = {"PATH": os.environ["PATH"], **line.plane.environment}
    told = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60, env=environment)
    points = json.loads(told.stdout)["Datapoints"]
    assert sum(point["Sum"] for point in points) == 12


def signed(plane: Plane, body: bytes, *, target: str | None, key: str | None = None) -> httpx.Response:
    known = plane.environment
    headers = {"content-type": "application/x-amz-json-1.0"} | ({} if target is None else {"x-amz-target": target})
    request = AWSRequest("POST", known["AWS_ENDPOINT_URL"], headers=headers, data=body)
    secret = known["AWS_SECRET_ACCESS_KEY"] if key is None else key
    SigV4Auth(Credentials(known["AWS_ACCESS_KEY_ID"], secret), "monitoring", known["AWS_REGION"]).add_auth(request)
    return httpx.post(
        known["AWS_ENDPOINT_URL"], content=body, headers=dict(request.headers), trust_env=False, timeout=30
    )


TARGET = "GraniteServiceVersion20100801.ListMetrics"


@pytest.mark.parametrize(
    ("body", "target", "code"),
    [
        (b"{", TARGET, "SerializationException"),
        (b"[]", TARGET, "SerializationException"),
        (b"[" * 100_000, TARGET, "SerializationException"),
        (b'{"Namespaces": "x"}', TARGET, "UnknownParameter"),
        (b'{"Namespace": 1}', TARGET, "InvalidParameterValue"),
        (b'{"Dimensions": [{"Value": "x"}]}', TARGET, "MissingParameter"),
        (b"{}", "GraniteServiceVersion20100801.Nonsense", "InvalidAction"),
        (b"{}", "Other.ListMetrics", "InvalidAction"),
        (b"{}", None, "UnsupportedOperation"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_in_json(line: Line, body: bytes, target: str | None, code: str) -> None:
    answer = signed(line.plane, body, target=target)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/x-amz-json-1.0")
    assert answer.headers["x-amzn-query-error"] == f"{code};Sender"
    assert answer.json()["__type"] == code


def test_a_wrong_signature_is_refused_in_json(line: Line) -> None:
    answer = signed(line.plane, b"{}", target=TARGET, key="wrong")
    assert answer.json()["__type"] == "SignatureDoesNotMatch" or answer.status_code in (401, 403)
    assert "Metrics" not in answer.json()

"""Fact 48: the official examples of the aws CLI, as the `awscli` package ships them, give the documented JSON.

Commands and documents are read from the package at test time; only the ids of resources are put in.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awscli
import pytest

from tests.contract import cli_version_2
from tests.contract.conftest import Maker
from tests.contract.plane import Plane

EXAMPLES = Path(awscli.__file__).parent / "examples" / "ec2"
AWS = Path(sys.executable).parent / "aws"

Json = Any


@dataclass(frozen=True)
class Example:
    name: str
    arguments: tuple[str, ...]
    document: Json


def examples() -> Iterator[Example]:
    for file in sorted(EXAMPLES.glob("*-traffic-mirror-*.rst")):
        text = file.read_text()
        commands = re.findall(r"::\s*\n\s*\n?((?:[ ]{4,}.*\n)+)\s*\n?Output::", text)
        documents = re.findall(r"Output::\s*\n((?:[ ]{4,}.*\n|\s*\n)+)", text)
        assert len(commands) == len(documents) > 0, f"{file} is laid out in another way than expected"
        for number, (command, document) in enumerate(zip(commands, documents, strict=True)):
            words = shlex.split(command.replace("\\\n", " "))
            assert words[:2] == ["aws", "ec2"]
            yield Example(f"{file.stem}-{number}", tuple(words[2:]), json.loads(document))


ALL = list(examples())


def shape(document: Json) -> Json:
    """Keys and types; a list is the shape of its items, each once."""
    match document:
        case dict():
            return {key: shape(value) for key, value in document.items()}
        case list():
            shapes: list[Json] = []
            for item in document:
                if shape(item) not in shapes:
                    shapes.append(shape(item))
            return sorted(shapes, key=repr)
        case _:
            return type(document).__name__


class Stage:
    """The resources that the examples speak of, made to be as the documents show them."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.ec2 = plane.client()
        self.make = Maker(plane, self.ec2)

    def arguments_of(self, example: Example) -> list[str]:
        """The example's arguments with ids of what is really there."""
        command = example.arguments[0]
        substitutes = {
            "--network-interface-id": self.make.interface,
            "--traffic-mirror-target-id": self.make.target,
            "--traffic-mirror-target-ids": self._balancer,
            "--traffic-mirror-filter-id": lambda: self._filter(command),
            "--traffic-mirror-filter-rule-id": self._rule,
            "--traffic-mirror-session-id": self._session,
        }
        arguments = list(example.arguments)
        for index, word in enumerate(arguments[:-1]):
            if word in substitutes:
                arguments[index + 1] = substitutes[word]()
        self._prepare(command)
        return arguments

    def _prepare(self, command: str) -> None:
        if command == "describe-traffic-mirror-filters":
            for filter_ in self.ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]:
                self.ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=filter_["TrafficMirrorFilterId"])
            filter_id = self.make.filter(Description="TCP Filter")
            self.make.rule(filter_id, 1, Protocol=6, Description="TCP Rule")
        if command == "describe-traffic-mirror-sessions":
            more = {"TrafficMirrorTargetId": self.make.target(), "TrafficMirrorFilterId": self.make.filter()}
            self.make.session(PacketLength=20, Description="TCP Session", **more)
            tagged = self.make.session(Description="TCP Session", **more)
            name = [{"Key": "Name", "Value": "tag test"}]
            self.ec2.create_tags(Resources=[tagged["TrafficMirrorSessionId"]], Tags=name)

    def _balancer(self) -> str:
        arn = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"
        return self.make.target(NetworkLoadBalancerArn=arn, Description="Example Network Load Balancer target")

    def _filter(self, command: str) -> str:
        filter_id = self.make.filter(Description="TCP Filter") if "rule" in command else self.make.filter()
        if command == "modify-traffic-mirror-filter-network-services":
            self.ec2.create_tags(Resources=[filter_id], Tags=[{"Key": "Name", "Value": "Production"}])
            self.make.rule(filter_id, 1, Protocol=6, Description="TCP Rule")
        return filter_id

    def _rule(self) -> str:
        rule = self.make.rule(self.make.filter(), 1, Protocol=6, Description="TCP Rule")
        return str(rule["TrafficMirrorFilterRuleId"])

    def _session(self) -> str:
        return str(self.make.session(PacketLength=20)["TrafficMirrorSessionId"])

    def clear(self) -> None:
        for session in self.ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]:
            self.ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session["TrafficMirrorSessionId"])


@pytest.fixture(scope="module")
def stage(plane: Plane) -> Stage:
    return Stage(plane)


def test_the_package_ships_fifteen_examples() -> None:
    assert len(ALL) == 15, [example.name for example in ALL]


@pytest.mark.fact(48)
@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_fact_48_an_official_example_gives_the_documented_json(stage: Stage, example: Example) -> None:
    stage.clear()
    ran = aws(stage.plane, *stage.arguments_of(example))
    assert ran.returncode == 0, ran.stderr
    assert shape(json.loads(ran.stdout)) == shape(example.document)


@pytest.fixture(scope="module")
def version_2() -> tuple[list[str], dict[str, str]]:
    return cli_version_2.found()


@pytest.mark.long
@pytest.mark.fact(48)
@pytest.mark.parametrize("example", ALL, ids=lambda example: example.name)
def test_fact_48_version_2_of_the_cli_gives_the_documented_json_too(
    version_2: tuple[list[str], dict[str, str]], stage: Stage, example: Example
) -> None:
    stage.clear()
    command, environment = version_2
    ran = aws(stage.plane, *stage.arguments_of(example), command=command, **environment)
    assert ran.returncode == 0, ran.stderr
    assert shape(json.loads(ran.stdout)) == shape(example.document)


@pytest.mark.long
def test_version_2_of_the_cli_goes_through_all_pages(version_2: tuple[list[str], dict[str, str]], stage: Stage) -> None:
    command, environment = version_2
    made = {stage.make.filter(Description="of many") for _ in range(12)}
    arguments = ["describe-traffic-mirror-filters", "--page-size", "5", "--filters", "Name=description,Values=of many"]
    ran = aws(stage.plane, *arguments, command=command, **environment)
    listed = json.loads(ran.stdout)["TrafficMirrorFilters"]
    assert len(listed) == 12
    assert {each["TrafficMirrorFilterId"] for each in listed} == made


def test_the_cli_shows_an_error_as_ec2s(plane: Plane) -> None:
    ran = aws(plane, "delete-traffic-mirror-target", "--traffic-mirror-target-id", "tmt-07f75d8feeEXAMPLE")
    assert ran.returncode != 0
    assert "(InvalidTrafficMirrorTargetId.NotFound)" in ran.stderr
    assert "'tmt-07f75d8feeEXAMPLE' does not exist" in ran.stderr


def aws(
    plane: Plane, *arguments: str, command: Sequence[str] = (str(AWS),), **environment: str
) -> subprocess.CompletedProcess[str]:
    """The real aws CLI, pointed at the control plane by nothing but `environment`.

    The distribution's version 2 is older than AWS_ENDPOINT_URL, and needs the option too.
    """
    endpoint = () if command == (str(AWS),) else ("--endpoint-url", plane.url)
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_DATA_PATH"}  # set by our own import
    return subprocess.run(
        [*command, "ec2", *arguments, "--output", "json", *endpoint],
        env={**inherited, "AWS_PAGER": "", **plane.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

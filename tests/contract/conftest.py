"""One control plane for a module; what a test needs beside it, it makes itself.

The tests of every module run on SQLite, and again on PostgreSQL: those of `ALSO_ON_POSTGRESQL` always, since they
ask most of a store, the others with ``script/test --all``. Those of `ALSO_ON_REPLICAS` run once more on two replicas
behind a load balancer that gives each connection to the next one.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.contract.balancer import balancing
from tests.contract.plane import Plane, found, replicas, running
from tests.postgresql import Server

SQLITE, POSTGRESQL, REPLICAS = "sqlite", "postgresql", "replicas"
ALSO_ON_POSTGRESQL = {"test_sessions", "test_tags", "test_targets"}
ALSO_ON_REPLICAS = {"test_agents", "test_explain", "test_ledger", "test_probes", "test_sessions", "test_streams"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind_of_store" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        marks = [] if module in ALSO_ON_POSTGRESQL else [pytest.mark.long]
        kinds: list[Any] = [SQLITE, pytest.param(POSTGRESQL, marks=marks)]
        if module in ALSO_ON_REPLICAS and "plane" in metafunc.fixturenames:
            kinds.append(pytest.param(REPLICAS, marks=[pytest.mark.long]))
        metafunc.parametrize("kind_of_store", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def kind_of_store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(kind_of_store: str, request: pytest.FixtureRequest) -> str | None:
    """Where the control plane of the module keeps what it knows: None is SQLite in its state directory."""
    if kind_of_store == SQLITE:
        return None
    server: Server = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, store: str | None, kind_of_store: str) -> Iterator[Plane]:
    directory = tmp_path_factory.mktemp("plane")
    if kind_of_store == REPLICAS:
        assert store is not None
        with replicas(directory, store) as (first, second), balancing([first.url, second.url]) as url:
            yield replace(first, url=url)
        return
    with running(directory / "state", store=store) as plane:
        yield plane


@pytest.fixture(scope="module")
def ec2(plane: Plane) -> Any:
    return plane.client()


_numbers = count(10)  # of all interfaces of this run: none that was deleted comes back by its name
ADDRESSES = [f"10.0.0.{number}" for number in range(100, 200)]
"""Of subnet a, and none that a test writes by hand."""


@pytest.fixture
def make(plane: Plane, ec2: Any) -> "Maker":
    return Maker(plane, ec2)


class Maker:
    """Makes what a session needs; every call makes new resources."""

    def __init__(self, plane: Plane, ec2: Any) -> None:
        self._plane = plane
        self._ec2 = ec2

    def interfaces(self, number: int) -> list[str]:
        """All in subnet a, however many the tests before have made."""
        taken = {address for known in self._plane.reported.values() for address in known.addresses}
        free = [address for address in ADDRESSES if address not in taken][:number]
        assert len(free) == number, "ADDRESSES has too few for this module"
        return self._plane.find(*(found(f"web{next(_numbers)}", address) for address in free))

    def interface(self) -> str:
        return self.interfaces(1)[0]

    def target(self, **parameters: Any) -> str:
        parameters = parameters or {"NetworkInterfaceId": self.interface()}
        answer = self._ec2.create_traffic_mirror_target(**parameters)
        return str(answer["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def nlb_target(self) -> str:
        return self.target(NetworkLoadBalancerArn=NLB)

    def filter(self, **parameters: Any) -> str:
        answer = self._ec2.create_traffic_mirror_filter(**parameters)
        return str(answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"])

    def rule(self, filter_id: str, number: int = 10, **parameters: Any) -> dict[str, Any]:
        asked = rule(filter_id, number) | parameters
        made: dict[str, Any] = self._ec2.create_traffic_mirror_filter_rule(**asked)["TrafficMirrorFilterRule"]
        return made

    def session(self, **parameters: Any) -> dict[str, Any]:
        asked = self.session_parameters(**parameters)
        made: dict[str, Any] = self._ec2.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
        return made

    def session_parameters(self, **parameters: Any) -> dict[str, Any]:
        return {
            "NetworkInterfaceId": parameters.get("NetworkInterfaceId") or self.interface(),
            "TrafficMirrorTargetId": parameters.get("TrafficMirrorTargetId") or self.target(),
            "TrafficMirrorFilterId": parameters.get("TrafficMirrorFilterId") or self.filter(),
            "SessionNumber": 1,
        } | parameters


NLB = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"


def rule(filter_id: str, number: int = 10) -> dict[str, Any]:
    return {
        "TrafficMirrorFilterId": filter_id,
        "TrafficDirection": "ingress",
        "RuleNumber": number,
        "RuleAction": "accept",
        "DestinationCidrBlock": "0.0.0.0/0",
        "SourceCidrBlock": "0.0.0.0/0",
    }

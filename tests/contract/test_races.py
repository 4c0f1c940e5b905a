"""Replicas that want the same at the same time: one wins, the others hear what they would hear a moment later."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pktmirror.aws import ApiError, Call
from pktmirror.control.keys import Key
from pktmirror.control.operations import sessions
from pktmirror.control.plane import ControlPlane
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import Report
from pktmirror.model.limits import Quotas
from tests.calls import perform
from tests.contract.plane import HOST, found
from tests.postgresql import Server

NOW_S = 1_800_000_000.0
AT_ONCE = 8
CREATE_SESSION, CREATE_RULE = "CreateTrafficMirrorSession", "CreateTrafficMirrorFilterRule"
QUOTAS = Quotas(sessions_per_interface=3, filters_per_account=5, rules_per_filter=4)


def fresh(directory: Path) -> Path:
    directory.mkdir()
    return directory


class Replicas:
    """Two control planes, each with a store and connections of its own, over one database."""

    def __init__(self, url: str, directory: Path) -> None:
        self.stores = [Store.open(url) for _ in range(2)]
        key = Key(bytes(32))
        self.planes = [
            ControlPlane(
                store,
                key,
                Trail(fresh(directory / str(number))),
                region="local-1",
                networks=None,
                quotas=QUOTAS,
                eni_forget_s=None,
                now_s=NOW_S,
            )
            for number, store in enumerate(self.stores)
        ]

    def call(self, operation: str, **parameters: Any) -> Any:
        return perform(self.planes[0], Call("ec2", operation, parameters), NOW_S)

    def at_once(self, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """Each call in a thread of its own, by turns at either replica; their results or error codes."""
        answers: list[Any] = [None] * len(calls)
        start = threading.Barrier(len(calls))

        def one(number: int, call: Call) -> None:
            start.wait()
            try:
                answers[number] = perform(self.planes[number % 2], call, NOW_S)
            except ApiError as error:
                answers[number] = error.code

        threads = [
            threading.Thread(target=one, args=[number, Call("ec2", operation, parameters)])
            for number, (operation, parameters) in enumerate(calls)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def interfaces(self, number: int) -> list[str]:
        report = Report(
            host_id=HOST,
            agent_version="test",
            applied_revision=0,
            interfaces=tuple(found(f"web{n}", f"10.0.0.{n + 10}") for n in range(number)),
        )
        self.planes[0].intake.agent_reported(report, NOW_S)
        return [each["interface_id"] for each in self.planes[0].interfaces()]

    def target(self, interface_id: str) -> str:
        made = self.call("CreateTrafficMirrorTarget", NetworkInterfaceId=interface_id)
        return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def filter(self) -> str:
        return str(self.call("CreateTrafficMirrorFilter")["TrafficMirrorFilter"]["TrafficMirrorFilterId"])


@pytest.fixture
def replicas(postgresql: Server, tmp_path: Path) -> Iterator[Replicas]:
    both = Replicas(postgresql.database(), tmp_path)
    yield both
    for store in both.stores:
        store.close()


def outcomes(answers: list[Any]) -> list[str]:
    return [answer if isinstance(answer, str) else "made" for answer in answers]


def codes(answers: list[Any]) -> Counter[str]:
    return Counter(outcomes(answers))


def session(interface_id: str, target_id: str, filter_id: str, number: int) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": interface_id,
        "TrafficMirrorTargetId": target_id,
        "TrafficMirrorFilterId": filter_id,
        "SessionNumber": number,
    }


def test_a_session_number_has_one_winner(replicas: Replicas) -> None:
    source, aimed = replicas.interfaces(2)
    target_id, filter_id = replicas.target(aimed), replicas.filter()
    answers = replicas.at_once(*[(CREATE_SESSION, session(source, target_id, filter_id, 1))] * AT_ONCE)
    assert codes(answers) == {"made": 1, "InvalidParameterValue": AT_ONCE - 1}


def test_a_quota_is_reached_and_not_passed(replicas: Replicas) -> None:
    source, aimed = replicas.interfaces(2)
    target_id, filter_id = replicas.target(aimed), replicas.filter()
    numbers = range(1, AT_ONCE + 1)
    answers = replicas.at_once(*((CREATE_SESSION, session(source, target_id, filter_id, n)) for n in numbers))
    assert codes(answers) == {"made": 3, "TrafficMirrorSessionsPerInterfaceLimitExceeded": AT_ONCE - 3}
    answers = replicas.at_once(*[("CreateTrafficMirrorFilter", {})] * AT_ONCE)
    assert codes(answers) == {"made": 4, "TrafficMirrorFilterLimitExceeded": AT_ONCE - 4}


@pytest.mark.fact(24)
def test_a_vni_that_is_chosen_is_nobody_elses(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "VNI_MAX", AT_ONCE)  # as many as there are sessions, so that all are wanted
    *sources, aimed = replicas.interfaces(AT_ONCE + 1)
    target_id, filter_id = replicas.target(aimed), replicas.filter()
    answers = replicas.at_once(*((CREATE_SESSION, session(source, target_id, filter_id, 1)) for source in sources))
    assert sorted(answer["TrafficMirrorSession"]["VirtualNetworkId"] for answer in answers) == list(
        range(1, AT_ONCE + 1)
    )


def test_a_rule_number_has_one_winner(replicas: Replicas) -> None:
    filter_id = replicas.filter()
    rule = {
        "TrafficMirrorFilterId": filter_id,
        "TrafficDirection": "ingress",
        "RuleNumber": 10,
        "RuleAction": "accept",
        "DestinationCidrBlock": "0.0.0.0/0",
        "SourceCidrBlock": "0.0.0.0/0",
    }
    answers = replicas.at_once(*[(CREATE_RULE, rule)] * AT_ONCE)
    assert codes(answers) == {"made": 1, "TrafficMirrorFilterRuleAlreadyExists": AT_ONCE - 1}
    answers = replicas.at_once(*((CREATE_RULE, {**rule, "RuleNumber": 20 + number}) for number in range(AT_ONCE)))
    assert codes(answers) == {"made": 3, "TrafficMirrorFilterRuleLimitExceeded": AT_ONCE - 3}


def test_a_client_token_makes_one(replicas: Replicas) -> None:
    answers = replicas.at_once(*[("CreateTrafficMirrorFilter", {"ClientToken": "once"})] * AT_ONCE)
    assert answers == [answers[0]] * AT_ONCE
    assert len(replicas.call("DescribeTrafficMirrorFilters")["TrafficMirrorFilters"]) == 1


def test_nothing_is_deleted_while_something_comes_to_refer_to_it(replicas: Replicas) -> None:
    """Either the filter goes first and the session is refused, or the session comes first and the filter stays."""
    source, aimed = replicas.interfaces(2)
    target_id = replicas.target(aimed)
    for number in range(1, 4):
        filter_id = replicas.filter()
        answers = replicas.at_once(
            (CREATE_SESSION, session(source, target_id, filter_id, number)),
            ("DeleteTrafficMirrorFilter", {"TrafficMirrorFilterId": filter_id}),
        )
        assert outcomes(answers) in (
            ["made", "TrafficMirrorFilterInUse"],
            ["InvalidTrafficMirrorFilterId.NotFound", "made"],
        )

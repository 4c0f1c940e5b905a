"""A control plane that is killed at any moment has kept what it had answered, and of the rest all or nothing."""

import copy
import http.client
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pktmirror.control import environment
from pktmirror.control.store import Store, Transaction
from pktmirror.desired import Report, encode
from tests.contract import nursery
from tests.contract.plane import HOST, found
from tests.postgresql import Server
from tests.waiting import wait_until

ROUNDS, ROUNDS_LONG = 5, 200
HANDS = 2
ANSWERS_MAX = 6
KILL_WITHIN_S = 0.01
"""It is killed after some answers, and then so soon."""
FILTERS_MAX, SESSIONS_MAX = 4, 3

State = dict[str, Any]
"""What one hand has made, by the name in its tag ``Name``; ids are whatever they are."""


@dataclass
class Request:
    """A call, and what it makes of the state once it is done."""

    parameters: dict[str, str]
    change: Callable[[State], None]
    repeatable: bool = False  # it has a client token


@dataclass
class Hand:
    """A client that works on resources of its own, so that it knows what they must be."""

    name: str
    interface_id: str
    target_id: str
    random: random.Random
    state: State = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    under_way: Request | None = None
    answered: int = 0
    wrong: list[str] = field(default_factory=list)

    def work(self, url: str, credentials: Credentials, dead: threading.Event) -> None:
        """Call after call, until nobody answers any more."""
        place = urlsplit(url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
        while not dead.is_set():
            request = self._next()
            self.under_way = request
            try:
                status, body = _called(connection, url, credentials, request)
            except (OSError, http.client.HTTPException):
                break
            if status != 200:
                self.wrong.append(f"{request.parameters}: {status} {body}")
                break
            request.change(self.state)
            self._learn(request, body)
            self.under_way = None
            self.answered += 1
        connection.close()

    def _learn(self, request: Request, body: str) -> None:
        """The id of what was made, where it has a name."""
        made = re.search(r"<trafficMirror(?:Filter|Session)Id>(tm[fs]-\w+)<", body)
        if made and "TagSpecification.1.Tag.1.Value" in request.parameters:
            self.ids[request.parameters["ClientToken"]] = made[1]

    def settle(self, seen: State, url: str, credentials: Credentials) -> None:
        """What is seen after the next start must be the state with or without what was under way, and nothing else."""
        request, self.under_way = self.under_way, None
        if request is None:
            assert seen == self.state
            return
        after = copy.deepcopy(self.state)
        request.change(after)
        assert seen in (self.state, after), f"half of {request.parameters}"
        self.state = copy.deepcopy(seen)
        if request.repeatable:  # its client asks again, and gets it once
            place = urlsplit(url)
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
            status, body = _called(connection, url, credentials, request)
            connection.close()
            assert status == 200, body
            self._learn(request, body)
            self.state = after

    def _next(self) -> Request:
        filters = [name for name, made in self.state.items() if made["kind"] == "filter"]
        sessions = [name for name, made in self.state.items() if made["kind"] == "session"]
        used = {self.state[name]["filter"] for name in sessions}
        possible: list[Callable[[], Request]] = []
        if len(filters) < FILTERS_MAX:
            possible.append(self._make_filter)
        for name in filters:
            if len(self.state[name]["rules"]) < 3:
                possible.append(lambda name=name: self._make_rule(name))  # type: ignore[misc]
            if name not in used:
                possible.append(lambda name=name: self._delete(name, "Filter"))  # type: ignore[misc]
        if filters and len(sessions) < SESSIONS_MAX:
            possible += [lambda: self._make_session(self.random.choice(filters))] * 3
        for name in sessions:
            possible.append(lambda name=name: self._modify_session(name))  # type: ignore[misc]
            possible.append(lambda name=name: self._tag(name))  # type: ignore[misc]
            possible.append(lambda name=name: self._delete(name, "Session"))  # type: ignore[misc]
        return self.random.choice(possible)()

    def _new_name(self) -> str:
        return f"{self.name}-{self.random.getrandbits(64):016x}"

    def _make_filter(self) -> Request:
        name = self._new_name()
        made = {"kind": "filter", "rules": {}, "tags": {"Name": name, "k": "v"}}
        parameters = {"Action": "CreateTrafficMirrorFilter", "ClientToken": name, **_tagged("filter", name)}
        return Request(parameters, lambda state: state.update({name: copy.deepcopy(made)}), repeatable=True)

    def _make_rule(self, name: str) -> Request:
        number = next(n for n in range(1, 10) if n not in self.state[name]["rules"])
        parameters = {
            "Action": "CreateTrafficMirrorFilterRule",
            "TrafficMirrorFilterId": self.ids[name],
            "TrafficDirection": "ingress",
            "RuleNumber": str(number),
            "RuleAction": "accept",
            "DestinationCidrBlock": "0.0.0.0/0",
            "SourceCidrBlock": "10.0.0.0/8",
            "ClientToken": self._new_name(),
        }
        return Request(parameters, lambda state: state[name]["rules"].update({number: "10.0.0.0/8"}), repeatable=True)

    def _make_session(self, filter_: str) -> Request:
        name = self._new_name()
        used = {made["number"] for made in self.state.values() if made["kind"] == "session"}
        number = next(n for n in range(1, 10) if n not in used)
        made = {
            "kind": "session", "filter": filter_, "number": number, "description": None,
            "tags": {"Name": name, "k": "v"}, "streams": 1,
        }  # fmt: skip
        parameters = {
            "Action": "CreateTrafficMirrorSession",
            "NetworkInterfaceId": self.interface_id,
            "TrafficMirrorTargetId": self.target_id,
            "TrafficMirrorFilterId": self.ids[filter_],
            "SessionNumber": str(number),
            "ClientToken": name,
            **_tagged("session", name),
        }
        return Request(parameters, lambda state: state.update({name: copy.deepcopy(made)}), repeatable=True)

    def _modify_session(self, name: str) -> Request:
        text = self._new_name()
        parameters = {
            "Action": "ModifyTrafficMirrorSession",
            "TrafficMirrorSessionId": self.ids[name],
            "Description": text,
        }
        return Request(parameters, lambda state: state[name].update(description=text))

    def _tag(self, name: str) -> Request:
        value = self._new_name()
        parameters = {
            "Action": "CreateTags", "ResourceId.1": self.ids[name],
            "Tag.1.Key": "k", "Tag.1.Value": value, "Tag.2.Key": "l", "Tag.2.Value": value,
        }  # fmt: skip
        return Request(parameters, lambda state: state[name]["tags"].update(k=value, l=value))

    def _delete(self, name: str, kind: str) -> Request:
        parameters = {"Action": f"DeleteTrafficMirror{kind}", f"TrafficMirror{kind}Id": self.ids[name]}
        return Request(parameters, lambda state: state.pop(name))


def _tagged(kind: str, name: str) -> dict[str, str]:
    first = "TagSpecification.1"
    return {
        f"{first}.ResourceType": f"traffic-mirror-{kind}",
        **{f"{first}.Tag.1.Key": "Name", f"{first}.Tag.1.Value": name},
        **{f"{first}.Tag.2.Key": "k", f"{first}.Tag.2.Value": "v"},
    }


def _called(
    connection: http.client.HTTPConnection, url: str, credentials: Credentials, request: Request
) -> tuple[int, str]:
    body = urlencode({**request.parameters, "Version": "2016-11-15"})
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    signed = AWSRequest("POST", f"{url}/", data=body.encode(), headers=headers)
    SigV4Auth(credentials, "ec2", "local-1").add_auth(signed)
    connection.request("POST", "/", body.encode(), dict(signed.headers.items()))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def whole(transaction: Transaction) -> dict[str, State]:
    """All that hands have made, by the hand; AssertionError for the half of anything."""
    tags = transaction.tags.all()
    filters, sessions = transaction.filters.where(), transaction.sessions.where()
    names = {id_: held.get("Name", "") for id_, held in tags.items()}
    made = {record.filter_id for record in filters} | {record.session_id for record in sessions}
    assert names.keys() == made, "a resource without its tags, or tags without their resource"
    assert {record.filter_id for record in transaction.rules.where()} <= made
    streams = [record.session_id for record in transaction.streams.where()]
    ended = {record.session_id for record in transaction.ended_sessions.where()}
    assert set(streams) == {record.session_id for record in sessions} | ended
    for name in names.values():
        operations = ("CreateTrafficMirrorFilter", "CreateTrafficMirrorSession")
        assert any(transaction.tokens.get(f"{operation}/{name}") for operation in operations), f"no token of {name}"
    found_: dict[str, State] = {}
    for record in filters:
        rules = {
            rule.rule.number: str(rule.rule.source) for rule in transaction.rules.where(filter_id=record.filter_id)
        }
        name = names[record.filter_id]
        shown = {"kind": "filter", "rules": rules, "tags": tags[record.filter_id]}
        found_.setdefault(name.partition("-")[0], {})[name] = shown
    for session in sessions:
        name = names[session.session_id]
        found_.setdefault(name.partition("-")[0], {})[name] = {
            "kind": "session",
            "filter": names[session.filter_id],
            "number": session.number,
            "description": session.description,
            "tags": tags[session.session_id],
            "streams": streams.count(session.session_id),
        }
    return found_


def prepared(url: str, state: Path, credentials: Credentials, seed: int) -> list[Hand]:
    """An interface and a target for each hand."""
    interfaces = tuple(found(f"web{n}", f"10.0.0.{n + 10}") for n in range(HANDS + 1))
    report = Report(host_id=HOST, agent_version="test", applied_revision=0, interfaces=interfaces)
    token = (state / "agent-token").read_text().strip()
    answer = httpx.post(
        f"{url}/pktmirror/v1/agents/{HOST}/report",
        content=encode(report),
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 204
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    _, listed = _called(connection, url, credentials, Request({"Action": "DescribeNetworkInterfaces"}, lambda _: None))
    aimed, *sources = re.findall(r"<networkInterfaceId>(eni-\w+)<", listed)
    target = Request({"Action": "CreateTrafficMirrorTarget", "NetworkInterfaceId": aimed}, lambda _: None)
    made = re.search(r"tmt-\w+", _called(connection, url, credentials, target)[1])
    connection.close()
    assert made is not None
    return [Hand(f"hand{n}", sources[n], made[0], random.Random(seed + n)) for n in range(HANDS)]


def answered(hands: list[Hand]) -> int:
    return sum(hand.answered for hand in hands)


def killed_again_and_again(state: Path, store: str | None, rounds: int, seed: int) -> None:
    moments = random.Random(seed)
    with nursery.opened(state, store) as plane:
        url = plane.start()
        known = environment(state)
        credentials = Credentials(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
        hands = prepared(url, state, credentials, seed)
        for number in range(rounds):
            dead = threading.Event()
            threads = [threading.Thread(target=hand.work, args=[url, credentials, dead]) for hand in hands]
            for thread in threads:
                thread.start()
            enough = answered(hands) + moments.randrange(ANSWERS_MAX + 1)
            wait_until(lambda: answered(hands) >= enough, 30, lambda: f"{[hand.wrong for hand in hands]}")  # noqa: B023
            dead.wait(moments.uniform(0, KILL_WITHIN_S))  # nobody sets it yet: this is the moment, not a condition
            plane.kill()
            dead.set()
            for thread in threads:
                thread.join()
            url = plane.start()
            opened = Store.open(store or state / "pktmirror.sqlite")
            with opened.read() as transaction:
                seen = whole(transaction)
            opened.close()
            for hand in hands:
                assert not hand.wrong, (seed, number, hand.wrong)
                hand.settle(seen.get(hand.name, {}), url, credentials)
        plane.kill()
    assert answered(hands) > rounds


def test_what_was_answered_outlives_the_kill(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path / "state", None, ROUNDS, seed=1)


def test_what_was_answered_outlives_the_kill_on_postgresql(tmp_path: Path, postgresql: Server) -> None:
    killed_again_and_again(tmp_path / "state", postgresql.database(), ROUNDS, seed=2)


@pytest.mark.long
@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_answered_outlives_200_kills(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = None if kind == "sqlite" else request.getfixturevalue("postgresql").database()
    killed_again_and_again(tmp_path / "state", store, ROUNDS_LONG, seed=random.SystemRandom().getrandbits(32))

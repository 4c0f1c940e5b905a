"""When it is decided who may do what: before others wait, and again where what it depends on has changed meanwhile."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pktmirror.aws import ApiError, Call
from pktmirror.control.authorization import CHARACTERS_MAX
from pktmirror.control.operations.tags import RESOURCES_MAX
from pktmirror.control.plane import DECISIONS_MAX
from pktmirror.control.principals import Origin
from pktmirror.control.store import Store
from tests.unit.control.office import NOW_S, Office, allow, opened

DEADLINE_S = 20.0
REFUSED = "UnauthorizedOperation"


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with opened(tmp_path) as office:
        yield office


class Beside(threading.Thread):
    """A call that goes on beside the test; ``code`` is its refusal's, or ``done``."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.code: str | None = None
        self._call = call
        self.start()

    def run(self) -> None:
        try:
            self._call()
            self.code = "done"
        except ApiError as refusal:
            self.code = refusal.code


def test_who_may_not_is_told_so_while_another_writes(office: Office) -> None:
    key_id, filter_id = office.user(allow("ec2:Describe*")), office.filter()
    with office.store.write():
        beside = Beside(lambda: office.call("DeleteTrafficMirrorFilter", key_id, TrafficMirrorFilterId=filter_id))
        beside.join(DEADLINE_S)
        assert beside.code == REFUSED, "the decision waits for the store's lock"


def test_what_is_taken_from_a_user_while_he_waits_he_has_not(office: Office) -> None:
    tagged = {"StringEquals": {"aws:ResourceTag/team": "red"}}
    key_id, filter_id = office.user(allow("ec2:DeleteTrafficMirrorFilter", Condition=tagged)), office.filter()
    office.call("CreateTags", Resources=[filter_id], Tags=[{"Key": "team", "Value": "red"}])
    with office.store.write() as transaction:
        beside = Beside(lambda: office.call("DeleteTrafficMirrorFilter", key_id, TrafficMirrorFilterId=filter_id))
        waiting_until(lambda: has_decided(beside))
        transaction.tags.put(filter_id, "team", "blue")
    beside.join(DEADLINE_S)
    assert beside.code == REFUSED
    office.call("CreateTags", Resources=[filter_id], Tags=[{"Key": "team", "Value": "red"}])
    office.call("DeleteTrafficMirrorFilter", key_id, TrafficMirrorFilterId=filter_id)


def has_decided(beside: threading.Thread) -> bool:
    """It stands in `Store.write`, at the lock."""
    frame = sys._current_frames().get(beside.ident or 0)
    while frame is not None:
        if frame.f_code is Store.write.__wrapped__.__code__:  # type: ignore[attr-defined]
            return True
        frame = frame.f_back
    return False


def waiting_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


class Meddler:
    """Where a request comes from; whenever a decision looks at that, something that it depends on is changed."""

    user_agent, secure = "", False

    def __init__(self, store: Store, filter_id: str, teams: list[str]) -> None:
        self._store, self._filter_id, self._teams = store, filter_id, teams

    @property
    def source_ip(self) -> str:
        if self._teams:
            with self._store.write() as transaction:  # within a turn it would wait for its own end
                transaction.tags.put(self._filter_id, "team", self._teams.pop(0))
        return "127.0.0.1"


@pytest.mark.parametrize(
    ("teams", "code"),
    [
        ([f"red{number}" for number in range(DECISIONS_MAX)], "Unavailable"),
        ([*[f"red{number}" for number in range(DECISIONS_MAX - 2)], "blue"], REFUSED),
        ([f"red{number}" for number in range(DECISIONS_MAX - 1)], "done"),
    ],
)
def test_what_has_changed_meanwhile_is_decided_about_outside_of_the_turn_to_write(
    office: Office, teams: list[str], code: str
) -> None:
    tagged = {"StringLike": {"aws:ResourceTag/team": "red*"}}
    key_id, filter_id = office.user(allow("ec2:DeleteTrafficMirrorFilter", Condition=tagged)), office.filter()
    office.call("CreateTags", Resources=[filter_id], Tags=[{"Key": "team", "Value": "red"}])
    call = Call("ec2", "DeleteTrafficMirrorFilter", {"TrafficMirrorFilterId": filter_id})
    event = replace(
        office.event(call.operation, key_id), origin=cast("Origin", Meddler(office.store, filter_id, teams))
    )
    beside = Beside(lambda: office.plane.perform(call, event, NOW_S))
    beside.join(DEADLINE_S)
    assert (beside.code, teams) == (code, [])
    with office.store.read() as transaction:
        assert (transaction.filters.get(filter_id) is None) == (code == "done")


def test_more_resources_than_a_call_may_name_are_refused_before_any_is_decided_about(office: Office) -> None:
    key_id, ids = office.user(allow("ec2:Describe*")), [f"tmf-{number:017}" for number in range(RESOURCES_MAX + 1)]
    tags = [{"Key": "a", "Value": "b"}]
    assert office.refused("CreateTags", key_id, Resources=ids[:-1], Tags=tags) == REFUSED
    assert office.refused("CreateTags", key_id, Resources=ids, Tags=tags) == "InvalidParameterValue"
    assert office.refused("DeleteTags", key_id, Resources=ids) == "InvalidParameterValue"


def test_what_is_too_long_or_too_much_to_be_compared_is_refused(office: Office) -> None:
    key_id = office.user(allow("ec2:DeleteTrafficMirrorFilter"))
    for length, code in ((CHARACTERS_MAX - 200, "InvalidTrafficMirrorFilterId.NotFound"), (CHARACTERS_MAX, None)):
        found = office.refused("DeleteTrafficMirrorFilter", key_id, TrafficMirrorFilterId="tmf-" + length * "0")
        assert found == (code or "InvalidParameterValue")
    other = office.user(allow("ec2:CreateTags", *["ec2:a"] * 320), name="eve")
    ids = [f"tmf-{number:017}" for number in range(RESOURCES_MAX)]
    tags = [{"Key": "a", "Value": "b"}]
    assert office.refused("CreateTags", other, Resources=ids, Tags=tags) == "InvalidParameterValue"
    none = "InvalidTrafficMirrorFilterId.NotFound"
    assert office.refused("CreateTags", other, Resources=ids[: RESOURCES_MAX // 2], Tags=tags) == none
    # It is not how many comparisons there are that counts, but how long each takes.
    suffixes = [f"arn:aws:ec2:*:*:*{number}" for number in range(50)]
    third = office.user(allow("ec2:CreateTags"), allow("ec2:CreateTags", Resource=suffixes), name="mal")
    assert office.refused("CreateTags", third, Resources=ids[:200], Tags=tags) == none
    long = ["tmf-" + "0" * 900 + id_ for id_ in ids[:200]]
    assert office.refused("CreateTags", third, Resources=long, Tags=tags) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("peer", "told", "may"),
    [
        ("192.0.2.9", "192.0.2.9", True),
        ("::ffff:192.0.2.9", "192.0.2.9", True),  # an IPv4 peer at a socket that listens on [::]
        ("::ffff:198.51.100.9", "198.51.100.9", False),
        ("2001:db8::9", "2001:db8::9", False),
        ("", "", False),
    ],
)
def test_an_ipv4_peer_is_one_at_a_socket_of_either_family(office: Office, peer: str, told: str, may: bool) -> None:
    assert Origin.of(peer, "", secure=False) == Origin(told)
    network, office.peer = "192.0.2.0/24", peer
    inside = office.user(allow("ec2:DescribeVpcs", Condition={"IpAddress": {"aws:SourceIp": network}}))
    outside = office.user(allow("ec2:DescribeVpcs", Condition={"NotIpAddress": {"aws:SourceIp": network}}), name="eve")
    for key_id, allowed in ((inside, may), (outside, not may)):
        if allowed:
            assert office.call("DescribeVpcs", key_id)["Vpcs"] == []
        else:
            assert office.refused("DescribeVpcs", key_id) == REFUSED

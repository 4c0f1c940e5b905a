"""When it is decided who may do what: before others wait, and again where what it depends on has changed meanwhile."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pktmirror.aws import ApiError
from pktmirror.control.authorization import CHARACTERS_MAX, COMPARISONS_MAX
from pktmirror.control.operations.tags import RESOURCES_MAX
from pktmirror.control.principals import Origin
from pktmirror.control.store import Store
from tests.unit.control.office import Office, allow, opened

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
    patterns = COMPARISONS_MAX // RESOURCES_MAX + 1
    other = office.user(allow("ec2:CreateTags", *["ec2:a"] * (patterns - 2)), name="eve")
    ids = [f"tmf-{number:017}" for number in range(RESOURCES_MAX)]
    tags = [{"Key": "a", "Value": "b"}]
    assert office.refused("CreateTags", other, Resources=ids, Tags=tags) == "InvalidParameterValue"
    assert (
        office.refused("CreateTags", other, Resources=ids[:-10], Tags=tags) == "InvalidTrafficMirrorFilterId.NotFound"
    )


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

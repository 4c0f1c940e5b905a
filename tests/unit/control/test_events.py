"""Which calls are kept in the audit log, and how much of each."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pktmirror.aws import ApiError, errors
from pktmirror.control.audit import AUDIT_RECORD_LEFT_OUT
from pktmirror.control.events import ELEMENT_BYTES_MAX, IDLE_ELEMENT_BYTES_MAX, record
from pktmirror.control.trail import KNOWN_BURST, RESERVED_BURST, read
from tests.unit.control.office import Office, opened

DENIED = ApiError("UnauthorizedOperation", "no", 403)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with opened(tmp_path) as office:
        yield office


def kept(directory: Path) -> list[dict[str, Any]]:
    return [each for each in read(directory) if each is not None]


def test_who_reads_and_is_refused_on_and_on_fills_no_disk_and_is_counted(office: Office, tmp_path: Path) -> None:
    reads, refused = office.event("DescribeVpcs"), office.event("CreateTrafficMirrorFilter")
    most = 2 * int(KNOWN_BURST) + int(RESERVED_BURST)
    for _ in range(int(KNOWN_BURST)):
        office.plane.audit.read(reads)
        office.plane.audit.refusal(refused, DENIED)
    for _ in range(int(RESERVED_BURST)):
        office.plane.audit.refusal(refused, DENIED)
    assert len(kept(tmp_path)) == most
    for _ in range(5):
        office.plane.audit.read(reads)
        office.plane.audit.refusal(refused, DENIED)
    assert len(kept(tmp_path)) == most
    assert office.plane.refused.counts() == {AUDIT_RECORD_LEFT_OUT: 10}
    # What changes something is kept all the same, and so is its end.
    office.call("CreateTrafficMirrorFilter")
    office.plane.audit.refusal(refused, errors.internal_error())
    began = office.plane.audit.change(office.event("PutNetworks", service="pktmirror"))
    office.plane.audit.refusal(began, DENIED)
    assert [(each["eventName"], each.get("errorCode")) for each in kept(tmp_path)[most:]] == [
        ("CreateTrafficMirrorFilter", None),
        ("CreateTrafficMirrorFilter", "Server.InternalError"),
        ("PutNetworks", None),
        ("PutNetworks", "UnauthorizedOperation"),
    ]
    # And another key of the account is heard.
    assert reads.principal is not None
    office.plane.audit.read(replace(reads, principal=replace(reads.principal, access_key_id="AKIA2")))
    assert kept(tmp_path)[-1]["userIdentity"]["accessKeyId"] == "AKIA2"
    assert office.plane.refused.counts() == {AUDIT_RECORD_LEFT_OUT: 10}


def test_nobody_hides_what_he_was_refused_behind_other_calls(office: Office, tmp_path: Path) -> None:
    for _ in range(int(KNOWN_BURST) + 1):
        office.plane.audit.read(office.event("DescribeVpcs"))
    office.plane.audit.refusal(office.event("DeleteTrafficMirrorSession"), DENIED)
    assert kept(tmp_path)[-1]["eventName"] == "DeleteTrafficMirrorSession"
    for number in range(int(KNOWN_BURST + RESERVED_BURST)):  # and what is no operation is as one
        office.plane.audit.refusal(office.event(f"Delete{number}"), errors.invalid_action(f"Delete{number}"))
    at_most = len(kept(tmp_path))
    for _ in range(2):
        office.plane.audit.refusal(office.event("DeleteAnything"), errors.invalid_action("DeleteAnything"))
    assert len(kept(tmp_path)) == at_most
    for service, name in (("ec2", "DeleteTrafficMirrorSession"), ("iam", "DeleteUser"), ("pktmirror", "ForgetHost")):
        office.plane.audit.refusal(office.event(name, service=service), DENIED)
        assert kept(tmp_path)[-1]["eventName"] == name


def test_less_is_kept_of_a_call_that_changed_nothing(office: Office) -> None:
    def parameters(operation: str, size: int, error: ApiError | None = None) -> Any:
        return record(office.event(operation, Description="x" * size), {"A": "b"}, error)["requestParameters"]

    over, most = IDLE_ELEMENT_BYTES_MAX, IDLE_ELEMENT_BYTES_MAX - len('{"description":""}')
    assert parameters("CreateTrafficMirrorFilter", over) == {"description": "x" * over}
    assert parameters("CreateTrafficMirrorFilter", ELEMENT_BYTES_MAX)["omitted"]
    for operation, error in (("CreateTrafficMirrorFilter", DENIED), ("DescribeVpcs", None)):
        assert parameters(operation, most, error) == {"description": "x" * most}
        assert parameters(operation, most + 1, error) == {
            "omitted": True,
            "originalSize": over + 1,
            "reason": f"more than {over} bytes",
        }

"""A session that is deleted goes on at its host until that says otherwise; so long it is shown."""

import re
from pathlib import Path
from typing import Any

import httpx
from typer.testing import CliRunner

from pktmirror.cli.program import app
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, running


def still(plane: Plane) -> dict[str, str]:
    """By session id: what is said of a deleted session that is not confirmed."""
    return {each["session_id"]: each["problem"] for each in plane.own("status")["deleted_sessions"]}


def counted(plane: Plane, host: str) -> float:
    """The same as the metrics have it."""
    headers = {"authorization": f"Bearer {(plane.state / 'metrics-token').read_text().strip()}"}
    text = httpx.get(f"{plane.url}/metrics", headers=headers, trust_env=False, timeout=30).text
    [line] = re.findall(rf'^pktmirror_agent_still_mirroring{{host="{host}"}} (\S+)$', text, re.MULTILINE)
    return float(line)


def reported(plane: Plane, applied_revision: int) -> None:
    plane.report(*plane.reported.values(), applied_revision=applied_revision)


def revision(plane: Plane) -> int:
    return int(plane.own("status")["revision"])


def delete(ec2: Any, session: dict[str, Any]) -> str:
    session_id = str(session["TrafficMirrorSessionId"])
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
    return session_id


def test_a_deletion_is_shown_until_its_host_has_applied_it(plane: Plane, ec2: Any, make: Maker) -> None:
    first, second, kept = make.session(), make.session(), make.session()
    assert still(plane) == {}
    deleted = delete(ec2, first)
    at = revision(plane)
    assert still(plane) == {deleted: f"still mirroring on {HOST}"}
    shown = CliRunner().invoke(app, ["status"], env={"PKTMIRROR_STATE": str(plane.state), "COLUMNS": "200"}).stdout
    assert re.search(rf"{deleted}, deleted \d+ s ago: still mirroring on {HOST}", " ".join(shown.split())), shown
    other = delete(ec2, second)
    assert counted(plane, HOST) == 2
    reported(plane, at - 1)
    plane.report(host="host-2", applied_revision=revision(plane))
    assert still(plane).keys() == {deleted, other}, "neither what was before it confirms it, nor another host"
    reported(plane, at)
    assert still(plane).keys() == {other}
    reported(plane, revision(plane))
    assert still(plane) == {}
    assert (counted(plane, HOST), counted(plane, "host-2")) == (0, 0)
    sessions = plane.own("status")["sessions"]
    assert kept["TrafficMirrorSessionId"] in [each["session_id"] for each in sessions]


def test_a_deletion_that_is_not_confirmed_outlives_a_restart_and_ends_with_its_host(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        make = Maker(plane, plane.client())
        deleted = delete(plane.client(), make.session())
    with running(tmp_path / "state", eni_forget_s=None) as plane:
        assert still(plane) == {deleted: f"still mirroring on {HOST}"}
        assert plane.own_answer(f"hosts/{HOST}", method="DELETE").status_code == 204
        assert still(plane) == {}, "a host that is forgotten confirms nothing any more"

"""A source comes and goes, and a template has its packets mirrored for as long as it is there."""

import json
from pathlib import Path
from typing import Any

import pytest

from pktmirror.kernel import netns
from pktmirror.lab.plan import host_device
from tests.contract.conftest import Maker
from tests.lab.line import WITHIN_S, Line, line
from tests.lab.test_interface_life import GONE_S, PORT, Build, plug, say
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root


def made(whole: Line) -> list[dict[str, Any]]:
    """The sessions of the template, as an EC2 client finds them."""
    wanted = [{"Name": "tag:pktmirror:template", "Values": ["lab/web"]}]
    sessions = whole.plane.client().describe_traffic_mirror_sessions(Filters=wanted)["TrafficMirrorSessions"]
    return [dict(session) for session in sessions]


def put_template(whole: Line, name: str) -> None:
    make = Maker(whole.plane, whole.plane.client())
    filter_id = make.filter()
    make.rule(
        filter_id, TrafficDirection="egress", Protocol=17, DestinationPortRange={"FromPort": PORT, "ToPort": PORT}
    )
    template = {
        "name": "lab/web",
        "select": {"name": name},
        "target_id": make.target(NetworkInterfaceId=whole.found("monitor")["interface_id"]),
        "filter_id": filter_id,
        "number": 3,
        "limit": 1,
    }
    answer = whole.plane.own_answer("templates/lab/web", method="PUT", body=json.dumps(template))
    assert answer.status_code == 200, answer.text


def mirrors(whole: Line, packets: int) -> str:
    """The one session that the template has made mirrors what its source says; its id."""
    [session] = wait_until(lambda: made(whole), WITHIN_S, "no session is made")
    session_id = str(session["TrafficMirrorSessionId"])
    assert session["NetworkInterfaceId"] == whole.found("web")["interface_id"]
    whole.wait_for_problem(session_id, None)
    say(whole, packets)
    whole.wait_until_collected(session_id, packets)
    return session_id


def test_a_source_that_comes_is_mirrored_by_the_template_that_selects_it_as_often_as_it_comes(
    lab: Build, tmp_path: Path
) -> None:
    with line(lab(VPC), tmp_path, namespace_gone_s=GONE_S) as whole:
        inside = whole.lab.namespace("web")
        whole.found("web")
        put_template(whole, inside)
        first = mirrors(whole, 5)
        netns.remove(inside)
        wait_until(lambda: made(whole) == [], WITHIN_S, "the session of a source that is deleted stays")
        netns.create(inside)
        try:
            plug(whole.lab, whole.lab.namespace("host"), inside, host_device("web"))
            second = mirrors(whole, 3)
        finally:
            netns.remove(inside)  # the lab takes down what it has made itself
        assert second != first
        [template] = whole.plane.own("templates")
        assert (template["selected"], template["sessions"], template["reasons"]) == (1, [second], [])

"""`pktmirror apply` and `pktmirror export` against a control plane in a process of its own."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pktmirror.cli.program import app
from pktmirror.model.refusal import Refusal
from tests.contract.plane import HOST, Plane, found
from tests.contract.test_cli_questions import PROGRAM
from tests.contract.test_templates import client

DOCUMENT = """
document: office
targets:
  collector:
    interface: {host: host-1, key: "netns:sensor/eth0"}
    description: all copies
filters:
  web:
    services: [amazon-dns]
    ingress:
      - {number: 10, action: accept, protocol: tcp, source: 0.0.0.0/0, destination: 10.0.0.0/16, destination_ports: 80-90}
      - {number: 20, action: accept, source: "::/0", destination: "2001:db8::/32"}
    tags: {team: net}
sessions:
  web1:
    source: {host: host-1, key: "netns:web1/eth0"}
    target: collector
    filter: web
    packet_length: 128
    tags: {"pktmirror:packets-per-second": 1000}
templates:
  all-web:
    select: {name: web*}
    target: collector
    filter: web
    number: 50
    limit: 1
"""  # noqa: E501


NOTHING: dict[str, Any] = {"targets": [], "filters": [], "sessions": []}


@pytest.fixture
def own(plane: Plane, tmp_path: Path) -> Iterator[Plane]:
    """The module's control plane; what a test leaves there is gone afterwards."""
    plane.find(found("web1", "10.0.0.1"), found("web2", "10.0.0.2"), found("sensor", "10.0.0.200"))
    yield plane
    if everything(plane) == NOTHING:
        return
    empty = tmp_path / "empty.yaml"
    empty.write_text("document: office")
    assert run(plane, "apply", empty, "--yes", "--prune").exit_code == 0
    ec2 = client(plane)
    for filter_ in ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"]:
        ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=filter_["TrafficMirrorFilterId"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mirror.yaml"
    path.write_text(DOCUMENT)
    return path


def run(plane: Plane, *words: str | Path, typed: str | None = None) -> Result:
    environment = {"PKTMIRROR_STATE": str(plane.state), "COLUMNS": "250"}
    return CliRunner().invoke(app, [str(word) for word in words], env=environment, input=typed)


def everything(plane: Plane) -> dict[str, Any]:
    """What boto3 sees."""
    ec2 = client(plane)
    return {
        "targets": ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"],
        "filters": ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"],
        "sessions": ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"],
    }


def test_a_document_is_shown_confirmed_made_and_then_there_is_nothing_to_do(own: Plane, file: Path) -> None:
    before = everything(own)
    shown = run(own, "apply", file, "--dry-run")
    assert shown.exit_code == 3
    assert "+ create  session   web1" in shown.output
    assert "Document office: 6 to create, 1 to modify, 0 to delete." in shown.output
    asked = run(own, "apply", file)
    assert isinstance(asked.exception, Refusal)
    assert "give --yes" in str(asked.exception)
    assert everything(own) == before

    done = run(own, "apply", file, "--yes")
    assert done.exit_code == 0
    assert "Done: 7 changes." in done.output
    there = everything(own)
    [target], [filter_] = there["targets"], there["filters"]
    named = {each["NetworkInterfaceId"]: each for each in there["sessions"] if each["SessionNumber"] == 1}
    [web1] = named.values()
    assert target["Description"] == "all copies"
    assert filter_["NetworkServices"] == ["amazon-dns"]
    assert [rule["RuleNumber"] for rule in filter_["IngressFilterRules"]] == [10, 20]
    assert {tag["Key"]: tag["Value"] for tag in filter_["Tags"]} == {"team": "net", "pktmirror:name": "office/web"}
    assert (web1["PacketLength"], web1["TrafficMirrorTargetId"]) == (128, target["TrafficMirrorTargetId"])
    [templated] = [each for each in there["sessions"] if each["SessionNumber"] == 50]
    assert templated["Tags"] == [{"Key": "pktmirror:template", "Value": "office/all-web"}]

    for words in (("--dry-run",), ()):
        again = run(own, "apply", file, *words)
        assert (again.exit_code, again.output.strip()) == (0, "Nothing to do: all is as the document office says.")
    assert everything(own) == there


def test_what_is_exported_changes_nothing_when_it_is_applied(own: Plane, file: Path, tmp_path: Path) -> None:
    run(own, "apply", file, "--yes")
    ec2 = own.client()
    by_hand = ec2.create_traffic_mirror_filter(Description="by hand: no", TagSpecifications=[])["TrafficMirrorFilter"]
    there = everything(own)
    for words in ((), ("--json", "--only-named")):
        exported = run(own, "export", "--document", "office", *words)
        assert exported.exit_code == 0
        assert (by_hand["TrafficMirrorFilterId"] in exported.output) == ("--only-named" not in words)
        again = tmp_path / "again.yaml"
        again.write_text(exported.stdout)
        planned = run(own, "apply", again, "--dry-run", "--prune", "--json")
        assert (planned.exit_code, json.loads(planned.stdout)["changes"]) == (0, [])
    assert everything(own) == there
    assert run(own, "export").stdout.startswith("document: default\nfilters:\n  filter."), "of no document"


def test_what_is_no_longer_in_the_document_stays_until_it_is_pruned(own: Plane, file: Path) -> None:
    run(own, "apply", file, "--yes")
    there = everything(own)
    file.write_text("document: office\n")
    left = run(own, "apply", file, "--yes")
    assert left.exit_code == 0
    assert "session web1 (" in left.output
    assert "is no longer in the document, and stays; --prune deletes it" in left.output
    assert everything(own) == there
    pruned = run(own, "apply", file, "--yes", "--prune", "--json")
    assert pruned.exit_code == 0
    report = json.loads(pruned.stdout)
    assert (report["applied"], report["failed"], report["left"]) == (4, None, [])
    assert [(each["verb"], each["kind"]) for each in report["changes"]] == [
        ("delete", "session"),
        ("delete", "template"),
        ("delete", "filter"),
        ("delete", "target"),
    ]
    assert everything(own) == NOTHING


def test_what_fails_half_way_says_how_far_it_came_and_goes_on_from_there(own: Plane, file: Path) -> None:
    """The fourth session of the interface is over the quota, which only EC2 knows."""
    more = DOCUMENT.replace(
        "templates:",
        "".join(
            f'  {name}:\n    source: {{host: {HOST}, key: "netns:web1/eth0"}}\n    target: collector\n    filter: web\n'
            for name in ("second", "third", "fourth")
        )
        + "templates:",
    )
    file.write_text(more)
    failed = run(own, "apply", file, "--yes")
    assert failed.exit_code == 4
    assert "8 changes are made; create session fourth failed; 1 were not tried." in failed.output
    assert "TrafficMirrorSessionsPerInterfaceLimitExceeded" in failed.output
    assert "apply the document again: it goes on from here" in failed.output
    report = json.loads(run(own, "apply", file, "--yes", "--json").stdout.partition("\npktmirror")[0])
    assert [each["name"] for each in report["changes"]] == ["fourth", "all-web"]
    file.write_text(DOCUMENT)
    assert run(own, "apply", file, "--yes", "--prune").exit_code == 0
    assert run(own, "apply", file, "--dry-run", "--prune").exit_code == 0


def at_a_terminal(plane: Plane, *words: str | Path, typed: str) -> subprocess.CompletedProcess[str]:
    """The program, asked by somebody who types."""
    ours, its = pty.openpty()
    try:
        os.write(ours, typed.encode())
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            env={**os.environ, "PKTMIRROR_STATE": str(plane.state)},
            stdin=its,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(its)


def test_whoever_is_asked_decides(own: Plane, file: Path) -> None:
    refused = at_a_terminal(own, "apply", file, typed="n\n")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Make these 7 changes? [y/N]:")
    assert refused.stderr.endswith("pktmirror: Nothing has changed. Next: apply it again when it is wanted\n")
    assert everything(own) == NOTHING
    agreed = at_a_terminal(own, "apply", file, typed="y\n")
    assert (agreed.returncode, agreed.stdout.splitlines()[-1].strip()) == (0, "Done: 7 changes.")
    assert len(everything(own)["sessions"]) == 2


def test_a_document_on_standard_input_is_read_but_cannot_be_confirmed(own: Plane) -> None:
    assert run(own, "apply", "-", "--dry-run", typed=DOCUMENT).exit_code == 3
    asked = run(own, "apply", "-", typed=DOCUMENT)
    assert isinstance(asked.exception, Refusal)
    assert "the document itself on standard input" in str(asked.exception)
    assert run(own, "apply", "-", "--yes", typed=DOCUMENT).exit_code == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            ("filter: web", "filter: wep"),
            "line 15, column 3: session web1 has the filter wep, which is not declared",
        ),
        (
            ("1000}", "many}"),
            "line 15, column 3: web1: Value (many) for the tag pktmirror:packets-per-second",
        ),
        (("netns:web1", "netns:web7"), "line 15, column 3: session web1 names netns:web7/eth0 on host-1, where no"),
        (
            ("targets:", "target:"),
            "line 3, column 1: the document has a field `target`, which is not known: did you",
        ),
    ],
)
def test_a_document_with_a_mistake_is_refused_with_the_line_and_the_way_out(
    own: Plane, file: Path, change: tuple[str, str], problem: str
) -> None:
    file.write_text(DOCUMENT.replace(*change))
    refused = run(own, "apply", file, "--yes")
    assert isinstance(refused.exception, Refusal)
    assert problem in str(refused.exception)
    assert everything(own) == NOTHING


def test_a_file_that_cannot_be_read_is_named(own: Plane, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"document: \xe9")
    for name in ("nowhere", "latin"):
        refused = run(own, "apply", tmp_path / name)
        assert isinstance(refused.exception, Refusal)
        assert f"{tmp_path / name} cannot be read" in str(refused.exception)

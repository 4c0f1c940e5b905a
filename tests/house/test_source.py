"""What a file of this repository must say, and what none may."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from pktmirror.agent.apply import OBJECT
from tests.kernel.btf import sections

ROOT = Path(__file__).parents[2]
SPDX = re.compile(r"^(// |/\* )SPDX-License-Identifier: Apache-2\.0 OR GPL-2\.0-only( \*/)?$")
# Put together from parts, so that this file may be looked at too.
FORBIDDEN = {
    "the host of a package registry": re.compile(
        r"(?i)\b(files\."
        + r"pythonhosted|pypi|registry\."
        + r"npmjs|registry\."
        + r"yarnpkg|proxy\."
        + r"golang|crates)"
        r"\.(org|com|io)\b|\bgoproxy\b|\bartifact" + r"ory\b"
    ),
    "a directory of somebody's machine": re.compile(
        r"(?<![\w.$}~-])/(home/[a-z_][\w-]*/|ro" + r"ot/|Users/\w+/|wo" + r"rk/(main|shared)\b)"
    ),
}


def files() -> list[Path]:
    """What git knows or would add."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode(errors="replace")


@pytest.mark.parametrize("path", sorted((ROOT / "bpf").iterdir()), ids=lambda path: path.name)
def test_a_source_of_the_data_plane_begins_with_its_licence(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert SPDX.match(first), (
        f"{path.name} begins with {first!r}; the helpers want GPL, the project Apache-2.0: name both"
    )


def test_the_object_names_the_licence_that_its_helpers_want() -> None:
    assert OBJECT.exists(), f"no {OBJECT.name}: run script/build-bpf"
    assert sections(OBJECT)["license"] == b"GPL\0"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what} is of use on one machine only; write what holds on all:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line", "forbidden"),
    [
        ("the host of a package registry", "source = { registry = 'https://" + "pypi" + ".org/simple' }", True),
        ("the host of a package registry", "pypi is a registry", False),
        ("a directory of somebody's machine", "open('/" + "root/notes')", True),
        ("a directory of somebody's machine", "see /" + "home/ada/pktmirror", True),
        ("a directory of somebody's machine", "see ../shared/captures and tests/unit/home/page", False),
    ],
)
def test_the_patterns_see_what_they_are_for(what: str, line: str, forbidden: bool) -> None:
    assert bool(FORBIDDEN[what].search(line)) is forbidden


def test_every_locked_package_of_npm_has_a_version_and_a_hash_and_no_address() -> None:
    lock = ROOT / "tests" / "contract" / "javascript" / "package-lock.json"
    assert "://" not in lock.read_text(), f"{lock.name} names an address: install in its directory, where .npmrc is"
    packages = json.loads(lock.read_text())["packages"]
    packages.pop("")
    assert packages
    for name, package in packages.items():
        assert package["version"], name
        assert package["integrity"].startswith("sha512-"), name


def test_every_locked_package_has_a_version_and_hashes_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock, "requirements.lock names an address: write it with script/lock"
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE).strip())
    assert entries
    for entry in entries:
        assert re.match(r"[\w.\[\],-]+==[\w.+!]+", entry), f"no exact version: {entry.splitlines()[0]}"
        assert "--hash=sha256:" in entry, f"no hash: {entry.splitlines()[0]}"

"""Version 2 of the aws CLI, which no package index has: the machine's own, or the distribution's.

The distribution's package is unpacked below ``build/``, with what it needs that the machine does not have. Nothing is
installed on the machine.
"""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

BUILD = Path(__file__).parents[2] / "build"
SYSTEM_PYTHON = "/usr/bin/python3"
_MACHINES_OWN = (Path("/usr/local/bin/aws"), Path("/usr/bin/aws"))
_APT_S = 100


def found() -> tuple[list[str], dict[str, str]]:
    """The command, and what its environment needs. Skips, and says why, where there is none."""
    for own in _MACHINES_OWN:
        if own.exists() and _is_version_2([str(own)], {}):
            return [str(own)], {}
    unpacked = BUILD / "aws-cli-2"
    if not unpacked.exists():
        _unpack(unpacked)
    command, environment = (
        [SYSTEM_PYTHON, str(unpacked / "usr/bin/aws")],
        {"PYTHONPATH": str(unpacked / "usr/lib/python3/dist-packages")},
    )
    if not _is_version_2(command, environment):
        pytest.skip("the distribution's awscli is not version 2, or does not run here")
    return command, environment


def _is_version_2(command: list[str], environment: dict[str, str]) -> bool:
    told = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True, check=False).stdout
    return told.startswith("aws-cli/2.")


def _unpack(directory: Path) -> None:
    simulated = _apt("install", "--simulate", "--no-install-recommends", "awscli", cwd=Path("/"))
    packages = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
    if "awscli" not in packages:
        pytest.skip("the distribution has no awscli: version 2 of the aws CLI is not tried")
    BUILD.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=BUILD) as beside:
        _apt("download", *packages, cwd=Path(beside))
        root = Path(beside) / "root"
        for package in sorted(Path(beside).glob("*.deb")):
            subprocess.run(["dpkg", "--extract", package, root], check=True)
        root.rename(directory)


def _apt(*arguments: str, cwd: Path) -> str:
    command = ["apt-get", "--quiet", "--quiet", *arguments]
    try:
        ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_APT_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"version 2 of the aws CLI is not tried: {error}")
    if ran.returncode != 0:
        pytest.skip(f"version 2 of the aws CLI cannot be had by apt-get: {ran.stderr.strip().splitlines()[-1:]}")
    return ran.stdout

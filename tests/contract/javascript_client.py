"""The AWS SDK for JavaScript, installed by npm from its lock file below ``build/``, and a process that speaks by it."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

HERE = Path(__file__).parent / "javascript"
BUILD = Path(__file__).parents[2] / "build"
NODE_MAJOR_MIN = 20
INSTALL_S = 100
_NOT_REACHED = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ETIMEDOUT",
    "ERR_SOCKET_TIMEOUT",
)


def installed() -> Path:
    """The directory with the SDK; installs it once for each lock file. Skips, and says why, where that cannot be."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no node and npm here: the AWS SDK for JavaScript is not tried")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < NODE_MAJOR_MIN:
        pytest.skip(f"node is {version}, and the AWS SDK for JavaScript wants {NODE_MAJOR_MIN} or later")
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    directory = BUILD / f"javascript-{lock}"
    if not directory.exists():
        _install(npm, directory)
    shutil.copy(HERE / "converse.mjs", directory)
    return directory


def _install(npm: str, directory: Path) -> None:
    BUILD.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=BUILD) as beside:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, beside)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        try:
            ran = subprocess.run(
                command,
                cwd=beside,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm has not installed the AWS SDK for JavaScript in {INSTALL_S} s")
        if ran.returncode != 0 and any(code in ran.stderr for code in _NOT_REACHED):
            pytest.skip("npm does not reach its registry: the AWS SDK for JavaScript is not tried")
        assert ran.returncode == 0, f"npm ci: {ran.stderr}"
        Path(beside).chmod(0o755)
        Path(beside).rename(directory)
        Path(beside).mkdir()  # for its owner to remove


class JavaScript:
    """A running process of the SDK."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, command: str, **input_: Any) -> dict[str, Any]:
        """What the SDK makes of the answer, without the request id; `Refused` where it throws."""
        told = self._ask(command=command, input=input_)
        assert told.pop("requestId")
        return told

    def pages(self, command: str, page_size: int, **input_: Any) -> list[dict[str, Any]]:
        """All that the SDK's paginator gives."""
        pages: list[dict[str, Any]] = self._ask(command=command, input=input_, pageSize=page_size)["pages"]
        return pages

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        told: dict[str, Any] = answer["output"]
        return told


class Refused(Exception):
    """What the SDK threw."""

    def __init__(self, thrown: dict[str, Any]) -> None:
        super().__init__(f"{thrown['name']}: {thrown['message']}")
        self.code, self.message = thrown["name"], thrown["message"]
        self.status, self.request_id = thrown.get("status"), thrown.get("requestId")


@contextmanager
def running(environment: dict[str, str]) -> Iterator[JavaScript]:
    """The SDK in a process that knows nothing but the environment."""
    process = subprocess.Popen(
        ["node", "converse.mjs"],
        cwd=installed(),
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield JavaScript(process)
    finally:
        process.communicate(timeout=60)
        assert process.returncode == 0

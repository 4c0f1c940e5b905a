"""A host in a network of its own joins a control plane in another, as processes, over TLS; and what ends a host."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pktmirror.agent.apply import pins_of
from pktmirror.agent.locks import bpffs_lock
from pktmirror.cli.endpoint import Endpoint, own_path
from pktmirror.cli.program import app
from pktmirror.kernel import bpffs, netns
from pktmirror.kernel.netlink import Netlink
from tests.lab.test_agent_process import PKTMIRROR, START_S
from tests.waiting import wait_until

pytestmark = pytest.mark.root

CONTROL, REMOTE = "192.0.2.1", "192.0.2.2"
URL = f"https://{CONTROL}:8774"
HOST = "remote.example"


@dataclass
class Two:
    """Two machines with a wire between them: `control` has the control plane, `remote` is to be a host."""

    control: str
    remote: str
    directory: Path
    processes: list["subprocess.Popen[str]"]

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf"

    @property
    def state(self) -> Path:
        """Of the host; the control plane has its own."""
        return self.directory / "remote-state"

    @property
    def control_state(self) -> Path:
        return self.directory / "control-state"

    def on_control(self, *words: str) -> str:
        return self._said(self.control, *words, f"--state={self.control_state}")

    def on_remote(self, *words: str) -> str:
        return self._said(self.remote, *words)

    def status(self) -> dict[str, Any]:
        with netns.Visitor(self.control) as inside:
            found = Endpoint.found(self.control_state)
            return inside.run(found.get, own_path("status"), dict[str, Any])

    def start(self, place: str, *words: str, until: str) -> "subprocess.Popen[str]":
        """A service that has said so much; its log goes to a file, which nobody has to read."""
        log = self.directory / f"log-{len(self.processes)}"
        argv = netns.command(place, [str(PKTMIRROR), *words])
        with log.open("w") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        wait_until(lambda: until in log.read_text() or process.poll() is not None, START_S, log.read_text)
        assert process.poll() is None, log.read_text()
        return process

    def start_agent(self) -> "subprocess.Popen[str]":
        options = (f"--state={self.state}", f"--host-id={HOST}", f"--bpffs={self.bpffs}")
        return self.start(self.remote, "agent", *options, until="the agent runs")

    def host(self) -> dict[str, Any] | None:
        return next((host for host in self.status()["hosts"] if host["host_id"] == HOST), None)

    def _said(self, place: str, *words: str) -> str:
        """The output of a command in a network; the services alone are processes."""
        with netns.Visitor(place) as inside:
            done = inside.run(CliRunner().invoke, app, words)
        assert done.exit_code == 0, done.exception
        return str(done.stdout).strip()


@pytest.fixture
def two(lab_name: str, tmp_path: Path) -> Iterator[Two]:
    two = Two(f"{lab_name}-control", f"{lab_name}-remote", tmp_path, [])
    for name in (two.control, two.remote):
        netns.create(name)
    try:
        wire(two.control, two.remote)
        yield two
    finally:
        for process in reversed(two.processes):
            process.kill()
            process.wait()
        bpffs_lock(two.bpffs, HOST).unlink(missing_ok=True)
        if bpffs.is_mounted(two.bpffs):
            bpffs.unmount(two.bpffs)
        for name in (two.control, two.remote):
            if netns.exists(name):
                netns.remove(name)


def wire(control: str, remote: str) -> None:
    for line in (
        f"ip -n {control} link set lo up",
        f"ip -n {remote} link set lo up",
        f"ip -n {control} link add wire0 type veth peer name wire0 netns {remote}",
        f"ip -n {control} address add {CONTROL}/24 dev wire0",
        f"ip -n {remote} address add {REMOTE}/24 dev wire0",
        f"ip -n {control} link set wire0 up",
        f"ip -n {remote} link set wire0 up",
    ):
        subprocess.run(line.split(), check=True)


def serve(two: Two) -> None:
    options = ("--listen=127.0.0.1:8773", f"--listen-tls={CONTROL}:8774", f"--state={two.control_state}")
    two.start(two.control, "serve", *options, until=f"{CONTROL}:8774")


def pins(two: Two) -> list[Path]:
    return [Path(where, name) for where, _, names in os.walk(two.bpffs / "pktmirror") for name in names]


def devices(two: Two) -> set[str]:
    with netns.Visitor(two.remote) as inside:
        return set(inside.run(_devices))


def _devices() -> list[str]:
    with Netlink() as netlink:
        return [link.name for link in netlink.links()]


def test_a_second_host_joins_is_followed_revoked_and_ended(two: Two) -> None:
    serve(two)
    token = two.on_control("agent", "token", f"--host={HOST}")
    two.on_remote("agent", "join", URL, "--token", token, f"--state={two.state}", f"--host-id={HOST}")
    before = devices(two)
    agent = two.start_agent()
    wait_until(lambda: (two.host() or {}).get("applied_revision"), START_S, "the host reports nothing")
    assert pins(two)
    assert pins_of(two.bpffs, HOST).is_dir(), "a host may have a dot in its name, though a bpffs takes none"
    two.on_control("agent", "revoke", HOST)
    refused = wait_until(lambda: two.status()["refused_requests"].get("CertificateRevoked"), START_S, "it is let in")
    assert refused > 0
    assert agent.poll() is None, "mirroring goes on as last desired"
    assert pins(two)
    there = pins(two)
    stop = ("agent", "stop", f"--host-id={HOST}", f"--bpffs={two.bpffs}", f"--netns={two.remote}")
    two.on_remote(*stop)
    assert agent.poll() == 0
    assert pins(two) == there, "its end is not the end of mirroring"
    two.on_remote(*stop, "--detach")
    assert not two.bpffs.exists()
    assert devices(two) == before
    assert not bpffs_lock(two.bpffs, HOST).exists()

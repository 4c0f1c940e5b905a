"""A kernel that lacks what the agent needs is told as a reason, and never by silence.

The kernel of the tests is new enough; a seccomp filter around the agent answers for one command of bpf(2) what an older
kernel answers.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror.lab import Lab, Topology, networks_toml
from tests.contract.plane import running
from tests.lab.line import START_S, WITHIN_S, Line
from tests.lab.test_agent_process import PKTMIRROR
from tests.lab.test_interface_life import say, session_of
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

BPF_PROG_LOAD, BPF_LINK_CREATE = 5, 28  # uapi linux/bpf.h
REFUSED = re.compile(r"\[Errno 22\] attach to .* of device \d+ \(Linux [\d.]+ or later\): Invalid argument")
WITHOUT = """
import ctypes, os, struct, sys
EINVAL, BPF_OF_X86_64, PR_SET_SECCOMP, MODE_FILTER = 22, 321, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LD, JEQ, RET = 0x20, 0x15, 0x06
NR_AT, FIRST_ARGUMENT_AT = 0, 16
steps = [
    (LD, 0, 0, NR_AT), (JEQ, 0, 3, BPF_OF_X86_64), (LD, 0, 0, FIRST_ARGUMENT_AT), (JEQ, 0, 1, int(sys.argv[1])),
    (RET, 0, 0, ERRNO | EINVAL), (RET, 0, 0, ALLOW),
]
filter_ = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(filter_))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, program, 0, 0):
    raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def refusing(whole: Line, command: int) -> Iterator["subprocess.Popen[str]"]:
    """The agent of the line as a process whose kernel does not know a command."""
    options = {
        "control": whole.plane.url,
        "state": whole.directory / "state",
        "host-id": whole.host_id,
        "bpffs": whole.bpffs,
        "netns": whole.lab.namespace("host"),
    }
    argv = [str(PKTMIRROR), "agent", *(f"--{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT, str(command), *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=START_S)


@pytest.mark.long
def test_a_kernel_that_lets_no_program_be_attached_is_the_reason_of_the_host_and_of_its_sessions(
    lab: Build, tmp_path: Path
) -> None:
    built = lab(VPC)
    with running(tmp_path / "state", networks_toml(built.topology)) as plane:
        whole = Line(built, plane, tmp_path, 3600.0)
        try:
            with refusing(whole, BPF_LINK_CREATE):
                session_id = session_of(whole, "web")

                def reason() -> str:
                    return str((whole.status(session_id) or {}).get("problem"))

                wait_until(lambda: "or later): Invalid argument" in reason(), WITHIN_S, reason)
                [host] = plane.own("status")["hosts"]
                # Of several devices the first that is refused is named, and that may be another one at each turn.
                assert [REFUSED.fullmatch(problem) is not None for problem in host["problems"]] == [True], host
                before, _, why = str(whole.row(session_id)["problem"]).partition(" yet: ")
                assert (before, REFUSED.fullmatch(why) is not None) == (
                    f"the agent of {whole.host_id} has not applied it",
                    True,
                )
                say(whole, 1)  # production is none of its business
            whole.start_agent()
            whole.wait_for_problem(session_id, None)
        finally:
            whole.close()


def test_a_kernel_that_takes_no_program_ends_the_agent_which_says_why(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    with running(tmp_path / "state", networks_toml(built.topology)) as plane:
        whole = Line(built, plane, tmp_path, 3600.0)
        with refusing(whole, BPF_PROG_LOAD) as process:
            _, said = process.communicate(timeout=START_S * 3)
            assert process.returncode == 1, said
            assert "The agent cannot load its programs into the kernel." in said
            assert "`pktmirror doctor` says what this machine lacks" in said
        whole.close()

"""A host with a lease copies while its control plane is heard of; what it takes afterwards counts as lease ended."""

import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pktmirror.model.ledger import Stage
from pktmirror.model.rate import Rate
from tests.kernel.bench import Bench
from tests.kernel.btf import sections
from tests.kernel.test_caps import COPIED, FIRST, SCENE, SECOND, stage

pytestmark = pytest.mark.root

S = 10**9
LEASE_S = 10
KTIME_GET_BOOT_NS = 125  # BPF_FUNC_ktime_get_boot_ns, uapi linux/bpf.h
CALL = 0x85  # BPF_JMP | BPF_CALL
OF_THE_AGENT = "tests/unit/agent/test_controller.py"


def since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_copies_end_with_the_lease_and_go_on_when_the_control_plane_is_heard_again(bench: Bench) -> None:
    bench.write(SCENE, lease_s=LEASE_S)
    for _ in range(2):
        bench.heard(since_boot_ns() + 3600 * S)
        assert [stage(bench, frame) for frame in (FIRST, SECOND)] == [COPIED, COPIED]
        bench.heard(since_boot_ns() - LEASE_S * S - S)
        assert [stage(bench, frame) for frame in (FIRST, SECOND)] == [Stage.LEASE_ENDED, Stage.LEASE_ENDED]


def test_without_a_lease_nothing_ends(bench: Bench) -> None:
    bench.write(SCENE)
    bench.heard(0)
    assert stage(bench, FIRST) is COPIED


def test_what_a_lease_ends_spends_no_budget(bench: Bench) -> None:
    bench.write(SCENE, lease_s=LEASE_S, budget=Rate(bits_per_s=1))
    bench.heard(since_boot_ns() - LEASE_S * S - S)
    assert [stage(bench, FIRST) for _ in range(2)] == [Stage.LEASE_ENDED] * 2
    bench.heard(since_boot_ns() + 3600 * S)
    assert [stage(bench, FIRST) for _ in range(2)] == [COPIED, Stage.CAPPED]


def test_a_lease_goes_on_while_the_machine_sleeps(object_path: Path) -> None:
    """No test can suspend its machine: the programs ask the clock that goes on, and the agent is given one that is
    ahead of the other as after a sleep."""
    instructions = struct.iter_unpack("<BBhi", sections(object_path)["tc"])
    assert (CALL, 0, 0, KTIME_GET_BOOT_NS) in instructions
    heard = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", OF_THE_AGENT, "-k", "is_heard_of_by"]
    ran = subprocess.run(
        ["unshare", "--time", "--boottime", "86400", *heard],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout

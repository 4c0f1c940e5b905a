"""A host with a lease copies while its control plane is heard of; what it takes afterwards counts as lease ended."""

import time

import pytest

from pktmirror.model.ledger import Stage
from pktmirror.model.rate import Rate
from tests.kernel.bench import Bench
from tests.kernel.test_caps import COPIED, FIRST, SCENE, SECOND, stage

pytestmark = pytest.mark.root

S = 10**9
LEASE_S = 10


def test_copies_end_with_the_lease_and_go_on_when_the_control_plane_is_heard_again(bench: Bench) -> None:
    bench.write(SCENE, lease_s=LEASE_S)
    for _ in range(2):
        bench.heard(time.monotonic_ns() + 3600 * S)
        assert [stage(bench, frame) for frame in (FIRST, SECOND)] == [COPIED, COPIED]
        bench.heard(time.monotonic_ns() - LEASE_S * S - S)
        assert [stage(bench, frame) for frame in (FIRST, SECOND)] == [Stage.LEASE_ENDED, Stage.LEASE_ENDED]


def test_without_a_lease_nothing_ends(bench: Bench) -> None:
    bench.write(SCENE)
    bench.heard(0)
    assert stage(bench, FIRST) is COPIED


def test_what_a_lease_ends_spends_no_budget(bench: Bench) -> None:
    bench.write(SCENE, lease_s=LEASE_S, budget=Rate(bits_per_s=1))
    bench.heard(time.monotonic_ns() - LEASE_S * S - S)
    assert [stage(bench, FIRST) for _ in range(2)] == [Stage.LEASE_ENDED] * 2
    bench.heard(time.monotonic_ns() + 3600 * S)
    assert [stage(bench, FIRST) for _ in range(2)] == [COPIED, Stage.CAPPED]

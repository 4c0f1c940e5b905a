"""Limits of the copying work, by session and by host: what is over them is not copied, and counts as capped."""

import pytest

from pktmirror.desired import DesiredSession, Destination
from pktmirror.model.filter import Action, Direction, Filter, Rule
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate
from tests.kernel.bench import Bench, Offload
from tests.kernel.frames import IPV4, IPV6, TCP, ethernet
from tests.kernel.policies import NETWORKS4, NETWORKS6, REACHABLE, scene
from tests.unit.packet.frames import ipv4, ipv6, tcp
from tests.waiting import wait_until

pytestmark = pytest.mark.root

BYTES = 54 + 100
FIRST = ethernet(IPV4, ipv4(tcp(payload=bytes(100)), TCP))  # the first session takes it
SECOND = ethernet(IPV6, ipv6(tcp(payload=bytes(80)), TCP))  # and the second this one, as long
COPIED = Stage.CLONE_FAILED  # the bench's hop does not exist


def two_sessions(networks: tuple[int, ...] = (0, 1)) -> tuple[DesiredSession, ...]:
    return tuple(
        DesiredSession(
            session_id=f"tms-{number:017x}",
            number=number,
            vni=number,
            filter_id=str(filter_),
            packet_bytes_max=None,
            delivery=Destination(address=str(REACHABLE)),
        )
        for number, filter_ in enumerate(networks, start=1)
    )


SCENE = scene(
    two_sessions(),
    [
        Filter((Rule(1, Direction.INGRESS, Action.ACCEPT, networks[0], networks[0]),))
        for networks in (NETWORKS4, NETWORKS6)
    ],
    is_host_side=False,
)
ONE, OTHER = (session.session_id for session in two_sessions())


def stage(bench: Bench, frame: bytes, offload: Offload | None = None) -> Stage:
    """Where a frame that is taken ends; its packets and bytes are counted there."""
    counted = bench.run(frame, at_ingress=True, offload=offload)
    [(name, figures)] = [(name, figures) for (_, _, name), figures in counted.items() if isinstance(name, Stage)]
    assert figures == next(figures for (_, _, name), figures in counted.items() if not isinstance(name, Stage))
    return name


@pytest.mark.parametrize("cap", [Rate(packets_per_s=1), Rate(bits_per_s=8 * BYTES), Rate(1, 1_000_000)], ids=str)
def test_a_session_copies_no_more_than_its_cap_and_goes_on_when_time_has_passed(bench: Bench, cap: Rate) -> None:
    bench.write(SCENE, caps={ONE: cap})
    assert [stage(bench, FIRST) for _ in range(3)] == [COPIED, Stage.CAPPED, Stage.CAPPED]
    assert [stage(bench, SECOND) for _ in range(3)] == [COPIED] * 3, "the other session has no cap"
    wait_until(lambda: stage(bench, FIRST) is COPIED, 3, "a second has passed")
    assert stage(bench, FIRST) is Stage.CAPPED


def test_the_budget_of_a_host_is_of_all_its_sessions(bench: Bench) -> None:
    bench.write(SCENE, budget=Rate(packets_per_s=1))
    assert [stage(bench, frame) for frame in (FIRST, FIRST, SECOND)] == [COPIED, Stage.CAPPED, Stage.CAPPED]


def test_what_a_session_is_refused_does_not_spend_the_budget(bench: Bench) -> None:
    bench.write(SCENE, caps={ONE: Rate(packets_per_s=1)}, budget=Rate(packets_per_s=40))  # two at once
    assert [stage(bench, frame) for frame in (FIRST, FIRST, FIRST)] == [COPIED, Stage.CAPPED, Stage.CAPPED]
    assert stage(bench, SECOND) is COPIED


@pytest.mark.parametrize(("packets_per_s", "copied"), [(11, 2), (21, 3), (31, 4)])
def test_a_tenth_of_a_second_may_be_saved_up(bench: Bench, packets_per_s: int, copied: int) -> None:
    bench.write(SCENE, caps={ONE: Rate(packets_per_s)})
    assert [stage(bench, FIRST) for _ in range(copied + 1)] == [COPIED] * copied + [Stage.CAPPED]


@pytest.mark.parametrize(("packets_per_s", "copied"), [(22, 2), (42, 3), (62, 4)])
def test_of_the_budget_it_is_a_twentieth(bench: Bench, packets_per_s: int, copied: int) -> None:
    bench.write(SCENE, budget=Rate(packets_per_s))
    assert [stage(bench, FIRST) for _ in range(copied + 1)] == [COPIED] * copied + [Stage.CAPPED]


def test_a_super_packet_counts_as_the_packets_that_it_becomes(bench: Bench) -> None:
    large = ethernet(IPV4, ipv4(tcp(payload=bytes(3000)), TCP))
    bench.write(SCENE, caps={ONE: Rate(packets_per_s=40)})  # four in a tenth of a second
    assert [stage(bench, large, Offload(500)) for _ in range(2)] == [COPIED, Stage.CAPPED], "six are more than four"


def test_without_limits_everything_is_copied(bench: Bench) -> None:
    bench.write(SCENE, caps={ONE: UNLIMITED})
    assert {stage(bench, FIRST) for _ in range(100)} == {COPIED}

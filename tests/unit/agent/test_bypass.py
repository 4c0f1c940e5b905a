"""What went past the hooks, by counters that are read at different moments: never more than truly did."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.agent.bypass import HARDWARE_LAG_S, SETTLED_S, Comparison, HookFigures, Reading, compared
from pktmirror.model.filter import Direction

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS


def reading(device: int, frames: int, packets: int | None = None, *, in_frames: bool = True) -> Reading:
    return Reading(device, HookFigures(frames, frames if packets is None else packets), in_frames)


def found(*readings: Reading, lag_s: float = 0.0, every_s: float = SETTLED_S) -> int:
    """What is found after these readings of one direction; the other one is silent."""
    comparison: Comparison | None = None
    for number, each in enumerate(readings):
        now = {INGRESS: each, EGRESS: reading(0, 0)}
        comparison = compared(comparison, now, 100.0 + number * every_s, lag_s=lag_s)
    assert comparison is not None
    assert comparison.bypassed[EGRESS] == 0
    return comparison.bypassed[INGRESS]


def test_what_both_had_counted_before_is_of_no_account() -> None:
    assert found(reading(1000, 7), reading(1010, 17), reading(1010, 17)) == 0


def test_what_the_device_has_counted_and_the_hook_has_not_seen_went_past_it() -> None:
    assert found(reading(1000, 7), reading(1010, 14), reading(1010, 14)) == 3


def test_what_the_device_has_just_counted_may_be_on_its_way_to_the_hook() -> None:
    assert found(reading(1000, 7), reading(1010, 14)) == 0
    assert found(reading(1000, 7), reading(1010, 14), reading(1010, 17)) == 0


def test_what_was_found_stays_when_a_queue_behind_the_hook_drops_as_many() -> None:
    assert found(reading(0, 0), reading(5, 0), reading(5, 0), reading(5, 9)) == 5


def test_a_reading_too_soon_after_another_says_nothing() -> None:
    assert found(reading(0, 0), reading(5, 0), reading(5, 0), every_s=SETTLED_S / 4) == 0


@pytest.mark.parametrize(
    ("in_frames", "expected"),
    [
        pytest.param((True, True, True), 4, id="frames are compared where the device counts frames"),
        pytest.param((False, False, False), 0, id="elsewhere it may have counted the packets that they became"),
        pytest.param((False, True, True), 0, id="and so where it did before"),
    ],
)
def test_super_packets(in_frames: tuple[bool, bool, bool], expected: int) -> None:
    """10 frames that are 100 packets were seen, and the device has counted 14."""
    figures = ((0, 0, 0), (14, 10, 100), (14, 10, 100))
    assert found(*(reading(*each, in_frames=one) for each, one in zip(figures, in_frames, strict=True))) == expected


def test_a_device_that_counts_packets_of_the_wire_is_compared_with_them() -> None:
    first, later = reading(0, 0, 0, in_frames=False), reading(104, 10, 100, in_frames=False)
    assert found(first, later, later) == 4


@pytest.mark.parametrize("anew", [reading(2, 9), reading(50, 1)], ids=["the device's counters", "the hooks' counters"])
def test_where_counters_begin_anew_so_does_the_comparison_and_what_was_found_stays(anew: Reading) -> None:
    assert found(reading(0, 0), reading(10, 7), reading(10, 7), anew, anew) == 3
    more = reading(anew.device_packets + 5, anew.hook.frames)
    assert found(reading(0, 0), reading(10, 7), reading(10, 7), anew, more, more) == 3 + 5


def test_what_hardware_tells_late_is_not_taken_for_what_went_past() -> None:
    """10 packets a second, all seen; the device tells each second what it had counted 3 s before."""
    readings = [reading(1000 + 10 * min(second - 3, 30), 10 * min(second, 30)) for second in range(40)]
    assert found(*readings, lag_s=HARDWARE_LAG_S, every_s=1.0) == 0
    assert found(*readings, lag_s=0.0, every_s=1.0) > 0, "else nothing is tested"


def test_of_hardware_what_goes_past_after_the_beginning_is_found() -> None:
    readings = [reading(0, 0)] * 8 + [reading(25, 5)] * 2
    assert found(*readings, lag_s=HARDWARE_LAG_S, every_s=1.0) == 20


@dataclass(frozen=True)
class Burst:
    """What comes between two readings: frames of ``size`` packets. ``late`` of those seen are at the hook only after
    the next reading; ``dropped`` have passed the hook, and the device never counts them."""

    seen: int
    past: int
    dropped: int
    late: int
    size: int


bursts = st.lists(
    st.builds(
        Burst,
        seen=st.integers(0, 50),
        past=st.integers(0, 20),
        dropped=st.integers(0, 5),
        late=st.integers(0, 10),
        size=st.integers(1, 40),
    ),
    max_size=12,
)


@given(bursts, st.booleans(), st.booleans(), st.integers(0, 10**12))
def test_never_more_is_found_than_went_past_and_at_rest_all_of_it(
    traffic: list[Burst], in_frames: bool, splits: bool, before: int
) -> None:
    """A device counts frames, or the packets that they become; some it counts before the hook's next reading."""
    device, frames, packets, past, dropped = before, 0, 0, 0, 0
    on_the_way = on_the_way_packets = 0
    lines = [reading(device, 0, 0, in_frames=in_frames and not splits)]
    for burst in traffic:
        unit = burst.size if splits else 1
        late = min(burst.late, burst.seen)
        device += (burst.seen + burst.past) * unit
        past += burst.past * unit
        frames += burst.seen - late + on_the_way
        packets += (burst.seen - late) * burst.size + on_the_way_packets
        on_the_way, on_the_way_packets = late, late * burst.size
        lost = min(burst.dropped, frames)
        dropped += lost
        frames += lost  # seen by the hook, and dropped before the device has counted them
        packets += lost * burst.size
        lines.append(reading(device, frames, packets, in_frames=in_frames and not splits))
        assert found(*lines) <= past
    frames, packets = frames + on_the_way, packets + on_the_way_packets
    at_rest = reading(device, frames, packets, in_frames=in_frames and not splits)
    bypassed = found(*lines, at_rest, at_rest)
    assert bypassed <= past
    if splits or in_frames:
        most = max((burst.size for burst in traffic), default=1) if splits else 1
        assert bypassed >= past - dropped * most

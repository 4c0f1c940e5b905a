"""When the agent looks into namespaces: at an event, and now and then, within its share of the time."""

import pytest

from pktmirror.agent.looks import FULL_LOOK_S, SAVED_OF_S, Looks

SAVED_S_MAX = 0.05 * SAVED_OF_S


def test_the_first_look_is_due_at_once() -> None:
    assert Looks().due_in_s(100.0) == 0


def test_without_an_event_the_next_look_is_due_five_seconds_after_the_last_began() -> None:
    looks = Looks()
    looks.looked(100.0, 100.1)
    assert looks.due_in_s(100.1) == pytest.approx(FULL_LOOK_S - 0.1)
    assert looks.due_in_s(105.0) == 0


def test_an_event_is_followed_by_a_look_at_once_while_something_is_saved() -> None:
    looks = Looks(0.05)
    looks.looked(100.0, 100.4)
    looks.ask()
    assert looks.due_in_s(100.4) == 0
    looks.looked(100.4, 100.8)
    looks.ask()
    assert looks.due_in_s(100.8) == 0


def test_looks_that_took_more_than_was_saved_wait_for_their_share() -> None:
    looks = Looks(0.05)
    looks.looked(100.0, 100.0 + SAVED_S_MAX)
    looks.looked(101.0, 101.1)
    looks.ask()
    assert looks.due_in_s(101.1) == pytest.approx(1.9)
    assert looks.due_in_s(102.0) == pytest.approx(1.0)
    assert looks.due_in_s(103.01) == 0


def test_no_more_is_saved_than_its_most() -> None:
    looks = Looks(0.05)
    looks.looked(100.0, 100.5)
    looks.looked(1000.0, 1000.0 + SAVED_S_MAX + 0.1)
    looks.ask()
    assert looks.due_in_s(1001.1) == pytest.approx(2.0)


def test_a_look_answers_all_events_before_it() -> None:
    looks = Looks(0.05)
    looks.ask()
    looks.ask()
    looks.looked(100.0, 100.1)
    assert looks.due_in_s(103.0) == pytest.approx(2.0)


def test_with_the_whole_time_every_event_is_followed_by_a_look() -> None:
    looks = Looks(1.0)
    looks.looked(100.0, 103.0)
    assert looks.due_in_s(103.0) == pytest.approx(2.0)
    looks.ask()
    assert looks.due_in_s(103.0) == 0


def test_looks_that_take_long_keep_to_their_share_without_an_event_too() -> None:
    looks = Looks(0.05)
    looks.looked(100.0, 102.0)
    assert looks.due_in_s(105.0) == pytest.approx(17.0)


def test_an_event_every_tenth_of_a_second_takes_no_more_than_the_share_and_what_was_saved() -> None:
    looks, looking_s, now_s = Looks(0.05), 0.0, 0.0
    while now_s < 100.0:
        looks.ask()
        if looks.due_in_s(now_s) == 0:
            looks.looked(now_s, now_s + 0.07)
            looking_s += 0.07
            now_s += 0.07
        now_s += 0.1
    assert 3.5 + SAVED_S_MAX < looking_s < 5.1 + SAVED_S_MAX


@pytest.mark.parametrize("share", [0.0, -1.0, 1.01])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="no share"):
        Looks(share)

from pathlib import Path

import pytest

from pktmirror.kernel.grace_periods import expedited


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def number(switch: Path) -> int:
    """As the kernel reads what was written last; sysfs takes each write as a whole."""
    return int(switch.read_text().split()[0])


def test_they_are_short_inside_and_as_they_were_afterwards(switch: Path) -> None:
    with expedited(switch):
        assert number(switch) != 0
    assert number(switch) == 0


def test_they_are_as_they_were_after_a_failure(switch: Path) -> None:
    with pytest.raises(OSError, match="refused"), expedited(switch):
        raise OSError("refused")
    assert number(switch) == 0


def test_what_the_operator_has_set_stays(switch: Path) -> None:
    switch.write_text("1\n")
    with expedited(switch):
        assert number(switch) == 1
    assert number(switch) == 1


def test_what_the_operator_sets_meanwhile_stays(switch: Path) -> None:
    with expedited(switch):
        switch.write_text("1\n")
    assert number(switch) == 1


def test_what_a_killed_agent_has_left_behind_is_taken_back(switch: Path) -> None:
    with expedited(switch):
        left_behind = switch.read_text()
    switch.write_text(left_behind)
    with expedited(switch):
        assert number(switch) != 0
    assert number(switch) == 0


def test_without_the_switch_all_goes_on(tmp_path: Path) -> None:
    with expedited(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()

"""What is said of a host beside what its agent says."""

import pytest

from pktmirror.control.status import apart


@pytest.mark.parametrize("agent", ["0.2.0", "0.1.9", "0.3.0", "0.2.0rc1", "0.3"])
def test_one_minor_version_apart_is_no_problem(agent: str) -> None:
    assert apart(agent, "0.2.0") is None


@pytest.mark.parametrize("agent", ["0.0.9", "0.4.0", "1.2.0", "0.10.0"])
def test_more_than_one_minor_version_apart_is_said(agent: str) -> None:
    said = apart(agent, "0.2.0")
    assert said is not None
    assert agent in said
    assert "0.2.0" in said


@pytest.mark.parametrize("agent", ["", "test", "1", "a.b"])
def test_what_is_no_version_is_not_compared(agent: str) -> None:
    assert apart(agent, "0.2.0") is None

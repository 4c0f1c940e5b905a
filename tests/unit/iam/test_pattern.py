"""Patterns of policies: the same verdicts as a second reading's, in one step for each character of a text."""

import re
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.iam import Malformed, parse
from pktmirror.iam.document import WILDCARDS_MAX
from pktmirror.iam.pattern import Pattern, bound, in_segments, matches, pattern
from tests.budget import examples
from tests.unit.iam.second_reading import filled_in
from tests.unit.iam.test_access import document, statement

PIECES = st.sampled_from(["*", "**", "?", "a", "b", ":", "${aws:username}", "${*}", "${ec2:Region, 'b:'}"])


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(PIECES, max_size=9).map("".join), st.text("ab:*", max_size=9), st.sampled_from(["", "a", ":a"]))
def test_two_readings_of_a_pattern_agree(written: str, text: str, name: str) -> None:
    read = pattern(written, variables=True)
    context = {"aws:username": [name] if name else []}
    literal_globbed_arn = filled_in(written, context)
    for made, place in ((read, 1), (in_segments(read), 2)):
        filled = bound(made, lambda key: name or None if key == "aws:username" else None)
        assert (filled is None) == (literal_globbed_arn is None)
        if filled is not None and literal_globbed_arn is not None:
            expected = re.fullmatch(literal_globbed_arn[place], text, re.DOTALL) is not None
            assert matches(filled, text) == expected


def steps(given: Pattern, text: str) -> int:
    """The lines of Python that a verdict takes."""
    lines = 0

    def traced(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        matches(given, text)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("written", ["*" * 600, "*a" * 300, "a*" * 300, "?*" * 300, "*a:*" * 150, "*?a" * 200])
def test_no_pattern_makes_a_verdict_long(written: str) -> None:
    for read in (pattern(written, variables=False), in_segments(pattern(written, variables=False))):
        read.automaton  # noqa: B018 - it is made once
        assert [steps(read, text) <= 10 * len(text) + 20 for text in ("a" * 300, "a:" * 150, "aab" * 100)] == [True] * 3


def test_runs_side_by_side_are_one() -> None:
    assert pattern("a***b", variables=False) == pattern("a*b", variables=False)
    empty = bound(pattern("*${aws:username}*", variables=True), lambda _: "")
    assert empty == pattern("*", variables=False)


def test_a_policy_has_so_many_wildcards_and_no_more() -> None:
    def with_wildcards(count: int) -> str:
        conditions = {"StringLike": {"aws:UserAgent": ["*a*"] * ((count - 3) // 2)}}
        return document(statement(action="ec2:Describe*", resource="arn:aws:ec2:*:*:vpc/1", Condition=conditions))

    assert parse(with_wildcards(WILDCARDS_MAX - 1)).statements
    with pytest.raises(Malformed, match=f"{WILDCARDS_MAX + 1} wildcards .* {WILDCARDS_MAX} are allowed"):
        parse(with_wildcards(WILDCARDS_MAX + 1))
    assert parse(document(statement(action="ec2:" + "*" * 2000))).statements  # one run

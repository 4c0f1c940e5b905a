"""Whatever the boxes: a walk through all trees finds the lowest position that holds a point, in bounded memory."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.agent.forest import (
    COPIES_MAX,
    DEPTH_MAX,
    LINEAR_BOXES,
    Box,
    Cut,
    Leaf,
    Tree,
    candidates,
    grow,
    lowest,
    steps,
)
from tests.budget import examples

SIDE = 15  # each dimension has 16 numbers
EXTENTS = [(0, SIDE)] * 3
GROUPS = [(0,), (1,)]


@st.composite
def boxes(draw: st.DrawFn) -> list[Box]:
    ends = st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)).map(sorted)
    drawn = draw(st.lists(st.tuples(ends, ends, ends), max_size=80))
    return [(*a, *b, *c, position) for position, (a, b, c) in enumerate(drawn)]


def holds(box: Box, point: Sequence[int]) -> bool:
    return all(box[2 * i] <= number <= box[2 * i + 1] for i, number in enumerate(point))


def found(trees: list[Tree], boxes: list[Box], point: Sequence[int]) -> int | None:
    positions = [position for tree in trees for position in candidates(tree, point)]
    return min((position for position in positions if holds(boxes[position], point)), default=None)


def assert_well_formed(trees: list[Tree], boxes: list[Box]) -> None:
    assert len(trees) <= 4
    assert [lowest(tree) for tree in trees] == sorted(lowest(tree) for tree in trees)
    for tree in trees:
        leaves = [part.positions for part in tree if isinstance(part, Leaf)]
        members = {position for leaf in leaves for position in leaf}
        assert all(list(leaf) == sorted(set(leaf)) for leaf in leaves)
        assert sum(map(len, leaves)) <= COPIES_MAX * len(boxes)
        assert len(tree) <= 2 * COPIES_MAX * len(boxes)
        assert steps(tree) < DEPTH_MAX
        assert lowest(tree) == min(members)
        assert all(part.high > index + 1 for index, part in enumerate(tree) if isinstance(part, Cut))


@settings(deadline=None, max_examples=examples(300))
@given(boxes(), st.lists(st.tuples(*[st.integers(0, SIDE)] * 3), min_size=20, max_size=40))
def test_the_lowest_box_that_holds_a_point_is_found(drawn: list[Box], points: list[tuple[int, ...]]) -> None:
    trees = grow(drawn, EXTENTS, GROUPS)
    assert_well_formed(trees, drawn)
    for point in points:
        assert found(trees, drawn, point) == next((box[-1] for box in drawn if holds(box, point)), None)


def test_no_boxes_need_no_tree() -> None:
    assert grow([], EXTENTS, GROUPS) == []


def test_few_boxes_are_one_leaf() -> None:
    few = [(number, number, 0, SIDE, 0, SIDE, number) for number in range(16)]
    assert len(few) == LINEAR_BOXES
    assert grow(few, EXTENTS, GROUPS) == [[Leaf(tuple(range(16)))]]


def test_what_stands_behind_a_box_that_holds_everything_is_left_out() -> None:
    all_ = (0, SIDE) * 3
    assert grow([(1, 2, *all_[2:], 0), (*all_, 1), (3, 4, *all_[2:], 2)], EXTENTS, GROUPS) == [[Leaf((0, 1))]]


def test_boxes_that_are_wide_in_one_dimension_do_not_stand_in_the_tree_of_the_narrow_ones() -> None:
    """1000 points, one stripe along each of two dimensions: cut with the points, a stripe would be in 30 leaves."""
    extents = [(0, 999)] * 2
    points = [(n, n, n * 7 % 1000, n * 7 % 1000, n) for n in range(1000)]
    stripes = [(0, 999, 500, 500, 1000), (500, 500, 0, 999, 1001)]
    trees = grow([*points, *stripes], extents, GROUPS)
    assert len(trees) == 3
    assert [leaf.positions for tree in trees[1:] for leaf in tree if isinstance(leaf, Leaf)] == [(1000,), (1001,)]


@pytest.mark.parametrize("count", [17, 1000, 10_000])
def test_boxes_that_no_cut_can_part_stay_together_in_a_long_leaf(count: int) -> None:
    """Crosses in nine dimensions of two numbers: each box leaves all but one dimension open."""
    extents = [(0, 1)] * 9
    crosses = [
        (*(end for dimension in range(9) for end in ((1, 1) if dimension == position % 9 else (0, 1))), position)
        for position in range(count)
    ]
    trees = grow(crosses, extents, GROUPS)
    assert_well_formed(trees, crosses)
    for point in [(0,) * 9, (0,) * 8 + (1,), (1,) * 9]:
        assert found(trees, crosses, point) == next((box[-1] for box in crosses if holds(box, point)), None)

"""Decision trees over boxes: which boxes may hold a point. Pure; knows nothing of packets.

A box is a tuple (first 0, last 0, first 1, last 1, …, position): in each dimension the numbers from first to last, and
its place in a list. The lowest position that holds a point is what is asked for, so a box is left out wherever one
with a lower position covers it.

A tree halves the space at one number of one dimension after the other, until few boxes are left in a part, its leaf. A
box that lies on both sides of a cut is in both parts. That is why there are several trees: boxes that are wide in one
dimension and narrow in another would be cut to pieces by the cuts that part the others, so each kind has a tree of its
own (Taylor, "Survey and taxonomy of packet classification techniques", 2005, section 4, and the trees it describes).
What cuts cannot part within the memory that a tree may take stays together in a long leaf: that is slow, never wrong.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[int, ...]

LEAF_BOXES = 4  # a leaf with more is cut, where it can be
LINEAR_BOXES = 16  # with so few there is one leaf
COPIES_MAX = 16  # in the leaves of a tree, for each of its boxes on the mean
DEPTH_MAX = 40  # nodes from the root to a leaf, both included
_ADVANTAGE = (4, 5)  # of a second cut in the dimension of the first: in the kernel both are one step
_SAMPLE = 48  # boxes from which a cut is chosen
_WIDE = 32  # a box is wide where it holds more than one in so many of the places at which boxes begin


@dataclass(frozen=True, slots=True)
class Leaf:
    """The positions of the boxes that may hold a point here, ascending."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """A point below ``threshold`` in ``dimension`` is in the part that follows, another in the one at ``high``, an
    index of the same list."""

    dimension: int
    threshold: int
    high: int


Tree = list[Leaf | Cut]  # in preorder, the root first


def grow(boxes: Sequence[Box], extents: Sequence[tuple[int, int]], families: Sequence[Sequence[int]]) -> list[Tree]:
    """At most four trees, by ascending lowest position; together they hold each box that can be the lowest anywhere.

    ``boxes`` by ascending position. ``extents``: first and last number of each dimension. ``families``: the two groups
    of dimensions that each make one number, its highest digits first, by whose width the boxes are parted.
    """
    region = tuple(end for extent in extents for end in extent)
    visible = _visible(boxes, region)
    if len(visible) <= LINEAR_BOXES:
        return [[Leaf(tuple(box[-1] for box in visible))]] if visible else []
    kinds: dict[tuple[bool, ...], list[Box]] = {}
    wide = [_wide(visible, dimensions, extents) for dimensions in families]
    for index, box in enumerate(visible):
        kinds.setdefault(tuple(each[index] for each in wide), []).append(box)
    return [_tree(kind, region) for kind in sorted(kinds.values(), key=lambda kind: kind[0][-1])]


def lowest(tree: Tree) -> int:
    """The lowest position in a tree."""
    return min(part.positions[0] for part in tree if isinstance(part, Leaf) and part.positions)


def steps(tree: Tree) -> int:
    """How many cuts there are at most from the root to a leaf."""
    below = [0] * len(tree)
    for index in range(len(tree) - 1, -1, -1):
        part = tree[index]
        if isinstance(part, Cut):
            below[index] = 1 + max(below[index + 1], below[part.high])
    return below[0]


def candidates(tree: Tree, point: Sequence[int]) -> tuple[int, ...]:
    """The positions in the leaf to which a point leads: the reference for the walk in bpf/trees.h."""
    part = tree[0]
    index = 0
    while isinstance(part, Cut):
        index = index + 1 if point[part.dimension] < part.threshold else part.high
        part = tree[index]
    return part.positions


def _wide(boxes: Sequence[Box], dimensions: Sequence[int], extents: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each box holds many of the places at which others begin; all numbers are of one base."""
    base = extents[dimensions[0]][1] + 1
    ends = []
    for box in boxes:
        first = last = 0
        for dimension in dimensions:
            first, last = first * base + box[2 * dimension], last * base + box[2 * dimension + 1]
        ends.append((first, last))
    starts = sorted({first for first, _ in ends})
    many = max(len(starts) // _WIDE, 1)
    return [bisect_right(starts, last) - bisect_right(starts, first) >= many for first, last in ends]


def _tree(boxes: list[Box], region: Box) -> Tree:
    tree: Tree = []
    dimensions = [
        dimension
        for dimension in range(len(region) // 2)
        if any(
            box[2 * dimension] != region[2 * dimension] or box[2 * dimension + 1] != region[2 * dimension + 1]
            for box in boxes
        )
    ]
    _grow(tree, boxes, region, dimensions, COPIES_MAX * len(boxes), DEPTH_MAX)
    return tree


def _grow(
    tree: Tree,
    boxes: list[Box],
    region: Box,
    dimensions: list[int],
    copies: int,
    depth: int,
    rather: int | None = None,
) -> None:
    """Append the part of the tree for a region; its leaves hold at most ``copies`` boxes, or just ``boxes``."""
    cut = _cut(boxes, region, dimensions, rather) if len(boxes) > LEAF_BOXES and depth > 1 else None
    if cut is None:
        tree.append(Leaf(tuple(box[-1] for box in boxes)))
        return
    dimension, threshold, dimensions = cut
    first, last = 2 * dimension, 2 * dimension + 1
    below = (*region[:last], threshold - 1, *region[last + 1 :])
    above = (*region[:first], threshold, *region[first + 1 :])
    low = _visible([box for box in boxes if box[first] < threshold], below)
    high = _visible([box for box in boxes if box[last] >= threshold], above)
    both = max(len(low), 1) + max(len(high), 1)
    if both > copies:
        tree.append(Leaf(tuple(box[-1] for box in boxes)))
        return
    index = len(tree)
    tree.append(Leaf(()))  # its place
    spare = copies - both
    rather = dimension if rather is None else None
    _grow(tree, low, below, dimensions, max(len(low), 1) + spare * len(low) // both, depth - 1, rather)
    tree[index] = Cut(dimension, threshold, len(tree))
    _grow(tree, high, above, dimensions, max(len(high), 1) + spare * len(high) // both, depth - 1, rather)


def _cut(boxes: list[Box], region: Box, dimensions: list[int], rather: int | None) -> tuple[int, int, list[int]] | None:
    """Dimension and threshold of the cut that leaves the fewest boxes on both sides, judged by a sample, and in which
    dimensions there may be cuts behind it; None where no cut helps. ``rather``: a dimension that has an advantage."""
    sample = boxes if len(boxes) <= _SAMPLE else boxes[:: -(-len(boxes) // _SAMPLE)]
    best, found = 2 * len(sample) ** 2, None
    open_dimensions = []
    for dimension in dimensions:
        first, last = 2 * dimension, 2 * dimension + 1
        begin, end = region[first], region[last]
        firsts = sorted([box[first] for box in sample])
        lasts = sorted([box[last] for box in sample])
        if firsts[-1] <= begin and lasts[0] >= end:
            continue
        open_dimensions.append(dimension)
        inner = sorted(
            {number for number in firsts if number > begin} | {number + 1 for number in lasts if number < end}
        )
        middle = len(inner) // 2
        for threshold in {inner[middle], inner[middle // 2], inner[(middle + len(inner)) // 2]}:
            low = bisect_left(firsts, threshold)
            high = len(lasts) - bisect_left(lasts, threshold)
            cost = low * low + high * high
            if dimension == rather:
                cost = cost * _ADVANTAGE[0] // _ADVANTAGE[1]
            if cost < best:
                best, found = cost, (dimension, threshold)
    if found is None:
        return None
    return (*found, open_dimensions if sample is boxes else dimensions)


def _visible(boxes: Sequence[Box], region: Box) -> list[Box]:
    """Without the boxes behind the first that covers the whole region."""
    pairs = range(0, len(region), 2)
    for index, box in enumerate(boxes):
        for at in pairs:
            if box[at] > region[at] or box[at + 1] < region[at + 1]:
                break
        else:
            return list(boxes[: index + 1])
    return list(boxes)

"""A filter as the kernel reads it: rules, and trees to find the first that matches (bpf/abi.h, struct filter). Pure.

The bytes are the same wherever they are put, and equal filters give equal bytes.
"""

import ctypes
import struct
from array import array
from collections.abc import Sequence

from pktmirror.agent import abi
from pktmirror.agent.forest import DEPTH_MAX, Box, Cut, Leaf, Tree, grow, lowest
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, Network, NetworkService, PortRange, Rule

_WORD_BITS, _WORD_MAX, _PORT_MAX, _PROTOCOL_MAX = 32, 0xFFFFFFFF, 0xFFFF, 0xFF
_ADDRESS_BITS = {4: 32, 6: 128}
_RULE = {4: struct.Struct("<4I4H4B2H"), 6: struct.Struct("<16I4H4B2H")}
_NODE = struct.Struct("<4I")
_UNREACHABLE = Leaf(())
_HEAD_BYTES = -(-ctypes.sizeof(abi.FilterEntry) // abi.CELL_BYTES) * abi.CELL_BYTES
_KINDS = (abi.PORTS_SHOWN, abi.PORTS_HIDDEN, abi.PORTS_MEANINGLESS)

assert DEPTH_MAX <= abi.TREE_DEPTH_MAX, "a walk in the kernel would end before the leaf"


def filter_bytes(filter_: Filter) -> bytes:
    """A whole number of cells. The caller has seen to it that there are no more than RULES_MAX rules."""
    entry = abi.FilterEntry(amazon_dns=NetworkService.AMAZON_DNS in filter_.services)
    rules, meter = bytearray(), abi.METER_RULES
    groves: list[tuple[abi.Forest, int, list[Tree]]] = []
    lists = rule_lists(filter_)
    for i, direction in enumerate(abi.DIRECTIONS):
        for j, family in enumerate(abi.FAMILIES):
            listed = lists[direction, family]
            entry.rules[i][j] = (_HEAD_BYTES + len(rules)) // abi.CELL_BYTES
            for rule in listed:
                rules += _rule(rule, meter)
                meter += 1
            groves.extend((entry.forests[i][j][kind], family, trees) for kind, trees in _forests(listed, family))
    tail = _Tail(_HEAD_BYTES + len(rules))
    nowhere = tail.plant([Leaf(())], ())
    for forest, family, trees in groves:
        planted = [tail.plant(tree, words(family)) for tree in trees]
        forest.tree_count = len(trees)
        forest.steps = max((steps for _, steps in planted), default=0)
        forest.roots[:] = [root for root, _ in planted] + [nowhere[0]] * (abi.TREES_MAX - len(trees))
        forest.positions_min[: len(trees)] = [lowest(tree) for tree in trees]
    rest = bytes(tail)
    unaligned = (len(rules) + len(rest)) % abi.CELL_BYTES
    padding = bytes(abi.CELL_BYTES - unaligned) if unaligned else b""
    entry.cell_count = (_HEAD_BYTES + len(rules) + len(rest) + len(padding)) // abi.CELL_BYTES
    return bytes(bytearray(entry)).ljust(_HEAD_BYTES, b"\0") + bytes(rules) + rest + padding


def rule_lists(filter_: Filter) -> dict[tuple[Direction, int], list[Rule]]:
    """The rules by direction and family, each list in ascending number: so they lie, and so their meters do."""
    by_number = sorted(filter_.rules, key=lambda rule: rule.number)
    return {
        (direction, family): [
            rule for rule in by_number if rule.direction is direction and rule.source.version == family
        ]
        for direction in abi.DIRECTIONS
        for family in abi.FAMILIES
    }


def cell_count(head: bytes) -> int:
    """How many cells a filter has, by its first bytes; 0 where none was ever written."""
    return int.from_bytes(head[:4], "little")


def words(family: int) -> tuple[int, ...]:
    """The dimensions of a family's boxes, as words of a packet (bpf/abi.h)."""
    each = range(_ADDRESS_BITS[family] // _WORD_BITS)
    return (
        *(abi.WORD_SOURCE + word for word in each),
        *(abi.WORD_DESTINATION + word for word in each),
        abi.WORD_SOURCE_PORT,
        abi.WORD_DESTINATION_PORT,
        abi.WORD_PROTOCOL,
    )


def boxes(rules: Sequence[Rule], family: int, kind: int) -> list[Box]:
    """The rules of one family that packets of a kind can match (bpf/abi.h, PORTS_…), in the dimensions of `words`.

    ``rules`` in ascending number; the place in this list is the position.
    """
    bits = _ADDRESS_BITS[family]
    found: list[Box] = []
    for position, rule in enumerate(rules):
        protocol = rule.protocol
        filters_ports = protocol in (None, TCP, UDP)
        if kind == abi.PORTS_MEANINGLESS:
            if protocol is not None and filters_ports:
                continue
            ports: tuple[int, ...] = (0, _PORT_MAX, 0, _PORT_MAX)
        else:
            if not filters_ports:
                continue
            if kind == abi.PORTS_HIDDEN and (rule.source_ports or rule.destination_ports):
                continue
            ports = (*_ports(rule.source_ports), *_ports(rule.destination_ports))
        protocols = (0, _PROTOCOL_MAX) if protocol is None else (protocol, protocol)
        found.append((*_ends(rule.source, bits), *_ends(rule.destination, bits), *ports, *protocols, position))
    return found


def _forests(rules: Sequence[Rule], family: int) -> list[tuple[int, list[Tree]]]:
    """The trees of each kind of packet; kinds of the same boxes share them."""
    dimensions = _ADDRESS_BITS[family] // _WORD_BITS
    extents = [(0, _WORD_MAX)] * (2 * dimensions) + [(0, _PORT_MAX), (0, _PORT_MAX), (0, _PROTOCOL_MAX)]
    addresses = (range(dimensions), range(dimensions, 2 * dimensions))
    grown: list[tuple[list[Box], list[Tree]]] = []
    forests = []
    for kind in _KINDS:
        here = boxes(rules, family, kind)
        trees = next((trees for known, trees in grown if known == here), None)
        if trees is None:
            trees = grow(here, extents, addresses)
            grown.append((here, trees))
        forests.append((kind, trees))
    return forests


class _Tail:
    """The nodes of all trees, and behind them the positions in their leaves.

    Two cuts behind a cut, in its dimension, become one node with it; where one of them is in another dimension, a
    child is left that no packet reaches.
    """

    def __init__(self, start_bytes: int) -> None:
        self._first_node = start_bytes // abi.CELL_BYTES
        self._nodes: list[tuple[int, int, int, int] | Leaf] = []
        self._planted: dict[int, tuple[int, int]] = {}

    def plant(self, tree: Tree, words_: tuple[int, ...]) -> tuple[int, int]:
        """Where a tree begins, in nodes from the filter's beginning, and its steps; a tree is planted once."""
        if id(tree) not in self._planted:
            slot = len(self._nodes)
            self._nodes.append(_UNREACHABLE)
            self._planted[id(tree)] = self._first_node + slot, self._lay(tree, 0, slot, words_)
        return self._planted[id(tree)]

    def _lay(self, tree: Tree, index: int, slot: int, words_: tuple[int, ...]) -> int:
        """Put what begins at an index of the tree into a slot; how many steps there are from there to a leaf."""
        cut = tree[index]
        if isinstance(cut, Leaf):
            self._nodes[slot] = cut
            return 0
        low, high = tree[index + 1], tree[cut.high]
        thresholds = [cut.threshold] * 3
        children: list[int | None] = [index + 1, None, None, cut.high]
        if isinstance(low, Cut) and low.dimension == cut.dimension:
            thresholds[0], children[:2] = low.threshold, [index + 2, low.high]
        if isinstance(high, Cut) and high.dimension == cut.dimension:
            thresholds[2], children[2:] = high.threshold, [cut.high + 1, high.high]
        first = len(self._nodes)
        self._nodes += [_UNREACHABLE] * abi.NODE_CHILDREN
        last_child = (self._first_node + first + abi.NODE_CHILDREN - 1) * abi.CELL_BYTES
        self._nodes[slot] = (thresholds[0], thresholds[1], thresholds[2], last_child | words_[cut.dimension])
        return 1 + max(
            self._lay(tree, child, first + place, words_) for place, child in enumerate(children) if child is not None
        )

    def __bytes__(self) -> bytes:
        nodes = bytearray()
        positions = array("H")
        first_position = (self._first_node + len(self._nodes)) * abi.CELL_BYTES // 2
        leaves: dict[tuple[int, ...], int] = {}
        for index, node in enumerate(self._nodes, start=self._first_node):
            if isinstance(node, Leaf):
                if node.positions not in leaves:
                    leaves[node.positions] = first_position + len(positions)
                    positions.append(len(node.positions))
                    positions.extend(node.positions)
                nodes += _NODE.pack(leaves[node.positions], 0, 0, index * abi.CELL_BYTES | abi.WORD_LEAF)
            else:
                nodes += _NODE.pack(*node)
        return bytes(nodes) + positions.tobytes()


def _rule(rule: Rule, meter: int) -> bytes:
    family = rule.source.version
    return _RULE[family].pack(
        *_network(rule.source),
        *_network(rule.destination),
        *_ports(rule.source_ports),
        *_ports(rule.destination_ports),
        rule.protocol or 0,
        0 if rule.protocol is None else 0xFF,
        rule.action is Action.ACCEPT,
        0,
        rule.number,
        meter,
    )


def _network(network: Network) -> tuple[int, ...]:
    """Address and mask, the words of each."""
    bits = _ADDRESS_BITS[network.version]
    mask = (1 << bits) - (1 << bits - network.prefixlen)
    return (*_words(int(network.network_address), bits), *_words(mask, bits))


def _ends(network: Network, bits: int) -> tuple[int, ...]:
    """First and last number of each word: all parts of an address are ranges, as those of a prefix are."""
    address = int(network.network_address)
    if bits == _WORD_BITS:
        return (address, address | (1 << bits - network.prefixlen) - 1)
    first, last = _words(address, bits), _words(address | (1 << bits - network.prefixlen) - 1, bits)
    return (first[0], last[0], first[1], last[1], first[2], last[2], first[3], last[3])


def _words(number: int, bits: int) -> tuple[int, ...]:
    if bits == _WORD_BITS:
        return (number,)
    return (number >> 96, number >> 64 & _WORD_MAX, number >> 32 & _WORD_MAX, number & _WORD_MAX)


def _ports(ports: PortRange | None) -> tuple[int, int]:
    return (0, _PORT_MAX) if ports is None else (ports.first, ports.last)

"""YAML or JSON text as a tree in which every node knows its line and column. Nothing of it is ever constructed.

What a scalar means is decided by who reads it, never by its looks: where a text is expected, ``no`` and ``010`` are
texts. So none of YAML 1.1's surprises (booleans, sexagesimal numbers, dates) can happen, and no tag makes an object.
"""

import json
import re
from dataclasses import dataclass

import yaml

from pktmirror.model.refusal import Refusal

NODES_MAX = 500_000
"""Of the whole tree, where each repetition by an anchor counts; a filter of 10,000 rules has 180,000."""

DEPTH_MAX = 50

_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""For its events alone. libyaml's, where PyYAML was built with it, is ten times as fast."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the text, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a document: where, what was found, what to do."""

    at: Mark
    found: str
    do: str

    def __str__(self) -> str:
        return f"{self.at}: {self.found}: {self.do}"


class Malformed(Refusal):
    """A document that cannot be used; ``problems`` are all that were found, in the order of the text."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.at)
        super().__init__(
            "The document cannot be used.",
            found="; ".join(map(str, self.problems)),
            do="correct what the lines name; docs/reference/document.md has the whole form",
        )

    def __str__(self) -> str:
        """A line for each."""
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{self.what}{lines}\nNext: {self.do}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """``plain``: written without quotes, so that ``null`` and nothing at all are None."""

    text: str
    plain: bool
    at: Mark

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Items:
    nodes: "tuple[Node, ...]"
    at: Mark


@dataclass(frozen=True, slots=True)
class Table:
    """In the order of the text; a key may still stand there twice."""

    entries: "tuple[tuple[Scalar, Node], ...]"
    at: Mark


Node = Scalar | Items | Table


def read(text: str) -> Node:
    """The tree of the one document in a text; raises `Malformed`."""
    growing = _Growing()
    try:
        for event in yaml.parse(_as_yaml(text), Loader=_LOADER):
            growing.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Mark(1, 1) if mark is None else _mark(mark)
        raise _malformed(at, error.problem or str(error), "write it as YAML or JSON") from None
    except yaml.YAMLError as error:
        raise _malformed(Mark(1, 1), str(error).splitlines()[0], "write it as YAML or JSON, in UTF-8") from None
    if growing.root is None or (isinstance(growing.root, Scalar) and growing.root.is_null):
        raise _malformed(Mark(1, 1), "there is nothing in it", "write at least `document: NAME`")
    return growing.root


class _Growing:
    """The tree while its text is read, event by event: no depth of it is a depth of calls."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[tuple[yaml.Event, list[Node], int]] = []  # what has begun, its nodes, the count at its start
        self._anchors: dict[str, tuple[Node, int]] = {}  # with how many nodes each has
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        at = _mark(event.start_mark)
        match event:
            case yaml.ScalarEvent() | yaml.AliasEvent() | yaml.CollectionStartEvent():
                self._count(1, at)
                self._begin(event, at)
            case yaml.CollectionEndEvent():
                began, nodes, before = self._open.pop()
                self._add(_collection(began, nodes), began.anchor, self._nodes - before + 1)
            case yaml.DocumentStartEvent() if self.root is not None:
                raise _malformed(at, "a second document", "write each document into a file of its own")

    def _begin(self, event: yaml.Event, at: Mark) -> None:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                do = f"name something &{event.anchor} before, or quote the text"
                raise _malformed(at, f"`*{event.anchor}`, which is nothing yet", do)
            node, count = self._anchors[event.anchor]
            self._count(count, at)
            self._add(node, None, count)
            return
        if event.tag is not None:
            raise _malformed(at, f"the tag {event.tag}", "write the value without a tag")
        if isinstance(event, yaml.ScalarEvent):
            self._add(Scalar(_text(event.value, at), not event.style, at), event.anchor, 1)
            return
        if len(self._open) >= DEPTH_MAX:
            raise _malformed(at, "it is nested too deeply", f"nest at most {DEPTH_MAX} levels")
        self._open.append((event, [], self._nodes))

    def _add(self, node: Node, anchor: str | None, count: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = node, count
        if self._open:
            self._open[-1][1].append(node)
        else:
            self.root = node

    def _count(self, nodes: int, at: Mark) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            found = f"there is more than {NODES_MAX:,} of it"
            raise _malformed(at, found, "repeat less by anchors, or part the document")


def _collection(began: yaml.Event, nodes: list[Node]) -> Node:
    at = _mark(began.start_mark)
    if isinstance(began, yaml.SequenceStartEvent):
        return Items(tuple(nodes), at)
    entries = []
    for key, value in zip(nodes[::2], nodes[1::2], strict=True):
        if not isinstance(key, Scalar):
            raise _malformed(key.at, "a key that is no text", "write `key: value`")
        entries.append((key, value))
    return Table(tuple(entries), at)


def _as_yaml(text: str) -> str:
    """JSON is YAML but for tabs between its tokens, for characters that it writes as two surrogates, and for those that
    YAML takes for line ends or does not take at all."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    text = _JSON_ESCAPE.sub(_one_character, text.replace("\t", " "))  # in a JSON string no tab stands as such
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _one_character(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[0]
    pair = bytes.fromhex(escape[1] + escape[2])
    return pair.decode("utf-16-be")


def _text(value: str, at: Mark) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _malformed(at, "half a character (a lone surrogate)", "write the character itself") from None
    return value


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _malformed(at: Mark, found: str, do: str) -> Malformed:
    return Malformed([Problem(at, found, do)])

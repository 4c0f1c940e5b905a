"""YAML or JSON text as a tree in which every node knows its line and column. Nothing of it is ever constructed.

What a scalar means is decided by who reads it, never by its looks: where a text is expected, ``no`` and ``010`` are
texts. So none of YAML 1.1's surprises (booleans, sexagesimal numbers, dates) can happen, and no tag makes an object.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from pktmirror.model.refusal import Refusal

NODES_MAX = 1_000_000
"""Of the whole tree: anchors may repeat what they name, and each time counts."""

DEPTH_MAX = 50

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "map", "null", "seq", "str", "timestamp")}
_TAGS |= {"tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}  # what `<<` and `=` look like: texts here
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: ten times as fast


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
    try:
        node = yaml.compose(_as_yaml(text), Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Mark(1, 1) if mark is None else _mark(mark)
        raise _malformed(at, error.problem or str(error), "write it as YAML or JSON") from None
    except yaml.YAMLError as error:
        raise _malformed(Mark(1, 1), str(error).splitlines()[0], "write it as YAML or JSON, in UTF-8") from None
    except RecursionError:
        raise _malformed(Mark(1, 1), "it is nested too deeply", f"nest at most {DEPTH_MAX} levels") from None
    if node is None:
        raise _malformed(Mark(1, 1), "there is nothing in it", "write at least `document: NAME`")
    return _node(node, 0, iter(range(NODES_MAX)))


def _as_yaml(text: str) -> str:
    """JSON is YAML but for tabs between its tokens, and for characters that it writes as two surrogates."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _JSON_ESCAPE.sub(_one_character, text.replace("\t", " "))  # in a JSON string no tab stands as such


def _one_character(escape: re.Match[str]) -> str:
    if escape[1] is None:
        return escape[0]
    pair = bytes.fromhex(escape[1] + escape[2])
    return pair.decode("utf-16-be")


def _node(node: yaml.Node, depth: int, budget: Iterator[int]) -> Node:
    at = _mark(node.start_mark)
    if depth > DEPTH_MAX:
        raise _malformed(at, "it is nested too deeply", f"nest at most {DEPTH_MAX} levels, and no anchor in itself")
    if next(budget, None) is None:
        raise _malformed(at, f"there is more than {NODES_MAX:,} of it", "repeat less by anchors, or part the document")
    if node.tag not in _TAGS:
        raise _malformed(at, f"the tag {node.tag}", "write the value without a tag")
    match node:
        case yaml.ScalarNode():
            return Scalar(_text(node.value, at), node.style is None, at)
        case yaml.SequenceNode():
            return Items(tuple(_node(each, depth + 1, budget) for each in node.value), at)
        case yaml.MappingNode():
            entries = []
            for key, value in node.value:
                name = _node(key, depth + 1, budget)
                if not isinstance(name, Scalar):
                    raise _malformed(name.at, "a key that is no text", "write `key: value`")
                entries.append((name, _node(value, depth + 1, budget)))
            return Table(tuple(entries), at)
    raise AssertionError(f"a node of YAML that is none: {node}")


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

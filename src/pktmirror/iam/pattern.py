"""Patterns of a policy: ``*`` is any run of characters, ``?`` any one, ``${key}`` a value of the request.

``${*}``, ``${?}`` and ``${$}`` are the characters themselves. Variables came with the policy version 2012-10-17: in an
older document they are plain text ("IAM policy elements: Variables and tags").
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pktmirror.iam.malformed import Malformed


class Wildcard(Enum):
    """``RUN_IN_SEGMENT`` and ``ONE_IN_SEGMENT`` do not match the colon that parts an ARN's segments."""

    RUN = "*"
    ONE = "?"
    RUN_IN_SEGMENT = "*:"
    ONE_IN_SEGMENT = "?:"

    def takes(self, character: str) -> bool:
        return character != ":" or self in (Wildcard.RUN, Wildcard.ONE)

    @property
    def is_run(self) -> bool:
        return self in (Wildcard.RUN, Wildcard.RUN_IN_SEGMENT)


@dataclass(frozen=True, slots=True)
class Variable:
    """A value of the request; ``otherwise`` where it has none."""

    key: str
    otherwise: str | None


Part = str | Wildcard | Variable
Pattern = tuple[Part, ...]
"""A ``str`` is one character."""

Bound = tuple[str | Wildcard, ...]
"""A pattern whose variables have values."""

_ESCAPED = {"*", "?", "$"}


def pattern(text: str, *, variables: bool, wildcards: bool = True) -> Pattern:
    """The parts of a text. Raises `Malformed` for a ``${`` that does not end."""
    parts: list[Part] = []
    at = 0
    while at < len(text):
        if variables and text.startswith("${", at):
            end = text.find("}", at)
            if end < 0:
                raise Malformed(f"{text!r}: the variable that begins with ${{ has no }}")
            parts.append(_variable(text[at + 2 : end]))
            at = end + 1
            continue
        character = text[at]
        parts.append(Wildcard(character) if wildcards and character in "*?" else character)
        at += 1
    return tuple(parts)


def in_segments(parts: Pattern) -> Pattern:
    """The pattern of an ARN: a wildcard stays in its segment, but for a ``*`` that ends one ("Resource element")."""
    kept: list[Part] = []
    for part, following in zip(parts, (*parts[1:], ":"), strict=True):
        if part is Wildcard.RUN and following != ":":
            kept.append(Wildcard.RUN_IN_SEGMENT)
        elif part is Wildcard.ONE:
            kept.append(Wildcard.ONE_IN_SEGMENT)
        else:
            kept.append(part)
    return tuple(kept)


def variables_of(parts: Pattern) -> list[str]:
    return [part.key for part in parts if isinstance(part, Variable)]


def bound(parts: Pattern, value_of: Callable[[str], str | None]) -> Bound | None:
    """With values in the place of variables; None where the request lacks one: such a pattern matches nothing."""
    filled: list[str | Wildcard] = []
    for part in parts:
        if not isinstance(part, Variable):
            filled.append(part)
            continue
        value = value_of(part.key)
        if value is None:
            value = part.otherwise
        if value is None:
            return None
        filled.extend(value)  # what stands in a value is no wildcard
    return tuple(filled)


def matches(parts: Bound, text: str) -> bool:
    """Whether the whole text fits. At worst the product of both lengths, whatever the pattern."""
    if parts == (Wildcard.RUN,):
        return True
    # The places in the pattern that the text so far can have come to; a run may be left at once.
    places = _with_runs_left(parts, {0})
    for character in text:
        reached: set[int] = set()
        for place in places:
            if place == len(parts):
                continue
            part = parts[place]
            if isinstance(part, Wildcard):
                if part.takes(character):
                    reached.add(place if part.is_run else place + 1)
            elif part == character:
                reached.add(place + 1)
        places = _with_runs_left(parts, reached)
        if not places:
            return False
    return len(parts) in places


def _with_runs_left(parts: Bound, places: set[int]) -> set[int]:
    found = set(places)
    for place in places:
        after = place
        while after < len(parts) and isinstance(part := parts[after], Wildcard) and part.is_run:
            after += 1
            found.add(after)
    return found


def _variable(text: str) -> Part:
    if text in _ESCAPED:
        return text
    key, comma, otherwise = (piece.strip() for piece in text.partition(","))
    if not comma:
        return Variable(key, None)
    if len(otherwise) < 2 or otherwise[0] != "'" or otherwise[-1] != "'":
        raise Malformed(f"${{{text}}}: a default value stands in single quotes, as in ${{aws:username, 'nobody'}}")
    return Variable(key, otherwise[1:-1])

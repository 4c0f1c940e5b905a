"""Patterns of a policy: ``*`` is any run of characters, ``?`` any one, ``${key}`` a value of the request.

``${*}``, ``${?}`` and ``${$}`` are the characters themselves. Variables came with the policy version 2012-10-17: in an
older document they are plain text ("IAM policy elements: Variables and tags").
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from pktmirror.iam.malformed import Malformed


class Wildcard(Enum):
    """``RUN_IN_SEGMENT`` and ``ONE_IN_SEGMENT`` do not match the colon that parts an ARN's segments."""

    RUN = "*"
    ONE = "?"
    RUN_IN_SEGMENT = "*:"
    ONE_IN_SEGMENT = "?:"


@dataclass(frozen=True, slots=True)
class Variable:
    """A value of the request; ``otherwise`` where it has none."""

    key: str
    otherwise: str | None


Part = str | Wildcard | Variable
"""A ``str`` is one character."""

_ESCAPED = {"*", "?", "$"}
_RUNS = (Wildcard.RUN, Wildcard.RUN_IN_SEGMENT)


@dataclass(frozen=True)
class Pattern:
    """No two runs of it stand side by side: they are one."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Pattern":
        kept: list[Part] = []
        for part in parts:
            if kept and kept[-1] in _RUNS and part in _RUNS:
                kept[-1] = part if part is kept[-1] else Wildcard.RUN  # one that crosses segments takes it all
            else:
                kept.append(part)
        return cls(tuple(kept))

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Their keys."""
        return tuple(part.key for part in self.parts if isinstance(part, Variable))

    @cached_property
    def wildcards(self) -> int:
        return sum(isinstance(part, Wildcard) for part in self.parts)

    @cached_property
    def literal(self) -> str:
        """The text of a pattern without wildcards and variables."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @cached_property
    def automaton(self) -> "Automaton":
        """Of a pattern without variables."""
        return Automaton.of(self.parts)


@dataclass(frozen=True, slots=True)
class Automaton:
    """A pattern as sets of its places, each a number whose bit n is the place before part n."""

    before_character: dict[str, int]
    before_one: int
    before_one_in_segment: int
    runs: int
    runs_in_segment: int
    end: int

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Automaton":
        characters: dict[str, int] = {}
        wildcards = dict.fromkeys(Wildcard, 0)
        bit = 1
        for part in parts:
            if isinstance(part, Wildcard):
                wildcards[part] |= bit
            elif isinstance(part, str):
                characters[part] = characters.get(part, 0) | bit
            bit <<= 1
        ones, ones_in_segment = wildcards[Wildcard.ONE], wildcards[Wildcard.ONE_IN_SEGMENT]
        return cls(characters, ones, ones_in_segment, wildcards[Wildcard.RUN], wildcards[Wildcard.RUN_IN_SEGMENT], bit)

    def accepts(self, text: str) -> bool:
        """One step for each character, whatever the pattern is: all places that the text so far can have come to."""
        runs = self.runs | self.runs_in_segment
        places = 1 | (1 & runs) << 1  # a run may be left at once
        for character in text:
            passed, stayed = self.before_character.get(character, 0) | self.before_one, self.runs
            if character != ":":
                passed, stayed = passed | self.before_one_in_segment, runs
            places = (places & passed) << 1 | places & stayed
            places |= (places & runs) << 1
            if not places:
                return False
        return places & self.end != 0


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
    return Pattern.of(parts)


def in_segments(given: Pattern) -> Pattern:
    """The pattern of an ARN: a wildcard stays in its segment, but for a ``*`` that ends one ("Resource element")."""
    kept: list[Part] = []
    for part, following in zip(given.parts, (*given.parts[1:], ":"), strict=False):
        if part is Wildcard.RUN and following != ":":
            kept.append(Wildcard.RUN_IN_SEGMENT)
        elif part is Wildcard.ONE:
            kept.append(Wildcard.ONE_IN_SEGMENT)
        else:
            kept.append(part)
    return Pattern.of(kept)


def bound(given: Pattern, value_of: Callable[[str], str | None]) -> Pattern | None:
    """With values in the place of variables; None where the request lacks one: such a pattern matches nothing."""
    if not given.variables:
        return given
    filled: list[Part] = []
    for part in given.parts:
        if not isinstance(part, Variable):
            filled.append(part)
            continue
        value = value_of(part.key)
        if value is None:
            value = part.otherwise
        if value is None:
            return None
        filled.extend(value)  # what stands in a value is no wildcard
    return Pattern.of(filled)


def matches(given: Pattern, text: str) -> bool:
    """Whether the whole text fits a pattern without variables."""
    if given.parts == (Wildcard.RUN,):
        return True
    return given.automaton.accepts(text) if given.wildcards else given.literal == text


def _variable(text: str) -> Part:
    if text in _ESCAPED:
        return text
    key, comma, otherwise = (piece.strip() for piece in text.partition(","))
    if not comma:
        return Variable(key, None)
    if len(otherwise) < 2 or otherwise[0] != "'" or otherwise[-1] != "'":
        raise Malformed(f"${{{text}}}: a default value stands in single quotes, as in ${{aws:username, 'nobody'}}")
    return Variable(key, otherwise[1:-1])

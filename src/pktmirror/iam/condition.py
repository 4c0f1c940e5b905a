"""The condition operators: what each compares, and what a condition makes of the values of a request.

"IAM JSON policy elements: Condition operators" of the AWS IAM user guide. The rules that are easy to get wrong:

- A key that the request lacks fails a positive operator and passes a negated one; with …IfExists it passes either.
- The values of a condition are OR under a positive operator, and NOR under a negated one.
- ForAllValues holds where the request has no value at all; ForAnyValue then fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from ipaddress import ip_address, ip_network

from pktmirror.iam.keys import Key, Type
from pktmirror.iam.malformed import Malformed
from pktmirror.iam.pattern import Pattern, bound, in_segments, matches, pattern

Values = Callable[[str], Sequence[str]]
"""The values that a request has for a key; none where it lacks it."""


class Quantifier(Enum):
    ALL = "ForAllValues:"
    ANY = "ForAnyValue:"


class Comparison(Enum):
    """What is done with one value of the request and one of the policy. An ARN is always matched as a pattern."""

    EQUALS = "Equals"
    EQUALS_IN_ANY_CASE = "EqualsIgnoreCase"
    LIKE = "Like"
    ARN = "Arn"
    LESS = "LessThan"
    LESS_OR_EQUAL = "LessThanEquals"
    GREATER = "GreaterThan"
    GREATER_OR_EQUAL = "GreaterThanEquals"
    SAME_NUMBER = "NumericEquals"
    SAME_BOOL = "Bool"
    IN_NETWORK = "IpAddress"


_PATTERNED = {Comparison.EQUALS, Comparison.EQUALS_IN_ANY_CASE, Comparison.LIKE, Comparison.ARN}
_ORDER: Mapping[Comparison, Callable[[float, float], bool]] = {
    Comparison.LESS: lambda found, limit: found < limit,
    Comparison.LESS_OR_EQUAL: lambda found, limit: found <= limit,
    Comparison.GREATER: lambda found, limit: found > limit,
    Comparison.GREATER_OR_EQUAL: lambda found, limit: found >= limit,
    Comparison.SAME_NUMBER: lambda found, limit: found == limit,
}


@dataclass(frozen=True, slots=True)
class Operator:
    """``types`` are those of the keys that it can compare."""

    comparison: Comparison
    types: frozenset[Type]
    negated: bool = False


_TEXT = frozenset({Type.STRING, Type.ARN})
_TIME = frozenset({Type.DATE, Type.EPOCH})


def _ordered(family: str, types: frozenset[Type]) -> dict[str, Operator]:
    return {
        f"{family}Equals": Operator(Comparison.SAME_NUMBER, types),
        f"{family}NotEquals": Operator(Comparison.SAME_NUMBER, types, negated=True),
        f"{family}LessThan": Operator(Comparison.LESS, types),
        f"{family}LessThanEquals": Operator(Comparison.LESS_OR_EQUAL, types),
        f"{family}GreaterThan": Operator(Comparison.GREATER, types),
        f"{family}GreaterThanEquals": Operator(Comparison.GREATER_OR_EQUAL, types),
    }


NULL = "Null"
OPERATORS: Mapping[str, Operator] = {
    "StringEquals": Operator(Comparison.EQUALS, _TEXT),
    "StringNotEquals": Operator(Comparison.EQUALS, _TEXT, negated=True),
    "StringEqualsIgnoreCase": Operator(Comparison.EQUALS_IN_ANY_CASE, _TEXT),
    "StringNotEqualsIgnoreCase": Operator(Comparison.EQUALS_IN_ANY_CASE, _TEXT, negated=True),
    "StringLike": Operator(Comparison.LIKE, _TEXT),
    "StringNotLike": Operator(Comparison.LIKE, _TEXT, negated=True),
    "ArnEquals": Operator(Comparison.ARN, frozenset({Type.ARN})),
    "ArnLike": Operator(Comparison.ARN, frozenset({Type.ARN})),
    "ArnNotEquals": Operator(Comparison.ARN, frozenset({Type.ARN}), negated=True),
    "ArnNotLike": Operator(Comparison.ARN, frozenset({Type.ARN}), negated=True),
    "Bool": Operator(Comparison.SAME_BOOL, frozenset({Type.BOOL})),
    "IpAddress": Operator(Comparison.IN_NETWORK, frozenset({Type.ADDRESS})),
    "NotIpAddress": Operator(Comparison.IN_NETWORK, frozenset({Type.ADDRESS}), negated=True),
    **_ordered("Numeric", frozenset({Type.EPOCH})),
    **_ordered("Date", _TIME),
}
"""Without prefix and suffix. Those of the types that no key here has (Binary) are not offered."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Null: whether the key must be absent, or must not."""

    key: str
    absent: bool

    def holds(self, values: Values) -> bool:
        return (not values(self.key)) == self.absent


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. ``wanted`` are the policy's values, as patterns where the operator compares text."""

    key: str
    operator: Operator
    wanted: tuple[Pattern, ...]
    quantifier: Quantifier | None = None
    if_exists: bool = False

    def holds(self, values: Values) -> bool:
        found = values(self.key)
        if not found and self.quantifier is None:
            return self.if_exists or self.operator.negated
        if not found:
            return self.if_exists or self.quantifier is Quantifier.ALL
        passed = [self._passes(value, values) for value in found]
        return any(passed) if self.quantifier is Quantifier.ANY else all(passed)

    def _passes(self, value: str, values: Values) -> bool:
        comparison = self.operator.comparison
        return any(_compare(comparison, value, wanted, values) for wanted in self.wanted) != self.operator.negated


def condition(name: str, key_name: str, key: Key, texts: Sequence[str], *, variables: bool) -> Condition | Presence:
    """The condition that a document's operator, key and values stand for. Raises `Malformed`."""
    rest, quantifier = name, None
    for each in Quantifier:
        if name.startswith(each.value):
            rest, quantifier = name.removeprefix(each.value), each
    plain = rest.removesuffix("IfExists")
    if plain == NULL:
        return _null(name, key_name, texts)
    operator = OPERATORS.get(plain)
    if operator is None:
        raise Malformed(f"{name} is no operator that is known here. Known are {', '.join([*OPERATORS, NULL])}")
    if key.type not in operator.types:
        raise Malformed(f"{name} cannot compare {key_name}, which is a {key.type.value}")
    if key.has_many and quantifier is None:
        raise Malformed(f"{name} on {key_name}, which has many values: write ForAllValues:{name} or ForAnyValue:{name}")
    wanted = tuple(_wanted(operator, text, name, variables=variables) for text in texts)
    return Condition(key_name, operator, wanted, quantifier, rest != plain)


def _null(name: str, key_name: str, texts: Sequence[str]) -> Presence:
    if name != NULL or len(texts) != 1 or texts[0] not in ("true", "false"):
        raise Malformed(f'{name} on {key_name}: write "Null", without prefix or suffix, and "true" or "false"')
    return Presence(key_name, texts[0] == "true")


def _wanted(operator: Operator, text: str, name: str, *, variables: bool) -> Pattern:
    comparison = operator.comparison
    if comparison in _PATTERNED:
        wildcards = comparison in (Comparison.LIKE, Comparison.ARN)
        parts = pattern(text, variables=variables, wildcards=wildcards)
        return _in_components(parts, text) if comparison is Comparison.ARN else parts
    try:
        match comparison:
            case Comparison.IN_NETWORK:
                ip_network(text, strict=False)
            case Comparison.SAME_BOOL:
                _bool(text)
            case _:
                _seconds(text)
    except ValueError:
        raise Malformed(f"{name} cannot compare with {text!r}") from None
    return pattern(text, variables=False, wildcards=False)


def _in_components(parts: Pattern, text: str) -> Pattern:
    if parts.variables or text.count(":") >= 5:
        return in_segments(parts)
    raise Malformed(f"{text!r} is no ARN: write arn:aws:ec2:<region>:<account>:<resource>, with * where any will do")


def _compare(comparison: Comparison, value: str, wanted: Pattern, values: Values) -> bool:
    if comparison in _PATTERNED:
        filled = bound(wanted, lambda key: _only(values(key)))
        if filled is None:
            return False
        if comparison is Comparison.EQUALS_IN_ANY_CASE:
            return filled.literal.casefold() == value.casefold()
        return matches(filled, value)
    text = wanted.literal
    match comparison:
        case Comparison.IN_NETWORK:
            return _is_in(value, text)
        case Comparison.SAME_BOOL:
            return _bool(value) == _bool(text)
        case _:
            return _ORDER[comparison](_seconds(value), _seconds(text))


def _only(values: Sequence[str]) -> str | None:
    return values[0] if len(values) == 1 else None


def _is_in(address: str, network: str) -> bool:
    try:
        return ip_address(address) in ip_network(network, strict=False)
    except ValueError:  # the peer has no IP address: it is in no network
        return False


def _bool(text: str) -> bool:
    if text.casefold() not in ("true", "false"):
        raise ValueError(text)
    return text.casefold() == "true"


def _seconds(text: str) -> float:
    """Unix time of a date by ISO 8601, or of a number of seconds. ValueError for what is neither."""
    if text.isascii() and text.isdecimal() and len(text) != 8:  # eight digits are a date without hyphens
        return float(text)
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

"""How much there is to compare when policies decide about accesses, found without comparing anything. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pktmirror.iam.access import Access
from pktmirror.iam.condition import Condition
from pktmirror.iam.pattern import Pattern
from pktmirror.iam.statement import Policy, all_statements

FILLED_ANEW = 2
"""What a part of a pattern with variables costs, in characters: it is put together for each text."""

ENTRY = 8
"""What an entry of an access's context costs, likewise: keys are found in any case."""


def characters(policies: Sequence[Policy], accesses: Iterable[Access]) -> int:
    """At most so many are looked at: those of each text, as often as there are patterns that may meet it."""
    statements = all_statements(policies)
    of_key = defaultdict[str, list[Pattern]](list)
    for statement in statements:
        for each in statement.conditions:
            of_key[each.key].extend(each.wanted if isinstance(each, Condition) else ())
    actions = _Patterns.of(pattern for statement in statements for pattern in statement.actions)
    resources = _Patterns.of(pattern for statement in statements for pattern in statement.resources)
    by_key = [(key, _Patterns.of(patterns)) for key, patterns in of_key.items()]
    always = len(statements) + sum(len(statement.conditions) for statement in statements)
    total = 0
    for access in accesses:
        longest = max((len(value) for values in access.context.values() for value in values), default=0)
        total += always + ENTRY * len(access.context)
        total += actions.with_text(access.action, longest) + resources.with_text(access.resource, longest)
        for key, patterns in by_key:
            total += patterns.number + sum(patterns.with_text(value, longest) for value in access.values(key))
    return total


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Those that meet the same texts: how many, the parts of those with variables, and the variables."""

    number: int
    parts: int
    variables: int

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> "_Patterns":
        found = list(patterns)
        varying = [each for each in found if each.variables]
        return cls(len(found), sum(len(each.parts) for each in varying), sum(len(each.variables) for each in varying))

    def with_text(self, text: str, value_characters: int) -> int:
        """``value_characters`` are those of the longest value that a variable can have."""
        return self.number * (len(text) + 1) + FILLED_ANEW * (self.parts + self.variables * value_characters)

"""A statement of a policy, and whether it speaks of a request."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pktmirror.iam.condition import Condition, Presence, Values
from pktmirror.iam.pattern import Pattern, bound, matches


@dataclass(frozen=True, slots=True)
class Statement:
    """``actions`` are patterns in lower case. ``not_actions`` and ``not_resources``: it speaks of all the others."""

    allows: bool
    actions: tuple[Pattern, ...]
    resources: tuple[Pattern, ...]
    conditions: tuple[Condition | Presence, ...] = ()
    not_actions: bool = False
    not_resources: bool = False
    sid: str | None = None

    def speaks_of(self, action: str, resource: str, values: Values) -> bool:
        """Whether action, resource and all conditions fit. ``resource`` is an ARN, or ``*`` for a call without one."""
        return (
            self._action_fits(action)
            and self._resource_fits(resource, values)
            and all(condition.holds(values) for condition in self.conditions)
        )

    @property
    def patterns(self) -> list[Pattern]:
        wanted = [each.wanted for each in self.conditions if isinstance(each, Condition)]
        return [*self.actions, *self.resources, *itertools.chain.from_iterable(wanted)]

    def _action_fits(self, action: str) -> bool:
        found = any(matches(each, action.lower()) for each in self.actions)
        return found != self.not_actions

    def _resource_fits(self, resource: str, values: Values) -> bool:
        def value_of(key: str) -> str | None:
            found = values(key)
            return found[0] if len(found) == 1 else None

        filled = [bound(each, value_of) for each in self.resources]
        if self.not_resources and None in filled:
            # Which resources are left out cannot be told: an Allow then grants none, a Deny spares none.
            return not self.allows
        return any(each is not None and matches(each, resource) for each in filled) != self.not_resources


@dataclass(frozen=True, slots=True)
class Policy:
    statements: tuple[Statement, ...]

    @property
    def patterns(self) -> list[Pattern]:
        return [pattern for statement in self.statements for pattern in statement.patterns]


def all_statements(policies: Sequence[Policy]) -> list[Statement]:
    return [statement for policy in policies for statement in policy.statements]

"""What policies decide about one access: deny first, and what nothing allows is denied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from pktmirror.iam.statement import Policy, all_statements

ANY_RESOURCE = "*"


class Effect(Enum):
    ALLOWED = "allowed"
    EXPLICITLY_DENIED = "explicitly denied"
    NOT_ALLOWED = "not allowed"


@dataclass(frozen=True)
class Access:
    """One action on one resource, and what is known of the request, by condition key.

    ``resource`` is an ARN, or ``*`` where the action has none. A key without values is as one that is not there.
    """

    action: str
    resource: str = ANY_RESOURCE
    context: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def values(self, key: str) -> Sequence[str]:
        """Those of a key. Case does not count, as AWS has it; where two names differ in case only, the exact one."""
        if key in self.context:
            return self.context[key]
        return self._in_any_case.get(key.casefold(), ())

    @cached_property
    def _in_any_case(self) -> Mapping[str, Sequence[str]]:
        """By folded name; of two the first in order."""
        return {name.casefold(): self.context[name] for name in sorted(self.context, reverse=True)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``sid`` names the statement that decided, where it has a name."""

    effect: Effect
    sid: str | None = None


def decide(policies: Sequence[Policy], access: Access) -> Verdict:
    """Any Deny that speaks of the access decides; then any Allow; then it is not allowed."""
    speaking = [
        statement
        for statement in all_statements(policies)
        if statement.speaks_of(access.action, access.resource, access.values)
    ]
    for statement in speaking:
        if not statement.allows:
            return Verdict(Effect.EXPLICITLY_DENIED, statement.sid)
    for statement in speaking:
        return Verdict(Effect.ALLOWED, statement.sid)
    return Verdict(Effect.NOT_ALLOWED)

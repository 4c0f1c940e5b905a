"""Whether a principal may do what a call needs; and EC2's words where it may not. Pure but for the store's records.

A decision takes as long as policies and request are long, so it is made outside of any writing transaction; that one
asks only whether its `Question` is still the same, and is left where it is not.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pktmirror.aws import ApiError, errors
from pktmirror.control.principals import Origin, Principal
from pktmirror.control.records import UserPolicyRecord
from pktmirror.control.store import Transaction
from pktmirror.iam import Access, Effect, Malformed, Policy, characters, decide, parse

CHARACTERS_MAX = 1024
"""Of an id, and of a value that a condition could look at: all that is meant is shorter."""

COMPARED_MAX = 5_000_000
"""Characters, of one call: those of each text, for each pattern of the user's policies that it meets. It is a
second's work, or two."""


@dataclass(frozen=True, slots=True)
class Question:
    """All that a decision depends on, but for the time. Nothing is needed and no policy asked where the root calls:
    it may do everything in its account, as on AWS."""

    principal: Principal
    needed: tuple[Access, ...] = ()
    policies: tuple[UserPolicyRecord, ...] = ()

    @classmethod
    def of(cls, transaction: Transaction, principal: Principal, needed: Callable[[], Iterable[Access]]) -> "Question":
        if principal.is_root:
            return cls(principal)
        return cls(principal, tuple(needed()), tuple(transaction.user_policies.where(user_id=principal.user_id)))


def authorize(question: Question, origin: Origin, *, service: str, region: str, now_s: float) -> None:
    """Raises UnauthorizedOperation, or AccessDenied of another service than ec2, where an access is refused."""
    principal = question.principal
    if principal.is_root:
        return
    policies = _policies(question, service)
    own = context_of(principal, origin, region, now_s)
    needed = [replace(access, context={**access.context, **own}) for access in question.needed]
    for access in needed:
        _refuse_what_is_long(access)
    _refuse_what_is_too_much(policies, needed)
    for access in needed:
        verdict = decide(policies, access)
        if verdict.effect is not Effect.ALLOWED:
            raise refusal(principal, access, verdict.effect, service)


def _refuse_what_is_too_much(policies: Sequence[Policy], needed: Sequence[Access]) -> None:
    compared = characters(policies, needed)
    if compared > COMPARED_MAX:
        patterns = sum(len(policy.patterns) for policy in policies)
        raise errors.invalid_parameter_value(
            f"The user's policies have {patterns} patterns, and the call names {len(needed)} resources: {compared} "
            f"characters to compare, and at most {COMPARED_MAX} are. Name fewer resources in each call"
        )


def _refuse_what_is_long(access: Access) -> None:
    for name, texts in (("the resource's id", [access.resource]), *access.context.items()):
        longest = max(map(len, texts), default=0)
        if longest > CHARACTERS_MAX:
            raise errors.invalid_parameter_value(
                f"{errors.echo(name)} has {longest} characters, and at most {CHARACTERS_MAX} are looked at"
            )


def context_of(principal: Principal, origin: Origin, region: str, now_s: float) -> Mapping[str, Sequence[str]]:
    """The condition keys that every request of a user carries."""
    now = datetime.fromtimestamp(int(now_s), UTC)
    return {
        "aws:PrincipalAccount": [principal.account_id],
        "aws:PrincipalArn": [principal.arn],
        "aws:PrincipalType": ["User"],
        "aws:userid": [principal.user_id],
        "aws:username": [principal.user_name],
        "aws:CurrentTime": [now.strftime("%Y-%m-%dT%H:%M:%SZ")],
        "aws:EpochTime": [str(int(now_s))],
        "aws:RequestedRegion": [region],
        "ec2:Region": [region],
        "aws:SecureTransport": ["true" if origin.secure else "false"],
        "aws:SourceIp": [origin.source_ip],
        "aws:UserAgent": [origin.user_agent] if origin.user_agent else [],
    }


def refusal(principal: Principal, access: Access, effect: Effect, service: str) -> ApiError:
    """In EC2's words. What is refused is what was asked for: whether the resource is there is not in it."""
    why = (
        "with an explicit deny in an identity-based policy"
        if effect is Effect.EXPLICITLY_DENIED
        else f"because no identity-based policy allows the {access.action} action"
    )
    said = f"User: {principal.arn} is not authorized to perform: {access.action} on resource: {access.resource} {why}"
    return _refused(service, said)


def _refused(service: str, said: str) -> ApiError:
    if service == "ec2":
        return ApiError("UnauthorizedOperation", f"You are not authorized to perform this operation. {said}")
    return ApiError("AccessDenied", said, 403)


def _policies(question: Question, service: str) -> list[Policy]:
    """The policies of a user. One that cannot be read (another version has stored it) refuses everything."""
    found, principal = [], question.principal
    for record in question.policies:
        try:
            found.append(_parsed(record.document))
        except Malformed as error:
            raise _refused(
                service, f"User: {principal.arn} has the policy {record.name}, which cannot be read: {error}"
            ) from None
    return found


@functools.lru_cache(maxsize=1024)
def _parsed(document: str) -> Policy:
    return parse(document)

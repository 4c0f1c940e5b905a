"""Whether a principal may do what a call needs; and EC2's words where it may not. Pure but for the store's records."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pktmirror.aws import ApiError
from pktmirror.control.principals import Origin, Principal
from pktmirror.control.store import Transaction
from pktmirror.iam import Access, Effect, Malformed, Policy, decide, parse


def authorize(
    transaction: Transaction,
    principal: Principal,
    origin: Origin,
    needed: Iterable[Access],
    *,
    service: str,
    region: str,
    now_s: float,
) -> None:
    """Raises UnauthorizedOperation, or AccessDenied of another service than ec2, where one of the accesses is refused.

    The root of an account may do everything in it, as on AWS.
    """
    if principal.is_root:
        return
    policies = _policies(transaction, principal, service)
    own = context_of(principal, origin, region, now_s)
    for access in needed:
        verdict = decide(policies, replace(access, context={**access.context, **own}))
        if verdict.effect is not Effect.ALLOWED:
            raise refusal(principal, access, verdict.effect, service)


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


def _policies(transaction: Transaction, principal: Principal, service: str) -> list[Policy]:
    """The policies of a user. One that cannot be read (another version has stored it) refuses everything."""
    found = []
    for record in transaction.user_policies.where(user_id=principal.user_id):
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

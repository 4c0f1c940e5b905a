"""RAM, for whom something is shared with: invitations; and lists of what is shared, by and with whom."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pktmirror.aws import ApiError, errors
from pktmirror.control import history, shares, sharing
from pktmirror.control.operations.operation import Context, Operation, Result
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.ram import SELF, ChangeRequest, ListRequest, Owner, Texts, require_known
from pktmirror.control.records import InvitationRecord
from pktmirror.control.shares import Answer, Arns
from pktmirror.control.sharing import SeenShare

Scope = Literal["ALL", "REGIONAL", "GLOBAL"]


class AcceptResourceShareInvitation(ChangeRequest, frozen=True, kw_only=True):
    resource_share_invitation_arn: str


class RejectResourceShareInvitation(ChangeRequest, frozen=True, kw_only=True):
    resource_share_invitation_arn: str


class GetResourceShareInvitations(ListRequest, frozen=True, kw_only=True):
    resource_share_invitation_arns: Texts = ()
    resource_share_arns: Texts = ()


class ListPendingInvitationResources(ListRequest, frozen=True, kw_only=True):
    resource_share_invitation_arn: str
    resource_region_scope: Scope = "ALL"


class ListResources(ListRequest, frozen=True, kw_only=True):
    resource_owner: Owner
    principal: str | None = None
    resource_type: str | None = None
    resource_arns: Texts = ()
    resource_share_arns: Texts = ()
    resource_region_scope: Scope = "ALL"


class ListPrincipals(ListRequest, frozen=True, kw_only=True):
    resource_owner: Owner
    resource_arn: str | None = None
    principals: Texts = ()
    resource_type: str | None = None
    resource_share_arns: Texts = ()


class ListResourceTypes(ListRequest, frozen=True, kw_only=True):
    resource_region_scope: Scope = "ALL"


class ListResourceSharePermissions(ListRequest, frozen=True, kw_only=True):
    resource_share_arn: str


def accept(request: AcceptResourceShareInvitation, context: Context) -> Result:
    return _answered(request.resource_share_invitation_arn, context, accepted=True)


def reject(request: RejectResourceShareInvitation, context: Context) -> Result:
    return _answered(request.resource_share_invitation_arn, context, accepted=False)


def list_(request: GetResourceShareInvitations, context: Context) -> Result:
    """Those that the caller's account was sent."""
    found = {_arn(*each, context): each for each in sharing.invitations(context.transaction)}
    for arn in request.resource_share_invitation_arns:
        _require(arn, found)
    named = {_share_arn(share, context): share for _, share in found.values()}
    require_known(request.resource_share_arns, named)
    chosen = [
        (invitation, share)
        for arn, (invitation, share) in found.items()
        if arn in (request.resource_share_invitation_arns or found)
        and _share_arn(share, context) in (request.resource_share_arns or named)
    ]
    given, next_token = page(chosen, lambda each: each[0].invitation_id, request, context.page_key)
    return {
        "resourceShareInvitations": [_described(invitation, share, context) for invitation, share in given],
        "nextToken": next_token,
    }


def pending(request: ListPendingInvitationResources, context: Context) -> Result:
    """What an account would see if it accepted."""
    found = {_arn(*each, context): each for each in sharing.invitations(context.transaction)}
    invitation, share = _require(request.resource_share_invitation_arn, found)
    shares.refuse_answered(shares.answer(invitation, context.now_s), request.resource_share_invitation_arn)
    return _resources(_entries([share], context), request, context, request.resource_region_scope)


def resources(request: ListResources, context: Context) -> Result:
    """The targets that the account shares, or that are shared with it."""
    seen = _shares(request.resource_owner, request.resource_share_arns, context)
    for arn in request.resource_arns:
        shares.target_id_in(arn)
    if request.principal is not None:
        seen = [share for share in seen if request.principal in _accounts_of(share, request.resource_owner, context)]
    chosen = [
        each
        for each in _entries(seen, context)
        if request.resource_type in (None, shares.TARGET_TYPE) and each.arn in (request.resource_arns or (each.arn,))
    ]
    return _resources(chosen, request, context, request.resource_region_scope)


def principals(request: ListPrincipals, context: Context) -> Result:
    """The accounts that the account shares with, and which have accepted; or that share with it."""
    seen = _shares(request.resource_owner, request.resource_share_arns, context)
    if request.resource_arn is not None:
        shares.target_id_in(request.resource_arn)
    if request.resource_type not in (None, shares.TARGET_TYPE):
        seen = []
    if request.resource_arn is not None:
        holding = {each.share.record.share_id for each in _entries(seen, context) if each.arn == request.resource_arn}
        seen = [share for share in seen if share.record.share_id in holding]
    found = [
        (account_id, share, at_s)
        for share in seen
        for account_id, at_s in _accounts_of(share, request.resource_owner, context).items()
        if account_id in (request.principals or (account_id,))
    ]
    given, next_token = page(found, lambda each: f"{each[0]} {each[1].record.share_id}", request, context.page_key)
    listed = [
        {
            "id": account_id,
            "resourceShareArn": _share_arn(share, context),
            "creationTime": at_s,
            "lastUpdatedTime": at_s,
            "external": True,
        }
        for account_id, share, at_s in given
    ]
    return {"principals": listed, "nextToken": next_token}


def types(_request: ListResourceTypes, _context: Context) -> Result:
    type_ = {"resourceType": shares.TARGET_TYPE, "serviceName": "ec2", "resourceRegionScope": "REGIONAL"}
    return {"resourceTypes": [] if _request.resource_region_scope == "GLOBAL" else [type_]}


def permissions(request: ListResourceSharePermissions, context: Context) -> Result:
    """None: what a share allows is the same for all (docs/decisions/0026)."""
    _shares(None, (request.resource_share_arn,), context)
    return {"permissions": []}


def _answered(arn: str, context: Context, *, accepted: bool) -> Result:
    found = {_arn(*each, context): each for each in sharing.invitations(context.transaction)}
    invitation, share = _require(arn, found)
    shares.refuse_answered(shares.answer(invitation, context.now_s), arn)
    answered = replace(invitation, accepted=accepted, answered_at_s=context.now_s)
    sharing.put_answer(context.transaction, answered)
    to_its_targets = context.transaction.sessions.where(target_account_id=share.account_id)
    history.sessions_changed(context.transaction, to_its_targets)  # those that stood still go on
    return {"resourceShareInvitation": _described(answered, share, context)}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A target in a share that the caller sees."""

    arn: str
    share: SeenShare
    created_at_s: float


def _entries(seen: Iterable[SeenShare], context: Context) -> list[_Entry]:
    arns = Arns(context.region)
    return [
        _Entry(arns.target(share.account_id, entry.target_id), share, entry.created_at_s)
        for entry, share in sharing.targets_in(context.transaction, list(seen))
    ]


def _resources(found: list[_Entry], request: ListRequest, context: Context, scope: Scope) -> Result:
    chosen = [] if scope == "GLOBAL" else found
    given, next_token = page(chosen, lambda each: f"{each.arn} {each.share.record.share_id}", request, context.page_key)
    listed = [
        {
            "arn": each.arn,
            "type": shares.TARGET_TYPE,
            "resourceShareArn": _share_arn(each.share, context),
            "status": "AVAILABLE",
            "creationTime": each.created_at_s,
            "lastUpdatedTime": each.created_at_s,
            "resourceRegionScope": "REGIONAL",
        }
        for each in given
    ]
    return {"resources": listed, "nextToken": next_token}


def _shares(owner: Owner | None, arns: Texts, context: Context) -> list[SeenShare]:
    """Those of the caller's account, or those that it is in; of them those that are named. None: of both."""
    own = [] if owner not in (None, SELF) else context.transaction.shares.where()
    seen = [SeenShare(record, context.account_id) for record in own]
    if owner != SELF:
        seen += sharing.joined(context.transaction)
    named = {_share_arn(share, context): share for share in seen}
    require_known(arns, named)
    return [share for arn, share in named.items() if arn in (arns or named)]


def _accounts_of(share: SeenShare, owner: Owner, context: Context) -> Mapping[str, float]:
    """Whom a share is shared with, or who shares it; and since when."""
    if owner != SELF:
        return {share.account_id: share.record.created_at_s}
    invited = context.transaction.invitations.where(share_id=share.record.share_id, accepted=True)
    return {each.receiver_id: each.answered_at_s or each.invited_at_s for each in invited}


def _require(arn: str, found: Mapping[str, tuple[InvitationRecord, SeenShare]]) -> tuple[InvitationRecord, SeenShare]:
    shares.id_in(arn, "ram", "resource-share-invitation")
    if arn not in found:
        raise ApiError(
            "ResourceShareInvitationArnNotFoundException",
            f"ResourceShareInvitation {errors.echo(arn)} could not be found.",
        )
    return found[arn]


def _arn(invitation: InvitationRecord, share: SeenShare, context: Context) -> str:
    return Arns(context.region).invitation(share.account_id, invitation.invitation_id)


def _share_arn(share: SeenShare, context: Context) -> str:
    return Arns(context.region).share(share.account_id, share.record.share_id)


def _described(invitation: InvitationRecord, share: SeenShare, context: Context) -> dict[str, Any]:
    answer: Answer = shares.answer(invitation, context.now_s)
    return {
        "resourceShareInvitationArn": _arn(invitation, share, context),
        "resourceShareName": share.record.name,
        "resourceShareArn": _share_arn(share, context),
        "senderAccountId": share.account_id,
        "receiverAccountId": invitation.receiver_id,
        "invitationTimestamp": invitation.invited_at_s,
        "status": answer.value,
    }


OPERATIONS: Mapping[str, Operation[Any]] = {
    "AcceptResourceShareInvitation": Operation(AcceptResourceShareInvitation, accept, writes=True),
    "RejectResourceShareInvitation": Operation(RejectResourceShareInvitation, reject, writes=True),
    "GetResourceShareInvitations": Operation(GetResourceShareInvitations, list_),
    "ListPendingInvitationResources": Operation(ListPendingInvitationResources, pending),
    "ListResources": Operation(ListResources, resources),
    "ListPrincipals": Operation(ListPrincipals, principals),
    "ListResourceTypes": Operation(ListResourceTypes, types),
    "ListResourceSharePermissions": Operation(ListResourceSharePermissions, permissions),
}

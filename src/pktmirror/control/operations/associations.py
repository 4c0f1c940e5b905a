"""RAM: what is in a share, and who. A target is in it at once, an account when it has accepted."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pktmirror.control import history, shares, sharing
from pktmirror.control.operations.operation import Context, Operation, Result
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.ram import (
    ChangeRequest,
    ListRequest,
    Texts,
    limit_exceeded,
    require,
    require_known,
)
from pktmirror.control.records import InvitationRecord, SharedTargetRecord, ShareRecord
from pktmirror.control.shares import Arns


class AssociateResourceShare(ChangeRequest, frozen=True, kw_only=True):
    resource_share_arn: str
    resource_arns: Texts = ()
    principals: Texts = ()


class DisassociateResourceShare(ChangeRequest, frozen=True, kw_only=True):
    resource_share_arn: str
    resource_arns: Texts = ()
    principals: Texts = ()


class GetResourceShareAssociations(ListRequest, frozen=True, kw_only=True):
    association_type: Literal["PRINCIPAL", "RESOURCE", "SOURCE"]
    resource_share_arns: Texts = ()
    resource_arn: str | None = None
    principal: str | None = None
    association_status: (
        Literal[
            "ASSOCIATING",
            "ASSOCIATED",
            "FAILED",
            "DISASSOCIATING",
            "DISASSOCIATED",
            "SUSPENDED",
            "SUSPENDING",
            "RESTORING",
        ]
        | None
    ) = None


def add(request: AssociateResourceShare, context: Context) -> Result:
    _require_some(request)
    share = require(request.resource_share_arn, context)
    associated = associate(share, request.resource_arns, request.principals, context)
    # Sessions to a target that was not shared for a while go on.
    history.sessions_changed(
        context.transaction, [session for session, _ in sharing.sessions_of_others(context.transaction)]
    )
    context.transaction.bump_revision()
    return {"resourceShareAssociations": [each.described(context) for each in associated]}


def remove(request: DisassociateResourceShare, context: Context) -> Result:
    """What ends is gone at once. An account that a share was shared with may leave it, by its own number."""
    _require_some(request)
    if request.principals == (context.account_id,) and not request.resource_arns:
        return _left(request.resource_share_arn, context)
    transaction = context.transaction
    share = require(request.resource_share_arn, context)
    associated = {each.entity: each for each in _associations(share, context)}
    named = [*request.resource_arns, *request.principals]
    for each in named:
        if each not in associated:
            raise shares.unknown(each, f"In the resource share {request.resource_share_arn} the resource or principal")
    ended = [associated[each] for each in dict.fromkeys(named)]
    for association in ended:
        if isinstance(association.record, SharedTargetRecord):
            transaction.shared_targets.remove(association.record.entry)
        else:
            transaction.invitations.remove(association.record.invitation_id)
    transaction.bump_revision()
    return {"resourceShareAssociations": [each.described(context) | _ENDED for each in ended]}


def list_(request: GetResourceShareAssociations, context: Context) -> Result:
    """Those of the account's own shares, as RAM has it."""
    if request.resource_arn is not None and request.association_type == "PRINCIPAL":
        raise shares.invalid("You cannot specify resourceArn with the association type PRINCIPAL")
    if request.principal is not None and request.association_type == "RESOURCE":
        raise shares.invalid("You cannot specify principal with the association type RESOURCE")
    own = {
        Arns(context.region).share(context.account_id, share.share_id): share
        for share in context.transaction.shares.where()
    }
    require_known(request.resource_share_arns, own)
    chosen = [
        each
        for arn in (request.resource_share_arns or own)
        for each in _associations(own[arn], context)
        if each.type == request.association_type
        and (request.resource_arn or request.principal) in (None, each.entity)
        and request.association_status in (None, each.status[0])
    ]
    given, next_token = page(chosen, lambda each: f"{each.share.share_id} {each.entity}", request, context.page_key)
    return {"resourceShareAssociations": [each.described(context) for each in given], "nextToken": next_token}


@dataclass(frozen=True, slots=True)
class _Association:
    """That a target, or an account, is in a share."""

    share: ShareRecord
    record: SharedTargetRecord | InvitationRecord
    entity: str
    status: tuple[str, str | None]

    @property
    def type(self) -> str:
        return "RESOURCE" if isinstance(self.record, SharedTargetRecord) else "PRINCIPAL"

    def described(self, context: Context) -> dict[str, Any]:
        record = self.record
        if isinstance(record, SharedTargetRecord):
            created_at_s = updated_at_s = record.created_at_s
        else:
            created_at_s, updated_at_s = record.invited_at_s, record.answered_at_s or record.invited_at_s
        return {
            "resourceShareArn": Arns(context.region).share(context.account_id, self.share.share_id),
            "resourceShareName": self.share.name,
            "associatedEntity": self.entity,
            "associationType": self.type,
            "status": self.status[0],
            "statusMessage": self.status[1],
            "creationTime": created_at_s,
            "lastUpdatedTime": updated_at_s,
            "external": isinstance(record, InvitationRecord),
        }


_ENDED = {"status": "DISASSOCIATED", "statusMessage": None}


def _associations(share: ShareRecord, context: Context) -> Iterator[_Association]:
    transaction = context.transaction
    for entry in transaction.shared_targets.where(share_id=share.share_id):
        yield _of_target(share, entry, context)
    for invitation in transaction.invitations.where(share_id=share.share_id):
        yield _of_account(share, invitation, context)


def _of_target(share: ShareRecord, entry: SharedTargetRecord, context: Context) -> _Association:
    arn = Arns(context.region).target(context.account_id, entry.target_id)
    return _Association(share, entry, arn, ("ASSOCIATED", None))


def _of_account(share: ShareRecord, invitation: InvitationRecord, context: Context) -> _Association:
    status = shares.association(shares.answer(invitation, context.now_s))
    return _Association(share, invitation, invitation.receiver_id, status)


def associate(
    share: ShareRecord, resource_arns: Sequence[str], principals: Sequence[str], context: Context
) -> list[_Association]:
    """Put targets and accounts into a share; those that are in it stay as they are."""
    made = [_of_target(share, _shared(share, arn, context), context) for arn in dict.fromkeys(resource_arns)]
    made += [_of_account(share, _invited(share, each, context), context) for each in dict.fromkeys(principals)]
    for collection in (context.transaction.shared_targets, context.transaction.invitations):
        if collection.count(share_id=share.share_id) > shares.ENTRIES_PER_SHARE_MAX:
            raise limit_exceeded(
                f"A resource share has at most {shares.ENTRIES_PER_SHARE_MAX} targets, and as many accounts"
            )
    return made


def _shared(share: ShareRecord, arn: str, context: Context) -> SharedTargetRecord:
    transaction, target_id = context.transaction, shares.target_id_in(arn)
    is_own = arn == Arns(context.region).target(context.account_id, target_id)
    if not is_own or transaction.targets.get(target_id) is None:
        raise shares.unknown(arn, "Among the targets of your account the resource")
    entry = f"{share.share_id} {target_id}"
    there = transaction.shared_targets.get(entry)
    if there is not None:
        return there
    record = SharedTargetRecord(entry, share.share_id, target_id, context.now_s)
    transaction.shared_targets.put(record)
    return record


def _invited(share: ShareRecord, principal: str, context: Context) -> InvitationRecord:
    """Who has rejected, or not answered in time, is invited again."""
    receiver_id = shares.receiver(principal, context.account_id)
    if not share.allows_external:
        raise shares.not_permitted(
            f"Principal ID {receiver_id} is not in your organization, and the resource share does not allow external "
            "principals"
        )
    invitations = context.transaction.invitations
    for there in invitations.where(share_id=share.share_id, receiver_id=receiver_id):
        if not shares.is_over(shares.answer(there, context.now_s)):
            return there
        invitations.remove(there.invitation_id)
    record = InvitationRecord(str(uuid.uuid4()), share.share_id, receiver_id, context.now_s)
    invitations.put(record)
    return record


def _left(arn: str, context: Context) -> Result:
    for invitation, share in sharing.invitations(context.transaction):
        if invitation.accepted and Arns(context.region).share(share.account_id, share.record.share_id) == arn:
            sharing.leave(context.transaction, invitation)
            left = _of_account(share.record, invitation, context).described(context)
            return {"resourceShareAssociations": [left | _ENDED | {"resourceShareArn": arn}]}
    shares.id_in(arn, "ram", "resource-share")
    raise shares.unknown(arn)


def _require_some(request: AssociateResourceShare | DisassociateResourceShare) -> None:
    if not request.resource_arns and not request.principals:
        raise shares.invalid("Give resourceArns or principals")


OPERATIONS: Mapping[str, Operation[Any]] = {
    "AssociateResourceShare": Operation(AssociateResourceShare, add, writes=True),
    "DisassociateResourceShare": Operation(DisassociateResourceShare, remove, writes=True),
    "GetResourceShareAssociations": Operation(GetResourceShareAssociations, list_),
}

"""RAM: resource shares, and their tags. What is in them, and who: `associations`."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from pktmirror.control import shares, sharing
from pktmirror.control.operations import tags
from pktmirror.control.operations.associations import associate
from pktmirror.control.operations.operation import Context, Operation, Result, Tag
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.ram import (
    SELF,
    ChangeRequest,
    ListRequest,
    Owner,
    ShareRequest,
    Texts,
    limit_exceeded,
    require,
    require_known,
)
from pktmirror.control.records import ShareRecord
from pktmirror.control.shares import Arns

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class ShareTag(msgspec.Struct, frozen=True):
    key: str = ""
    value: str | None = None


class TagFilter(msgspec.Struct, frozen=True, rename="camel"):
    tag_key: str = ""
    tag_values: Texts = ()


class CreateResourceShare(ChangeRequest, frozen=True, kw_only=True):
    name: Name
    resource_arns: Texts = ()
    principals: Texts = ()
    tags: tuple[ShareTag, ...] = ()
    allow_external_principals: bool = True


class UpdateResourceShare(ChangeRequest, frozen=True, kw_only=True):
    resource_share_arn: str
    name: Name | None = None
    allow_external_principals: bool | None = None


class DeleteResourceShare(ChangeRequest, frozen=True, kw_only=True):
    resource_share_arn: str


class GetResourceShares(ListRequest, frozen=True, kw_only=True):
    resource_owner: Owner
    resource_share_arns: Texts = ()
    resource_share_status: Literal["PENDING", "ACTIVE", "FAILED", "DELETING", "DELETED"] | None = None
    name: str | None = None
    tag_filters: tuple[TagFilter, ...] = ()


class TagResource(ShareRequest, frozen=True, kw_only=True):
    resource_share_arn: str | None = None
    resource_arn: str | None = None
    tags: tuple[ShareTag, ...]


class UntagResource(ShareRequest, frozen=True, kw_only=True):
    resource_share_arn: str | None = None
    resource_arn: str | None = None
    tag_keys: Texts


def create(request: CreateResourceShare, context: Context) -> Result:
    transaction = context.transaction
    given = _checked(request.tags)
    if transaction.shares.count() >= shares.SHARES_PER_ACCOUNT_MAX:
        raise limit_exceeded(f"Resource shares per account limit reached ({shares.SHARES_PER_ACCOUNT_MAX})")
    share = ShareRecord(
        str(uuid.uuid4()), request.name, request.allow_external_principals, context.now_s, context.now_s
    )
    transaction.shares.put(share)
    tags.put(transaction, share.share_id, given)
    associate(share, request.resource_arns, request.principals, context)
    return {"resourceShare": described(share, context.account_id, context, given)}


def update(request: UpdateResourceShare, context: Context) -> Result:
    share = require(request.resource_share_arn, context)
    is_open = share.allows_external if request.allow_external_principals is None else request.allow_external_principals
    if not is_open and context.transaction.invitations.count(share_id=share.share_id):
        raise shares.not_permitted(
            f"The resource share {request.resource_share_arn} is shared with other accounts, and all of them are "
            "external: disassociate them first"
        )
    changed = replace(share, name=request.name or share.name, allows_external=is_open, updated_at_s=context.now_s)
    context.transaction.shares.put(changed)
    held = context.transaction.tags.of(share.share_id)
    return {"resourceShare": described(changed, context.account_id, context, held)}


def delete(request: DeleteResourceShare, context: Context) -> Result:
    sharing.delete(context.transaction, require(request.resource_share_arn, context).share_id)
    return {"returnValue": True}


def list_(request: GetResourceShares, context: Context) -> Result:
    if request.resource_owner == SELF:
        found = [(share, context.account_id) for share in context.transaction.shares.where()]
    else:
        found = [(each.record, each.account_id) for each in sharing.joined(context.transaction)]
    held = context.transaction.tags.of_each(share.share_id for share, _ in found)
    arns = Arns(context.region)
    named = {arns.share(account_id, share.share_id): share for share, account_id in found}
    require_known(request.resource_share_arns, named)
    chosen = [
        (share, account_id)
        for share, account_id in found
        if request.resource_share_status in (None, "ACTIVE")
        and request.name in (None, share.name)
        and arns.share(account_id, share.share_id) in (request.resource_share_arns or named)
        and all(_passes(each, held.get(share.share_id, {})) for each in request.tag_filters)
    ]
    given, next_token = page(chosen, lambda each: each[0].share_id, request, context.page_key)
    return {
        "resourceShares": [
            described(share, account_id, context, held.get(share.share_id, {})) for share, account_id in given
        ],
        "nextToken": next_token,
    }


def tag(request: TagResource, context: Context) -> Result:
    share = _tagged(request, context)
    tags.put(context.transaction, share.share_id, _checked(request.tags))
    return {}


def untag(request: UntagResource, context: Context) -> Result:
    share = _tagged(request, context)
    for key in request.tag_keys:
        context.transaction.tags.remove(share.share_id, key)
    return {}


def described(share: ShareRecord, account_id: str, context: Context, held: Mapping[str, str]) -> dict[str, Any]:
    """``held`` are the tags that the caller sees: of his own shares alone."""
    return {
        "resourceShareArn": Arns(context.region).share(account_id, share.share_id),
        "name": share.name,
        "owningAccountId": account_id,
        "allowExternalPrincipals": share.allows_external,
        "status": "ACTIVE",
        "tags": [{"key": key, "value": value} for key, value in held.items()],
        "creationTime": share.created_at_s,
        "lastUpdatedTime": share.updated_at_s,
        "featureSet": "STANDARD",
    }


def _passes(filter_: TagFilter, held: Mapping[str, str]) -> bool:
    value = held.get(filter_.tag_key)
    return value is not None and (not filter_.tag_values or value in filter_.tag_values)


def _tagged(request: TagResource | UntagResource, context: Context) -> ShareRecord:
    arn = request.resource_share_arn or request.resource_arn
    if arn is None:
        raise shares.invalid("Give resourceShareArn")
    return require(arn, context)


def _checked(given: Sequence[ShareTag]) -> dict[str, str]:
    return tags.checked([Tag(each.key, each.value) for each in given])


OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateResourceShare": Operation(CreateResourceShare, create, writes=True),
    "UpdateResourceShare": Operation(UpdateResourceShare, update, writes=True),
    "DeleteResourceShare": Operation(DeleteResourceShare, delete, writes=True),
    "GetResourceShares": Operation(GetResourceShares, list_),
    "TagResource": Operation(TagResource, tag, writes=True),
    "UntagResource": Operation(UntagResource, untag, writes=True),
}

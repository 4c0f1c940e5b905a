"""What RAM's operations have in common: how their requests are read, and how a share is found by its ARN."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from pktmirror.aws import ApiError
from pktmirror.control import shares
from pktmirror.control.operations.operation import Context, Request
from pktmirror.control.records import ShareRecord
from pktmirror.control.shares import Arns

SELF = "SELF"

Owner = Literal["SELF", "OTHER-ACCOUNTS"]
ClientToken = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Texts = tuple[str, ...]


class ShareRequest(Request, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What RAM's requests share: their names begin with a small letter."""


class ListRequest(ShareRequest, frozen=True, kw_only=True):
    max_results: Annotated[int, msgspec.Meta(ge=1, le=500)] = 500
    next_token: str | None = None


class ChangeRequest(ShareRequest, frozen=True, kw_only=True):
    client_token: ClientToken | None = None


def require(arn: str, context: Context) -> ShareRecord:
    """A share of the caller's own account, by its ARN. MalformedArnException, UnknownResourceException."""
    share = context.transaction.shares.get(shares.id_in(arn, "ram", "resource-share"))
    if share is None or Arns(context.region).share(context.account_id, share.share_id) != arn:
        raise shares.unknown(arn)
    return share


def require_known(arns: Sequence[str], known: Mapping[str, object]) -> None:
    """That each is the ARN of a share that the caller sees."""
    for arn in arns:
        shares.id_in(arn, "ram", "resource-share")
        if arn not in known:
            raise shares.unknown(arn)


def limit_exceeded(message: str) -> ApiError:
    return ApiError("ResourceShareLimitExceededException", message)

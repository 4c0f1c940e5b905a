"""STS: who is calling. There is one account, and its keys are the account's own."""

from collections.abc import Mapping
from typing import Any

from pktmirror.control.operations.operation import PARTITION, Context, Operation, Request, Result


class GetCallerIdentity(Request, frozen=True, kw_only=True):
    pass


def describe(_request: GetCallerIdentity, context: Context) -> Result:
    account = context.account_id
    return {"UserId": account, "Account": account, "Arn": f"arn:{PARTITION}:iam::{account}:root"}


OPERATIONS: Mapping[str, Operation[Any]] = {"GetCallerIdentity": Operation(GetCallerIdentity, describe)}

"""STS: who is calling."""

from collections.abc import Mapping
from typing import Any

from pktmirror.control.operations.operation import Context, Operation, Request, Result


class GetCallerIdentity(Request, frozen=True, kw_only=True):
    pass


def describe(_request: GetCallerIdentity, context: Context) -> Result:
    principal = context.principal
    return {"UserId": principal.principal_id, "Account": principal.account_id, "Arn": principal.arn}


OPERATIONS: Mapping[str, Operation[Any]] = {"GetCallerIdentity": Operation(GetCallerIdentity, describe)}

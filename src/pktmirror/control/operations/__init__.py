"""The operations that are offered, by service and name, and how one is carried out.

One file per resource; in each: the requests, create, describe, modify, delete, `require`, then what they need.
"""

from collections.abc import Mapping
from typing import Any

from pktmirror.aws import Call, errors
from pktmirror.control.operations import (
    associations,
    cloudwatch,
    filter_rules,
    filters,
    idempotency,
    identity,
    interfaces,
    invitations,
    network,
    sessions,
    shares,
    tags,
    targets,
    users,
)
from pktmirror.control.operations.operation import Context, Operation, Result, parsed

OPERATIONS: Mapping[tuple[str, str], Operation[Any]] = {
    (service, name): operation
    for service, offered in (
        ("ec2", targets.OPERATIONS),
        ("ec2", filters.OPERATIONS),
        ("ec2", filter_rules.OPERATIONS),
        ("ec2", sessions.OPERATIONS),
        ("ec2", tags.OPERATIONS),
        ("ec2", interfaces.OPERATIONS),
        ("ec2", network.OPERATIONS),
        ("sts", identity.OPERATIONS),
        ("iam", users.OPERATIONS),
        ("monitoring", cloudwatch.OPERATIONS),
        ("ram", shares.OPERATIONS),
        ("ram", associations.OPERATIONS),
        ("ram", invitations.OPERATIONS),
    )
    for name, operation in offered.items()
}


def offered(call: Call) -> Operation[Any]:
    """The operation of a call that the service model knows; raises UnsupportedOperation for one not offered."""
    operation = OPERATIONS.get((call.service, call.operation))
    if operation is None:
        raise errors.unsupported_operation(f"{call.operation} is not offered by pktmirror.")
    return operation


asks_for_status = sessions.asks_for_status


def perform(call: Call, context: Context) -> Result:
    """Carry out a call within the context's transaction, which the caller undoes on any exception.

    A dry run does everything, so that every check is made, and then raises DryRunOperation (fact 6).
    """
    operation = offered(call)
    request = parsed(operation.request, call)
    token: str | None = getattr(request, "client_token", None)
    result = idempotency.recall(context.transaction, call, token, context.now_s) if token else None
    if result is None:
        result = operation.perform(request, context)
        if token:
            result = {**result, idempotency.NAMES.get(call.service, idempotency.NAME): token}
            idempotency.remember(context.transaction, call, token, result, context.now_s)
    if request.dry_run:
        raise errors.dry_run_operation()
    return result


__all__ = ["OPERATIONS", "Context", "Result", "asks_for_status", "offered", "perform"]

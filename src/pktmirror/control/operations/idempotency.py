"""Client tokens: a create call that is repeated, or any change by RAM, is answered as the first time (spec facts 4 and
5).

A token belongs to the account and the operation it was used with and is remembered for a day.
"""

import hashlib

import msgspec

from pktmirror.aws import ApiError, Call
from pktmirror.control.operations.operation import Result
from pktmirror.control.records import TokenRecord
from pktmirror.control.store import Transaction

REMEMBERED_S = 24 * 3600
NAME, NAMES = "ClientToken", {"ram": "clientToken"}
"""What a token is called, and by service where it is called otherwise."""
_NOT_COMPARED = {NAME, *NAMES.values(), "DryRun"}


def recall(transaction: Transaction, call: Call, token: str, now_s: float) -> Result | None:
    """What the same call was answered before; None when the token is new. Raises IdempotentParameterMismatch."""
    known = transaction.tokens.get(_key(transaction, call, token))
    if known is None or known.created_at_s < now_s - REMEMBERED_S:
        return None
    if known.fingerprint != _fingerprint(call):
        raise ApiError(
            "IdempotentParameterMismatch",
            f"The client token {token} was used before with other parameters of {call.operation}",
        )
    result: Result = msgspec.json.decode(known.result)
    return result


def remember(transaction: Transaction, call: Call, token: str, result: Result, now_s: float) -> None:
    transaction.tokens.remove_older(now_s - REMEMBERED_S)
    document = msgspec.json.encode(result).decode()
    transaction.tokens.put(TokenRecord(_key(transaction, call, token), _fingerprint(call), document, now_s))


def _key(transaction: Transaction, call: Call, token: str) -> str:
    own = f"{call.operation}/{token}"
    return f"{transaction.owner}/{own}" if transaction.owner else own


def _fingerprint(call: Call) -> str:
    compared = {name: value for name, value in call.parameters.items() if name not in _NOT_COMPARED}
    return hashlib.sha256(msgspec.json.encode(compared, order="deterministic")).hexdigest()

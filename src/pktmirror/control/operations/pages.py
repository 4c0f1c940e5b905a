"""Pages of a describe call. The token is opaque and signed, holds the position, and outlives a restart (spec 5.10).

The position is the key of the last item given, so that what is made or deleted between two calls neither repeats
nor hides an item. A token is good for the same call with the same parameters only.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from pktmirror.aws import ApiError

T = TypeVar("T")


class Paged(Protocol):
    """A request, which is a Struct, for a list in pages."""

    @property
    def max_results(self) -> int | None: ...

    @property
    def next_token(self) -> str | None: ...


PAGE_ITEMS_DEFAULT = 1000
PIECE_ITEMS = 1001
"""A page of the longest, and the item by which it is known that there is another."""
_MAC_BYTES = 16


def page(items: Iterable[T], key: Callable[[T], str], request: Paged, page_key: bytes) -> tuple[list[T], str | None]:
    """The items of this page, by their keys, and the token of the next; None on the last."""
    ordered = sorted(items, key=key)
    scope = _scope(request)
    if request.next_token:
        position = _position(request.next_token, scope, page_key)
        ordered = [item for item in ordered if key(item) > position]
    size = request.max_results or PAGE_ITEMS_DEFAULT
    given = ordered[:size]
    if len(ordered) <= size:
        return given, None
    return given, _token(key(given[-1]), scope, page_key)


def walked(
    read: Callable[[str, int], Sequence[T]],
    select: Callable[[Sequence[T]], list[T]],
    key: Callable[[T], str],
    request: Paged,
    page_key: bytes,
) -> tuple[list[T], str | None]:
    """As `page`, of items that are read from the store piece by piece and no further than the page needs.

    ``read`` gives the items after a key, in the order of keys, so many at most; ``select`` those of them that are
    wanted.
    """
    scope = _scope(request)
    position = _position(request.next_token, scope, page_key) if request.next_token else ""
    size = request.max_results or PAGE_ITEMS_DEFAULT
    given: list[T] = []
    while True:
        found = read(position, PIECE_ITEMS)
        given += select(found)
        if len(given) > size:
            return given[:size], _token(key(given[size - 1]), scope, page_key)
        if len(found) < PIECE_ITEMS:
            return given, None
        position = key(found[-1])


def _scope(request: Paged) -> bytes:
    """What a token is bound to: the call and all its parameters but those about paging."""
    asked: dict[str, Any] = msgspec.to_builtins(request)
    for name in ("NextToken", "nextToken", "MaxResults", "maxResults", "DryRun"):
        asked.pop(name, None)
    named = [type(request).__name__, asked]
    return hashlib.sha256(msgspec.json.encode(named, order="deterministic")).digest()


def _token(position: str, scope: bytes, page_key: bytes) -> str:
    text = position.encode()
    return base64.urlsafe_b64encode(_mac(text, scope, page_key) + text).decode()


def _position(token: str, scope: bytes, page_key: bytes) -> str:
    try:
        signed = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        mac, text = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        if hmac.compare_digest(mac, _mac(text, scope, page_key)):
            return text.decode()
    except (ValueError, binascii.Error):
        pass
    raise ApiError(
        "InvalidPaginationToken",
        "The pagination token is not one that this call gave. Repeat the call from its first page",
    )


def _mac(text: bytes, scope: bytes, page_key: bytes) -> bytes:
    return hmac.digest(page_key, scope + text, "sha256")[:_MAC_BYTES]

"""Access keys: how they look, and how their secrets are kept. An edge module: the random bytes are the kernel's."""

import secrets
from collections.abc import Callable

from pktmirror.control.records import AccessKeyRecord

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BASE64 = f"{_BASE32}abcdefghijklmnopqrstuvwxyz0189+/"

Seal = Callable[[str, str], bytes]
"""Encrypts a text, bound to a name."""


def new_access_key(seal: Seal, now_s: float, *, user_id: str = "", owner: str = "") -> tuple[AccessKeyRecord, str]:
    """A key and its secret, which is shown once: the record holds it sealed."""
    access_key_id = f"AKIA{_random(_BASE32, 16)}"
    secret = _random(_BASE64, 40)
    return AccessKeyRecord(access_key_id, seal(secret, access_key_id), now_s, user_id, True, owner), secret


def new_user_id() -> str:
    return f"AIDA{_random(_BASE32, 17)}"


def new_account_id() -> str:
    return str(10**11 + secrets.randbelow(9 * 10**11))


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))

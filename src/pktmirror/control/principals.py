"""Who calls: the root of an account, or one of its users; and from where.

The store's own account is known to it by an empty owner, and to the world by its number (docs/decisions/0018).
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from pktmirror.control.records import AccessKeyRecord
from pktmirror.control.store import Transaction

PARTITION = "aws"


@dataclass(frozen=True, slots=True)
class Principal:
    """``owner`` is how the store names the account. ``user_id`` and ``user_name`` are empty for the root."""

    account_id: str
    owner: str
    access_key_id: str
    user_id: str = ""
    user_name: str = ""

    @property
    def is_root(self) -> bool:
        return not self.user_id

    @property
    def arn(self) -> str:
        name = "root" if self.is_root else f"user/{self.user_name}"
        return f"arn:{PARTITION}:iam::{self.account_id}:{name}"

    @property
    def principal_id(self) -> str:
        """As `sts:GetCallerIdentity` gives it as UserId: the user's id, or the account."""
        return self.user_id or self.account_id


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from: the peer's address, what it says it is, and whether TLS was spoken."""

    source_ip: str
    user_agent: str = ""
    secure: bool = False

    @classmethod
    def of(cls, peer: str, user_agent: str, *, secure: bool) -> "Origin":
        """``peer`` as its socket names it: one of IPv6 calls an IPv4 peer ``::ffff:192.0.2.1`` (RFC 4291, 2.5.5.2)."""
        try:
            address = ip_address(peer)
        except ValueError:  # a socket of another kind than IP
            return cls(peer, user_agent, secure)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return cls(peer if mapped is None else str(mapped), user_agent, secure)


def principal_of(transaction: Transaction, key: AccessKeyRecord, own_account_id: str) -> Principal | None:
    """Whose key it is; None where the key is not active, or its user is gone. ``transaction`` sees all accounts."""
    if not key.active:
        return None
    account_id = key.account_id or own_account_id
    if not key.user_id:
        return Principal(account_id, key.account_id, key.access_key_id)
    user = transaction.users.get(key.user_id)
    if user is None:
        return None
    return Principal(account_id, key.account_id, key.access_key_id, user.user_id, user.name)

"""Whose an access key is, its secret, and the control plane's own identity: the key in the state directory's files."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from pktmirror.aws import errors
from pktmirror.control.access_keys import new_access_key, new_account_id
from pktmirror.control.keys import Key
from pktmirror.control.principals import Principal, principal_of
from pktmirror.control.records import AccessKeyRecord
from pktmirror.control.store import Store, Transaction

_ACCOUNT_ID = "account_id"

_log = structlog.get_logger("control")


@dataclass(frozen=True, slots=True)
class Identity:
    """The account and its first access key."""

    account_id: str
    access_key_id: str
    secret_access_key: str = field(repr=False)


class Callers:
    """``identity`` is made at the first start of the store; secrets are sealed with ``key``."""

    def __init__(self, store: Store, key: Key, now_s: float) -> None:
        self._store = store
        self._key = key
        self.identity = self._made(now_s)
        self._told: Callable[[Identity], None] = lambda _identity: None

    def secret_of(self, access_key_id: str) -> str | None:
        """The secret of an access key; None for one that does not exist, or is not active."""
        with self._store.read() as transaction:
            record = transaction.access_keys.get(access_key_id)
        return self._opened(record) if record is not None and record.active else None

    def caller(self, access_key_id: str) -> tuple[str | None, Principal | None]:
        """The secret of an access key, and whose it is; None twice for one that does not exist, or is not active."""
        with self._store.read() as transaction:
            record = transaction.access_keys.get(access_key_id)
            if record is None or not record.active:
                return None, None
            return self._opened(record), principal_of(transaction, record, self.identity.account_id)

    def principal(self, access_key_id: str) -> Principal:
        """Whose an access key is. Raises AuthFailure where it is nobody's any more."""
        with self._store.read() as transaction:
            return self.principal_in(transaction, access_key_id)

    def principal_in(self, transaction: Transaction, access_key_id: str) -> Principal:
        key = transaction.access_keys.get(access_key_id)
        principal = None if key is None else principal_of(transaction, key, self.identity.account_id)
        if principal is None:
            raise errors.auth_failure()
        return principal

    def follow(self, told: Callable[[Identity], None]) -> None:
        """Tell the identity now, and each other one that takes its place when its key is no active key any more."""
        told(self.identity)
        self._told = told

    def look_after(self) -> None:
        """Find out whether another replica has taken the key away."""
        with self._store.read() as transaction:
            identity = self.still_known(transaction)
        self.known_by(identity)

    def still_known(self, transaction: Transaction) -> Identity:
        """The identity, by another key where the one that it has does not count any more."""
        kept = transaction.access_keys.get(self.identity.access_key_id)
        if kept is not None and kept.active:
            return self.identity
        keys = transaction.access_keys.where(account_id="", user_id="", active=True)
        if not keys:  # no call takes the last one away
            return self.identity
        return replace(self.identity, access_key_id=keys[0].access_key_id, secret_access_key=self._opened(keys[0]))

    def known_by(self, identity: Identity) -> None:
        if identity == self.identity:
            return
        self.identity = identity
        try:
            self._told(identity)
        except OSError as error:
            _log.error(
                "the access key of the state directory's files counts no more, and they cannot be written",
                found=str(error),
            )

    def _made(self, now_s: float) -> Identity:
        """The account and key of the store; made at the first start."""
        with self._store.write() as transaction:
            account_id = transaction.setting(_ACCOUNT_ID)
            if account_id is None:
                account_id = new_account_id()
                transaction.set_setting(_ACCOUNT_ID, account_id)
            # Another version may compose other documents of the same store, and equal revisions are equal documents.
            transaction.bump_revision()
            keys = transaction.access_keys.where(account_id="", user_id="", active=True)
            if keys:
                return Identity(account_id, keys[0].access_key_id, self._opened(keys[0]))
            made, secret = self.new_root_key("", now_s)
            transaction.access_keys.put(made)
            return Identity(account_id, made.access_key_id, secret)

    def new_root_key(self, owner: str, now_s: float) -> tuple[AccessKeyRecord, str]:
        return new_access_key(self.sealed, now_s, owner=owner)

    def _opened(self, record: AccessKeyRecord) -> str:
        return self._key.open(record.sealed_secret, bound_to=record.access_key_id)

    def sealed(self, secret: str, name: str) -> bytes:
        """A secret as the store keeps it, bound to the key that it is of."""
        return self._key.seal(secret, bound_to=name)

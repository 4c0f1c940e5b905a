"""What an account sees of another's: the targets that are shared with it, and who uses its own.

The one place where a transaction that is narrowed to an account looks beyond it (docs/decisions/0018, 0026). What is
asked for here is what a share, or the use of a target, has made the asker's business; nothing else is handed out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pktmirror.control.records import (
    InterfaceRecord,
    InvitationRecord,
    SessionRecord,
    SharedTargetRecord,
    ShareRecord,
    TargetRecord,
)
from pktmirror.control.store import Transaction
from pktmirror.model.target import InterfaceTarget

_ACCOUNT_ID = "account_id"


@dataclass(frozen=True, slots=True)
class SeenTarget:
    """A target that an account may use. ``account_id`` is the number of the account that shares it; empty: its own."""

    record: TargetRecord
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class SeenShare:
    """A share that an account is in, or is invited to, and the number of its owner."""

    record: ShareRecord
    account_id: str


@dataclass(frozen=True, slots=True)
class Ends:
    """The source and the target of a session, and the interface behind that; None: it is gone, or none is behind it."""

    source: InterfaceRecord
    target: TargetRecord
    aimed: InterfaceRecord | None


def number_of(transaction: Transaction, owner: str) -> str:
    """The number of an account, as the world knows it: the store's own has no other name there."""
    return owner or transaction.setting(_ACCOUNT_ID) or ""


def target(transaction: Transaction, target_id: str) -> SeenTarget | None:
    """A target that the account may use; None for one that is not there, or not for it."""
    record = transaction.targets.get(target_id)
    if record is not None:
        return SeenTarget(record)
    everybody = _everybody(transaction)
    if not _is_shared(everybody, target_id, _asker(transaction)):
        return None
    return _seen(everybody, [target_id])[0]


def targets(transaction: Transaction) -> list[SeenTarget]:
    """All that the account may use, its own first."""
    own = [SeenTarget(record) for record in transaction.targets.where()]
    everybody = _everybody(transaction)
    accepted = everybody.invitations.where(receiver_id=_asker(transaction), accepted=True)
    shared = {entry.target_id for each in accepted for entry in everybody.shared_targets.where(share_id=each.share_id)}
    return [*own, *_seen(everybody, sorted(shared))]


def any_targets(transaction: Transaction, target_ids: Iterable[str]) -> list[TargetRecord]:
    """The targets of sessions that the account sees, whether they are shared with it still or not."""
    return _everybody(transaction).targets.some(target_ids)


def ends(transaction: Transaction, session: SessionRecord) -> Ends | None:
    """Where a session begins and ends, whose ever that is; None where one of them is not there."""
    beyond = _everybody(transaction) if session.target_account_id else transaction
    source, aim = beyond.interfaces.get(session.interface_id), beyond.targets.get(session.target_id)
    if source is None or aim is None:
        return None
    behind = aim.target.interface_id if isinstance(aim.target, InterfaceTarget) else ""
    return Ends(source, aim, beyond.interfaces.get(behind))


def sessions_to(transaction: Transaction, target_id: str) -> list[SessionRecord]:
    """All sessions of all accounts to a target."""
    return _everybody(transaction).sessions.where(target_id=target_id)


def number_of_sessions_to(transaction: Transaction, target_id: str) -> int:
    return _everybody(transaction).sessions.count(target_id=target_id)


def sessions_of_others(transaction: Transaction) -> list[tuple[SessionRecord, str]]:
    """The sessions of other accounts to targets of this one, and the number of each one's account."""
    everybody = _everybody(transaction)
    found = everybody.sessions.where(target_account_id=_asker(transaction))
    owners = everybody.sessions.owners(session.session_id for session in found)
    return [(session, number_of(transaction, owners[session.session_id])) for session in found]


def lapsed(transaction: Transaction, sessions: Iterable[SessionRecord]) -> frozenset[str]:
    """The ids of those whose target is another account's that does not share it any more."""
    borrowing = [session for session in sessions if session.target_account_id]
    if not borrowing:
        return frozenset()
    everybody, found, known = _everybody(transaction), set[str](), dict[tuple[str, str], bool]()
    owners = everybody.sessions.owners(session.session_id for session in borrowing)
    for session in borrowing:
        asked = session.target_id, number_of(transaction, owners.get(session.session_id, transaction.owner or ""))
        if asked not in known:
            known[asked] = _is_shared(everybody, *asked)
        if not known[asked]:
            found.add(session.session_id)
    return frozenset(found)


def invitations(transaction: Transaction) -> list[tuple[InvitationRecord, SeenShare]]:
    """All that the account was sent, and to what."""
    everybody = _everybody(transaction)
    found = everybody.invitations.where(receiver_id=_asker(transaction))
    shares = _shares(everybody, [each.share_id for each in found])
    return [(each, shares[each.share_id]) for each in found]


def joined(transaction: Transaction) -> list[SeenShare]:
    """The shares of others that the account is in."""
    return [share for invitation, share in invitations(transaction) if invitation.accepted]


def targets_in(transaction: Transaction, shares: Sequence[SeenShare]) -> list[tuple[SharedTargetRecord, SeenShare]]:
    """What is in shares that the account sees."""
    everybody = _everybody(transaction)
    return [
        (entry, share) for share in shares for entry in everybody.shared_targets.where(share_id=share.record.share_id)
    ]


def put_answer(transaction: Transaction, invitation: InvitationRecord) -> None:
    """Keep what the account has said to an invitation. It may give life to its sessions."""
    _everybody(transaction).invitations.put(invitation)
    transaction.bump_revision()


def leave(transaction: Transaction, invitation: InvitationRecord) -> None:
    """An account leaves a share, or is taken out of it; its sessions to what it has by no other share stand still."""
    _everybody(transaction).invitations.remove(invitation.invitation_id)
    transaction.bump_revision()


def delete(transaction: Transaction, share_id: str) -> None:
    """Delete a share of the account, as if all had left it."""
    for entry in transaction.shared_targets.where(share_id=share_id):
        transaction.shared_targets.remove(entry.entry)
    for invitation in transaction.invitations.where(share_id=share_id):
        transaction.invitations.remove(invitation.invitation_id)
    transaction.shares.remove(share_id)
    transaction.tags.remove(share_id)
    transaction.bump_revision()


def forget_account(transaction: Transaction, account_id: str) -> None:
    """Of an account that is to be deleted: its shares, and the invitations that it was sent."""
    own = transaction.of_account(account_id)
    for share in own.shares.where():
        delete(own, share.share_id)
    for invitation in _everybody(own).invitations.where(receiver_id=account_id):
        leave(own, invitation)


def _everybody(transaction: Transaction) -> Transaction:
    return transaction.of_account(None)


def _asker(transaction: Transaction) -> str:
    if transaction.owner is None:
        raise ValueError("what is shared with whom is asked by an account")
    return number_of(transaction, transaction.owner)


def _is_shared(everybody: Transaction, target_id: str, account_id: str) -> bool:
    entries = everybody.shared_targets.where(target_id=target_id)
    return any(
        everybody.invitations.count(share_id=entry.share_id, receiver_id=account_id, accepted=True) for entry in entries
    )


def _seen(everybody: Transaction, target_ids: Sequence[str]) -> list[SeenTarget]:
    owners = everybody.targets.owners(target_ids)
    return [
        SeenTarget(record, number_of(everybody, owners[record.target_id]))
        for record in everybody.targets.some(target_ids)
    ]


def _shares(everybody: Transaction, share_ids: Sequence[str]) -> dict[str, SeenShare]:
    owners = everybody.shares.owners(share_ids)
    return {
        record.share_id: SeenShare(record, number_of(everybody, owners[record.share_id]))
        for record in everybody.shares.some(share_ids)
    }

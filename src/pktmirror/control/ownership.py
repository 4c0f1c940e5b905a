"""Whose an interface is: what the operator has assigned to which account (docs/decisions/0018).

An interface belongs to the account that it is assigned to, else to that of its VPC, else to the operator's own. One
that is in use stays whose it is, until its use ends: its sessions and targets would stand in another account than
their interface.
"""

from collections.abc import Iterable
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control import sharing
from pktmirror.control.records import AccountRecord, AssignmentRecord, InterfaceRecord
from pktmirror.control.store import Transaction
from pktmirror.model.template import ORIGIN_TAG
from pktmirror.networks import Networks


def require_account(transaction: Transaction, name: str) -> AccountRecord:
    """By its name or its number. Raises InvalidAccountId.NotFound."""
    found = transaction.accounts.where(name=name) or [*filter(None, [transaction.accounts.get(name)])]
    if not found:
        raise ApiError("InvalidAccountId.NotFound", f"The account '{errors.echo(name)}' does not exist", 404)
    return found[0]


def require_interface(transaction: Transaction, interface_id: str) -> InterfaceRecord:
    """Whosever it is. Raises InvalidNetworkInterfaceID.NotFound."""
    record = transaction.interfaces.get(interface_id)
    if record is None:
        raise ApiError(
            "InvalidNetworkInterfaceID.NotFound",
            f"The network interface ID '{errors.echo(interface_id)}' does not exist",
            404,
        )
    return record


def require_free_name(transaction: Transaction, name: str) -> None:
    if transaction.accounts.where(name=name) or transaction.accounts.get(name) is not None:
        raise errors.invalid_parameter_value(f"There is an account {errors.echo(name)} already")


def delete_account(transaction: Transaction, account: AccountRecord) -> None:
    """Its users, policies, keys and shares go with it; what it mirrors must be gone before: DependencyViolation."""
    own = transaction.of_account(account.account_id)
    for what, count in (
        ("sessions", own.sessions.count()),
        ("targets", own.targets.count()),
        ("filters", own.filters.count()),
        ("assigned interfaces or VPCs", transaction.assignments.count(account_id=account.account_id)),
        ("interfaces", own.interfaces.count()),
    ):
        if count:
            raise ApiError("DependencyViolation", f"The account {account.name} has {count} {what}: end that first")
    for user in own.users.where():
        for policy in own.user_policies.where(user_id=user.user_id):
            own.user_policies.remove(policy.policy_key)
        own.users.remove(user.user_id)
    for key in own.access_keys.where():
        own.access_keys.remove(key.access_key_id)
    sharing.forget_account(transaction, account.account_id)
    transaction.accounts.remove(account.account_id)


def assign(transaction: Transaction, subject: str, owner: str) -> None:
    """Give ``subject``, the id of an interface or a VPC, to an account; an empty owner takes the assignment away, also
    that of something which is gone.

    Raises ApiError for an id that is not known, and DependencyViolation where it, or an interface in it, is in use and
    would change hands. What others are due is settled beside it.
    """
    networks, records = transaction.networks, transaction.interfaces.where()
    is_there = subject in {vpc.vpc_id for vpc in networks.vpcs} | {record.interface_id for record in records}
    if not is_there and (owner or transaction.assignments.get(subject) is None):
        raise ApiError(
            "InvalidParameterValue",
            f"'{errors.echo(subject)}' is neither an interface nor a VPC that is declared: "
            "`pktmirror interfaces` and `pktmirror network show` list them",
        )
    if owner:
        transaction.assignments.put(AssignmentRecord(subject, owner))
    else:
        transaction.assignments.remove(subject)
    concerned = [record for record in records if subject in (record.interface_id, _vpc_id(record, networks))]
    for record, _, _ in _due(transaction, concerned):
        use = _use_of(transaction, record.interface_id)
        if use is not None:
            raise ApiError("DependencyViolation", f"{record.interface_id} is {use} before it is another account's")
    settle(transaction, records)


def settle(transaction: Transaction, records: Iterable[InterfaceRecord]) -> bool:
    """Make interfaces that are new, have moved or are let go theirs to whom they are due; those in use stay.

    Whether any has changed hands.
    """
    is_given = False
    for record, _, due in _due(transaction, records):
        if _use_of(transaction, record.interface_id) is None:
            _give(transaction, record.interface_id, due)
            is_given = True
    return is_given


def follow(transaction: Transaction) -> bool:
    """Settle the interfaces that the transaction has let go since it was last asked; whether any has changed hands."""
    if not transaction.let_go:
        return False
    let_go = transaction.interfaces.some(sorted(transaction.let_go))
    transaction.let_go.clear()
    return settle(transaction, let_go)


def _due(transaction: Transaction, records: Iterable[InterfaceRecord]) -> list[tuple[InterfaceRecord, str | None, str]]:
    """The records whose owner is not who it should be: record, owner now, and owner to be."""
    assigned = {each.subject: each.account_id for each in transaction.assignments.where()}
    concerned, found = list(records), []
    owners, networks = transaction.interfaces.owners(record.interface_id for record in concerned), transaction.networks
    for record in concerned:
        now = owners.get(record.interface_id)
        due = assigned.get(record.interface_id, assigned.get(_vpc_id(record, networks) or "", ""))
        if now != due:
            found.append((record, now, due))
    return found


def _vpc_id(record: InterfaceRecord, networks: Networks) -> str | None:
    place = None if record.primary_address is None else networks.place(record.primary_address)
    return None if place is None else place[0].vpc_id


def _use_of(transaction: Transaction, interface_id: str) -> str | None:
    """What an interface is, and what to do to end that."""
    for session in transaction.sessions.where(interface_id=interface_id):
        template = transaction.tags.of(session.session_id).get(ORIGIN_TAG)
        if template is not None:  # which would make another one
            return f"the source of {session.session_id} of the template {template}: let that select it no longer"
        return f"the source of {session.session_id}: delete that"
    for target in transaction.targets.where(resource=interface_id):
        return f"the target {target.target_id}: delete that"
    return None


def _give(transaction: Transaction, interface_id: str, owner: str) -> None:
    transaction.interfaces.give(interface_id, owner)
    transaction.tags.give(interface_id, owner)


def accounts(transaction: Transaction, operator: AccountRecord) -> list[dict[str, Any]]:
    """The ``operator``'s own account, then the others, with what each has."""
    others = [(account, transaction.of_account(account.account_id)) for account in transaction.accounts.where()]
    return [
        {
            "account_id": account.account_id,
            "name": account.name,
            "users": seen.users.count(),
            "interfaces": seen.interfaces.count(),
            "sessions": seen.sessions.count(),
            "assigned": sorted(each.subject for each in transaction.assignments.where(account_id=account.account_id)),
        }
        for account, seen in [(operator, transaction.of_account("")), *others]
    ]

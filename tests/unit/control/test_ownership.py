"""Whose an interface is: by its assignment, else by its VPC's, else the operator's; in use it stays whose it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.aws import ApiError
from pktmirror.control import declaration, ownership
from pktmirror.control.records import AccountRecord, FilterRecord
from pktmirror.control.store import Store, Transaction
from pktmirror.networks import Declaration, parse
from tests.unit.control.records import interface, session, target

RED, BLUE = "111122223333", "444455556666"
NETWORKS = """
[[vpc]]
name = "lab"
cidr = "10.1.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.1.0.0/24"
"""


@pytest.fixture
def transaction(tmp_path: Path) -> Iterator[Transaction]:
    """Interfaces ``web`` and ``db`` in a VPC, ``tool`` in none; ``web`` is the source of a session to ``tool``."""
    store = Store.open(tmp_path / "store")
    with store.write() as transaction:
        transaction.declare(parse(NETWORKS))
        for account_id, name in ((RED, "red"), (BLUE, "blue")):
            transaction.accounts.put(AccountRecord(account_id, name, 0.0))
        for made in (interface("web", "10.1.0.5"), interface("db", "10.1.0.6"), interface("tool", "10.9.0.7")):
            transaction.interfaces.put(made)
        transaction.filters.put(FilterRecord("tmf-f"))
        yield transaction
    store.close()


def used(transaction: Transaction, source: str) -> None:
    transaction.targets.put(target("s"))
    transaction.sessions.put(session("a", source, "s"))


def owners(transaction: Transaction) -> dict[str, str | None]:
    return {name: transaction.interfaces.owner_of(f"eni-{name}") for name in ("web", "db", "tool")}


def vpc_id(transaction: Transaction) -> str:
    [vpc] = transaction.networks.vpcs
    return vpc.vpc_id


def refused(transaction: Transaction, subject: str, owner: str) -> str:
    before = transaction.assignments.where()
    with pytest.raises(ApiError) as refusal:
        ownership.assign(transaction, subject, owner)
    if refusal.value.code == "InvalidParameterValue":
        assert transaction.assignments.where() == before
    return refusal.value.code


def test_an_assignment_counts_before_that_of_the_vpc(transaction: Transaction) -> None:
    ownership.assign(transaction, vpc_id(transaction), RED)
    assert owners(transaction) == {"web": RED, "db": RED, "tool": ""}
    ownership.assign(transaction, "eni-web", BLUE)
    assert owners(transaction) == {"web": BLUE, "db": RED, "tool": ""}
    ownership.assign(transaction, "eni-web", "")
    assert owners(transaction) == {"web": RED, "db": RED, "tool": ""}
    assert refused(transaction, "eni-none", RED) == "InvalidParameterValue"
    assert refused(transaction, "eni-none", "") == "InvalidParameterValue"


def test_an_assignment_of_what_is_gone_can_be_taken_back(transaction: Transaction) -> None:
    vpc = vpc_id(transaction)
    ownership.assign(transaction, vpc, RED)
    ownership.assign(transaction, "eni-db", RED)
    transaction.declare(Declaration())
    transaction.remove_interface("eni-db")
    assert refused(transaction, vpc, BLUE) == "InvalidParameterValue"  # none can be given that is not there
    red = AccountRecord(RED, "red", 0.0)
    with pytest.raises(ApiError, match="2 assigned interfaces or VPCs"):
        ownership.delete_account(transaction, red)
    ownership.assign(transaction, vpc, "")
    ownership.assign(transaction, "eni-db", "")
    assert transaction.assignments.where() == []
    assert owners(transaction) == {"web": "", "db": None, "tool": ""}
    ownership.delete_account(transaction, red)
    assert [account.name for account in transaction.accounts.where()] == ["blue"]
    assert refused(transaction, vpc, "") == "InvalidParameterValue"


def test_an_interface_in_use_is_in_the_way_of_what_concerns_it_alone(transaction: Transaction) -> None:
    used(transaction, "web")
    assert refused(transaction, "eni-web", RED) == "DependencyViolation"
    transaction.assignments.remove("eni-web")  # as the end of the transaction would
    assert refused(transaction, vpc_id(transaction), RED) == "DependencyViolation"
    assert owners(transaction) == {"web": "", "db": "", "tool": ""}
    # It is due to red now, and stays whose it is: nothing that others are given is refused for it.
    assert [record.subject for record in transaction.assignments.where()] == [vpc_id(transaction)]
    ownership.assign(transaction, "eni-db", BLUE)
    assert owners(transaction) == {"web": "", "db": BLUE, "tool": ""}


def test_what_others_are_due_is_settled_beside_an_assignment(transaction: Transaction) -> None:
    ownership.assign(transaction, vpc_id(transaction), RED)
    transaction.interfaces.put(interface("tool", "10.1.0.7"))  # it has moved into the VPC
    ownership.assign(transaction, "eni-db", BLUE)
    assert owners(transaction) == {"web": RED, "db": BLUE, "tool": RED}


def test_an_interface_changes_its_owner_with_its_vpc_where_another_takes_its_addresses(
    transaction: Transaction,
) -> None:
    ownership.assign(transaction, vpc_id(transaction), RED)
    ownership.assign(transaction, "eni-db", BLUE)
    assert owners(transaction) == {"web": RED, "db": BLUE, "tool": ""}
    declaration.apply(transaction, parse(NETWORKS.replace('"lab"', '"works"')))
    assert owners(transaction) == {"web": "", "db": BLUE, "tool": ""}
    declaration.apply(transaction, parse(NETWORKS))
    assert owners(transaction) == {"web": RED, "db": BLUE, "tool": ""}
    declaration.apply(transaction, Declaration())
    assert owners(transaction) == {"web": "", "db": BLUE, "tool": ""}

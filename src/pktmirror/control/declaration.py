"""Changing what the operator declares of the networks: what follows from it, and what forbids it.

The store is the one owner of the declaration; a ``networks.toml`` is a form in which it is handed in
(docs/decisions/0006). An interface that is in use does not change its subnet, as in AWS: its copies would leave by
another network's underlay from one packet to the next.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from pktmirror.aws import ApiError
from pktmirror.control import history, ownership
from pktmirror.control.placement import underlay
from pktmirror.control.records import InterfaceRecord, declared_address
from pktmirror.control.store import Transaction
from pktmirror.model.target import InterfaceTarget
from pktmirror.networks import Declaration, Networks, differences, networks

_FILE = "networks_file"


def apply(transaction: Transaction, declaration: Declaration) -> list[str]:
    """Put it in force; what has changed by it, a line each. Raises `Refusal` or ApiError, and nothing has changed."""
    before, after = transaction.networks, networks(declaration)
    changed = differences(transaction.declaration, declaration)
    if not changed:
        return []
    records = transaction.interfaces.where()
    moved = [_declared(record, after) for record in records]
    forbidden = list(conflicts(before, after, records, moved, in_use(transaction)))
    if forbidden:
        more = f" (and {len(forbidden) - 1} more)" if len(forbidden) > 1 else ""
        raise ApiError("DependencyViolation", f"{forbidden[0]}{more}")
    transaction.declare(declaration)
    touched = [
        now
        for then, now in zip(records, moved, strict=True)
        if now != then or underlay(then, before) != underlay(now, after)
    ]
    for record in touched:
        transaction.interfaces.put(record)
    history.interfaces_changed(transaction, touched)
    ownership.settle(transaction, moved)  # a VPC of another name is another one
    transaction.bump_revision()
    return changed


def apply_file(transaction: Transaction, declaration: Declaration) -> list[str]:
    """Put what the file of a start declares in force, unless the file of the last start declared the same."""
    digest = hashlib.sha256(msgspec.json.encode(declaration)).hexdigest()
    if transaction.setting(_FILE) == digest:
        return []
    transaction.set_setting(_FILE, digest)
    return apply(transaction, declaration)


def described(transaction: Transaction) -> dict[str, Any]:
    """The declaration in its own form, the VPCs with the number of interfaces in each subnet, and the addresses."""
    declared, records = transaction.networks, transaction.interfaces.where()
    ids = {(record.host_id, record.found.key): record.interface_id for record in records}
    subnet_ids = [place_of(record, declared)[1] for record in records]
    return {
        "declaration": transaction.declaration,
        "vpcs": [
            {
                "vpc_id": vpc.vpc_id,
                "name": vpc.name,
                "networks": [str(network) for network in vpc.networks],
                "resolvers": [str(resolver) for resolver in vpc.resolvers],
                "underlay": vpc.underlay,
                "subnets": [
                    {
                        "subnet_id": subnet.subnet_id,
                        "name": subnet.name,
                        "zone": subnet.zone,
                        "networks": [str(network) for network in subnet.networks],
                        "interfaces": subnet_ids.count(subnet.subnet_id),
                    }
                    for subnet in vpc.subnets
                ],
            }
            for vpc in declared.vpcs
        ],
        "addresses": [
            {"host_id": host_id, "key": key, "address": str(address), "interface_id": ids.get((host_id, key))}
            for (host_id, key), address in declared.addresses.items()
        ],
    }


def place_of(record: InterfaceRecord, networks_: Networks) -> tuple[str | None, str | None]:
    """The ids of the VPC and subnet in which an interface is."""
    place = None if record.primary_address is None else networks_.place(record.primary_address)
    return (None, None) if place is None else (place[0].vpc_id, place[1].subnet_id)


def in_use(transaction: Transaction) -> dict[str, str]:
    """By interface id: what it is used for; an interface that stands not in it is free."""
    uses = {
        record.target.interface_id: f"the target {record.target_id}"
        for record in transaction.targets.where()
        if isinstance(record.target, InterfaceTarget)
    }
    return uses | {
        session.interface_id: f"the source of {session.session_id}" for session in transaction.sessions.where()
    }


def conflicts(
    before: Networks,
    after: Networks,
    records: Iterable[InterfaceRecord],
    moved: Iterable[InterfaceRecord],
    uses: Mapping[str, str],
) -> Iterable[str]:
    """Why networks may not change so, a sentence for each interface in the way. ``moved`` are the records afterwards.

    Pure. Interfaces that nothing uses are placed anew without a word.
    """
    for then, now in zip(records, moved, strict=True):
        use = uses.get(then.interface_id)
        if use is None:
            continue
        name = f"{then.interface_id} ({then.found.key} on {then.host_id})"
        place, new_place = _place(then, before), _place(now, after)
        if then.primary_address is not None and now.primary_address is None:
            yield f"{name} would have no primary address any more, and it is {use}: delete that first"
        elif place is not None and new_place != place:
            where = (
                "belong to no subnet" if new_place is None else f"move to subnet {new_place[1]} of VPC {new_place[0]}"
            )
            yield (
                f"{name} is in subnet {place[1]} of VPC {place[0]} and would {where}, and it is {use}: "
                "delete that first, or keep its subnet"
            )


def _declared(record: InterfaceRecord, networks_: Networks) -> InterfaceRecord:
    return replace(record, declared_address=declared_address(networks_, record.host_id, record.found))


def _place(record: InterfaceRecord, networks_: Networks) -> tuple[str, str] | None:
    """The names of the VPC and subnet: these are what makes their ids."""
    place = None if record.primary_address is None else networks_.place(record.primary_address)
    return None if place is None else (place[0].name, place[1].name)

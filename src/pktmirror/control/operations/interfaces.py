"""Network interfaces: described from the inventory that the agents report. Nobody makes them through the API."""

from collections.abc import Mapping
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control.operations import selection, tags
from pktmirror.control.operations.operation import (
    Context,
    DescribeRequest,
    Ids,
    Operation,
    Result,
    not_found,
)
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.selection import one
from pktmirror.control.records import InterfaceRecord
from pktmirror.control.store import Transaction
from pktmirror.networks import Subnet


class DescribeNetworkInterfaces(DescribeRequest, frozen=True, kw_only=True):
    network_interface_ids: Ids = ()


def describe(request: DescribeNetworkInterfaces, context: Context) -> Result:
    transaction = context.transaction
    if request.network_interface_ids:
        records = [require(transaction, id_) for id_ in dict.fromkeys(request.network_interface_ids)]
    else:
        records = transaction.interfaces.where()
    held = transaction.tags.all()
    chosen = selection.select(
        records, request.filters, _fields(context), lambda record: held.get(record.interface_id, {})
    )
    given, next_token = page(chosen, lambda record: record.interface_id, request, context.page_key)
    listed = [
        described(record, context) | {"TagSet": tags.described(held.get(record.interface_id, {}))} for record in given
    ]
    return {"NetworkInterfaces": listed, "NextToken": next_token}


def require(transaction: Transaction, interface_id: str) -> InterfaceRecord:
    record = transaction.interfaces.get(interface_id)
    if record is None:
        raise not_found("NetworkInterfaceID", "network interface", interface_id)
    return record


def require_source(transaction: Transaction, interface_id: str) -> InterfaceRecord:
    """The interface, if it can be the source of a session (spec 1.2, 5.14)."""
    record = require(transaction, interface_id)
    reason = record.not_mirrorable
    if reason is not None:
        raise ApiError(
            "NetworkInterfaceNotSupported", f"{interface_id} must be attached to a supported instance: {reason}"
        )
    for target in transaction.targets.where(resource=interface_id):
        raise errors.invalid_parameter_value(f"{interface_id} is in use by target {target.target_id}")
    return record


def subnet_of(record: InterfaceRecord, context: Context) -> Subnet | None:
    """The declared subnet that holds the primary address."""
    place = context.networks.place(record.primary_address) if record.primary_address else None
    return None if place is None else place[1]


def zone_of(record: InterfaceRecord, context: Context) -> str:
    subnet = subnet_of(record, context)
    return (subnet.zone if subnet else None) or context.zone


def ipv4_addresses(record: InterfaceRecord) -> list[str]:
    """The primary one first, where it is an IPv4 address."""
    return [address for address in record.addresses if ":" not in address]


def described(record: InterfaceRecord, context: Context) -> dict[str, Any]:
    """An interface in botocore's output shape, without its tags."""
    found, subnet, ipv4 = record.found, subnet_of(record, context), ipv4_addresses(record)
    return {
        "NetworkInterfaceId": record.interface_id,
        "InterfaceType": "interface",
        "Description": description(record),
        "OwnerId": context.account_id,
        "RequesterManaged": False,
        "Status": _status(record),
        "VpcId": subnet and subnet.vpc_id,
        "SubnetId": subnet and subnet.subnet_id,
        "AvailabilityZone": zone_of(record, context),
        "MacAddress": found.mac,
        "PrivateIpAddress": ipv4[0] if ipv4 else None,
        "PrivateIpAddresses": [{"Primary": address == ipv4[0], "PrivateIpAddress": address} for address in ipv4],
        "Ipv6Addresses": [{"Ipv6Address": address} for address in record.addresses if ":" in address],
        "Groups": [],
        "Attachment": _attachment(record, context),
    }


def description(record: InterfaceRecord) -> str:
    found = record.found
    owner = record.instance_name or record.host_id
    return f"{found.name} of {owner} ({found.kind} {found.device} on {record.host_id})"


def _attachment(record: InterfaceRecord, context: Context) -> dict[str, Any] | None:
    if not record.attached:
        return None
    attached: dict[str, Any] = {
        "AttachmentId": f"eni-attach-{record.interface_id.removeprefix('eni-')}",
        "DeleteOnTermination": False,
        "Status": "attached",
    }
    if record.instance_id is not None:
        attached |= {"InstanceId": record.instance_id, "InstanceOwnerId": context.account_id}
    return attached


def _status(record: InterfaceRecord) -> str:
    return "in-use" if record.attached else "available"


def _fields(context: Context) -> selection.Fields[InterfaceRecord]:
    def subnet_field(name: str) -> selection.Field[InterfaceRecord]:
        return lambda record: one(getattr(subnet_of(record, context), name, None))

    return {
        **_FIELDS,
        "availability-zone": lambda record: one(zone_of(record, context)),
        "owner-id": lambda _: one(context.account_id),
        "subnet-id": subnet_field("subnet_id"),
        "vpc-id": subnet_field("vpc_id"),
    }


_FIELDS: selection.Fields[InterfaceRecord] = {
    "addresses.private-ip-address": ipv4_addresses,
    "attachment.instance-id": lambda record: one(record.instance_id if record.attached else None),
    "attachment.status": lambda record: one("attached" if record.attached else None),
    "description": lambda record: one(description(record)),
    "group-id": lambda _: (),
    "interface-type": lambda _: one("interface"),
    "ipv6-addresses.ipv6-address": lambda record: [a for a in record.addresses if ":" in a],
    "mac-address": lambda record: one(record.found.mac),
    "network-interface-id": lambda record: one(record.interface_id),
    "private-ip-address": lambda record: ipv4_addresses(record)[:1],
    "requester-managed": lambda _: one(False),
    "status": lambda record: one(_status(record)),
}

OPERATIONS: Mapping[str, Operation[Any]] = {
    "DescribeNetworkInterfaces": Operation(DescribeNetworkInterfaces, describe),
}

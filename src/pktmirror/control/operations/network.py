"""What surrounds the interfaces: instances by the inventory, VPCs and subnets by declaration, the region and zones."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from pktmirror.aws import ApiError, errors
from pktmirror.control.operations import interfaces, selection, tags
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
from pktmirror.model.filter import Network
from pktmirror.networks import Subnet, Vpc

ENGINE_TAG, OWNER_TAG = "pktmirror:engine", "pktmirror:owner"
"""Tags of an instance: which engine runs it, and whose it is by that. Each label that it tells is a tag too."""


class DescribeInstances(DescribeRequest, frozen=True, kw_only=True):
    instance_ids: Ids = ()


class DescribeVpcs(DescribeRequest, frozen=True, kw_only=True):
    vpc_ids: Ids = ()


class DescribeSubnets(DescribeRequest, frozen=True, kw_only=True):
    subnet_ids: Ids = ()


class DescribeRegions(DescribeRequest, frozen=True, kw_only=True):
    region_names: Ids = ()
    all_regions: bool = False


class DescribeAvailabilityZones(DescribeRequest, frozen=True, kw_only=True):
    zone_names: Ids = ()
    all_availability_zones: bool = False


@dataclass(frozen=True, slots=True)
class _Instance:
    """A machine or container: the interfaces that say they belong to it."""

    instance_id: str
    interfaces: tuple[InterfaceRecord, ...]

    @property
    def name(self) -> str:
        return self.interfaces[0].instance_name or ""

    @property
    def tags(self) -> dict[str, str]:
        """Its name, and what its engine tells: its owner, and the labels that can be tags, as many as there is room."""
        facts = self.interfaces[0].found.facts
        if facts is None:
            return {"Name": self.name}
        own = {"Name": self.name, ENGINE_TAG: facts.engine}
        if facts.owner is not None:
            own[OWNER_TAG] = facts.owner
        fit = {key: value for key, value in sorted(facts.labels.items()) if _can_be_tag(key) and key not in own}
        return dict([*own.items(), *fit.items()][: tags.TAGS_PER_RESOURCE_MAX])

    @property
    def running(self) -> bool:
        return any(interface.attached for interface in self.interfaces)


def describe_instances(request: DescribeInstances, context: Context) -> Result:
    instances = _instances(context)
    if request.instance_ids:
        instances = {id_: _known(instances, id_, "InstanceID", "instance") for id_ in request.instance_ids}
    fields = _instance_fields(context)
    chosen = selection.select(instances.values(), request.filters, fields, lambda item: item.tags)
    given, next_token = page(chosen, lambda item: item.instance_id, request, context.page_key)
    return {"Reservations": [_reservation(item, context) for item in given], "NextToken": next_token}


def describe_vpcs(request: DescribeVpcs, context: Context) -> Result:
    vpcs = {vpc.vpc_id: vpc for vpc in context.vpcs}
    if request.vpc_ids:
        vpcs = {id_: _known(vpcs, id_, "VpcID", "vpc") for id_ in request.vpc_ids}
    fields: selection.Fields[Vpc] = {
        "cidr": lambda vpc: _ipv4(vpc.networks),
        "is-default": lambda _: one(False),
        "owner-id": lambda _: one(context.account_id),
        "state": lambda _: one("available"),
        "vpc-id": lambda vpc: one(vpc.vpc_id),
    }
    chosen = selection.select(vpcs.values(), request.filters, fields, lambda vpc: {"Name": vpc.name})
    given, next_token = page(chosen, lambda vpc: vpc.vpc_id, request, context.page_key)
    return {"Vpcs": [_described_vpc(vpc, context) for vpc in given], "NextToken": next_token}


def describe_subnets(request: DescribeSubnets, context: Context) -> Result:
    subnets = {subnet.subnet_id: subnet for vpc in context.vpcs for subnet in vpc.subnets}
    if request.subnet_ids:
        subnets = {id_: _known(subnets, id_, "SubnetID", "subnet") for id_ in request.subnet_ids}
    fields: selection.Fields[Subnet] = {
        "availability-zone": lambda subnet: one(subnet.zone or context.zone),
        "cidr-block": lambda subnet: _ipv4(subnet.networks),
        "owner-id": lambda _: one(context.account_id),
        "state": lambda _: one("available"),
        "subnet-id": lambda subnet: one(subnet.subnet_id),
        "vpc-id": lambda subnet: one(subnet.vpc_id),
    }
    chosen = selection.select(subnets.values(), request.filters, fields, lambda subnet: {"Name": subnet.name})
    given, next_token = page(chosen, lambda subnet: subnet.subnet_id, request, context.page_key)
    return {"Subnets": [_described_subnet(subnet, context) for subnet in given], "NextToken": next_token}


def describe_regions(request: DescribeRegions, context: Context) -> Result:
    _check_names(request.region_names, {context.region}, "region")
    fields: selection.Fields[str] = {
        "opt-in-status": lambda _: one("opt-in-not-required"),
        "region-name": one,
    }
    described = [
        {
            "RegionName": region,
            "Endpoint": f"ec2.{region}.amazonaws.com",
            "OptInStatus": "opt-in-not-required",
        }
        for region in selection.select([context.region], request.filters, fields)
    ]
    return {"Regions": described}


def describe_availability_zones(request: DescribeAvailabilityZones, context: Context) -> Result:
    """The region's own zone, and those that subnets name."""
    declared = {subnet.zone for vpc in context.vpcs for subnet in vpc.subnets if subnet.zone}
    zones = sorted({context.zone, *declared})
    _check_names(request.zone_names, zones, "availability zone")
    fields: selection.Fields[str] = {
        "region-name": lambda _: one(context.region),
        "state": lambda _: one("available"),
        "zone-name": one,
    }
    wanted = [zone for zone in zones if not request.zone_names or zone in request.zone_names]
    described = [
        {
            "ZoneName": zone,
            "ZoneId": zone,
            "ZoneType": "availability-zone",
            "State": "available",
            "RegionName": context.region,
            "GroupName": context.region,
            "OptInStatus": "opt-in-not-required",
            "Messages": [],
        }
        for zone in selection.select(wanted, request.filters, fields)
    ]
    return {"AvailabilityZones": described}


def _can_be_tag(label: str) -> bool:
    return len(label) <= tags.KEY_CHARACTERS_MAX and not label.lower().startswith("aws:")


def _known(known: Mapping[str, Any], id_: str, kind: str, resource: str) -> Any:
    if id_ not in known:
        raise not_found(kind, resource, id_)
    return known[id_]


def _check_names(asked: Ids, known: Collection[str], what: str) -> None:
    for name in asked:
        if name not in known:
            raise ApiError("InvalidParameterValue", f"Invalid {what}: [{errors.echo(name)}]")


def _instances(context: Context) -> dict[str, _Instance]:
    grouped: dict[str, list[InterfaceRecord]] = {}
    for record in context.transaction.interfaces.where():
        if record.instance_id is not None:
            grouped.setdefault(record.instance_id, []).append(record)
    return {
        id_: _Instance(id_, tuple(sorted(found, key=lambda record: record.found.key))) for id_, found in grouped.items()
    }


def _reservation(instance: _Instance, context: Context) -> dict[str, Any]:
    """An instance is running while an interface of it is there; what runs in it is not known here."""
    described = [interfaces.described(record, context) for record in instance.interfaces]
    first = described[0]
    state = {"Code": 16, "Name": "running"} if instance.running else {"Code": 80, "Name": "stopped"}
    return {
        "ReservationId": f"r-{instance.instance_id.removeprefix('i-')}",
        "OwnerId": context.account_id,
        "Groups": [],
        "Instances": [
            {
                "InstanceId": instance.instance_id,
                "State": state,
                "PrivateIpAddress": first["PrivateIpAddress"],
                "VpcId": first["VpcId"],
                "SubnetId": first["SubnetId"],
                "Placement": {"AvailabilityZone": first["AvailabilityZone"]},
                "NetworkInterfaces": [_of_instance(interface) for interface in described],
                "SecurityGroups": [],
                "Tags": tags.described(instance.tags),
            }
        ],
    }


_SHOWN_IN_INSTANCE = (
    "NetworkInterfaceId",
    "Description",
    "OwnerId",
    "Status",
    "VpcId",
    "SubnetId",
    "MacAddress",
    "PrivateIpAddress",
    "PrivateIpAddresses",
    "Ipv6Addresses",
    "InterfaceType",
    "Groups",
)


def _of_instance(interface: Mapping[str, Any]) -> dict[str, Any]:
    return {name: interface[name] for name in _SHOWN_IN_INSTANCE}


def _instance_fields(context: Context) -> selection.Fields[_Instance]:
    def of_interfaces(name: str) -> selection.Field[_Instance]:
        return lambda item: [
            value for record in item.interfaces if (value := interfaces.described(record, context)[name]) is not None
        ]

    return {
        "availability-zone": of_interfaces("AvailabilityZone"),
        "instance-id": lambda item: one(item.instance_id),
        "instance-state-name": lambda item: one("running" if item.running else "stopped"),
        "network-interface.network-interface-id": of_interfaces("NetworkInterfaceId"),
        "network-interface.addresses.private-ip-address": lambda item: [
            address for record in item.interfaces for address in interfaces.ipv4_addresses(record)
        ],
        "owner-id": lambda _: one(context.account_id),
        "private-ip-address": of_interfaces("PrivateIpAddress"),
        "subnet-id": of_interfaces("SubnetId"),
        "vpc-id": of_interfaces("VpcId"),
    }


def _described_vpc(vpc: Vpc, context: Context) -> dict[str, Any]:
    ipv4 = _ipv4(vpc.networks)
    return {
        "VpcId": vpc.vpc_id,
        "State": "available",
        "CidrBlock": ipv4[0] if ipv4 else None,
        "CidrBlockAssociationSet": [{"CidrBlock": cidr, "CidrBlockState": {"State": "associated"}} for cidr in ipv4],
        "Ipv6CidrBlockAssociationSet": _ipv6_associations(vpc.networks),
        "InstanceTenancy": "default",
        "IsDefault": False,
        "OwnerId": context.account_id,
        "Tags": tags.described({"Name": vpc.name}),
    }


def _described_subnet(subnet: Subnet, context: Context) -> dict[str, Any]:
    ipv4 = _ipv4(subnet.networks)
    return {
        "SubnetId": subnet.subnet_id,
        "VpcId": subnet.vpc_id,
        "State": "available",
        "CidrBlock": ipv4[0] if ipv4 else None,
        "Ipv6CidrBlockAssociationSet": _ipv6_associations(subnet.networks),
        "AvailabilityZone": subnet.zone or context.zone,
        "OwnerId": context.account_id,
        "Tags": tags.described({"Name": subnet.name}),
    }


def _ipv4(networks: tuple[Network, ...]) -> list[str]:
    return [str(network) for network in networks if isinstance(network, IPv4Network)]


def _ipv6_associations(networks: tuple[Network, ...]) -> list[dict[str, Any]]:
    return [
        {"Ipv6CidrBlock": str(network), "Ipv6CidrBlockState": {"State": "associated"}}
        for network in networks
        if not isinstance(network, IPv4Network)
    ]


OPERATIONS: Mapping[str, Operation[Any]] = {
    "DescribeInstances": Operation(DescribeInstances, describe_instances),
    "DescribeVpcs": Operation(DescribeVpcs, describe_vpcs),
    "DescribeSubnets": Operation(DescribeSubnets, describe_subnets),
    "DescribeRegions": Operation(DescribeRegions, describe_regions),
    "DescribeAvailabilityZones": Operation(DescribeAvailabilityZones, describe_availability_zones),
}

"""The condition keys that a request can carry (spec 1.14), and of which type their values are.

A key that is not listed is refused when a policy is put: a condition on it would silently never, or always, hold. The
names are those of AWS's pages "Actions, resources, and condition keys" for Amazon EC2 and for AWS RAM, and "AWS global
condition context keys"; their case does not count.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum


class Type(Enum):
    """What a value is, and so by which operators it is compared."""

    STRING = "string"
    ARN = "ARN"
    DATE = "date"
    EPOCH = "seconds since 1970"
    BOOL = "boolean"
    ADDRESS = "IP address"


@dataclass(frozen=True, slots=True)
class Key:
    """``has_many``: a request carries a set of values, so a condition needs ForAllValues or ForAnyValue."""

    type: Type
    has_many: bool = False


_NAMED: Mapping[str, Key] = {
    # who calls
    "aws:PrincipalAccount": Key(Type.STRING),
    "aws:PrincipalArn": Key(Type.ARN),
    "aws:PrincipalType": Key(Type.STRING),
    "aws:userid": Key(Type.STRING),
    "aws:username": Key(Type.STRING),
    # how and when
    "aws:CurrentTime": Key(Type.DATE),
    "aws:EpochTime": Key(Type.EPOCH),
    "aws:RequestedRegion": Key(Type.STRING),
    "aws:SecureTransport": Key(Type.BOOL),
    "aws:SourceIp": Key(Type.ADDRESS),
    "aws:UserAgent": Key(Type.STRING),
    # what is asked, and of which resource
    "aws:ResourceAccount": Key(Type.STRING),
    "aws:TagKeys": Key(Type.STRING, has_many=True),
    "ec2:Attribute": Key(Type.STRING, has_many=True),
    "ec2:AvailabilityZone": Key(Type.STRING),
    "ec2:CreateAction": Key(Type.STRING),
    "ec2:NetworkInterfaceID": Key(Type.STRING),
    "ec2:Region": Key(Type.STRING),
    "ec2:Subnet": Key(Type.ARN),
    "ec2:Vpc": Key(Type.ARN),
    "ram:AllowsExternalPrincipals": Key(Type.BOOL),
    "ram:Principal": Key(Type.STRING),
    "ram:RequestedAllowsExternalPrincipals": Key(Type.BOOL),
    "ram:RequestedResourceType": Key(Type.STRING),
    "ram:ResourceArn": Key(Type.ARN),
    "ram:ResourceShareName": Key(Type.STRING),
}
_PREFIXED: Mapping[str, Key] = {
    "aws:RequestTag/": Key(Type.STRING),
    "aws:ResourceTag/": Key(Type.STRING),
    "ec2:ResourceTag/": Key(Type.STRING),
    "ec2:Attribute/": Key(Type.STRING),
}
_BY_NAME = {name.casefold(): key for name, key in _NAMED.items()}
_BY_PREFIX = {prefix.casefold(): key for prefix, key in _PREFIXED.items()}


def key(name: str) -> Key | None:
    """The key of a name in any case; None for one that no request carries."""
    folded = name.casefold()
    if folded in _BY_NAME:
        return _BY_NAME[folded]
    return next((key for prefix, key in _BY_PREFIX.items() if folded.startswith(prefix) and folded != prefix), None)


def names() -> Iterator[str]:
    """All of them, for messages and pages."""
    yield from _NAMED
    for prefix in _PREFIXED:
        yield f"{prefix}{'<name>' if prefix == 'ec2:Attribute/' else '<key>'}"

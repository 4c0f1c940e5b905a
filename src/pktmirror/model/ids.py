"""What an EC2 resource id looks like: a prefix and 17 hexadecimal digits (spec fact 3)."""

import hashlib
import secrets
from enum import Enum

_DIGITS = 17


class Prefix(Enum):
    """The prefixes of the resources that pktmirror names."""

    TARGET = "tmt"
    FILTER = "tmf"
    FILTER_RULE = "tmfr"
    SESSION = "tms"
    INTERFACE = "eni"
    INSTANCE = "i"
    VPC = "vpc"
    SUBNET = "subnet"


def new_id(prefix: Prefix) -> str:
    """A fresh random id, such as ``tms-0f3a…``; 68 bits of entropy make a collision somebody else's problem."""
    return f"{prefix.value}-{secrets.token_hex(9)[:_DIGITS]}"


def derived_id(prefix: Prefix, *identity: str) -> str:
    """The same id for the same identity, on every machine and after every restart.

    Used for what the operator or a provider names (VPCs, subnets, instances): they have a name of their own,
    and the id is how EC2 spells it.
    """
    digest = hashlib.sha256("\x00".join(identity).encode()).hexdigest()
    return f"{prefix.value}-{digest[:_DIGITS]}"

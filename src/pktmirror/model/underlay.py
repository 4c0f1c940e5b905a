"""The network on which copies travel from a source's host to a target (spec 5.14)."""

from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

FAMILIES = (4, 6)
"""Of the outer headers; where nothing is declared, the first in which both ends have an address is taken."""

OUTER_BYTES = {4: 36, 6: 56}  # outer IP 20 or 40, UDP 8, VXLAN 8: what a target's MTU holds beside the inner frame
OUTER_BYTES_MAX = {4: 65535, 6: 63474}  # IPv4's total length; what bpf/encap6.h can sum, without Ethernet's 14 bytes


class OuterSource(Enum):
    """Whose address a copy carries as its outer source."""

    ENI = "eni"  # the source's own primary address, as AWS has it (spec fact 71)
    HOST = "host"  # what the host itself would use on the route to the target: the route's preferred source


class Segmentation(Enum):
    """Who makes the packets on the wire out of a super-packet, and completes their checksums (docs/decisions/0011)."""

    AUTO = "auto"  # the kernel or the card on the way out, where the device leaves it to them; else the host
    HOST = "host"  # the host, before a copy leaves
    UNDERLAY = "underlay"  # whatever is behind the device: the operator knows that nobody looks at copies before it


def outer_addresses(
    source: Sequence[Address], target: Sequence[Address], outer_source: OuterSource, family: int | None
) -> tuple[Address | None, Address] | None:
    """Between which addresses of the two interfaces copies travel, or None where no family has them (decision 0014).

    The primary ones over IPv4, as AWS has it; over IPv6 where there are none, or where the network says so by its
    ``family``. Where the outer source is the host's, the source's own address (None) does not count.
    """
    for version in FAMILIES if family is None else (family,):
        own = next((address for address in source if address.version == version), None)
        other = next((address for address in target if address.version == version), None)
        if other is not None and (own is not None or outer_source is OuterSource.HOST):
            return own, other
    return None

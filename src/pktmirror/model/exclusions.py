"""What is never mirrored, whatever the filters say (spec 1.7, 5.18, 5.20), as a table: one for all hosts.

An operator cannot edit it yet, as spec 5.18 wants (LIMITATIONS.md).
ARP needs no line here: only IP packets are mirrored at all.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pktmirror.model.filter import ICMPV6, TCP, UDP, PortRange

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Packets to or from ``address``, of ``protocol``, with either port in ``ports``; None means any.

    For ICMPv6 ``ports`` is a range of message types.
    """

    why: str
    address: Address | None = None
    protocol: int | None = None
    ports: PortRange | None = None


NEVER_MIRRORED: tuple[Exclusion, ...] = (
    Exclusion("dhcp", None, UDP, PortRange(67, 68)),
    Exclusion("dhcpv6", None, UDP, PortRange(546, 547)),
    Exclusion("neighbour discovery", None, ICMPV6, PortRange(133, 137)),
    Exclusion("instance metadata", ip_address("169.254.169.254")),
    Exclusion("instance metadata", ip_address("fd00:ec2::254")),
    Exclusion("time sync", ip_address("169.254.169.123")),
    Exclusion("time sync", ip_address("fd00:ec2::123")),
    Exclusion("windows activation", ip_address("169.254.169.250"), TCP, PortRange(1688, 1688)),
    Exclusion("windows activation", ip_address("169.254.169.251"), TCP, PortRange(1688, 1688)),
)

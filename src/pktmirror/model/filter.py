"""Filters: two ordered lists of rules, ingress and egress, and the network services let through beside them.

Directions are seen from the source interface: ingress is what it receives, egress what it sends (spec 1.4).
"""

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

RULE_NUMBER_MIN, RULE_NUMBER_MAX = 1, 32766
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
PROTOCOLS = {"icmp": ICMP, "tcp": TCP, "udp": UDP, "gre": 47, "esp": 50, "ah": 51, "icmpv6": ICMPV6, "sctp": 132}
"""IANA's numbers of the protocols that people write by name."""


def holds(outer: Network, inner: Network) -> bool:
    """Whether a network lies within another one, or is it; never one of the other address family."""
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network) and inner.subnet_of(outer)


class Direction(Enum):
    """Which way a packet goes, seen from the mirrored interface."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Action(Enum):
    """What a matching rule decides."""

    ACCEPT = "accept"
    REJECT = "reject"


class NetworkService(Enum):
    """Traffic that is mirrored beside the rules, and only when the filter names it (spec 5.7)."""

    AMAZON_DNS = "amazon-dns"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from ``first`` to ``last``, both included (spec fact 56)."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a filter.

    ``source`` and ``destination`` are the packet's own addresses, not "local" and "remote" (fact 57), and are of
    one family. ``protocol`` is an IANA number; None means every protocol. The port ranges count for TCP and UDP
    only (spec 1.4.4); None means every port.
    """

    number: int
    direction: Direction
    action: Action
    source: Network
    destination: Network
    protocol: int | None = None
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise ValueError(f"rule {self.number}: {self.source} and {self.destination} are of two families")


@dataclass(frozen=True, slots=True)
class Filter:
    """The rules in any order, and the network services."""

    rules: tuple[Rule, ...] = ()
    services: frozenset[NetworkService] = frozenset()

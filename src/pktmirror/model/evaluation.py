"""Which session takes a packet, and which rule decided it: the reference for what BPF decides in the kernel.

Pure. bpf/classify.h and bpf/trees.h say the same in C, and tests/kernel holds the two against each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from pktmirror.model.exclusions import Exclusion
from pktmirror.model.filter import ICMPV6, TCP, UDP, Action, Direction, Filter, NetworkService, Rule

Address = IPv4Address | IPv6Address
DNS_PORT = 53


class Packet(Protocol):
    """What a decision reads of a packet: `packet.Headers` has this shape."""

    @property
    def source(self) -> Address: ...
    @property
    def destination(self) -> Address: ...
    @property
    def protocol(self) -> int:
        """IANA number of what follows the IP header and its extension headers."""

    @property
    def source_port(self) -> int | None:
        """TCP, UDP: the port. None when there is none to read: any other protocol, or not the first fragment."""

    @property
    def destination_port(self) -> int | None: ...
    @property
    def icmp_type(self) -> int | None:
        """ICMP and ICMPv6: the message type. None for anything else, or not the first fragment."""


class Verdict(Enum):
    """What one session says of one packet. Every packet offered to a session gets exactly one."""

    TAKEN = "taken"
    REJECTED_BY_RULE = "rejected by rule"
    NO_RULE_MATCHED = "no rule matched"
    SERVICE_NOT_ENABLED = "network service not enabled"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what led to it; ``rule`` is None when no rule was asked or none matched."""

    verdict: Verdict
    rule: Rule | None = None

    @property
    def taken(self) -> bool:
        return self.verdict is Verdict.TAKEN


@dataclass(frozen=True, slots=True)
class Offer:
    """A session that was offered the packet, and its decision."""

    session_id: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet at one interface: every offer in order; the last one took it, or nobody did."""

    excluded: Exclusion | None
    offers: tuple[Offer, ...]

    @property
    def taken_by(self) -> str | None:
        return self.offers[-1].session_id if self.offers and self.offers[-1].decision.taken else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A session as evaluation sees it."""

    session_id: str
    number: int
    filter: Filter


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the network says beside the filters: the table of what is never mirrored, and the DNS resolvers."""

    exclusions: tuple[Exclusion, ...]
    resolvers: frozenset[Address]


def evaluate(
    packet: Packet, direction: Direction, candidates: Iterable[Candidate], surroundings: Surroundings
) -> Outcome:
    """Offer the packet to the sessions in ascending number, until one takes it (spec 1.5, decision 5.1)."""
    excluded = exclusion_of(packet, surroundings.exclusions)
    if excluded is not None:
        return Outcome(excluded, ())
    offers: list[Offer] = []
    amazon_dns = is_amazon_dns(packet, surroundings.resolvers)
    for candidate in sorted(candidates, key=lambda candidate: candidate.number):
        decision = decide(candidate.filter, direction, packet, amazon_dns=amazon_dns)
        offers.append(Offer(candidate.session_id, decision))
        if not asks_next_session(decision):
            break
    return Outcome(None, tuple(offers))


def asks_next_session(decision: Decision) -> bool:
    """Spec 5.1, undocumented by AWS: an explicit reject is no different from no match; both go on to the next."""
    return not decision.taken


def decide(filter_: Filter, direction: Direction, packet: Packet, *, amazon_dns: bool) -> Decision:
    """The first matching rule, by number, decides; what none accepts is not mirrored (spec 1.4).

    Amazon DNS is decided before the rules, and no rule can veto or grant it (spec 5.7).
    """
    if amazon_dns:
        enabled = NetworkService.AMAZON_DNS in filter_.services
        return Decision(Verdict.TAKEN if enabled else Verdict.SERVICE_NOT_ENABLED)
    for rule in sorted(filter_.rules, key=lambda rule: rule.number):
        if rule.direction is direction and matches(rule, packet):
            accepted = rule.action is Action.ACCEPT
            return Decision(Verdict.TAKEN if accepted else Verdict.REJECTED_BY_RULE, rule)
    return Decision(Verdict.NO_RULE_MATCHED)


def matches(rule: Rule, packet: Packet) -> bool:
    """Protocol and both addresses and, for TCP and UDP only, both port ranges (spec 1.4.4)."""
    if rule.protocol is not None and rule.protocol != packet.protocol:
        return False
    if packet.source not in rule.source or packet.destination not in rule.destination:
        return False  # `in` is false across families: an IPv4 rule never matches IPv6
    if packet.protocol not in (TCP, UDP):
        return True
    # A fragment other than the first has no port to compare: spec 5.8 lets no port range match it.
    for ports, port in (
        (rule.source_ports, packet.source_port),
        (rule.destination_ports, packet.destination_port),
    ):
        if ports is not None and (port is None or port not in ports):
            return False
    return True


def exclusion_of(packet: Packet, exclusions: Iterable[Exclusion]) -> Exclusion | None:
    """The first line of the never-mirrored table that speaks of this packet."""
    return next((line for line in exclusions if _excludes(line, packet)), None)


def _excludes(line: Exclusion, packet: Packet) -> bool:
    if line.protocol is not None and line.protocol != packet.protocol:
        return False
    if line.address is not None and line.address not in (packet.source, packet.destination):
        return False
    if line.ports is None:
        return True
    if packet.protocol == ICMPV6:
        return packet.icmp_type is not None and packet.icmp_type in line.ports
    return any(port is not None and port in line.ports for port in (packet.source_port, packet.destination_port))


def is_amazon_dns(packet: Packet, resolvers: frozenset[Address]) -> bool:
    """UDP or TCP port 53 at a resolver of the network (spec 1.4.6).

    A later fragment shows no port. It counts as DNS when a resolver sent or receives it: the half of an answer
    must not go where the whole may not.
    """
    if packet.protocol not in (TCP, UDP):
        return False
    return any(
        address in resolvers and port in (DNS_PORT, None)
        for address, port in (
            (packet.source, packet.source_port),
            (packet.destination, packet.destination_port),
        )
    )

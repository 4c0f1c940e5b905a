"""Which session and rule takes a packet that somebody describes, and why no other one does. Pure.

`model.evaluation` decides; here are the words for packets, and what is said of a decision.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from pktmirror.model.evaluation import Address, Candidate, Decision, Surroundings, evaluate, is_amazon_dns
from pktmirror.model.exclusions import Exclusion
from pktmirror.model.filter import ICMP, ICMPV6, PROTOCOLS, TCP, UDP, Direction, Filter, PortRange, Rule
from pktmirror.model.refusal import Refusal

_BRACKETED = re.compile(r"\[(?P<address>[^]]*:[^]]*)\](?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_WITH_PORT = re.compile(r"(?P<address>[0-9.]+):(?P<port>[0-9]{1,5})", re.ASCII)
_NAMES = {number: name for name, number in PROTOCOLS.items()}


@dataclass(frozen=True, slots=True)
class DescribedPacket:
    """A packet as far as a decision reads it; it has the shape of `model.evaluation.Packet`."""

    protocol: int
    source: Address
    destination: Address
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    later_fragment: bool = False

    def __str__(self) -> str:
        ends = (_end(self.source, self.source_port), _end(self.destination, self.destination_port))
        kind = "" if self.icmp_type is None else f" type {self.icmp_type}"
        fragment = ", a later fragment" if self.later_fragment else ""
        return f"{protocol_name(self.protocol)}{kind} {ends[0]} → {ends[1]}{fragment}"


@dataclass(frozen=True, slots=True)
class PlacedSession:
    """A session at the interface; ``rule_ids`` as far as they are known, ``problem`` None while it mirrors."""

    session_id: str
    number: int
    filter_id: str
    filter: Filter
    rule_ids: Mapping[Rule, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One session in the order of numbers; ``decision`` None: one before it took the packet."""

    session: PlacedSession
    decision: Decision | None

    @property
    def rule_id(self) -> str | None:
        rule = self.decision.rule if self.decision else None
        return None if rule is None else self.session.rule_ids.get(rule)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of the packet. ``excluded``: it is never mirrored, and no session is asked."""

    packet: DescribedPacket
    direction: Direction
    excluded: Exclusion | None
    amazon_dns: bool
    steps: tuple[Step, ...]

    @property
    def taken_by(self) -> PlacedSession | None:
        return next((step.session for step in self.steps if step.decision is not None and step.decision.taken), None)


def packet(
    protocol: str, source: str, destination: str, *, icmp_type: int | None = None, later_fragment: bool = False
) -> DescribedPacket:
    """The packet that the words of a command line describe; raises `Refusal` where they do not describe one."""
    number = protocol_number(protocol)
    ends = _endpoint(source), _endpoint(destination)
    if ends[0][0].version != ends[1][0].version:
        raise Refusal(
            "A packet has two addresses of one family.",
            found=f"{ends[0][0]} and {ends[1][0]}",
            do="write two IPv4 or two IPv6 addresses",
        )
    described = DescribedPacket(number, ends[0][0], ends[1][0], ends[0][1], ends[1][1], icmp_type, later_fragment)
    _check_ports(described)
    _check_icmp(described)
    return described


def explain(
    described: DescribedPacket, direction: Direction, sessions: Iterable[PlacedSession], surroundings: Surroundings
) -> Explanation:
    """Ask the sessions of an interface, as the data plane does."""
    ordered = sorted(sessions, key=lambda session: session.number)
    candidates = [Candidate(session.session_id, session.number, session.filter) for session in ordered]
    outcome = evaluate(described, direction, candidates, surroundings)
    decisions = {offer.session_id: offer.decision for offer in outcome.offers}
    asked = () if outcome.excluded else ordered
    return Explanation(
        described,
        direction,
        outcome.excluded,
        is_amazon_dns(described, surroundings.resolvers),
        tuple(Step(session, decisions.get(session.session_id)) for session in asked),
    )


def conclusion(explanation: Explanation) -> str:
    """What becomes of the packet, in one sentence."""
    if explanation.excluded is not None:
        return f"Never mirrored, whatever the filters say: {exclusion_text(explanation.excluded)}."
    taker = explanation.taken_by
    if taker is None:
        if not explanation.steps:
            return "Not mirrored: the interface has no session."
        return "Not mirrored: no session takes it."
    if taker.problem is not None:
        return f"Taken by {taker.session_id}, and does not arrive: {taker.problem}."
    return f"Mirrored by {taker.session_id}."


def hint(explanation: Explanation, addresses: Iterable[str]) -> str | None:
    """Says where a packet and a direction do not go together, given the interface's addresses."""
    own = {ip_address(address) for address in addresses}
    described, direction = explanation.packet, explanation.direction
    from_here, to_here = described.source in own, described.destination in own
    if direction is Direction.INGRESS and from_here and not to_here:
        return f"{described.source} is this interface's own address, and what it sends is egress"
    if direction is Direction.EGRESS and to_here and not from_here:
        return f"{described.destination} is this interface's own address, and what it receives is ingress"
    return None


def document(explanation: Explanation) -> dict[str, Any]:
    """The explanation for scripts."""
    taker, excluded = explanation.taken_by, explanation.excluded
    return {
        "packet": str(explanation.packet),
        "direction": explanation.direction.value,
        "never_mirrored": None if excluded is None else excluded.why,
        "amazon_dns": explanation.amazon_dns,
        "sessions": [
            {
                "session_id": step.session.session_id,
                "number": step.session.number,
                "filter_id": step.session.filter_id,
                "verdict": step.decision.verdict.value if step.decision else None,
                "rule_number": step.decision.rule.number if step.decision and step.decision.rule else None,
                "rule_id": step.rule_id,
                "problem": step.session.problem,
            }
            for step in explanation.steps
        ],
        "taken_by": taker and taker.session_id,
        "mirrored": taker is not None and taker.problem is None,
        "conclusion": conclusion(explanation),
    }


def verdict_text(step: Step, *, amazon_dns: bool) -> str:
    """What a session says, with the rule that made it say so."""
    if step.decision is None:
        return "not asked: a session before it takes the packet"
    rule = step.decision.rule
    if rule is not None:
        return f"{step.decision.verdict.value}: rule {rule.number} ({step.rule_id or 'id unknown'}), {rule_text(rule)}"
    if amazon_dns:
        enabled = "the filter names it" if step.decision.taken else "the filter does not name amazon-dns"
        return f"{step.decision.verdict.value}: Amazon DNS is decided before the rules, and {enabled}"
    return step.decision.verdict.value


def rule_text(rule: Rule) -> str:
    """A rule in a line: ``accept tcp from 0.0.0.0/0 to 10.0.0.48/32 port 22``."""
    protocol = "any protocol" if rule.protocol is None else protocol_name(rule.protocol)
    source = f"from {rule.source}{_ports(rule.source_ports)}"
    return f"{rule.action.value} {protocol} {source} to {rule.destination}{_ports(rule.destination_ports)}"


def exclusion_text(line: Exclusion) -> str:
    """A line of the never-mirrored table: ``dhcp (udp ports 67-68)``."""
    what = [] if line.protocol is None else [protocol_name(line.protocol)]
    if line.address is not None:
        what.append(f"to or from {line.address}")
    if line.ports is not None:
        is_type = line.protocol == ICMPV6
        what.append(f"types {_range(line.ports)}" if is_type else _ports(line.ports).strip())
    return f"{line.why} ({', '.join(what)})" if what else line.why


def protocol_name(number: int) -> str:
    """IANA's name where it is a known one, and otherwise ``protocol 89``."""
    return _NAMES.get(number, f"protocol {number}")


def protocol_number(text: str) -> int:
    """The number of a protocol by IANA's name or number; raises `Refusal` for what is neither."""
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    if text.isascii() and text.isdigit() and int(text) <= 255:
        return int(text)
    raise Refusal(f"{text} is no protocol.", do=f"write one of {', '.join(PROTOCOLS)}, or an IANA number from 0 to 255")


def _endpoint(text: str) -> tuple[Address, int | None]:
    """``10.0.0.6``, ``10.0.0.6:22``, ``2001:db8::1`` or ``[2001:db8::1]:22``."""
    shape = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    address, port = (shape["address"], shape["port"]) if shape else (text, None)
    try:
        found = ip_address(address)
        number = None if port is None else int(port)
        if (number or 0) > 65535 or (isinstance(found, IPv6Address) and found.scope_id is not None):
            raise ValueError(text)
    except ValueError:
        raise Refusal(
            f"{text} is no address of a packet.",
            do="write an address, with a port where there is one: 10.0.0.6, 10.0.0.6:22, 2001:db8::1, [2001:db8::1]:22",
        ) from None
    return found, number


def _check_ports(described: DescribedPacket) -> None:
    ports = (described.source_port, described.destination_port)
    name = protocol_name(described.protocol)
    if described.protocol not in (TCP, UDP):
        if ports != (None, None):
            raise Refusal(f"A packet of {name} has no ports that a rule looks at.", do="leave the ports out")
    elif described.later_fragment:
        if ports != (None, None):
            raise Refusal(
                "A fragment other than the first shows no ports.",
                found=f"{_end(described.source, ports[0])} and {_end(described.destination, ports[1])}",
                do="leave the ports out, or leave --fragment out for the first fragment",
            )
    elif None in ports:
        raise Refusal(
            f"A packet of {name} has two ports.",
            found=f"{_end(described.source, ports[0])} and {_end(described.destination, ports[1])}",
            do=f"write both, as in {name} 10.0.0.6:40000 10.0.0.48:22, or say --fragment for a later fragment",
        )


def _check_icmp(described: DescribedPacket) -> None:
    family = {4: ICMP, 6: ICMPV6}[described.source.version]
    if described.protocol in (ICMP, ICMPV6) and described.protocol != family:
        raise Refusal(
            f"{protocol_name(described.protocol)} does not go between {described.source} and {described.destination}.",
            do=f"write {protocol_name(family)} for IPv{described.source.version}",
        )
    if described.icmp_type is not None:
        if described.protocol not in (ICMP, ICMPV6):
            raise Refusal(
                f"A packet of {protocol_name(described.protocol)} has no ICMP type.", do="leave --icmp-type out"
            )
        if described.later_fragment:
            raise Refusal("A fragment other than the first shows no ICMP type.", do="leave --icmp-type out")
    elif described.protocol == ICMPV6 and not described.later_fragment:
        raise Refusal(
            "Whether ICMPv6 is mirrored depends on its type: neighbour discovery never is.",
            do="add --icmp-type, as in --icmp-type 128 for an echo request",
        )


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _ports(ports: PortRange | None) -> str:
    if ports is None:
        return ""
    return f" port {ports.first}" if ports.first == ports.last else f" ports {_range(ports)}"


def _range(ports: PortRange) -> str:
    return f"{ports.first}-{ports.last}"

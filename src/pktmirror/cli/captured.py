"""What becomes of each packet of a capture file at an interface, as its hooks would decide it (bpf/mirror.bpf.c). Pure.

A capture has no marks, so an own copy is known by its outer headers only. A frame that the capture has cut is as long
as it was; where the cut hides what decides, that is said instead of an answer.
"""

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pktmirror.cli.explanation import (
    DescribedPacket,
    Explanation,
    PlacedSession,
    Step,
    document,
    exclusion_text,
    explain,
)
from pktmirror.desired import DesiredState, Destination
from pktmirror.model.evaluation import Surroundings
from pktmirror.model.filter import ICMPV6, TCP, UDP, Direction
from pktmirror.model.ledger import InterfaceOutcome
from pktmirror.packet.blocks import LINKTYPE_ETHERNET, Packet
from pktmirror.packet.copies import Outer, outer_of, outer_quoted
from pktmirror.packet.headers import ETHERNET_BYTES, VLAN_ETHERTYPES, VLAN_TAGS_MAX, Headers, NotParsed, parse

REMEMBERED_FLOWS = 65_536
_ETHERTYPE_ARP = 0x0806
_MAC_BYTES = 6


@dataclass(frozen=True, slots=True)
class Place:
    """The interface. ``mac`` None: its address is not known, and ``forced`` says the direction of every packet."""

    sessions: tuple[PlacedSession, ...]
    surroundings: Surroundings
    copies: frozenset[Outer]
    mac: bytes | None
    forced: Direction | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of one packet; ``outcome`` None: that cannot be told, and ``why`` says what is in the way.

    ``explanation`` is there where the sessions were asked, or the never-mirrored table spoke.
    """

    direction: Direction | None
    outcome: InterfaceOutcome | None
    explanation: Explanation | None = None
    why: str | None = None

    @property
    def taken_by(self) -> PlacedSession | None:
        is_taken = self.outcome is InterfaceOutcome.TAKEN and self.explanation is not None
        return self.explanation.taken_by if is_taken and self.explanation is not None else None

    def __str__(self) -> str:
        if self.outcome is None:
            return f"cannot be told: {self.why}"
        if self.explanation is None:
            return f"not mirrored: {self.why or self.outcome.value}"
        return _answer_text(self.explanation)


def own_copies(desired: DesiredState, outer_sources: dict[str, str]) -> frozenset[Outer]:
    """How the copies of all sessions are known on the wire, here and at other hosts; ``outer_sources`` by session."""
    here = [
        Outer(ip_address(source), ip_address(session.delivery.address), session.delivery.port, session.vni)
        for interface in desired.interfaces
        for session in interface.sessions
        if isinstance(session.delivery, Destination) and (source := outer_sources.get(session.session_id)) is not None
    ]
    others = [
        Outer(ip_address(each.outer_source), ip_address(each.outer_destination), each.port, each.vni)
        for each in desired.streams
    ]
    return frozenset([*here, *others])


class Hook:
    """Decides packet by packet; what it has decided it remembers, of ``flows_max`` flows at the most."""

    def __init__(self, place: Place, flows_max: int = REMEMBERED_FLOWS) -> None:
        self._place = place
        self._flows_max = flows_max
        self._copies = place.copies | {outer._replace(vni=None) for outer in place.copies}
        self._flows: dict[tuple[Direction, DescribedPacket], Explanation] = {}

    def answer(self, packet: Packet, linktype: int = LINKTYPE_ETHERNET) -> Answer:
        """What becomes of a packet of the file; ``linktype`` is of the capture's interface."""
        if linktype != LINKTYPE_ETHERNET:
            return Answer(None, None, why=f"its link type is {linktype}, and not Ethernet ({LINKTYPE_ETHERNET})")
        frame, is_cut = packet.frame, len(packet.frame) < packet.wire_bytes
        if len(frame) < ETHERNET_BYTES:
            if is_cut:
                return Answer(None, None, why="the capture has cut it within the Ethernet header")
            return Answer(self._place.forced, InterfaceOutcome.MALFORMED)
        direction = self._direction(frame)
        if self._is_for_somebody_else(frame, direction):
            return Answer(direction, InterfaceOutcome.NOT_FOR_THIS_INTERFACE)
        headers = parse(frame)
        if is_cut and _may_hide(headers):
            return Answer(direction, None, why=f"the capture has cut it after {len(frame)} bytes, within its headers")
        if headers is NotParsed.NOT_IP:
            if _is_arp(frame):
                return Answer(direction, InterfaceOutcome.NEVER_MIRRORED, why="never mirrored: ARP")
            return Answer(direction, InterfaceOutcome.NOT_IP)
        if isinstance(headers, NotParsed):
            return Answer(direction, InterfaceOutcome.MALFORMED)
        return self._asked(frame, headers, direction)

    def _asked(self, frame: bytes, headers: Headers, direction: Direction) -> Answer:
        explanation = self._explained(headers, direction)
        if explanation.excluded is not None:
            return Answer(direction, InterfaceOutcome.NEVER_MIRRORED, explanation)
        if self._copies and outer_of(frame, headers) in self._copies:
            return Answer(direction, InterfaceOutcome.OWN_COPY)
        if self._copies and outer_quoted(frame, headers) in self._copies:
            return Answer(direction, InterfaceOutcome.TARGET_REFUSED)
        taken = explanation.taken_by is not None
        return Answer(direction, InterfaceOutcome.TAKEN if taken else InterfaceOutcome.NOT_TAKEN, explanation)

    def _explained(self, headers: Headers, direction: Direction) -> Explanation:
        described = described_by(headers)
        known = self._flows.get((direction, described))
        if known is None:
            if len(self._flows) >= self._flows_max:
                self._flows.clear()
            known = explain(described, direction, self._place.sessions, self._place.surroundings)
            self._flows[direction, described] = known
        return known

    def _direction(self, frame: bytes) -> Direction:
        if self._place.forced is not None:
            return self._place.forced
        return Direction.EGRESS if frame[_MAC_BYTES : 2 * _MAC_BYTES] == self._place.mac else Direction.INGRESS

    def _is_for_somebody_else(self, frame: bytes, direction: Direction) -> bool:
        """A direction that is forced is for captures with other link addresses than the interface's."""
        if self._place.forced is not None or direction is Direction.EGRESS or frame[0] & 1:
            return False
        return frame[:_MAC_BYTES] != self._place.mac


@dataclass(slots=True)
class Summary:
    """How many packets, and bytes as on the wire, there were of each answer; and the longest frame of each session."""

    packets: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    longest_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Answer, wire_bytes: int) -> None:
        text = str(answer)
        self.packets[text] += 1
        self.bytes[text] += wire_bytes
        taker = answer.taken_by
        if taker is not None:
            self.longest_bytes[taker.session_id] = max(wire_bytes, self.longest_bytes.get(taker.session_id, 0))

    def lines(self) -> list[tuple[str, int, int]]:
        """Answer, packets, bytes: the most frequent first."""
        return [(text, count, self.bytes[text]) for text, count in self.packets.most_common()]


def described_by(headers: Headers) -> DescribedPacket:
    """The packet as far as a decision reads it."""
    return DescribedPacket(
        headers.protocol,
        headers.source,
        headers.destination,
        headers.source_port,
        headers.destination_port,
        headers.icmp_type,
        headers.later_fragment,
    )


def line(number: int, seconds: float | None, packet: Packet, answer: Answer) -> str:
    """A packet and its answer for people."""
    when = "" if seconds is None else f" {seconds:.6f} s"
    direction = "" if answer.direction is None else f" {answer.direction.value}"
    what = "" if answer.explanation is None else f" {answer.explanation.packet}"
    return f"#{number}{when}{direction} {packet.wire_bytes} B{what}: {answer}"


def packet_document(number: int, packet: Packet, answer: Answer, copied_bytes: int | None) -> dict[str, Any]:
    """A packet and its answer for scripts."""
    told = {} if answer.explanation is None else document(answer.explanation)
    return {
        "number": number,
        "time_ns": packet.time_ns,
        "bytes": packet.wire_bytes,
        "captured_bytes": len(packet.frame),
        "direction": None if answer.direction is None else answer.direction.value,
        "outcome": None if answer.outcome is None else answer.outcome.value,
        **{name: told.get(name) for name in ("packet", "never_mirrored", "amazon_dns", "sessions", "taken_by")},
        "mirrored": bool(told.get("mirrored")) and answer.outcome is InterfaceOutcome.TAKEN,
        "copied_bytes": copied_bytes,
        "answer": str(answer),
    }


def _answer_text(explanation: Explanation) -> str:
    if explanation.excluded is not None:
        return f"not mirrored: never mirrored: {exclusion_text(explanation.excluded)}"
    taker = explanation.taken_by
    if taker is not None:
        step = explanation.steps[[one.session for one in explanation.steps].index(taker)]
        if taker.problem is not None:
            return f"taken by {_by(step, explanation)}, and does not arrive: {taker.problem}"
        return f"mirrored by {_by(step, explanation)}"
    if not explanation.steps:
        return "not mirrored: the interface has no session"
    return "not mirrored: " + "; ".join(_refusal(step) for step in explanation.steps)


def _by(step: Step, explanation: Explanation) -> str:
    rule = step.decision.rule if step.decision is not None else None
    through = f"rule {rule.number}" if rule is not None else "amazon-dns" if explanation.amazon_dns else "no rule"
    return f"{step.session.session_id} (number {step.session.number}, {through})"


def _refusal(step: Step) -> str:
    assert step.decision is not None, "nobody took it, so everybody was asked"
    rule = f" {step.decision.rule.number}" if step.decision.rule is not None else ""
    return f"{step.session.session_id}: {step.decision.verdict.value}{rule}"


def _may_hide(headers: Headers | NotParsed) -> bool:
    """Whether a frame that was cut may have had behind the cut what decides."""
    if headers is NotParsed.MALFORMED:
        return True
    if isinstance(headers, NotParsed) or headers.later_fragment:
        return False
    if headers.protocol in (TCP, UDP):
        return headers.destination_port is None
    return headers.protocol == ICMPV6 and headers.icmp_type is None


def _is_arp(frame: bytes) -> bool:
    offset = ETHERNET_BYTES - 2
    for _ in range(VLAN_TAGS_MAX):
        if int.from_bytes(frame[offset : offset + 2]) in VLAN_ETHERTYPES:
            offset += 4
    return int.from_bytes(frame[offset : offset + 2]) == _ETHERTYPE_ARP


def mac_bytes(text: str | None) -> bytes | None:
    """The bytes of ``02:00:00:00:00:48``; None stays None."""
    return None if text is None else bytes.fromhex(text.replace(":", ""))

"""What a live trace tells, beside what the model says of the same packets. Pure.

The kernel's records name sessions and verdicts; the rules are the model's, by the desired state of the same revision.
Where the two differ one of them is wrong, and that is said before anything else.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import msgspec

from pktmirror.cli.explanation import (
    DescribedPacket,
    Explanation,
    PlacedSession,
    document,
    exclusion_text,
    explain,
    protocol_number,
    verdict_text,
)
from pktmirror.model.evaluation import Surroundings
from pktmirror.model.filter import Direction, PortRange
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.model.refusal import Refusal
from pktmirror.tracing import Selection, TracedPacket

_DECIDED = (InterfaceOutcome.TAKEN, InterfaceOutcome.NOT_TAKEN)
_PORTS = r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?"
_SIDES = (
    re.compile(rf"\[(?P<network>[0-9A-Fa-f:.]+(?:/[0-9]{{1,3}})?)\](?::{_PORTS})?", re.ASCII),
    re.compile(rf"(?P<network>[0-9.]+(?:/[0-9]{{1,2}})?)?:{_PORTS}", re.ASCII),
    re.compile(r"(?P<network>[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?)(?P<first>)(?P<last>)", re.ASCII),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The sessions of an interface and what surrounds them, as one revision of the desired state has them."""

    revision: int
    sessions: tuple[PlacedSession, ...]
    surroundings: Surroundings

    def decide_as(self, other: "Rules") -> bool:
        """Whether both decide alike, whatever else has changed between them."""
        return self.surroundings == other.surroundings and [
            (each.session_id, each.number, each.filter) for each in self.sessions
        ] == [(each.session_id, each.number, each.filter) for each in other.sessions]


class History:
    """The rules of the revisions that were seen while a trace ran."""

    def __init__(self, first: Rules) -> None:
        self._seen = [first]

    @property
    def newest_revision(self) -> int:
        return self._seen[-1].revision

    def add(self, rules: Rules) -> None:
        """Of a later revision than those before."""
        self._seen.append(rules)

    def of(self, revision: int) -> Rules | None:
        """Those by which the kernel decided at this revision; None where they were not seen.

        Where the revisions before and after decide alike, so does the one between.
        """
        before = next((each for each in reversed(self._seen) if each.revision <= revision), None)
        after = next((each for each in self._seen if each.revision >= revision), None)
        if before is None or after is None:
            return None
        return after if before.decide_as(after) else None


@dataclass(frozen=True, slots=True)
class Told:
    """A packet of a trace. ``explanation`` None: there was nothing to ask the model, or it has no rules for it.

    ``disagreement``: what the model says instead, in a sentence.
    """

    packet: TracedPacket
    explanation: Explanation | None
    compared: bool
    disagreement: str | None = None


def told(packet: TracedPacket, history: History) -> Told:
    """The model's word on what the kernel has decided."""
    described = described_by(packet)
    decided = packet.outcome in _DECIDED or packet.outcome is InterfaceOutcome.NEVER_MIRRORED
    rules = None if packet.revision is None else history.of(packet.revision)
    if described is None or not decided or rules is None or packet.offers is None:
        return Told(packet, None, compared=False)
    explanation = explain(described, packet.direction, rules.sessions, rules.surroundings)
    return Told(packet, explanation, True, _disagreement(packet, explanation))


def described_by(packet: TracedPacket) -> DescribedPacket | None:
    """The packet as far as a decision reads it; None for one that is no IP packet."""
    if packet.protocol is None or packet.source is None or packet.destination is None:
        return None
    return DescribedPacket(
        packet.protocol,
        ip_address(packet.source),
        ip_address(packet.destination),
        packet.source_port,
        packet.destination_port,
        packet.icmp_type,
        packet.later_fragment,
    )


def _disagreement(packet: TracedPacket, explanation: Explanation) -> str | None:
    model = [
        (step.session.session_id, step.decision.verdict) for step in explanation.steps if step.decision is not None
    ]
    kernel = [(offer.session_id, offer.verdict) for offer in packet.offers or ()]
    if packet.outcome is InterfaceOutcome.NEVER_MIRRORED:
        kernel_excludes, kernel = True, []
    else:
        kernel_excludes = False
    if kernel_excludes == (explanation.excluded is not None) and (kernel_excludes or kernel == model):
        return None
    excluded = None if explanation.excluded is None else f"never mirrored: {exclusion_text(explanation.excluded)}"
    says = excluded or "; ".join(f"{session_id}: {verdict.value}" for session_id, verdict in model) or "no session"
    return f"the model says otherwise: {says}"


def lines(told_: Told) -> list[str]:
    """A packet for people: what it was and what became of it, then what each session said."""
    packet, explanation = told_.packet, told_.explanation
    when = datetime.fromtimestamp(packet.time_ns / 1e9, UTC).astimezone().strftime("%H:%M:%S.%f")
    described = described_by(packet)
    what = "" if described is None else f"  {described}"
    count = "" if packet.packets == 1 else f" in {packet.packets} wire packets"
    head = f"{when}  {packet.direction.value}{what}  {packet.bytes} B{count}: {_became(packet)}"
    found = [head]
    if explanation is not None:
        if explanation.excluded is not None:
            found.append(f"    {exclusion_text(explanation.excluded)}")
        found += [
            f"    #{step.session.number} {step.session.session_id}: "
            f"{verdict_text(step, amazon_dns=explanation.amazon_dns)}"
            for step in explanation.steps
            if step.decision is not None
        ]
    elif packet.offers is None:
        found.append("    the sessions have changed since, and the verdicts cannot be told apart any more")
    else:
        found += [f"    {offer.session_id}: {offer.verdict.value}" for offer in packet.offers]
        if packet.offers:
            found.append("    the rules have changed since: not compared with the model")
    return found


def told_document(told_: Told) -> dict[str, Any]:
    """A packet for scripts."""
    packet = told_.packet
    explained = None if told_.explanation is None else document(told_.explanation)
    return {
        **msgspec.to_builtins(packet),
        "copies_missing": packet.copies_missing,
        "sessions": explained and explained["sessions"],
        "never_mirrored": explained and explained["never_mirrored"],
        "compared_with_model": told_.compared,
        "disagreement": told_.disagreement,
    }


def _became(packet: TracedPacket) -> str:
    if packet.stage is None:
        return "not mirrored: " + packet.outcome.value
    taken = f"taken by {packet.taken_by or 'a session that is gone'}"
    if packet.stage != Stage.SENT.value:
        return f"{taken}, and not copied: {packet.stage}"
    parts = []
    cut = packet.copies.get(Stage.CUT.value, 0)
    sent = packet.copies.get(Stage.SENT.value, 0) + cut
    if sent:
        parts.append(f"{_copies(sent)} sent, {packet.copied_bytes} B" + (f" (cut to fit: {cut})" if cut else ""))
    parts += [
        f"{_copies(count)} lost: {stage}"
        for stage, count in packet.copies.items()
        if stage not in (Stage.SENT.value, Stage.CUT.value)
    ]
    if packet.copies_missing:
        parts.append(f"of {_copies(packet.copies_missing)} nothing was heard behind the hops")
    return f"{taken}, " + ", ".join(parts)


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"


def selection(
    direction: Direction | None, protocol: str | None, source: str | None, destination: str | None
) -> Selection:
    """Which packets the words of a command line mean; raises `Refusal` where they mean none."""
    source_network, source_ports = _side(source)
    destination_network, destination_ports = _side(destination)
    found = Selection(
        direction=direction,
        protocol=None if protocol is None else protocol_number(protocol),
        source=source_network,
        destination=destination_network,
        source_ports=source_ports,
        destination_ports=destination_ports,
    )
    try:
        found.networks()
    except ValueError as error:
        raise Refusal(
            "These packets cannot be.", found=str(error), do="write two networks of one family, and ports up to 65535"
        ) from None
    return found


def _side(text: str | None) -> tuple[str | None, PortRange | None]:
    if text is None:
        return None, None
    shape = next((match for pattern in _SIDES if (match := pattern.fullmatch(text)) is not None), None)
    if shape is None:
        raise Refusal(
            f"{text} is neither an address, a network nor a port.",
            do="write it as in 10.0.0.6, 10.0.0.0/24, 10.0.0.6:22, :22, :1024-65535, 2001:db8::/64, [2001:db8::6]:22",
        )
    first, last = shape["first"], shape["last"]
    ports = PortRange(int(first), int(last or first)) if first else None
    return shape["network"], ports

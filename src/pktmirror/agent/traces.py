"""A live trace in the agent's words: the kernel's request from what is asked, and packets from the kernel's records.

Pure. A hook's record of a packet and the far end's records of its copies are made on any CPU and in any order; what
ties them together is the mark of the delivery slot, the direction, seven bits of the flow's hash and, but for
super-packets, the length. Copies of one flow arrive in order, so the oldest packet that still waits gets the copy.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from pktmirror.agent import abi
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Network, PortRange
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.model.rate import Rate
from pktmirror.tracing import PACKETS_PER_S, Offered, Selection, TracedPacket

COPIES_WAIT_S = 0.5
"""How long a packet is kept back for word of its copies."""

_OFFERED = (InterfaceOutcome.TAKEN, InterfaceOutcome.NOT_TAKEN)
_UNREAD = (InterfaceOutcome.NOT_IP, InterfaceOutcome.MALFORMED)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a policy of the traced interface says: its sessions in the order in which they are asked, and the revision
    of the desired state for which it was last seen in force."""

    session_ids: tuple[str, ...]
    revision: int


@dataclass(slots=True)
class _Waiting:
    record: abi.TraceRecord
    since_s: float
    copies: Counter[Stage] = field(default_factory=Counter)
    copied_bytes: int = 0

    @property
    def missing(self) -> int:
        cloned = abi.STAGES[self.record.stage] is Stage.SENT if self.record.stage < len(abi.STAGES) else False
        return self.record.wire_packets - self.copies.total() if cloned else 0


class Joined:
    """Brings decisions and copies together. ``taken_in`` says how many decisions there were."""

    def __init__(self) -> None:
        self.taken_in = 0
        self._waiting: list[_Waiting] = []
        self._early: list[tuple[abi.TraceRecord, float]] = []  # copies whose decision has not come yet

    def take(self, records: Iterable[abi.TraceRecord], now_s: float) -> None:
        copies = [(copy, since_s) for copy, since_s in self._early if now_s - since_s < COPIES_WAIT_S]
        for record in records:
            if record.kind == abi.TRACE_DECISION:
                self._waiting.append(_Waiting(record, now_s))
                self.taken_in += 1
            else:
                copies.append((record, now_s))
        self._early = [(copy, since_s) for copy, since_s in copies if not self._given(copy)]

    def ready(self, now_s: float) -> list[tuple[abi.TraceRecord, Mapping[Stage, int], int]]:
        """Decisions whose copies are all known, or have been waited for: with their copies and the bytes of them.

        In the order of their decisions: one that waits holds back those after it.
        """
        count = 0
        for waiting in self._waiting:
            if waiting.missing > 0 and now_s - waiting.since_s < COPIES_WAIT_S:
                break
            count += 1
        done, self._waiting = self._waiting[:count], self._waiting[count:]
        return [(each.record, dict(each.copies), each.copied_bytes) for each in done]

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def _given(self, copy: abi.TraceRecord) -> bool:
        for waiting in self._waiting:
            if waiting.missing > 0 and _is_of(copy, waiting.record):
                waiting.copies[abi.STAGES[copy.stage]] += copy.wire_packets
                waiting.copied_bytes += copy.copied_bytes
                return True
        return False


def _is_of(copy: abi.TraceRecord, decision: abi.TraceRecord) -> bool:
    if (copy.mark, copy.direction) != (decision.mark, decision.direction):
        return False
    if copy.flow not in (decision.flow, abi.TRACE_FLOW_UNKNOWN):
        return False
    return bool(decision.wire_packets > 1 or copy.wire_bytes == decision.wire_bytes)


def packet(
    record: abi.TraceRecord,
    copies: Mapping[Stage, int],
    copied_bytes: int,
    policies: Mapping[int, Policy],
    *,
    clock_ns: int,
) -> TracedPacket:
    """The document of a decision. ``policies`` are by generation; ``clock_ns`` is what makes the kernel's monotonic
    time that of the day."""
    outcome = abi.OUTCOMES[record.outcome]
    policy = policies.get(record.generation)
    offers = None if policy is None else _offers(record, outcome, policy.session_ids)
    told = TracedPacket(
        time_ns=record.time_ns + clock_ns,
        direction=abi.DIRECTIONS[record.direction],
        bytes=record.wire_bytes,
        packets=record.wire_packets,
        outcome=outcome,
        revision=None if policy is None else policy.revision,
        amazon_dns=bool(record.amazon_dns),
        offers=offers,
        taken_by=offers[-1].session_id if offers and offers[-1].verdict is Verdict.TAKEN else None,
        stage=abi.STAGES[record.stage].value if record.stage < len(abi.STAGES) else None,
        copies={stage.value: packets for stage, packets in copies.items()},
        copied_bytes=copied_bytes,
    )
    return told if outcome in _UNREAD or not record.family else _with_headers(told, record)


def _with_headers(told: TracedPacket, record: abi.TraceRecord) -> TracedPacket:
    return TracedPacket(
        **{name: getattr(told, name) for name in told.__struct_fields__}
        | {
            "protocol": record.protocol,
            "source": _address(record.family, bytes(record.source_be)),
            "destination": _address(record.family, bytes(record.destination_be)),
            "source_port": record.source_port if record.has_ports else None,
            "destination_port": record.destination_port if record.has_ports else None,
            "icmp_type": record.icmp_type if record.has_icmp_type else None,
            "later_fragment": bool(record.is_later_fragment),
        }
    )


def _offers(
    record: abi.TraceRecord, outcome: InterfaceOutcome, session_ids: tuple[str, ...]
) -> tuple[Offered, ...] | None:
    """As count_verdicts of bpf/classify.h has it; None where the record names a session that the policy lacks."""
    if outcome not in _OFFERED:
        return ()
    is_taken = record.taken_by < abi.SESSIONS_MAX
    asked = record.taken_by + 1 if is_taken else len(session_ids)
    if asked > len(session_ids):
        return None
    otherwise = Verdict.SERVICE_NOT_ENABLED if record.amazon_dns else Verdict.NO_RULE_MATCHED
    return tuple(
        Offered(
            session_id,
            Verdict.TAKEN
            if is_taken and index == record.taken_by
            else (Verdict.REJECTED_BY_RULE if record.rejected >> index & 1 else otherwise),
        )
        for index, session_id in enumerate(session_ids[:asked])
    )


def _address(family: int, packed: bytes) -> str:
    return str(IPv4Address(packed[:4]) if family == 4 else IPv6Address(packed))


def request(selection: Selection, *, trace_id: int, ifindex: int, packets_max: int, until_ns: int) -> abi.TraceRequest:
    """What the kernel is asked for. Raises ValueError for a selection that is none."""
    source, destination = selection.networks()
    entry = abi.TraceRequest(
        until_ns=until_ns,
        packet_ticks=abi.cap(Rate(packets_per_s=PACKETS_PER_S)).packet_ticks,
        id=trace_id,
        ifindex=ifindex,
        packets_max=packets_max,
        directions=sum(
            1 << index for index, direction in enumerate(abi.DIRECTIONS) if selection.direction in (None, direction)
        ),
        protocol=selection.protocol or 0,
        protocol_mask=0 if selection.protocol is None else 0xFF,
    )
    for network, address_be, mask_be in (
        (source, entry.source_be, entry.source_mask_be),
        (destination, entry.destination_be, entry.destination_mask_be),
    ):
        if network is not None:
            entry.family = network.version
            address_be[:], mask_be[:] = _masked(network)
    _set_ports(entry, selection.source_ports, selection.destination_ports)
    entry.names_ip = entry.family != 0 or entry.protocol_mask != 0 or entry.names_ports != 0
    return entry


def _masked(network: Network) -> tuple[bytes, bytes]:
    return abi.address_bytes(network.network_address), abi.address_bytes(network.netmask)


def _set_ports(entry: abi.TraceRequest, source: PortRange | None, destination: PortRange | None) -> None:
    entry.names_ports = source is not None or destination is not None
    whichever = PortRange(0, 0xFFFF)
    entry.source_port_first, entry.source_port_last = (source or whichever).first, (source or whichever).last
    entry.destination_port_first = (destination or whichever).first
    entry.destination_port_last = (destination or whichever).last

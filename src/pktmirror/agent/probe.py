"""Sends a probe on the way of a session's copies. An edge module: a packet socket and a clock.

The frame enters a hop under the very mark that a copy of the session bears now. So it meets what a copy meets: the
generation check, the cut to the packet length, the outer headers, the route and the neighbour. No device of a source is
touched. Its counters are the only ones that move (bpf/probe.h).
"""

import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pktmirror.agent import abi
from pktmirror.agent.apply import DataPlane
from pktmirror.agent.plan import Tables
from pktmirror.kernel.clock import clock_id
from pktmirror.model.ledger import SessionLedger, Stage
from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest, ProbeSent
from pktmirror.packet import probe as wire

NOT_APPLIED = "its agent has not applied it yet"
NO_HOP = "the devices on which copies wait are not there yet"
COUNTED_WITHIN_S = 0.2  # as long as a full hop takes to be emptied, and more
_LOOK_EVERY_S = 0.001


@dataclass(frozen=True, slots=True)
class SessionWay:
    """What the kernel knows of the way of a session's copies; no copy has more than ``copy_bytes_max``."""

    mark: int
    stage: Stage
    ledger_row: int
    copy_bytes_max: int


def way_of(tables: Tables, session_id: str) -> SessionWay | None:
    """The way that the copies of a session go now; None where no mirrored interface has the session."""
    wanted = session_id.encode().ljust(abi.SESSION_ID_BYTES, b"\0")
    deliveries = {
        abi.mark(slot, delivery.generation): delivery
        for slot, value in tables.deliveries.items()
        if value.startswith(wanted)
        for delivery in (abi.Delivery.from_buffer_copy(value),)
    }
    marks = [mark.to_bytes(4, sys.byteorder) for mark in deliveries]
    for policy in tables.policies.values():
        if not any(mark in policy for mark in marks):  # there may be thousands, and to look closer takes its time
            continue
        entry = abi.InterfacePolicy.from_buffer_copy(policy)
        for session in entry.sessions[: entry.session_count]:
            delivery = deliveries.get(session.mark)
            if delivery is not None:
                limits = (delivery.room_bytes_max, delivery.packet_bytes_max or delivery.room_bytes_max)
                return SessionWay(session.mark, abi.STAGES[session.stage], session.ledger_row, min(limits))
    return None


def not_sendable(way: SessionWay | None, problem: str | None) -> str | None:
    """Why no probe can go this way; None where it can. ``problem`` is what the agent says of the session."""
    if way is None:
        return problem or NOT_APPLIED
    if way.stage is not Stage.SENT:
        return problem or way.stage.value
    if way.copy_bytes_max < wire.RECOGNISED_BYTES:
        return (
            f"its copies are cut to {way.copy_bytes_max} bytes, and a probe is known by its first "
            f"{wire.RECOGNISED_BYTES}"
        )
    return None


def probe(data_plane: DataPlane, request: ProbeRequest, problem: str | None) -> ProbeAnswer:
    """Send one probe, and see that the data plane has sent it. In the network namespace of the hops."""

    def not_sent(reason: str) -> ProbeNotSent:
        return ProbeNotSent(probe_id=request.probe_id, reason=reason)

    way = way_of(data_plane.tables, request.session_id)
    reason = not_sendable(way, problem)
    if way is None or reason is not None:
        return not_sent(reason or NOT_APPLIED)
    hop = data_plane.hop_entered()
    if hop is None:
        return not_sent(NO_HOP)
    before = _counted(data_plane, way)
    sent_at_ns = time.time_ns()
    try:
        _inject(hop, way.mark, wire.frame(bytes.fromhex(request.token), sent_at_ns, request.session_id))
    except OSError as error:
        return not_sent(f"the hop does not take it: {error.strerror or error}")
    except ValueError as error:
        return not_sent(str(error))
    sent, lost = _counted_since(data_plane, way, before)
    if sent:
        return ProbeSent(probe_id=request.probe_id, sent_at_ns=sent_at_ns, clock=clock_id())
    return not_sent("the data plane could not encapsulate it" if lost else "it was lost in the hop")


def _inject(ifindex: int, mark: int, frame: bytes) -> None:
    """A frame into a device of this namespace, under a mark (SO_MARK, socket(7))."""
    marked = (mark | abi.MARK_PROBE).to_bytes(4, sys.byteorder)  # as a number Python takes 31 bits of it
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:  # protocol 0: it receives nothing
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, marked)
        raw.bind((socket.if_indextoname(ifindex), 0))
        raw.send(frame)


def _counted(data_plane: DataPlane, way: SessionWay) -> tuple[int, int]:
    """How many probes of the session were sent, and how many were lost in the hops, since it is there."""
    ledgers = data_plane.figures_of(way.ledger_row).values()
    return _sum(ledgers, Stage.PROBE_SENT), _sum(ledgers, Stage.PROBE_LOST)


def _sum(ledgers: Iterable[SessionLedger], stage: Stage) -> int:
    return sum(ledger.stage(stage).packets for ledger in ledgers)


def _counted_since(data_plane: DataPlane, way: SessionWay, before: tuple[int, int]) -> tuple[int, int]:
    """What was counted more than before, as soon as it is something; (0, 0) where that takes too long."""
    until_s = time.monotonic() + COUNTED_WITHIN_S
    while True:
        sent, lost = _counted(data_plane, way)
        more = sent - before[0], lost - before[1]
        if any(more) or time.monotonic() >= until_s:
            return more
        time.sleep(_LOOK_EVERY_S)

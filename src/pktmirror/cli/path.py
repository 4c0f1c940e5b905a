"""The way of a session's copies, step by step: what is so, what stands in the way, and what to do about it. Pure.

The facts are the agent's (`desired.PathFacts`) and the ledger's. What nobody can tell is `UNKNOWN`, and said as such.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any

from pktmirror.cli.balance import Collected, SessionFigures, Uncollected
from pktmirror.desired import DesiredSession, Destination, PathFacts, Undeliverable, Underlay
from pktmirror.model.ledger import Stage, Tally
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.underlay import OUTER_BYTES, OUTER_BYTES_MAX

_MAIN_TABLE = 254
_ASKED = {4: "ARP", 6: "neighbour solicitations"}


class State(Enum):
    """How a step of the way stands."""

    GOOD = "good"
    LIMITS = "limits"  # copies pass, shorter or fewer
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """A step of the way. ``do`` is the next step for a person; None where nothing is to be done."""

    step: str
    state: State
    found: str
    do: str | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """What is known of a session's way; ``path`` None: its agent tells nothing of it."""

    session: DesiredSession
    underlay: Underlay
    path: PathFacts | None
    figures: SessionFigures | None
    problem: str | None
    budget: Rate | None


def checks(way: Way, frame_bytes: int | None = None) -> list[Check]:
    """In the order in which a copy goes. ``frame_bytes``: how long the packet is that is asked about."""
    delivery = way.session.delivery
    if isinstance(delivery, Undeliverable):
        do = "give the session another target: `aws ec2 modify-traffic-mirror-session --traffic-mirror-target-id …`"
        return [Check("target", State.BROKEN, delivery.reason, do)]
    if way.path is None:
        found = f"the agent tells nothing of the way to {delivery.address}: {way.problem or 'it has not reported yet'}"
        return [Check("agent", State.UNKNOWN, found, "`pktmirror status` shows when it reported, and its problems")]
    steps = [_route(way, way.path)]
    if way.path.next_hop is not None:
        steps += [_neighbour(way.path), _mtu(way, delivery, way.path, frame_bytes)]
    return [*steps, *_slot(way), *_limits(way), _listener(way, way.path)]


def room_bytes(way: Way) -> int | None:
    """How long the inner frame of a copy can be at the target; None where that is not known."""
    delivery = way.session.delivery
    if way.path is None or way.path.route_mtu is None or not isinstance(delivery, Destination):
        return None
    return min(_mtus(delivery, way.path.route_mtu, way.underlay))[0] - _outer_bytes(delivery)


def copied_bytes(way: Way, frame_bytes: int) -> int | None:
    """How much of a frame its copy has; None where the way is not known."""
    room = room_bytes(way)
    if room is None:
        return None
    return max(0, min(frame_bytes, way.session.packet_bytes_max or frame_bytes, room))


def document(checks_: list[Check]) -> list[dict[str, Any]]:
    """The steps for scripts."""
    return [{"step": each.step, "state": each.state.value, "found": each.found, "do": each.do} for each in checks_]


def _version(path: PathFacts) -> int:
    return ip_address(path.address).version


def _ip(path: PathFacts) -> str:
    return "ip" if _version(path) == 4 else "ip -6"


def _one(path: PathFacts) -> str:
    """The network of one address."""
    return f"{path.address}/{ip_address(path.address).max_prefixlen}"


def _route(way: Way, path: PathFacts) -> Check:
    table = "the main table" if path.table == _MAIN_TABLE else f"table {path.table}"
    if path.next_hop is None:
        bound = f" dev {path.device}" if path.device else ""
        add = f"{_ip(path)} route add {_one(path)} via GATEWAY{bound}"
        number = "" if path.table == _MAIN_TABLE else f" table {path.table}"
        return Check(
            "route",
            State.BROKEN,
            f"{table} has no route to {path.address}" + (f" over {path.device}" if path.device else ""),
            f"add one on the host of the source: `{add}{number}`; or name another underlay in networks.toml",
        )
    hop = "on the link" if path.next_hop == path.address else f"via {path.next_hop}"
    if path.source is None:
        found = f"{table}: {hop}, device {path.device}; but {way.problem or 'copies have no outer source'}"
        do = f"give the route a source on the host of the source: `{_ip(path)} route change {_one(path)} … src ADDRESS`"
        return Check("route", State.BROKEN, found, do)
    return Check("route", State.GOOD, f"{table}: {hop}, device {path.device}; outer source {path.source}")


def _neighbour(path: PathFacts) -> Check:
    if path.neighbour_failed:
        do = f"see that {path.next_hop} is up and on the network of {path.device}: `ip neigh show dev {path.device}`"
        return Check(
            "neighbour", State.BROKEN, f"{path.next_hop} does not answer {_ASKED[_version(path)]} at {path.device}", do
        )
    if path.neighbour is None:
        found = f"{path.next_hop} has not been asked for yet, or has not answered"
        do = "ask again in a second; the agent lets the kernel ask before there are copies"
        return Check("neighbour", State.UNKNOWN, found, do)
    return Check("neighbour", State.GOOD, f"{path.next_hop} is at {path.neighbour}")


def _mtu(way: Way, to: Destination, path: PathFacts, frame_bytes: int | None) -> Check:
    mtu, whose = min(_mtus(to, path.route_mtu or 0, way.underlay))
    room, wanted = mtu - _outer_bytes(to), way.session.packet_bytes_max
    found = f"{mtu} ({whose}): {room} bytes of a frame arrive"
    if wanted is not None:
        found += f"; the session asks for {wanted}"
        if wanted <= room:
            return Check("MTU", State.GOOD, found)
    if frame_bytes is not None and min(frame_bytes, wanted or frame_bytes) <= room:
        return Check("MTU", State.GOOD, f"{found}, and this one has {frame_bytes}")
    cut = f"this one of {frame_bytes} is cut" if frame_bytes is not None else "longer ones are cut, and counted"
    if frame_bytes is None and way.figures is not None and not _at(way.figures, Stage.CUT).packets:
        return Check("MTU", State.GOOD, f"{found}; {cut}, and none was so far")
    do = (
        f"raise the MTU from the source's host to {path.address} by {_outer_bytes(to)} or more, or ask for less: "
        f"`aws ec2 modify-traffic-mirror-session --packet-length {room}`"
    )
    return Check("MTU", State.LIMITS, f"{found}; {cut}", do)


def _outer_bytes(to: Destination) -> int:
    return OUTER_BYTES[ip_address(to.address).version]


def _mtus(to: Destination, route_mtu: int, underlay: Underlay) -> list[tuple[int, str]]:
    longest = OUTER_BYTES_MAX[ip_address(to.address).version]
    found = [(route_mtu, "the route's"), (longest, "the longest packet's")]
    found += [] if to.mtu is None else [(to.mtu, "the target's")]
    return found + ([] if underlay.mtu_max is None else [(underlay.mtu_max, "the underlay's, by networks.toml")])


def _slot(way: Way) -> Iterator[Check]:
    """Whether the kernel makes copies, and what became of them between hook and wire."""
    path = way.path
    has_way = path is not None and path.next_hop is not None and path.source is not None and not path.neighbour_failed
    if way.problem is not None and has_way:  # where it has none, that is what is told already
        yield Check("session", State.BROKEN, way.problem, "`pktmirror status` shows all that the agent reports")
    if way.figures is None:
        return
    sent = _at(way.figures, Stage.SENT).packets
    lost = {
        stage: packets
        for stage in (Stage.CLONE_FAILED, Stage.STALE, Stage.ENCAPSULATION_FAILED)
        if (packets := _at(way.figures, stage).packets)
    }
    if lost:
        told = ", ".join(f"{packets:,} {stage.value}" for stage, packets in lost.items())
        do = f"`pktmirror ledger {way.session.session_id}` shows them by direction; LIMITATIONS.md says when they occur"
        yield Check("copies", State.LIMITS, f"{sent:,} sent so far, and {told}", do)
    else:
        yield Check("copies", State.GOOD, f"{sent:,} sent so far, none lost before the wire")


def _limits(way: Way) -> Iterator[Check]:
    cap, budget = way.session.cap, way.budget or UNLIMITED
    limits = f"cap of the session: {cap}; budget of its host: {budget}"
    capped = 0 if way.figures is None else way.figures.capped.packets
    if capped:
        do = (
            "raise the cap (the tags of the session, docs/reference/api.md) or the budget (`pktmirror agent "
            "--budget-packets-per-second`), or let the filter take less"
        )
        yield Check("limits", State.LIMITS, f"{capped:,} packets were over them and not copied ({limits})", do)
    elif (cap, budget) != (UNLIMITED, UNLIMITED):
        yield Check("limits", State.GOOD, f"nothing was over them so far ({limits})")


def _listener(way: Way, path: PathFacts) -> Check:
    where = f"{path.address}, UDP port {path.port}"
    start = f"start a collector at {path.address}, as `pktmirror monitor` does"
    refused = Tally() if way.figures is None else _at(way.figures, Stage.TARGET_REFUSED)
    collector: Collected | Uncollected | None = None if way.figures is None else way.figures.collector
    if path.listens is False:
        return Check("listener", State.BROKEN, f"nothing is bound to {where}", start)
    if path.listens:
        return Check("listener", State.GOOD, f"a socket is bound to {where}")
    if isinstance(collector, Collected) and collector.received.packets:
        received = f"a monitor has received {collector.received.packets:,} copies at {where}"
        return Check("listener", State.GOOD, received)
    if refused.packets:
        found = f"{where} has answered {refused.packets:,} times that it does not take copies (ICMP)"
        return Check("listener", State.BROKEN, found, f"{start}, or open its firewall for UDP {path.port}")
    found = f"nobody here can look whether something is bound to {where}; no error has come from there"
    return Check("listener", State.UNKNOWN, found, f"look there: `ss -lun 'sport = :{path.port}'`")


def _at(figures: SessionFigures, stage: Stage) -> Tally:
    return sum((direction.stage(stage) for direction in figures.directions.values()), Tally())

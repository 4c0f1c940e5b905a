"""The way of each session's copies as this host finds it: route, next hop, its link address, who listens. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from pktmirror.agent.compile import Wanted, WantedDelivery
from pktmirror.agent.neighbours import NextHop
from pktmirror.agent.ways import RouteQuery, Way
from pktmirror.desired import DesiredState, Destination, PathFacts, Underlay
from pktmirror.kernel.netlink import Link, Neighbour

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Sight:
    """What the host sees. ``ways`` lacks what has no route; ``neighbours`` are by device and address, and the
    ``unresolved`` next hops do not answer; ``listens`` lacks the targets into whose namespace nobody can look."""

    ways: Mapping[RouteQuery, Way]
    links: Mapping[int, Link]
    neighbours: Mapping[tuple[int, str], Neighbour]
    listens: Mapping[Address, bool]
    unresolved: frozenset[NextHop] = frozenset()


def paths(desired: DesiredState, wanted: Wanted, sight: Sight) -> dict[str, PathFacts]:
    """By session id. Sessions without a target that could be sent to have no path."""
    sent = {
        session.delivery.session_id: session.delivery
        for interface in wanted.interfaces
        for session in interface.sessions
        if session.has_way
    }
    return {
        session.session_id: _path(session.delivery, interface.underlay, sent.get(session.session_id), sight)
        for interface in desired.interfaces
        for session in interface.sessions
        if isinstance(session.delivery, Destination)
    }


def targets(wanted: Wanted) -> frozenset[tuple[Address, int]]:
    """Where copies are sent to: addresses and ports."""
    return frozenset(
        (session.delivery.outer_destination, session.delivery.port)
        for interface in wanted.interfaces
        for session in interface.sessions
        if session.has_way
    )


def _path(to: Destination, underlay: Underlay, sent: WantedDelivery | None, sight: Sight) -> PathFacts:
    address = ip_address(to.address)
    way = sight.ways.get(RouteQuery(address, underlay.route_table, underlay.device))
    facts = PathFacts(
        address=to.address,
        port=to.port,
        table=underlay.route_table,
        device=underlay.device,
        listens=sight.listens.get(address),
    )
    if way is None:
        return facts
    link, neighbour = sight.links.get(way.ifindex), sight.neighbours.get((way.ifindex, str(way.next_hop)))
    is_unresolved = way.hop in sight.unresolved
    return msgspec.structs.replace(
        facts,
        device=None if link is None else link.name,
        next_hop=str(way.next_hop),
        source=None if sent is None else str(sent.outer_source),
        route_mtu=way.mtu,
        neighbour=None if neighbour is None or is_unresolved else neighbour.mac,
        neighbour_failed=is_unresolved,
    )

"""Which way copies leave a host, and whether they may as super-packets (docs/decisions/0011). Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pktmirror.agent.inventory import Device
from pktmirror.agent.neighbours import NextHop
from pktmirror.agent.shortcuts import Shortcut, shortcut
from pktmirror.kernel.netlink import Link, Neighbour, Route
from pktmirror.model.underlay import Address, Segmentation

_BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """A question to the route table: how would this host send to ``address``."""

    address: Address
    table: int
    device: str | None


@dataclass(frozen=True, slots=True)
class Way:
    """The answer: the device, the next hop, and how large an outer packet may be on the whole way.

    ``source`` is the route's preferred source; None where it has none. ``splits``: what leaves by the device is split
    and gets its checksums completed by the kernel, or by the hardware. ``is_card``: the device is one.
    ``shortcut``: the short way, where there is one.
    """

    ifindex: int
    next_hop: Address
    mtu: int
    source: Address | None = None
    splits: bool = False
    is_card: bool = False
    shortcut: Shortcut | None = None

    @property
    def hop(self) -> NextHop:
        return self.ifindex, self.next_hop


def way_of(
    query: RouteQuery,
    route: Route | None,
    links: Mapping[int, Link],
    neighbours: Mapping[tuple[int, str], Neighbour],
    devices: Iterable[Device],
) -> Way | None:
    """What the kernel's route for the query comes to; None where nothing can be sent by it."""
    link = None if route is None else links.get(route.ifindex)
    if route is None or link is None or not link.up:
        return None
    mtu = min(route.mtu or link.mtu, link.mtu)
    short = shortcut(route, query.address, links, neighbours, devices)
    return Way(route.ifindex, route.next_hop, mtu, route.source, splits(link), is_card(link), short)


def is_card(link: Link) -> bool:
    """Whether the device is a network card, behind which no CPU of this host has to do with what is sent."""
    return link.ethernet and link.kind is None


def splits(link: Link) -> bool:
    """Whether what is sent through the device, outer headers before it, becomes packets of wire size with complete
    checksums before anybody can look at it.

    A network card does so, or its driver lets the kernel do it. A bridge has no offloads for tunnels of its own,
    whatever its ports have, so the kernel splits what is sent through it (netif_skb_features, hw_enc_features). A veth
    or a tap may hand it on as it is, to somebody who looks at it.
    """
    return is_card(link) or link.kind == _BRIDGE


def leaves_whole(segmentation: Segmentation, device_splits: bool) -> bool:
    """Whether a super-packet may leave by the device: the operator's word, or what is known of the device."""
    match segmentation:
        case Segmentation.HOST:
            return False
        case Segmentation.UNDERLAY:
            return True
        case Segmentation.AUTO:
            return device_splits


def leaves_ahead(segmentation: Segmentation, device_is_card: bool) -> bool:
    """Whether what leaves whole need not wait until production is handed on: on its way to a card it takes no place in
    a queue of this host's CPUs that production needs."""
    return device_is_card or segmentation is Segmentation.UNDERLAY

"""Which next hops do not tell their link address, so that no copy can be sent to them. Pure.

The kernel asks for some three seconds (mcast_solicit or ucast_solicit times retrans_time_ms), then the entry is FAILED,
and whoever needs it next, the agent or a packet, has it asked for anew. So a next hop stays unresolved from the first
failure on, however often it is asked for, until its link address is known.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

from pktmirror.kernel.netlink import Link, Neighbour

NextHop = tuple[int, IPv4Address | IPv6Address]
"""By device and address."""

_ASKED = {4: "ARP", 6: "neighbour solicitations"}


def unresolved(
    former: frozenset[NextHop],
    next_hops: Iterable[NextHop],
    neighbours: Mapping[tuple[int, str], Neighbour],
    links: Mapping[int, Link],
) -> frozenset[NextHop]:
    """Those of the next hops that are.

    ``former``: those that were, and those of which the kernel has told meanwhile that they failed. One that has never
    been asked for, or for the first time, is none: the kernel lets copies wait for its answer.
    """
    return frozenset(hop for hop in next_hops if _is_unresolved(hop, hop in former, neighbours, links))


def _is_unresolved(
    hop: NextHop, was: bool, neighbours: Mapping[tuple[int, str], Neighbour], links: Mapping[int, Link]
) -> bool:
    if not _is_asked_for(hop, links):
        return False
    entry = neighbours.get(_key(hop))
    if entry is None or entry.incomplete:
        return was
    return entry.failed


def to_ask(
    next_hops: Iterable[NextHop], neighbours: Mapping[tuple[int, str], Neighbour], links: Mapping[int, Link]
) -> frozenset[NextHop]:
    """Those that the kernel should ask for now, as nobody does: never yet, or without an answer.

    It keeps no more than some 160 packets for a next hop that is asked for, so the agent asks before there are copies;
    and while one is unresolved there are none that would have it asked for.
    """
    return frozenset(
        hop
        for hop in next_hops
        if _is_asked_for(hop, links) and ((entry := neighbours.get(_key(hop))) is None or entry.failed)
    )


def no_answer(hop: NextHop) -> str:
    """What the status of a session says whose next hop is unresolved."""
    return f"the next hop {hop[1]} does not answer {_ASKED[hop[1].version]}"


def _is_asked_for(hop: NextHop, links: Mapping[int, Link]) -> bool:
    """Not so at a tunnel, or another device on which there is nobody to ask."""
    link = links.get(hop[0])
    return link is not None and link.resolves


def _key(hop: NextHop) -> tuple[int, str]:
    return hop[0], str(hop[1])

"""Who is behind a device into whose far end nobody can look: a tap's virtual machine, a container without a name. Pure.

The MAC address of a virtual machine is not that of its tap. It is known where somebody has heard it or has set it: in
the forwarding table of the bridge, or, at a device that is no bridge port, in the host's neighbour table.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from pktmirror.kernel.netlink import ForwardingEntry, Link, Neighbour

_NOBODY = "00:00:00:00:00:00"  # of neighbours that need no address
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why the MAC address is not known, and what makes it known."""

    why: str


def mac_behind(
    link: Link,
    master: Link | None,
    forwarding: Iterable[ForwardingEntry],
    neighbours: Iterable[Neighbour],
    known: str | None,
) -> str | Unknown:
    """The MAC address of the one interface behind the device; ``known`` is what it was at the last look.

    What somebody has set counts before what was heard. Entries expire when nobody talks, and that is no news; nor is
    one more address that is heard, such as those of containers within the machine.
    """
    entries = [entry for entry in forwarding if entry.port_ifindex == link.ifindex]
    told = {entry.mac for entry in entries if entry.static}
    if not told:
        told = {entry.mac for entry in entries} | {
            entry.mac
            for entry in neighbours
            if entry.ifindex == link.ifindex and entry.mac is not None and not entry.failed
        }
    told = {mac for mac in told if mac not in (link.mac, _NOBODY) and not int(mac[:2], 16) & 1}
    if known is not None and (known in told or not told):
        return known
    if len(told) > 1:
        # libvirt and OpenStack give a tap the machine's address with another first byte, fe (virnetdevtap.c).
        told = {mac for mac in told if link.mac.startswith("fe:") and mac[3:] == link.mac[3:]} or told
    if len(told) == 1:
        return told.pop()
    return Unknown(_several(link, sorted(told)) if told else _nobody(link, master))


def addresses_behind(link: Link, mac: str, neighbours: Iterable[Neighbour]) -> tuple[str, ...]:
    """The IPv4 addresses that the host's neighbour table has for a MAC at this device or its bridge, in their order.

    Some host on that link answered for them: an entry that failed or waits for its answer tells nothing.
    """
    where = {link.ifindex, link.master_ifindex}
    found = {
        entry.address
        for entry in neighbours
        if entry.ifindex in where and entry.mac == mac and not entry.failed and isinstance(entry.address, IPv4Address)
    }
    return tuple(str(address) for address in sorted(found))


def _nobody(link: Link, master: Link | None) -> str:
    if link.master_ifindex is None:
        return (
            "the MAC address behind it is not known: the host's neighbour table has nobody there "
            f"(`ip neighbour replace ADDRESS lladdr MAC dev {link.name}` tells it)"
        )
    if master is None or master.kind != "bridge":
        return f"the MAC address behind it is not known: {_name(master)} is no Linux bridge, whose table would tell it"
    return (
        f"the MAC address behind it is not known: the bridge {master.name} has heard nobody there "
        f"(`bridge fdb replace MAC dev {link.name} master static` tells it)"
    )


def _several(link: Link, macs: list[str]) -> str:
    if link.master_ifindex is None:
        do = "remove those of the neighbour table that are not the interface's"
    else:
        do = f"`bridge fdb replace MAC dev {link.name} master static` says which is the interface's"
    named = ", ".join(macs[:_NAMED_MAX]) + (", …" if len(macs) > _NAMED_MAX else "")
    return f"{len(macs)} MAC addresses were heard behind it, {named} ({do})"


def _name(master: Link | None) -> str:
    return "its master" if master is None else master.name

"""Which targets have a short way, past the bridge of the host."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from pktmirror.agent.inventory import Device
from pktmirror.agent.shortcuts import Shortcut, shortcut
from pktmirror.desired import FoundInterface
from pktmirror.kernel.netlink import Link, Neighbour, Route

BRIDGE = Link(2, "br0", "bridge", "02:00:00:00:00:02", 9001, True, None, None, None, None)
PORT = Link(6, "monitor0", "veth", "02:00:00:00:00:06", 9001, True, 2, None, None, None, forwards=True)
OTHER = replace(PORT, ifindex=7, name="other0", mac="02:00:00:00:00:07")
LINKS = {link.ifindex: link for link in (BRIDGE, PORT, OTHER)}
TARGET, MAC = IPv4Address("10.0.0.90"), "02:00:00:00:00:90"
ROUTE = Route(2, TARGET, None, None)
NEIGHBOURS = {(2, "10.0.0.90"): Neighbour(2, TARGET, MAC, failed=False)}


def device(ifindex: int, mac: str, *, is_host_side: bool = True) -> Device:
    found = FoundInterface(
        key=f"netns:n{ifindex}/eth0",
        provider="netns",
        instance=f"n{ifindex}",
        name="eth0",
        device=f"n{ifindex}0",
        kind="veth",
        mac=mac,
        addresses=(),
        mtu=9001,
        up=True,
    )
    return Device(found, ifindex, is_host_side)


DEVICES = [device(7, "02:00:00:00:00:91"), device(6, MAC)]


def test_a_target_behind_a_port_of_the_bridge_has_one() -> None:
    expected = Shortcut(6, bytes.fromhex("020000000090"), bytes.fromhex("020000000002"))
    assert shortcut(ROUTE, TARGET, LINKS, NEIGHBOURS, DEVICES) == expected


def test_over_ipv6_as_well() -> None:
    address = IPv6Address("2001:db8::90")
    neighbours = {(2, "2001:db8::90"): Neighbour(2, address, MAC, failed=False)}
    found = shortcut(Route(2, address, None, None), address, LINKS, neighbours, DEVICES)
    assert found is not None
    assert found.ifindex == 6


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"route": replace(ROUTE, next_hop=IPv4Address("10.0.0.1"))}, "it is behind a router"),
        ({"route": replace(ROUTE, ifindex=6)}, "the route leads over no bridge"),
        ({"route": replace(ROUTE, ifindex=99)}, "the device of the route is gone"),
        ({"links": {**LINKS, 2: replace(BRIDGE, filters_vlans=True)}}, "the bridge filters VLANs"),
        ({"neighbours": {}}, "nobody knows its MAC address"),
        ({"neighbours": {(2, "10.0.0.90"): Neighbour(2, TARGET, None, failed=False)}}, "it is still asked for"),
        ({"neighbours": {(2, "10.0.0.90"): Neighbour(2, TARGET, MAC, failed=True)}}, "it does not answer"),
        ({"neighbours": {(7, "10.0.0.90"): Neighbour(7, TARGET, MAC, failed=False)}}, "it is known elsewhere only"),
        ({"devices": DEVICES[:1]}, "its device is not one of this host"),
        ({"devices": [device(6, MAC, is_host_side=False)]}, "the device is the target itself"),
        ({"links": {**LINKS, 6: replace(PORT, up=False)}}, "its port is down"),
        ({"links": {**LINKS, 6: replace(PORT, forwards=False)}}, "its port is blocked"),
        ({"links": {**LINKS, 6: replace(PORT, master_ifindex=3)}}, "its port is another bridge's"),
        ({"links": {2: BRIDGE}}, "its port is gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_there_is_none_where(changed: dict[str, object], why: str) -> None:
    known = {"route": ROUTE, "links": LINKS, "neighbours": NEIGHBOURS, "devices": DEVICES, **changed}
    found = shortcut(
        known["route"],  # type: ignore[arg-type]
        TARGET,
        known["links"],  # type: ignore[arg-type]
        known["neighbours"],  # type: ignore[arg-type]
        known["devices"],  # type: ignore[arg-type]
    )
    assert found is None, why

"""What netlink says of links becomes interfaces that can, or cannot, be mirrored."""

from ipaddress import ip_address

import pytest

from pktmirror.agent.inventory import Device, NamespaceView, devices
from pktmirror.kernel.netlink import InterfaceAddress, Link, Neighbour

NSID = 4
OWN_PREFIX = "pktm-"


def link(
    name: str = "web0",
    *,
    ifindex: int = 10,
    kind: str | None = "veth",
    mac: str = "02:00:00:00:00:10",
    mtu: int = 1500,
    up: bool = True,
    master: int | None = None,
    peer: int | None = 2,
    nsid: int | None = NSID,
) -> Link:
    return Link(ifindex, name, kind, mac, mtu, up, master, peer, nsid, None)


def address(text: str, ifindex: int = 2, *, secondary: bool = False, scope: int = 0) -> InterfaceAddress:
    return InterfaceAddress(ifindex, ip_address(text), scope, secondary)


INSIDE = link("eth0", ifindex=2, mac="02:00:00:00:00:48", mtu=9001, peer=10, nsid=0)
WEB = NamespaceView("web", (link("lo", ifindex=1, kind=None, peer=None), INSIDE), (address("10.0.0.48"),))


def found(*links: Link, namespace: NamespaceView = WEB, host: tuple[InterfaceAddress, ...] = ()) -> list[Device]:
    return devices(links, host, {NSID: namespace}, own_prefix=OWN_PREFIX)


def test_the_host_side_of_a_veth_stands_for_the_interface_at_its_far_end() -> None:
    (device,) = found(link())
    assert (device.ifindex, device.is_host_side) == (10, True)
    interface = device.found
    assert (interface.key, interface.instance, interface.name, interface.device) == (
        "netns:web/eth0",
        "web",
        "eth0",
        "web0",
    )
    assert (interface.mac, interface.mtu, interface.up) == ("02:00:00:00:00:48", 9001, True)
    assert (interface.provider, interface.kind) == ("netns", "veth")
    assert interface.addresses == ("10.0.0.48",)
    assert interface.not_mirrorable is None


def test_the_key_outlives_the_ifindex_and_the_hosts_name() -> None:
    (before,), (after,) = found(link()), found(link("veth8f3a", ifindex=77))
    assert before.found.key == after.found.key
    assert after.ifindex == 77


@pytest.mark.parametrize(("outside", "inside"), [(False, True), (True, False), (False, False)])
def test_an_interface_is_up_when_both_ends_are(outside: bool, inside: bool) -> None:
    far = link("eth0", ifindex=2, mac="02:00:00:00:00:48", up=inside)
    (device,) = found(link(up=outside), namespace=NamespaceView("web", (far,), (address("10.0.0.48"),)))
    assert not device.found.up


def test_the_primary_ipv4_address_comes_first_and_others_links_and_scopes_do_not_count() -> None:
    addresses = (
        address("fd00::48"),
        address("10.0.0.49", secondary=True),
        address("10.0.0.48"),
        address("fe80::48", scope=253),
        address("10.9.9.9", ifindex=3),
    )
    (device,) = found(link(), namespace=NamespaceView("web", (INSIDE,), addresses))
    assert device.found.addresses == ("10.0.0.48", "10.0.0.49", "fd00::48")


def neighbour(text: str, ifindex: int = 10, mac: str | None = INSIDE.mac, *, failed: bool = False) -> Neighbour:
    return Neighbour(ifindex, ip_address(text), mac, failed)


def behind(
    *neighbours: Neighbour, addresses: tuple[InterfaceAddress, ...] = (), master: int | None = None
) -> tuple[str, ...]:
    """What the host's neighbour table tells of the interface."""
    namespace = NamespaceView("web", (INSIDE,), addresses)
    (device,) = devices([link(master=master)], (), {NSID: namespace}, own_prefix=OWN_PREFIX, neighbours=neighbours)
    assert (device.found.key, device.found.not_mirrorable) == ("netns:web/eth0", None)
    return device.found.neighbours


def test_without_an_address_in_its_namespace_the_hosts_neighbour_table_tells_it() -> None:
    assert behind(neighbour("10.0.0.48")) == ("10.0.0.48",)
    assert behind(neighbour("10.0.0.48", ifindex=3), master=3) == ("10.0.0.48",), "the bridge knows who is behind"
    assert behind(neighbour("10.0.0.100"), neighbour("10.0.0.48")) == ("10.0.0.48", "10.0.0.100"), "by number"
    assert behind() == ()


@pytest.mark.parametrize(
    "entry",
    [
        neighbour("10.0.0.49", mac="02:00:00:00:00:49"),
        neighbour("10.0.0.49", ifindex=11),
        neighbour("10.0.0.49", failed=True),
        neighbour("10.0.0.49", mac=None),
        neighbour("fe80::48"),
    ],
    ids=["of another MAC", "at another device", "that failed", "that waits for its answer", "of IPv6"],
)
def test_an_entry_of_the_neighbour_table_does_not_count(entry: Neighbour) -> None:
    assert behind(entry) == ()


def test_the_namespaces_own_address_leaves_the_neighbour_table_no_say() -> None:
    assert behind(neighbour("10.0.0.49"), addresses=(address("10.0.0.48"),)) == ()


@pytest.mark.parametrize(
    ("device", "kind", "reason"),
    [
        (link(nsid=9), "veth", "has no name"),
        (link(nsid=None), "veth", "both of its ends"),
        (link("tap0", kind="tun", peer=None, nsid=None), "tap", "taps come with the next"),
        (link("swp1", kind=None, master=3, peer=None, nsid=None), "bridge-port", "bridge ports come with the next"),
        (link("eth0", kind=None, peer=None, nsid=None), "physical", "NICs come with the next"),
    ],
    ids=["veth of a nameless namespace", "veth within the host", "tap", "bridge port", "NIC"],
)
def test_what_this_version_cannot_mirror_is_found_and_says_why(device: Link, kind: str, reason: str) -> None:
    (found_device,) = found(device, host=(address("192.0.2.1", ifindex=10),))
    assert found_device.found.kind == kind
    assert found_device.found.key == f"host:{device.name}"
    assert found_device.found.addresses == ("192.0.2.1",)
    assert reason in (found_device.found.not_mirrorable or "")
    assert not found_device.is_host_side


def test_a_far_end_that_moves_away_between_two_dumps_leaves_an_interface_that_cannot_be_mirrored() -> None:
    (device,) = found(link(), namespace=NamespaceView("web", (), ()))
    assert device.found.key == "host:web0"
    assert device.found.not_mirrorable is not None


def test_loopback_bridges_and_the_agents_own_devices_are_no_interfaces() -> None:
    ignored = (
        link("lo", kind=None, peer=None, nsid=None),
        link("br-a", kind="bridge", peer=None, nsid=None),
        link("vx0", kind="vxlan", peer=None, nsid=None),
        link("pktm-012345a"),
        link("pktm-012345b"),
    )
    assert found(*ignored) == []
    assert [device.found.device for device in found(*ignored, link())] == ["web0"]

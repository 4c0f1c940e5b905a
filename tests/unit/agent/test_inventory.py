"""What netlink says of links becomes interfaces that can, or cannot, be mirrored."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from pktmirror.agent.containers import Owner
from pktmirror.agent.inventory import Device, HostView, NamespaceView, devices
from pktmirror.kernel.netlink import ForwardingEntry, InterfaceAddress, Link, Neighbour

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
WEB = NamespaceView(
    Owner("netns", "web"), (link("lo", ifindex=1, kind=None, peer=None), INSIDE), (address("10.0.0.48"),)
)


def found(*links: Link, namespace: NamespaceView = WEB, host: tuple[InterfaceAddress, ...] = ()) -> list[Device]:
    return devices(HostView(links, host), {NSID: namespace}, own_prefix=OWN_PREFIX)


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
    (device,) = found(link(up=outside), namespace=NamespaceView(Owner("netns", "web"), (far,), (address("10.0.0.48"),)))
    assert not device.found.up


def test_the_primary_ipv4_address_comes_first_and_others_links_and_scopes_do_not_count() -> None:
    addresses = (
        address("fd00::48"),
        address("10.0.0.49", secondary=True),
        address("10.0.0.48"),
        address("fe80::48", scope=253),
        address("10.9.9.9", ifindex=3),
    )
    (device,) = found(link(), namespace=NamespaceView(Owner("netns", "web"), (INSIDE,), addresses))
    assert device.found.addresses == ("10.0.0.48", "10.0.0.49", "fd00::48")


def neighbour(text: str, ifindex: int = 10, mac: str | None = INSIDE.mac, *, failed: bool = False) -> Neighbour:
    return Neighbour(ifindex, ip_address(text), mac, failed)


def behind(
    *neighbours: Neighbour, addresses: tuple[InterfaceAddress, ...] = (), master: int | None = None
) -> tuple[str, ...]:
    """What the host's neighbour table tells of the interface."""
    namespace = NamespaceView(Owner("netns", "web"), (INSIDE,), addresses)
    host = HostView((link(master=master),), neighbours=neighbours)
    (device,) = devices(host, {NSID: namespace}, own_prefix=OWN_PREFIX)
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


TAP = link("vnet0", kind="tun", mac="fe:54:00:00:00:07", master=3, peer=None, nsid=None)
OPAQUE = link("veth9f2", master=3, nsid=9)
BRIDGE = link("br0", ifindex=3, kind="bridge", peer=None, nsid=None)
GUEST, OTHER = "52:54:00:00:00:07", "52:54:00:00:00:99"


def heard(mac: str, port: int = 10, *, static: bool = False) -> ForwardingEntry:
    return ForwardingEntry(port, mac, static)


def behind_device(
    device: Link,
    *forwarding: ForwardingEntry,
    neighbours: tuple[Neighbour, ...] = (),
    known: str | None = None,
    master: Link = BRIDGE,
) -> Device:
    known_macs = {} if known is None else {device.ifindex: known}
    host = HostView((device, master), (), neighbours, forwarding, known_macs)
    (found_device,) = devices(host, {NSID: WEB}, own_prefix=OWN_PREFIX)
    return found_device


@pytest.mark.parametrize(
    ("device", "key", "kind"),
    [(TAP, "tap:vnet0", "tap"), (OPAQUE, "port:veth9f2", "bridge-port")],
    ids=["tap", "veth into a namespace that nobody knows"],
)
def test_who_is_behind_a_port_is_known_when_its_bridge_has_heard_one_mac_there(
    device: Link, key: str, kind: str
) -> None:
    here = behind_device(device, heard(GUEST), heard(OTHER, port=11), neighbours=(neighbour("10.0.0.7", 3, GUEST),))
    assert (here.found.key, here.found.kind, here.found.mac) == (key, kind, GUEST)
    assert (here.found.not_mirrorable, here.found.neighbours) == (None, ("10.0.0.7",))
    assert (here.ifindex, here.is_host_side) == (10, True)
    silent = behind_device(device, heard(OTHER, port=11))
    assert (silent.found.key, silent.found.mac) == (key, None)
    assert f"bridge fdb replace MAC dev {device.name} master static" in (silent.found.not_mirrorable or "")


def test_what_is_behind_a_device_stays_who_it_was_until_only_somebody_else_is_heard() -> None:
    assert behind_device(TAP, known=GUEST).found.mac == GUEST, "entries expire"
    assert behind_device(TAP, heard(OTHER), heard(GUEST), known=GUEST).found.mac == GUEST
    assert behind_device(TAP, heard(OTHER), known=GUEST).found.mac == OTHER


def test_of_several_macs_behind_a_tap_the_one_counts_that_the_operator_has_set_or_that_names_the_tap() -> None:
    several = (heard(OTHER), heard("52:54:00:00:00:98"))
    unsure = behind_device(TAP, *several).found
    assert unsure.mac is None
    assert "2 MAC addresses were heard behind it, 52:54:00:00:00:98, 52:54:00:00:00:99" in (unsure.not_mirrorable or "")
    assert behind_device(TAP, *several, heard(GUEST)).found.mac == GUEST, "as libvirt and OpenStack name taps"
    assert behind_device(TAP, *several, heard("52:54:00:00:00:55", static=True)).found.mac == "52:54:00:00:00:55"


def test_behind_a_device_that_is_no_port_is_who_the_neighbour_table_has_there() -> None:
    routed = link("tap0", kind="tun", peer=None, nsid=None)
    here = behind_device(
        routed,
        neighbours=(
            neighbour("10.0.0.7", 10, GUEST),
            neighbour("10.0.0.8", 11, OTHER),
            neighbour("10.0.0.9", 10, OTHER, failed=True),
            neighbour("224.0.0.22", 10, "01:00:5e:00:00:16"),
            neighbour("10.0.0.1", 10, "00:00:00:00:00:00"),
        ),
    )
    assert (here.found.mac, here.found.neighbours, here.found.not_mirrorable) == (GUEST, ("10.0.0.7",), None)
    assert "ip neighbour replace" in (behind_device(routed).found.not_mirrorable or "")


def test_a_switch_that_is_no_linux_bridge_tells_nobody() -> None:
    switch = link("ovs-system", ifindex=3, kind="bridge", peer=None, nsid=None)
    switch = replace(switch, kind="openvswitch", name="lo")  # by that name it is no interface itself
    assert "no Linux bridge" in (behind_device(TAP, master=switch).found.not_mirrorable or "")


UPLINK = link("up0", nsid=9)
NIC = link("eth0", kind=None, peer=None, nsid=None)


@pytest.mark.parametrize("device", [NIC, UPLINK, link("in0", nsid=None)], ids=["NIC", "uplink", "veth within the host"])
def test_an_interface_with_an_address_of_its_own_is_the_hosts(device: Link) -> None:
    (here,) = found(device, host=(address("192.0.2.1", ifindex=10),))
    assert (here.found.key, here.found.provider, here.found.mac) == (f"nic:{device.name}", "nic", device.mac)
    assert (here.found.addresses, here.found.not_mirrorable) == (("192.0.2.1",), None)
    assert not here.is_host_side


def test_a_nic_is_known_by_its_permanent_mac_whatever_its_name_and_mac_are() -> None:
    permanent = "0c:c4:7a:00:00:01"
    (before,), (after,) = (
        found(replace(NIC, permanent_mac=permanent)),
        found(replace(NIC, permanent_mac=permanent, name="lan0", mac="02:00:00:00:00:aa")),
    )
    assert before.found.key == after.found.key == f"nic:{permanent}"
    twins = found(*(replace(NIC, permanent_mac=permanent, name=name, ifindex=10) for name in ("a", "b")))
    assert [twin.found.key for twin in twins] == ["nic:a", "nic:b"], "an address of two is nobody's name"


@pytest.mark.parametrize(
    ("device", "kind", "reason"),
    [
        (link(nsid=None), "veth", "both of its ends"),
        (link("swp1", kind=None, master=3, peer=None, nsid=None), "bridge-port", "what others send too"),
        (link("tun0", kind=None, peer=None, nsid=None), "physical", "no Ethernet frames"),
    ],
    ids=["veth within the host", "NIC in a bridge", "not of Ethernet"],
)
def test_what_cannot_be_mirrored_is_found_and_says_why(device: Link, kind: str, reason: str) -> None:
    (found_device,) = found(replace(device, ethernet="Ethernet" not in reason))
    assert (found_device.found.kind, found_device.found.key) == (kind, f"nic:{device.name}")
    assert reason in (found_device.found.not_mirrorable or "")
    assert not found_device.is_host_side


def test_a_far_end_that_moves_away_between_two_dumps_leaves_an_interface_that_cannot_be_mirrored() -> None:
    (device,) = found(link(), namespace=NamespaceView(Owner("netns", "web"), (), ()))
    assert device.found.key == "port:web0"
    assert device.found.not_mirrorable is not None


@pytest.mark.parametrize("owner", [Owner("container", "ab" * 32), Owner("pod", "2f1c"), Owner("netns", "web")])
def test_an_interface_in_a_namespace_is_its_owners(owner: Owner) -> None:
    (device,) = found(link(), namespace=replace(WEB, owner=owner))
    assert (device.found.key, device.found.provider) == (f"{owner.provider}:{owner.name}/eth0", owner.provider)
    assert device.found.instance == owner.name[:12]


def test_a_key_that_two_interfaces_have_is_neithers() -> None:
    views = {nsid: replace(WEB, owner=Owner("container", "ab" * 32)) for nsid in (NSID, 5)}
    twins = (link("veth1"), link("veth2", ifindex=11, nsid=5))
    here = devices(HostView(twins), views, own_prefix=OWN_PREFIX)
    assert [device.found.key for device in here] == ["port:veth1", "port:veth2"]


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

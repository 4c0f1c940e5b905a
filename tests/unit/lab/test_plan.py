"""From a topology to the steps that build it."""

from ipaddress import IPv6Interface, ip_address, ip_interface, ip_network

from pktmirror.lab import DEMO
from pktmirror.lab.plan import (
    AddAddress,
    AddRoute,
    MakeBridge,
    MakeCable,
    MakeNamespace,
    SetMtu,
    link_local,
    plan,
)
from tests.lab.topologies import TWO_HOSTS


def test_the_demos_plan_in_full() -> None:
    mac = DEMO.derived_mac

    def cable(port: str, peer: str, peer_device: str) -> MakeCable:
        return MakeCable(
            namespace="pktmirror-host",
            device=port,
            mac=mac("host", port),
            bridge="br-a",
            peer_namespace=f"pktmirror-{peer}",
            peer_device=peer_device,
            peer_mac=mac(peer, peer_device),
            mtu=1500,
        )

    def address(place: str, device: str, interface: str) -> AddAddress:
        return AddAddress(f"pktmirror-{place}", device, ip_interface(interface))

    def default_route(place: str) -> AddRoute:
        return AddRoute(f"pktmirror-{place}", ip_network("0.0.0.0/0"), ip_address("10.0.0.1"))

    assert plan(DEMO) == [
        MakeNamespace("pktmirror-host"),
        MakeNamespace("pktmirror-router", forwards=True),
        MakeNamespace("pktmirror-client"),
        MakeNamespace("pktmirror-web"),
        MakeNamespace("pktmirror-monitor"),
        MakeBridge("pktmirror-host", "br-a", mac("host", "br-a")),
        cable("rtr-a", "router", "eth-a"),
        cable("client0", "client", "eth0"),
        cable("web0", "web", "eth0"),
        cable("monitor0", "monitor", "eth0"),
        SetMtu("pktmirror-host", "br-a", 1500),
        address("router", "eth-a", "10.0.0.1/24"),
        address("host", "br-a", "10.0.0.3/24"),
        address("client", "eth0", "10.0.0.6/24"),
        address("web", "eth0", "10.0.0.48/24"),
        address("monitor", "eth0", "10.0.0.90/24"),
        default_route("client"),
        default_route("web"),
        default_route("monitor"),
    ]


def test_each_host_holds_the_bridges_of_its_own_subnets_and_the_one_router_has_a_leg_in_each() -> None:
    steps = plan(TWO_HOSTS)
    bridges = {(step.namespace, step.device) for step in steps if isinstance(step, MakeBridge)}
    assert bridges == {("two-hosts-east", "br-a"), ("two-hosts-west", "br-b")}
    legs = {
        (step.namespace, step.peer_device)
        for step in steps
        if isinstance(step, MakeCable) and step.peer_namespace == "two-hosts-router"
    }
    assert legs == {("two-hosts-east", "eth-a"), ("two-hosts-west", "eth-b")}


def test_a_host_reaches_the_other_subnets_through_its_own_router_and_has_no_default_route() -> None:
    routes = [step for step in plan(TWO_HOSTS) if isinstance(step, AddRoute) and step.namespace == "two-hosts-east"]
    assert [(str(route.to), str(route.via)) for route in routes] == [
        ("10.0.1.0/24", "10.0.0.1"),
        ("2001:db8:1:1::/64", "2001:db8:1::1"),
    ]


def test_an_ipv6_address_comes_with_a_link_local_one() -> None:
    addresses = [
        str(step.interface)
        for step in plan(TWO_HOSTS)
        if isinstance(step, AddAddress) and step.namespace == "two-hosts-web"
    ]
    beside = str(link_local(TWO_HOSTS.mac_address("web")))
    assert addresses == ["10.0.1.48/24", "2001:db8:1:1::48/64", beside]


def test_a_link_local_address_is_formed_from_the_mac_address() -> None:
    # The example of RFC 2464 section 4.
    assert link_local("34:56:78:9a:bc:de") == IPv6Interface("fe80::3656:78ff:fe9a:bcde/64")


def test_only_the_router_forwards_and_ipv6_only_where_there_is_some() -> None:
    forwarding = {
        step.namespace: (step.forwards, step.forwards_ipv6)
        for step in (*plan(DEMO), *plan(TWO_HOSTS))
        if isinstance(step, MakeNamespace) and (step.forwards or step.forwards_ipv6)
    }
    assert forwarding == {"pktmirror-router": (True, False), "two-hosts-router": (True, True)}


def test_nothing_is_planned_outside_the_labs_namespaces() -> None:
    own = {TWO_HOSTS.namespace(place) for place in TWO_HOSTS.places}
    steps = plan(TWO_HOSTS)
    touched = {step.namespace for step in steps} | {
        step.peer_namespace for step in steps if isinstance(step, MakeCable)
    }
    assert touched == own

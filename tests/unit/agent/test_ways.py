"""Which way copies leave a host, and by which devices they may as super-packets."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from pktmirror.agent.ways import RouteQuery, Way, is_card, leaves_ahead, splits, way_of
from pktmirror.kernel.netlink import Link, Route
from pktmirror.model.underlay import Segmentation

NIC = Link(2, "eth0", None, "02:00:00:00:00:01", 9000, True, None, None, None, None)
TARGET, ROUTER = IPv4Address("198.51.100.9"), IPv4Address("10.0.0.1")
QUERY, ROUTE = RouteQuery(TARGET, 254, None), Route(NIC.ifindex, ROUTER, None, IPv4Address("10.0.0.2"))


def test_a_way_is_where_the_route_leads_with_the_mtu_of_its_device() -> None:
    expected = Way(NIC.ifindex, ROUTER, 9000, IPv4Address("10.0.0.2"), splits=True, is_card=True)
    assert way_of(QUERY, ROUTE, {NIC.ifindex: NIC}, {}, []) == expected


@pytest.mark.parametrize(("route_mtu", "mtu"), [(1500, 1500), (9001, 9000)])
def test_the_smaller_mtu_of_route_and_device_holds(route_mtu: int, mtu: int) -> None:
    way = way_of(QUERY, replace(ROUTE, mtu=route_mtu), {NIC.ifindex: NIC}, {}, [])
    assert way is not None
    assert way.mtu == mtu


def test_there_is_no_way_without_a_route_or_by_a_device_that_is_down_or_gone() -> None:
    assert way_of(QUERY, None, {NIC.ifindex: NIC}, {}, []) is None
    assert way_of(QUERY, ROUTE, {NIC.ifindex: replace(NIC, up=False)}, {}, []) is None
    assert way_of(QUERY, ROUTE, {}, {}, []) is None


@pytest.mark.parametrize("kind", [None, "bridge"])
def test_what_leaves_by_a_card_or_a_bridge_is_split_before_anybody_sees_it(kind: str | None) -> None:
    assert splits(replace(NIC, kind=kind))


@pytest.mark.parametrize("kind", ["veth", "tun", "macvlan", "vxlan", "dummy"])
def test_what_leaves_by_other_devices_may_be_seen_as_it_is(kind: str) -> None:
    assert not splits(replace(NIC, kind=kind))


def test_nothing_leaves_by_a_device_without_ethernet() -> None:
    assert not splits(replace(NIC, name="lo", ethernet=False))


def test_what_leaves_by_a_card_does_not_wait_for_production() -> None:
    assert is_card(NIC)
    assert leaves_ahead(Segmentation.AUTO, is_card(NIC))


def test_what_leaves_by_a_bridge_does_since_it_may_come_to_the_same_queue() -> None:
    bridge = replace(NIC, kind="bridge")
    assert not is_card(bridge)
    assert not leaves_ahead(Segmentation.AUTO, is_card(bridge))


def test_a_device_that_leads_to_a_card_is_as_one_by_the_operators_word() -> None:
    veth = replace(NIC, kind="veth")
    assert leaves_ahead(Segmentation.UNDERLAY, is_card(veth))
    assert not leaves_ahead(Segmentation.AUTO, is_card(veth))
    assert not is_card(replace(NIC, name="lo", ethernet=False))

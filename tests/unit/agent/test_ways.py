"""By which devices copies may leave as super-packets."""

from dataclasses import replace

import pytest

from pktmirror.agent.ways import is_card, leaves_ahead, splits
from pktmirror.kernel.netlink import Link
from pktmirror.model.underlay import Segmentation

NIC = Link(2, "eth0", None, "02:00:00:00:00:01", 9000, True, None, None, None, None)


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

"""By which devices copies may leave as super-packets."""

from dataclasses import replace

import pytest

from pktmirror.agent.ways import splits
from pktmirror.kernel.netlink import Link

NIC = Link(2, "eth0", None, "02:00:00:00:00:01", 9000, True, None, None, None, None)


@pytest.mark.parametrize("kind", [None, "bridge"])
def test_what_leaves_by_a_card_or_a_bridge_is_split_before_anybody_sees_it(kind: str | None) -> None:
    assert splits(replace(NIC, kind=kind))


@pytest.mark.parametrize("kind", ["veth", "tun", "macvlan", "vxlan", "dummy"])
def test_what_leaves_by_other_devices_may_be_seen_as_it_is(kind: str) -> None:
    assert not splits(replace(NIC, kind=kind))


def test_nothing_leaves_by_a_device_without_ethernet() -> None:
    assert not splits(replace(NIC, name="lo", ethernet=False))

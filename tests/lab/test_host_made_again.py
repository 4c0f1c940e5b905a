"""A host's namespace that is made again under its name, while what was pinned for it is still there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.agent.apply import DataPlane, purge
from pktmirror.agent.plan import Attach
from pktmirror.kernel import bpffs, netns
from pktmirror.kernel.netlink import Netlink

pytestmark = pytest.mark.root

AGENT = "made-again"


@pytest.fixture
def pinned(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "bpf"
    bpffs.mount(root)
    try:
        yield root
    finally:
        if bpffs.is_mounted(root):  # a purge takes it away
            bpffs.unmount(root)


def attached(name: str, root: Path) -> tuple[frozenset[int], int]:
    """In a new namespace of that name: what an agent finds attached there, and then attaches itself."""
    netns.create(name)
    try:
        with netns.Visitor(name) as inside:
            return inside.run(_attach, root)
    finally:
        netns.remove(name)


def _attach(root: Path) -> tuple[frozenset[int], int]:
    with Netlink() as netlink:
        netlink.create_veth("source0", "source1", mtu=1500)
        device = netlink.link_named("source0")
        assert device is not None
        data_plane = DataPlane(netlink, root, AGENT)
        try:
            found = data_plane.tables.attached
            data_plane.make_hops(netlink.links())
            if device.ifindex not in found:
                data_plane.carry_out([Attach(device.ifindex, is_host_side=True)])
            data_plane.read_again()
            assert data_plane.tables.attached == {device.ifindex}
        finally:
            data_plane.close()
    return found, device.ifindex


def test_what_was_attached_in_the_former_namespace_does_not_count(pinned: Path, request: pytest.FixtureRequest) -> None:
    name = f"{request.node.name[:8]}-{pinned.parent.name[-8:]}"
    found, ifindex = attached(name, pinned)
    assert found == frozenset()
    found, ifindex_again = attached(name, pinned)
    assert ifindex_again == ifindex, "the same number, another device: else nothing is tested"
    assert found == frozenset()


def test_a_successor_in_the_same_namespace_adopts_what_is_attached(
    pinned: Path, request: pytest.FixtureRequest
) -> None:
    name = f"{request.node.name[:8]}-{pinned.parent.name[-8:]}"
    netns.create(name)
    try:
        with netns.Visitor(name) as inside:
            _, ifindex = inside.run(_attach, pinned)
            assert inside.run(_tables, pinned) == {ifindex}
            with inside.run(Netlink) as netlink:
                inside.run(purge, netlink, pinned, AGENT)
    finally:
        netns.remove(name)


def _tables(root: Path) -> frozenset[int]:
    with Netlink() as netlink:
        data_plane = DataPlane(netlink, root, AGENT)
        try:
            return data_plane.tables.attached
        finally:
            data_plane.close()

"""What changes in a namespace wakes its agent, however much it is."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Netlink

pytestmark = pytest.mark.root
MORE_THAN_THE_SOCKET_HOLDS = 5000


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"t{os.getpid()}-events"
    netns.create(name)
    try:
        yield name
    finally:
        netns.remove(name)


def change_often(namespace: str, times: int) -> None:
    commands = "".join(f"link set lo mtu {2000 + number % 2}\n" for number in range(times))
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=commands, text=True, check=True)


def test_a_change_is_told_once(namespace: str) -> None:
    with netns.Visitor(namespace) as inside, inside.run(Netlink) as netlink:
        inside.run(netlink.watch)
        assert not netlink.drain_events()
        change_often(namespace, 1)
        assert netlink.drain_events()
        assert not netlink.drain_events()


def test_more_changes_than_the_socket_holds_are_told_and_so_is_the_next_one(namespace: str) -> None:
    with netns.Visitor(namespace) as inside, inside.run(Netlink) as netlink:
        inside.run(netlink.watch)
        change_often(namespace, MORE_THAN_THE_SOCKET_HOLDS)
        assert netlink.drain_events()
        assert not netlink.drain_events()
        change_often(namespace, 1)
        assert netlink.drain_events()

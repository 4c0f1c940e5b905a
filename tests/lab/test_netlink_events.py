"""What changes in a namespace wakes its agent, however much it is."""

import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Address, Neighbour, Netlink
from tests.waiting import wait_until

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


ABSENT, MAC = "192.0.2.9", "02:00:00:00:00:09"


@pytest.fixture
def watched(namespace: str) -> Iterator[tuple[netns.Visitor, Netlink]]:
    """Events of the namespace, which has a wire; an answer to ARP is waited for a tenth of a second."""
    commands = "link add wire type veth peer name far\nlink set wire up\nlink set far up\nlink set lo up\n"
    commands += "tuntap add dev tunnel mode tun\nlink set tunnel up\n"
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=commands, text=True, check=True)
    with netns.Visitor(namespace) as inside, inside.run(Netlink) as netlink:
        inside.run(Path("/proc/sys/net/ipv4/neigh/wire/retrans_time_ms").write_text, "100")
        inside.run(netlink.watch)
        yield inside, netlink


def ifindex_of(inside: netns.Visitor, netlink: Netlink, name: str) -> int:
    [ifindex] = [link.ifindex for link in inside.run(netlink.links) if link.name == name]
    return ifindex


def test_who_does_not_answer_is_told_once_each_time_it_is_asked_for(watched: tuple[netns.Visitor, Netlink]) -> None:
    inside, netlink = watched
    wire, absent = ifindex_of(inside, netlink, "wire"), ip_address(ABSENT)

    def entry() -> Neighbour:
        [found] = [each for each in inside.run(netlink.neighbours) if each.address == absent]
        return found

    def told() -> frozenset[tuple[int, Address]]:
        netlink.drain_events()
        return netlink.take_failed_neighbours()

    for _ in range(2):
        inside.run(netlink.ask_for_neighbour, wire, absent)
        failed = wait_until(told, 5, "nobody gives it up")
        assert failed == {(wire, absent)}
        assert entry() == Neighbour(wire, absent, None, failed=True)
        assert told() == frozenset()
    inside.run(Path("/proc/sys/net/ipv4/neigh/wire/retrans_time_ms").write_text, "600000")
    inside.run(netlink.ask_for_neighbour, wire, absent)
    assert entry() == Neighbour(wire, absent, None, failed=False, incomplete=True)
    assert told() == frozenset(), "it has not failed yet"


@pytest.mark.parametrize(
    "change",
    [["replace", ABSENT, "lladdr", MAC, "dev", "wire"], ["del", ABSENT, "dev", "wire"]],
    ids=lambda each: each[0],
)
def test_whoever_is_known_or_forgotten_by_the_time_one_looks_has_not_failed(
    namespace: str, watched: tuple[netns.Visitor, Netlink], change: list[str]
) -> None:
    inside, netlink = watched
    neighbour, of_wire = ["ip", "-n", namespace, "neighbour"], [ABSENT, "lladdr", MAC, "dev", "wire"]

    def fails() -> None:
        """The kernel tells it of an entry that was known."""
        for state in ("reachable", "failed"):
            subprocess.run([*neighbour, "replace", *of_wire, "nud", state], check=True)

    fails()
    netlink.drain_events()
    assert netlink.take_failed_neighbours() == {(ifindex_of(inside, netlink, "wire"), ip_address(ABSENT))}
    fails()
    subprocess.run([*neighbour, *change], check=True)
    netlink.drain_events()
    assert netlink.take_failed_neighbours() == frozenset()


def test_asking_for_a_neighbour_leaves_what_is_known_of_it(
    namespace: str, watched: tuple[netns.Visitor, Netlink]
) -> None:
    inside, netlink = watched
    subprocess.run(["ip", "-n", namespace, "neighbour", "add", ABSENT, "lladdr", MAC, "dev", "wire"], check=True)
    before = inside.run(netlink.neighbours)
    inside.run(netlink.ask_for_neighbour, ifindex_of(inside, netlink, "wire"), ip_address(ABSENT))
    assert inside.run(netlink.neighbours) == before
    assert [each.mac for each in before if each.address == ip_address(ABSENT)] == [MAC]


def test_devices_on_which_nobody_is_asked_for_are_known(watched: tuple[netns.Visitor, Netlink]) -> None:
    inside, netlink = watched
    resolves = {link.name: link.resolves for link in inside.run(netlink.links)}
    assert resolves == {"wire": True, "far": True, "lo": False, "tunnel": False}

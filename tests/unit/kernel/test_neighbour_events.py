"""What the kernel tells of neighbours, as rtnetlink has it on the wire."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pktmirror.kernel.neighbour_events import NeighbourEvent, neighbour_events

NEW, DELETED, NEW_LINK = 28, 29, 16
INCOMPLETE, REACHABLE, STALE, DELAY, PROBE, FAILED, NOARP, PERMANENT = (1 << bit for bit in range(8))
ADDRESS, OTHER = "10.0.0.9", "10.0.0.8"


def event(state: int, address: str = ADDRESS, *, kind: int = NEW, family: int | None = None, ifindex: int = 7) -> bytes:
    """As Linux sends it: the link address stands behind the address, and other attributes behind both."""
    packed = ip_address(address).packed
    family = {4: 2, 16: 10}[len(packed)] if family is None else family
    attributes = b"".join(
        struct.pack("=HH", 4 + len(value), number) + value.ljust(len(value) + -len(value) % 4, b"\0")
        for number, value in ((1, packed), (2, bytes(6)), (3, bytes(16)))
    )
    body = struct.pack("=BBHiHBB", family, 0, 0, ifindex, state, 0, 1) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def told(datagram: bytes) -> list[NeighbourEvent]:
    return list(neighbour_events(datagram))


def test_a_neighbour_that_does_not_answer_is_told_with_its_device_and_address() -> None:
    assert told(event(FAILED)) == [NeighbourEvent(7, ip_address(ADDRESS), failed=True)]
    assert told(event(FAILED, "fe80::9", ifindex=8)) == [NeighbourEvent(8, ip_address("fe80::9"), failed=True)]


@pytest.mark.parametrize("state", [REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT])
def test_one_whose_link_address_is_known_is_told_as_not_failed(state: int) -> None:
    assert told(event(state)) == [NeighbourEvent(7, ip_address(ADDRESS), failed=False)]


def test_one_that_the_table_forgets_is_not_failed_whatever_it_was_before() -> None:
    """`ip neighbour del` makes the kernel tell FAILED, and then that the entry is gone."""
    assert [each.failed for each in told(event(FAILED) + event(FAILED, kind=DELETED))] == [True, False]


def test_one_that_is_asked_for_is_no_event() -> None:
    assert told(event(INCOMPLETE) + event(0) + event(FAILED, OTHER)) == [
        NeighbourEvent(7, ip_address(OTHER), failed=True)
    ]


def test_what_is_of_something_else_is_left_out_and_what_follows_is_not() -> None:
    bridges = event(FAILED, family=7)
    assert told(event(FAILED, kind=NEW_LINK) + bridges + event(FAILED, "10.0.0.8", family=10) + event(FAILED)) == [
        NeighbourEvent(7, ip_address(ADDRESS), failed=True)
    ]


NO_LENGTH = (
    struct.pack("=IHHII", 16 + 12 + 8, NEW, 0, 0, 0) + struct.pack("=BBHiHBB", 2, 0, 0, 7, FAILED, 0, 1) + bytes(8)
)


@given(st.binary(max_size=200))
@example(bytes(16))
@example(NO_LENGTH)
def test_whatever_it_gets_it_ends(datagram: bytes) -> None:
    told(datagram)


@given(st.data())
def test_what_is_cut_off_is_left_out(data: st.DataObject) -> None:
    whole = event(FAILED) + event(FAILED, "2001:db8::9")
    cut = data.draw(st.integers(0, len(whole)))
    assert told(whole[:cut]) == told(whole)[: len(told(whole[:cut]))]
    assert len(told(whole[: len(event(FAILED))])) == 1

"""A document as it is sent: streams are written once for all hosts, and each host gets those of the others."""

import pytest
from msgspec import structs

from pktmirror.control.placement import Resources, desired_state, document
from pktmirror.desired import decode_desired_state
from tests.unit.control.records import interface, resources, session, target

TWO_OF_ONE = [("a", "h1", 7), ("b", "h1", 8), ("c", "h2", 9)]
SHARED = [("a", "h1", 7), ("b", "h2", 7), ("c", "h3", 8)]  # a and b have one address: no stream of theirs is one host's


def sending(*sources: tuple[str, str, int], address_of: dict[str, str]) -> Resources:
    found = [interface(name, address_of.get(name, f"10.0.0.{ord(name)}"), host=host) for name, host, _ in sources]
    there = interface("t", "10.0.1.1", host="monitors")
    sessions = [session(name, name, "t", vni=vni) for name, _, vni in sources]
    return resources([*found, there], [target("t")], sessions)


@pytest.mark.parametrize(
    "known",
    [
        sending(address_of={}),
        sending(*TWO_OF_ONE[:1], address_of={}),
        sending(*TWO_OF_ONE, address_of={}),
        sending(*SHARED, address_of={"a": "10.0.0.9", "b": "10.0.0.9"}),
    ],
)
def test_what_is_sent_is_the_desired_state(known: Resources) -> None:
    for host_id in ("h1", "h2", "h3", "monitors", "nobody"):
        told = decode_desired_state(document(known, host_id))
        assert structs.replace(told, streams_id="") == desired_state(known, host_id)


def test_a_host_has_no_stream_of_its_own_alone() -> None:
    known = sending(*TWO_OF_ONE, address_of={})
    assert [stream.vni for stream in decode_desired_state(document(known, "h1")).streams] == [9]
    assert [stream.vni for stream in decode_desired_state(document(known, "h2")).streams] == [7, 8]
    shared = sending(*SHARED, address_of={"a": "10.0.0.9", "b": "10.0.0.9"})
    assert [stream.vni for stream in decode_desired_state(document(shared, "h1")).streams] == [7, 8]


def test_streams_that_a_host_knows_are_not_told_again() -> None:
    known = sending(*TWO_OF_ONE, address_of={})
    told = decode_desired_state(document(known, "h1"))
    again = decode_desired_state(document(known, "h1", told.streams_id))
    assert (again.streams_kept, again.streams, again.streams_id) == (True, (), told.streams_id)
    assert structs.replace(again, streams_kept=False, streams=told.streams) == told
    assert decode_desired_state(document(known, "h2")).streams_id != told.streams_id
    changed = sending(*TWO_OF_ONE[:2], ("c", "h2", 10), address_of={})
    assert [stream.vni for stream in decode_desired_state(document(changed, "h1", told.streams_id)).streams] == [10]

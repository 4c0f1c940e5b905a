from dataclasses import replace

from pktmirror.control.inventory import changes, forgotten
from pktmirror.control.records import InterfaceRecord
from tests.unit.control.records import HOST, found, interface, report


def test_a_new_interface_gets_an_id_of_its_own() -> None:
    [record] = changes([], report(found("web", "10.0.0.1")), 1.0, interface_id=lambda: "eni-new")
    assert record == InterfaceRecord("eni-new", HOST, found("web", "10.0.0.1"))
    a, b = changes([], report(found("a"), found("b")), 1.0)
    assert a.interface_id != b.interface_id


def test_what_is_known_and_unchanged_is_no_change() -> None:
    assert changes([interface("web", "10.0.0.1")], report(found("web", "10.0.0.1")), 1.0) == []


def test_a_changed_interface_keeps_its_id() -> None:
    [record] = changes([interface("web", "10.0.0.1")], report(found("web", "10.0.0.2")), 1.0)
    assert record == interface("web", "10.0.0.2")


def test_one_that_vanishes_is_detached_once_and_keeps_what_was_known_of_it() -> None:
    known = interface("web", "10.0.0.1")
    [gone] = changes([known], report(), 5.0)
    assert gone == replace(known, detached_at_s=5.0)
    assert changes([gone], report(), 9.0) == []


def test_one_that_returns_is_the_same_interface() -> None:
    gone = interface("web", "10.0.0.1", detached_at_s=5.0)
    assert changes([gone], report(found("web", "10.0.0.1")), 9.0) == [interface("web", "10.0.0.1")]


def test_only_those_gone_for_long_enough_are_forgotten() -> None:
    there, short, long = interface("a"), interface("b", detached_at_s=95.0), interface("c", detached_at_s=90.0)
    assert forgotten([there, short, long], 100.0, 10.0) == [long]
    assert forgotten([there, short, long], 100.0, None) == []


def test_an_instance_is_named_by_host_provider_and_name() -> None:
    one = interface("web")
    assert one.instance_id == interface("web", "10.0.0.9").instance_id
    assert one.instance_id != interface("web", host="h2").instance_id
    assert replace(one, found=found("db")).instance_id != one.instance_id

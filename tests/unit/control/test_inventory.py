from dataclasses import replace

import msgspec
import pytest

from pktmirror.control.inventory import changes, deleted, forgotten
from pktmirror.control.records import InterfaceRecord
from pktmirror.desired import FoundInterface, InstanceFacts
from pktmirror.networks import load
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


def test_only_what_is_said_to_be_deleted_is_and_never_what_is_there() -> None:
    web, db, gone = interface("web"), interface("db"), interface("old", detached_at_s=1.0)
    known = [web, db, gone]
    assert deleted(known, report()) == [], "a report without it is one of an interface that is gone"
    assert deleted(known, msgspec.structs.replace(report(found("db")), deleted=("web", "old", "never"))) == [web, gone]
    assert deleted(known, msgspec.structs.replace(report(found("web")), deleted=("web",))) == []


DECLARED = load('[[interface]]\nhost = "h1"\nkey = "netns:web/eth0"\naddress = "10.0.0.48"\n')


def of_namespace(name: str, *addresses: str, neighbours: tuple[str, ...] = (), mac: str = "02::1") -> FoundInterface:
    return msgspec.structs.replace(found(name, *addresses), key=f"netns:{name}/eth0", neighbours=neighbours, mac=mac)


def test_a_new_interface_has_the_address_that_was_declared_for_it_before() -> None:
    web, db = changes([], report(of_namespace("web"), of_namespace("db")), 1.0, DECLARED)
    assert (web.primary_address, web.address_from) == (DECLARED.addresses["h1", "netns:web/eth0"], "operator")
    assert (db.primary_address, db.address_from) == (None, None)
    [other] = changes([], report(of_namespace("web"), host="h2"), 1.0, DECLARED)
    assert other.primary_address is None, "the same name on another host is another interface"


@pytest.mark.parametrize(
    ("declared", "addresses", "neighbours", "primary", "told_by"),
    [
        ("10.0.0.1", ("10.0.0.2", "10.0.0.1"), ("10.0.0.3",), ("10.0.0.1", "10.0.0.2"), "operator"),
        (None, ("10.0.0.2",), ("10.0.0.3",), ("10.0.0.2",), "provider"),
        (None, (), ("10.0.0.3", "10.0.0.4"), ("10.0.0.3",), "neighbour table"),
        (None, (), (), (), None),
    ],
)
def test_the_operator_comes_before_the_provider_and_that_before_the_neighbour_table(
    declared: str | None,
    addresses: tuple[str, ...],
    neighbours: tuple[str, ...],
    primary: tuple[str, ...],
    told_by: str | None,
) -> None:
    record = InterfaceRecord("eni-web", HOST, of_namespace("web", *addresses, neighbours=neighbours), None, declared)
    assert (record.addresses, record.address_from) == (primary, told_by)
    assert (record.not_mirrorable is None) is bool(primary)


def test_an_interface_with_ipv6_only_can_be_a_source_and_one_without_an_address_cannot() -> None:
    assert interface("web", "2001:db8::1").not_mirrorable is None
    assert "no primary address is known" in (interface("web").not_mirrorable or "")


def neighbour_after(before: FoundInterface, now: FoundInterface) -> tuple[str, ...]:
    known = InterfaceRecord("eni-web", HOST, before)
    [record, *_] = [*changes([known], report(now), 1.0), known]
    return record.found.neighbours


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        pytest.param(of_namespace("web"), ("10.0.0.3",), id="an entry that expires is no reason"),
        pytest.param(of_namespace("web", neighbours=("10.0.0.1", "10.0.0.3")), ("10.0.0.3",), id="one more is not"),
        pytest.param(of_namespace("web", neighbours=("10.0.0.9",)), ("10.0.0.9",), id="another in its place is"),
        pytest.param(of_namespace("web", mac="02::2"), (), id="another card is"),
        pytest.param(of_namespace("web", "10.0.0.7"), (), id="the provider's word is"),
    ],
)
def test_what_the_neighbour_table_said_stays_until_it_is_contradicted(
    now: FoundInterface, kept: tuple[str, ...]
) -> None:
    assert neighbour_after(of_namespace("web", neighbours=("10.0.0.3",)), now) == kept


def test_an_expired_entry_of_the_neighbour_table_is_no_change() -> None:
    known = InterfaceRecord("eni-web", HOST, of_namespace("web", neighbours=("10.0.0.3",)))
    assert changes([known], report(of_namespace("web")), 1.0) == []
    assert changes([known], report(of_namespace("web", neighbours=("10.0.0.1", "10.0.0.3"))), 1.0) == []


MAC = "52:54:00:00:00:77"
FACTS = InstanceFacts(engine="libvirt", instance_id="6c5b", name="web", labels={"tier": "front"})


def tap(key: str = "tap:vnet0", mac: str | None = MAC, **more: object) -> FoundInterface:
    return msgspec.structs.replace(found(key), key=key, provider="tap", instance=None, mac=mac, **more)


def of_libvirt(device: str = "vnet0") -> FoundInterface:
    return tap(f"libvirt:6c5b/{MAC}", plain_key=f"tap:{device}", facts=FACTS)


@pytest.mark.parametrize("mac", [MAC, None])
def test_an_interface_keeps_its_id_when_an_engine_begins_to_tell_whose_it_is(mac: str | None) -> None:
    """As at the upgrade from a version without engines."""
    before = InterfaceRecord("eni-1", HOST, tap(mac=mac), declared_address="10.0.0.7")
    [record] = changes([before], report(of_libvirt()), 9.0)
    assert record == replace(before, found=of_libvirt())
    assert changes([record], report(of_libvirt()), 9.0) == []
    [moved] = changes([record], report(of_libvirt("vnet3")), 9.0)
    assert (moved.interface_id, moved.found.plain_key) == ("eni-1", "tap:vnet3")
    [healed] = changes([replace(before, detached_at_s=5.0)], report(of_libvirt()), 9.0)
    assert healed == replace(before, found=of_libvirt())


def test_it_is_not_taken_for_one_whose_name_it_has_by_now() -> None:
    stranger = InterfaceRecord("eni-1", HOST, tap(mac="52:54:00:00:00:99"))
    new, gone = changes([stranger], report(of_libvirt()), 9.0, interface_id=lambda: "eni-2")
    assert (new.interface_id, new.found) == ("eni-2", of_libvirt())
    assert gone == replace(stranger, detached_at_s=9.0)
    itself = InterfaceRecord("eni-1", HOST, tap())
    [new] = changes([itself], report(tap(), of_libvirt()), 9.0, interface_id=lambda: "eni-2")
    assert new.interface_id == "eni-2", "the one of that key is there itself"


def test_an_agent_that_has_to_do_without_its_engine_tells_of_the_same_interface() -> None:
    """As after a reboot with libvirt away, or with an agent of a version without engines."""
    known = InterfaceRecord("eni-1", HOST, of_libvirt())
    [record] = changes([known], report(tap()), 9.0)
    assert (record.interface_id, record.found.key, record.found.facts) == ("eni-1", "tap:vnet0", FACTS)
    [back] = changes([record], report(of_libvirt()), 9.0)
    assert back == known
    for another in (tap(mac="52:54:00:00:00:99"), tap(mac=None), tap("tap:vnet9")):
        new, gone = changes([known], report(another), 9.0, interface_id=lambda: "eni-2")
        assert (new.interface_id, gone.interface_id) == ("eni-2", "eni-1")


def test_what_an_engine_told_stays_while_it_does_not_answer_and_changes_when_it_does() -> None:
    known = InterfaceRecord("eni-1", HOST, of_libvirt())
    silent = msgspec.structs.replace(of_libvirt(), facts=None)
    assert changes([known], report(silent), 9.0) == []
    fresh = msgspec.structs.replace(of_libvirt(), facts=msgspec.structs.replace(FACTS, labels={}))
    [record] = changes([known], report(fresh), 9.0)
    assert record.found == fresh


def test_an_address_that_is_declared_for_its_plain_key_is_its_own() -> None:
    networks = load(NETWORKS_OF_A_TAP.format(key="tap:vnet0"))
    [record] = changes([], report(of_libvirt()), 9.0, networks)
    assert record.declared_address == "10.0.0.7"
    [record] = changes([], report(of_libvirt("vnet3")), 9.0, networks)
    assert record.declared_address is None
    [record] = changes([], report(of_libvirt("vnet3")), 9.0, load(NETWORKS_OF_A_TAP.format(key=of_libvirt().key)))
    assert record.declared_address == "10.0.0.7"


NETWORKS_OF_A_TAP = """
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
[[interface]]
host = "h1"
key = "{key}"
address = "10.0.0.7"
"""

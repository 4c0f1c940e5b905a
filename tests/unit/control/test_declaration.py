"""What forbids a change of networks: an interface in use that would change its subnet or lose its address."""

from dataclasses import replace

import pytest

from pktmirror.control.declaration import conflicts
from pktmirror.control.records import InterfaceRecord
from pktmirror.networks import Networks, load
from tests.unit.control.records import interface

OFFICE = """
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
[[vpc.subnet]]
name = "b"
cidr = "10.0.1.0/24"
"""
USED = {"eni-web": "the source of tms-1"}
WEB = interface("web", "10.0.0.48")
BARE = interface("web")


def declared(record: InterfaceRecord, address: str | None) -> InterfaceRecord:
    return replace(record, declared_address=address)


def forbidden(
    after: str, then: InterfaceRecord = WEB, now: InterfaceRecord | None = None, before: str = OFFICE
) -> list[str]:
    return list(conflicts(load(before), load(after), [then], [now or then], USED))


@pytest.mark.parametrize(
    "after",
    [
        "",
        OFFICE.replace("10.0.0.0/24", "10.0.2.0/24"),
        OFFICE.replace('"office"', '"works"'),
        OFFICE.replace('name = "a"', 'name = "c"'),
        OFFICE.replace("10.0.0.0/24", "10.0.0.0/27"),
    ],
    ids=["its VPC is gone", "its subnet is gone", "its VPC is another", "its subnet is another", "it is left outside"],
)
def test_an_interface_in_use_does_not_leave_its_subnet(after: str) -> None:
    [said] = forbidden(after)
    assert "eni-web (web on h1) is in subnet a of VPC office" in said
    assert "the source of tms-1: delete that first" in said
    assert list(conflicts(load(OFFICE), load(after), [WEB], [WEB], {})) == [], "one that nothing uses may"


@pytest.mark.parametrize(
    "after",
    [
        OFFICE,
        OFFICE.replace("10.0.1.0/24", "10.0.3.0/24"),
        OFFICE.replace("10.0.0.0/24", "10.0.0.0/25"),
        OFFICE.replace('"10.0.0.0/16"', '"10.0.0.0/16"\nunderlay = { outer_source = "host", route_table = 7 }'),
    ],
    ids=["nothing", "another subnet", "its subnet, and still around it", "its underlay"],
)
def test_what_leaves_an_interface_in_its_subnet_may_change(after: str) -> None:
    assert forbidden(after) == []


def test_an_interface_outside_every_subnet_may_get_one() -> None:
    assert forbidden(OFFICE, before="") == []


def test_an_interface_in_use_does_not_lose_its_address_but_may_get_another_in_its_subnet() -> None:
    here = declared(BARE, "10.0.0.48")
    [said] = forbidden(OFFICE, here, BARE)
    assert "would have no primary address any more" in said
    assert forbidden(OFFICE, here, declared(BARE, "10.0.0.49")) == []
    assert forbidden(OFFICE, declared(WEB, "10.0.0.50"), WEB) == [], "its namespace still tells one"
    [said] = forbidden(OFFICE, here, declared(BARE, "10.0.1.49"))
    assert "would move to subnet b of VPC office" in said


def test_each_interface_in_the_way_is_named() -> None:
    db = interface("db", "10.0.1.5")
    both = list(conflicts(load(OFFICE), Networks(), [WEB, db], [WEB, db], USED | {"eni-db": "the target tmt-1"}))
    assert ["eni-web" in both[0], "eni-db" in both[1]] == [True, True]

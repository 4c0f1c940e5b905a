"""networks.toml becomes VPCs, or one sentence about what is wrong with it."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pktmirror.model.ids import Prefix, derived_id
from pktmirror.model.refusal import Refusal
from pktmirror.networks import (
    LINK_LOCAL_RESOLVER,
    Declaration,
    InterfaceDeclaration,
    Networks,
    UnderlayDeclaration,
    VpcDeclaration,
    differences,
    load,
    parse,
    toml,
    with_address,
)

OFFICE = """
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
ipv6_cidr = "fd00:0:0::/48"

[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
ipv6_cidr = "fd00::/64"
zone = "here-1a"

[[vpc.subnet]]
name = "b"
cidr = "10.0.1.0/24"
"""
LAB = """
[[vpc]]
name = "lab"
cidr = "192.168.0.0/24"
resolvers = ["192.168.0.53", "fd00:1::53"]

[vpc.underlay]
route_table = 100
device = "br-u"
mtu_max = 9000

[[vpc.subnet]]
name = "a"
cidr = "192.168.0.0/25"
"""

WEB = """
[[interface]]
host = "host-1"
key = "netns:web/eth0"
address = "10.0.0.48"
"""


def test_nothing_declared_is_no_vpc() -> None:
    assert load("") == Networks()


def test_a_vpc_in_full() -> None:
    (vpc,) = load(OFFICE).vpcs
    assert vpc.vpc_id == derived_id(Prefix.VPC, "office")
    assert vpc.networks == (ip_network("10.0.0.0/16"), ip_network("fd00::/48"))
    assert vpc.underlay == UnderlayDeclaration(route_table=254, device=None, mtu_max=None)
    a, b = vpc.subnets
    assert (a.subnet_id, a.vpc_id, a.name, a.zone) == (
        derived_id(Prefix.SUBNET, "office", "a"),
        vpc.vpc_id,
        "a",
        "here-1a",
    )
    assert a.networks == (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
    assert (b.zone, b.networks) == (None, (ip_network("10.0.1.0/24"),))


def test_the_resolver_is_the_base_address_plus_two_and_the_link_local_one() -> None:
    assert load(OFFICE).vpcs[0].resolvers == (ip_address("10.0.0.2"), LINK_LOCAL_RESOLVER)


def test_declared_resolvers_replace_these() -> None:
    assert load(LAB).vpcs[0].resolvers == (ip_address("192.168.0.53"), ip_address("fd00:1::53"))


def test_a_vpc_can_have_no_resolver() -> None:
    assert load(OFFICE.replace("[[vpc.subnet]]", "resolvers = []\n[[vpc.subnet]]", 1)).vpcs[0].resolvers == ()


def test_the_underlay_is_declared_for_the_vpc() -> None:
    assert load(LAB).vpcs[0].underlay == UnderlayDeclaration(route_table=100, device="br-u", mtu_max=9000)


def test_ids_are_the_same_each_time_and_whatever_else_is_declared() -> None:
    assert load(OFFICE).vpcs[0] == load(LAB + OFFICE).vpcs[1] == load(OFFICE).vpcs[0]


def test_two_vpcs_may_name_their_subnets_alike() -> None:
    office, lab = load(OFFICE + LAB).vpcs
    assert office.subnets[0].name == lab.subnets[0].name == "a"
    assert office.subnets[0].subnet_id != lab.subnets[0].subnet_id


@pytest.mark.parametrize(
    ("address", "subnet"),
    [
        ("10.0.0.0", "a"),
        ("10.0.0.255", "a"),
        ("10.0.1.0", "b"),
        ("10.0.2.0", None),
        ("fd00::6", "a"),
        ("fd00:0:0:1::6", None),
        ("192.168.0.6", "a"),
        ("192.168.0.129", None),
        ("203.0.113.1", None),
    ],
)
def test_an_address_is_in_the_one_subnet_that_holds_it_or_in_none(address: str, subnet: str | None) -> None:
    placed = load(OFFICE + LAB).place(ip_address(address))
    assert (placed and placed[1].name) == subnet
    if placed:
        assert placed[1] in placed[0].subnets
        assert placed[1].vpc_id == placed[0].vpc_id


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[[vpc]]\nname = ", "value"),
        ('[[vpc]]\nname = "office"', "cidr"),
        ('[[vpc]]\nname = "office"\ncidr = "10.0.0.0/16"\nmtu = 9', "mtu"),
        (OFFICE.replace("10.0.0.0/16", "10.0.0.1/16"), "office: 10.0.0.1/16 has host bits set"),
        (OFFICE.replace("10.0.0.0/16", "ten"), "office: 'ten'"),
        (LAB.replace("192.168.0.53", "resolver.lab"), "lab: 'resolver.lab'"),
        (OFFICE.replace("10.0.1.0/24", "10.1.1.0/24"), "subnet b (10.1.1.0/24) lies outside its VPC office"),
        (OFFICE.replace("fd00::/64", "fd01::/64"), "subnet a (fd01::/64) lies outside its VPC office"),
        (OFFICE.replace("10.0.1.0/24", "10.0.0.128/25"), "subnet a (10.0.0.0/24) overlaps b (10.0.0.128/25)"),
        (OFFICE.replace('name = "b"', 'name = "a"'), "subnet a is declared twice"),
        (OFFICE + OFFICE, "VPC office is declared twice"),
        (OFFICE + OFFICE.replace('"office"', '"other"'), "VPC office (10.0.0.0/16) overlaps other (10.0.0.0/16)"),
        (LAB.replace('"br-u"', '"br-u"\nfamily = 5'), "family is 5, not 4 (IPv4) or 6 (IPv6)"),
        (LAB.replace('"br-u"', '"br-u"\nouter_source = "guest"'), 'outer_source is "guest"; "eni"'),
        (LAB.replace('"br-u"', '"br-u"\nsegmentation = "nobody"'), 'segmentation is "nobody"; "auto"'),
        (WEB.replace("10.0.0.48", "web"), "netns:web/eth0 on host-1: 'web'"),
        (WEB.replace("10.0.0.48", "fd00::48"), "netns:web/eth0 on host-1: fd00::48 is not IPv4"),
        (WEB.replace("10.0.0.48", "0.0.0.0"), "0.0.0.0 is no address of an interface"),
        (WEB.replace("10.0.0.48", "224.0.0.1"), "224.0.0.1 is no address of an interface"),
        (WEB.replace("netns:web/eth0", "web"), "as `pktmirror interfaces` shows them"),
        (WEB.replace('"host-1"', '""'), "as `pktmirror interfaces` shows them"),
        (WEB + WEB.replace("10.0.0.48", "10.0.0.49"), "netns:web/eth0 on host-1 is declared twice"),
        (WEB + WEB.replace("host-1", "host-2"), "10.0.0.48 is declared for another interface too"),
    ],
    ids=[
        "no TOML",
        "no network",
        "a field that nobody knows",
        "an address for a network",
        "no network at all",
        "a name for a resolver",
        "a subnet outside",
        "an IPv6 subnet outside",
        "subnets that overlap",
        "one subnet twice",
        "one VPC twice",
        "VPCs that overlap",
        "a family that is none",
        "an outer source that nobody knows",
        "a segmentation that nobody knows",
        "a name for an interface's address",
        "an IPv6 address for a primary one",
        "no address of anybody",
        "an address of a group",
        "an interface without its provider",
        "an interface without its host",
        "one interface twice",
        "one address for two interfaces",
    ],
)
def test_what_cannot_be_used_is_refused_by_name_and_with_a_way_out(text: str, found: str) -> None:
    with pytest.raises(Refusal) as refusal:
        load(text)
    assert found.lower() in (refusal.value.found or "").lower()
    assert "networks.toml" in refusal.value.do


def test_more_resolvers_than_a_policy_holds_are_refused() -> None:
    eight = ", ".join(f'"192.0.2.{last}"' for last in range(8))
    assert (
        len(load(OFFICE.replace("[[vpc.subnet]]", f"resolvers = [{eight}]\n[[vpc.subnet]]", 1)).vpcs[0].resolvers) == 8
    )
    with pytest.raises(Refusal, match="has 9 resolvers, 8 at most"):
        load(OFFICE.replace("[[vpc.subnet]]", f'resolvers = [{eight}, "192.0.2.8"]\n[[vpc.subnet]]', 1))


@pytest.mark.parametrize("mtu", [68, 65535])
def test_an_underlay_may_be_as_small_or_large_as_ipv4_allows(mtu: int) -> None:
    assert load(LAB.replace("9000", str(mtu))).vpcs[0].underlay.mtu_max == mtu


@pytest.mark.parametrize("mtu", [67, 65536, -1])
def test_an_underlay_that_no_packet_fits_is_refused(mtu: int) -> None:
    with pytest.raises(Refusal, match=f"mtu_max is {mtu}"):
        load(LAB.replace("9000", str(mtu)))


@pytest.mark.parametrize("family", [4, 6])
def test_the_family_of_the_outer_headers_is_open_unless_it_is_declared(family: int) -> None:
    assert load(LAB).vpcs[0].underlay.family is None
    declared = LAB.replace('"br-u"', f'"br-u"\nfamily = {family}')
    assert load(declared).vpcs[0].underlay.family == family
    assert load(toml(parse(declared))) == load(declared), "written and read again"


@pytest.mark.parametrize("outer_source", ["eni", "host"])
def test_the_outer_source_is_the_enis_unless_it_is_declared_the_hosts(outer_source: str) -> None:
    assert load(LAB).vpcs[0].underlay.outer_source == "eni"
    declared = load(LAB.replace('"br-u"', f'"br-u"\nouter_source = "{outer_source}"'))
    assert declared.vpcs[0].underlay.outer_source == outer_source


def test_an_interface_is_given_its_address_by_host_and_key() -> None:
    assert load(OFFICE).addresses == {}
    assert load(OFFICE + WEB).addresses == {("host-1", "netns:web/eth0"): ip_address("10.0.0.48")}


@pytest.mark.parametrize("text", ["", OFFICE, LAB, WEB, OFFICE + LAB + WEB], ids=["nothing", "a", "b", "c", "all"])
def test_what_is_shown_as_toml_declares_the_same(text: str) -> None:
    assert parse(toml(parse(text))) == parse(text)


def test_strings_of_any_kind_survive_being_shown_as_toml() -> None:
    odd = Declaration(interface=(InterfaceDeclaration('h"\\', "netns:w\u00e9b\t\u7f51/eth0", "10.0.0.48"),))
    assert parse(toml(odd)) == odd


@given(st.text())
@example("\U0001f600")
@example("\x7f\x80\x1f\r\n\\u007f")
def test_whatever_is_declared_is_shown_as_toml_that_declares_it(text: str) -> None:
    declared = Declaration(
        vpc=(VpcDeclaration(text, text, resolvers=(text,)),), interface=(InterfaceDeclaration("h", text, "10.0.0.48"),)
    )
    assert parse(toml(declared)) == declared


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000], ids=["nested deeply", "a long number"])
def test_what_is_too_much_to_read_is_refused_as_anything_else(text: str) -> None:
    with pytest.raises(Refusal, match=r"networks\.toml"):
        parse(text)


@pytest.mark.parametrize("table", [1, 2**32 - 1])
def test_an_underlay_may_have_any_route_table_that_there_can_be(table: int) -> None:
    assert load(LAB.replace("= 100", f"= {table}")).vpcs[0].underlay.route_table == table


@pytest.mark.parametrize("table", [0, -1, 2**32])
def test_an_underlay_of_a_route_table_that_cannot_be_is_refused(table: int) -> None:
    with pytest.raises(Refusal, match=f"route_table is {table}, not in 1 to 4294967295"):
        load(LAB.replace("= 100", f"= {table}"))


@pytest.mark.parametrize("name", ["a", "fifteen-bytes-x", "br\u00fccke", "br.100", "..."])
def test_an_underlay_may_have_any_device_that_linux_can_name(name: str) -> None:
    assert load(LAB.replace("br-u", name)).vpcs[0].underlay.device == name


@pytest.mark.parametrize(
    "name", ["", "sixteen-bytes-xx", "br\u00fccke-nach-ost", "a/b", "a b", "a\\tb", "a\\u0000b", "a:1", ".", ".."]
)
def test_an_underlay_of_a_device_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(Refusal, match="the underlay's device is"):
        load(LAB.replace("br-u", name))


def test_the_address_of_one_interface_is_set_changed_and_taken_away_without_touching_another() -> None:
    before = parse(OFFICE + WEB)
    both = with_address(before, "host-1", "netns:db/eth0", "10.0.0.50")
    assert [each.address for each in both.interface] == ["10.0.0.48", "10.0.0.50"]
    changed = with_address(both, "host-1", "netns:web/eth0", "10.0.0.49")
    assert {each.key: each.address for each in changed.interface} == {
        "netns:db/eth0": "10.0.0.50",
        "netns:web/eth0": "10.0.0.49",
    }
    assert with_address(both, "host-1", "netns:db/eth0", None) == before
    assert with_address(before, "host-2", "netns:web/eth0", None) == before, "another host's"


def test_differences_name_what_came_what_went_and_what_changed() -> None:
    before, after = parse(OFFICE + WEB), parse(OFFICE.replace("10.0.1.0", "10.0.2.0") + LAB)
    assert differences(before, after) == [
        "VPC lab: added",
        "VPC office: changed",
        "address of netns:web/eth0 on host-1: removed",
    ]
    assert differences(before, before) == []


@pytest.mark.parametrize("segmentation", ["auto", "host", "underlay"])
def test_who_splits_super_packets_is_found_out_unless_it_is_declared(segmentation: str) -> None:
    assert load(LAB).vpcs[0].underlay.segmentation == "auto"
    declared = load(LAB.replace('"br-u"', f'"br-u"\nsegmentation = "{segmentation}"'))
    assert declared.vpcs[0].underlay.segmentation == segmentation

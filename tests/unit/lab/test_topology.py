"""What a lab may consist of, and what its parts are called."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import msgspec
import pytest

from pktmirror import networks
from pktmirror.lab import DEMO, Host, Instance, Subnet, Topology, host_device, load, networks_toml
from pktmirror.model.refusal import Refusal

A = Subnet("a", IPv4Network("10.0.0.0/24"))
A6 = Subnet("a", IPv4Network("10.0.0.0/24"), ipv6_cidr=IPv6Network("2001:db8::/64"))
B = Subnet("b", IPv4Network("10.0.1.0/24"))
WEB = Instance("web", "a", IPv4Address("10.0.0.48"))


def vpc(*parts: Subnet | Instance | Host, name: str = "shop", ipv6: str | None = None) -> Topology:
    return Topology(
        name=name,
        cidr=IPv4Network("10.0.0.0/16"),
        hosts=tuple(part for part in parts if isinstance(part, Host)) or (Host(),),
        subnets=tuple(part for part in parts if isinstance(part, Subnet)),
        instances=tuple(part for part in parts if isinstance(part, Instance)),
        ipv6_cidr=None if ipv6 is None else IPv6Network(ipv6),
    )


def web(address: str = "10.0.0.48", **other: object) -> Instance:
    return msgspec.structs.replace(WEB, address=IPv4Address(address), **other)


def test_the_demo_is_a_client_a_source_and_a_monitor_in_one_subnet() -> None:
    assert {instance.name: str(instance.address) for instance in DEMO.instances} == {
        "client": "10.0.0.6",
        "web": "10.0.0.48",
        "monitor": "10.0.0.90",
    }
    assert [str(subnet.cidr) for subnet in DEMO.subnets] == ["10.0.0.0/24"]
    assert DEMO.places == ("host", "router", "client", "web", "monitor")
    assert DEMO.namespace("web") == "pktmirror-web"
    assert DEMO.host_of("web") == "host"
    assert host_device("web") == "web0"


@pytest.mark.parametrize(
    ("build", "found", "do"),
    [
        pytest.param(lambda: vpc(name="Shop"), "lab's name 'Shop'", "use a-z", id="a lab's name has no capitals"),
        pytest.param(lambda: vpc(name="shop-"), "lab's name 'shop-'", "use a-z", id="a name ends with no dash"),
        pytest.param(lambda: vpc(name="../x"), "lab's name '../x'", "use a-z", id="a lab's name is no path"),
        pytest.param(lambda: vpc(A, name="s" * 33), "of 33 characters", "at most 32", id="a lab's name has an end"),
        pytest.param(
            lambda: vpc(A, web(name="w" * 15)),
            "of 15 characters",
            "at most 14",
            id="a device is named after an instance",
        ),
        pytest.param(
            lambda: vpc(Subnet("s" * 12, A.cidr)),
            "of 12 characters",
            "at most 11",
            id="devices are named after a subnet",
        ),
        pytest.param(
            lambda: vpc(A, WEB, web("10.0.0.49")),
            "the name web twice",
            "name of its own",
            id="two instances of one name",
        ),
        pytest.param(
            lambda: vpc(A, web(name="host")),
            "the name host twice",
            "name of its own",
            id="an instance named as its host",
        ),
        pytest.param(
            lambda: vpc(A, web(name="router")),
            "the name router twice",
            "'router' is the VPC's router",
            id="an instance named as the router",
        ),
        pytest.param(lambda: vpc(A, A), "the subnet a twice", "name of its own", id="two subnets of one name"),
        pytest.param(
            lambda: vpc(Subnet("a", A.cidr), Subnet("x0", B.cidr), web(name="br-x")),
            "the device br-x0 twice",
            "rename the instance or the subnet",
            id="a bridge and a veth of one name",
        ),
        pytest.param(vpc, "the host host without a subnet", "put a subnet on it", id="a host without a subnet"),
        pytest.param(
            lambda: vpc(A, Host(), Host("idle")),
            "the host idle",
            "or leave it out",
            id="one of two hosts without a subnet",
        ),
        pytest.param(
            lambda: vpc(Subnet("a", A.cidr, "east")),
            "subnet a on the host 'east'",
            "one of: host",
            id="an unknown host",
        ),
        pytest.param(
            lambda: vpc(A, B, web(subnet="c")), "in the subnet 'c'", "into one of: a, b", id="an unknown subnet"
        ),
        pytest.param(
            lambda: vpc(Subnet("a", IPv4Network("10.1.0.0/24"))),
            "subnet a with 10.1.0.0/24",
            "a part of the VPC's 10.0.0.0/16",
            id="a subnet outside the VPC",
        ),
        pytest.param(
            lambda: vpc(A6),
            "2001:db8::/64, in a VPC without ipv6_cidr",
            "give the VPC an ipv6_cidr",
            id="an IPv6 subnet in a VPC without IPv6",
        ),
        pytest.param(
            lambda: vpc(Subnet("a", IPv4Network("10.0.0.0/29"))), "10.0.0.0/29", "use /28", id="a subnet too small"
        ),
        pytest.param(
            lambda: vpc(A, Subnet("b", IPv4Network("10.0.0.128/25"))),
            r"subnet a \(10.0.0.0/24\) overlaps b \(10.0.0.128/25\)",
            "addresses of its own",
            id="two subnets that overlap",
        ),
        pytest.param(
            lambda: vpc(A, web("10.0.1.48")),
            "10.0.1.48 outside subnet a",
            "an address of 10.0.0.0/24",
            id="an address outside its subnet",
        ),
        *(
            pytest.param(
                lambda last=last: vpc(A, web(f"10.0.0.{last}")),
                f"10.0.0.{last}, a reserved address",
                "from 10.0.0.4 to 10.0.0.254",
                id=f"the reserved address .{last}",
            )
            for last in (0, 1, 2, 3, 255)
        ),
        pytest.param(
            lambda: vpc(A, WEB, web(name="api")),
            "address 10.0.0.48 twice",
            "address of its own",
            id="one address twice",
        ),
        pytest.param(
            lambda: vpc(A, web(ipv6_address=IPv6Address("2001:db8::48"))),
            "in subnet a, which has no IPv6",
            "give the subnet an ipv6_cidr",
            id="an IPv6 address in a subnet without IPv6",
        ),
        pytest.param(
            lambda: vpc(A6, web(ipv6_address=IPv6Address("2001:db8::3")), ipv6="2001:db8::/56"),
            "2001:db8::3, a reserved address",
            "from 2001:db8::4",
            id="a reserved IPv6 address",
        ),
        pytest.param(
            lambda: vpc(A, web(mac="01:00:5e:00:00:01")), "MAC address", "0a:1b", id="a multicast MAC address"
        ),
        pytest.param(
            lambda: vpc(A, web(mac="0a:00:00:00:00:01"), web("10.0.0.49", name="api", mac="0a:00:00:00:00:01")),
            "MAC address 0a:00:00:00:00:01 twice",
            "of its own, or none",
            id="one MAC address twice",
        ),
        pytest.param(lambda: vpc(A, web(mtu=500)), "MTU 500", "from 576 to 9001", id="an MTU below IPv4's"),
        pytest.param(
            lambda: vpc(Subnet("a", A.cidr, mtu=9002)), "MTU 9002", "from 576 to 9001", id="an MTU above EC2's"
        ),
        pytest.param(
            lambda: vpc(A6, web(mtu=1279, ipv6_address=IPv6Address("2001:db8::48")), ipv6="2001:db8::/56"),
            "MTU 1279",
            "from 1280",
            id="an MTU below IPv6's",
        ),
    ],
)
def test_a_topology_that_cannot_be_built_is_refused(build: Callable[[], Topology], found: str, do: str) -> None:
    with pytest.raises(Refusal, match=rf"(?s)cannot be built.*{found}.*{do}"):
        build()


def test_what_stands_at_the_limits_is_taken() -> None:
    vpc(
        A6,
        B,
        web("10.0.0.4", mtu=576),
        web("10.0.0.254", name="w" * 14, mac="02:00:00:00:00:01", mtu=9001),
        web("10.0.0.5", name="six", mtu=1280, ipv6_address=IPv6Address("2001:db8::4")),
        Subnet("s" * 11, IPv4Network("10.0.2.0/28")),
        name="s" * 32,
        ipv6="2001:db8::/56",
    )


def test_mac_addresses_are_the_same_each_time_and_differ_by_lab_place_and_device() -> None:
    one = vpc(A, WEB)
    assert one.mac_address("web") == vpc(A, WEB).mac_address("web")
    others = {
        vpc(A, WEB, name="other").mac_address("web"),
        vpc(A, web(name="api")).mac_address("api"),
        one.derived_mac("host", "web0"),
    }
    assert len(others | {one.mac_address("web")}) == 4
    assert all(mac.startswith("0a:") and len(mac) == 17 for mac in others)


def test_an_instance_may_have_its_own_mac_address_and_mtu() -> None:
    own = vpc(A, web(mac="0a:00:00:00:00:01", mtu=1400))
    assert (own.mac_address("web"), own.mtu("web")) == ("0a:00:00:00:00:01", 1400)
    assert vpc(A, WEB).mtu("web") == 1500


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(Refusal, match=r"no place 'wbe'.*host, router, web.*name one of these"):
        vpc(A, WEB).namespace("wbe")


def test_a_lab_is_read_from_toml() -> None:
    text = """
        name = "shop"
        cidr = "10.0.0.0/16"
        ipv6_cidr = "2001:db8::/56"
        [[host]]
        name = "east"
        [[subnet]]
        name = "a"
        cidr = "10.0.0.0/24"
        ipv6_cidr = "2001:db8::/64"
        host = "east"
        mtu = 9001
        [[instance]]
        name = "web"
        subnet = "a"
        address = "10.0.0.48"
        ipv6_address = "2001:db8::48"
        mac = "0a:00:00:00:00:01"
        mtu = 1500
    """
    assert load(text) == vpc(
        Host("east"),
        Subnet("a", A.cidr, "east", 9001, IPv6Network("2001:db8::/64")),
        Instance("web", "a", WEB.address, "0a:00:00:00:00:01", 1500, IPv6Address("2001:db8::48")),
        ipv6="2001:db8::/56",
    )


def test_the_file_in_the_rooms_docstring_is_one() -> None:
    from pktmirror.lab import topology

    example = topology.__doc__.partition("::\n")[2]
    assert load("\n".join(line.strip() for line in example.splitlines())) == vpc(A, WEB)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param('name = "shop"', "cidr", id="a field is missing"),
        pytest.param('name = "shop"\ncidr = "10.0.0.1/16"', "host bits set.*cidr", id="a network has host bits"),
        pytest.param('name = "shop"\ncidr = 1', "expected text.*cidr", id="a number is no network"),
        pytest.param('name = "shop"\ncidr = "10.0.0.0/16"\nhosts = []', "unknown field `hosts`", id="an unknown field"),
        pytest.param("name = shop", "Invalid value", id="not TOML"),
    ],
)
def test_a_file_that_is_no_lab_is_refused_with_the_field(text: str, found: str) -> None:
    with pytest.raises(Refusal, match=rf"(?s)file cannot be used.*{found}.*pktmirror lab up --help"):
        load(text)


def test_a_file_with_an_impossible_lab_is_refused_as_such() -> None:
    with pytest.raises(Refusal, match=r"cannot be built.*without a subnet"):
        load('name = "shop"\ncidr = "10.0.0.0/16"')


def test_the_control_plane_reads_the_networks_that_a_lab_declares() -> None:
    topology = vpc(A6, B, ipv6="2001:db8::/56")
    [read] = networks.load(networks_toml(topology)).vpcs
    assert (read.name, read.networks) == ("shop", topology.networks)
    assert [(subnet.name, subnet.networks) for subnet in read.subnets] == [("a", A6.networks), ("b", B.networks)]


def test_the_demos_networks_in_full() -> None:
    assert networks_toml(DEMO) == (
        '[[vpc]]\nname = "pktmirror"\ncidr = "10.0.0.0/16"\n[[vpc.subnet]]\nname = "a"\ncidr = "10.0.0.0/24"\n'
    )

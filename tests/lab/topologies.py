"""Topologies that several lab tests use. Their names are replaced by the test's own."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pktmirror.lab import Host, Instance, Subnet, Topology

TWO_HOSTS = Topology(
    name="two-hosts",
    cidr=IPv4Network("10.0.0.0/16"),
    ipv6_cidr=IPv6Network("2001:db8:1::/56"),
    hosts=(Host("east"), Host("west")),
    subnets=(
        Subnet("a", IPv4Network("10.0.0.0/24"), "east", ipv6_cidr=IPv6Network("2001:db8:1::/64")),
        Subnet("b", IPv4Network("10.0.1.0/24"), "west", ipv6_cidr=IPv6Network("2001:db8:1:1::/64")),
    ),
    instances=(
        Instance("client", "a", IPv4Address("10.0.0.6"), ipv6_address=IPv6Address("2001:db8:1::6")),
        Instance("web", "b", IPv4Address("10.0.1.48"), ipv6_address=IPv6Address("2001:db8:1:1::48")),
    ),
)

# Production at 1500 bytes, and a target that takes whole copies of it.
VPC = Topology(
    name="vpc",
    cidr=IPv4Network("10.0.0.0/16"),
    ipv6_cidr=IPv6Network("2001:db8:1::/56"),
    subnets=(Subnet("a", IPv4Network("10.0.0.0/24"), mtu=9001, ipv6_cidr=IPv6Network("2001:db8:1::/64")),),
    instances=(
        Instance("client", "a", IPv4Address("10.0.0.6"), ipv6_address=IPv6Address("2001:db8:1::6"), mtu=1500),
        Instance("web", "a", IPv4Address("10.0.0.48"), ipv6_address=IPv6Address("2001:db8:1::48"), mtu=1500),
        Instance("monitor", "a", IPv4Address("10.0.0.90"), ipv6_address=IPv6Address("2001:db8:1::90")),
    ),
)

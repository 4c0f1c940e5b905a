import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.packet.headers import Headers, flow_hash, outer_source_port, parse
from tests.unit.packet.frames import IPV4, ethernet, ipv4, tcp, udp

ADDRESSES = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)
PORTS = st.integers(0, 65535)
SSH_HASH, ICMPV6_HASH = 0xA485CE1E, 0xB41D5220  # by a C compiler, from the formula in flow_hash's docstring


def headers(source: Any, destination: Any, protocol: int, *ports: int, fragment: bool = False) -> Headers:
    source_port, destination_port = ports or (None, None)
    return Headers(
        source, destination, protocol, source_port, destination_port, None, fragment, False, 14, 34, (), IPV4
    )


@given(ADDRESSES, st.sampled_from([6, 17, 132]), PORTS, PORTS)
def test_both_directions_of_a_flow_have_one_hash(addresses: Any, protocol: int, here: int, there: int) -> None:
    source, destination = addresses
    assert flow_hash(headers(source, destination, protocol, here, there)) == flow_hash(
        headers(destination, source, protocol, there, here)
    )


@given(ADDRESSES, st.integers(0, 255))
def test_without_ports_too(addresses: Any, protocol: int) -> None:
    source, destination = addresses
    assert flow_hash(headers(source, destination, protocol)) == flow_hash(headers(destination, source, protocol))


def test_all_fragments_of_a_datagram_have_one_hash() -> None:
    first = parse(ethernet(ipv4(udp(1000, 53), 17, more=True), IPV4))
    last = parse(ethernet(ipv4(b"and the rest", 17, offset_bytes=8), IPV4))
    whole = parse(ethernet(ipv4(udp(1000, 53), 17), IPV4))
    assert isinstance(first, Headers)
    assert isinstance(last, Headers)
    assert isinstance(whole, Headers)
    assert flow_hash(first) == flow_hash(last)
    assert flow_hash(whole) != flow_hash(first)


def test_the_ports_the_protocol_and_each_address_count() -> None:
    a, b, c = IPv4Address("10.0.0.6"), IPv4Address("10.0.0.48"), IPv4Address("10.0.0.49")
    flows = [
        headers(a, b, 6, 1000, 80),
        headers(a, b, 6, 1001, 80),
        headers(a, b, 6, 1000, 82),
        headers(a, b, 17, 1000, 80),
        headers(a, c, 6, 1000, 80),
        headers(c, b, 6, 1000, 80),
        headers(a, b, 6),
    ]
    assert len({flow_hash(flow) for flow in flows}) == len(flows)


def test_known_values_hold() -> None:
    ssh = parse(ethernet(ipv4(tcp(40000, 22), 6), IPV4))
    assert isinstance(ssh, Headers)
    assert flow_hash(ssh) == SSH_HASH
    assert outer_source_port(ssh) == 0xFF80 + (SSH_HASH & 0x7F)
    six = headers(IPv6Address("fd00::6"), IPv6Address("fd00::48"), 58)
    assert flow_hash(six) == ICMPV6_HASH


def random_flows(count: int) -> list[Headers]:
    chance = random.Random(20)
    return [
        headers(
            IPv4Address(chance.getrandbits(32)),
            IPv4Address(chance.getrandbits(32)),
            chance.choice((6, 17)),
            chance.randrange(1024, 65536),
            chance.choice((22, 53, 80, 443, chance.randrange(65536))),
        )
        for _ in range(count)
    ]


def test_64_flows_spread_over_many_of_the_128_ports() -> None:
    ports = {outer_source_port(flow) for flow in random_flows(64)}
    assert all(65408 <= port <= 65535 for port in ports)
    assert len(ports) >= 40  # 51 are expected of a perfect hash


def from_one_client(count: int) -> list[Headers]:
    """The hard case: two neighbours, one service, ephemeral ports in a row."""
    here, there = IPv4Address("10.0.0.6"), IPv4Address("10.0.0.48")
    return [headers(here, there, 6, 32768 + number, 443) for number in range(count)]


def from_one_subnet(count: int) -> list[Headers]:
    """Pings from addresses in a row, without ports."""
    there = IPv4Address("10.0.0.48")
    return [headers(IPv4Address("10.1.0.0") + number, there, 1) for number in range(count)]


@pytest.mark.parametrize("flows", [random_flows, from_one_client, from_one_subnet])
def test_10000_flows_use_all_ports_roughly_alike(flows: Any) -> None:
    counts = Counter(outer_source_port(flow) for flow in flows(10_000))
    assert len(counts) == 128
    expected = 10_000 / 128
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 200  # 127 degrees of freedom: a fair hash is above this once in 30,000 tries
    assert max(counts.values()) < 1.6 * expected

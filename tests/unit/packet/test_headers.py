from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.model.evaluation import Packet
from pktmirror.packet.headers import Headers, NotParsed, parse, wire_bytes
from tests.unit.packet.frames import (
    AH,
    CLIENT,
    CLIENT6,
    DESTINATION,
    ESP,
    FRAGMENT,
    HOP,
    IPV4,
    IPV6,
    MOBILITY,
    NO_NEXT,
    ROUTING,
    SERVER,
    SERVER6,
    authentication_header,
    ethernet,
    fragment_header,
    ipv4,
    ipv6,
    options_header,
    tcp,
    udp,
)

MALFORMED, NOT_IP = NotParsed.MALFORMED, NotParsed.NOT_IP
TCP_FRAME = ethernet(ipv4(tcp(), 6), IPV4)
TCP6_FRAME = ethernet(ipv6(tcp(), 6), IPV6)


def expected(**changes: Any) -> Headers:
    """The headers of TCP_FRAME, changed."""
    fields: dict[str, Any] = {
        "source": ip_address(CLIENT),
        "destination": ip_address(SERVER),
        "protocol": 6,
        "source_port": 40000,
        "destination_port": 22,
        "icmp_type": None,
        "fragment": False,
        "later_fragment": False,
        "l3_offset": 14,
        "l4_offset": 34,
        "vlan_tags": (),
        "ethertype": IPV4,
    }
    return Headers(**(fields | changes))


def expected6(**changes: Any) -> Headers:
    """The headers of TCP6_FRAME, changed."""
    addresses = {"source": ip_address(CLIENT6), "destination": ip_address(SERVER6)}
    return expected(**({"l4_offset": 54, "ethertype": IPV6} | addresses | changes))


def no_ports(**changes: Any) -> dict[str, Any]:
    return {"source_port": None, "destination_port": None} | changes


@pytest.mark.parametrize(
    ("frame", "headers"),
    [
        pytest.param(TCP_FRAME, expected(), id="TCP has ports"),
        pytest.param(
            ethernet(ipv4(udp(1, 65535), 17), IPV4),
            expected(protocol=17, source_port=1, destination_port=65535),
            id="UDP has ports",
        ),
        pytest.param(
            ethernet(ipv4(udp(5, 6), 132), IPV4),
            expected(protocol=132, source_port=5, destination_port=6),
            id="SCTP has ports",
        ),
        pytest.param(
            ethernet(ipv4(bytes(20), 47), IPV4),
            expected(protocol=47, **no_ports()),
            id="GRE has none",
        ),
        pytest.param(
            ethernet(ipv4(b"\x08\x00", 1), IPV4),
            expected(protocol=1, icmp_type=8, **no_ports()),
            id="ICMP has a type",
        ),
        pytest.param(
            ethernet(ipv4(b"", 1), IPV4),
            expected(protocol=1, **no_ports()),
            id="ICMP cut before its type has none",
        ),
        pytest.param(
            ethernet(ipv4(tcp(), 6, options=b"\x01" * 40), IPV4),
            expected(l4_offset=74),
            id="IPv4 options are stepped over",
        ),
        pytest.param(TCP_FRAME[: 34 + 4], expected(), id="four bytes of TCP are enough for ports"),
        pytest.param(TCP_FRAME[: 34 + 3], expected(**no_ports()), id="three bytes of TCP are not"),
        pytest.param(TCP_FRAME + bytes(6), expected(), id="padding behind the total length does not matter"),
        pytest.param(
            ethernet(ipv4(tcp(), 6, total_bytes=9), IPV4), expected(), id="nor a total length that is too small"
        ),
        pytest.param(ethernet(ipv4(tcp(), 6, dont=True), IPV4), expected(), id="don't-fragment makes no fragment"),
        pytest.param(
            ethernet(ipv4(tcp(), 6, more=True), IPV4),
            expected(fragment=True),
            id="the first fragment is one and has ports",
        ),
        pytest.param(
            ethernet(ipv4(tcp(), 6, offset_bytes=8), IPV4),
            expected(fragment=True, later_fragment=True, **no_ports()),
            id="the last fragment has no ports",
        ),
        pytest.param(
            ethernet(ipv4(b"\x08", 1, offset_bytes=8, more=True), IPV4),
            expected(protocol=1, fragment=True, later_fragment=True, **no_ports()),
            id="a middle fragment of ICMP has no type",
        ),
    ],
)
def test_ipv4(frame: bytes, headers: Headers) -> None:
    assert parse(frame) == headers


@pytest.mark.parametrize(
    ("tags", "vlan_tags"),
    [
        pytest.param([(0x8100, 0x2064)], (0x2064,), id="a customer tag with its priority"),
        pytest.param([(0x88A8, 7), (0x8100, 9)], (7, 9), id="a service and a customer tag"),
        pytest.param([(0x8100, 7), (0x8100, 0)], (7, 0), id="two customer tags"),
    ],
)
def test_vlan_tags_are_stepped_over(tags: list[tuple[int, int]], vlan_tags: tuple[int, ...]) -> None:
    more = 4 * len(tags)
    assert parse(ethernet(ipv4(tcp(), 6), IPV4, *tags)) == expected(
        vlan_tags=vlan_tags, l3_offset=14 + more, l4_offset=34 + more
    )
    assert parse(ethernet(ipv6(tcp(), 6), IPV6, *tags)) == expected6(
        vlan_tags=vlan_tags, l3_offset=14 + more, l4_offset=54 + more
    )


@pytest.mark.parametrize(
    ("chain", "first", "changes"),
    [
        pytest.param(b"", 6, {}, id="none"),
        pytest.param(options_header(6), HOP, {"l4_offset": 62}, id="hop-by-hop"),
        pytest.param(bytes((6, 0, 0xC2, 4, 0, 2, 0, 0)), HOP, {"l4_offset": 62}, id="the jumbo header of BIG TCP"),
        pytest.param(options_header(6, 2), ROUTING, {"l4_offset": 78}, id="routing, of 24 bytes"),
        pytest.param(options_header(6), DESTINATION, {"l4_offset": 62}, id="destination options"),
        pytest.param(options_header(6), MOBILITY, {"l4_offset": 62}, id="mobility"),
        pytest.param(authentication_header(6), AH, {"l4_offset": 78}, id="authentication counts in words"),
        pytest.param(fragment_header(6), FRAGMENT, {"l4_offset": 62}, id="an atomic fragment is a whole datagram"),
        pytest.param(
            fragment_header(6, more=True), FRAGMENT, {"l4_offset": 62, "fragment": True}, id="the first fragment"
        ),
        pytest.param(
            fragment_header(6, offset_bytes=8),
            FRAGMENT,
            no_ports(l4_offset=62, fragment=True, later_fragment=True),
            id="the last fragment has no ports",
        ),
        pytest.param(
            fragment_header(DESTINATION, offset_bytes=8, more=True) + options_header(6),
            FRAGMENT,
            no_ports(l4_offset=62, fragment=True, later_fragment=True, protocol=DESTINATION),
            id="the walk stops at a later fragment, whatever it names next",
        ),
        pytest.param(
            options_header(FRAGMENT) + fragment_header(DESTINATION, more=True) + options_header(6),
            HOP,
            {"l4_offset": 78, "fragment": True},
            id="the walk goes on behind a first fragment",
        ),
        pytest.param(
            fragment_header(FRAGMENT, more=True) + fragment_header(6),
            FRAGMENT,
            {"l4_offset": 70, "fragment": True},
            id="a first fragment stays one behind an atomic one",
        ),
        pytest.param(
            options_header(DESTINATION) * 7 + options_header(6),
            DESTINATION,
            {"l4_offset": 118},
            id="eight headers are read",
        ),
        pytest.param(b"", ESP, no_ports(protocol=ESP), id="ESP ends the walk"),
        pytest.param(
            options_header(NO_NEXT), HOP, no_ports(protocol=NO_NEXT, l4_offset=62), id="no next header ends it"
        ),
    ],
)
def test_ipv6_extension_headers(chain: bytes, first: int, changes: dict[str, Any]) -> None:
    assert parse(ethernet(ipv6(chain + tcp(), first), IPV6)) == expected6(**changes)


def test_icmpv6_has_a_type() -> None:
    frame = ethernet(ipv6(options_header(58) + b"\x87", HOP), IPV6)
    assert parse(frame) == expected6(protocol=58, icmp_type=135, l4_offset=62, **no_ports())


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        pytest.param(b"", MALFORMED, id="nothing"),
        pytest.param(TCP_FRAME[:13], MALFORMED, id="an Ethernet header without its last byte"),
        pytest.param(ethernet(b"", 0x0806), NOT_IP, id="ARP, even without a payload"),
        pytest.param(ethernet(b"", 0x002E), NOT_IP, id="an 802.3 length"),
        pytest.param(ethernet(b"\x00\x01\x08", 0x8100), MALFORMED, id="a VLAN tag that is cut"),
        pytest.param(ethernet(b"\x00\x01\x08", 0x8100, (0x8100, 1)), MALFORMED, id="a second VLAN tag that is cut"),
        pytest.param(
            ethernet(ipv4(tcp(), 6), IPV4, (0x8100, 1), (0x8100, 2), (0x8100, 3)), NOT_IP, id="three VLAN tags"
        ),
        pytest.param(TCP_FRAME[: 14 + 19], MALFORMED, id="IPv4 of 19 bytes"),
        pytest.param(ethernet(b"\x65" + ipv4(tcp(), 6)[1:], IPV4), MALFORMED, id="version 6 under 0x0800"),
        pytest.param(ethernet(b"\x44" + ipv4(tcp(), 6)[1:], IPV4), MALFORMED, id="an IHL of 4"),
        pytest.param(ethernet(b"\x4f" + ipv4(tcp(), 6)[1:], IPV4), MALFORMED, id="an IHL beyond the frame"),
        pytest.param(TCP6_FRAME[: 14 + 39], MALFORMED, id="IPv6 of 39 bytes"),
        pytest.param(ethernet(b"\x40" + ipv6(tcp(), 6)[1:], IPV6), MALFORMED, id="version 4 under 0x86dd"),
        pytest.param(
            ethernet(ipv6(options_header(6)[:7], HOP), IPV6), MALFORMED, id="an extension header cut by a byte"
        ),
        pytest.param(ethernet(ipv6(b"", HOP), IPV6), MALFORMED, id="an extension header that is not there"),
        pytest.param(
            ethernet(ipv6(b"\x06\xff" + bytes(30), AH), IPV6), MALFORMED, id="an authentication header too long"
        ),
        pytest.param(
            ethernet(ipv6(fragment_header(6)[:7], FRAGMENT), IPV6), MALFORMED, id="a fragment header that is cut"
        ),
        pytest.param(
            ethernet(ipv6(options_header(DESTINATION) * 8 + options_header(6) + tcp(), DESTINATION), IPV6),
            MALFORMED,
            id="nine extension headers",
        ),
    ],
)
def test_what_is_no_ip_packet_says_why(frame: bytes, outcome: NotParsed) -> None:
    assert parse(frame) is outcome


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        pytest.param(TCP_FRAME, len(TCP_FRAME), id="a whole IPv4 copy is as long as it is"),
        pytest.param(TCP_FRAME[:40], len(TCP_FRAME), id="a cut IPv4 copy was as long as its total length says"),
        pytest.param(TCP6_FRAME[:60], len(TCP6_FRAME), id="a cut IPv6 copy was as long as its payload length says"),
        pytest.param(TCP_FRAME + bytes(6), len(TCP_FRAME) + 6, id="padding counts"),
        pytest.param(TCP_FRAME[:20], 20, id="a copy cut before its length field tells nothing"),
        pytest.param(ethernet(b"arp", 0x0806), 17, id="nor does what is not IP"),
    ],
)
def test_the_length_before_the_cut(frame: bytes, wire: int) -> None:
    assert wire_bytes(frame) == wire


def test_headers_are_a_packet_to_the_filters() -> None:
    headers = parse(TCP_FRAME)
    assert isinstance(headers, Headers)
    packet: Packet = headers  # mypy holds the shapes against each other
    assert packet.source == ip_address(CLIENT)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise(frame: bytes) -> None:
    assert isinstance(parse(frame), Headers | NotParsed)
    assert wire_bytes(frame) >= len(frame)


@given(
    start=st.sampled_from([TCP_FRAME, TCP6_FRAME]),
    changes=st.lists(st.tuples(st.integers(12, 70), st.integers(0, 255)), max_size=8),
    keep=st.integers(0, 80),
)
def test_no_damage_to_a_good_frame_makes_the_parser_raise(
    start: bytes, changes: list[tuple[int, int]], keep: int
) -> None:
    frame = bytearray(start)
    for offset, value in changes:
        frame[offset % len(frame)] = value
    cut = bytes(frame[:keep])
    headers = parse(cut)
    assert isinstance(headers, Headers | NotParsed)
    if isinstance(headers, Headers):
        assert headers.l3_offset + 20 <= headers.l4_offset <= len(cut)

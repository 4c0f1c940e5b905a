from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting
from scapy.layers.l2 import ARP, Ether

from pktmirror.packet.checksum import Check, Checksums, checksums_of, internet_checksum
from pktmirror.packet.headers import NotParsed

RIGHT, WRONG, NOT_CARRIED, TRUNCATED = Check.RIGHT, Check.WRONG, Check.NOT_CARRIED, Check.TRUNCATED
FOUR, SIX = IP(src="10.0.0.6", dst="10.0.0.48"), IPv6(src="fd00::6", dst="fd00::48")


def test_the_example_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=100))
def test_the_sum_is_that_of_16_bit_words(data: bytes) -> None:
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert internet_checksum(data) == total ^ 0xFFFF


def frame(packet: Any) -> bytes:
    # Without addresses scapy asks the network for them.
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)


def damaged(packet: Any, at: int) -> bytes:
    """One bit of the frame is another."""
    data = bytearray(frame(packet))
    data[at] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "ip", "l4"),
    [
        pytest.param(frame(FOUR / TCP() / b"odd"), RIGHT, RIGHT, id="TCP"),
        pytest.param(frame(FOUR / UDP() / b"even"), RIGHT, RIGHT, id="UDP"),
        pytest.param(frame(FOUR / ICMP() / b"ping"), RIGHT, RIGHT, id="ICMP"),
        pytest.param(frame(FOUR / TCP()) + bytes(6), RIGHT, RIGHT, id="padding does not count"),
        pytest.param(frame(SIX / TCP() / b"odd"), NOT_CARRIED, RIGHT, id="TCP over IPv6"),
        pytest.param(frame(SIX / UDP() / b"even"), NOT_CARRIED, RIGHT, id="UDP over IPv6"),
        pytest.param(frame(SIX / ICMPv6EchoRequest(data=b"ping")), NOT_CARRIED, RIGHT, id="ICMPv6"),
        pytest.param(frame(SIX / IPv6ExtHdrDestOpt() / TCP()), NOT_CARRIED, RIGHT, id="behind extension headers"),
        pytest.param(damaged(FOUR / TCP(), 14 + 8), WRONG, RIGHT, id="a wrong TTL"),
        pytest.param(damaged(FOUR / TCP() / b"x", 54), RIGHT, WRONG, id="a wrong TCP payload"),
        pytest.param(damaged(FOUR / UDP() / b"x", 42), RIGHT, WRONG, id="a wrong UDP payload"),
        pytest.param(damaged(FOUR / ICMP() / b"x", 42), RIGHT, WRONG, id="a wrong ICMP payload"),
        pytest.param(damaged(FOUR / TCP(), 14 + 19), WRONG, WRONG, id="a wrong address is wrong twice"),
        pytest.param(damaged(SIX / TCP() / b"x", 74), NOT_CARRIED, WRONG, id="a wrong TCP payload over IPv6"),
        pytest.param(frame(FOUR / UDP(chksum=0) / b"x"), RIGHT, NOT_CARRIED, id="UDP without a checksum"),
        pytest.param(frame(SIX / UDP(chksum=0) / b"x"), NOT_CARRIED, WRONG, id="which IPv6 does not allow"),
        pytest.param(frame(FOUR / TCP() / b"xyz")[:-1], RIGHT, TRUNCATED, id="cut by a byte"),
        pytest.param(frame(SIX / TCP() / b"xyz")[:-1], NOT_CARRIED, TRUNCATED, id="cut by a byte, IPv6"),
        pytest.param(frame(FOUR / UDP(len=7)), RIGHT, TRUNCATED, id="a UDP length below its header"),
        pytest.param(
            frame(IP(src="10.0.0.6", dst="10.0.0.48", proto=17) / (bytes(FOUR / UDP() / b"x")[20:] + b"tail")),
            RIGHT,
            RIGHT,
            id="what lies behind the UDP length does not count",
        ),
        pytest.param(frame(FOUR / UDP(len=9)), RIGHT, TRUNCATED, id="a UDP length beyond the IP packet"),
        pytest.param(
            frame(IP(src="10.0.0.6", dst="10.0.0.48", flags="MF") / UDP() / b"x"),
            RIGHT,
            Check.FRAGMENTED,
            id="a first fragment",
        ),
        pytest.param(
            frame(IP(src="10.0.0.6", dst="10.0.0.48", frag=1, proto=17) / b"rest"),
            RIGHT,
            Check.FRAGMENTED,
            id="a later fragment",
        ),
        pytest.param(
            frame(SIX / IPv6ExtHdrFragment(m=1) / UDP()), NOT_CARRIED, Check.FRAGMENTED, id="a fragment, IPv6"
        ),
        pytest.param(
            frame(SIX / IPv6ExtHdrRouting(addresses=["fd00::49"]) / TCP()),
            NOT_CARRIED,
            Check.SOURCE_ROUTED,
            id="a routing header with a segment left",
        ),
        pytest.param(
            frame(SIX / IPv6ExtHdrRouting(addresses=["fd00::49"], segleft=0) / TCP()),
            NOT_CARRIED,
            RIGHT,
            id="one without",
        ),
        pytest.param(frame(IP(src="10.0.0.6", dst="10.0.0.48", proto=47) / bytes(8)), RIGHT, NOT_CARRIED, id="GRE"),
        pytest.param(
            frame(IP(src="10.0.0.6", dst="10.0.0.48", proto=58) / bytes(8)),
            RIGHT,
            NOT_CARRIED,
            id="ICMPv6 in IPv4 means nothing",
        ),
    ],
)
def test_checksums(data: bytes, ip: Check, l4: Check) -> None:
    assert checksums_of(data) == Checksums(ip, l4)


def test_what_is_no_ip_packet_has_none() -> None:
    assert checksums_of(frame(ARP(psrc="10.0.0.6", hwsrc="02:00:00:00:00:01"))) is NotParsed.NOT_IP
    assert checksums_of(b"") is NotParsed.MALFORMED


@given(st.binary(max_size=120), st.sampled_from([FOUR / TCP(), FOUR / UDP(), SIX / TCP(), SIX / UDP()]))
def test_no_bytes_behind_a_good_beginning_make_it_raise(rest: bytes, packet: Any) -> None:
    for keep in (14, 15, 20, 40, 54):
        assert isinstance(checksums_of(frame(packet)[:keep] + rest), Checksums | NotParsed)

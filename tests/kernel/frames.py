"""Frames as hypothesis strategies, made byte by byte: well-formed ones, cut ones, bent ones, and noise.

Addresses and ports come from small pools, the same from which tests/kernel/policies.py draws its rules, so that rules
really match.
"""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import strategies as st

from tests.unit.packet.frames import authentication_header, fragment_header, ipv4, ipv6, options_header

OWN_MAC = bytes.fromhex("020000000048")
OTHER_MAC = bytes.fromhex("020000000006")
MACS = (OWN_MAC,) * 5 + (OTHER_MAC, b"\xff" * 6, bytes.fromhex("333300000001"))

IPV4, ARP, VLAN, IPV6, QINQ = 0x0800, 0x0806, 0x8100, 0x86DD, 0x88A8
TEST_RUN_BYTES_MAX = 3500  # BPF_PROG_TEST_RUN takes one page less the kernel's own head- and tailroom

ADDRESSES4: tuple[IPv4Address, ...] = tuple(
    IPv4Address(address)
    for address in ("10.0.0.6", "10.0.0.48", "10.0.0.2", "10.0.0.2", "192.0.2.7", "169.254.169.253", "169.254.169.254")
)
ADDRESSES6: tuple[IPv6Address, ...] = (
    *(IPv6Address(address) for address in ("fd00::6", "fd00::48", "2001:db8::7", "fd00:ec2::253", "fd00:ec2::254")),
    # An IPv4 address of the pool followed by zeros: what tells them apart is the family alone.
    *(IPv6Address(ip_address(address).packed.ljust(16, b"\0")) for address in ("10.0.0.2", "169.254.169.254")),
)
PORTS = (22, 53, 53, 53, 80, 67, 68, 123, 546, 1688, 40000, 0, 65535)
ICMP_TYPES = (0, 8, 128, 132, 133, 137, 138, 255)
ICMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP = 1, 6, 17, 47, 50, 58, 132
PROTOCOLS = (TCP, TCP, TCP, UDP, UDP, UDP, ICMP, ICMPV6, SCTP, GRE, ESP, 0, 255)


def ethernet(ethertype: int, payload: bytes, *tags: int, destination: bytes = OWN_MAC) -> bytes:
    """``tags``: the tag protocol ids, outermost first."""
    shim = b"".join(struct.pack("!HH", tpid, 0x2000 + number) for number, tpid in enumerate(tags))
    return destination + OTHER_MAC + shim + struct.pack("!H", ethertype) + payload


@st.composite
def transports(draw: st.DrawFn, protocol: int) -> bytes:
    """What follows the IP header and its extensions."""
    if protocol in (ICMP, ICMPV6):
        return bytes((draw(st.sampled_from(ICMP_TYPES)), 0)) + bytes(6)
    payload = bytes(draw(st.sampled_from((0, 1, 20, 1400))))
    ports = struct.pack("!HH", draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS)))
    if protocol == TCP:
        return ports + struct.pack("!IIBBHHH", 1, 0, 5 << 4, 0x10, 65535, 0, 0) + payload
    if protocol == UDP:
        return ports + struct.pack("!HH", 8 + len(payload), 0) + payload
    return ports + bytes(8) + payload


@st.composite
def packets4(draw: st.DrawFn) -> bytes:
    protocol = draw(st.sampled_from(PROTOCOLS))
    offset_bytes, more, dont = draw(
        st.sampled_from(
            [(0, False, False)] * 4 + [(0, True, False), (8, True, False)] + [(1480, False, False), (0, False, True)]
        )
    )
    return ipv4(
        draw(transports(protocol)),
        protocol,
        source=str(draw(st.sampled_from(ADDRESSES4))),
        destination=str(draw(st.sampled_from(ADDRESSES4))),
        options=bytes(draw(st.sampled_from((0, 0, 0, 4, 40)))),
        offset_bytes=offset_bytes,
        more=more,
        dont=dont,
    )


@st.composite
def packets6(draw: st.DrawFn) -> bytes:
    protocol = draw(st.sampled_from(PROTOCOLS))
    packet, next_header = draw(transports(protocol)), protocol
    for kind in draw(
        st.one_of(st.just([]), st.just([]), st.lists(st.sampled_from((0, 43, 44, 51, 60, 135)), max_size=10))
    ):
        if kind == 44:
            offset_bytes, more = draw(st.sampled_from(((0, False), (0, True), (8, True), (1448, False))))
            packet = fragment_header(next_header, offset_bytes=offset_bytes, more=more) + packet
        elif kind == 51:
            packet = authentication_header(next_header, draw(st.sampled_from((0, 1, 4)))) + packet
        else:
            packet = options_header(next_header, draw(st.sampled_from((0, 0, 1, 3)))) + packet
        next_header = kind
    source, destination = draw(st.sampled_from(ADDRESSES6)), draw(st.sampled_from(ADDRESSES6))
    return ipv6(packet, next_header, source=str(source), destination=str(destination))


@st.composite
def copies(draw: st.DrawFn) -> bytes:
    """VXLAN over IPv4, half of it as the scenes' sessions send it: from .48 to .90, port 4789, VNI 1, 7 or the last."""
    vni = draw(st.sampled_from((1, 7, 0xFFFFFF))).to_bytes(3)
    if draw(st.booleans()):
        as_sent = struct.pack("!HHHH", 0xFF80, 4789, 8 + 8 + 60, 0) + bytes((8, 0, 0, 0)) + vni + bytes(1 + 60)
        return ipv4(as_sent, UDP, source="10.0.0.48", destination="10.0.0.90")
    vxlan = draw(st.sampled_from((8, 8, 0, 0x0C))).to_bytes(1) + bytes(3)
    vxlan += draw(st.sampled_from((vni, bytes((0, 0, 2))))) + bytes(1)
    port = draw(st.sampled_from((4789, 4789, 4790)))
    return ipv4(
        struct.pack("!HHHH", draw(st.sampled_from((0xFF80, 0xFFFF, 0xFF7F))), port, 8 + 8 + 60, 0) + vxlan + bytes(60),
        draw(st.sampled_from((UDP, UDP, TCP))),
        source=draw(st.sampled_from(("10.0.0.48", "10.0.0.48", "10.0.0.6"))),
        destination=draw(st.sampled_from(("10.0.0.90", "10.0.0.90", "203.0.113.90"))),
        more=draw(st.sampled_from((False, False, True))),
        options=bytes(draw(st.sampled_from((0, 0, 4)))),
    )


@st.composite
def errors(draw: st.DrawFn) -> bytes:
    """ICMP messages that quote a copy, down to the least that they must quote and below."""
    type_ = draw(st.sampled_from((3, 3, 3, 11, 12, 8, 5)))
    quoted = draw(copies())[: draw(st.sampled_from((27, 28, 29, 35, 36, 37, 500)))]
    return ipv4(
        bytes((type_, 3)) + bytes(6) + quoted,
        draw(st.sampled_from((ICMP, ICMP, ICMP, ICMP, ICMP, ICMPV6))),
        source=draw(st.sampled_from(("10.0.0.90", "10.0.0.1"))),
        destination=draw(st.sampled_from(("10.0.0.48", "10.0.0.48", "10.0.0.48", "10.0.0.6"))),
    )


@st.composite
def copies6(draw: st.DrawFn) -> bytes:
    """As `copies`, over IPv6; an IPv4 address followed by zeros is no address of a session."""
    first = draw(st.sampled_from((0xFF80, 0xFF80, 0xFF80, 0xFF7F)))
    vxlan = draw(st.sampled_from((8, 8, 8, 0))).to_bytes(1) + bytes(3)
    vxlan += draw(st.sampled_from((1, 7, 7, 0xFFFFFF))).to_bytes(3) + bytes(1)
    datagram = struct.pack("!HHHH", first, draw(st.sampled_from((4789, 4789, 4790))), 8 + 8 + 60, 0) + vxlan + bytes(60)
    next_header = UDP
    if draw(st.sampled_from((False, False, False, True))):
        datagram, next_header = options_header(UDP) + datagram, 60
    ends = st.sampled_from((("fd00::48", "fd00::90"),) * 3 + (("a00:30::", "a00:5a::"), ("fd00::6", "fd00::90")))
    source, destination = draw(ends)
    return ipv6(datagram, next_header, source=source, destination=destination)


@st.composite
def errors6(draw: st.DrawFn) -> bytes:
    """As `errors`, ICMPv6."""
    type_ = draw(st.sampled_from((1, 1, 2, 3, 4, 0, 5, 128)))
    quoted = draw(copies6())[: draw(st.sampled_from((47, 48, 49, 55, 56, 57, 500, 500)))]
    return ipv6(
        bytes((type_, 4)) + bytes(6) + quoted,
        draw(st.sampled_from((ICMPV6, ICMPV6, ICMPV6, ICMP))),
        source=draw(st.sampled_from(("fd00::90", "fd00::1"))),
        destination=draw(st.sampled_from(("fd00::48", "fd00::48", "fd00::48", "fd00::6"))),
    )


@st.composite
def ethernet_frames(draw: st.DrawFn) -> bytes:
    ethertype = draw(st.sampled_from([IPV4] * 10 + [IPV6] * 7 + [ARP, 0x88CC, VLAN]))
    any4 = st.one_of(packets4(), packets4(), packets4(), packets4(), copies(), errors(), errors())
    any6 = st.one_of(packets6(), packets6(), packets6(), copies6(), errors6(), errors6())
    payload = draw({IPV4: any4, IPV6: any6}.get(ethertype, st.binary(max_size=60)))
    tags = draw(st.one_of(st.just([]), st.just([]), st.lists(st.sampled_from((VLAN, QINQ)), max_size=3)))
    return ethernet(ethertype, payload, *tags, destination=draw(st.sampled_from(MACS)))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Any frame that BPF_PROG_TEST_RUN takes."""
    frame = draw(ethernet_frames())
    damage = draw(st.sampled_from(("none",) * 12 + ("cut", "cut", "bent", "noise")))
    if damage == "cut":
        frame = frame[: draw(st.integers(14, max(14, min(len(frame), 120))))]
    elif damage == "bent":
        at = draw(st.integers(12, min(len(frame), 90) - 1))
        frame = frame[:at] + bytes((draw(st.integers(0, 255)),)) + frame[at + 1 :]
    elif damage == "noise":
        frame = frame[: draw(st.integers(14, min(len(frame), 60)))] + draw(st.binary(max_size=100))
    return taken_by_test_run(frame)


def taken_by_test_run(frame: bytes) -> bytes:
    """The frame, padded to what the kernel wants of a frame that says that it is IP without a tag."""
    ethertype = int.from_bytes(frame[12:14])
    return frame.ljust({IPV4: 34, IPV6: 54}.get(ethertype, 14), b"\0")[:TEST_RUN_BYTES_MAX]

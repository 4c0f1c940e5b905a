"""`packet.headers`, `packet.checksum` and the capture reader against Wireshark's engine, frame by frame.

By default a sample of each published capture's frames in one run of tshark, which takes far longer to start than to
read them; with the marker `long` every frame of each capture, and that tshark finds the same packets in it.

Not compared, and counted where it is said: frames of another link type than Ethernet (`parse` reads Ethernet); more
than two VLAN tags (not IP to us, by rule); ports, types and checksums that tshark does not show, because it stops
where a length field contradicts the frame and we do not hold length fields against the frame; checksums that we call
uncheckable.
"""

import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from pktmirror.packet import pcapng
from pktmirror.packet.blocks import LINKTYPE_ETHERNET, Interface, Packet, Section, Unreadable
from pktmirror.packet.checksum import Check, Checksums, checksums_of
from pktmirror.packet.headers import (
    ETHERTYPE_IPV4,
    FRAGMENT,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Headers,
    NotParsed,
    parse,
)
from tests.captures.published import home_made, published, write_capture, write_packets

NEXT_HEADER_FIELDS = {
    0: "ipv6.hopopts.nxt",
    43: "ipv6.routing.nxt",
    44: "ipv6.fraghdr.nxt",
    51: "ah.next_header",
    60: "ipv6.dstopts.nxt",
    135: "mip6.proto",
}
PORT_FIELDS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
TYPE_FIELDS = {ICMP: "icmp", ICMPV6: "icmpv6"}
FIELDS = [
    *("frame.encap_type", "frame.cap_len", "frame.len", "frame.protocols", "vlan.id", "ieee8021ad.id"),
    *("ip.src", "ip.dst", "ip.proto", "ip.flags.mf", "ip.frag_offset"),
    *("ipv6.src", "ipv6.dst", "ipv6.nxt", "ipv6.fraghdr.offset", "ipv6.fraghdr.more"),
    *NEXT_HEADER_FIELDS.values(),
    *(f"{name}.{end}" for name in PORT_FIELDS.values() for end in ("srcport", "dstport")),
    *(f"{name}.type" for name in TYPE_FIELDS.values()),
    *(f"{name}.checksum{end}" for name in ("ip", "tcp", "udp", "icmp", "icmpv6") for end in ("", ".status")),
]
# Each packet by itself, as we read it; checksums checked.
PREFERENCES = [
    *("ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE"),
    *("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"),
    *("ip.tso_support:TRUE", "ipv6.tso_support:TRUE"),
]
SAMPLE_PACKETS = 50  # of each capture at most
STEPPED_OVER = ("eth", "ethertype", "vlan", "ieee8021ad")
Row = dict[str, list[str]]

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Dissected:
    """A frame, and what tshark says of it."""

    capture: str
    number: int
    frame: bytes
    row: Row

    def __str__(self) -> str:
        return f"{self.capture} frame {self.number}: {self.row['frame.protocols']}"

    def first(self, field: str) -> str | None:
        return next(iter(self.row[field]), None)

    def flag(self, field: str) -> bool:
        return self.first(field) in ("1", "True")

    @property
    def layers(self) -> list[str]:
        """The protocols from the network layer on."""
        return [layer for layer in self.row["frame.protocols"][0].split(":") if layer not in STEPPED_OVER]


def rows_of(capture: Path) -> Iterator[Row]:
    """What tshark shows of each packet. Blocks that it lists and that are no packets have no link type."""
    fields = [arg for field in FIELDS for arg in ("-e", field)]
    preferences = [arg for preference in PREFERENCES for arg in ("-o", preference)]
    command = ["tshark", "-n", "-r", str(capture), *preferences, "-T", "fields", *fields]
    shown = subprocess.run(command, check=False, capture_output=True, text=True).stdout  # fails on a cut file
    for line in shown.splitlines():
        row = dict(zip(FIELDS, (value.split(",") if value else [] for value in line.split("\t")), strict=True))
        if row["frame.encap_type"]:
            yield row


def packets_of(capture: Path) -> list[tuple[int, Packet]]:
    """The packets with their link types; those before the fault, where the file is broken."""
    interfaces: list[Interface] = []
    packets = []
    try:
        for block in pcapng.read(capture.read_bytes()):
            match block:
                case Section():
                    interfaces = []
                case Interface():
                    interfaces.append(block)
                case Packet():
                    packets.append((interfaces[block.interface].linktype, block))
    except Unreadable as refusal:
        print(f"not read to the end: {capture.name}: {refusal.reason}")  # noqa: T201 -- pytest -rP shows it
    return packets


@pytest.fixture(scope="module", params=["sample", pytest.param("everything", marks=pytest.mark.long)])
def dissected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Dissected]:
    """Ethernet frames of every capture. The packets that tshark finds, or the test ends here."""
    directory = tmp_path_factory.mktemp("own")
    own = write_capture(directory / "home-made.pcapng", home_made())
    if request.param == "everything":
        return dissect([own, *published()])
    sampled = [packet for capture in published() for packet in sample_of(ethernet_of(capture))]
    return dissect([own, write_packets(directory / "sample.pcapng", sampled)])


def ethernet_of(capture: Path) -> list[Packet]:
    return [packet for linktype, packet in packets_of(capture) if linktype == LINKTYPE_ETHERNET]


def sample_of(packets: list[Packet]) -> list[Packet]:
    """Spread over the whole capture, the first packet included; the same ones each time."""
    return packets[:: -(-len(packets) // SAMPLE_PACKETS) or 1]


def dissect(captures: list[Path]) -> list[Dissected]:
    """Every Ethernet frame of each, which must be what tshark reads of the file."""
    found: list[Dissected] = []
    used = other_link_types = 0
    for capture in captures:
        packets, rows = packets_of(capture), list(rows_of(capture))
        if not packets:
            continue
        assert [(len(packet.frame), packet.wire_bytes) for _, packet in packets] == [
            (int(row["frame.cap_len"][0]), int(row["frame.len"][0])) for row in rows
        ], f"{capture.name}: we and tshark do not find the same packets"
        used += 1
        for number, ((linktype, packet), row) in enumerate(zip(packets, rows, strict=True), 1):
            if linktype == LINKTYPE_ETHERNET:
                found.append(Dissected(capture.name, number, packet.frame, row))
            else:
                other_link_types += 1
    print(  # noqa: T201
        f"captures read: {used} (one is home-made; published: {len(published())}); Ethernet frames: {len(found)}; "
        f"packets of other link types, not compared: {other_link_types}"
    )
    return found


def protocol_of(frame: Dissected) -> tuple[int, bool, bool]:
    """Protocol, fragment, later fragment, as tshark's fields give them."""
    if frame.layers[0] == "ip":
        later = frame.first("ip.frag_offset") != "0"
        return int(frame.row["ip.proto"][0]), later or frame.flag("ip.flags.mf"), later
    protocol = int(frame.row["ipv6.nxt"][0])
    left = {number: iter(frame.row[field]) for number, field in NEXT_HEADER_FIELDS.items()}
    offsets, more = iter(frame.row["ipv6.fraghdr.offset"]), iter(frame.row["ipv6.fraghdr.more"])
    fragment = later = False
    while not later and protocol in left:
        if protocol == FRAGMENT:
            later = next(offsets) != "0"
            fragment = fragment or later or next(more) in ("1", "True")
        protocol = int(next(left[protocol]))
    return protocol, fragment, later


def test_headers_are_what_wireshark_reads(dissected: list[Dissected]) -> None:
    counts: Counter[str] = Counter()
    for frame in dissected:
        headers = parse(frame.frame)
        tags = [*frame.row["ieee8021ad.id"], *frame.row["vlan.id"]]
        if headers is NotParsed.MALFORMED:
            after_ip = [layer for layer in frame.layers[1:] if not layer.startswith("ipv6.")]
            assert after_ip in ([], ["data"]) or frame.layers[0] == "data", f"{frame} is not malformed"
            counts["malformed, and tshark shows nothing above IP"] += 1
        elif headers is NotParsed.NOT_IP:
            if len(tags) > 2:
                counts["not compared: three VLAN tags"] += 1
                continue
            assert frame.layers[:1] not in (["ip"], ["ipv6"]), f"{frame} is IP"
            counts["not IP"] += 1
        else:
            assert isinstance(headers, Headers)
            assert_same_headers(frame, headers, counts)
            counts[f"IP, ethertype {headers.ethertype:#06x}"] += 1
    print(dict(counts))  # noqa: T201
    assert_most_were_compared(counts, len(dissected))


def assert_same_headers(frame: Dissected, headers: Headers, counts: Counter[str]) -> None:
    family = "ip" if headers.ethertype == ETHERTYPE_IPV4 else "ipv6"
    assert frame.layers[0] == family, str(frame)
    assert str(headers.source) == str(ip_address(frame.row[f"{family}.src"][0])), str(frame)
    assert str(headers.destination) == str(ip_address(frame.row[f"{family}.dst"][0])), str(frame)
    assert (headers.protocol, headers.fragment, headers.later_fragment) == protocol_of(frame), str(frame)
    ours: list[int | None] = []
    fields: list[str] = []
    if headers.protocol in PORT_FIELDS:
        name = PORT_FIELDS[headers.protocol]
        ours, fields = [headers.source_port, headers.destination_port], [f"{name}.srcport", f"{name}.dstport"]
    elif headers.protocol in TYPE_FIELDS:
        ours, fields = [headers.icmp_type], [f"{TYPE_FIELDS[headers.protocol]}.type"]
    shown = [frame.first(field) for field in fields]
    theirs = [None if value is None else int(value) for value in shown]
    if headers.later_fragment:
        assert set(ours) <= {None}, str(frame)
    elif None in theirs and ours != theirs:
        counts["not compared: ports that tshark does not show"] += 1
    else:
        assert theirs == ours, str(frame)


def test_checksums_are_what_wireshark_finds(dissected: list[Dissected]) -> None:
    names = PORT_FIELDS | TYPE_FIELDS
    spelled = {Check.RIGHT: "1", Check.WRONG: "0"}
    counts: Counter[str] = Counter()
    for frame in dissected:
        checksums, headers = checksums_of(frame.frame), parse(frame.frame)
        if not isinstance(checksums, Checksums) or not isinstance(headers, Headers):
            continue
        if checksums.ip in spelled and frame.row["ip.checksum.status"]:
            assert frame.first("ip.checksum.status") == spelled[checksums.ip], f"IPv4 header, {frame}"
            counts[f"IPv4 header {checksums.ip.value}"] += 1
        status = frame.first(f"{names[headers.protocol]}.checksum.status") if headers.protocol in names else None
        if checksums.l4 not in spelled:
            counts[f"{names.get(headers.protocol, 'other')}: {checksums.l4.value}"] += 1
        elif headers.protocol != UDP and frame.first(f"{names[headers.protocol]}.checksum") == "0xffff":
            # A second spelling of zero (RFC 1624 section 3): a receiver takes it, and so do we; tshark does not.
            counts["not compared: a checksum of 0xffff"] += 1
        elif status not in spelled.values():
            counts["not compared: tshark does not say"] += 1
        else:
            assert status == spelled[checksums.l4], f"{names[headers.protocol]}, {frame}"
            counts[f"{names[headers.protocol]} {checksums.l4.value}"] += 1
    print(dict(counts))  # noqa: T201
    assert counts["IPv4 header right"]
    assert_most_were_compared(counts, len(dissected))


def assert_most_were_compared(counts: Counter[str], frames: int) -> None:
    left_out = {why: count for why, count in counts.items() if why.startswith("not compared")}
    assert sum(left_out.values()) < frames / 50, left_out

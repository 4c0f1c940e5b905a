"""Copies over IPv6: the outer headers, and the checksum without which an ordinary socket takes none (spec 5.16)."""

import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import msgspec
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pktmirror.lab import Instance, Lab, Subnet, Topology, networks_toml
from pktmirror.model import filter as protocols
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import Interface
from pktmirror.packet.checksum import Check, Checksums, checksums_of
from pktmirror.packet.headers import ICMPV6, Headers, parse
from tests.captures.published import write_capture
from tests.contract.conftest import Maker
from tests.lab.arrivals import RECEIVE_BYTES, Copy, Tap
from tests.lab.line import line
from tests.lab.machines import ip
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.test_mirror_length import LENGTHS, outbound, packets, with_mtus
from tests.lab.test_mirror_tso import (
    TRANSFERRED,
    assert_checksums_are_right,
    assert_super_packets_were_sent,
    payloads,
    transfer,
)
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
CLIENT, SOURCE = "192.0.2.6", "192.0.2.48"  # nobody's, so that nobody answers
CLIENT6, SOURCE6 = "2001:db8:ff::6", "2001:db8:ff::48"
OUTER_BYTES = 40 + 8 + 8
SO_RCVBUFFORCE = 33
PORT = 9999
PORT_OF_A_COPY = 0xFF81  # so that the addresses and the VNI decide
OVER_IPV6 = Session("monitor", family=6)

TWO_HOSTS = Topology(
    name="x",
    cidr=VPC.cidr,
    ipv6_cidr=VPC.ipv6_cidr,
    hosts=(msgspec.structs.replace(VPC.hosts[0], name="east"), msgspec.structs.replace(VPC.hosts[0], name="west")),
    subnets=(
        msgspec.structs.replace(VPC.subnets[0], host="east"),
        Subnet("b", VPC.subnets[0].cidr.__class__("10.0.1.0/24"), "west", 9001, IPv6Network("2001:db8:1:1::/64")),
    ),
    instances=(
        *(instance for instance in VPC.instances if instance.name != "monitor"),
        Instance("monitor", "b", IPv4Address("10.0.1.90"), ipv6_address=IPv6Address("2001:db8:1:1::90")),
        Instance("other", "b", IPv4Address("10.0.1.91"), ipv6_address=IPv6Address("2001:db8:1:1::91")),
    ),
)


class Ear:
    """What an ordinary socket at a target hears: the kernel drops what has no checksum or a wrong one."""

    def __init__(self, mirror: Mirror, place: str = "monitor") -> None:
        self.datagrams: list[bytes] = []
        self._mirror, self._place = mirror, place
        self._socket = mirror.collector(place).listener
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        self._socket.setblocking(False)

    def assert_heard(self, copies: Sequence[Copy]) -> None:
        """Each of them once, and nothing else; a tap and a socket may see what two CPUs hand on in different order."""

        def all_are_there() -> bool:
            try:
                while True:
                    self.datagrams.append(self._socket.recv(1 << 16))
            except BlockingIOError:
                return len(self.datagrams) >= len(copies)

        wait_until(all_are_there, WITHIN_S, lambda: f"{len(self.datagrams)} of {len(copies)} heard")
        sent = Counter(copy.outer[-len(copy.frame) - 8 :] for copy in copies)
        assert (sent - Counter(self.datagrams), Counter(self.datagrams) - sent) == (Counter(), Counter())
        counters = self._mirror.inside(self._place).run(Path("/proc/thread-self/net/snmp6").read_text)
        figures = dict(line.split() for line in counters.splitlines())
        assert (figures["Udp6InErrors"], figures["Udp6InCsumErrors"]) == ("0", "0")


def assert_the_outer_headers_are_right(copies: Sequence[Copy]) -> None:
    for copy in copies:
        payload_bytes = len(copy.outer) - 14 - 40
        assert copy.outer[12:14] == b"\x86\xdd"
        assert struct.unpack("!IHBB", copy.outer[14:22]) == (6 << 28, payload_bytes, 17, 255)
        assert int.from_bytes(copy.outer[58:60]) == payload_bytes == len(copy.frame) + 16
        assert checksums_of(copy.outer) == Checksums(Check.NOT_CARRIED, Check.RIGHT)


def both_ends(mirror: Mirror, packet: Packet) -> bytes:
    return bytes(Ether(src=mirror.mac("web"), dst=mirror.mac("client")) / packet)


def test_every_field_of_the_outer_headers_over_ipv6_is_as_decided(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor", vni=0xABCDEF, family=6)]})
        ear = Ear(mirror)
        answer = IPv6(src=SOURCE6, dst=CLIENT6, tc=0xFF, fl=0xFFFFF, hlim=1) / UDP(sport=9, dport=5) / Raw(b"hi")
        question = IPv6(src=CLIENT6, dst=SOURCE6) / UDP(sport=5, dport=9) / Raw(b"hello")
        outbound_ = both_ends(mirror, answer)
        inbound = bytes(Ether(src=mirror.mac("client"), dst=mirror.mac("web")) / question)
        mirror.send("web", [outbound_])
        mirror.wait_for_copies("monitor", 1)
        mirror.send("client", [inbound])
        copies = mirror.wait_for_copies("monitor", 2)
        assert [copy.frame for copy in copies] == [outbound_, inbound]
        assert_the_outer_headers_are_right(copies)
        for copy in copies:
            assert copy.outer[:6].hex(":") == mirror.mac("monitor")
            assert IPv6Address(copy.outer[22:38]) == IPv6Address(mirror.address6("web")), "in both directions"
            assert IPv6Address(copy.outer[38:54]) == IPv6Address(mirror.address6("monitor"))
            assert int.from_bytes(copy.outer[56:58]) == 4789
            assert copy.outer[62:70] == b"\x08\x00\x00\x00\xab\xcd\xef\x00"
            assert len(copy.outer) - len(copy.frame) == 14 + OUTER_BYTES
        assert len({copy.source_port for copy in copies}) == 1
        assert copies[0].source_port >= 0xFF80
        ear.assert_heard(copies)


@pytest.mark.parametrize("direction", Direction)
def test_each_packet_length_leaves_its_first_bytes_and_a_right_checksum(lab: Build, direction: Direction) -> None:
    with Mirror(lab(VPC)) as mirror:
        source, destination = ("web", "client") if direction is EGRESS else ("client", "web")
        ether = Ether(src=mirror.mac(source), dst=mirror.mac(destination))
        frames = {kind: bytes(ether / packet) for kind, packet in packets().items()}
        copies: list[Copy] = []
        for length in LENGTHS:
            mirror.mirror({"web": [Session("monitor", packet_bytes_max=length, family=6)]})
            ear = Ear(mirror)
            mirror.send(source, list(frames.values()))
            copies = mirror.wait_for_copies("monitor", len(copies) + len(frames))
            for (kind, frame), copy in zip(frames.items(), copies[-len(frames) :], strict=True):
                assert (length, kind, copy.frame) == (length, kind, frame[:length])
        assert_the_outer_headers_are_right(copies)
        ear.assert_heard(copies)
        assert mirror.stages("web", direction) == {Stage.SENT: len(copies)}, "none is cut to the MTU, none fails"


def jumbo() -> Topology:
    """Sources of 8,900 bytes, and a target that takes whole copies of them."""
    return msgspec.structs.replace(
        VPC,
        instances=tuple(
            each if each.name == "monitor" else msgspec.structs.replace(each, mtu=8900) for each in VPC.instances
        ),
    )


def test_the_checksum_is_right_at_every_length(lab: Build) -> None:
    """It is summed in blocks: all lengths around one and two of them, and the largest."""
    lengths = [*range(60, 1700), *range(4096, 4100), *range(8880, 8915)]
    pattern = bytes(range(255, 0, -1)) * 40
    with Mirror(lab(jumbo())) as mirror:
        mirror.mirror({"web": [OVER_IPV6]})
        ear = Ear(mirror)
        header = both_ends(mirror, IP(src=SOURCE, dst=CLIENT, proto=253))
        frames = [(header + pattern[length % 7 :])[:length] for length in lengths]
        copies: list[Copy] = []
        for begin in range(0, len(frames), 200):
            mirror.send("web", frames[begin : begin + 200])
            copies = mirror.wait_for_copies("monitor", min(begin + 200, len(frames)))
        assert [copy.frame for copy in copies] == frames
        assert_the_outer_headers_are_right(copies)
        ear.assert_heard(copies)


def test_a_sum_of_zero_is_sent_as_all_ones(lab: Build) -> None:
    """RFC 8200 section 8.1. One of all 65,536 values of two bytes makes the sum zero; it is worked out from another."""
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [OVER_IPV6]})
        ear = Ear(mirror)
        frame = both_ends(mirror, IP(src=SOURCE, dst=CLIENT, proto=253) / Raw(bytes(20)))
        mirror.send("web", [frame])
        [copy] = mirror.wait_for_copies("monitor", 1)
        missing = copy.outer[60:62]  # the complement of the sum: with it in the place of zeros the sum is -0
        mirror.send("web", [frame[:-2] + missing])
        copies = mirror.wait_for_copies("monitor", 2)
        assert copies[1].outer[60:62] == b"\xff\xff"
        ear.assert_heard(copies)


def test_a_packet_whose_own_checksum_is_wrong_is_copied_as_it_is(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [OVER_IPV6]})
        ear = Ear(mirror)
        wrong = [
            both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(dport=9, chksum=0x1234) / Raw(b"wrong")),
            both_ends(mirror, IP(src=SOURCE, dst=CLIENT, chksum=0x1234) / UDP(dport=9) / Raw(b"wrong")),
            both_ends(mirror, IPv6(src=SOURCE6, dst=CLIENT6) / TCP(dport=9, chksum=1) / Raw(b"wrong")),
        ]
        mirror.send("web", wrong)
        copies = mirror.wait_for_copies("monitor", len(wrong))
        assert [copy.frame for copy in copies] == wrong
        ear.assert_heard(copies)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("target_mtu", [pytest.param(9001, id="whole"), pytest.param(1500, id="cut to the MTU")])
def test_a_transfer_with_offload_is_mirrored_over_ipv6_as_the_packets_on_the_wire(
    lab: Build, target_mtu: int, direction: Direction, family: int
) -> None:
    with Mirror(lab(with_mtus(1500, target_mtu))) as mirror:
        sender, receiver = ("web", "client") if direction is EGRESS else ("client", "web")
        address = mirror.address(receiver) if family == 4 else mirror.address6(receiver)
        only = accepting(protocols.TCP, directions=[direction])
        mirror.mirror({"web": [Session("monitor", filter=only, family=6)]})
        ear = Ear(mirror)
        with mirror.tap(sender) as tap:
            transfer(mirror, sender, receiver, address)
            mirror.assert_everything_adds_up()
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        copies = mirror.collector("monitor").copies()
        frames = [copy.frame for copy in copies]
        longest = min(1514, target_mtu - OUTER_BYTES)
        assert max(len(frame) for frame in frames) == longest
        cut = sum(len(frame) == longest for frame in frames) if longest < 1514 else 0
        stages = {Stage.SENT: len(copies), Stage.CUT: cut}
        assert mirror.stages("web", direction) == {stage: count for stage, count in stages.items() if count}
        if not cut:
            assert_checksums_are_right(frames, Check.RIGHT if family == 4 else Check.NOT_CARRIED)
            assert payloads(frames) == TRANSFERRED
        assert_the_outer_headers_are_right(copies)
        ear.assert_heard(copies)


def test_each_segment_of_a_super_packet_is_cut_to_the_packet_length(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        only = accepting(protocols.TCP, directions=[EGRESS])
        mirror.mirror({"web": [Session("monitor", filter=only, packet_bytes_max=100, family=6)]})
        ear = Ear(mirror)
        with mirror.tap("web") as tap:
            transfer(mirror, "web", "client", mirror.address("client"))
            mirror.assert_everything_adds_up()
            assert_super_packets_were_sent([each.frame for each in tap.read() if each.outgoing])
        copies = mirror.collector("monitor").copies()
        assert max(len(copy.frame) for copy in copies) == 100
        assert max(int.from_bytes(copy.frame[16:18]) for copy in copies) == 1500
        assert mirror.stages("web", EGRESS) == {Stage.SENT: len(copies)}
        assert_the_outer_headers_are_right(copies)
        ear.assert_heard(copies)


def test_what_the_targets_mtu_does_not_hold_is_cut_to_the_byte(lab: Build) -> None:
    room = 1500 - OUTER_BYTES
    with Mirror(lab(with_mtus(1500, 1500))) as mirror:
        mirror.mirror({"web": [OVER_IPV6]})
        ear = Ear(mirror)
        fits = IP(src=SOURCE, dst=CLIENT) / UDP(dport=9) / Raw(b"x" * (room - 42))
        frames = [both_ends(mirror, packet) for packet in (fits, fits / Raw(b"y"))]
        frames += [outbound(mirror, packet) for packet in packets().values()]
        assert [len(frame) for frame in frames[:2]] == [room, room + 1]
        mirror.send("web", frames)
        copies = mirror.wait_for_copies("monitor", len(frames))
        assert [copy.frame for copy in copies] == [frame[:room] for frame in frames]
        too_long = [frame for frame in frames if len(frame) > room]
        assert mirror.stages("web", EGRESS) == {Stage.SENT: len(frames), Stage.CUT: len(too_long)}
        assert max(len(copy.outer) for copy in copies) == 1514
        ear.assert_heard(copies)


def test_sessions_over_ipv4_and_ipv6_stand_beside_each_other(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror(
            {
                "web": [
                    Session("monitor", filter=accepting(protocols.TCP), number=1, vni=1, family=6),
                    Session("monitor", filter=accepting(protocols.UDP), number=2, vni=2),
                ]
            }
        )
        tcp = both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / TCP(dport=80))
        udp = both_ends(mirror, IPv6(src=SOURCE6, dst=CLIENT6) / UDP(dport=9))
        mirror.send("web", [tcp, udp, tcp])
        copies = mirror.wait_for_copies("monitor", 3)
        found = {(copy.vni, copy.family, str(copy.outer_source), copy.frame) for copy in copies}
        assert found == {(1, 6, mirror.address6("web"), tcp), (2, 4, mirror.address("web"), udp)}
        [over_ipv4] = [copy for copy in copies if copy.family == 4]
        assert over_ipv4.outer[40:42] == bytes(2), "over IPv4 there is no outer checksum, as AWS has it (fact 73)"


def test_a_session_moves_from_ipv4_to_ipv6_and_back(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        frame = both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(dport=9) / Raw(b"a packet"))
        for number, family in enumerate((4, 6, 4), 1):
            mirror.mirror({"web": [Session("monitor", family=family)]})
            mirror.send("web", [frame])
            copies = mirror.wait_for_copies("monitor", number)
            assert (copies[-1].family, copies[-1].frame) == (family, frame)


def errors(tap: Tap) -> list[bytes]:
    def is_error(frame: bytes) -> bool:
        read = parse(frame)
        return isinstance(read, Headers) and read.protocol == ICMPV6 and (read.icmp_type or 255) < 128

    return tap.received(is_error)


def test_the_errors_of_a_target_without_a_listener_do_not_reach_the_source(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, mirror.tap("web") as at_source:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address6("monitor"))]})
        frames = [both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(sport=port, dport=9)) for port in (1, 2)]
        mirror.send("web", frames)
        mirror.wait_for_seen("web", INGRESS, 2)
        assert errors(at_source) == []
        assert mirror.outcomes("web", INGRESS)[InterfaceOutcome.TARGET_REFUSED] == 2
        assert mirror.stages("web", INGRESS).get(Stage.TARGET_REFUSED) == 2
        assert mirror.stages("web", EGRESS)[Stage.SENT] >= 2


def test_the_errors_about_what_the_source_sent_itself_reach_it(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, mirror.tap("web") as at_source:
        mirror.mirror({"web": [OVER_IPV6]})
        with mirror.inside("web").run(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as asking:
            asking.bind(("::", PORT_OF_A_COPY))
            asking.sendto(bytes((8, 0, 0, 0)) + (7).to_bytes(3) + bytes(61), (mirror.address6("client"), 4789))
        wait_until(lambda: len(errors(at_source)) == 1, WITHIN_S, "the error does not arrive")
        assert InterfaceOutcome.TARGET_REFUSED not in mirror.outcomes("web", INGRESS)


def test_copies_from_another_host_are_not_mirrored_again_and_other_vxlan_is(lab: Build) -> None:
    with Mirror(lab(TWO_HOSTS)) as mirror:
        mirror.unheard.add(9)
        only_udp = accepting(protocols.UDP)
        mirror.mirror(
            {
                "web": [Session("monitor", vni=1, family=6, filter=only_udp)],
                "monitor": [Session("other", vni=2, family=6, filter=only_udp)],
            }
        )
        frame = both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(dport=9) / Raw(b"a packet"))
        mirror.send("web", [frame, frame])
        assert [copy.frame for copy in mirror.wait_for_copies("monitor", 2)] == [frame, frame]
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2
        datagram = bytes((8, 0, 0, 0)) + (9).to_bytes(3) + bytes(61)
        with mirror.inside("client").run(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as speaking:
            speaking.bind(("::", PORT_OF_A_COPY))
            speaking.sendto(datagram, (mirror.address6("monitor"), 4789))
        [copy] = mirror.wait_for_copies("other", 1)
        assert copy.frame.endswith(datagram)
        assert mirror.outcomes("monitor", INGRESS)[InterfaceOutcome.OWN_COPY] == 2


def test_a_narrower_link_on_the_way_refuses_copies_and_its_errors_are_counted(lab: Build) -> None:
    """RFC 8200 section 5: routers do not fragment. The session's MTU is the operator's to set (mtu_max)."""
    with Mirror(lab(TWO_HOSTS)) as mirror, mirror.tap("web") as at_source:
        ip("-n", mirror.lab.namespace("router"), "link", "set", "eth-b", "mtu", "1400")
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session(mirror.address6("monitor"))]})
        with mirror.tap("monitor") as at_target:
            whole = both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(dport=9) / Raw(b"x" * 1400))
            mirror.send("web", [whole])
            wait_until(
                lambda: mirror.outcomes("web", INGRESS).get(InterfaceOutcome.TARGET_REFUSED) == 1,
                WITHIN_S,
                "the router's error is not counted",
            )
            assert errors(at_source) == []
            assert at_target.received(lambda frame: whole in frame) == []


def test_a_next_hop_that_does_not_answer_is_the_problem_of_its_session(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session("2001:db8:1::dead")]})
        said = "the next hop 2001:db8:1::dead does not answer neighbour solicitations"
        wait_until(lambda: mirror.status("web") == said, 3 * WITHIN_S, lambda: str(mirror.status("web")))


def test_a_target_without_a_route_over_ipv6_is_the_problem_of_its_session(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.unheard.add(7)
        mirror.mirror({"web": [Session("2001:db8:dead::1")]})
        assert mirror.status("web") == "no route to the target 2001:db8:dead::1 (table 254)"
        mirror.send("web", [both_ends(mirror, IP(src=SOURCE, dst=CLIENT) / UDP(dport=9))])
        wait_until(lambda: mirror.stages("web", EGRESS) == {Stage.NO_ROUTE: 1}, WITHIN_S, "it is not counted")


def test_wireshark_finds_every_outer_checksum_right(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [OVER_IPV6]})
        frames = [outbound(mirror, packet) for packet in packets().values()]
        mirror.send("web", frames)
        copies = mirror.wait_for_copies("monitor", len(frames))
    captured = [copy.outer for copy in copies]
    captured.append(captured[0][:60] + bytes(a ^ 0xFF for a in captured[0][60:62]) + captured[0][62:])
    options = ["-o", "udp.check_checksum:TRUE", "-T", "fields", "-e", "udp.checksum.status", "-E", "occurrence=f"]
    shown = subprocess.run(
        ["tshark", "-r", "-", *options],
        stdin=write_capture(tmp_path / "copies.pcapng", captured).open("rb"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["1"] * len(copies) + ["0"], "good, and one that this test has spoilt is bad"


def test_the_ledger_of_the_whole_line_adds_up_when_the_network_moves_to_ipv6(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    with line(built, tmp_path, monitor_address="::") as whole:
        ec2 = whole.plane.client()
        web, sensor = whole.found("web")["interface_id"], whole.found("monitor")["interface_id"]
        make = Maker(whole.plane, ec2)
        filter_id = make.filter()
        ports = {"FromPort": PORT, "ToPort": PORT}
        make.rule(filter_id, TrafficDirection="egress", Protocol=17, DestinationPortRange=ports)
        session_id = make.session(
            NetworkInterfaceId=web,
            TrafficMirrorTargetId=make.target(NetworkInterfaceId=sensor),
            TrafficMirrorFilterId=filter_id,
            VirtualNetworkId=7,
        )["TrafficMirrorSessionId"]
        whole.wait_for_problem(session_id, None)
        send(built, 3)
        whole.wait_until_collected(session_id, 3)
        declared = networks_toml(built.topology).replace(
            "[[vpc.subnet]]", "[vpc.underlay]\nfamily = 6\n[[vpc.subnet]]", 1
        )
        assert whole.plane.own_answer("networks", method="PUT", body=declared).status_code == 200

        def ends() -> tuple[str, str]:
            row, status = whole.row(session_id), whole.status(session_id) or {}
            return row["outer_destination"], status["outer_source"]

        over_ipv6 = ("2001:db8:1::90", "2001:db8:1::48")
        wait_until(lambda: ends() == over_ipv6, WITHIN_S, lambda: str(ends()))
        send(built, 4)
        whole.wait_until_collected(session_id, 7)
        streams = [stream for told in whole.plane.own("ledger")["sessions"] for stream in [told["collector"]]]
        assert [stream["received"]["packets"] for stream in streams] == [7]
    [capture] = (tmp_path / "captures").glob("*.pcapng")
    interfaces = [block.name for block in pcapng.read(capture.read_bytes()) if isinstance(block, Interface)]
    assert interfaces == ["vni-7 10.0.0.48", "vni-7 2001:db8:1::48"]


def send(built: Lab, packets: int) -> None:
    with built.inside("web") as web, web.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(packets):
            sender.sendto(struct.pack("!I", number), ("10.0.0.6", PORT))

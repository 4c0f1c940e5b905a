"""What becomes of each packet of a capture file at an interface."""

import io
import json
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from pktmirror.cli.capture import Progress
from pktmirror.cli.captured import Answer, Hook, Place, Summary, line, mac_bytes, own_copies, packet_document
from pktmirror.cli.explanation import PlacedSession
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    StreamDocument,
    Undeliverable,
    Underlay,
)
from pktmirror.model.evaluation import Surroundings
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceOutcome
from pktmirror.packet.blocks import Packet
from pktmirror.packet.copies import Outer
from tests.unit.packet.frames import IPV4, IPV6, ipv4, ipv6, tcp, udp

OWN, OTHER, GROUP = (bytes.fromhex(mac) for mac in ("020000000048", "020000000006", "333300000001"))
ANY4 = ip_network("0.0.0.0/0")
COPY = Outer(IPv4Address("10.0.0.48"), IPv4Address("10.0.0.90"), 4789, 7)
LOGIN = ipv4(tcp(40000, 22, payload=b"x" * 100), TCP)


def session(number: int, *rules: Rule, problem: str | None = None) -> PlacedSession:
    return PlacedSession(f"tms-{number}", number, f"tmf-{number}", Filter(rules), problem=problem)


def to_port(port: int, direction: Direction = Direction.INGRESS, action: Action = Action.ACCEPT) -> Rule:
    return Rule(port, direction, action, ANY4, ANY4, TCP, None, PortRange(port, port))


SESSIONS = (session(1, to_port(22, action=Action.REJECT)), session(2, to_port(22), to_port(22, Direction.EGRESS)))
SURROUNDINGS = Surroundings(NEVER_MIRRORED, frozenset({ip_address("10.0.0.2")}))


def hook(*sessions: PlacedSession, mac: bytes | None = OWN, forced: Direction | None = None) -> Hook:
    return Hook(Place(sessions or SESSIONS, SURROUNDINGS, frozenset({COPY}), mac, forced))


def frame(payload: bytes, ethertype: int = IPV4, *, source: bytes = OTHER, destination: bytes = OWN) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + payload


def captured(frame_: bytes, wire_bytes: int | None = None) -> Packet:
    return Packet(0, 5_000_000_000, frame_, len(frame_) if wire_bytes is None else wire_bytes)


def answer(frame_: bytes, wire_bytes: int | None = None, **place: object) -> Answer:
    return hook(**place).answer(captured(frame_, wire_bytes))  # type: ignore[arg-type]


def test_what_the_interface_s_address_has_sent_is_egress_and_what_is_for_it_ingress():
    sent, received = answer(frame(LOGIN, source=OWN, destination=OTHER)), answer(frame(LOGIN))
    assert (sent.direction, received.direction) == (Direction.EGRESS, Direction.INGRESS)
    assert str(sent) == "mirrored by tms-2 (number 2, rule 22)"
    assert str(received) == str(sent)
    assert answer(frame(LOGIN, destination=GROUP)).outcome is InterfaceOutcome.TAKEN


def test_what_is_for_another_address_is_not_for_this_interface():
    told = answer(frame(LOGIN, source=OTHER, destination=OTHER))
    assert (told.outcome, told.direction) == (InterfaceOutcome.NOT_FOR_THIS_INTERFACE, Direction.INGRESS)
    assert str(told) == "not mirrored: not for this interface"


@pytest.mark.parametrize("direction", Direction)
def test_a_direction_that_is_forced_is_that_of_every_packet_whatever_its_addresses(direction: Direction):
    for source, destination in ((OWN, OTHER), (OTHER, OWN), (OTHER, OTHER)):
        told = answer(frame(LOGIN, source=source, destination=destination), forced=direction, mac=None)
        assert (told.direction, told.outcome) == (direction, InterfaceOutcome.TAKEN)


@pytest.mark.parametrize(
    ("frame_", "outcome", "said"),
    [
        pytest.param(frame(ipv4(tcp(1, 80), TCP)), InterfaceOutcome.NOT_TAKEN, "tms-1: no rule matched;", id="port"),
        pytest.param(frame(ipv4(udp(68, 67), UDP)), InterfaceOutcome.NEVER_MIRRORED, "never mirrored: dhcp", id="dhcp"),
        pytest.param(frame(bytes(28), 0x0806), InterfaceOutcome.NEVER_MIRRORED, "never mirrored: ARP", id="arp"),
        pytest.param(
            frame(struct.pack("!HH", 5, 0x0806) + bytes(28), 0x8100),
            InterfaceOutcome.NEVER_MIRRORED,
            "never mirrored: ARP",
            id="arp behind a tag",
        ),
        pytest.param(frame(bytes(40), 0x88CC), InterfaceOutcome.NOT_IP, "not IP", id="LLDP"),
        pytest.param(frame(bytes(40), IPV6), InterfaceOutcome.MALFORMED, "malformed", id="no IPv6"),
        pytest.param(OWN + OTHER, InterfaceOutcome.MALFORMED, "malformed", id="shorter than Ethernet"),
        pytest.param(
            frame(ipv6(bytes((135, 0)) + bytes(22), 58)), InterfaceOutcome.MALFORMED, "malformed", id="the wrong type"
        ),
    ],
)
def test_what_is_not_mirrored_has_its_reason(frame_: bytes, outcome: InterfaceOutcome, said: str):
    told = answer(frame_)
    assert told.outcome is outcome
    assert str(told).startswith("not mirrored: ")
    assert said in str(told)


def copy_of_a_session(vni: int = 7) -> bytes:
    vxlan = bytes((8, 0, 0, 0)) + vni.to_bytes(3) + bytes(1)
    datagram = struct.pack("!HHHH", 0xFF80, 4789, 8 + 8 + 60, 0) + vxlan + bytes(60)
    return ipv4(datagram, UDP, source="10.0.0.48", destination="10.0.0.90")


def test_a_copy_of_a_session_is_not_mirrored_again_and_another_tunnel_is_a_packet_like_others():
    assert answer(frame(copy_of_a_session())).outcome is InterfaceOutcome.OWN_COPY
    assert answer(frame(copy_of_a_session(vni=8))).outcome is InterfaceOutcome.NOT_TAKEN


def test_an_error_about_a_copy_is_known_also_where_it_does_not_quote_the_vni():
    for quoted_bytes in (28, 60):
        message = bytes((3, 3)) + bytes(6) + copy_of_a_session()[:quoted_bytes]
        told = answer(frame(ipv4(message, 1, source="10.0.0.90", destination="10.0.0.48")))
        assert told.outcome is InterfaceOutcome.TARGET_REFUSED


def test_a_packet_that_the_capture_has_cut_is_as_long_as_it_was():
    told, packet = answer(frame(LOGIN)[:54], 1514), captured(frame(LOGIN)[:54], 1514)
    assert told.outcome is InterfaceOutcome.TAKEN
    assert " 1514 B " in line(1, 0.0, packet, told)
    assert packet_document(1, packet, told, None)["bytes"] == 1514
    summary = Summary()
    summary.add(told, packet.wire_bytes)
    assert (summary.bytes.total(), summary.longest_bytes) == (1514, {"tms-2": 1514})


@pytest.mark.parametrize("kept_bytes", [10, 20, 36], ids=["Ethernet", "IP", "the ports"])
def test_a_packet_that_the_capture_has_cut_within_what_decides_is_not_guessed_at(kept_bytes: int):
    told = answer(frame(LOGIN)[:kept_bytes], 1514)
    assert told.outcome is None
    assert "the capture has cut it" in str(told)


def test_a_later_fragment_shows_no_ports_and_is_told_all_the_same():
    told = answer(frame(ipv4(bytes(8), TCP, offset_bytes=64)), 600)
    assert told.outcome is InterfaceOutcome.NOT_TAKEN


def test_what_is_no_ethernet_frame_is_said_with_its_link_type():
    told = hook().answer(captured(frame(LOGIN)), 113)
    assert (told.outcome, told.direction) == (None, None)
    assert "link type is 113" in str(told)


def test_a_packet_that_is_taken_and_does_not_arrive_is_said_as_that():
    told = hook(session(1, to_port(22), problem="no route to the target")).answer(captured(frame(LOGIN)))
    assert str(told) == "taken by tms-1 (number 1, rule 22), and does not arrive: no route to the target"
    document = packet_document(1, captured(frame(LOGIN)), told, None)
    assert (document["mirrored"], document["taken_by"]) == (False, "tms-1")
    assert json.dumps(document)


def test_the_summary_counts_each_answer_the_most_frequent_first():
    summary, at = Summary(), hook()
    for frame_ in (frame(bytes(28), 0x0806), frame(LOGIN), frame(LOGIN)):
        summary.add(at.answer(captured(frame_)), len(frame_))
    assert summary.lines() == [
        ("mirrored by tms-2 (number 2, rule 22)", 2, 2 * len(frame(LOGIN))),
        ("not mirrored: never mirrored: ARP", 1, 42),
    ]


def test_what_is_remembered_of_flows_is_bounded_and_changes_no_answer():
    at = Hook(Place(SESSIONS, SURROUNDINGS, frozenset(), OWN), flows_max=2)
    for _ in range(2):
        told = [str(at.answer(captured(frame(ipv4(tcp(port, 22), TCP))))) for port in range(1, 9)]
        assert set(told) == {"mirrored by tms-2 (number 2, rule 22)"}


def test_all_copies_of_the_account_are_known_those_of_other_hosts_too():
    sessions = (
        DesiredSession(
            session_id="tms-1",
            number=1,
            vni=7,
            filter_id="f",
            packet_bytes_max=None,
            delivery=Destination(address="10.0.0.90"),
        ),
        DesiredSession(
            session_id="tms-2",
            number=2,
            vni=8,
            filter_id="f",
            packet_bytes_max=None,
            delivery=Undeliverable(reason="it is none"),
        ),
    )
    state = DesiredState(
        host_id="host",
        revision=1,
        interfaces=(
            DesiredInterface(
                key="k",
                interface_id="eni-1",
                primary_address="10.0.0.48",
                underlay=Underlay(),
                resolvers=(),
                sessions=sessions,
            ),
        ),
        streams=(StreamDocument("10.0.0.5", "10.0.0.91", 9), StreamDocument("fd00::5", "fd00::91", 9)),
    )
    others = {
        Outer(IPv4Address("10.0.0.5"), IPv4Address("10.0.0.91"), 4789, 9),
        Outer(IPv6Address("fd00::5"), IPv6Address("fd00::91"), 4789, 9),
    }
    assert own_copies(state, {"tms-1": "10.0.0.48", "tms-2": "10.0.0.48"}) == {COPY, *others}
    assert own_copies(state, {}) == others


def test_a_mac_address_is_read_and_none_stays_none():
    assert mac_bytes("02:00:00:00:00:48") == OWN
    assert mac_bytes(None) is None


def test_progress_is_told_from_two_seconds_on_and_leaves_nothing_on_the_line():
    stream = io.StringIO()
    progress = Progress(stream, 1_000, 100.0)
    progress.passed(captured(bytes(68)), 101.9)
    progress.close()
    assert stream.getvalue() == ""
    progress.passed(captured(bytes(68)), 102.0)
    assert stream.getvalue() == "\r 20%  2 packets, 1/s"
    progress.passed(captured(bytes(68)), 102.1)
    assert stream.getvalue().count("\r") == 1, "twice a second is enough"
    progress.close()
    assert stream.getvalue().rsplit("\r", 2)[1].strip() == ""

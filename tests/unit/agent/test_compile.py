"""From the document of the control plane to the bytes of the kernel's tables."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import msgspec
import pytest

from pktmirror.agent import abi
from pktmirror.agent.classifier import filter_bytes
from pktmirror.agent.compile import (
    CompiledFilters,
    CopyStream,
    Uncompilable,
    Wanted,
    compile_state,
    route_queries,
)
from pktmirror.agent.exclusions import exclusion_bytes
from pktmirror.agent.inventory import Device
from pktmirror.agent.ways import RouteQuery, Way
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    FoundInterface,
    StreamDocument,
    Undeliverable,
    Underlay,
)
from pktmirror.model.exclusions import NEVER_MIRRORED, Exclusion
from pktmirror.model.filter import Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.underlay import Segmentation

KEY = "netns:web/eth0"
ANY4, ANY6 = ip_network("0.0.0.0/0"), ip_network("::/0")
TARGET = Destination(address="10.0.0.90")
QUERY = RouteQuery(ip_address("10.0.0.90"), 254, None)
WAY = Way(ifindex=5, next_hop=IPv4Address("10.0.0.1"), mtu=1500)


def found(key: str = KEY) -> FoundInterface:
    return FoundInterface(
        key=key,
        provider="netns",
        instance="web",
        name="eth0",
        device="web0",
        kind="veth",
        mac="02:00:00:00:00:48",
        addresses=("10.0.0.48",),
        mtu=1500,
        up=True,
    )


def session(
    number: int = 1, *, delivery: Destination | Undeliverable = TARGET, bytes_max: int | None = None
) -> DesiredSession:
    return DesiredSession(
        session_id=f"tms-{number}",
        number=number,
        vni=number + 100,
        filter_id="tmf-1",
        packet_bytes_max=bytes_max,
        delivery=delivery,
    )


def state(*sessions: DesiredSession, underlay: Underlay | None = None, resolvers: tuple[str, ...] = ()) -> DesiredState:
    interface = DesiredInterface(
        key=KEY,
        interface_id="eni-1",
        primary_address="10.0.0.48",
        underlay=underlay or Underlay(),
        resolvers=resolvers,
        sessions=sessions,
    )
    return DesiredState(
        host_id="here",
        revision=1,
        interfaces=(interface,),
        filters={"tmf-1": FilterDocument.of(Filter())},
        exclusions=tuple(ExclusionDocument.of(line) for line in NEVER_MIRRORED),
    )


def compiled(desired: DesiredState, ways: dict[RouteQuery, Way] | None = None) -> Wanted:
    device = Device(found(), ifindex=17, is_host_side=True)
    return compile_state(
        desired, [Device(found("netns:other/eth0"), 18, True), device], {QUERY: WAY} if ways is None else ways
    )


def test_a_cap_and_a_budget_reach_what_is_wanted() -> None:
    capped = msgspec.structs.replace(session(1), cap=Rate(100, 8000))
    device = Device(found(), ifindex=17, is_host_side=True)
    wanted = compile_state(state(capped, session(2)), [device], {QUERY: WAY}, budget=Rate(packets_per_s=50_000))
    assert [each.cap for each in wanted.interfaces[0].sessions] == [Rate(100, 8000), UNLIMITED]
    assert wanted.budget == Rate(packets_per_s=50_000)
    assert compiled(state(session())).budget == UNLIMITED


def test_the_copies_of_other_hosts_are_compiled_to_what_the_wire_shows() -> None:
    told = (StreamDocument("10.0.1.48", "10.0.1.90", 7), StreamDocument("10.0.1.48", "10.0.1.90", 8, 4790))
    assert compiled(msgspec.structs.replace(state(session()), streams=told)).streams == {
        CopyStream(IPv4Address("10.0.1.48"), IPv4Address("10.0.1.90"), 7, 4789),
        CopyStream(IPv4Address("10.0.1.48"), IPv4Address("10.0.1.90"), 8, 4790),
    }
    assert compiled(state(session())).streams == frozenset(), "its own it knows by itself"


@pytest.mark.parametrize("address", ["nowhere", "2001:db8::1", ""], ids=["a word", "of another family", "nothing"])
def test_copies_of_other_hosts_that_cannot_be_are_refused(address: str) -> None:
    told = (StreamDocument(address, "10.0.1.90", 7),)
    with pytest.raises(Uncompilable, match="the copies of other hosts"):
        compiled(msgspec.structs.replace(state(session()), streams=told))


def test_the_never_mirrored_table_line_by_line() -> None:
    lines = [
        Exclusion("any address", None, 17, PortRange(67, 68)),
        Exclusion("IPv4", ip_address("169.254.169.254")),
        Exclusion("IPv6", ip_address("fd00:ec2::254"), 58, PortRange(133, 133)),
    ]
    table = abi.ExclusionTable.from_buffer_copy(exclusion_bytes(lines))
    assert table.count == 3
    seen = [
        (
            bytes(line.address_be).hex(),
            line.family,
            line.protocol,
            line.protocol_mask,
            line.names_ports,
            line.first,
            line.last,
        )
        for line in table.lines[:4]
    ]
    assert seen == [
        ("00" * 16, 0, 17, 0xFF, 1, 67, 68),
        ("a9fea9fe" + "00" * 12, 4, 0, 0, 0, 0, 0),
        (IPv6Address("fd00:ec2::254").packed.hex(), 6, 58, 0xFF, 1, 133, 133),
        ("00" * 16, 0, 0, 0, 0, 0, 0),
    ]


def test_an_interface_and_its_sessions_by_number() -> None:
    wanted = compiled(state(session(9, bytes_max=100), session(2), resolvers=("10.0.0.2", "fd00::2")))
    (interface,) = wanted.interfaces
    assert (interface.ifindex, interface.mac, interface.is_host_side) == (17, bytes.fromhex("020000000048"), True)
    assert interface.resolvers == (ip_address("10.0.0.2"), ip_address("fd00::2"))
    assert [each.delivery.session_id for each in interface.sessions] == ["tms-2", "tms-9"]
    assert [each.delivery.packet_bytes_max for each in interface.sessions] == [0, 100]
    assert [each.stage for each in interface.sessions] == [Stage.SENT, Stage.SENT]
    to = interface.sessions[0].delivery
    assert (to.outer_source, to.outer_destination) == (IPv4Address("10.0.0.48"), IPv4Address("10.0.0.90"))
    assert (to.next_hop, to.ifindex, to.port, to.vni) == (IPv4Address("10.0.0.1"), 5, 4789, 102)
    assert wanted.session_ids == {"tms-2", "tms-9"}
    assert wanted.problems == {}


@pytest.mark.parametrize(
    ("way", "target", "underlay", "room"),
    [
        (1500, None, None, 1464),
        (9000, 1500, None, 1464),
        (9000, 1500, 1400, 1364),
        (1450, 9001, 9001, 1414),
        (1500, None, 35, 0),
    ],
    ids=["the way", "the target", "the underlay", "the way again", "no room at all"],
)
def test_the_smallest_mtu_less_the_outer_headers_is_the_room_for_a_copy(
    way: int, target: int | None, underlay: int | None, room: int
) -> None:
    """36 bytes: outer IPv4, UDP and VXLAN. A frame of a 1500-byte packet (1514) is cut at a 1500-byte target (fact 78),
    and not at one whose MTU is 50 bytes more."""
    desired = state(session(delivery=Destination(address="10.0.0.90", mtu=target)), underlay=Underlay(mtu_max=underlay))
    (interface,) = compiled(desired, {QUERY: Way(5, IPv4Address("10.0.0.1"), way)}).interfaces
    assert interface.sessions[0].delivery.room_bytes_max == room


@pytest.mark.parametrize(
    ("splits", "segmentation", "mtu", "bytes_max", "whole"),
    [
        (True, Segmentation.AUTO, 1550, None, True),
        (True, Segmentation.AUTO, 1549, None, False),
        (True, Segmentation.AUTO, 1550, 1514, False),
        (True, Segmentation.HOST, 1550, None, False),
        (False, Segmentation.AUTO, 1550, None, False),
        (False, Segmentation.UNDERLAY, 1550, None, True),
        (False, Segmentation.UNDERLAY, 1549, None, False),
    ],
    ids=[
        "all of a source of 1500 bytes has room",
        "one byte too little",
        "what is cut is split first",
        "the operator wants it split here",
        "the device hands on what it gets",
        "the operator knows what is behind it",
        "and has too little room",
    ],
)
def test_copies_leave_whole_where_nothing_is_left_to_be_done_to_them(
    splits: bool, segmentation: Segmentation, mtu: int, bytes_max: int | None, whole: bool
) -> None:
    desired = state(session(bytes_max=bytes_max), underlay=Underlay(segmentation=segmentation))
    way = Way(5, IPv4Address("10.0.0.1"), mtu, splits=splits)
    (interface,) = compiled(desired, {QUERY: way}).interfaces
    assert interface.sessions[0].delivery.leaves_whole is whole
    assert interface.sessions[0].delivery.leaves_ahead is (whole and segmentation is Segmentation.UNDERLAY)
    (interface,) = compiled(desired, {QUERY: replace(way, is_card=True)}).interfaces
    assert interface.sessions[0].delivery.leaves_ahead is whole


def test_the_question_to_the_route_table_carries_the_underlay() -> None:
    underlay = Underlay(route_table=100, device="br-u")
    sessions = (session(1), session(2), session(3, delivery=Undeliverable(reason="not yet")))
    assert route_queries(state(*sessions, underlay=underlay)) == {RouteQuery(ip_address("10.0.0.90"), 100, "br-u")}


def test_a_session_without_a_route_takes_packets_and_sends_none() -> None:
    wanted = compiled(state(session(), underlay=Underlay(route_table=100, device="br-u")), {})
    (interface,) = wanted.interfaces
    assert interface.sessions[0].stage is Stage.NO_ROUTE
    assert interface.sessions[0].delivery.outer_destination == IPv4Address(0)
    assert wanted.problems == {"tms-1": "no route to the target 10.0.0.90 (table 100, device br-u)"}


def test_sessions_by_a_next_hop_that_does_not_answer_have_their_way_and_send_nothing_on_it() -> None:
    elsewhere = session(3, delivery=Destination(address="10.0.0.91"))
    ways = {QUERY: WAY, RouteQuery(ip_address("10.0.0.91"), 254, None): replace(WAY, next_hop=IPv4Address("10.0.0.2"))}
    desired, silent = state(session(1), session(2), elsewhere), frozenset({(5, IPv4Address("10.0.0.1"))})
    device = Device(found(), ifindex=17, is_host_side=True)
    (before,), (after,) = (
        compile_state(desired, [device], ways, unresolved=each).interfaces for each in (frozenset(), silent)
    )
    assert [each.stage for each in before.sessions] == [Stage.SENT] * 3
    assert [each.stage for each in after.sessions] == [Stage.NEIGHBOUR_UNRESOLVED] * 2 + [Stage.SENT]
    assert [replace(each, stage=Stage.SENT) for each in after.sessions] == list(before.sessions), "and nothing else"
    wanted = compile_state(desired, [device], ways, unresolved=silent)
    assert wanted.problems == dict.fromkeys(("tms-1", "tms-2"), "the next hop 10.0.0.1 does not answer ARP")
    assert wanted.next_hops == {(5, IPv4Address("10.0.0.1")), (5, IPv4Address("10.0.0.2"))}, "they are still asked for"
    other_device = frozenset({(6, IPv4Address("10.0.0.1"))})
    assert compile_state(desired, [device], ways, unresolved=other_device).problems == {}
    assert compile_state(desired, [device], {}, unresolved=silent).next_hops == frozenset()


def test_a_route_by_an_ipv6_next_hop_is_no_route_yet() -> None:
    wanted = compiled(state(session()), {QUERY: Way(5, IPv6Address("fe80::1"), 1500)})
    assert wanted.interfaces[0].sessions[0].stage is Stage.NO_ROUTE
    assert wanted.problems == {"tms-1": "no route to the target 10.0.0.90 (table 254)"}


IPV6 = Destination(address="fd00::90", outer_source="fd00::48")
QUERY6 = RouteQuery(ip_address("fd00::90"), 254, None)


@pytest.mark.parametrize(("mtu", "room"), [(1500, 1444), (9001, 8945), (65535, 63418)])
def test_a_session_over_ipv6_has_both_ends_there_and_twenty_bytes_less_room(mtu: int, room: int) -> None:
    """56 bytes: outer IPv6, UDP and VXLAN; bpf/encap6.h sums frames of 63488 bytes, Ethernet's 14 included."""
    next_hop = ip_address("fe80::1")
    wanted = compiled(state(session(delivery=IPV6)), {QUERY6: Way(5, next_hop, mtu)})
    [only] = wanted.interfaces[0].sessions
    to = only.delivery
    assert (only.stage, wanted.problems) == (Stage.SENT, {})
    assert (to.outer_source, to.outer_destination) == (ip_address("fd00::48"), ip_address("fd00::90"))
    assert (to.next_hop, to.room_bytes_max) == (next_hop, room)


def test_a_next_hop_of_another_family_is_no_route() -> None:
    wanted = compiled(state(session(delivery=IPV6)), {QUERY6: WAY})
    assert wanted.interfaces[0].sessions[0].stage is Stage.NO_ROUTE
    assert wanted.problems == {"tms-1": "no route to the target fd00::90 (table 254)"}


def test_an_undeliverable_session_says_why_and_leaves_the_others_alone() -> None:
    reason = "target type not yet deliverable"
    wanted = compiled(state(session(1, delivery=Undeliverable(reason=reason)), session(2)))
    (interface,) = wanted.interfaces
    assert [each.stage for each in interface.sessions] == [Stage.UNDELIVERABLE, Stage.SENT]
    assert wanted.problems == {"tms-1": reason}


def test_a_session_whose_interface_is_gone_is_still_desired() -> None:
    wanted = compile_state(state(session()), [], {QUERY: WAY})
    assert wanted.interfaces == ()
    assert wanted.session_ids == {"tms-1"}
    assert wanted.problems == {"tms-1": "interface gone"}


def test_what_is_desired_under_an_interfaces_plain_key_is_its_own_unless_that_is_anothers() -> None:
    """Until the control plane has heard that an engine tells whose it is, and after a restart without it."""
    named = Device(msgspec.structs.replace(found("libvirt:6c5b/x"), plain_key=KEY), 8, is_host_side=True)
    wanted = compile_state(state(session()), [named], {QUERY: WAY})
    assert ([interface.ifindex for interface in wanted.interfaces], wanted.problems) == ([8], {})
    itself = Device(found(KEY), 9, is_host_side=True)
    wanted = compile_state(state(session()), [itself, named], {QUERY: WAY})
    assert [interface.ifindex for interface in wanted.interfaces] == [9]


def test_a_source_without_an_address_of_the_targets_family_sends_nothing_and_leaves_the_others_alone() -> None:
    here = state(session())
    [interface] = here.interfaces
    ipv6 = msgspec.structs.replace(
        interface, key="netns:db/eth0", primary_address="2001:db8::48", sessions=(session(2),)
    )
    wanted = compile_state(
        msgspec.structs.replace(here, interfaces=(interface, ipv6)),
        [Device(found(), 3, is_host_side=True), Device(found("netns:db/eth0"), 4, is_host_side=True)],
        {QUERY: WAY},
    )
    assert [each.sessions[0].stage for each in wanted.interfaces] == [Stage.SENT, Stage.UNDELIVERABLE]
    assert list(wanted.problems) == ["tms-2"]
    assert "2001:db8::48 and the target's 10.0.0.90 are of two families" in wanted.problems["tms-2"]


MANY_RULES = Filter(tuple(Rule(n, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4) for n in range(1, abi.RULES_MAX + 2)))


TOO_MANY = state(*(session(number) for number in range(1, abi.SESSIONS_MAX + 2))).interfaces
NINE_RESOLVERS = state(session(), resolvers=("10.0.0.2",) * 9).interfaces
NO_RESOLVER = state(session(), resolvers=("x",)).interfaces
NOWHERE = ExclusionDocument(why="x", address="nowhere")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({"filters": {}}, "tms-1 names the filter tmf-1, which is not there", id="an unknown filter"),
        pytest.param(
            {"filters": {"tmf-1": FilterDocument.of(MANY_RULES)}},
            "10001 rules in filter tmf-1; the data plane holds 10000",
            id="too many rules",
        ),
        pytest.param({"exclusions": (ExclusionDocument(why="x"),) * 33}, "33 lines", id="too many exclusions"),
        pytest.param({"exclusions": (NOWHERE,)}, "'nowhere'", id="an exclusion of no address"),
        pytest.param({"interfaces": TOO_MANY}, "65 sessions", id="too many sessions"),
        pytest.param({"interfaces": NINE_RESOLVERS}, "9 resolvers", id="too many resolvers"),
        pytest.param({"interfaces": NO_RESOLVER}, "'x'", id="a resolver that is no address"),
    ],
)
def test_a_document_that_the_data_plane_cannot_hold_is_refused_as_a_whole(change: dict[str, object], why: str) -> None:
    device = Device(found(), 3, is_host_side=True)
    assert compile_state(state(session()), [device], {QUERY: WAY}).interfaces
    with pytest.raises(Uncompilable, match=why):
        compile_state(msgspec.structs.replace(state(session()), **change), [device], {QUERY: WAY})


def test_a_filter_is_compiled_again_only_when_its_document_has_changed() -> None:
    device = Device(found(), 3, is_host_side=True)
    one, other = (
        FilterDocument.of(Filter((Rule(number, Direction.INGRESS, Action.ACCEPT, ANY4, ANY4),))) for number in (1, 2)
    )
    compiled = CompiledFilters()

    def filter_of(document: FilterDocument, known: CompiledFilters | None = compiled) -> bytes:
        desired = msgspec.structs.replace(state(session()), filters={"tmf-1": document})
        return compile_state(desired, [device], {QUERY: WAY}, known).interfaces[0].sessions[0].filter

    first = filter_of(one)
    assert first == filter_bytes(one.filter())
    assert filter_of(one) is first
    assert filter_of(msgspec.json.decode(msgspec.json.encode(one), type=FilterDocument)) is first
    assert filter_of(other) == filter_bytes(other.filter()) != first
    assert filter_of(one) is first, "what was last good is asked for in turn with what cannot be compiled"
    filter_of(other)
    filter_of(other)
    assert filter_of(one) is not first, "a filter that is no longer used is kept"
    assert filter_of(one, None) == first


def test_filters_are_known_while_another_part_of_the_document_cannot_be_compiled() -> None:
    device = Device(found(), 3, is_host_side=True)
    good = state(session())
    known = CompiledFilters()
    first = compile_state(good, [device], {QUERY: WAY}, known).interfaces[0].sessions[0].filter
    changed = {"tmf-1": FilterDocument.of(MANY_RULES), "tmf-2": FilterDocument.of(Filter())}
    for _ in range(3):
        with pytest.raises(Uncompilable):
            compile_state(msgspec.structs.replace(good, filters=changed), [device], {QUERY: WAY}, known)
        assert compile_state(good, [device], {QUERY: WAY}, known).interfaces[0].sessions[0].filter is first

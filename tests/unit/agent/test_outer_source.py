"""Whose address the copies of a network carry: the interface's, or that of the host's route."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from pktmirror.agent.compile import Wanted, compile_state, route_queries
from pktmirror.agent.inventory import Device
from pktmirror.agent.ways import Way
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    FilterDocument,
    Undeliverable,
    Underlay,
)
from pktmirror.model.filter import Filter
from pktmirror.model.ledger import Stage
from pktmirror.model.underlay import OuterSource
from tests.unit.agent.test_compile import found

KEY = "netns:web/eth0"
WAY = Way(5, IPv4Address("10.0.0.1"), 1500, IPv4Address("192.0.2.3"))


def state(
    outer_source: OuterSource, primary: str = "10.0.0.48", delivery: Destination | Undeliverable | None = None
) -> DesiredState:
    session = DesiredSession(
        session_id="tms-1",
        number=1,
        vni=7,
        filter_id="tmf-1",
        packet_bytes_max=None,
        delivery=delivery or Destination(address="10.0.0.90"),
    )
    interface = DesiredInterface(
        key=KEY,
        interface_id="eni-web",
        primary_address=primary,
        underlay=Underlay(route_table=100, device="br0", outer_source=outer_source),
        resolvers=(),
        sessions=(session,),
    )
    return DesiredState(
        host_id="host-1", revision=1, interfaces=(interface,), filters={"tmf-1": FilterDocument.of(Filter())}
    )


def compiled(desired: DesiredState, way: Way | None) -> tuple[Stage, IPv4Address, str | None]:
    """The stage of the session, the outer source of its copies, and what stands in its way."""
    ways = {} if way is None else {query: way for query in route_queries(desired)}
    wanted: Wanted = compile_state(desired, [Device(found(KEY), 3, is_host_side=True)], ways)
    [session] = wanted.interfaces[0].sessions
    return session.stage, session.delivery.outer_source, wanted.problems.get("tms-1")


def test_copies_carry_the_preferred_source_of_the_route_or_the_interfaces_address() -> None:
    assert compiled(state(OuterSource.HOST), WAY) == (Stage.SENT, IPv4Address("192.0.2.3"), None)
    assert compiled(state(OuterSource.ENI), WAY) == (Stage.SENT, IPv4Address("10.0.0.48"), None)


@pytest.mark.parametrize("source", [None, IPv6Address("2001:db8::3")], ids=["none", "an IPv6 one"])
def test_a_route_without_a_preferred_source_is_named_and_sends_nothing(source: IPv6Address | None) -> None:
    way = Way(WAY.ifindex, WAY.next_hop, WAY.mtu, source)
    stage, outer_source, problem = compiled(state(OuterSource.HOST), way)
    assert (stage, outer_source) == (Stage.NO_ROUTE, IPv4Address(0))
    assert "the route to the target 10.0.0.90 (table 100, device br0) has no preferred source" in (problem or "")
    assert compiled(state(OuterSource.ENI), way)[0] is Stage.SENT, "nobody needs it there"


def test_no_route_is_still_no_route() -> None:
    for outer_source in OuterSource:
        stage, _, problem = compiled(state(outer_source), None)
        assert (stage, problem) == (Stage.NO_ROUTE, "no route to the target 10.0.0.90 (table 100, device br0)")


def test_with_the_hosts_address_outside_an_ipv6_source_can_be_mirrored() -> None:
    assert compiled(state(OuterSource.HOST, "2001:db8::48"), WAY)[0] is Stage.SENT
    assert compiled(state(OuterSource.ENI, "2001:db8::48"), WAY)[0] is Stage.UNDELIVERABLE


def test_what_goes_nowhere_says_so_first() -> None:
    nowhere = Undeliverable(reason="target interface gone")
    for outer_source in OuterSource:
        stage, _, problem = compiled(state(outer_source, delivery=nowhere), WAY)
        assert (stage, problem) == (Stage.UNDELIVERABLE, "target interface gone")

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from pktmirror.control.placement import Resources, desired_state
from pktmirror.control.records import FilterRecord, InterfaceRecord, RuleRecord, TargetRecord
from pktmirror.desired import Destination, StreamDocument, Undeliverable, Underlay
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import Action, Direction, Rule
from pktmirror.model.rate import UNLIMITED, Rate
from pktmirror.model.target import LoadBalancerTarget
from pktmirror.model.underlay import OuterSource
from pktmirror.networks import Networks, load
from tests.unit.control.records import HOST, interface, resources, session, target

NETWORKS = load("""
[[vpc]]
name = "v"
cidr = "10.0.0.0/16"
resolvers = ["10.0.0.53"]
[vpc.underlay]
route_table = 7
device = "br0"
mtu_max = 9000
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
""")
ANY = ip_network("0.0.0.0/0")


def rule(filter_: str, number: int) -> RuleRecord:
    ruled = Rule(number, Direction.INGRESS, Action.ACCEPT, ANY, ANY)
    return RuleRecord(f"tmfr-{filter_}-{number}", f"tmf-{filter_}", ruled)


def test_a_host_gets_its_own_interfaces_with_sessions_and_the_filters_in_use() -> None:
    all_ = resources(
        [
            interface("web", "10.0.0.1"),
            interface("idle", "10.0.0.2"),
            interface("far", "10.0.0.3", host="h2"),
            interface("sensor", "10.0.0.4", mtu=8900),
        ],
        [target("sensor")],
        [session("b", "web", "sensor", 20), session("a", "web", "sensor", 10), session("c", "far", "sensor")],
        [FilterRecord("tmf-f"), FilterRecord("tmf-unused")],
        [rule("f", 20), rule("f", 10), rule("unused", 1)],
        NETWORKS,
    )
    desired = desired_state(all_, HOST)
    [web] = desired.interfaces
    assert (desired.host_id, desired.revision) == (HOST, 3)
    assert (web.key, web.interface_id, web.primary_address) == ("web", "eni-web", "10.0.0.1")
    assert web.underlay == Underlay(route_table=7, device="br0", mtu_max=9000)
    assert web.resolvers == ("10.0.0.53",)
    assert [placed.session_id for placed in web.sessions] == ["tms-a", "tms-b"]
    assert web.sessions[0].delivery == Destination(address="10.0.0.4", outer_source="10.0.0.1", port=4789, mtu=8900)
    assert desired.filters.keys() == {"tmf-f"}
    assert [line.number for line in desired.filters["tmf-f"].rules] == [10, 20]
    assert [line.exclusion() for line in desired.exclusions] == list(NEVER_MIRRORED)


def test_an_interface_in_no_declared_subnet_leaves_by_the_hosts_routes() -> None:
    for networks in (NETWORKS, Networks()):
        there = [interface("web", "192.0.2.1"), interface("s", "10.0.0.4")]
        all_ = resources(there, [target("s")], [session("a", "web", "s")], networks=networks)
        [web] = desired_state(all_, HOST).interfaces
        assert web.underlay == Underlay()
        assert web.resolvers == ("169.254.169.253",)


@pytest.mark.parametrize(
    ("sensor", "of_target", "reason"),
    [
        pytest.param(
            None, target("s", LoadBalancerTarget("arn")), "target type not yet deliverable", id="a load balancer"
        ),
        pytest.param(None, target("s"), "target interface gone", id="deleted"),
        pytest.param(
            interface("s", "10.0.0.4", detached_at_s=1.0), target("s"), "target interface gone", id="detached"
        ),
        pytest.param(interface("s"), target("s"), "target interface has no primary address", id="no address"),
        pytest.param(
            interface("s", "2001:db8::4"),
            target("s"),
            "source and target have no address of one family",
            id="another family",
        ),
    ],
)
def test_a_session_that_cannot_deliver_is_kept_with_the_reason(
    sensor: InterfaceRecord | None, of_target: TargetRecord, reason: str
) -> None:
    there = [interface("web", "10.0.0.1")] + ([sensor] if sensor else [])
    all_ = resources(there, [of_target], [session("a", "web", "s")])
    [web] = desired_state(all_, HOST).interfaces
    assert web.sessions[0].delivery == Undeliverable(reason=reason)


def test_a_source_without_an_address_is_not_placed() -> None:
    all_ = resources([interface("web"), interface("s", "10.0.0.4")], [target("s")], [session("a", "web", "s")])
    assert desired_state(all_, HOST).interfaces == ()


def test_a_detached_source_stays_in_the_document_so_that_it_heals_at_once() -> None:
    web = interface("web", "10.0.0.1", detached_at_s=1.0)
    all_ = resources([web, interface("s", "10.0.0.4")], [target("s")], [session("a", "web", "s")])
    assert [placed.key for placed in desired_state(all_, HOST).interfaces] == ["web"]


OF_HOST = load("""
[[vpc]]
name = "v"
cidr = "10.0.0.0/16"
ipv6_cidr = "2001:db8::/56"
underlay = { outer_source = "host" }
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
ipv6_cidr = "2001:db8::/64"
""")


def test_the_outer_source_of_a_network_reaches_the_interfaces_that_are_in_it_and_no_others() -> None:
    all_ = resources(
        [interface("web", "10.0.0.1"), interface("other", "192.0.2.1"), interface("s", "10.0.0.4")],
        [target("s")],
        [session("a", "web", "s"), session("b", "other", "s")],
        networks=OF_HOST,
    )
    other, web = desired_state(all_, HOST).interfaces
    assert (web.key, web.underlay) == ("web", Underlay(outer_source=OuterSource.HOST))
    assert (other.key, other.underlay) == ("other", Underlay())


@pytest.mark.parametrize(("networks", "delivered"), [(OF_HOST, True), (NETWORKS, False)], ids=["of host", "of ENI"])
def test_with_the_hosts_address_outside_the_family_of_the_source_does_not_matter(
    networks: Networks, delivered: bool
) -> None:
    there = [interface("web", "2001:db8::1"), interface("s", "10.0.0.4")]
    [web] = desired_state(
        resources(there, [target("s")], [session("a", "web", "s")], networks=networks), HOST
    ).interfaces
    assert isinstance(web.sessions[0].delivery, Destination) is delivered


def told(*streams: tuple[str, str, int]) -> tuple[StreamDocument, ...]:
    return tuple(StreamDocument(*stream) for stream in streams)


def elsewhere(networks: Networks, **more: Any) -> Resources:
    """A source here, three on the host h2, of which one delivers nothing."""
    all_ = resources(
        [
            interface("web", "10.0.0.1"),
            interface("far", "10.0.0.3", host="h2"),
            interface("bare", host="h2"),
            interface("s", "10.0.0.4"),
        ],
        [target("s"), target("lb", LoadBalancerTarget("arn"))],
        [
            session("a", "web", "s", vni=1),
            session("b", "far", "s", 1, vni=2),
            session("c", "far", "s", 2, vni=2),
            session("d", "far", "lb", 3, vni=3),
            session("e", "bare", "lb", vni=4),
        ],
        networks=networks,
    )
    return replace(all_, **more)


def test_a_host_is_told_the_copies_of_all_others_once_each_and_not_its_own() -> None:
    all_ = elsewhere(NETWORKS)
    assert desired_state(all_, HOST).streams == told(("10.0.0.3", "10.0.0.4", 2))
    assert desired_state(all_, "h2").streams == told(("10.0.0.1", "10.0.0.4", 1))
    assert desired_state(all_, "h3").streams == (), "it mirrors nothing"


def test_an_outer_source_that_is_another_hosts_is_told_once_its_agent_has_said_it() -> None:
    assert desired_state(elsewhere(OF_HOST), HOST).streams == ()
    known = {"tms-b": frozenset({"10.0.0.200", "10.0.0.201"}), "tms-a": frozenset({"10.0.0.202"})}
    assert desired_state(elsewhere(OF_HOST, outer_sources=known), HOST).streams == told(
        ("10.0.0.200", "10.0.0.4", 2), ("10.0.0.201", "10.0.0.4", 2)
    )


def over(family: int | None, outer_source: str = "eni") -> Networks:
    said = f'outer_source = "{outer_source}"' + ("" if family is None else f"\nfamily = {family}")
    return load(f"""
[[vpc]]
name = "v"
cidr = "10.0.0.0/16"
ipv6_cidr = "2001:db8::/48"
[vpc.underlay]
{said}
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
ipv6_cidr = "2001:db8::/64"
""")


V4, V6, BOTH = ("10.0.0.1",), ("2001:db8::1",), ("10.0.0.1", "2001:db8::1")
SENSOR_V4, SENSOR_V6, SENSOR_BOTH = ("10.0.0.4",), ("2001:db8::4",), ("10.0.0.4", "2001:db8::4")
NO_FAMILY = "source and target have no address of one family"


@pytest.mark.parametrize(
    ("source", "sensor", "family", "delivered"),
    [
        pytest.param(BOTH, SENSOR_BOTH, None, ("10.0.0.1", "10.0.0.4"), id="IPv4 where both ends have it"),
        pytest.param(BOTH, SENSOR_BOTH, 4, ("10.0.0.1", "10.0.0.4"), id="IPv4 where it is declared"),
        pytest.param(BOTH, SENSOR_BOTH, 6, ("2001:db8::1", "2001:db8::4"), id="IPv6 where it is declared"),
        pytest.param(V6, SENSOR_BOTH, None, ("2001:db8::1", "2001:db8::4"), id="a source with IPv6 alone"),
        pytest.param(BOTH, SENSOR_V6, None, ("2001:db8::1", "2001:db8::4"), id="a target with IPv6 alone"),
        pytest.param(V6, SENSOR_V6, None, ("2001:db8::1", "2001:db8::4"), id="both with IPv6 alone"),
        pytest.param(V4, SENSOR_V6, None, NO_FAMILY, id="no family that both have"),
        pytest.param(V4, SENSOR_BOTH, 6, f"{NO_FAMILY} over which copies leave (IPv6)", id="not the declared one"),
    ],
)
def test_copies_leave_over_the_family_that_is_declared_or_the_first_that_both_ends_have(
    source: tuple[str, ...], sensor: tuple[str, ...], family: int | None, delivered: tuple[str, str] | str
) -> None:
    all_ = resources(
        [interface("web", *source), interface("far", *source, host="h2"), interface("s", *sensor)],
        [target("s")],
        [session("a", "web", "s", vni=1), session("b", "far", "s", vni=2)],
        networks=over(family),
    )
    placed = desired_state(all_, HOST)
    [web] = placed.interfaces
    if isinstance(delivered, str):
        assert (web.sessions[0].delivery, placed.streams) == (Undeliverable(reason=delivered), ())
    else:
        own, address = delivered
        assert web.sessions[0].delivery == Destination(address=address, outer_source=own, mtu=1500)
        assert placed.streams == told((own, address, 2)), "of the other host's session"


def test_with_the_hosts_address_outside_the_targets_addresses_alone_decide() -> None:
    for family, address in ((None, "10.0.0.4"), (6, "2001:db8::4")):
        all_ = resources(
            [interface("web", *V6), interface("s", *SENSOR_BOTH)],
            [target("s")],
            [session("a", "web", "s", vni=1)],
            networks=over(family, "host"),
        )
        [web] = desired_state(all_, HOST).interfaces
        assert web.sessions[0].delivery == Destination(address=address, mtu=1500)
        known = {"tms-a": frozenset({"192.0.2.3", "2001:db8::3"})}
        of_family = {None: "192.0.2.3", 6: "2001:db8::3"}[family]
        assert replace(all_, outer_sources=known).streams == {HOST: {(1, of_family, address)}}


def test_a_session_has_the_cap_of_its_own_and_no_others() -> None:
    all_ = resources(
        [interface("web", "10.0.0.1"), interface("s", "10.0.0.4")],
        [target("s")],
        [session("a", "web", "s", 1), session("b", "web", "s", 2)],
    )
    [web] = desired_state(replace(all_, caps={"tms-b": Rate(100, 8000)}), HOST).interfaces
    assert [placed.cap for placed in web.sessions] == [UNLIMITED, Rate(100, 8000)]


def test_the_operators_address_counts_before_what_was_found() -> None:
    web = replace(interface("web", "192.0.2.1"), declared_address="10.0.0.1")
    all_ = resources([web, interface("s", "10.0.0.4")], [target("s")], [session("a", "web", "s")], networks=NETWORKS)
    [placed] = desired_state(all_, HOST).interfaces
    assert (placed.primary_address, placed.underlay.route_table) == ("10.0.0.1", 7)

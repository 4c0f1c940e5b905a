"""What an interface is told, as hypothesis strategies: sessions, filters, resolvers, exclusions.

Everything is made as the control plane makes it, a `DesiredState`, and is decoded from its JSON.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import strategies as st

from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    Undeliverable,
    Underlay,
    decode_desired_state,
    encode,
)
from pktmirror.model.exclusions import NEVER_MIRRORED, Exclusion
from pktmirror.model.filter import Action, Direction, Filter, Network, NetworkService, PortRange, Rule
from tests.kernel.frames import ADDRESSES4, ADDRESSES6, ICMP_TYPES, ICMPV6, PORTS, PROTOCOLS, TCP, UDP

Address = IPv4Address | IPv6Address
KEY = "netns:web/eth0"
NETWORKS4: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in ("0.0.0.0/0", "10.0.0.0/24", "10.0.0.48/32", "10.0.0.0/29", "192.0.2.0/25", "128.0.0.0/1")
)
NETWORKS6: tuple[Network, ...] = tuple(
    ip_network(network) for network in ("::/0", "fd00::/64", "fd00::48/128", "fd00::/29", "2001:db8::/33", "a00::/16")
)
RESOLVERS = tuple(ip_address(address) for address in ("10.0.0.2", "169.254.169.253", "fd00:ec2::253", "10.0.0.6"))
REACHABLE, UNREACHABLE = IPv4Address("10.0.0.90"), IPv4Address("203.0.113.90")
REACHABLE6, SOURCE6 = IPv6Address("fd00::90"), IPv6Address("fd00::48")


@dataclass(frozen=True, slots=True)
class Scene:
    """One host with one mirrored interface."""

    state: DesiredState
    is_host_side: bool


def port_ranges(numbers: tuple[int, ...] = PORTS) -> st.SearchStrategy[PortRange]:
    """Ranges that begin and end on a number of the pool, so that both ends are tried."""
    pair = st.tuples(st.sampled_from(numbers), st.sampled_from(numbers))
    return pair.map(lambda ends: PortRange(min(ends), max(ends)))


@st.composite
def rules(draw: st.DrawFn, number: int) -> Rule:
    networks = draw(st.sampled_from((NETWORKS4, NETWORKS4, NETWORKS6)))
    protocol = draw(st.sampled_from((None,) * 8 + PROTOCOLS))
    source_ports = destination_ports = None
    if protocol in (None, TCP, UDP):
        source_ports = draw(st.one_of(st.none(), st.none(), st.none(), port_ranges()))
        destination_ports = draw(st.one_of(st.none(), st.none(), port_ranges()))
    return Rule(
        number,
        draw(st.sampled_from(Direction)),
        draw(st.sampled_from((Action.ACCEPT, Action.ACCEPT, Action.REJECT))),
        draw(st.one_of(st.just(networks[0]), st.sampled_from(networks))),
        draw(st.one_of(st.just(networks[0]), st.sampled_from(networks))),
        protocol,
        source_ports,
        destination_ports,
    )


@st.composite
def filters(draw: st.DrawFn, rules_max: int = 16) -> Filter:
    """The rules stand in any order: their numbers order them."""
    count = draw(st.sampled_from([count for count in (1, 2, 3, 4, 6, 16, 16, 0) if count <= rules_max]))
    numbers = draw(st.lists(st.integers(1, 32766), min_size=count, max_size=count, unique=True))
    services = draw(st.sampled_from((frozenset[NetworkService](), frozenset({NetworkService.AMAZON_DNS}))))
    return Filter(tuple(draw(rules(number)) for number in numbers), services)


@st.composite
def many_rules(draw: st.DrawFn, rules_max: int = 400) -> Filter:
    """More rules than hypothesis could draw one by one: from a seed, and of the same pools. Few are for all packets."""
    drawn = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([count for count in (17, 60, 400, 2_000, 10_000) if count <= rules_max]))
    protocols = drawn.choice(((TCP, UDP), (None, *PROTOCOLS)))
    rules_drawn = []
    for number in drawn.sample(range(1, 32767), count):
        networks = drawn.choice((NETWORKS4[1:], NETWORKS6[1:]))
        sides = [_near(drawn, drawn.choice(networks)) for _ in range(2)]
        ports = [PortRange(*sorted(drawn.choices(PORTS, k=2))) if drawn.random() < 0.8 else None for _ in range(2)]
        action = drawn.choice((Action.ACCEPT, Action.REJECT))
        rules_drawn.append(
            Rule(number, drawn.choice(tuple(Direction)), action, *sides, drawn.choice(protocols), *ports)
        )
    services = draw(st.sampled_from((frozenset[NetworkService](), frozenset({NetworkService.AMAZON_DNS}))))
    return Filter(tuple(rules_drawn), services)


def _near(drawn: random.Random, network: Network) -> Network:
    """A network of the pool, or one that holds it, or one that it holds or is beside it."""
    length = drawn.choice((network.prefixlen, drawn.randint(1, network.max_prefixlen)))
    bits = network.max_prefixlen
    number = int(network.network_address) ^ (drawn.choice((0, 0, 1)) << drawn.randrange(bits))
    return type(network)((number >> bits - length << bits - length, length))


@st.composite
def exclusions(draw: st.DrawFn) -> Exclusion:
    protocol = draw(st.sampled_from((None, TCP, UDP, ICMPV6, 132)))
    address = draw(st.sampled_from((None, *ADDRESSES4, *ADDRESSES6)))
    numbers = port_ranges(ICMP_TYPES if protocol == ICMPV6 else PORTS)
    ports = draw(numbers if protocol is None and address is None else st.one_of(st.none(), numbers))
    return Exclusion("drawn", address, protocol, ports)


DELIVERIES: tuple[Destination | Undeliverable, ...] = (
    Undeliverable(reason="drawn"),
    Destination(address=str(REACHABLE)),
    Destination(address=str(REACHABLE6), outer_source=str(SOURCE6)),
    Destination(address=str(UNREACHABLE)),
)


@st.composite
def scenes(draw: st.DrawFn, rules_max: int = 400, sessions_max: int = 64) -> Scene:
    few_or_many = st.one_of(filters(), filters(), many_rules(rules_max)) if rules_max > 16 else filters()
    filters_drawn = draw(st.lists(few_or_many, min_size=1, max_size=3))
    count = draw(st.sampled_from([count for count in (0, 1, 2) + (3,) * 12 + (64,) if count <= sessions_max]))
    numbers = draw(st.lists(st.integers(1, 32766), min_size=count, max_size=count, unique=True))
    sessions = tuple(
        DesiredSession(
            session_id=f"tms-{index:017x}",
            number=number,
            vni=draw(st.sampled_from((1, 7, 0xFFFFFF))),
            filter_id=str(draw(st.integers(0, len(filters_drawn) - 1))),
            packet_bytes_max=draw(st.sampled_from((None, 1, 100, 8500))),
            delivery=draw(st.sampled_from(DELIVERIES)),
        )
        for index, number in enumerate(numbers)
    )
    lines = draw(st.one_of(st.just(NEVER_MIRRORED), st.lists(exclusions(), max_size=3)))
    resolvers = draw(st.sampled_from((RESOLVERS, RESOLVERS[:2], RESOLVERS[2:], ())))
    return scene(sessions, filters_drawn, lines, resolvers, is_host_side=draw(st.booleans()))


def scene(
    sessions: Sequence[DesiredSession],
    filters: Sequence[Filter],
    exclusions: Iterable[Exclusion] = NEVER_MIRRORED,
    resolvers: Iterable[Address] = (),
    *,
    is_host_side: bool,
) -> Scene:
    """The filter ids of the sessions are positions in ``filters``."""
    interface = DesiredInterface(
        key=KEY,
        interface_id="eni-00000000000000048",
        primary_address="10.0.0.48",
        underlay=Underlay(),
        resolvers=tuple(str(resolver) for resolver in resolvers),
        sessions=tuple(sessions),
    )
    state = DesiredState(
        host_id="drawn",
        revision=1,
        interfaces=(interface,),
        filters={str(index): FilterDocument.of(filter_) for index, filter_ in enumerate(filters)},
        exclusions=tuple(ExclusionDocument.of(line) for line in exclusions),
    )
    return Scene(decode_desired_state(encode(state)), is_host_side)


def session(number: int, filter_: int) -> DesiredSession:
    """A session that takes packets and delivers none."""
    return DesiredSession(
        session_id=f"tms-{number:017x}",
        number=number,
        vni=number,
        filter_id=str(filter_),
        packet_bytes_max=None,
        delivery=Undeliverable(reason="nothing is sent here"),
    )

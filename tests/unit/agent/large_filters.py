"""Filters of up to 10,000 rules: such as firewalls have, and such as are hard on a tree of decisions."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, Network, PortRange, Rule

BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Asked:
    """A packet as `evaluation.matches` reads it."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    protocol: int
    source_port: int | None
    destination_port: int | None
    icmp_type: int | None = None


def network(family: int, number: int, length: int) -> Network:
    """The prefix of this length of an address, given as a number."""
    bits = BITS[family]
    start = number >> bits - length << bits - length
    return IPv4Network((start, length)) if family == 4 else IPv6Network((start, length))


def rule(number: int, source: Network, destination: Network, *of: object) -> Rule:
    """Accepts where the number is odd; ``of``: protocol, source ports, destination ports."""
    action = Action.ACCEPT if number % 2 else Action.REJECT
    return Rule(number, Direction.INGRESS, action, source, destination, *of)  # type: ignore[arg-type]


def like_a_firewall(count: int, family: int = 4) -> Filter:
    draw = random.Random(count + family)
    bits = BITS[family]
    pools, longer = ((12, 16, 20), (24, 28, 32)) if family == 4 else ((32, 40, 48), (56, 64, 128))
    networks = [network(family, draw.getrandbits(bits), draw.choice(pools)) for _ in range(60)]

    def prefix() -> Network:
        within = draw.choice(networks)
        inside = int(within.network_address) | draw.getrandbits(bits) >> within.prefixlen
        return within if draw.random() < 0.1 else network(family, inside, draw.choice(longer))

    any_ = network(family, 0, 0)
    rules = []
    for number in range(1, count + 1):
        source, destination = draw.choice(((prefix(), prefix()),) * 3 + ((any_, prefix()), (prefix(), any_)))
        port = draw.choice((22, 53, 80, 443, 8080, draw.randrange(65536)))
        ports = draw.choice((None, PortRange(port, port), PortRange(port, port), PortRange(1024, 65535)))
        protocol = draw.choice((TCP, TCP, UDP, None, 1 if ports is None else UDP))
        rules.append(rule(number, source, destination, protocol, None, ports))
    return Filter(tuple(rules))


def ports_alone(count: int, family: int = 4) -> Filter:
    """All that tells the rules apart is the destination port."""
    any_ = network(family, 0, 0)
    return Filter(tuple(rule(n, any_, any_, TCP, None, PortRange(n * 6, n * 6 + 3)) for n in range(1, count + 1)))


def one_within_the_other(count: int, family: int = 4) -> Filter:
    """Squares of ports around one middle, the smallest first: all overlap."""
    any_ = network(family, 0, 0)
    squares = [PortRange(32767 - n, 32768 + n) for n in range(count)]
    return Filter(tuple(rule(n, any_, any_, None, square, square) for n, square in enumerate(squares, start=1)))


def crossing(count: int, family: int = 4) -> Filter:
    """Stripes of source ports across stripes of destination ports, which all cross, the widest last."""
    any_ = network(family, 0, 0)
    rules = []
    for number in range(1, count + 1):
        stripe = PortRange(number, 65535 - number * 3 % 20000)
        rules.append(rule(number, any_, any_, TCP, *((stripe, None) if number % 2 else (None, stripe))))
    return Filter(tuple(reversed(rules)))


def overlapping(count: int, family: int = 4) -> Filter:
    """Prefixes of any length, ranges of any width."""
    draw = random.Random(count + family)
    bits = BITS[family]

    def prefix() -> Network:
        return network(family, draw.getrandbits(bits), draw.randrange(bits + 1))

    def ports() -> PortRange:
        return PortRange(*sorted((draw.randrange(65536), draw.randrange(65536))))

    return Filter(
        tuple(rule(n, prefix(), prefix(), draw.choice((None, TCP, UDP)), ports(), ports()) for n in range(1, count + 1))
    )


def nested_prefixes(count: int, family: int = 4) -> Filter:
    """Every prefix of an address, the longest first; then those of the next one."""
    draw = random.Random(family)
    bits = BITS[family]
    any_ = network(family, 0, 0)
    prefixes: list[Network] = []
    while len(prefixes) < count:
        number = draw.getrandbits(bits)
        prefixes.extend(network(family, number, length) for length in range(bits, 0, -1))
    return Filter(tuple(rule(n, prefix, any_, TCP) for n, prefix in enumerate(prefixes[:count], start=1)))


def all_the_same(count: int, family: int = 4) -> Filter:
    """One and the same, accepted and rejected in turn."""
    ten = network(family, 10 << BITS[family] - 8, 8)
    return Filter(tuple(rule(n, ten, ten, UDP) for n in range(1, count + 1)))


def wildcards_alone(count: int, family: int = 4) -> Filter:
    any_ = network(family, 0, 0)
    return Filter(tuple(rule(n, any_, any_) for n in range(1, count + 1)))


LARGE: dict[str, Callable[[int, int], Filter]] = {
    each.__name__.replace("_", " "): each
    for each in (
        like_a_firewall,
        ports_alone,
        one_within_the_other,
        crossing,
        overlapping,
        nested_prefixes,
        all_the_same,
        wildcards_alone,
    )
}


def asked_of(rules: tuple[Rule, ...], draw: random.Random) -> Asked:
    """A packet at the edge of what a rule matches, or just outside."""
    asked = draw.choice(rules)

    def address(of: Network) -> IPv4Address | IPv6Address:
        first, last = int(of.network_address), int(of.broadcast_address)
        number = draw.choice((first, last, first - 1, last + 1, draw.randint(first, last)))
        return type(of.network_address)(max(0, min(number, (1 << of.max_prefixlen) - 1)))

    def port(of: PortRange | None) -> int:
        first, last = (of.first, of.last) if of else (0, 65535)
        return max(0, min(65535, draw.choice((first, last, first - 1, last + 1, draw.randint(first, last)))))

    protocol = draw.choice((asked.protocol or TCP, asked.protocol or UDP, TCP, UDP, 1))
    ports = (port(asked.source_ports), port(asked.destination_ports))
    hidden = protocol not in (TCP, UDP) or draw.random() < 0.1
    return Asked(address(asked.source), address(asked.destination), protocol, *((None, None) if hidden else ports))

"""Small values of what a host should hold: interfaces 3 to 6, sessions a to f, filters and targets by a letter."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from pktmirror.agent import abi
from pktmirror.agent.compile import Wanted, WantedDelivery, WantedInterface, WantedSession
from pktmirror.agent.meters import meter_names
from pktmirror.agent.plan import Tables
from pktmirror.model.filter import Action, Direction, Filter, Rule
from pktmirror.model.ledger import Stage
from pktmirror.model.rate import UNLIMITED, Rate

ANY4 = ip_network("0.0.0.0/0")
MAC = bytes.fromhex("020000000048")


@dataclass(frozen=True, slots=True)
class Wish:
    """One session: at which interface (None: it is gone), by which filter, to where, under which VNI and number."""

    ifindex: int | None = 3
    filter: str = "p"
    target: int = 90
    vni: int = 7
    number: int = 1
    stage: Stage = Stage.SENT
    cap: Rate = UNLIMITED
    family: int = 4
    rules: str = ""  # a letter for the id of each; none: they are not counted


FILTER_CELLS = 3  # of the filter p; q and those after it have one more each


def filter_value(letter: str) -> bytes:
    cells = FILTER_CELLS + ord(letter) - ord("p")
    return cells.to_bytes(4, "little") + letter.encode() * (cells * abi.CELL_BYTES - 4)


def meter_names_of(rules: str) -> bytes:
    listed = tuple(Rule(number, Direction.EGRESS, Action.ACCEPT, ANY4, ANY4) for number, _ in enumerate(rules, 1))
    return meter_names(Filter(listed), [f"tmfr-{letter}" for letter in rules]) if rules else b""


def exclusion_value(letter: str) -> bytes:
    return bytes(bytearray(abi.ExclusionTable(reserved=ord(letter))))


def _address(host: int, family: int) -> IPv4Address | IPv6Address:
    return IPv4Address(f"10.0.0.{host}") if family == 4 else IPv6Address(f"2001:db8::{host}")


def delivery(session_id: str, wish: Wish) -> WantedDelivery:
    return WantedDelivery(
        session_id=session_id,
        outer_source=_address(48, wish.family),
        outer_destination=_address(wish.target, wish.family),
        next_hop=_address(wish.target, wish.family),
        port=4789,
        vni=wish.vni,
        ifindex=2,
        packet_bytes_max=0,
        room_bytes_max=1464,
    )


def wanted(wishes: Mapping[str, Wish], *, exclusions: str = "x", idle: frozenset[int] = frozenset()) -> Wanted:
    """``idle``: interfaces that are to be counted but have no session."""
    ifindexes = {wish.ifindex for wish in wishes.values() if wish.ifindex is not None} | idle
    interfaces = []
    for ifindex in sorted(ifindexes):
        here = sorted((wish.number, name) for name, wish in wishes.items() if wish.ifindex == ifindex)
        sessions = tuple(
            WantedSession(
                filter_value(wishes[name].filter),
                delivery(name, wishes[name]),
                wishes[name].stage,
                wishes[name].cap,
                meter_names_of(wishes[name].rules),
            )
            for _, name in here[: abi.SESSIONS_MAX]
        )
        interfaces.append(WantedInterface(ifindex, MAC, True, (), sessions))
    return Wanted(tuple(interfaces), exclusion_value(exclusions), frozenset(wishes), {})


def policy(held: Tables, ifindex: int) -> abi.InterfacePolicy:
    return abi.InterfacePolicy.from_buffer_copy(held.policies[ifindex])


def sessions(value: bytes) -> list[abi.SessionPolicy]:
    entry = abi.InterfacePolicy.from_buffer_copy(value)
    return list(entry.sessions[: entry.session_count])


def held_delivery(held: Tables, slot: int) -> abi.Delivery:
    return abi.Delivery.from_buffer_copy(held.deliveries[slot])


def rows(held: Tables) -> dict[str, int]:
    """The ledger rows of the sessions at interfaces, by id."""
    found = {}
    for value in held.policies.values():
        for session in sessions(value):
            entry = held_delivery(held, abi.slot_of(session.mark))
            found[bytes(entry.session_id).rstrip(b"\0").decode()] = session.ledger_row
    return found

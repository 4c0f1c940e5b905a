"""A store with many hosts, interfaces and sessions in it, put there without the API (for bench/control.py)."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_network

from pktmirror.control import schema
from pktmirror.control.records import FilterRecord, HostRecord, InterfaceRecord, RuleRecord, SessionRecord, TargetRecord
from pktmirror.control.store import Store, Transaction
from pktmirror.desired import FoundInterface
from pktmirror.model.filter import Action, Direction, Rule
from pktmirror.model.ids import Prefix, new_id
from pktmirror.model.target import InterfaceTarget

FIRST_ADDRESS = int(IPv4Address("10.0.0.1"))
ANYWHERE = ip_network("0.0.0.0/0")


@dataclass
class Population:
    """Ids; ``interfaces`` and ``sessions`` are by host, one session an interface, all by the one filter."""

    filter_id: str
    rule_id: str
    target_ids: list[str]
    interfaces: dict[str, list[str]] = field(default_factory=dict)
    sessions: dict[str, list[str]] = field(default_factory=dict)


def populate(store: Store, hosts: int, interfaces: int, now_s: float, *, mirrored: int | None = None) -> Population:
    """So many hosts with so many interfaces each, of which ``mirrored`` have a session, all of them where it is None.

    The targets are on a host of their own, a hundred of them.
    """
    with store.write() as transaction:
        made = _shared(transaction, now_s)
        addresses = _addresses()
        for number in range(hosts):
            host_id = f"host-{number}"
            transaction.hosts.put(HostRecord(host_id, "bench", now_s))
            records = [_interface(host_id, each, next(addresses)) for each in range(interfaces)]
            rows = [schema.INTERFACES.row(record) for record in records]
            transaction.connection.execute(schema.INTERFACES.table.insert(), rows)
            ids = made.interfaces[host_id] = [record.interface_id for record in records]
            made.sessions[host_id] = [
                _session(transaction, made, id_, number * interfaces + each)
                for each, id_ in enumerate(ids[: interfaces if mirrored is None else mirrored])
            ]
        transaction.bump_revision()
    return made


def _shared(transaction: Transaction, now_s: float) -> Population:
    filter_id, rule_id = new_id(Prefix.FILTER), new_id(Prefix.FILTER_RULE)
    transaction.filters.put(FilterRecord(filter_id, frozenset(), None))
    rule = Rule(1, Direction.INGRESS, Action.ACCEPT, ANYWHERE, ANYWHERE)
    transaction.rules.put(RuleRecord(rule_id, filter_id, rule))
    transaction.hosts.put(HostRecord("monitors", "bench", now_s))
    target_ids = []
    for number in range(100):
        behind = _interface("monitors", number, f"10.255.255.{number + 1}")
        transaction.interfaces.put(behind)
        target_ids.append(new_id(Prefix.TARGET))
        transaction.targets.put(TargetRecord(target_ids[-1], InterfaceTarget(behind.interface_id)))
    return Population(filter_id, rule_id, target_ids)


def _addresses() -> Iterator[str]:
    address = FIRST_ADDRESS
    while True:
        yield str(IPv4Address(address))
        address += 1


def found(number: int, address: str) -> FoundInterface:
    """An interface as an agent tells of it."""
    mac = f"02:00:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return FoundInterface(
        key=f"netns:vm{number}/eth0",
        provider="netns",
        instance=f"vm{number}",
        name="eth0",
        device=f"vm{number}",
        kind="veth",
        mac=mac,
        addresses=(address,),
        mtu=1500,
        up=True,
    )


def _interface(host_id: str, number: int, address: str) -> InterfaceRecord:
    return InterfaceRecord(new_id(Prefix.INTERFACE), host_id, found(number, address))


def _session(transaction: Transaction, made: Population, interface_id: str, number: int) -> str:
    target_id = made.target_ids[secrets.randbelow(len(made.target_ids))]
    record = SessionRecord(new_id(Prefix.SESSION), interface_id, target_id, made.filter_id, 1, 1 + number)
    transaction.sessions.put(record)
    return record.session_id

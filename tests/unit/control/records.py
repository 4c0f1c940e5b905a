"""Records for the tests, with what they do not care about filled in."""

from pktmirror.control.placement import Resources
from pktmirror.control.records import FilterRecord, InterfaceRecord, RuleRecord, SessionRecord, TargetRecord
from pktmirror.desired import FoundInterface, Report
from pktmirror.model.target import InterfaceTarget, Target
from pktmirror.networks import Networks

HOST = "h1"


def found(name: str, *addresses: str, mtu: int = 1500, up: bool = True) -> FoundInterface:
    return FoundInterface(
        key=name,
        provider="netns",
        instance=name,
        name="eth0",
        device=name,
        kind="veth",
        mac="02:00:00:00:00:01",
        addresses=addresses,
        mtu=mtu,
        up=up,
    )


def interface(
    name: str, *addresses: str, host: str = HOST, detached_at_s: float | None = None, mtu: int = 1500
) -> InterfaceRecord:
    return InterfaceRecord(f"eni-{name}", host, found(name, *addresses, mtu=mtu), detached_at_s)


def target(name: str, target: Target | None = None) -> TargetRecord:
    return TargetRecord(f"tmt-{name}", target or InterfaceTarget(f"eni-{name}"))


def session(name: str, source: str, target: str, number: int = 1, vni: int = 7, filter: str = "f") -> SessionRecord:
    return SessionRecord(f"tms-{name}", f"eni-{source}", f"tmt-{target}", f"tmf-{filter}", number, vni)


def resources(
    interfaces: list[InterfaceRecord],
    targets: list[TargetRecord],
    sessions: list[SessionRecord],
    filters: list[FilterRecord] | None = None,
    rules: list[RuleRecord] | None = None,
    networks: Networks | None = None,
) -> Resources:
    return Resources(
        3,
        {record.interface_id: record for record in interfaces},
        {record.target_id: record for record in targets},
        {record.filter_id: record for record in filters or [FilterRecord("tmf-f")]},
        tuple(rules or []),
        tuple(sessions),
        networks or Networks(),
    )


def report(*interfaces: FoundInterface, host: str = HOST) -> Report:
    return Report(host_id=host, agent_version="1", applied_revision=1, interfaces=interfaces)

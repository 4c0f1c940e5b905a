"""All that an account has of targets, filters, sessions and templates, as a `State`. An edge module: it asks."""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import msgspec

from pktmirror.cli.endpoint import Endpoint, own_path
from pktmirror.cli.interfaces import Interface, inventory
from pktmirror.cli.templates import TemplateStatus
from pktmirror.document import Destination, FilterState, RuleState, SessionState, State, TargetState
from pktmirror.model.filter import Action, Direction, NetworkService, PortRange, Rule


class _Tag(msgspec.Struct, frozen=True, rename="pascal"):
    key: str
    value: str = ""


class _Target(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    traffic_mirror_target_id: str
    owner_id: str | None = None
    network_interface_id: str | None = None
    network_load_balancer_arn: str | None = None
    gateway_load_balancer_endpoint_id: str | None = None
    description: str | None = None
    tags: tuple[_Tag, ...] = ()

    def state(self, account_id: str | None) -> TargetState:
        destination, resource = next(
            (destination, value)
            for destination, value in (
                (Destination.INTERFACE, self.network_interface_id),
                (Destination.LOAD_BALANCER, self.network_load_balancer_arn),
                (Destination.GATEWAY_ENDPOINT, self.gateway_load_balancer_endpoint_id),
            )
            if value is not None
        )
        return TargetState(
            self.traffic_mirror_target_id,
            destination,
            resource,
            self.description or None,
            _tags(self.tags),
            account_id in (None, self.owner_id),
        )


class _Ports(msgspec.Struct, frozen=True, rename="pascal"):
    from_port: int
    to_port: int


class _Rule(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    traffic_mirror_filter_rule_id: str
    traffic_direction: Direction
    rule_number: int
    rule_action: Action
    source_cidr_block: str
    destination_cidr_block: str
    protocol: int | None = None
    source_port_range: _Ports | None = None
    destination_port_range: _Ports | None = None
    description: str | None = None

    def state(self) -> RuleState:
        rule = Rule(
            self.rule_number,
            self.traffic_direction,
            self.rule_action,
            ip_network(self.source_cidr_block),
            ip_network(self.destination_cidr_block),
            self.protocol,
            _ports(self.source_port_range),
            _ports(self.destination_port_range),
        )
        return RuleState(self.traffic_mirror_filter_rule_id, rule, self.description or None)


class _Filter(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    traffic_mirror_filter_id: str
    ingress_filter_rules: tuple[_Rule, ...] = ()
    egress_filter_rules: tuple[_Rule, ...] = ()
    network_services: tuple[NetworkService, ...] = ()
    description: str | None = None
    tags: tuple[_Tag, ...] = ()

    def state(self) -> FilterState:
        return FilterState(
            self.traffic_mirror_filter_id,
            tuple(rule.state() for rule in (*self.ingress_filter_rules, *self.egress_filter_rules)),
            frozenset(self.network_services),
            self.description or None,
            _tags(self.tags),
        )


class _Session(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    traffic_mirror_session_id: str
    owner_id: str | None = None
    network_interface_id: str
    traffic_mirror_target_id: str
    traffic_mirror_filter_id: str
    session_number: int
    virtual_network_id: int
    packet_length: int | None = None
    description: str | None = None
    tags: tuple[_Tag, ...] = ()

    def state(self, account_id: str | None) -> SessionState:
        return SessionState(
            self.traffic_mirror_session_id,
            self.network_interface_id,
            self.traffic_mirror_target_id,
            self.traffic_mirror_filter_id,
            self.session_number,
            self.virtual_network_id,
            self.packet_length,
            self.description or None,
            _tags(self.tags),
            account_id in (None, self.owner_id),
        )


def state_of(endpoint: Endpoint) -> State:
    """What there is now."""
    return state(
        targets=endpoint.listed("describe_traffic_mirror_targets", "TrafficMirrorTargets", dict[str, Any]),
        filters=endpoint.listed("describe_traffic_mirror_filters", "TrafficMirrorFilters", dict[str, Any]),
        sessions=endpoint.listed("describe_traffic_mirror_sessions", "TrafficMirrorSessions", dict[str, Any]),
        templates=endpoint.get(own_path("templates"), tuple[TemplateStatus, ...]),
        interfaces=_by_key(inventory(endpoint)),
        account_id=str(endpoint.called("sts", "get_caller_identity")["Account"]),
    )


def state(
    *,
    targets: list[dict[str, Any]],
    filters: list[dict[str, Any]],
    sessions: list[dict[str, Any]],
    templates: tuple[TemplateStatus, ...],
    interfaces: dict[tuple[str, str], str],
    account_id: str | None = None,
) -> State:
    """From botocore's answers, and our own. ``account_id`` is the caller's; None: all that there is belongs to him."""
    return State(
        tuple(each.state(account_id) for each in msgspec.convert(targets, list[_Target])),
        tuple(each.state() for each in msgspec.convert(filters, list[_Filter])),
        tuple(each.state(account_id) for each in msgspec.convert(sessions, list[_Session])),
        tuple(each.template for each in templates),
        interfaces,
    )


def _tags(given: tuple[_Tag, ...]) -> dict[str, str]:
    return {tag.key: tag.value for tag in given}


def _ports(ports: _Ports | None) -> PortRange | None:
    return None if ports is None else PortRange(ports.from_port, ports.to_port)


def _by_key(interfaces: Iterable[Interface]) -> dict[tuple[str, str], str]:
    """The ids by host and key; the key that an interface has without its engine means it too, where none has that."""
    known = [*interfaces]
    plain = {(one.host_id, one.plain_key): one.interface_id for one in known if one.plain_key is not None}
    return plain | {(one.host_id, one.key): one.interface_id for one in known}

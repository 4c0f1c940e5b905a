"""What the commands of `explain` look at: an interface, its sessions and rules, and how they fare. An edge module."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import msgspec

from pktmirror.cli.balance import Ledger, SessionFigures
from pktmirror.cli.endpoint import Endpoint, own_path
from pktmirror.cli.explanation import PlacedSession
from pktmirror.cli.interfaces import Interface
from pktmirror.cli.path import Way
from pktmirror.cli.status import Status
from pktmirror.desired import DesiredState
from pktmirror.model.evaluation import Surroundings
from pktmirror.model.filter import Direction, Filter, Rule
from pktmirror.networks import LINK_LOCAL_RESOLVER


class FilterRule(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What names a rule: its number is unique within its filter and direction (spec 1.4)."""

    traffic_mirror_filter_rule_id: str
    traffic_mirror_filter_id: str
    traffic_direction: Direction
    rule_number: int


@dataclass(frozen=True, slots=True)
class View:
    """An interface as it is desired and reported at one moment; `sessions` and `surroundings` are of one revision."""

    interface: Interface
    desired: DesiredState
    status: Status
    sessions: tuple[PlacedSession, ...]
    surroundings: Surroundings

    def ways(self, ledger: Ledger) -> list[Way]:
        """The way of each session's copies, in the order in which the sessions are asked."""
        figures: dict[str, SessionFigures] = {each.session_id: each for each in ledger.sessions}
        told = {each.session_id: each for each in self.status.sessions}
        budget = next((host.budget for host in self.status.hosts if host.host_id == self.interface.host_id), None)
        return [
            Way(
                session,
                wanted.underlay,
                told[session.session_id].path if session.session_id in told else None,
                figures.get(session.session_id),
                told[session.session_id].problem if session.session_id in told else "it was deleted meanwhile",
                budget,
            )
            for wanted in self.desired.interfaces
            if wanted.interface_id == self.interface.interface_id
            for session in sorted(wanted.sessions, key=lambda session: session.number)
        ]


def view(endpoint: Endpoint, interface: Interface) -> View:
    """What is so now."""
    desired = endpoint.get(own_path("hosts", interface.host_id, "desired"), DesiredState)
    status = endpoint.get(own_path("status"), Status)
    sessions, surroundings = placed(interface, desired, status, _rules(endpoint, interface, desired))
    return View(interface, desired, status, tuple(sessions), surroundings)


def placed(
    interface: Interface, desired: DesiredState, status: Status, rules: Iterable[FilterRule]
) -> tuple[list[PlacedSession], Surroundings]:
    """The sessions of an interface and what surrounds them, all of one revision of the desired state."""
    exclusions = tuple(line.exclusion() for line in desired.exclusions)
    wanted = next((one for one in desired.interfaces if one.interface_id == interface.interface_id), None)
    if wanted is None:
        return [], Surroundings(exclusions, frozenset({LINK_LOCAL_RESOLVER}))
    ids = {
        (rule.traffic_mirror_filter_id, rule.traffic_direction, rule.rule_number): rule.traffic_mirror_filter_rule_id
        for rule in rules
    }
    problems = {session.session_id: session.problem for session in status.sessions}
    filters = {filter_id: wanted_filter.filter() for filter_id, wanted_filter in desired.filters.items()}
    sessions = [
        PlacedSession(
            session.session_id,
            session.number,
            session.filter_id,
            filters[session.filter_id],
            _named(filters[session.filter_id], session.filter_id, ids),
            problems.get(session.session_id),
        )
        for session in wanted.sessions
    ]
    return sessions, Surroundings(exclusions, frozenset(ip_address(resolver) for resolver in wanted.resolvers))


def remarks(interface: Interface, desired: DesiredState, status: Status) -> Iterator[str]:
    """What else there is to know, before one believes the explanation."""
    if interface.not_mirrorable is not None:
        yield f"{interface.interface_id} cannot be mirrored: {interface.not_mirrorable}"
    in_force = {
        session.session_id
        for one in desired.interfaces
        if one.interface_id == interface.interface_id
        for session in one.sessions
    }
    for session in status.sessions:
        if session.interface_id == interface.interface_id and session.session_id not in in_force:
            yield f"{session.session_id} is not asked: {session.problem or 'it came after the others were looked up'}"
    for host in status.hosts:
        if host.host_id == interface.host_id and (host.applied_revision or 0) < desired.revision:
            applied = "nothing yet" if host.applied_revision is None else f"revision {host.applied_revision}"
            yield f"the agent of {host.host_id} has applied {applied}, and this is revision {desired.revision}"


def _named(filter_: Filter, filter_id: str, ids: dict[tuple[str, Direction, int], str]) -> dict[Rule, str]:
    return {
        rule: rule_id
        for rule in filter_.rules
        if (rule_id := ids.get((filter_id, rule.direction, rule.number))) is not None
    }


def _rules(endpoint: Endpoint, interface: Interface, desired: DesiredState) -> list[FilterRule]:
    """The rules of the filters that the interface's sessions use, for their ids."""
    used = {
        session.filter_id
        for one in desired.interfaces
        if one.interface_id == interface.interface_id
        for session in one.sessions
    }
    return [
        rule
        for filter_id in sorted(used)
        for rule in endpoint.listed(
            "describe_traffic_mirror_filter_rules",
            "TrafficMirrorFilterRules",
            FilterRule,
            TrafficMirrorFilterId=filter_id,
        )
    ]

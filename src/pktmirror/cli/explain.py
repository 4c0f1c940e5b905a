"""`pktmirror explain`: which session and rule takes a packet, evaluated by the Python model."""

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption
from pktmirror.cli.explanation import (
    Explanation,
    PlacedSession,
    Step,
    conclusion,
    document,
    explain,
    hint,
    packet,
    verdict_text,
)
from pktmirror.cli.interfaces import Interface, inventory, meant
from pktmirror.cli.status import Status
from pktmirror.cli.terminal import terminal
from pktmirror.desired import DesiredState
from pktmirror.model.evaluation import Surroundings, Verdict
from pktmirror.model.filter import Direction, Filter, Rule
from pktmirror.networks import LINK_LOCAL_RESOLVER

_STYLES = {Verdict.TAKEN: "green", Verdict.REJECTED_BY_RULE: "red"}


class FilterRule(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What names a rule: its number is unique within its filter and direction (spec 1.4)."""

    traffic_mirror_filter_rule_id: str
    traffic_mirror_filter_id: str
    traffic_direction: Direction
    rule_number: int


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("explain")(explain_)


def explain_(
    interface: Annotated[str, typer.Argument(help="An eni id, a private address, or the name of an instance.")],
    direction: Annotated[Direction, typer.Argument(help="Seen from the interface.")],
    protocol: Annotated[str, typer.Argument(help="tcp, udp, icmp, icmpv6, …, or an IANA number.")],
    source: Annotated[str, typer.Argument(help="ADDRESS, or ADDRESS:PORT for tcp and udp.")],
    destination: Annotated[str, typer.Argument(help="ADDRESS, or ADDRESS:PORT for tcp and udp.")],
    icmp_type: Annotated[
        int | None, typer.Option(min=0, max=255, help="The message's type, for icmp and icmpv6.")
    ] = None,
    fragment: Annotated[bool, typer.Option("--fragment", help="A fragment other than the first: no ports.")] = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Say which session and rule takes a packet, or why none does. Nothing is sent.

    The sessions are asked in the order of their numbers, as the data plane asks them.

    Examples: [bold]pktmirror explain eni-0a1b2c3d4e5f60718 ingress tcp 10.0.0.6:40000 10.0.0.48:22[/bold],
    [bold]pktmirror explain 10.0.0.48 egress icmp 10.0.0.48 10.0.0.6 --icmp-type 0[/bold],
    [bold]pktmirror explain web ingress udp "\\[2001:db8::6]:40000" "\\[2001:db8::48]:53"[/bold]
    """
    described = packet(protocol, source, destination, icmp_type=icmp_type, later_fragment=fragment)
    endpoint = Endpoint.found(state)
    chosen = meant(inventory(endpoint), interface)
    desired = endpoint.get(f"hosts/{chosen.host_id}/desired", DesiredState)
    status = endpoint.get("status", Status)
    sessions, surroundings = placed(chosen, desired, status, _rules(endpoint, chosen, desired))
    explanation = explain(described, direction, sessions, surroundings)
    notes = [*remarks(chosen, desired, status), *filter(None, [hint(explanation, chosen.addresses)])]
    if as_json:
        told = {"interface_id": chosen.interface_id, **document(explanation), "notes": notes}
        typer.echo(json.dumps(told, indent=2))
    else:
        terminal().print(shown(chosen, explanation, notes))


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


def shown(interface: Interface, explanation: Explanation, notes: Iterable[str]) -> RenderableType:
    """The explanation for people."""
    owner = interface.instance or interface.host_id
    title = Text.assemble(
        (f"{explanation.direction.value} at {interface.interface_id}", "bold"),
        f" ({interface.name} of {owner}): ",
        (str(explanation.packet), "bold"),
    )
    table = Table.grid(padding=(0, 2))
    for step in explanation.steps:
        said = Text(verdict_text(step, amazon_dns=explanation.amazon_dns), _style(step))
        session = step.session
        table.add_row(f"  #{session.number}", session.session_id, session.filter_id, said)
        if step.decision is not None and session.problem is not None:
            table.add_row("", "", "", Text(f"! not mirroring: {session.problem}", "bold red"))
    taken = explanation.taken_by is not None and explanation.taken_by.problem is None
    lines: list[RenderableType] = [Text(f"  · {note}", "yellow") for note in notes]
    asked: list[RenderableType] = [table] if explanation.steps else []
    return Group(title, *asked, *lines, Text(conclusion(explanation), "bold green" if taken else "bold"))


def _style(step: Step) -> str:
    return "dim" if step.decision is None else _STYLES.get(step.decision.verdict, "")


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

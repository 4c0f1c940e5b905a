"""`pktmirror explain`: which session and rule takes a packet, and what becomes of its copy.

Of a packet that somebody describes, of each packet of a capture file, and of packets as they pass.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.balance import Ledger
from pktmirror.cli.capture import explain_file, not_read_to_its_end, summary_document
from pktmirror.cli.capture import shown as shown_summary
from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.explanation import (
    Explanation,
    Step,
    conclusion,
    document,
    explain,
    hint,
    packet,
    verdict_text,
)
from pktmirror.cli.interfaces import Interface, inventory, meant
from pktmirror.cli.live import explain_live, refuse_what_is_wrong, wish_for
from pktmirror.cli.live import shown as shown_traced
from pktmirror.cli.live import summary_document as live_document
from pktmirror.cli.path import Check, State, Way, checks
from pktmirror.cli.path import document as path_document
from pktmirror.cli.terminal import terminal
from pktmirror.cli.traced import selection
from pktmirror.cli.view import View, remarks, view
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.refusal import Refusal
from pktmirror.tracing import PACKETS_MAX, SECONDS_MAX, Selection

_STYLES = {Verdict.TAKEN: "green", Verdict.REJECTED_BY_RULE: "red"}
_MARKS = {
    State.GOOD: ("✓", "green"),
    State.LIMITS: ("!", "yellow"),
    State.BROKEN: ("✗", "bold red"),
    State.UNKNOWN: ("?", "yellow"),
}
_PACKET, _CAPTURE, _LIVE = "A packet that is described", "With --capture", "With --live"
_WORDS = ("direction", "protocol", "source", "destination")
Words = tuple[Direction | None, str | None, str | None, str | None]


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("explain")(explain_)


def explain_(
    interface: Annotated[str, typer.Argument(help="An eni id, a private address, or the name of an instance.")],
    direction: Annotated[Direction | None, typer.Argument(help="Seen from the interface.")] = None,
    protocol: Annotated[str | None, typer.Argument(help="tcp, udp, icmp, icmpv6, …, or an IANA number.")] = None,
    source: Annotated[str | None, typer.Argument(help="ADDRESS, or ADDRESS:PORT for tcp and udp.")] = None,
    destination: Annotated[str | None, typer.Argument(help="ADDRESS, or ADDRESS:PORT for tcp and udp.")] = None,
    icmp_type: Annotated[
        int | None,
        typer.Option(min=0, max=255, help="The message's type, for icmp and icmpv6.", rich_help_panel=_PACKET),
    ] = None,
    fragment: Annotated[
        bool,
        typer.Option("--fragment", help="A fragment other than the first: no ports.", rich_help_panel=_PACKET),
    ] = False,
    capture: Annotated[
        Path | None,
        typer.Option(
            "--capture",
            help="A pcap or pcapng file: explain each of its packets. What the interface's MAC address has sent is "
            "egress; frames for another one are not for it.",
            rich_help_panel=_CAPTURE,
        ),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Only the summary by answer.", rich_help_panel=_CAPTURE)
    ] = False,
    forced: Annotated[
        Direction | None,
        typer.Option(
            "--direction",
            help="With --capture: the direction of all packets, whatever their MAC addresses. With --live: trace "
            "only these.",
            rich_help_panel=_CAPTURE,
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Trace what the kernel decides of packets as they pass.", rich_help_panel=_LIVE),
    ] = False,
    count: Annotated[
        int, typer.Option(min=1, max=PACKETS_MAX, help="How many packets at the most.", rich_help_panel=_LIVE)
    ] = 20,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=SECONDS_MAX, help="For how long at the most.", rich_help_panel=_LIVE)
    ] = 10.0,
    only_protocol: Annotated[
        str | None, typer.Option("--protocol", help="Trace only this protocol.", rich_help_panel=_LIVE)
    ] = None,
    only_source: Annotated[
        str | None,
        typer.Option("--source", help="Trace only what is from NETWORK, NETWORK:PORT or :PORT.", rich_help_panel=_LIVE),
    ] = None,
    only_destination: Annotated[
        str | None,
        typer.Option("--destination", help="Trace only what is to it, likewise.", rich_help_panel=_LIVE),
    ] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Say which session and rule takes a packet, or why none does, and how the way of its copy stands.

    The sessions are asked in the order of their numbers, as the data plane asks them. Nothing is sent. With --capture
    and --live, --json writes a line for each packet, and a summary as the last one.

    Examples: [bold]pktmirror explain eni-0a1b2c3d4e5f60718 ingress tcp 10.0.0.6:40000 10.0.0.48:22[/bold],
    [bold]pktmirror explain 10.0.0.48 egress icmp 10.0.0.48 10.0.0.6 --icmp-type 0[/bold],
    [bold]pktmirror explain web ingress udp "\\[2001:db8::6]:40000" "\\[2001:db8::48]:53"[/bold],
    [bold]pktmirror explain web --capture yesterday.pcapng --summary[/bold],
    [bold]pktmirror explain web --live --count 5 --protocol tcp --destination :443[/bold]
    """
    words: Words = (direction, protocol, source, destination)
    only = (only_protocol, only_source, only_destination)
    _refuse_mixture(words, capture=capture, live=live, summary=summary, forced=forced, only=only)
    wanted = selection(forced, *only)
    endpoint = Endpoint.found(state)
    seen = view(endpoint, meant(inventory(endpoint), interface))
    if live:
        _live(endpoint, seen, wanted, count, seconds, as_json)
    elif capture is not None:
        _capture(endpoint, seen, capture, forced, as_json=as_json, only_summary=summary)
    else:
        _described(endpoint, seen, words, icmp_type=icmp_type, fragment=fragment, as_json=as_json)


def _described(
    endpoint: Endpoint, seen: View, words: Words, *, icmp_type: int | None, fragment: bool, as_json: bool
) -> None:
    direction, protocol, source, destination = words
    if direction is None or protocol is None or source is None or destination is None:
        raise Refusal(
            "The packet is not described to the end.",
            found=", ".join(name for name, word in zip(_WORDS, words, strict=True) if word is None) + " missing",
            do="write direction, protocol, source and destination; or --capture FILE, or --live, for packets that "
            "there are: `pktmirror explain --help` has examples",
        )
    described = packet(protocol, source, destination, icmp_type=icmp_type, later_fragment=fragment)
    explanation = explain(described, direction, seen.sessions, seen.surroundings)
    notes = [
        *remarks(seen.interface, seen.desired, seen.status),
        *filter(None, [hint(explanation, seen.interface.addresses)]),
    ]
    taker = explanation.taken_by
    ways = [] if taker is None else _ways_of(endpoint, seen, {taker.session_id: None})
    if as_json:
        told = {
            "interface_id": seen.interface.interface_id,
            **document(explanation),
            "notes": notes,
            "path": _paths_document(ways),
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        terminal().print(shown(seen.interface, explanation, notes))
        _print_paths(ways)


def _capture(
    endpoint: Endpoint, seen: View, file: Path, forced: Direction | None, *, as_json: bool, only_summary: bool
) -> None:
    summary, unreadable = explain_file(seen, file, forced, as_json=as_json, only_summary=only_summary)
    ways = _ways_of(endpoint, seen, dict(summary.longest_bytes))
    if as_json:
        told = summary_document(summary, seen.interface.interface_id, unreadable)
        typer.echo(json.dumps({**told, "path": _paths_document(ways)}))
    else:
        terminal().print(shown_summary(summary))
        _print_notes(seen)
        _print_paths(ways)
    if unreadable is not None:
        raise not_read_to_its_end(file, unreadable, summary.packets.total())


def _live(endpoint: Endpoint, seen: View, wanted: Selection, count: int, seconds: float, as_json: bool) -> None:
    wish = wish_for(seen, wanted, packets_max=count, seconds=seconds)
    if not as_json:
        where = f"{seen.interface.interface_id} ({seen.interface.name} of {_owner(seen.interface)})"
        terminal().print(Text(f"live at {where}: {count} packets or {seconds:g} s at the most", "bold"))
        _print_notes(seen)
    traced = explain_live(endpoint, seen, wish, terminal(), as_json=as_json)
    ways = _ways_of(endpoint, traced.seen, traced.longest_bytes)
    if as_json:
        typer.echo(json.dumps({**live_document(traced), "path": _paths_document(ways)}))
    else:
        terminal().print(shown_traced(traced))
        _print_paths(ways)
    refuse_what_is_wrong(traced)


def _ways_of(endpoint: Endpoint, seen: View, longest: Mapping[str, int | None]) -> list[tuple[Way, list[Check]]]:
    """The way of each of the sessions, and how it stands for the longest frame that it takes."""
    if not longest:
        return []
    return [
        (way, checks(way, longest[way.session.session_id]))
        for way in seen.ways(endpoint.get(own_path("ledger"), Ledger))
        if way.session.session_id in longest
    ]


def _paths_document(ways: Iterable[tuple[Way, list[Check]]]) -> dict[str, object]:
    return {way.session.session_id: path_document(steps) for way, steps in ways}


def _print_paths(ways: Iterable[tuple[Way, list[Check]]]) -> None:
    console = terminal()
    for way, steps in ways:
        console.print(Text(f"the way of the copies of {way.session.session_id} (VNI {way.session.vni}):", "bold"))
        table = Table.grid(padding=(0, 2))
        for step in steps:
            mark, style = _MARKS[step.state]
            said = Text(step.found)
            if step.do is not None:
                said.append(f"\nNext: {step.do}", "dim")
            table.add_row("", Text(mark, style), step.step, said)
        console.print(table)


def _print_notes(seen: View) -> None:
    for note in remarks(seen.interface, seen.desired, seen.status):
        terminal().print(Text(f"  · {note}", "yellow"))


def _refuse_mixture(
    words: Words,
    *,
    capture: Path | None,
    live: bool,
    summary: bool,
    forced: Direction | None,
    only: tuple[str | None, ...],
) -> None:
    """Each of the three questions has words of its own."""
    described = any(word is not None for word in words)
    mixed = [
        said
        for said, is_so in (
            ("--capture and --live", capture is not None and live),
            ("the words of one packet and --capture", described and capture is not None),
            ("the words of one packet and --live", described and live),
            ("--summary without --capture", summary and capture is None),
            ("--direction without --capture or --live", forced is not None and capture is None and not live),
            ("--protocol, --source or --destination without --live", any(only) and not live),
        )
        if is_so
    ]
    if mixed:
        raise Refusal(
            "One question at a time.",
            found=", ".join(mixed),
            do="describe one packet, or name a file with --capture, or watch with --live; "
            "`pktmirror explain --help` has an example of each",
        )


def shown(interface: Interface, explanation: Explanation, notes: Iterable[str]) -> RenderableType:
    """The explanation for people."""
    title = Text.assemble(
        (f"{explanation.direction.value} at {interface.interface_id}", "bold"),
        f" ({interface.name} of {_owner(interface)}): ",
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


def _owner(interface: Interface) -> str:
    return interface.instance or interface.host_id


def _style(step: Step) -> str:
    return "dim" if step.decision is None else _STYLES.get(step.decision.verdict, "")

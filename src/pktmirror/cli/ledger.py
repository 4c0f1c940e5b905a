"""`pktmirror ledger`: where every packet went, session by session, and whether it adds up."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pktmirror.cli.balance import (
    LOSSES,
    Collected,
    DirectionFigures,
    InterfaceDirection,
    InterfaceFigures,
    Ledger,
    RuleFigures,
    SessionFigures,
    Uncollected,
    bypassed,
    differences,
    document,
    interface_differences,
    of_session,
)
from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.terminal import terminal
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import BESIDE_SENT, InterfaceOutcome, Stage, Tally
from pktmirror.model.rate import UNLIMITED

WATCH_EVERY_S = 1.0
LOST_IN_HOP, LOST_ON_WIRE, NOT_WRITTEN = "lost in hop", "lost on the wire", "not written"
BYPASSED = "bypassed"
_LOST = {stage.value for stage in LOSSES} | {LOST_IN_HOP, LOST_ON_WIRE, NOT_WRITTEN}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the waterfall. None: not counted by direction, or nobody counts its bytes."""

    depth: int
    label: str
    ingress: Tally | None
    egress: Tally | None
    both: Tally
    counts_bytes: bool = True


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("ledger")(ledger)


def ledger(
    session: Annotated[str | None, typer.Argument(help="A session's id, tms-…; without one, all of them.")] = None,
    as_json: JsonOption = False,
    rules: Annotated[bool, typer.Option("--rules", help="Show what each rule of its filter matched, too.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
    state: StateOption = None,
) -> None:
    """Show where every packet went: offered, taken, sent, received, written, each loss by its reason.

    Figures are packets and bytes as on a wire. They are compared at rest: what is in flight is shown as missing.
    With --json the rules are always there; with --json --watch each line of the output is a document of its own.

    Example: [bold]pktmirror ledger tms-0a1b2c3d4e5f60718[/bold], or
    [bold]pktmirror ledger --json | jq .adds_up[/bold]
    """
    endpoint = Endpoint.found(state)
    console = terminal()

    def now() -> Ledger:
        asked = {"rules": "1"} if rules or as_json else {}
        return of_session(endpoint.get(own_path("ledger", **asked), Ledger), session)

    try:
        if as_json:
            typer.echo(json.dumps(document(now()), indent=None if watch else 2))
            while watch:
                time.sleep(WATCH_EVERY_S)
                typer.echo(json.dumps(document(now())))
        elif watch:
            with Live(shown(now()), console=console, refresh_per_second=4, vertical_overflow="visible") as live:
                while True:
                    time.sleep(WATCH_EVERY_S)
                    live.update(shown(now()))
        else:
            console.print(shown(now()))
    except KeyboardInterrupt:
        return


def shown(ledger_: Ledger) -> RenderableType:
    """The ledger for people."""
    if not ledger_.sessions:
        return Text("No session is there. Make one with `aws ec2 create-traffic-mirror-session`.")
    parts = [_session(session) for session in ledger_.sessions]
    parts += [_interface(interface) for interface in ledger_.interfaces]
    return Group(*parts)


def waterfall(session: SessionFigures) -> list[Line]:
    """A session's lines, from the offer to the file; each is the sum of those one level deeper below it.

    Cut copies are the exception, which are sent, received and written like the others, and so are what a target without
    a listener answers, and probes. Losses that did not occur are left out, the ends of the way never.
    """
    later = sorted({name for figures in session.directions.values() for name in figures.later_stages})
    losses = [_line(session, 2, stage.value, partial(_stage, stage)) for stage in LOSSES]
    losses += [_line(session, 2, name, partial(_later_stage, name)) for name in later]
    losses.append(_line(session, 2, LOST_IN_HOP, lambda figures: Tally(figures.lost_in_hop_packets), False))
    beside = [_line(session, 3, stage.value, partial(_stage, stage)) for stage in Stage if stage in BESIDE_SENT]
    return [
        _line(session, 0, "offered", lambda figures: figures.offered),
        _line(session, 1, Verdict.TAKEN.value, partial(_verdict, Verdict.TAKEN)),
        _line(session, 2, Stage.SENT.value, partial(_stage, Stage.SENT)),
        *_occurred(beside),
        *_at_collector(session.collector),
        *_occurred(losses),
        *(
            _line(session, 1, verdict.value, partial(_verdict, verdict))
            for verdict in Verdict
            if verdict is not Verdict.TAKEN
        ),
    ]


def humanised(bytes_: int) -> str:
    """1234567 → 1.23 MB: three digits, decimal units."""
    size, units = float(bytes_), ["B", "kB", "MB", "GB", "TB", "PB"]
    while abs(size) >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    if units[0] == "B":
        return f"{bytes_} B"
    return f"{size:.{2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0}f} {units[0]}"


def _stage(stage: Stage, figures: DirectionFigures) -> Tally:
    return figures.stage(stage)


def _later_stage(name: str, figures: DirectionFigures) -> Tally:
    return figures.stages.get(name, Tally())


def _verdict(verdict: Verdict, figures: DirectionFigures) -> Tally:
    return figures.verdict(verdict)


def _line(
    session: SessionFigures,
    depth: int,
    label: str,
    tally: Callable[[DirectionFigures], Tally],
    counts_bytes: bool = True,
) -> Line:
    by_direction = {direction: tally(figures) for direction, figures in session.directions.items()}
    ingress, egress = by_direction.get(Direction.INGRESS, Tally()), by_direction.get(Direction.EGRESS, Tally())
    return Line(depth, label, ingress, egress, ingress + egress, counts_bytes)


def _at_collector(collector: Collected | Uncollected) -> list[Line]:
    """A copy does not say which direction it had, so there are no figures by direction at this end."""
    if isinstance(collector, Uncollected):
        return []
    lost = Line(3, LOST_ON_WIRE, None, None, Tally(collector.lost_on_wire_packets), counts_bytes=False)
    return [
        Line(3, "received", None, None, collector.received),
        Line(4, "written", None, None, collector.written),
        *_occurred([Line(4, NOT_WRITTEN, None, None, collector.not_written), lost]),
    ]


def _occurred(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if line.both.packets]


def _session(session: SessionFigures) -> RenderableType:
    title = Text.assemble(
        (session.session_id, "bold"),
        f"  number {session.number}  VNI {session.vni}  {session.interface_id} → {session.target_id}",
    )
    if session.outer_source is not None:
        title.append(f"  {session.outer_source} → {session.outer_destination}", "dim")
    rules = () if session.rules is None else (rule_table(session.rules),)
    return Group(title, _table(waterfall(session)), *rules, *_remarks(session), Text())


def _remarks(session: SessionFigures) -> Iterator[Text]:
    if session.problem is not None:
        yield Text(f"  ! not mirroring: {session.problem}", "bold red")
    if session.cap != UNLIMITED or session.capped.packets:
        over = f"{session.capped.packets:,} packets were over it or over the budget of its host"
        yield Text(f"  · cap: {session.cap}; {over}, and were not copied", "yellow")
    match session.collector:
        case Uncollected(reason=reason):
            yield Text(f"  · the far end is not compared: {reason}", "yellow")
        case Collected(shared_with=(_, *_) as others):
            yield Text(f"  · received and written are of streams shared with {', '.join(others)}", "yellow")
    if session.rules is not None and session.rules_lack is not None:
        yield Text(f"  · what its rules matched is not complete: {session.rules_lack}", "yellow")
    yield from _judgement(differences(session))


def rule_table(rules: Iterable[RuleFigures]) -> Table:
    """What each rule matched, by direction and number. Dim: what counts no more, and what has matched nothing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("direction", "number", "rule", "action", "packets", "bytes"):
        is_figure = name in ("number", "packets", "bytes")
        table.add_column(name, justify="right" if is_figure else "left", no_wrap=name != "rule", overflow="fold")
    for rule in rules:
        rule_id = rule.rule_id if rule.in_force or rule.number is None else f"{rule.rule_id} before it was changed"
        table.add_row(
            rule.direction.value,
            "" if rule.number is None else str(rule.number),
            rule_id,
            rule.action.value,
            f"{rule.matched.packets:,}",
            humanised(rule.matched.bytes),
            style="" if rule.in_force and rule.matched.packets else "dim",
        )
    return table


def _judgement(found: list[str]) -> Iterator[Text]:
    if not found:
        yield Text("  ✓ adds up", "green")
    for difference in found:
        yield Text(f"  ✗ {difference}", "red")


def _interface(interface: InterfaceFigures) -> RenderableType:
    name = interface.interface_id or "an interface that is no longer known"
    title = Text.assemble((name, "bold"), f"  {interface.key} on {interface.host_id}")
    past = bypassed({direction: figures.bypassed_packets or 0 for direction, figures in interface.directions.items()})
    warning = [] if past is None else [Text(f"  ! {past}", "bold red")]
    return Group(title, _table(outcomes(interface)), *warning, *_judgement(interface_differences(interface)), Text())


def outcomes(interface: InterfaceFigures) -> list[Line]:
    """An interface's lines: what it saw, and below it the outcomes, without those that did not occur; then what it did
    not see."""
    figures = [
        interface.directions.get(direction, InterfaceDirection(seen=Tally(), outcomes={}))
        for direction in (Direction.INGRESS, Direction.EGRESS)
    ]
    ingress, egress = (each.seen for each in figures)
    lines = [Line(0, "seen", ingress, egress, ingress + egress)]
    for outcome in InterfaceOutcome:
        ingress, egress = (each.outcome(outcome) for each in figures)
        lines += _occurred([Line(1, outcome.value, ingress, egress, ingress + egress)])
    ingress, egress = (Tally(each.bypassed_packets or 0) for each in figures)
    return [*lines, *_occurred([Line(0, BYPASSED, ingress, egress, ingress + egress, counts_bytes=False)])]


def _table(lines: Iterable[Line]) -> Table:
    """Figures are never shortened; in a narrow window the labels fold."""
    lines = list(lines)
    rows = [
        [cell for tally in (line.ingress, line.egress, line.both) for cell in _cells(tally, line.counts_bytes)]
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", min_width=16, overflow="fold")
    for position, name in enumerate(("ingress", "egress", "both")):
        packets, bytes_ = widths[2 * position : 2 * position + 2]
        table.add_column(name, justify="right", no_wrap=True, min_width=max(len(name), packets))
        table.add_column("", justify="right", no_wrap=True, style="dim", min_width=bytes_)
    for line, cells in zip(lines, rows, strict=True):
        style = "bold" if line.depth == 0 else "red" if line.label in _LOST else "" if line.both.packets else "dim"
        table.add_row("  " * line.depth + line.label, *cells, style=style)
    return table


def _cells(tally: Tally | None, counts_bytes: bool) -> tuple[str, str]:
    if tally is None:
        return "", ""
    return f"{tally.packets:,}", humanised(tally.bytes) if counts_bytes else ""

"""`pktmirror status`: what runs where, and how each session fares."""

import msgspec
import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.balance import bypassed
from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.templates import TemplateStatus, shown_templates
from pktmirror.cli.terminal import terminal
from pktmirror.desired import PathFacts
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import Tally
from pktmirror.model.rate import UNLIMITED, Rate

SILENT_S = 30.0
"""An agent or a monitor that has said nothing for longer is marked; each reports every second."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """``applied_revision`` and ``budget`` None: its agent has not reported since the control plane started."""

    host_id: str
    agent_version: str
    reported_s_ago: float
    applied_revision: int | None
    problems: tuple[str, ...]
    stray_packets: int = 0  # frames at the agent's hops that were no copy of ours
    budget: Rate | None = None  # what all its sessions together may copy


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """``problem`` None: its agent says that it mirrors. ``outer_source``: whose address its copies carry.

    ``capped``: what was over its ``cap``, or over the budget of its host, and was not copied.
    """

    session_id: str
    interface_id: str
    host_id: str
    target_id: str
    filter_id: str
    number: int
    vni: int
    outer_source: str | None = None
    problem: str | None
    cap: Rate = UNLIMITED
    capped: Tally = Tally()
    path: PathFacts | None = None  # of its copies, as its agent finds it


class DeletedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that was deleted, and whose host has not confirmed that."""

    session_id: str
    host_id: str
    deleted_s_ago: float
    problem: str


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    monitor_id: str
    listening: str
    reported_s_ago: float
    refused: dict[str, int]
    socket_queue_full: int


class Bypassed(msgspec.Struct, frozen=True, kw_only=True):
    """An interface of which packets went past the hooks. ``interface_id`` None: it is not known (any more)."""

    interface_id: str | None
    host_id: str
    key: str
    packets: dict[Direction, int]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /pktmirror/v1/status`` answers."""

    version: str
    account_id: str
    region: str
    started_at_s: float
    revision: int
    hosts: tuple[Host, ...]
    sessions: tuple[Session, ...]
    monitors: tuple[Monitor, ...]
    refused_requests: dict[str, int]
    bypassed: tuple[Bypassed, ...] = ()
    deleted_sessions: tuple[DeletedSession, ...] = ()
    templates: tuple[TemplateStatus, ...] = ()


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("status")(status)


def status(as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show hosts, sessions, monitors and what was refused: who reports, what is behind, what does not mirror and why.

    Example: [bold]pktmirror status[/bold], or
    [bold]pktmirror status --json | jq '.sessions[] | select(.problem)'[/bold]
    """
    found = Endpoint.found(state).get(own_path("status"), Status)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        terminal().print(shown(found))


def shown(status_: Status) -> RenderableType:
    """The status for people."""
    title = Text.assemble(
        ("control plane", "bold"),
        f"  pktmirror {status_.version}  account {status_.account_id}  region {status_.region}"
        f"  revision {status_.revision}",
    )
    problems = [Text(f"  ! {host.host_id}: {problem}", "red") for host in status_.hosts for problem in host.problems]
    parts: list[RenderableType] = [title, Text(), _hosts(status_), *problems, _sessions(status_)]
    parts += [_limits(session) for session in status_.sessions if session.cap != UNLIMITED or session.capped.packets]
    parts += [_still(each) for each in status_.deleted_sessions]
    parts += [_bypassed(each) for each in status_.bypassed]
    if status_.templates:
        parts.append(shown_templates(status_.templates))
    parts.append(_monitors(status_))
    parts += [
        Text(f"  · {host.host_id}: {host.stray_packets} frames at the hops were no copy and were dropped", "yellow")
        for host in status_.hosts
        if host.stray_packets
    ]
    if status_.refused_requests:
        counts = ", ".join(f"{code} {count:,}" for code, count in status_.refused_requests.items())
        parts.append(Text(f"requests refused since the start: {counts}"))
    return Group(*parts)


def progress(host: Host, revision: int) -> tuple[str, str]:
    """How far a host is with what is desired, and the colour of that."""
    if host.applied_revision is None:
        return "not reported since the control plane started", "red"
    if host.applied_revision < revision:
        return f"{host.applied_revision} of {revision}", "yellow"
    return f"{host.applied_revision}", "green"


def _hosts(status_: Status) -> RenderableType:
    if not status_.hosts:
        return Text("No host has reported. Start `pktmirror agent` on the one that has the interfaces.\n")
    table = _table("host", "agent", "last report", "applied revision", "budget of copying", "problems")
    for host in status_.hosts:
        problems = Text(str(len(host.problems)), "red" if host.problems else "")
        told, budget = _ago(host.reported_s_ago), "" if host.budget is None else str(host.budget)
        table.add_row(host.host_id, host.agent_version, told, _progress(host, status_), budget, problems)
    return table


def _progress(host: Host, status_: Status) -> Text:
    return Text(*progress(host, status_.revision))


def _sessions(status_: Status) -> RenderableType:
    if not status_.sessions:
        return Text("No session is there. Make one with `aws ec2 create-traffic-mirror-session`.\n")
    table = _table("session", "number", "interface", "host", "outer source", "state")
    for session in sorted(status_.sessions, key=lambda session: (session.interface_id, session.number)):
        table.add_row(
            session.session_id,
            str(session.number),
            session.interface_id,
            session.host_id,
            session.outer_source or "",
            Text("mirroring", "green") if session.problem is None else Text(session.problem, "red"),
        )
    return table


def _limits(session: Session) -> Text:
    capped = f"{session.capped.packets:,} packets over it or over the budget of the host were not copied"
    return Text(f"  · {session.session_id}: cap {session.cap}; {capped}", "yellow" if session.capped.packets else "")


def _still(deleted: DeletedSession) -> Text:
    ago_s = max(deleted.deleted_s_ago, 0.0)
    return Text(f"  ! {deleted.session_id}, deleted {ago_s:.0f} s ago: {deleted.problem}", "red")


def _bypassed(past: Bypassed) -> Text:
    name = past.interface_id or "an interface that is no longer known"
    return Text(f"  ! {name}, {past.key} on {past.host_id}: {bypassed(past.packets)}", "red")


def _monitors(status_: Status) -> RenderableType:
    if not status_.monitors:
        return Text("No monitor has reported: nobody counts what arrives at the targets.\n")
    table = _table("monitor", "listening", "last report", "refused datagrams", "dropped before it")
    for monitor in status_.monitors:
        refused = ", ".join(f"{reason} {count:,}" for reason, count in monitor.refused.items() if count) or "0"
        dropped = f"{monitor.socket_queue_full:,}"
        table.add_row(monitor.monitor_id, monitor.listening, _ago(monitor.reported_s_ago), refused, dropped)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("session", "number", "interface"))
    return table


def _ago(seconds: float) -> Text:
    return Text(f"{max(seconds, 0.0):.0f} s ago", "red" if seconds > SILENT_S else "")

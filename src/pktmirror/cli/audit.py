"""`pktmirror audit`: what was asked of the control plane, by whom, and what it answered. Read from its files."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.table import Table

from pktmirror import control
from pktmirror.cli.endpoint import JsonOption
from pktmirror.cli.options import DEFAULT_STATE, State
from pktmirror.cli.terminal import terminal
from pktmirror.model.refusal import Refusal

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are wanted; None and False ask for nothing."""

    since: datetime | None = None
    until: datetime | None = None
    who: str | None = None
    what: str | None = None
    refused: bool = False
    changes: bool = False

    def has(self, record: dict[str, Any]) -> bool:
        """Names are matched with ``*`` and ``?``; ``who`` also against the account and the key."""
        by = record.get("userIdentity") or {}
        names = [str(by.get(name, "")) for name in ("userName", "accountId", "accessKeyId", "arn", "type")]
        at = str(record.get("eventTime", ""))
        return (
            (self.since is None or at >= _text(self.since))
            and (self.until is None or at <= _text(self.until))
            and (self.who is None or any(fnmatchcase(name, self.who) for name in names))
            and (self.what is None or fnmatchcase(str(record.get("eventName", "")), self.what))
            and (not self.refused or "errorCode" in record)
            and (not self.changes or not record.get("readOnly", False))
        )


def audit(
    since: Annotated[str | None, typer.Option(help="A time (ISO 8601, UTC), or how long ago: 15m, 2h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    who: Annotated[str | None, typer.Option(help="A user's name, an account, a key or an ARN; with * and ?.")] = None,
    what: Annotated[str | None, typer.Option(help="The name of a call, with * and ?.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    changes: Annotated[bool, typer.Option("--changes", help="Only calls that change something.")] = False,
    as_json: JsonOption = False,
    state: State = DEFAULT_STATE,
) -> None:
    """Show the audit log of a control plane on this machine; it need not run.

    With [bold]--json[/bold] each record is a line, in CloudTrail's format.

    Example: [bold]pktmirror audit --since 1h --refused[/bold], or [bold]pktmirror audit --who ada --json[/bold]
    """
    now = datetime.now(UTC)
    wanted = Selection(_time(since, now), _time(until, now), who, what, refused, changes)
    damaged: list[int] = []
    found = _selected(control.audit_records(state, wanted.since, wanted.until), wanted, damaged)
    if as_json:
        for record in found:
            typer.echo(msgspec.json.encode(record).decode())
    else:
        terminal().print(_table(found))
    if damaged:
        typer.echo(f"{len(damaged)} lines are no records: a disk was full, or somebody wrote in the log", err=True)


def _selected(
    records: Iterable[dict[str, Any] | None], wanted: Selection, damaged: list[int]
) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records):
        if record is None:
            damaged.append(number)
        elif wanted.has(record):
            yield record


def _table(records: Iterable[dict[str, Any]]) -> Table:
    table = Table("TIME", "WHO", "FROM", "WHAT", "OUTCOME", box=box.SIMPLE_HEAD, pad_edge=False)
    for record in records:
        by = record.get("userIdentity") or {}
        who = by.get("userName") or ("root" if by.get("type") == "Root" else by.get("accessKeyId") or "unknown")
        cells = (
            record.get("eventTime"),
            f"{who} of {by['accountId']}" if "accountId" in by else who,
            record.get("sourceIPAddress"),
            record.get("eventName"),
            record.get("errorCode", "done"),
        )
        table.add_row(*(_plain(str(cell)) for cell in cells))
    return table


def _plain(text: str) -> str:
    """What a caller sent must not steer the terminal of who reads it."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _time(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - timedelta(seconds=int(ago[1]) * _UNITS_S[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(f"{text} is no time.", do="write 2026-01-31T12:00:00, or how long ago: 15m, 2h, 7d") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add_to(app: typer.Typer) -> None:
    app.command("audit")(audit)

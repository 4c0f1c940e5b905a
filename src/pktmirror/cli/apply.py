"""`pktmirror apply`: a document of targets, filters, sessions and templates is made true. An edge module.

Exit status: 0 done, or nothing to do; 1 refused, and nothing has changed; 3 with ``--dry-run``: there are changes;
4 some changes are made and one failed (2 is a wrong command line).
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.account import state_of
from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.templates import TemplateStatus
from pktmirror.cli.terminal import terminal
from pktmirror.control import caps
from pktmirror.document import (
    Change,
    Document,
    Kind,
    Left,
    Made,
    Malformed,
    Plan,
    Problem,
    Verb,
    filled,
    id_made,
    parse,
    plan,
)
from pktmirror.document.values import SessionEntry, TemplateEntry
from pktmirror.model.refusal import Refusal

EXIT_CHANGES = 3
EXIT_HALF_DONE = 4
STDIN = "-"
_LOOKS = {Verb.CREATE: ("+", "green"), Verb.MODIFY: ("~", "yellow"), Verb.DELETE: ("-", "red")}


@dataclass(frozen=True, slots=True)
class Done:
    """How far a plan came: the ids of the changes that were made, in their order, and why no further."""

    ids: tuple[str | None, ...]
    failed: Refusal | None = None


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("apply")(apply)


def apply(
    file: Annotated[str, typer.Argument(help="A document in YAML or JSON; - is standard input.", metavar="FILE")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; status 3 where there are changes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what an earlier version of the document has made, and this has not.")
    ] = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Make a document true: show the plan, ask, and carry it out. To apply it again changes nothing.

    Only what the document names is touched, by the tag [bold]pktmirror:name[/bold] or by its id.
    docs/reference/document.md has the form. Exit status 1: refused, and nothing has changed; 3: changes, with
    --dry-run; 4: some changes are made, one failed.

    Example: [bold]pktmirror apply mirror.yaml[/bold]
    """
    document = _document(file)
    endpoint = Endpoint.found(state)
    planned = plan(document, state_of(endpoint), prune=prune)
    if not as_json:
        terminal().print(shown(planned, document.name))
    if dry_run or not planned.changes:
        if as_json:
            _print_json(document, planned, None)
        raise typer.Exit(EXIT_CHANGES if planned.changes else 0)
    if not yes:
        _ask(len(planned.changes), file)
    done = carry_out(planned, endpoint.perform, own_call(endpoint))
    if as_json:
        _print_json(document, planned, done)
    else:
        terminal().print(_shown_done(planned, done))
    if done.failed is not None:
        if not done.ids:
            raise done.failed
        _complain(done.failed)
        raise typer.Exit(EXIT_HALF_DONE)


Perform = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


def carry_out(planned: Plan, ec2: Perform, own: Perform) -> Done:
    """Make the changes one after the other, up to the first that is refused. ``own`` is for templates."""
    made: dict[Made, str] = {}
    ids: list[str | None] = []
    for change in planned.changes:
        perform = own if change.kind is Kind.TEMPLATE else ec2
        try:
            answer = perform(change.operation, filled(change, made))
        except Refusal as refusal:
            return Done(tuple(ids), refusal)
        id_ = id_made(change, answer)
        if id_ is not None:
            made[Made(change.kind, change.name)] = id_
        ids.append(id_ or change.id)
    return Done(tuple(ids))


def own_call(endpoint: Endpoint) -> Perform:
    """The calls of our own API that a plan may have."""

    def perform(operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        document, _, name = parameters["name"].partition("/")
        path = own_path("templates", document, name)
        if operation == "DeleteTemplate":
            endpoint.delete(path)
        else:
            endpoint.put(path, msgspec.json.encode(dict(parameters)), TemplateStatus)
        return {}

    return perform


def shown(planned: Plan, document: str) -> RenderableType:
    """A plan for people."""
    parts: list[RenderableType] = []
    if planned.changes:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in ("", "what", "name", "id", "change"):
            table.add_column(column, overflow="fold", no_wrap=column in ("", "what"))
        for change in planned.changes:
            table.add_row(*_row(change))
        parts.append(table)
    parts += [Text(_left(each), "yellow") for each in planned.left]
    parts.append(Text(_summary(planned, document), "bold"))
    return Group(*parts)


def _row(change: Change) -> list[Text]:
    sign, colour = _LOOKS[change.verb]
    details = "\n".join(change.details)
    cells = (f"{sign} {change.verb.value}", change.kind.value, change.name, change.id or "")
    return [Text(cell, colour) for cell in cells] + [Text(details)]


def _left(left: Left) -> str:
    return f"  · {left.kind.value} {left.name} ({left.id}) is no longer in the document, and stays; --prune deletes it"


def _summary(planned: Plan, document: str) -> str:
    if not planned.changes:
        return f"Nothing to do: all is as the document {document} says."
    counts = [f"{sum(c.verb is verb for c in planned.changes)} to {verb.value}" for verb in Verb]
    return f"Document {document}: {', '.join(counts)}."


def _shown_done(planned: Plan, done: Done) -> RenderableType:
    if done.failed is None:
        return Text(f"Done: {len(done.ids)} changes.", "green")
    failed = planned.changes[len(done.ids)]
    not_tried = len(planned.changes) - len(done.ids) - 1
    what = f"{failed.verb.value} {failed.kind.value} {failed.name}"
    return Text(f"{len(done.ids)} changes are made; {what} failed; {not_tried} were not tried.", "red")


def _complain(refusal: Refusal) -> None:
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    console.print(f"pktmirror: {refusal}")
    console.print("What is made stays. Mend that, and apply the document again: it goes on from here.")


def _print_json(document: Document, planned: Plan, done: Done | None) -> None:
    """``applied``: how many of the changes were made; null where none was to be."""
    ids = () if done is None else done.ids
    report = {
        "document": document.name,
        "changes": [
            {
                "verb": change.verb.value,
                "kind": change.kind.value,
                "name": change.name,
                "id": ids[place] if place < len(ids) else change.id,
                "details": change.details,
            }
            for place, change in enumerate(planned.changes)
        ],
        "left": [{"kind": left.kind.value, "name": left.name, "id": left.id} for left in planned.left],
        "applied": None if done is None else len(done.ids),
        "failed": None if done is None or done.failed is None else str(done.failed),
    }
    typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())


def _ask(count: int, file: str) -> None:
    """Go on only where somebody says so."""
    if file == STDIN or not sys.stdin.isatty():
        raise Refusal(
            "Nothing has changed: the changes must be confirmed, and there is nobody to ask.",
            found="the document itself on standard input" if file == STDIN else "standard input that is no terminal",
            do="give --yes to make the changes, or --dry-run to see them",
        )
    if not typer.confirm(f"Make {'this change' if count == 1 else f'these {count} changes'}?", err=True):
        raise Refusal("Nothing has changed.", do="apply it again when it is wanted")


def _document(file: str) -> Document:
    try:
        text = (sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"The document {file} cannot be read.",
            found=getattr(error, "strerror", None) or str(error),
            do="name a readable file in UTF-8, or - for standard input",
        ) from None
    document = parse(text)
    entries: tuple[SessionEntry | TemplateEntry, ...] = (*document.sessions, *document.templates)
    problems = [
        Problem(entry.at, f"{entry.name}: {problem}", "say another value, or none")
        for entry in entries
        if (problem := caps.problem(entry.tags)) is not None
    ]
    if problems:
        raise Malformed(problems)
    return document

"""`pktmirror backup` and `pktmirror restore`: all of a control plane in one file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from pktmirror import control
from pktmirror.cli.options import DEFAULT_STATE, State, Store


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it.")],
    state: State = DEFAULT_STATE,
    store: Store = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a backup that is there.")] = False,
) -> None:
    """Write all that a control plane knows into one file, also while it runs.

    The file holds the key, the tokens and the CA of the state directory too: keep it as you would keep them.

    Example: [bold]pktmirror backup /srv/backup/pktmirror-monday[/bold]
    """
    contents = control.back_up(state, store, file, replace=replace)
    typer.echo(f"{file} holds {_described(contents)}, and the key", err=True)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `pktmirror backup` wrote.")],
    state: State = DEFAULT_STATE,
    store: Store = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Restore over a store that is there; what it holds is lost.")
    ] = False,
) -> None:
    """Put back what a backup holds, into an empty state directory or database, while no control plane runs on it.

    A backup of SQLite may be restored into PostgreSQL, and the other way round. Agents follow by themselves.

    Example: [bold]pktmirror restore /srv/backup/pktmirror-monday --state /var/lib/pktmirror[/bold], and to move to
    PostgreSQL the same with [bold]--store postgresql://pktmirror@db/pktmirror[/bold]
    """
    contents = control.restore(file, state, store, replace=replace)
    typer.echo(f"restored {_described(contents)}", err=True)


def _described(contents: control.Contents) -> str:
    return (
        f"account {contents.account_id} with {contents.sessions} sessions and {contents.interfaces} interfaces, "
        f"at revision {contents.revision}"
    )

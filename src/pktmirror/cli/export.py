"""`pktmirror export`: what there is as a document for `pktmirror apply`."""

from typing import Annotated

import typer

from pktmirror.cli.account import state_of
from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption
from pktmirror.document import DEFAULT_DOCUMENT, exported, written
from pktmirror.document.values import is_id
from pktmirror.model.refusal import Refusal
from pktmirror.model.template import is_name


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("export")(export)


def export(
    document: Annotated[
        str, typer.Option("--document", help="The name of the document whose resources are written.")
    ] = DEFAULT_DOCUMENT,
    only_named: Annotated[
        bool, typer.Option("--only-named", help="Without what no document has made, which comes with its ids.")
    ] = False,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Write targets, filters, sessions and templates as a document; to apply it changes nothing.

    What was made without a document, as by [bold]aws ec2[/bold], is written with its ids: to apply the document then
    changes these very resources, and makes no others.

    Example: [bold]pktmirror export > mirror.yaml[/bold]
    """
    if not is_name(document) or is_id(document):
        raise Refusal(f"{document!r} is no name for a document.", do="use letters, digits, `.`, `_` and `-`")
    found = exported(state_of(Endpoint.found(state)), document, only_named=only_named)
    typer.echo(written(found, as_json=as_json), nl=False)

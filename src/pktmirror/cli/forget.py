"""`pktmirror forget`: a host that is gone for good, and all that the control plane knows of it."""

from typing import Annotated
from urllib.parse import quote

import typer

from pktmirror.cli.endpoint import Endpoint, StateOption


def forget(
    host: Annotated[str, typer.Argument(help="The host's id, as `pktmirror status` shows it.")],
    state: StateOption = None,
) -> None:
    """Forget a host whose agent is gone: its interfaces are deleted, and their sessions with them.

    Example: [bold]pktmirror forget old-hypervisor[/bold]
    """
    Endpoint.found(state).delete(f"hosts/{quote(host, safe='')}")
    typer.echo(f"{host} is forgotten", err=True)

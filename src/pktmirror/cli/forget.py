"""`pktmirror forget`: a host or an interface that is gone for good, and all that the control plane knows of it."""

import re
from typing import Annotated

import typer

from pktmirror.agent import is_agent_id
from pktmirror.cli.endpoint import Endpoint, StateOption, own_path
from pktmirror.model.refusal import Refusal

_INTERFACE = re.compile(r"eni-[0-9a-f]{17}")


def forget(
    name: Annotated[
        str,
        typer.Argument(
            metavar="HOST|INTERFACE",
            help="A host's id, as `pktmirror status` shows it, or an eni id of `pktmirror interfaces`.",
        ),
    ],
    state: StateOption = None,
) -> None:
    """Forget a host whose agent is gone, or one interface that is gone: it is deleted, and its sessions with it.

    What is still there is refused: it would be back at once, as a new interface without sessions. Targets on a
    deleted interface stay, and their sessions send nothing.

    Example: [bold]pktmirror forget old-hypervisor[/bold], or [bold]pktmirror forget eni-0f3a5c1e77b2d4961[/bold]
    """
    if not is_agent_id(name):
        raise Refusal(
            f"{name!r} is neither the id of a host nor of an interface.",
            do="`pktmirror status` shows the hosts, `pktmirror interfaces` the interfaces",
        )
    kind = "interfaces" if _INTERFACE.fullmatch(name) else "hosts"
    Endpoint.found(state).delete(own_path(kind, name))
    typer.echo(f"{name} is forgotten", err=True)

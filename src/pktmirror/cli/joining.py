"""`pktmirror agent` and what belongs to a host's belonging: `token`, `join`, `revoke`, `stop`. An edge module."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from pktmirror import agent
from pktmirror.agent import is_agent_id
from pktmirror.cli import services
from pktmirror.cli.endpoint import Endpoint, StateOption, own_path
from pktmirror.cli.options import DEFAULT_STATE, HostId, Netns, State, default_host_id
from pktmirror.model.join import TokenMade, TokenWish
from pktmirror.model.refusal import Refusal

app = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode="rich")
app.callback()(services.agent_)

Host = Annotated[str, typer.Argument(metavar="HOST", help="A host's id, as `pktmirror status` shows it.")]


@app.command("token")
def token(
    host: Annotated[
        str | None, typer.Option("--host", help="For this host alone, also where it is known already.")
    ] = None,
    valid_minutes: Annotated[int, typer.Option(min=1, max=7 * 24 * 60, help="How long it can be used.")] = 60,
    state: StateOption = None,
) -> None:
    """Make a token with which one host can join, once. Run it at the control plane.

    Without [bold]--host[/bold] it is for any host that is not known yet.

    Example: [bold]pktmirror agent token --host hypervisor-2[/bold]
    """
    if host is not None:
        _refuse_bad_name(host)
    wish = TokenWish(host_id=host, valid_s=valid_minutes * 60.0)
    made = Endpoint.found(state).post(own_path("join-tokens"), TokenMade, msgspec.json.encode(wish))
    until = datetime.fromtimestamp(made.expires_at_s, UTC)
    who = "a host that is not known yet" if host is None else f"the host {host}"
    typer.echo(f"For {who}, once, until {until:%Y-%m-%d %H:%M} UTC: pktmirror agent join URL --token", err=True)
    typer.echo(made.token)


@app.command("join")
def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="What `serve --listen-tls` listens on: https://…:8774.")],
    token_: Annotated[
        str, typer.Option("--token", envvar="PKTMIRROR_JOIN_TOKEN", help="What `pktmirror agent token` has printed.")
    ],
    state: State = DEFAULT_STATE,
    host_id: HostId = None,
    netns_name: Netns = None,
) -> None:
    """Make this machine a host of a control plane: its token becomes a certificate, kept in the state directory.

    [bold]pktmirror agent[/bold] runs with it from then on, and renews it.

    Example: [bold]pktmirror agent join https://control.example:8774 --token pktmirror-join.…[/bold]
    """
    name = host_id or default_host_id(netns_name)
    _refuse_bad_name(name)
    identity = agent.join(url, token_, name, state)
    ends = identity.certificate().not_valid_after_utc
    typer.echo(
        f"{name} has joined {identity.joined.control_url}. Its certificate lasts until {ends:%Y-%m-%d}.", err=True
    )


@app.command("revoke")
def revoke(host: Host, state: StateOption = None) -> None:
    """Take a host's certificates back: it can read and tell nothing any more. Run it at the control plane.

    What it mirrors goes on until its agent is stopped with [bold]--detach[/bold]: nobody else can end it.

    Example: [bold]pktmirror agent revoke hypervisor-2[/bold]
    """
    _refuse_bad_name(host)
    Endpoint.found(state).delete(own_path("hosts", host, "certificates"))
    typer.echo(f"the certificates of {host} are revoked", err=True)


@app.command("stop")
def stop(
    detach: Annotated[
        bool, typer.Option("--detach", help="End all mirroring of this host too, as purge does.")
    ] = False,
    netns_name: Netns = None,
    host_id: HostId = None,
    bpffs: Annotated[Path, typer.Option(help="Where programs and maps are pinned.")] = agent.DEFAULT_BPFFS,
) -> None:
    """End the agent of this host. What it mirrors goes on, unless [bold]--detach[/bold] is given.

    Example: [bold]pktmirror agent stop --detach[/bold]
    """
    name = host_id or default_host_id(netns_name)
    stopped = agent.stop_agent(bpffs, name)
    typer.echo("the agent has ended" if stopped else "no agent was at work", err=True)
    if detach:
        services.purge(netns_name, name, bpffs)


def _refuse_bad_name(host_id: str) -> None:
    if not is_agent_id(host_id):
        raise Refusal(
            f"{host_id!r} cannot be the name of a host.",
            do="give letters, digits, '.', '_' and '-', at most 128, a letter or digit first",
        )

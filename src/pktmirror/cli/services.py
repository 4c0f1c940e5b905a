"""The services in the foreground: `serve`, `agent`, and what belongs to their lives. Each ends at Ctrl-C."""

import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer

from pktmirror import agent, control
from pktmirror.cli.options import (
    DEFAULT_CONTROL,
    DEFAULT_LISTEN,
    DEFAULT_STATE,
    BudgetBits,
    BudgetPackets,
    HostId,
    Netns,
    State,
    Store,
    budget_of,
    control_of,
    default_host_id,
    stop_at_signals,
)
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal

QUOTAS = tuple(quota.name for quota in fields(Quotas))
CLIENT_LIMITS = {limit.name: limit for limit in fields(control.ClientLimits)}


def serve(
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT without TLS: of loopback alone.")] = (DEFAULT_LISTEN),
    state: State = DEFAULT_STATE,
    store: Store = None,
    networks: Annotated[
        Path | None,
        typer.Option(
            help="networks.toml: VPCs, subnets, resolvers. Applied unless it says what it said at the last start; "
            "`pktmirror network` shows and changes what is in force."
        ),
    ] = None,
    allow_remote_without_tls: Annotated[
        bool,
        typer.Option(
            "--allow-remote-without-tls",
            help="Listen beyond loopback with --listen: who is on the way reads everything, the agents' token too.",
        ),
    ] = False,
    listen_tls: Annotated[
        str | None,
        typer.Option(help="ADDRESS:PORT with TLS, for the agents of other hosts and for clients: 0.0.0.0:8774."),
    ] = None,
    tls_name: Annotated[
        list[str] | None,
        typer.Option(help="A name or address by which AWS clients reach --listen-tls, as often as needed."),
    ] = None,
    new_ca: Annotated[
        bool,
        typer.Option(
            "--new-ca",
            help="For one start: take another CA where the hosts' own is lost. All of them have to join again.",
        ),
    ] = False,
    region: Annotated[str, typer.Option(help="The region by which clients know this place.")] = control.DEFAULT_REGION,
    quota: Annotated[
        list[str] | None,
        typer.Option(help=f"NAME=NUMBER, as often as needed; AWS's by default. Names: {', '.join(QUOTAS)}."),
    ] = None,
    client_limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER, as often as needed: what clients may take of this server, of both listeners together. "
            f"Names: {', '.join(f'{name} ({limit.default:g})' for name, limit in CLIENT_LIMITS.items())}."
        ),
    ] = None,
    eni_forget_s: Annotated[
        float | None, typer.Option(help="Delete an interface, with its sessions, when it has been gone so long.")
    ] = None,
) -> None:
    """Run the control plane: the EC2 endpoint and what agents follow.

    The first start makes an account, an access key and a ready AWS credentials file in the state directory.

    Example: [bold]pktmirror serve --listen 127.0.0.1:8773 --state /var/lib/pktmirror[/bold]
    """
    settings = control.Settings(
        region=region,
        quotas=quotas_of(quota or []),
        eni_forget_s=eni_forget_s,
        store=store,
        listen_tls=listen_tls,
        tls_names=tuple(tls_name or ()),
        new_ca=new_ca,
        clients=client_limits_of(client_limit or []),
    )
    control.serve(
        listen,
        state,
        networks,
        allow_remote_without_tls=allow_remote_without_tls,
        settings=settings,
        stop=stop_at_signals(),
    )


def quotas_of(given: list[str]) -> Quotas:
    """AWS's quotas with those of the command line in their place; Refusal for what is none."""
    numbers: dict[str, int] = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in QUOTAS or not number.isdecimal():
            raise Refusal(f"{text} is no quota.", do=f"write NAME=NUMBER with one of {', '.join(QUOTAS)}")
        numbers[name] = int(number)
    return replace(Quotas(), **numbers)


def client_limits_of(given: list[str]) -> control.ClientLimits:
    """The usual limits with those of the command line in their place; Refusal for what is none."""
    numbers: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        is_count = name in CLIENT_LIMITS and isinstance(CLIENT_LIMITS[name].default, int)
        form = r"[0-9]{1,9}" if is_count else r"[0-9]{1,9}(\.[0-9]{1,3})?"
        if name not in CLIENT_LIMITS or re.fullmatch(form, number) is None:
            names = ", ".join(CLIENT_LIMITS)
            raise Refusal(f"{text} is no limit of clients.", do=f"write NAME=NUMBER with one of {names}")
        numbers[name] = int(number) if is_count else float(number)
    return replace(control.ClientLimits(), **numbers)  # type: ignore[arg-type]


def agent_(
    context: typer.Context,
    control_url: Annotated[
        str | None,
        typer.Option(
            "--control",
            envvar="PKTMIRROR_CONTROL",
            show_default=f"the one that this host has joined, or {DEFAULT_CONTROL}",
            help="The control plane's URL.",
        ),
    ] = None,
    state: State = DEFAULT_STATE,
    netns_name: Netns = None,
    host_id: HostId = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="The agents' token (default: what this host has of its joining, else agent-token in the state "
            "directory)."
        ),
    ] = None,
    bpffs: Annotated[Path, typer.Option(help="Where programs and maps are pinned.")] = agent.DEFAULT_BPFFS,
    namespace_gone_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="A network namespace whose name has been gone so long is deleted, its interfaces and sessions too.",
        ),
    ] = agent.NAMESPACE_GONE_S,
    budget_packets_per_second: BudgetPackets = None,
    budget_bits_per_second: BudgetBits = None,
    lease_s: Annotated[
        int,
        typer.Option(
            help="Copy no more when the control plane has not answered for so long, whether the agent runs or not; "
            "what is not copied counts as lease ended. 0: mirroring goes on as last desired."
        ),
    ] = 0,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="KIND=WHERE: an engine that tells names and labels, docker=/run/docker.sock, podman=SOCKET, "
            "libvirt=URI, kubernetes=URL; may be repeated. `none`: ask none.",
            show_default="those at their standard sockets",
        ),
    ] = None,
) -> None:
    """Run the agent of this host: find interfaces, mirror what is desired, report.

    Mirroring goes on when the agent ends; [bold]pktmirror purge[/bold] ends it. Production comes first: what is over
    the budget is not copied, and [bold]pktmirror ledger[/bold] counts it as capped.

    Example: [bold]pktmirror agent --control http://127.0.0.1:8773 --state /var/lib/pktmirror[/bold], or with
    [bold]--budget-packets-per-second 0[/bold] where every packet is wanted, whatever it costs
    """
    if context.invoked_subcommand is not None:
        return
    host_id = host_id or default_host_id(netns_name)
    url, credential = control_of(control_url, token_file, state, host_id)
    settings = agent.Settings(
        control_url=url,
        credential=credential,
        host_id=host_id,
        state_dir=state,
        netns=netns_name,
        bpffs_root=bpffs,
        namespace_gone_s=namespace_gone_s,
        budget=budget_of(budget_packets_per_second, budget_bits_per_second),
        lease_s=lease_s,
        engines=agent.engines_of(engine or ()),
    )
    agent.run(settings, stop_at_signals())


def env(state: State = DEFAULT_STATE) -> None:
    """Print the exports that make AWS clients use this control plane.

    Example: [bold]eval "$(pktmirror env)"[/bold], then [bold]aws ec2 describe-network-interfaces[/bold]
    """
    for name, value in control.environment(state).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def purge(
    netns_name: Netns = None,
    host_id: HostId = None,
    bpffs: Annotated[Path, typer.Option(help="Where programs and maps are pinned.")] = agent.DEFAULT_BPFFS,
) -> None:
    """End all mirroring of this host: remove the programs, maps and devices that an agent left.

    Example: [bold]pktmirror purge[/bold], after the agent was stopped
    """
    found = agent.purge_host(bpffs, host_id or default_host_id(netns_name), netns_name)
    typer.echo("removed" if found else "there was nothing to remove", err=True)

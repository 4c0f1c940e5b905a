"""`pktmirror lab`: a VPC in network namespaces, to try things out and to test. An edge module."""

import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pktmirror import lab
from pktmirror.model.refusal import Refusal

app = typer.Typer(help="A VPC in network namespaces: for a first run and for the tests.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The lab's name.")]


@app.command()
def up(
    file: Annotated[
        Path | None, typer.Argument(help="A topology in TOML; without one, the demo's: client, web, monitor.")
    ] = None,
) -> None:
    """Build a lab.

    Example: [bold]sudo pktmirror lab up[/bold], then
    [bold]sudo pktmirror lab exec pktmirror client -- ping -c 1 10.0.0.48[/bold]
    """
    topology = lab.DEMO if file is None else lab.load(_read(file))
    console = Console(stderr=True)
    with console.status(f"building the lab {topology.name}") as status:
        built = lab.up(topology, progress=status.update)
    console.print(f"the lab {built.name} is up: {', '.join(topology.places)}")


@app.command()
def down(name: Name = "pktmirror") -> None:
    """Take a lab away, with the processes that run in it. Nothing else on this machine is touched."""
    removed = lab.down(name)
    for left in removed.left:
        typer.echo(f"left alone: {left}", err=True)
    typer.echo(f"removed {len(removed.namespaces)} namespaces and ended {len(removed.ended_pids)} processes", err=True)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="The lab's name; without one, all labs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    networks: Annotated[bool, typer.Option("--networks", help="The networks.toml of this lab, for `serve`.")] = False,
) -> None:
    """Show what is there of a lab."""
    if networks:
        typer.echo(lab.networks_toml(lab.find(name or lab.DEMO.name).topology), nl=False)
        return
    shown = [lab.show(each) for each in ([name] if name else lab.names())]
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(each, enc_hook=str) for each in shown], indent=2))
        return
    if not shown:
        raise Refusal("No lab is up.", do="build one with `pktmirror lab up`")
    console = Console()
    for each in shown:
        title = f"lab {each.topology.name}" + ("" if each.complete else " (incomplete)")
        table = Table(title=title, box=SIMPLE, padding=(0, 1), title_justify="left")
        for column in ("place", "namespace", "device", "addresses", "MAC", "state"):
            table.add_column(column)
        for place in each.places:
            for device in (device for device in place.devices if device.name != "lo"):
                state = "up" if device.up else "down"
                addresses = " ".join(device.addresses)
                table.add_row(place.name, place.namespace, device.name, addresses, device.mac, state)
            if not place.present:
                table.add_row(place.name, place.namespace, "", "", "", "removed by someone else")
        console.print(table)


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    name: Name,
    place: Annotated[str, typer.Argument(help="A host, an instance or the router of the lab.")],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
) -> None:
    """Run a command in one of the lab's places.

    Example: [bold]pktmirror lab exec pktmirror web -- ip addr[/bold]
    """
    sys.stdout.flush()
    lab.find(name).execute(place, command)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"The topology {file} cannot be read.", found=str(error), do="name a TOML file") from None

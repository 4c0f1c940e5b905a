"""`pktmirror network`: what the operator declares of the networks, and how to change it."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.interfaces import inventory, meant
from pktmirror.cli.terminal import terminal
from pktmirror.model.refusal import Refusal
from pktmirror.model.underlay import Segmentation
from pktmirror.networks import Declaration, UnderlayDeclaration, networks, parse, toml

app = typer.Typer(
    name="network",
    help="See and change what is declared of the networks: VPCs, subnets, resolvers, underlays, addresses.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
File = Annotated[Path, typer.Argument(help="A networks.toml.", show_default=False)]
Interface = Annotated[
    str, typer.Argument(help="An eni id, a key, an address or an instance, as `pktmirror interfaces` shows them.")
]


class SubnetShown(msgspec.Struct, frozen=True, kw_only=True):
    """``interfaces`` is how many belong to it."""

    subnet_id: str
    name: str
    zone: str | None
    networks: tuple[str, ...]
    interfaces: int


class VpcShown(msgspec.Struct, frozen=True, kw_only=True):
    vpc_id: str
    name: str
    networks: tuple[str, ...]
    resolvers: tuple[str, ...]
    underlay: UnderlayDeclaration
    subnets: tuple[SubnetShown, ...]


class AddressShown(msgspec.Struct, frozen=True, kw_only=True):
    """``interface_id`` None: no such interface has been found yet."""

    host_id: str
    key: str
    address: str
    interface_id: str | None


class NetworksShown(msgspec.Struct, frozen=True, kw_only=True):
    """What ``GET /pktmirror/v1/networks`` answers."""

    declaration: Declaration
    vpcs: tuple[VpcShown, ...]
    addresses: tuple[AddressShown, ...]


@app.command("show")
def show(
    as_json: JsonOption = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="As a networks.toml, to keep, edit and apply.")] = False,
    state: StateOption = None,
) -> None:
    """Show the declaration in force, and how many interfaces each subnet has.

    Example: [bold]pktmirror network show[/bold], or [bold]pktmirror network show --toml > networks.toml[/bold]
    """
    if as_json and as_toml:
        raise Refusal("The networks cannot be shown in two forms at once.", do="give --json or --toml")
    shown_ = Endpoint.found(state).get(own_path("networks"), NetworksShown)
    if as_toml:
        typer.echo(toml(shown_.declaration), nl=False)
    elif as_json:
        document = {"vpcs": shown_.vpcs, "addresses": shown_.addresses}
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        terminal().print(shown(shown_))


@app.command("check")
def check(file: File) -> None:
    """Say whether a file is a declaration of networks; nothing is changed, and no control plane is asked.

    Example: [bold]pktmirror network check networks.toml[/bold]
    """
    declaration = parse(_read(file))
    found = networks(declaration)
    subnets = sum(len(vpc.subnets) for vpc in found.vpcs)
    typer.echo(f"{file}: {len(found.vpcs)} VPCs, {subnets} subnets, {len(found.addresses)} addresses of interfaces")


@app.command("apply")
def apply(file: File, state: StateOption = None) -> None:
    """Put a file in the place of the declaration in force, at once and for good. What it does not declare is gone.

    Example: [bold]pktmirror network show --toml > networks.toml[/bold], edit it, and
    [bold]pktmirror network apply networks.toml[/bold]
    """
    text = _read(file)
    networks(parse(text))  # what is wrong with the file is said without asking anybody
    _tell(Endpoint.found(state).put(own_path("networks"), text.encode(), tuple[str, ...]))


@app.command("set-address")
def set_address(
    interface: Interface,
    address: Annotated[str, typer.Argument(help="Its primary IPv4 address.")],
    state: StateOption = None,
) -> None:
    """Declare the primary address of an interface; it counts before what the host finds out.

    Example: [bold]pktmirror network set-address eni-0f3a5c1e77b2d4961 10.0.0.48[/bold]
    """
    endpoint = Endpoint.found(state)
    interface_id = meant(inventory(endpoint), interface).interface_id
    _tell(endpoint.put(own_path("interfaces", interface_id, "address"), address.encode(), tuple[str, ...]))


@app.command("clear-address")
def clear_address(interface: Interface, state: StateOption = None) -> None:
    """Take the declared address of an interface away; what the host finds out counts again.

    Example: [bold]pktmirror network clear-address eni-0f3a5c1e77b2d4961[/bold]
    """
    endpoint = Endpoint.found(state)
    interface_id = meant(inventory(endpoint), interface).interface_id
    _tell(endpoint.withdraw(own_path("interfaces", interface_id, "address"), tuple[str, ...]))


def shown(networks_: NetworksShown) -> RenderableType:
    """The declaration for people."""
    if not networks_.vpcs and not networks_.addresses:
        return Text("Nothing is declared. Write a networks.toml, and `pktmirror network apply` it.")
    parts: list[RenderableType] = [_vpc(vpc) for vpc in networks_.vpcs]
    if networks_.addresses:
        table = _table("address", "interface", "key", "host")
        for each in networks_.addresses:
            table.add_row(each.address, each.interface_id or "not found yet", each.key, each.host_id)
        parts += [Text("declared addresses", "bold"), table]
    return Group(*parts)


def _vpc(vpc: VpcShown) -> RenderableType:
    title = Text.assemble((vpc.name, "bold"), f"  {vpc.vpc_id}  {', '.join(vpc.networks)}")
    underlay = vpc.underlay
    said = [f"route table {underlay.route_table}", f"outer source {underlay.outer_source}"]
    said += [f"device {underlay.device}"] if underlay.device is not None else []
    said += [f"segmentation by {underlay.segmentation}"] if underlay.segmentation != Segmentation.AUTO.value else []
    said += ["past bridges of the same host"] if underlay.shortcut else []
    said += [f"over IPv{underlay.family}"] if underlay.family is not None else []
    said += [f"MTU at most {underlay.mtu_max}"] if underlay.mtu_max is not None else []
    lines = [f"  resolvers: {', '.join(vpc.resolvers) or 'none'}", f"  underlay: {', '.join(said)}"]
    table = _table("subnet", "id", "networks", "zone", "interfaces")
    for subnet in vpc.subnets:
        table.add_row(
            subnet.name, subnet.subnet_id, ", ".join(subnet.networks), subnet.zone or "", str(subnet.interfaces)
        )
    return Group(title, *map(Text, lines), table)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _tell(changes: tuple[str, ...]) -> None:
    for change in changes or ("nothing changes",):
        typer.echo(change)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # a mark before the text is no part of it
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"The declaration of networks {file} cannot be read.",
            found=getattr(error, "strerror", None) or str(error),
            do="name a readable networks.toml",
        ) from None

"""`pktmirror interfaces`: what the agents found, what of it can be mirrored, and which interface one means."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import typer
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.terminal import terminal
from pktmirror.desired import InstanceFacts
from pktmirror.model.refusal import Refusal


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface as ``GET /pktmirror/v1/interfaces`` lists it; ``sessions`` are those that mirror it.

    It is known by host and key, which begins with its provider (spec 5.15). ``address_from`` says who tells the first
    of its addresses.
    """

    interface_id: str
    host_id: str
    instance_id: str | None
    vpc_id: str | None
    subnet_id: str | None
    attached: bool
    provider: str
    key: str
    instance: str | None
    name: str
    device: str
    kind: str
    mac: str | None
    addresses: tuple[str, ...]
    address_from: str | None
    mtu: int
    up: bool
    not_mirrorable: str | None
    sessions: tuple[str, ...]
    facts: InstanceFacts | None = None
    plain_key: str | None = None

    @property
    def instance_name(self) -> str | None:
        """As its engine calls it, else as its provider does."""
        return self.instance if self.facts is None else self.facts.name or self.instance

    @property
    def state(self) -> str:
        if not self.attached:
            return "gone"
        return "up" if self.up else "down"


class Target(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What DescribeTrafficMirrorTargets says, as far as interfaces go."""

    traffic_mirror_target_id: str
    network_interface_id: str | None = None


Targets = Mapping[str, list[str]]
"""The ids of the targets on an interface, by the interface's id."""


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("interfaces")(interfaces)


def interfaces(as_json: JsonOption = False, state: StateOption = None) -> None:
    """Show the network interfaces: their ids, whether each can be mirrored, and which are sources and targets.

    Example: [bold]pktmirror interfaces[/bold], or
    [bold]pktmirror interfaces --json | jq -r '.[] | select(.instance == "web").interface_id'[/bold]
    """
    endpoint = Endpoint.found(state)
    found, targets = inventory(endpoint), targets_by_interface(endpoint)
    if as_json:
        document = msgspec.json.encode([described(interface, targets) for interface in found])
        typer.echo(msgspec.json.format(document, indent=2).decode())
    else:
        terminal().print(shown(found, targets))


def inventory(endpoint: Endpoint) -> tuple[Interface, ...]:
    """All interfaces that the control plane knows."""
    return endpoint.get(own_path("interfaces"), tuple[Interface, ...])


def targets_by_interface(endpoint: Endpoint) -> Targets:
    """Which interfaces are targets."""
    by_interface: dict[str, list[str]] = {}
    for target in endpoint.listed("describe_traffic_mirror_targets", "TrafficMirrorTargets", Target):
        if target.network_interface_id is not None:
            by_interface.setdefault(target.network_interface_id, []).append(target.traffic_mirror_target_id)
    return by_interface


def described(interface: Interface, targets: Targets) -> dict[str, Any]:
    """An interface for scripts."""
    told: dict[str, Any] = msgspec.to_builtins(interface)
    return {**told, "state": interface.state, "targets": targets.get(interface.interface_id, [])}


def meant(interfaces_: Iterable[Interface], name: str) -> Interface:
    """The interface that somebody names by its id, key, an address, or its instance; raises `Refusal` unless it is one.

    An interface that is gone is meant by its id only: its address may be another's by now.
    """
    known = list(interfaces_)
    matching = [interface for interface in known if interface.interface_id == name] or [
        interface
        for interface in known
        if interface.attached
        and name
        in (interface.instance, interface.instance_name, interface.instance_id, *_keys_and_addresses(interface))
    ]
    match matching:
        case [one]:
            return one
        case []:
            raise Refusal(
                f"No interface is known as {name}.",
                found=f"{len(known)} interfaces with other ids, addresses and instances",
                do="take an eni id, a private address or an instance from `pktmirror interfaces`",
            )
    ids = ", ".join(f"{interface.interface_id} ({interface.name})" for interface in matching)
    raise Refusal(f"{name} can mean more than one interface.", found=ids, do="name the one you mean by its id")


def _keys_and_addresses(interface: Interface) -> tuple[str, ...]:
    return (interface.key, *filter(None, (interface.plain_key,)), *interface.addresses)


def shown(interfaces_: Iterable[Interface], targets: Targets) -> RenderableType:
    """The interfaces for people: those that can be mirrored first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("interface", "instance", "name", "device", "kind", "addresses", "host", "key", "state", "mirroring"):
        table.add_column(column, overflow="fold", no_wrap=column in ("interface", "name", "kind", "addresses", "state"))
    ordered = sorted(interfaces_, key=lambda one: (one.not_mirrorable is not None, one.host_id, one.key))
    for interface in ordered:
        table.add_row(
            interface.interface_id,
            interface.instance_name or "",
            interface.name,
            interface.device,
            interface.kind,
            "\n".join(interface.addresses),
            interface.host_id,
            interface.key,
            Text(interface.state, "" if interface.state == "up" else "yellow"),
            _role(interface, targets.get(interface.interface_id, [])),
        )
    return table if ordered else Text("No interface is known. Start `pktmirror agent` on the host that has them.")


def _role(interface: Interface, targets: Collection[str]) -> Text:
    sources = len(interface.sessions)
    roles = [f"source of {sources} session{'s' if sources > 1 else ''}"] if sources else []
    roles += ["target"] if targets else []
    if roles:
        return Text(", ".join(roles), "green")
    if interface.not_mirrorable is not None:
        return Text(f"no: {interface.not_mirrorable}", "dim")
    return Text("can be a source")

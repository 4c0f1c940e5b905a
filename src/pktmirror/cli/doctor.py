"""`pktmirror doctor`: does this machine have what the mirror needs, and what to do where it does not.

It also lists the interfaces that an agent would find here, and why one of them cannot be a source; that is no fault.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pktmirror import agent
from pktmirror.control.records import InterfaceRecord
from pktmirror.kernel import features
from pktmirror.model.rate import default_budget

TCX_KERNEL = (6, 6)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``problem`` None: it is as it should be. ``needed_by``: who cannot do without.

    ``found`` is what there is, where that is worth knowing without a problem.
    ``fault`` False: a problem is to be known, and no reason for the exit status.
    """

    subject: str
    needed_by: str
    problem: str | None
    do: str
    found: str = ""
    fault: bool = True


def findings(bpffs: Path, control_port: int, monitor_port: int) -> Iterator[Finding]:
    """Look at one thing after another."""
    major, minor = features.kernel_version()
    old = None if (major, minor) >= TCX_KERNEL else f"Linux {major}.{minor}; tcx came with 6.6"
    yield Finding("kernel version", "agent", old, "use a kernel of 6.6 or later")
    privileges = features.missing_capabilities()
    yield Finding("privileges", "agent, lab", privileges, "run it as root: sudo pktmirror doctor")
    yield Finding("BTF", "agent", features.missing_btf(), "use a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's")
    yield Finding("libbpf", "agent", features.missing_libbpf(), "apt-get install libbpf1")
    built = None if agent.OBJECT.exists() else f"no {agent.OBJECT.name} beside the agent"
    yield Finding("BPF object", "agent", built, "run script/build-bpf in the source tree")
    if privileges is None:
        yield Finding("bpffs", "agent", features.unusable_bpffs(bpffs), "choose another --bpffs directory")
        yield Finding("veth", "agent, lab", features.refused_hop(), "load the veth module: modprobe veth")
        if built is None:
            refused = features.refused_programs(agent.OBJECT, "hook_ingress")
            yield Finding("programs and tcx hooks", "agent", refused, "report this with the kernel's version")
    budget = f"{default_budget(agent.cpus())}, a few hundredths of the CPUs"
    yield Finding("budget of copying", "agent", None, "another: `pktmirror agent --budget-packets-per-second`", budget)
    control = features.taken_port("127.0.0.1", control_port, socket.SOCK_STREAM)
    yield Finding(f"TCP port {control_port}", "serve", control, "choose another with `pktmirror serve --listen`")
    monitor = features.taken_port("0.0.0.0", monitor_port, socket.SOCK_DGRAM)
    yield Finding(f"UDP port {monitor_port}", "monitor", monitor, "choose another with `pktmirror monitor --listen`")
    for tool, package, needed_by in (
        ("nsenter", "util-linux", "lab exec"),
        ("tshark", "tshark", "looking at captures"),
        ("aws", "awscli", "the EC2 API from a shell"),
    ):
        yield Finding(tool, needed_by, features.missing_tool(tool), f"apt-get install {package}")
    if privileges is None:
        yield from _interfaces()


def _interfaces() -> Iterator[Finding]:
    """By the words of the control plane, which knows more: what was declared, and what it was told before."""
    for device in agent.look():
        reason = InterfaceRecord("", "", device.found).not_mirrorable
        yield Finding(device.found.key, f"a source at {device.found.device}", reason, "", fault=False)


def doctor(
    bpffs: Annotated[Path, typer.Option(help="Where programs and maps are pinned.")] = agent.DEFAULT_BPFFS,
    control_port: Annotated[int, typer.Option(help="The control plane's port.")] = 8773,
    monitor_port: Annotated[int, typer.Option(help="The monitor's port.")] = 4789,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Look whether this machine has what the mirror needs; exit status 1 where something is missing.

    Example: [bold]sudo pktmirror doctor[/bold]
    """
    found = list(findings(bpffs, control_port, monitor_port))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        table = Table()
        for column in ("", "what", "needed by", "found", "what to do"):
            table.add_column(column)
        for finding in found:
            if finding.problem is None:
                do = finding.do if finding.found else ""
                table.add_row("[green]ok[/green]", finding.subject, finding.needed_by, finding.found, do)
            else:
                mark = "[red]no[/red]" if finding.fault else "[yellow]no[/yellow]"
                table.add_row(mark, finding.subject, finding.needed_by, finding.problem, finding.do)
        Console().print(table)
    if any(finding.problem and finding.fault for finding in found):
        raise typer.Exit(1)

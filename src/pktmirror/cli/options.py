"""Options that several commands share, and what they stand for. An edge module: files and signals."""

import signal
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from pktmirror import agent
from pktmirror.model.rate import (
    BITS_PER_S_MAX,
    BUDGET_PACKETS_PER_S_OF_A_CPU,
    PACKETS_PER_S_MAX,
    Rate,
    default_budget,
)
from pktmirror.model.refusal import Refusal

DEFAULT_LISTEN = "127.0.0.1:8773"
DEFAULT_CONTROL = f"http://{DEFAULT_LISTEN}"
DEFAULT_STATE = Path("/var/lib/pktmirror")

State = Annotated[
    Path, typer.Option("--state", envvar="PKTMIRROR_STATE", help="Where the service keeps what must outlive it.")
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="PKTMIRROR_STORE",
        metavar="URL",
        help="A PostgreSQL database, postgresql://user@host/database, that replicas share (default: SQLite in the "
        "state directory). The password is better in ~/.pgpass or PGPASSWORD.",
    ),
]
Control = Annotated[str, typer.Option("--control", envvar="PKTMIRROR_CONTROL", help="The control plane's URL.")]
Netns = Annotated[
    str | None, typer.Option("--netns", help="The network namespace to work in, by its name in /run/netns.")
]
HostId = Annotated[
    str | None, typer.Option("--host-id", help="By which name the control plane knows this host (default: its name).")
]
BudgetPackets = Annotated[
    int | None,
    typer.Option(
        "--budget-packets-per-second",
        min=0,
        max=PACKETS_PER_S_MAX,
        show_default=f"{BUDGET_PACKETS_PER_S_OF_A_CPU} for each CPU",
        help="What all sessions of this host together may copy, evenly by CPU; the rest counts as capped. 0: no limit.",
    ),
]
BudgetBits = Annotated[
    int | None,
    typer.Option(
        "--budget-bits-per-second",
        min=0,
        max=BITS_PER_S_MAX,
        show_default="no limit",
        help="The same in bits of the mirrored packets. 0: no limit.",
    ),
]


def budget_of(packets_per_s: int | None, bits_per_s: int | None) -> Rate:
    """The budget of this host by its options; None is an option that was not given."""
    if packets_per_s is None:
        packets_per_s = default_budget(agent.cpus()).packets_per_s
    return Rate(packets_per_s or None, bits_per_s or None)


def default_host_id(netns_name: str | None) -> str:
    """This machine's name; a namespace of it is a host of its own."""
    name = socket.gethostname()
    return name if netns_name is None else f"{name}-{netns_name}"


def control_of(url: str | None, token_file: Path | None, state: Path, host_id: str) -> tuple[str, str | agent.Identity]:
    """Which control plane, and what is shown to it: what this host has of its joining, or the token that is named."""
    joined = None
    if token_file is None and (url is None or url.startswith("https:")) and agent.is_agent_id(host_id):
        joined = agent.Identity.found(state, host_id)
    if joined is not None:
        return url or joined.joined.control_url, joined
    return url or DEFAULT_CONTROL, read_token(token_file or state / "agent-token")


def read_token(file: Path) -> str:
    """The agents' token from its file; Refusal where there is none, or what is there can be none."""
    try:
        token = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise Refusal(
            f"There is no agent token in {file}.",
            do="start `pktmirror serve` with the same --state first, or name its token with --token-file",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"The agent token in {file} cannot be read.", found=str(error), do="run as its owner") from None
    if not token or not token.isprintable() or " " in token:
        raise Refusal(
            f"There is no agent token in {file}.",
            found="more than one word" if token else "an empty file",
            do="name the file with --token-file that `pktmirror serve` keeps as STATE/agent-token",
        )
    return token


def stop_at_signals() -> threading.Event:
    """Set by SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop

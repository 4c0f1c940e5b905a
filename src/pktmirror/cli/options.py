"""Options that several commands share, and what they stand for."""

import signal
import socket
import threading
from pathlib import Path
from typing import Annotated

import typer

from pktmirror.model.refusal import Refusal

DEFAULT_LISTEN = "127.0.0.1:8773"
DEFAULT_CONTROL = f"http://{DEFAULT_LISTEN}"
DEFAULT_STATE = Path("/var/lib/pktmirror")

State = Annotated[
    Path, typer.Option("--state", envvar="PKTMIRROR_STATE", help="Where the service keeps what must outlive it.")
]
Control = Annotated[str, typer.Option("--control", envvar="PKTMIRROR_CONTROL", help="The control plane's URL.")]
Netns = Annotated[
    str | None, typer.Option("--netns", help="The network namespace to work in, by its name in /run/netns.")
]
HostId = Annotated[
    str | None, typer.Option("--host-id", help="By which name the control plane knows this host (default: its name).")
]


def default_host_id(netns_name: str | None) -> str:
    """This machine's name; a namespace of it is a host of its own."""
    name = socket.gethostname()
    return name if netns_name is None else f"{name}-{netns_name}"


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

"""The program: its commands, and how failures reach a person.

What a user can mend is one line and exit status 1; what is our own error is a traceback.
"""

import os
import sys

import structlog
import typer
from rich.console import Console

from pktmirror import __version__
from pktmirror.cli import (
    apply,
    audit,
    backup,
    doctor,
    explain,
    export,
    forget,
    iam,
    interfaces,
    joining,
    lab,
    ledger,
    monitor,
    network,
    services,
    status,
    up,
    verify,
)
from pktmirror.model.refusal import Refusal

app = typer.Typer(
    name="pktmirror",
    help="VPC Traffic Mirroring for a Linux network of your own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="A first run: [bold]sudo script/demo[/bold]. What each word means: docs/reference/glossary.md.",
)
app.add_typer(lab.app, name="lab")
app.add_typer(network.app, name="network")
app.add_typer(iam.app, name="iam")
app.command("up")(up.up)
app.command("serve")(services.serve)
app.add_typer(joining.app, name="agent")
app.command("monitor")(monitor.monitor_)
status.add_to(app)
interfaces.add_to(app)
ledger.add_to(app)
explain.add_to(app)
verify.add_to(app)
apply.add_to(app)
export.add_to(app)
audit.add_to(app)
app.command("env")(services.env)
app.command("doctor")(doctor.doctor)
app.command("purge")(services.purge)
app.command("forget")(forget.forget)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)


@app.callback()
def _program(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"pktmirror {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point of the console script."""
    _log_to_stderr()
    try:
        app()
    except Refusal as refusal:
        complain(refusal)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def complain(refusal: Refusal) -> None:
    """One line on stderr: what failed, what was found, what to do."""
    console = Console(stderr=True, soft_wrap=True)
    console.print("[bold red]pktmirror:[/bold red] ", end="")
    console.print(str(refusal), markup=False, highlight=False)


def _log_to_stderr() -> None:
    """Lines for people on a terminal, JSON where a machine reads."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),  # INFO
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )

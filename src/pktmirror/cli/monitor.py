"""`pktmirror monitor`: the collector in the foreground, and its line to the control plane where there is one.

An edge module.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import structlog
import typer

from pktmirror import monitor
from pktmirror.cli.options import DEFAULT_STATE, Netns, State, read_token, stop_at_signals
from pktmirror.model.refusal import Refusal
from pktmirror.monitor import MonitorReport

DEFAULT_LISTEN = "127.0.0.1:4789"
DEFAULT_CAPTURES = Path("captures")
_log = structlog.get_logger("monitor")

Captures = Annotated[Path, typer.Option("--captures", help="The directory of the pcapng files.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a monitor is started with; ``control_url`` None: it reports to nobody."""

    listen: str
    captures_dir: Path
    netns: str | None = None
    control_url: str | None = None
    token: str = ""


def monitor_(
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT of this collector.")] = DEFAULT_LISTEN,
    captures: Captures = DEFAULT_CAPTURES,
    netns: Netns = None,
    control: Annotated[
        str | None, typer.Option("--control", help="Report to this control plane, so that the ledger has both ends.")
    ] = None,
    state: State = DEFAULT_STATE,
    token_file: Annotated[
        Path | None, typer.Option(help="The agents' token (default: agent-token in the state directory).")
    ] = None,
) -> None:
    """Receive mirrored packets on UDP 4789, count them, and keep them as pcapng, one interface a stream.

    It works behind AWS's own mirrors too.

    Example: [bold]pktmirror monitor --listen 0.0.0.0:4789 --captures /var/lib/captures[/bold]
    """
    settings = Settings(listen, captures, netns, control)
    if control is not None:
        settings = replace(settings, token=read_token(token_file or state / "agent-token"))
    last = run(settings, stop_at_signals())
    typer.echo(f"{last.capture}: {last.written_packets} packets written", err=True)


def run(
    settings: Settings, stop: threading.Event, ready: Callable[[MonitorReport], None] = lambda _: None
) -> MonitorReport:
    """Serve until ``stop`` is set; ``ready`` is called once it listens. Returns the last report."""
    address, port = _address(settings.listen)
    line = _Line(settings) if settings.control_url is not None else None
    heard = threading.Event()

    def report(figures: MonitorReport) -> None:
        if not heard.is_set():
            heard.set()
            _log.info("listening", address=figures.listening, capture=figures.capture)
            ready(figures)
        if line is not None:
            line.report(figures)

    try:
        return monitor.run(
            address,
            settings.captures_dir,
            port=port,
            netns=settings.netns,
            stop=stop,
            report=report,
            probe_key=settings.token.encode() or None,
        )
    finally:
        if line is not None:
            line.close()


class _Line:
    """Hands the newest report to the control plane in a thread of its own, so that receiving never waits for it."""

    def __init__(self, settings: Settings) -> None:
        name = settings.netns or "monitor"
        self._client = httpx.Client(
            base_url=f"{str(settings.control_url).rstrip('/')}/pktmirror/v1/monitors/{name}",
            headers={"authorization": f"Bearer {settings.token}"},
            timeout=5.0,
            trust_env=False,
        )
        self._newest: MonitorReport | None = None
        self._is_new = threading.Event()
        self._stop = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._send_all, name="monitor-report", daemon=True)
        self._thread.start()

    def report(self, figures: MonitorReport) -> None:
        self._newest = figures
        self._is_new.set()

    def close(self) -> None:
        """Sends what was handed in last."""
        self._stop.set()
        self._is_new.set()
        self._thread.join(timeout=6)
        self._client.close()

    def _send_all(self) -> None:
        while not self._stop.is_set() or self._is_new.is_set():
            self._is_new.wait()
            self._is_new.clear()
            if self._newest is None:
                continue
            try:
                self._client.post("report", content=msgspec.json.encode(self._newest)).raise_for_status()
                self._failure = ""
            except httpx.HTTPError as error:
                if str(error) != self._failure:
                    _log.warning("the control plane does not take the report; receiving goes on", why=str(error))
                self._failure = str(error)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refusal(f"{listen} is no address to listen on.", do="write ADDRESS:PORT, as in 127.0.0.1:4789")
    return host.strip("[]"), int(port)

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

from pktmirror import agent, monitor
from pktmirror.cli.options import (
    DEFAULT_STATE,
    HostId,
    Netns,
    State,
    control_of,
    default_host_id,
    stop_at_signals,
)
from pktmirror.model.probe import probe_key
from pktmirror.model.refusal import Refusal
from pktmirror.monitor import MonitorReport

DEFAULT_LISTEN = "127.0.0.1:4789"
DEFAULT_CAPTURES = Path("captures")
_log = structlog.get_logger("monitor")

Captures = Annotated[Path, typer.Option("--captures", help="The directory of the pcapng files.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a monitor is started with; ``control_url`` None: it reports to nobody.

    ``credential`` is the agents' token, or what the host ``host_id`` has of its joining.
    """

    listen: str
    captures_dir: Path
    netns: str | None = None
    control_url: str | None = None
    credential: str | agent.Identity = ""
    host_id: str | None = None

    @property
    def probe_key(self) -> bytes | None:
        """By which it knows probes; None: they are copies as others."""
        match self.credential:
            case "":
                return None
            case str() as token:
                return probe_key(token)
            case agent.Identity() as identity:
                return bytes.fromhex(identity.joined.probe_key)


def monitor_(
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT of this collector.")] = DEFAULT_LISTEN,
    captures: Captures = DEFAULT_CAPTURES,
    netns: Netns = None,
    control: Annotated[
        str | None, typer.Option("--control", help="Report to this control plane, so that the ledger has both ends.")
    ] = None,
    state: State = DEFAULT_STATE,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="The agents' token (default: what this host has of its joining, else agent-token in the state "
            "directory)."
        ),
    ] = None,
    host_id: HostId = None,
) -> None:
    """Receive mirrored packets on UDP 4789, count them, and keep them as pcapng, one interface a stream.

    It works behind AWS's own mirrors too.

    Example: [bold]pktmirror monitor --listen 0.0.0.0:4789 --captures /var/lib/captures[/bold]
    """
    settings = Settings(listen, captures, netns, control)
    if control is not None:
        host_id = host_id or default_host_id(netns)
        _, credential = control_of(control, token_file, state, host_id)
        settings = replace(settings, credential=credential, host_id=host_id)
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
            probe_key=settings.probe_key,
        )
    finally:
        if line is not None:
            line.close()


class _Certificate:
    """Renews the certificate of the host, where perhaps no agent does."""

    def __init__(self, uplink: agent.Uplink, identity: agent.Identity) -> None:
        self._uplink = uplink
        self._renewal = agent.Renewal(uplink, identity)
        self._renewal.start()

    def close(self) -> None:
        self._renewal.stop()
        self._uplink.close()


class _Line:
    """Hands the newest report to the control plane in a thread of its own, so that receiving never waits for it."""

    def __init__(self, settings: Settings) -> None:
        url, credential = str(settings.control_url), settings.credential
        name, self._certificate = settings.netns or "monitor", None
        if isinstance(credential, agent.Identity):  # it opens the reports of its host's name alone
            name = settings.host_id or ""
            self._certificate = _Certificate(agent.Uplink(url, credential, name), credential)
        self._uplink = agent.Uplink(url, credential, name, kind="monitors")
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
        if self._certificate is not None:
            self._certificate.close()
        self._uplink.close()

    def _send_all(self) -> None:
        while not self._stop.is_set() or self._is_new.is_set():
            self._is_new.wait()
            self._is_new.clear()
            if self._newest is None:
                continue
            try:
                self._uplink.tell("report", msgspec.json.encode(self._newest))
                self._failure = ""
            except (httpx.HTTPError, Refusal) as error:
                if str(error) != self._failure:
                    _log.warning("the control plane does not take the report; receiving goes on", why=str(error))
                self._failure = str(error)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refusal(f"{listen} is no address to listen on.", do="write ADDRESS:PORT, as in 127.0.0.1:4789")
    return host.strip("[]"), int(port)

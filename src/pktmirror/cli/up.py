"""`pktmirror up`: control plane, agent and monitor in one process, in the foreground, ended by one Ctrl-C.

An edge module.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import structlog
import typer

from pktmirror import agent, control, lab
from pktmirror.cli import monitor
from pktmirror.cli.options import (
    DEFAULT_LISTEN,
    DEFAULT_STATE,
    BudgetBits,
    BudgetPackets,
    State,
    budget_of,
    default_host_id,
    read_token,
    stop_at_signals,
)
from pktmirror.model.refusal import Refusal

START_S = 30.0
_log = structlog.get_logger("up")


def up(
    state: State = DEFAULT_STATE,
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT of the control plane.")] = DEFAULT_LISTEN,
    networks: Annotated[Path | None, typer.Option(help="networks.toml: the VPCs, subnets and resolvers.")] = None,
    monitor_listen: Annotated[str, typer.Option(help="ADDRESS:PORT of the monitor.")] = monitor.DEFAULT_LISTEN,
    captures: Annotated[
        Path | None, typer.Option("--captures", help="The monitor's files (default: captures in the state directory).")
    ] = None,
    lab_name: Annotated[
        str | None,
        typer.Option("--lab", help="Serve a lab: its host, its networks, and the monitor in its instance `monitor`."),
    ] = None,
    budget_packets_per_second: BudgetPackets = None,
    budget_bits_per_second: BudgetBits = None,
) -> None:
    """Run control plane, agent and monitor on this machine, until Ctrl-C. Mirroring ends with it.

    Example: [bold]pktmirror lab up; pktmirror up --lab pktmirror --state DIR[/bold], and in another shell
    [bold]eval "$(pktmirror env --state DIR)"[/bold]. For a measurement, with every packet copied:
    [bold]pktmirror up --lab pktmirror --state DIR --budget-packets-per-second 0[/bold]
    """
    captures = captures or state / "captures"
    host_netns = monitor_netns = None
    if lab_name is not None:
        served = lab.find(lab_name)
        host_netns, monitor_netns = served.namespace("host"), served.namespace("monitor")
        monitor_listen = f"0.0.0.0:{monitor_listen.rpartition(':')[2]}"
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        networks = state / "networks.toml"
        networks.write_text(lab.networks_toml(served.topology), encoding="utf-8")
    host_id = lab_name or default_host_id(None)
    services = _Services(stop_at_signals())
    try:
        url = services.start_control(listen, state, networks)
        token = read_token(state / "agent-token")
        budget = budget_of(budget_packets_per_second, budget_bits_per_second)
        engines = agent.engines_of(()) if lab_name is None else ()
        settings = agent.Settings(
            url, token, host_id, state, host_netns, budget=budget, purges_at_end=True, engines=engines
        )
        services.start("agent", lambda stop, ready: agent.run(settings, stop, ready))
        collector = monitor.Settings(monitor_listen, captures, monitor_netns, url, token)
        services.start("monitor", lambda stop, ready: monitor.run(collector, stop, lambda _: ready.set()))
        typer.echo(f"Budget of copying: {budget} (--budget-packets-per-second, --budget-bits-per-second).", err=True)
        typer.echo(f'pktmirror is up. In another shell: eval "$(pktmirror env --state {state})"', err=True)
        services.wait()
    finally:
        services.stop()


@dataclass
class _Services:
    """Threads that live and die together: where one fails, all end, and its error is the program's."""

    stopping: threading.Event
    _running: list[tuple[threading.Thread, threading.Event]] = field(default_factory=list)
    _failure: BaseException | None = None

    def start_control(self, listen: str, state: Path, networks: Path | None) -> str:
        """The control plane's URL, once it answers."""
        urls: list[str] = []

        def serve(stop: threading.Event, ready: threading.Event) -> None:
            def announced(url: str) -> None:
                urls.append(url)
                ready.set()

            control.serve(listen, state, networks, stop=stop, ready=announced)

        self.start("control plane", serve)
        return urls[0]

    def start(self, name: str, run: Callable[[threading.Event, threading.Event], object]) -> None:
        """Returns when the service is ready; its error is raised here."""
        ready, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._run, args=(name, lambda: run(stop, ready), ready), name=name)
        self._running.append((thread, stop))
        thread.start()
        if not ready.wait(START_S):
            raise Refusal(f"The {name} did not start within {START_S:g} s.", do="see its log above, and report it")
        self._raise_failure()

    def wait(self) -> None:
        """Until Ctrl-C, or until a service fails."""
        self.stopping.wait()
        self._raise_failure()

    def stop(self) -> None:
        """In reverse: who reports ends before who takes the reports."""
        for thread, stop in reversed(self._running):
            stop.set()
            thread.join()

    def _run(self, name: str, run: Callable[[], object], ready: threading.Event) -> None:
        try:
            run()
        except BaseException as error:
            if not isinstance(error, Refusal):
                _log.exception("a service failed", service=name)
            self._failure = self._failure or error
        finally:
            self.stopping.set()
            ready.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

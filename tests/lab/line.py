"""The whole line on a lab: a control plane in a process of its own, an agent, and a monitor in `monitor`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pktmirror import agent
from pktmirror.cli import monitor
from pktmirror.kernel import bpffs
from pktmirror.lab import Lab, networks_toml
from tests.contract.plane import Plane, running
from tests.lab.mirror import BPFFS
from tests.waiting import wait_until

START_S = 20.0
WITHIN_S = 10.0


@dataclass
class Line:
    """What a test needs of it. The agent can be ended and started again."""

    lab: Lab
    plane: Plane
    directory: Path
    namespace_gone_s: float
    monitor_address: str = "0.0.0.0"
    identity: agent.Identity | None = None  # of a host that has joined: its agent goes by TLS
    _ends: dict[str, Callable[[], None]] = field(default_factory=dict)

    @property
    def host_id(self) -> str:
        return f"{self.lab.name}-line"

    @property
    def control_url(self) -> str:
        return self.plane.url if self.identity is None else self.plane.tls_url or ""

    @property
    def bpffs(self) -> Path:
        return BPFFS / self.host_id

    def start_agent(self) -> None:
        settings = agent.Settings(
            self.control_url,
            self.identity or self.plane.token,
            self.host_id,
            self.directory,
            self.lab.namespace("host"),
            self.bpffs,
            self.namespace_gone_s,
        )
        self._start("agent", lambda stop, ready: agent.run(settings, stop, ready))

    def start_monitor(self) -> None:
        settings = monitor.Settings(
            f"[{self.monitor_address}]:4789",
            self.directory / "captures",
            self.lab.namespace("monitor"),
            self.control_url,
            self.identity or self.plane.token,
            self.host_id,
        )
        self._start("monitor", lambda stop, ready: monitor.run(settings, stop, lambda _: ready.set()))

    def end(self, name: str) -> None:
        """End the agent or the monitor."""
        self._ends.pop(name)()

    def close(self) -> None:
        for name in [*self._ends]:
            self.end(name)
        agent.purge_host(self.bpffs, self.host_id, self.lab.namespace("host"))
        if bpffs.is_mounted(self.bpffs):
            bpffs.unmount(self.bpffs)

    # --- what is there

    def interface(self, place: str) -> dict[str, Any] | None:
        key = f"netns:{self.lab.namespace(place)}/eth0"
        return next((each for each in self.plane.own("interfaces") if each["key"] == key), None)

    def found(self, place: str) -> dict[str, Any]:
        """The interface of a place, once it is attached."""

        def attached() -> dict[str, Any] | None:
            interface = self.interface(place)
            return interface if interface is not None and interface["attached"] else None

        return wait_until(attached, WITHIN_S, f"{place} is not found") or {}

    def status(self, session_id: str) -> dict[str, Any] | None:
        """What the control plane says of a session; None: there is none."""
        return next((each for each in self.plane.own("status")["sessions"] if each["session_id"] == session_id), None)

    def wait_for_problem(self, session_id: str, problem: str | None) -> None:
        def said() -> object:
            status = self.status(session_id)
            return "no session" if status is None else status["problem"]

        wait_until(lambda: said() == problem, WITHIN_S, lambda: f"{session_id}: {said()}, not {problem}")

    def row(self, session_id: str) -> dict[str, Any]:
        [row] = [row for row in self.plane.own("ledger")["sessions"] if row["session_id"] == session_id]
        return dict(row)

    def wait_until_collected(self, session_id: str, packets: int) -> None:
        """Until so many packets were sent, received and written, and none is missing."""

        def collected() -> bool:
            row = self.row(session_id)
            far = row["collector"]
            return (
                row["sent"]["packets"] == packets
                and far["type"] == "collected"
                and (far["received"], far["written"]) == (row["sent"], row["sent"])
                and far["lost_on_wire_packets"] == 0
            )

        wait_until(collected, WITHIN_S, lambda: str(self.row(session_id)))

    def _start(self, name: str, run: Callable[[threading.Event, threading.Event], object]) -> None:
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(target=run, args=(stop, ready), name=name)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join()

        self._ends[name] = end
        assert ready.wait(START_S), f"the {name} does not start"


@contextmanager
def line(
    lab: Lab, directory: Path, *, namespace_gone_s: float = 3600.0, monitor_address: str = "0.0.0.0"
) -> Iterator[Line]:
    """All three, with the lab's own declaration of networks; nothing is left of them."""
    with ExitStack() as stack:
        plane = stack.enter_context(running(directory / "state", networks_toml(lab.topology)))
        made = Line(lab, plane, directory, namespace_gone_s, monitor_address)
        stack.callback(made.close)
        made.start_agent()
        made.start_monitor()
        yield made

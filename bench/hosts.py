"""What a change costs where there are many hosts that it does not concern (for bench/control.py).

The control plane without its sockets, in this process, over SQLite: hosts of a hundred interfaces, of which one is
mirrored and one more is about to be. For each number of hosts the same is done, and measured in CPU time.
"""

import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from bench.claims import held
from bench.population import Population, found, populate

from pktmirror.aws import Call
from pktmirror.control.events import Event
from pktmirror.control.keys import KEY_BYTES, Key
from pktmirror.control.placement import document
from pktmirror.control.plane import ControlPlane
from pktmirror.control.principals import Origin
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import FoundInterface, Report
from pktmirror.model.limits import Quotas
from pktmirror.model.template import Selector, Template

REGION = "local-1"
GROWTH_MAX = 2.0
"""From the fewest hosts to the most: what is within depends on the depth of an index, and on caches."""
MANY = 10_000_000


class Plane:
    """A control plane and who calls it."""

    def __init__(self, directory: Path, hosts: int, interfaces: int) -> None:
        self.store = Store.open(directory / "store")
        self.made: Population = populate(self.store, hosts, interfaces, time.time(), mirrored=1)
        self.plane = ControlPlane(
            self.store,
            Key(secrets.token_bytes(KEY_BYTES)),
            Trail(directory),
            region=REGION,
            networks=None,
            quotas=Quotas(sessions_per_account=MANY, sources_per_interface_target=MANY),
            eni_forget_s=None,
            now_s=time.time(),
        )
        self._principal = self.plane.callers.principal(self.plane.callers.identity.access_key_id)

    def call(self, operation: str, **parameters: object) -> None:
        event = Event(
            request_id=str(uuid4()),
            at_s=time.time(),
            region=REGION,
            origin=Origin("127.0.0.1"),
            service="ec2",
            operation=operation,
            principal=self._principal,
        )
        self.plane.perform(Call("ec2", operation, parameters), event, time.time())


def growth(hosts: list[int], interfaces: int, turns: int) -> dict[str, object]:
    """CPU milliseconds of each step by the number of hosts, and how much it grows from the first number to the last."""
    measured: dict[str, dict[int, float]] = {}
    for number in hosts:
        with tempfile.TemporaryDirectory(prefix="pktmirror-bench-") as directory:
            for step, milliseconds in _steps(Plane(Path(directory), number, interfaces), turns).items():
                measured.setdefault(step, {})[number] = round(milliseconds, 2)
    result: dict[str, object] = {"hosts": hosts, "interfaces_of_each": interfaces}
    for step, by_hosts in measured.items():
        ratio = by_hosts[hosts[-1]] / by_hosts[hosts[0]]
        result[step] = {
            "cpu_ms_by_hosts": by_hosts,
            "growth": held(ratio, GROWTH_MAX, digits=2),
        }
    return result


def _steps(on: Plane, turns: int) -> dict[str, float]:
    """The median of each step, each turn at another host."""
    plane, made = on.plane, on.made
    names = [f"host-{number}" for number in range(turns)]
    aside = f"host-{len(made.interfaces) - 1}"
    steps: dict[str, list[float]] = {}

    def step(name: str, do: Callable[[], object]) -> None:
        began_s = time.process_time()
        do()
        steps.setdefault(name, []).append(1000 * (time.process_time() - began_s))

    for number, name in enumerate(names):
        source = made.interfaces[name][1]
        new = {
            "NetworkInterfaceId": source,
            "TrafficMirrorTargetId": made.target_ids[0],
            "TrafficMirrorFilterId": made.filter_id,
            "SessionNumber": 1,
        }
        step("a session is made", lambda new=new: on.call("CreateTrafficMirrorSession", **new))  # type: ignore[misc]
        step("its host's document, the first asked for", lambda name=name: document(plane.latest(), name))  # type: ignore[misc]
        step("another host's document", lambda: document(plane.latest(), aside))
        report = Report(
            host_id=name,
            agent_version="bench",
            applied_revision=0,
            interfaces=(*_found(on, name), found(MANY + number, f"10.254.0.{number + 1}")),
        )
        step("a report with a new interface", lambda told=report: plane.intake.agent_reported(told, time.time()))  # type: ignore[misc]
        step("the same report again", lambda told=report: plane.intake.agent_reported(told, time.time()))  # type: ignore[misc]
    template = Template(
        name="bench/one",
        select=Selector(host=names[0], name="vm5"),
        target_id=made.target_ids[0],
        filter_id=made.filter_id,
        number=2,
        limit=10,
    )
    step("a template is put", lambda: plane.put_template(template, time.time()))
    for name in names[:1]:
        report = Report(host_id=name, agent_version="bench", applied_revision=0, interfaces=_found(on, name)[:-1])
        step("templates after an interface is gone", lambda told=report: plane.intake.agent_reported(told, time.time()))  # type: ignore[misc]
    on.store.close()
    return {name: statistics.median(each) for name, each in steps.items()}


def _found(on: Plane, host_id: str) -> tuple[FoundInterface, ...]:
    with on.store.read() as transaction:
        return tuple(record.found for record in transaction.interfaces.where(host_id=host_id) if record.attached)

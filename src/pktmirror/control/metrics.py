"""All figures for Prometheus: what ``GET /metrics`` answers, in the text exposition format 0.0.4. Pure.

The names of outcomes, verdicts and stages are those of model/ledger.py, as the ledger shows them. Counters of an
interface or session are the kernel's own: they go on over restarts of the agent and of the control plane.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pktmirror.control.instances import Figures, counter
from pktmirror.control.ledger import CollectorRow, SessionRow
from pktmirror.control.records import HostRecord
from pktmirror.control.reports import Reports
from pktmirror.desired import InterfaceFigures
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Tally

Labels = TypeVar("Labels", bound=tuple[str, ...])

_SESSION = ("session", "interface", "instance", "direction")
_INTERFACE = ("interface", "instance", "host", "key", "direction")
_STREAM = ("monitor", "vni", "outer_source", "outer_destination")


@dataclass(frozen=True, slots=True)
class Found:
    """All that is exposed, at one moment.

    ``interface_ids`` are by host and key; ``instance_ids`` by interface, of those that belong to one; ``instances`` are
    the sums of CloudWatch's figures by instance; ``unconfirmed`` are the hosts of deleted sessions that go on there.
    """

    now_s: float
    version: str
    revision: int
    hosts: tuple[HostRecord, ...]
    sessions: tuple[SessionRow, ...]
    reports: Reports
    interface_ids: Mapping[tuple[str, str], str]
    instance_ids: Mapping[str, str]
    instances: Mapping[str, Figures]
    refused: Mapping[str, int]
    unconfirmed: tuple[str, ...] = ()


class _Tallies:
    """Two counters that belong together, of packets and of bytes."""

    def __init__(self, name: str, what: str, labels: tuple[str, ...]) -> None:
        self.packets = CounterMetricFamily(f"{name}_packets", f"Packets {what}", labels=labels)
        self.bytes = CounterMetricFamily(f"{name}_bytes", f"Bytes of packets {what}", labels=labels)

    def add(self, labels: Iterable[str], tally: Tally) -> None:
        labels = list(labels)
        self.packets.add_metric(labels, tally.packets)
        self.bytes.add_metric(labels, tally.bytes)

    def __iter__(self) -> Iterator[Metric]:
        return iter((self.packets, self.bytes))


class _Exposed(Collector):
    def __init__(self, found: Found) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for part in (_itself, _agents, _interfaces, _sessions, _far_end, _monitors, _cloudwatch):
            yield from part(self._found)


def exposition(found: Found) -> bytes:
    """The document."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposed(found))
    return generate_latest(registry)


def _itself(found: Found) -> Iterator[Metric]:
    yield _gauge("pktmirror_build_info", "The version of the control plane", ("version",), {(found.version,): 1})
    yield _gauge("pktmirror_revision_wanted", "Revision of the desired state", (), {(): found.revision})
    refused = {(code,): count for code, count in found.refused.items()}
    yield _counter("pktmirror_requests_refused", "Requests that the control plane refused", ("code",), refused)


def _agents(found: Found) -> Iterator[Metric]:
    told = {host_id: received.report for host_id, received in found.reports.agents.items()}
    label = ("host",)
    yield _gauge(
        "pktmirror_agent_report_age_seconds",
        "Time since the agent's last report",
        label,
        {(host.host_id,): found.now_s - _reported_at_s(found, host) for host in found.hosts},
    )
    for name, what, figures in (
        ("revision_applied", "Revision that the agent has applied", {h: r.applied_revision for h, r in told.items()}),
        ("problems", "What the agent could not do", {h: len(r.problems) for h, r in told.items()}),
    ):
        yield _gauge(f"pktmirror_agent_{name}", what, label, {(host,): figure for host, figure in figures.items()})
    yield _gauge(
        "pktmirror_agent_still_mirroring",
        "Deleted sessions of which the agent has not said that it has ended them",
        label,
        {(host.host_id,): found.unconfirmed.count(host.host_id) for host in found.hosts},
    )
    engines = {(host, told_of.engine, told_of.where): told_of for host, r in told.items() for told_of in r.engines}
    of_engine = ("host", "engine", "where")
    yield _counter(
        "pktmirror_agent_engine_failures",
        "Questions that an engine of containers, machines or pods did not answer, since its agent started",
        of_engine,
        {of: status.failed for of, status in engines.items()},
    )
    yield _gauge(
        "pktmirror_agent_engine_answers",
        "Whether an engine answered the last question",
        of_engine,
        {of: float(status.problem is None) for of, status in engines.items()},
    )
    strays = _Tallies("pktmirror_agent_stray", "at the hops that were no copies, and were dropped", label)
    for host_id, report in told.items():
        strays.add((host_id,), report.strays)
    yield from strays


def _interfaces(found: Found) -> Iterator[Metric]:
    outcomes = _Tallies(
        "pktmirror_interface_outcome", "that a mirrored interface saw, by what became of them", (*_INTERFACE, "outcome")
    )
    bypassed = CounterMetricFamily(
        "pktmirror_interface_bypassed_packets",
        "Packets that the device of a mirrored interface counted and its hooks never saw, since its agent started",
        labels=_INTERFACE,
    )
    for host_id, told in sorted(found.reports.agents.items()):
        for figures in told.report.mirrored_interfaces:
            for direction, ledger in figures.directions.items():
                labels = (*_interface_labels(found, host_id, figures), direction.value)
                for outcome in InterfaceOutcome:
                    outcomes.add((*labels, outcome.value), ledger.outcome(outcome))
            for direction, packets in figures.bypassed_packets.items():
                bypassed.add_metric([*_interface_labels(found, host_id, figures), direction.value], packets)
    yield from outcomes
    yield bypassed


def _sessions(found: Found) -> Iterator[Metric]:
    verdicts = _Tallies("pktmirror_session_verdict", "offered to a session, by its verdict", (*_SESSION, "verdict"))
    stages = _Tallies("pktmirror_session_stage", "that a session took, by what became of them", (*_SESSION, "stage"))
    in_hop = GaugeMetricFamily(
        "pktmirror_session_lost_in_hop_packets",
        "Packets that a session took and no stage accounts for: in flight, or dropped within a hop",
        labels=_SESSION,
    )
    mirrors: dict[tuple[str, ...], float] = {}
    for session in found.sessions:
        of_session = (session.session_id, session.interface_id, found.instance_ids.get(session.interface_id, ""))
        mirrors[of_session] = session.problem is None
        for direction, row in session.directions.items():
            labels = (*of_session, direction)
            for verdict, tally in row.verdicts.items():
                verdicts.add((*labels, verdict), tally)
            for stage, tally in row.stages.items():
                stages.add((*labels, stage), tally)
            in_hop.add_metric(labels, row.lost_in_hop_packets)
    yield _gauge("pktmirror_session_mirrors", "1 if a session mirrors, 0 if not", _SESSION[:3], mirrors)
    yield from (*verdicts, *stages, in_hop)


def _far_end(found: Found) -> Iterator[Metric]:
    """What a monitor counts is by stream, and sessions may share one: so the difference alone is by session."""
    lost = {
        (session.session_id, session.interface_id, found.instance_ids.get(session.interface_id, "")): float(
            session.collector.lost_on_wire_packets
        )
        for session in found.sessions
        if isinstance(session.collector, CollectorRow)
    }
    yield _gauge(
        "pktmirror_session_lost_on_wire_packets",
        "Packets sent and not received, of a session and all that share its streams; absent where no monitor counts",
        _SESSION[:3],
        lost,
    )
    received = _Tallies("pktmirror_stream_received", "that a monitor received, by stream", _STREAM)
    written = _Tallies("pktmirror_stream_written", "that a monitor wrote to its capture file, by stream", _STREAM)
    for monitor_id, told in sorted(found.reports.monitors.items()):
        for stream in told.report.streams:
            labels = (monitor_id, str(stream.vni), stream.outer_source, stream.outer_destination)
            received.add(labels, Tally(stream.received_packets, stream.received_bytes))
            written.add(labels, Tally(stream.written_packets, stream.written_bytes))
    yield from (*received, *written)


def _monitors(found: Found) -> Iterator[Metric]:
    monitors = sorted(found.reports.monitors.items())
    yield _gauge(
        "pktmirror_monitor_report_age_seconds",
        "Time since the monitor's last report",
        ("monitor",),
        {(monitor_id,): found.now_s - told.received_at_s for monitor_id, told in monitors},
    )
    yield _counter(
        "pktmirror_monitor_refused_datagrams",
        "Datagrams that were no frame of a stream",
        ("monitor", "reason"),
        {(monitor_id, why): count for monitor_id, told in monitors for why, count in told.report.refused.items()},
    )
    yield _counter(
        "pktmirror_monitor_socket_queue_full",
        "Datagrams that the kernel dropped before the monitor saw them",
        ("monitor",),
        {(monitor_id,): told.report.socket_queue_full for monitor_id, told in monitors},
    )


def _cloudwatch(found: Found) -> Iterator[Metric]:
    """EC2's names (spec 1.10), as exporters of CloudWatch spell them, by instance; CloudWatch's Sum is an increase."""
    for name, what, skipped in (
        ("mirror", "mirrored", False),
        ("skip_mirror", "that matched a filter and were not mirrored, as production had priority", True),
    ):
        for way, direction in (("in", Direction.INGRESS), ("out", Direction.EGRESS)):
            tallies = {
                (instance_id,): counter(figures, direction, skipped=skipped)
                for instance_id, figures in sorted(found.instances.items())
            }
            yield _counter(
                f"aws_ec2_network_{name}_{way}_bytes",
                f"Bytes of {direction.value} packets {what}",
                ("instance_id",),
                {labels: tally.bytes for labels, tally in tallies.items()},
            )
            yield _counter(
                f"aws_ec2_network_packets_{name}_{way}",
                f"{direction.value.capitalize()} packets {what}",
                ("instance_id",),
                {labels: tally.packets for labels, tally in tallies.items()},
            )


def _interface_labels(found: Found, host_id: str, figures: InterfaceFigures) -> tuple[str, str, str, str]:
    interface_id = found.interface_ids.get((host_id, figures.key), "")
    return interface_id, found.instance_ids.get(interface_id, ""), host_id, figures.key


def _reported_at_s(found: Found, host: HostRecord) -> float:
    told = found.reports.agents.get(host.host_id)
    return host.reported_at_s if told is None else told.received_at_s


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _counter(name: str, what: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, what, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family

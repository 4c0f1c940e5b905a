"""`GET /metrics`: what Prometheus reads is what the ledger says, and nobody reads it without its token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pktmirror.desired import FoundInterface, InterfaceFigures, SessionFigures
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, SessionLedger, Stage, Tally
from tests.contract.conftest import Maker
from tests.contract.plane import HOST, Plane, found, running

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
Labels = frozenset[tuple[str, str]]

WEB, SECOND, PORT, MONITOR = (
    found("web", "10.0.0.5"),
    found("web", "10.0.0.6"),
    found("port", "10.0.0.7"),
    found("monitor", "10.0.0.90"),
)


def changed(interface: FoundInterface, **fields: Any) -> FoundInterface:
    return msgspec.structs.replace(interface, **fields)


INTERFACES = (
    WEB,
    changed(SECOND, key="netns:web/eth1", name="eth1"),
    changed(PORT, key='port:odd"name\\', provider="port", instance=None),
    MONITOR,
)


class Line:
    """A plane with three sources, of which two are of one instance, and what its agent and monitor tell."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.make = Maker(plane, plane.client())
        *sources, monitor = plane.find(*INTERFACES)
        target = self.make.target(NetworkInterfaceId=monitor)
        self.sources = sources
        self.sessions = [
            self.make.session(NetworkInterfaceId=source, TrafficMirrorTargetId=target, VirtualNetworkId=number)
            for number, source in enumerate(sources, 7)
        ]
        self.ids = [str(session["TrafficMirrorSessionId"]) for session in self.sessions]

    def tell(self, *sent_and_capped: tuple[int, int], bypassed: int = 0) -> None:
        """Each session has sent so many packets of 100 bytes of ingress, and as many were capped."""
        self.plane.report(
            *INTERFACES,
            sessions=tuple(
                SessionFigures(session_id=session_id, directions={INGRESS: ledger(*figures), EGRESS: SessionLedger()})
                for session_id, figures in zip(self.ids, sent_and_capped, strict=False)
            ),
            mirrored_interfaces=(
                InterfaceFigures(
                    key=INTERFACES[0].key,
                    directions={
                        INGRESS: InterfaceLedger(
                            {InterfaceOutcome.TAKEN: Tally(10, 1000), InterfaceOutcome.NOT_IP: Tally(2, 120)}
                        ),
                        EGRESS: InterfaceLedger(),
                    },
                    bypassed_packets={INGRESS: bypassed, EGRESS: 0},
                ),
                InterfaceFigures(key=INTERFACES[2].key, directions={INGRESS: InterfaceLedger()}),
            ),
            strays=Tally(3, 180),
            problems=("a problem",),
        )

    def metrics(self) -> dict[str, dict[Labels, float]]:
        """By name and labels, each there once."""
        answer = scraped(self.plane)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        values: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(answer.text):
            assert family.documentation, family.name
            assert family.type in ("counter", "gauge")
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                assert labels not in values.setdefault(sample.name, {}), f"{sample.name} {labels} stands there twice"
                values[sample.name][labels] = sample.value
        return values


def ledger(sent: int, capped: int) -> SessionLedger:
    verdicts = {Verdict.TAKEN: sent + capped, Verdict.NO_RULE_MATCHED: 4}
    stages = {Stage.SENT: sent, Stage.CAPPED: capped}
    return SessionLedger(
        {verdict: Tally(packets, 100 * packets) for verdict, packets in verdicts.items()},
        {stage: Tally(packets, 100 * packets) for stage, packets in stages.items()},
    )


def scraped(plane: Plane, token: str | None = None) -> httpx.Response:
    token = (plane.state / "metrics-token").read_text().strip() if token is None else token
    return httpx.get(f"{plane.url}/metrics", headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=30)


def labelled(**labels: str) -> Labels:
    return frozenset(labels.items())


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with running(tmp_path / "state") as plane:
        yield Line(plane)


def test_metrics_are_for_who_has_their_token_and_the_token_is_for_nothing_else(plane: Plane) -> None:
    assert scraped(plane).status_code == 200
    assert scraped(plane, plane.token).status_code == 401, "an agent may report, and not read all"
    assert scraped(plane, "no-such-token").status_code == 401
    assert httpx.get(f"{plane.url}/metrics", trust_env=False, timeout=30).status_code == 401
    metrics_token = (plane.state / "metrics-token").read_text().strip()
    assert (plane.state / "metrics-token").stat().st_mode & 0o777 == 0o600
    headers = {"authorization": f"Bearer {metrics_token}"}
    assert plane.agent("GET", f"agents/{HOST}/desired", headers=headers).status_code == 401
    assert plane.agent("GET", "ledger", headers=headers).status_code >= 400


def test_an_empty_plane_has_metrics(plane: Plane) -> None:
    lines = scraped(plane).text.splitlines()
    assert any(line.startswith("pktmirror_build_info{version=") for line in lines)


def test_every_figure_of_the_ledger_is_there_under_the_same_names(line: Line) -> None:
    line.tell((5, 1), (7, 0), (9, 2))
    metrics, ledger_ = line.metrics(), line.plane.own("ledger")
    instances = {known["interface_id"]: known["instance_id"] or "" for known in line.plane.own("interfaces")}
    expected: dict[str, dict[Labels, float]] = {}
    for row in ledger_["sessions"]:
        for direction, figures in row["directions"].items():
            of = {
                "session": row["session_id"],
                "interface": row["interface_id"],
                "instance": instances[row["interface_id"]],
                "direction": direction,
            }
            for kind, plural in (("verdict", "verdicts"), ("stage", "stages")):
                for name, tally in figures[plural].items():
                    for unit in ("packets", "bytes"):
                        metric = expected.setdefault(f"pktmirror_session_{kind}_{unit}_total", {})
                        metric[labelled(**of, **{kind: name})] = tally[unit]
            in_hop = expected.setdefault("pktmirror_session_lost_in_hop_packets", {})
            in_hop[labelled(**of)] = figures["lost_in_hop_packets"]
    for row in ledger_["interfaces"]:
        for direction, figures in row["directions"].items():
            of = {
                "interface": row["interface_id"],
                "instance": instances[row["interface_id"]],
                "host": HOST,
                "key": row["key"],
                "direction": direction,
            }
            for outcome in InterfaceOutcome:
                tally = figures["outcomes"].get(outcome.value, {"packets": 0, "bytes": 0})
                for unit in ("packets", "bytes"):
                    metric = expected.setdefault(f"pktmirror_interface_outcome_{unit}_total", {})
                    metric[labelled(**of, outcome=outcome.value)] = tally[unit]
    assert len(expected["pktmirror_session_stage_packets_total"]) == 3 * len(Direction) * len(Stage)
    assert {name: metrics[name] for name in expected} == expected


def test_what_went_past_the_hooks_is_in_the_ledger_the_status_and_the_metrics(line: Line) -> None:
    line.tell(bypassed=0)
    of_nothing = line.metrics()["pktmirror_interface_bypassed_packets_total"]
    assert list(of_nothing.values()) == [0, 0], "an interface that is not compared has no figure"
    assert line.plane.own("status")["bypassed"] == []

    line.tell(bypassed=37)
    web = line.sources[0]
    past = line.metrics()["pktmirror_interface_bypassed_packets_total"]
    assert {dict(labels)["direction"]: count for labels, count in past.items()} == {"ingress": 37, "egress": 0}
    assert {dict(labels)["interface"] for labels in past} == {web}
    told = {"interface_id": web, "host_id": HOST, "key": "netns:web/eth0", "packets": {"ingress": 37, "egress": 0}}
    assert line.plane.own("status")["bypassed"] == [told]
    by_id = {row["interface_id"]: row["directions"] for row in line.plane.own("ledger")["interfaces"]}
    assert {way: figures["bypassed_packets"] for way, figures in by_id[web].items()} == {"ingress": 37, "egress": 0}
    assert by_id[line.sources[2]]["ingress"]["bypassed_packets"] is None


def test_agents_and_their_revisions_are_there(line: Line) -> None:
    line.tell()
    metrics = line.metrics()
    assert 0 <= metrics["pktmirror_agent_report_age_seconds"][labelled(host=HOST)] < 30
    assert metrics["pktmirror_revision_wanted"][frozenset()] == line.plane.own("status")["revision"] > 0
    assert metrics["pktmirror_agent_revision_applied"] == {labelled(host=HOST): 0}
    assert metrics["pktmirror_agent_problems"] == {labelled(host=HOST): 1}
    assert metrics["pktmirror_agent_stray_packets_total"] == {labelled(host=HOST): 3}
    assert metrics["pktmirror_agent_stray_bytes_total"] == {labelled(host=HOST): 180}
    assert set(metrics["pktmirror_session_mirrors"].values()) == {0}, "no agent has said that it mirrors them"


def test_the_far_end_is_there_by_stream_and_its_difference_by_session(line: Line) -> None:
    line.tell((5, 0), (7, 0), (9, 0))
    assert "pktmirror_session_lost_on_wire_packets" not in line.metrics(), "nobody counts"
    streams = [
        {
            "vni": vni,
            "outer_source": source,
            "outer_destination": "10.0.0.90",
            "received_packets": received,
            "received_bytes": 100 * received,
            "written_packets": received,
            "written_bytes": 100 * received,
        }
        for vni, source, received in ((7, "10.0.0.5", 5), (8, "10.0.0.6", 4))
    ]
    report = {"listening": "10.0.0.90:4789", "streams": streams, "refused": {"bad": 2}, "socket_queue_full": 1}
    assert line.plane.agent("POST", "monitors/m/report", json=report).status_code == 204
    metrics = line.metrics()
    of = labelled(monitor="m", vni="8", outer_source="10.0.0.6", outer_destination="10.0.0.90")
    for name in ("received", "written"):
        assert len(metrics[f"pktmirror_stream_{name}_packets_total"]) == 2
        assert metrics[f"pktmirror_stream_{name}_packets_total"][of] == 4
        assert metrics[f"pktmirror_stream_{name}_bytes_total"][of] == 400
    lost = {
        dict(labels)["session"]: count for labels, count in metrics["pktmirror_session_lost_on_wire_packets"].items()
    }
    assert lost == dict(zip(line.ids, (0, 3, 9), strict=True))
    assert metrics["pktmirror_monitor_refused_datagrams_total"] == {labelled(monitor="m", reason="bad"): 2}
    assert metrics["pktmirror_monitor_socket_queue_full_total"] == {labelled(monitor="m"): 1}
    assert 0 <= metrics["pktmirror_monitor_report_age_seconds"][labelled(monitor="m")] < 30


def test_cloudwatchs_figures_are_of_an_instance_and_never_fall(line: Line) -> None:
    """`web` has two interfaces; what is at a port belongs to no instance."""
    names = [
        f"aws_ec2_network_{each.format(way)}_total"
        for way in ("in", "out")
        for each in ("mirror_{}_bytes", "packets_mirror_{}", "skip_mirror_{}_bytes", "packets_skip_mirror_{}")
    ]

    def figures() -> list[float]:
        metrics = line.metrics()
        [instance_id] = {dict(labels)["instance_id"] for name in names for labels in metrics[name]}
        known = {each["interface_id"]: each["instance_id"] for each in line.plane.own("interfaces")}
        assert instance_id == known[line.sources[0]] == known[line.sources[1]]
        return [metrics[name][labelled(instance_id=instance_id)] for name in names]

    line.tell((5, 1), (7, 0), (9, 2))
    assert figures() == [1200, 12, 100, 1] + [0] * 4
    line.plane.client().delete_traffic_mirror_session(TrafficMirrorSessionId=line.ids.pop(0))
    line.tell((7, 3), (9, 2))
    assert figures() == [1200, 12, 400, 4] + [0] * 4
    line.tell((2, 0), (9, 2))  # its counters began anew
    assert figures() == [1400, 14, 400, 4] + [0] * 4

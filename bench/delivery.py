"""From a change to the hosts that it concerns: to a kernel, and to many hosts at once (for bench/control.py)."""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.claims import held
from bench.creates import control_plane, cpu_s, quantile
from bench.followers import followers
from bench.population import populate
from cryptography.hazmat.primitives.asymmetric import ec
from tests.contract.plane import Plane
from tests.waiting import wait_until

from pktmirror import lab
from pktmirror.agent.apply import pins_of
from pktmirror.control.authority import HOST_S, Authority, key_pem_of, pem_of, serial_of
from pktmirror.control.records import HostCertificateRecord
from pktmirror.kernel import bpffs
from pktmirror.lab import DEMO, Lab, Topology

LAB_HOST, SOURCE, TARGET = "host", "web", "monitor"
FILES_MAX = 20_000
PKTMIRROR = Path(sys.executable).with_name("pktmirror")


def applied(turns: int, bar_s: float) -> dict[str, object]:
    """A session made and deleted again and again: from the API's answer to the hooks at the interface, or their end.

    The agent is a process of its own in a host of the lab; what is looked at is what it has pinned.
    """
    built = lab.up(Topology(f"pace{os.getpid()}", DEMO.cidr, DEMO.hosts, DEMO.subnets, DEMO.instances))
    try:
        with control_plane("SQLite", networks_toml=lab.networks_toml(DEMO)) as running, _agent(built, running) as pins:
            ids = _interfaces(running, built)
            ec2 = running.client()
            filter_id = ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]["TrafficMirrorFilterId"]
            target = ec2.create_traffic_mirror_target(NetworkInterfaceId=ids[TARGET])["TrafficMirrorTarget"]
            wanted = {
                "NetworkInterfaceId": ids[SOURCE],
                "TrafficMirrorTargetId": target["TrafficMirrorTargetId"],
                "TrafficMirrorFilterId": filter_id,
                "SessionNumber": 1,
            }
            seconds: dict[str, list[float]] = {"made": [], "deleted": []}
            for _ in range(turns):
                made = ec2.create_traffic_mirror_session(**wanted)["TrafficMirrorSession"]
                seconds["made"].append(_seconds_until(pins, 2))
                ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=made["TrafficMirrorSessionId"])
                seconds["deleted"].append(_seconds_until(pins, 0))
    finally:
        lab.down(built.name)
    median_s = statistics.median(seconds["made"])
    return {
        "sessions": turns,
        "made_ms": held(1000 * median_s, 1000 * bar_s, digits=1),
        "made_p90_ms": round(1000 * quantile(seconds["made"], 0.9), 1),
        "deleted_ms": round(1000 * statistics.median(seconds["deleted"]), 1),
    }


def _seconds_until(pins: Path, hooks: int) -> float:
    began_s = time.monotonic()
    while len(list(pins.glob("*/link-*"))) != hooks:
        assert time.monotonic() - began_s < 10, "the change is not applied"
        time.sleep(0.001)
    return time.monotonic() - began_s


def _wait_until_idle(pid: int) -> None:
    used_s = cpu_s(pid)
    while True:
        time.sleep(0.5)
        before_s, used_s = used_s, cpu_s(pid)
        if used_s - before_s < 0.05:
            return


@contextmanager
def _agent(built: Lab, running: Plane) -> Iterator[Path]:
    """Of a host of the lab; where it pins what it makes."""
    with tempfile.TemporaryDirectory(prefix="pktmirror-bench-") as directory:
        root, log = Path(directory) / "bpf", Path(directory) / "log"
        options = {
            "control": running.url,
            "token-file": running.state / "agent-token",
            "state": Path(directory) / "state",
            "host-id": LAB_HOST,
            "bpffs": root,
            "netns": built.namespace(LAB_HOST),
        }
        argv = [str(PKTMIRROR), "agent", *(f"--{name}={value}" for name, value in options.items())]
        with log.open("w") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "the agent runs" in log.read_text(), 20, log.read_text)
            yield pins_of(root, LAB_HOST)
        finally:
            process.terminate()
            process.wait(20)
            purge = {name: options[name] for name in ("host-id", "bpffs", "netns")}
            subprocess.run([str(PKTMIRROR), "purge", *(f"--{n}={v}" for n, v in purge.items())], check=False)
            bpffs.unmount_if_unused(root)


def _interfaces(running: Plane, built: Lab) -> dict[str, str]:
    """The ids of the source and the target, once the agent has told of them."""

    def found() -> dict[str, str]:
        by_instance = {known["instance"]: known["interface_id"] for known in running.own("interfaces")}
        names = {name: by_instance.get(built.namespace(name)) for name in (SOURCE, TARGET)}
        return {name: id_ for name, id_ in names.items() if id_ is not None} if all(names.values()) else {}

    return wait_until(found, 20, lambda: f"the lab's interfaces are not told: {running.own('interfaces')}")


def delivered(hosts: int, turns: int, bar_s: float) -> dict[str, object]:
    """A rule that the sessions of all hosts use is changed; from the request to each host's having its document."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))
    with control_plane("SQLite", listen_tls="127.0.0.1:0") as running, tempfile.TemporaryDirectory() as directory:
        opened = running.opened()
        made = populate(opened, hosts, 1, time.time())
        authority = Authority.of(*((running.state / name).read_bytes() for name in ("ca.pem", "ca-key.pem")))
        pems, records = {}, []
        for host_id in made.interfaces:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = authority.for_host(key.public_key(), host_id, time.time(), HOST_S)
            pems[host_id] = Path(directory) / host_id
            pems[host_id].write_bytes(key_pem_of(key) + pem_of(certificate))
            ends_at_s = certificate.not_valid_after_utc.timestamp()
            records.append(HostCertificateRecord(serial_of(certificate), host_id, ends_at_s))
        with opened.write() as transaction:
            for record in records:
                transaction.host_certificates.put(record)
        opened.close()
        assert running.tls_url is not None
        seconds: list[float] = []
        ec2, used_s, received = running.client(), 0.0, 0
        with followers(running.tls_url, running.state / "ca.pem", pems) as crowd:
            for turn in range(turns + 1):
                crowd.expect()
                _wait_until_idle(running.process.pid)  # all hosts have asked again
                before_s, began_s = cpu_s(running.process.pid), time.monotonic()
                ec2.modify_traffic_mirror_filter_rule(
                    TrafficMirrorFilterRuleId=made.rule_id, RuleAction=("reject", "accept")[turn % 2]
                )
                at_s, answer_bytes = crowd.delivered_s()
                if turn == 0:
                    continue  # the first call of all reads the model of the service
                seconds += [each - began_s for each in at_s]
                used_s += cpu_s(running.process.pid) - before_s
                received += answer_bytes
    p99_s = quantile(seconds, 0.99)
    return {
        "hosts": hosts,
        "changes": turns,
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": held(1000 * p99_s, 1000 * bar_s, digits=1),
        "cpu_ms_of_the_server_each": round(1000 * used_s / turns / hosts, 3),
        "bytes_each": round(received / turns / hosts),
    }

"""A real control plane in a process of its own, and an agent's side of its HTTP API."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from pktmirror.control import environment
from pktmirror.control.statedir import SHARED
from pktmirror.control.store import Store
from pktmirror.desired import DesiredState, FoundInterface, Report, decode_desired_state, encode

SERVER = """
import sys
from pathlib import Path
from pktmirror.control import ClientLimits, Settings, serve
from pktmirror.model.limits import Quotas
serve(
    "127.0.0.1:0", Path(sys.argv[1]), Path(sys.argv[2]), settings=Settings(**eval(sys.argv[3])),
    ready=lambda url: print(url, flush=True),
)
"""
NETWORKS = """
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
ipv6_cidr = "2001:db8::/56"
[vpc.underlay]
route_table = 100
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
[[vpc.subnet]]
name = "b"
cidr = "10.0.1.0/24"
zone = "local-1b"
"""
HOST = "host-1"


def found(name: str, *addresses: str, mtu: int = 1500, not_mirrorable: str | None = None) -> FoundInterface:
    """An interface as an agent finds it in a namespace."""
    return FoundInterface(
        key=f"netns:{name}/eth0",
        provider="netns",
        instance=name,
        name="eth0",
        device=f"{name}0",
        kind="veth",
        mac=f"02:00:00:00:00:{len(name):02x}",
        addresses=addresses,
        mtu=mtu,
        up=True,
        not_mirrorable=not_mirrorable,
    )


@dataclass
class Plane:
    """A running control plane."""

    state: Path
    url: str
    process: subprocess.Popen[str]
    store: str | None = None
    """The URL of the store; None: SQLite in the state directory."""
    tls_url: str | None = None
    reported: dict[str, FoundInterface] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return (self.state / "agent-token").read_text().strip()

    def opened(self) -> Store:
        """Its store, beside the running server."""
        return Store.open(self.store or self.state / "pktmirror.sqlite")

    @property
    def environment(self) -> dict[str, str]:
        return {**environment(self.state), "AWS_ENDPOINT_URL": self.url}

    def client(self, service: str = "ec2", **config: Any) -> Any:
        known = self.environment
        return boto3.client(
            service,
            region_name=known["AWS_REGION"],
            endpoint_url=known["AWS_ENDPOINT_URL"],
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False, **config),
        )

    def agent(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """A request of an agent or a monitor, with the token unless ``headers`` say otherwise."""
        headers = arguments.pop("headers", {"authorization": f"Bearer {self.token}"})
        return httpx.request(
            method, f"{self.url}/pktmirror/v1/{path}", headers=headers, timeout=30, trust_env=False, **arguments
        )

    def report(self, *interfaces: FoundInterface, host: str = HOST, **more: Any) -> None:
        """Report exactly these interfaces of a host."""
        known = {"agent_version": "test", "applied_revision": 0} | more
        told = Report(host_id=host, interfaces=interfaces, **known)
        answer = self.agent("POST", f"agents/{host}/report", content=encode(told))
        assert answer.status_code == 204, answer.text

    def find(self, *interfaces: FoundInterface) -> list[str]:
        """Report these beside all that were found before; their ids."""
        self.reported |= {interface.key: interface for interface in interfaces}
        self.report(*self.reported.values())
        by_key = {known["key"]: known["interface_id"] for known in self.own("interfaces")}
        return [by_key[interface.key] for interface in interfaces]

    def desired(self, host: str = HOST, after: int = -1, wait_s: float = 0) -> DesiredState | None:
        answer = self.agent("GET", f"agents/{host}/desired", params={"after": after, "wait_s": wait_s})
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        return decode_desired_state(answer.content)

    def own(self, path: str) -> Any:
        """Our own API, signed with the user's key."""
        answer = self.own_answer(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def own_answer(
        self,
        path: str,
        service: str = "pktmirror",
        method: str = "GET",
        body: str = "",
        sent_body: str | None = None,
    ) -> httpx.Response:
        """``sent_body`` is what goes in the place of the body that was signed."""
        known = self.environment
        request = AWSRequest(method, f"{self.url}/pktmirror/v1/{path}", data=body.encode())
        credentials = Credentials(known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(credentials, service, known["AWS_REGION"]).add_auth(request)
        return httpx.request(
            method,
            request.url,
            content=(body if sent_body is None else sent_body).encode(),
            headers=dict(request.headers.items()),
            timeout=30,
            trust_env=False,
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def running(state: Path, networks_toml: str = NETWORKS, **settings: Any) -> Iterator[Plane]:
    """A control plane on a free port; it must end by SIGTERM with exit code 0."""
    state.parent.mkdir(exist_ok=True)
    networks = state.parent / "networks.toml"
    networks.write_text(networks_toml)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(state), str(networks), repr(settings)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        if line.startswith("http://"):
            break
        lines.append(line)
    else:
        raise AssertionError(f"the control plane did not start: {''.join(lines)}")
    tls_url = None
    if settings.get("listen_tls") is not None:
        tls_url = next(said for said in process.stdout if said.startswith("https://")).strip()
    plane = Plane(state, line.strip(), process, settings.get("store"), tls_url)
    try:
        yield plane
    finally:
        if process.poll() is None:
            code = plane.stop()
            assert code == 0, f"the control plane ended with {code}"
        process.stdout.close()


@contextmanager
def replicas(directory: Path, store: str, **settings: Any) -> Iterator[tuple[Plane, Plane]]:
    """Two control planes of one store; the second has the files of the first that are to be copied."""
    with running(directory / "one" / "state", store=store, **settings) as first:
        second_state = directory / "two" / "state"
        second_state.mkdir(parents=True)
        for name in SHARED:
            shutil.copy(first.state / name, second_state / name)
        with running(second_state, store=store, **settings) as second:
            yield first, second


def code_of(call: Any, /, **parameters: Any) -> str:
    """The error code of a call that must fail."""
    return refusal_of(call, **parameters)[0]


def refusal_of(call: Any, /, **parameters: Any) -> tuple[str, str]:
    """Code and message of a call that must fail."""
    try:
        answer = call(**parameters)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"]["Message"]
    raise AssertionError(f"{call} succeeded: {answer}")


def wait_until(holds: Any, *, within_s: float, else_say: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, else_say
        time.sleep(0.02)

"""The control plane's endpoint without its process and its socket: its ASGI application, called by the test itself.

For tests that send many thousands of requests. What only a real server shows is in the tests that run one (`plane.py`).
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pktmirror.aws import Call
from pktmirror.control.http import Endpoint
from pktmirror.control.keys import KEY_BYTES, Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import FoundInterface, Report
from pktmirror.model.limits import Quotas
from tests.calls import perform

REGION = "local-1"
HOST = "test"
_KEY = b"\x01" * KEY_BYTES

Answer = tuple[int, bytes]


class InProcess:
    """An endpoint over a store. Not for several threads."""

    def __init__(self, store: Store, trail: Trail, quotas: Quotas) -> None:
        self.store = store
        self.plane = ControlPlane(
            store, Key(_KEY), trail, region=REGION, networks=None, quotas=quotas, eni_forget_s=None, now_s=time.time()
        )
        self.endpoint = Endpoint(self.plane, "agent-token", "metrics-token")
        self._app = self.endpoint.app()
        identity = self.plane.callers.identity
        self._credentials = Credentials(identity.access_key_id, identity.secret_access_key)

    def signed(self, body: bytes, headers: dict[str, str], service: str = "ec2") -> dict[str, str]:
        """The headers of a POST with its signature."""
        request = AWSRequest("POST", "http://localhost/", data=body, headers=headers)
        SigV4Auth(self._credentials, service, REGION).add_auth(request)
        return {"host": "localhost", **dict(request.headers.items())}

    async def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Status and body of the answer; an exception that gets out of the application gets out of here."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        status, parts = 0, []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                assert isinstance(message["status"], int)
                status = message["status"]
            else:
                part = message.get("body", b"")
                assert isinstance(part, bytes)
                parts.append(part)

        await self._app(scope, receive, send)
        return status, b"".join(parts)


class Beginning:
    """A store with interfaces, a target, a filter, a rule and a session, of which each `endpoint` gets a fresh copy."""

    def __init__(self, directory: Path, interfaces: tuple[FoundInterface, ...], quotas: Quotas) -> None:
        self._directory, self._quotas = directory, quotas
        self._first = directory / "first.sqlite"
        with self._over(self._first) as made:
            report = Report(host_id=HOST, agent_version="test", applied_revision=0, interfaces=interfaces)
            made.plane.intake.agent_reported(report, time.time())
            interface_ids = [str(known["interface_id"]) for known in made.plane.interfaces()]
            self.ids = [*interface_ids, *_session(made.plane, interface_ids[-1], interface_ids[0])]

    @contextmanager
    def endpoint(self) -> Iterator[InProcess]:
        store = self._directory / f"{os.urandom(8).hex()}.sqlite"
        shutil.copyfile(self._first, store)
        try:
            with self._over(store) as fresh:
                yield fresh
        finally:
            for file in self._directory.glob(f"{store.name}*"):
                file.unlink()

    @contextmanager
    def _over(self, path: Path) -> Iterator[InProcess]:
        store, trail = Store.open(path), Trail(self._directory)
        try:
            yield InProcess(store, trail, self._quotas)
        finally:
            store.close()
            trail.close()


def _session(plane: ControlPlane, source: str, target: str) -> list[str]:
    """Make a session and what it needs; the ids of all."""

    def made(kind: str, **parameters: object) -> str:
        call = Call("ec2", f"CreateTrafficMirror{kind}", parameters)
        return str(perform(plane, call, time.time())[f"TrafficMirror{kind}"][f"TrafficMirror{kind}Id"])

    target_id, filter_id = made("Target", NetworkInterfaceId=target), made("Filter")
    in_filter = {"TrafficMirrorFilterId": filter_id}
    blocks = {"SourceCidrBlock": "0.0.0.0/0", "DestinationCidrBlock": "0.0.0.0/0"}
    rule_id = made("FilterRule", **in_filter, **blocks, TrafficDirection="ingress", RuleNumber=9, RuleAction="accept")
    of_target = {"TrafficMirrorTargetId": target_id}
    return [
        target_id,
        filter_id,
        rule_id,
        made("Session", **in_filter, **of_target, NetworkInterfaceId=source, SessionNumber=9),
    ]

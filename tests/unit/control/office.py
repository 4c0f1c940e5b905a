"""A control plane without its sockets, its root, and users of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pktmirror.aws import ApiError, Call
from pktmirror.control.events import Event
from pktmirror.control.keys import KEY_BYTES, Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.principals import Origin
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.model.limits import Quotas

NOW_S = 1_800_000_000.0


@dataclass
class Office:
    """A control plane, its root, and users of it."""

    store: Store
    plane: ControlPlane
    peer: str = "127.0.0.1"

    def call(self, operation: str, key_id: str | None = None, *, service: str = "ec2", **parameters: Any) -> Any:
        event = self.event(operation, key_id, service=service, **parameters)
        return self.plane.perform(Call(service, operation, dict(parameters)), event, NOW_S)

    def event(self, operation: str, key_id: str | None = None, *, service: str = "ec2", **parameters: Any) -> Event:
        return Event(
            request_id="r",
            at_s=NOW_S,
            region=self.plane.region,
            origin=Origin.of(self.peer, "", secure=False),
            service=service,
            operation=operation,
            parameters=parameters,
            principal=self.plane.callers.principal(key_id or self.plane.callers.identity.access_key_id),
        )

    def refused(self, operation: str, key_id: str, **parameters: Any) -> str:
        with pytest.raises(ApiError) as refusal:
            self.call(operation, key_id, **parameters)
        return refusal.value.code

    def user(self, *statements: dict[str, Any], name: str = "ada") -> str:
        """The id of the key of a new user with one policy."""
        self.call("CreateUser", service="iam", UserName=name)
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        self.call("PutUserPolicy", service="iam", UserName=name, PolicyName="p", PolicyDocument=document)
        made = self.call("CreateAccessKey", service="iam", UserName=name)
        return str(made["AccessKey"]["AccessKeyId"])

    def filter(self) -> str:
        return str(self.call("CreateTrafficMirrorFilter")["TrafficMirrorFilter"]["TrafficMirrorFilterId"])


@contextmanager
def opened(directory: Path) -> Iterator[Office]:
    store, trail = Store.open(directory / "store"), Trail(directory)
    key = Key(b"\x01" * KEY_BYTES)
    plane = ControlPlane(
        store, key, trail, region="local-1", networks=None, quotas=Quotas(), eni_forget_s=None, now_s=NOW_S
    )
    try:
        yield Office(store, plane)
    finally:
        store.close()
        trail.close()


def allow(*actions: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": "*"} | more

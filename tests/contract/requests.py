"""Requests that are often wrong: calls by the service model with unlikely values, forms and documents that are nearly
right, bytes that are neither, and headers that nobody should send.

The same seed gives the same requests, given the same ids. Drawing them by hypothesis would cost more than answering
them; what it is better at, small requests to the parsers alone, is in tests/unit/aws.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pktmirror.control.operations import OPERATIONS
from tests.unit.aws.client import FORM, body, model

EC2_OPERATIONS = sorted(operation for service, operation in OPERATIONS if service == "ec2")
JSON_OPERATIONS = sorted(operation for service, operation in OPERATIONS if service == "monitoring")

_CALLS = [*EC2_OPERATIONS, *(name for name in EC2_OPERATIONS if name.startswith("CreateTraffic") for _ in range(2))]

KINDS = ("eni", "tmt", "tmf", "tmfr", "tms")
_FITTING = {
    "NetworkInterfaceId": "eni",
    "TrafficMirrorTargetId": "tmt",
    "TrafficMirrorFilterId": "tmf",
    "TrafficMirrorFilterRuleId": "tmfr",
    "TrafficMirrorSessionId": "tms",
}
_BALANCER = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/a/1"
_WORDS = (
    "", "*", "?", "\\", "a", "eni-1", "tmf-", "ingress", "accept", "amazon-dns", "0.0.0.0/0", "::/0", "fe80::%1/64",
    "10.0.0.0/255.0.0.0", "10.0.0.0/33", "999.0.0.0/8", "::/129", "1:2/3", "description", "tag:a", "tag:", "tag-key",
    "protocol", "packet-length", "aws:x", "٣/٣", "pktmirror:packets-per-second", "traffic-mirror-filter", "\x00",
    "\ud800", "é" * 200, "x" * 300, "<&>\r\n", _BALANCER,
)  # fmt: skip
_NUMBERS = (-(2**31), -1, 0, 256, 8500, 8501, 32766, 32767, 65535, 65536, (1 << 24) - 1, 1 << 24, 2**31 - 1)
_PARTS = ("Action", "Version", "Filter", "Name", "Value", "Tag", "Key", "ResourceId", "DryRun", "1", "2", "0", "")
_FIELDS = ("Namespace", "MetricName", "Dimensions", "Period", "StartTime", "EndTime", "MetricDataQueries", "x")
_HEADERS = ("authorization", "x-amz-date", "content-type", "x-amz-security-token", "x-amz-content-sha256")


@dataclass(frozen=True)
class Sent:
    """A request before it is signed for ``service``. ``operation`` is named where it is a whole call of EC2."""

    service: str
    body: bytes
    operation: str | None = None
    headers: tuple[tuple[str, str], ...] = (("content-type", FORM),)
    changed: "Changed | None" = None


@dataclass(frozen=True)
class Changed:
    """A header that is changed after signing: ``inserted`` overwrites what it had, from ``at`` (of 1) on or from the
    beginning to the end."""

    name: str
    inserted: str
    at: float | None

    def of(self, headers: Mapping[str, str]) -> dict[str, str]:
        signed = next((value for name, value in headers.items() if name.lower() == self.name), "")
        begin = 0 if self.at is None else int(self.at * len(signed))
        rest = "" if self.at is None else signed[begin + len(self.inserted) :]
        kept = {name: value for name, value in headers.items() if name.lower() != self.name}
        return kept | {self.name: signed[:begin] + self.inserted + rest}


class Fuzz:
    """A source of requests. ``known`` has the ids of what is there, by kind, and may grow meanwhile."""

    def __init__(self, seed: int, known: Mapping[str, Sequence[str]]) -> None:
        self._random = Random(seed)
        self._known = known
        self._ways: tuple[tuple[Callable[[], Sent], int], ...] = (
            (self._call, 14),
            (self._broken_call, 2),
            (self._form, 1),
            (self._bytes, 1),
            (self._document, 1),
            (self._with_a_header, 1),
        )

    def request(self) -> Sent:
        ways, weights = zip(*self._ways, strict=True)
        [way] = self._random.choices(ways, weights)
        sent: Sent = way()
        return sent

    def _call(self) -> Sent:
        operation = self._random.choice(_CALLS)
        shape = model("ec2").operation_model(operation).input_shape
        return Sent("ec2", body("ec2", operation, self._structure(shape)), operation)

    def _broken_call(self) -> Sent:
        whole, random = self._call(), self._random
        broken = whole.body[: random.randrange(len(whole.body))] if random.random() < 0.5 else whole.body
        return Sent("ec2", broken + (self._pair().encode("utf-8", "replace") if random.random() < 0.5 else b"&%"))

    def _form(self) -> Sent:
        pairs = [self._pair() for _ in range(self._random.randrange(4))]
        action = self._random.choice([*EC2_OPERATIONS, "GetCallerIdentity", "RunInstances", "x"])
        text = f"Version=2016-11-15&Action={action}" + "".join(pairs)
        return Sent(self._random.choice(["ec2", "ec2", "sts"]), text.encode("utf-8", "replace"))

    def _bytes(self) -> Sent:
        return Sent(
            self._random.choice(["ec2", "sts", "monitoring"]), self._random.randbytes(self._random.randrange(50))
        )

    def _document(self) -> Sent:
        operation = self._random.choice([*JSON_OPERATIONS, "x"])
        headers = (("x-amz-target", f"GraniteServiceVersion20100801.{operation}"),)
        fields = self._random.sample(_FIELDS, self._random.randrange(4))
        document = {name: self._json(3) for name in fields} if self._random.random() < 0.9 else self._json(1)
        return Sent("monitoring", json.dumps(document).encode(), headers=headers)

    def _with_a_header(self) -> Sent:
        name, random = self._random.choice(_HEADERS), self._random
        inserted = "".join(chr(random.randrange(32, 256)) for _ in range(random.choice([1, 1, 2, 9, 40])))
        at = random.random() if random.random() < 0.7 else None
        return Sent("ec2", self._call().body, changed=Changed(name, inserted, at))

    def _pair(self) -> str:
        return f"&{'.'.join(self._random.choices(_PARTS, k=self._random.randrange(5)))}={self._random.choice(_WORDS)}"

    def _json(self, depth: int) -> Any:
        random = self._random
        match random.randrange(6 if depth else 3):
            case 0:
                return random.choice([None, True, 1.5, 1e300, *_NUMBERS])
            case 1 | 2:
                return random.choice(_WORDS)
            case 3:
                return [self._json(depth - 1) for _ in range(random.randrange(3))]
            case _:
                return {random.choice(_FIELDS): self._json(depth - 1) for _ in range(random.randrange(5))}

    def _value(self, shape: Any, name: str, depth: int) -> Any:
        """A value of a shape of botocore's model, often wrong in what the model does not say."""
        random = self._random
        match shape.type_name:
            case "structure":
                return self._structure(shape, depth)
            case "list":
                count = random.choice([1, 1, 1, 2, 3])
                return [self._value(shape.member, name.removesuffix("s"), depth) for _ in range(count)]
            case "integer" | "long":
                return random.randrange(1, 6) if random.random() < 0.7 else random.choice(_NUMBERS)
            case "boolean":
                return random.random() < 0.5
            case _:
                return self._string(shape, name)

    def _structure(self, shape: Any, depth: int = 3) -> dict[str, Any]:
        """What is required, without which the parser refuses everything, and some of the rest: all is never right."""
        optional = [name for name in shape.members if name not in shape.required_members] if depth else []
        drawn = self._random.sample(optional, min(self._random.choice([0, 1, 1, 2, 2, 3]), len(optional)))
        if "DryRun" in drawn and self._random.random() < 0.8:  # after which nothing would be there
            drawn.remove("DryRun")
        names = dict.fromkeys([*shape.required_members, *drawn])
        return {name: self._value(shape.members[name], name, depth - 1) for name in names}

    def _string(self, shape: Any, name: str) -> str:
        random = self._random
        if random.random() < 0.15:
            return random.choice(_WORDS).encode("utf-8", "replace").decode()
        if name == "Resource":
            return self._id(random.choice(KINDS))
        if name in _FITTING:
            return self._id(_FITTING[name])
        if name.endswith("CidrBlock"):
            return random.choice(["0.0.0.0/0", "0.0.0.0/0", "10.0.0.0/8", "::/0", "10.0.0.0/33"])
        if name == "NetworkLoadBalancerArn":
            return _BALANCER
        if name == "Key":
            return random.choice(["a", "b", "pktmirror:packets-per-second"])
        if name == "ResourceType":
            return f"traffic-mirror-{random.choice(['target', 'filter', 'filter-rule', 'session'])}"
        if shape.enum:
            return str(random.choice(shape.enum))
        return random.choice(_WORDS).encode("utf-8", "replace").decode()

    def _id(self, kind: str) -> str:
        ids = self._known[kind]
        return self._random.choice(ids) if ids else f"{kind}-0"

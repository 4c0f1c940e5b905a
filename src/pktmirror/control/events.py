"""A call as a record of the audit log, in the format of CloudTrail's log files. Pure.

"CloudTrail record contents" of the AWS CloudTrail user guide, version 1.08. A secret is never in a record: what is
named in `SECRETS` is left out, wherever it stands. Names begin with a small letter, as CloudTrail writes them.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from pktmirror.aws import ApiError
from pktmirror.control.principals import Origin, Principal

VERSION = "1.08"
ELEMENT_BYTES_MAX = 100_000  # as CloudTrail: what is longer is left out, and said
IDLE_ELEMENT_BYTES_MAX = 4_096  # of what changed nothing
TEXT_CHARACTERS_MAX = 1024
SECRETS = frozenset({"secretaccesskey", "sessiontoken", "password", "token", "authorization", "signature"})

OWN_SERVICE = "pktmirror"
"""What requests to our own API are signed for, and what their actions begin with in a policy."""

_SOURCES = {"monitoring": "monitoring.amazonaws.com", OWN_SERVICE: OWN_SERVICE}
_READS = ("Describe", "Get", "List", "Read")

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """What was asked, by whom and from where. ``principal`` None: nobody could be made out; ``claimed_key_id`` is the
    access key id that the request bore, unproven. ``service`` is the signing name. ``began``: a record says already
    that it is carried out.
    """

    request_id: str
    at_s: float
    region: str
    origin: Origin
    service: str
    operation: str
    parameters: Mapping[str, object] | None = None
    principal: Principal | None = None
    claimed_key_id: str | None = None
    began: bool = False

    @property
    def reads_only(self) -> bool:
        return self.operation.startswith(_READS)


def record(event: Event, result: Mapping[str, object] | None = None, error: ApiError | None = None) -> Record:
    """The record of an outcome: ``result`` of a call that changed something, ``error`` of one that was refused."""
    is_idle = error is not None or event.reads_only
    made: Record = {
        "eventVersion": VERSION,
        "userIdentity": _identity(event),
        "eventTime": datetime.fromtimestamp(int(event.at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": _SOURCES.get(event.service, f"{event.service}.amazonaws.com"),
        "eventName": event.operation[:TEXT_CHARACTERS_MAX],
        "awsRegion": event.region,
        "sourceIPAddress": event.origin.source_ip,
        "userAgent": event.origin.user_agent[:TEXT_CHARACTERS_MAX],
        "requestParameters": _bounded(event.parameters, IDLE_ELEMENT_BYTES_MAX if is_idle else ELEMENT_BYTES_MAX),
        "responseElements": None if is_idle else _bounded(result, ELEMENT_BYTES_MAX),
        "requestID": event.request_id,
        "eventID": str(uuid.uuid4()),
        "readOnly": event.reads_only,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "eventCategory": "Management",
    }
    if event.principal is not None:
        made["recipientAccountId"] = event.principal.account_id
    if error is not None:
        made["errorCode"] = _code(event.service, error)
        made["errorMessage"] = error.message[:TEXT_CHARACTERS_MAX]
    return made


def _identity(event: Event) -> Record:
    principal = event.principal
    if principal is None:
        claimed = {} if event.claimed_key_id is None else {"accessKeyId": event.claimed_key_id[:128]}
        return {"type": "Unknown", **claimed}
    named = {} if principal.is_root else {"userName": principal.user_name}
    return {
        "type": "Root" if principal.is_root else "IAMUser",
        "principalId": principal.principal_id,
        "arn": principal.arn,
        "accountId": principal.account_id,
        "accessKeyId": principal.access_key_id,
        **named,
    }


def _code(service: str, error: ApiError) -> str:
    """EC2's codes stand in CloudTrail with the side whose fault it is."""
    if service != "ec2":
        return error.code
    return f"{'Server' if error.status >= 500 else 'Client'}.{error.code}"


def _bounded(found: Mapping[str, object] | None, bytes_max: int) -> object:
    if not found:
        return None
    written = _written(found)
    size = len(msgspec.json.encode(written))
    if size <= bytes_max:
        return written
    return {"omitted": True, "originalSize": size, "reason": f"more than {bytes_max} bytes"}


def _written(value: object) -> object:
    match value:
        case Mapping():
            return {
                name[:1].lower() + name[1:]: _written(each)
                for name, each in value.items()
                if each is not None and name.lower() not in SECRETS
            }
        case list() | tuple():
            return [_written(each) for each in value]
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case bytes():
            return {"omitted": True, "originalSize": len(value)}
        case _:
            return value

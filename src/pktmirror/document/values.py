"""What a document says: targets, filters, sessions and templates by name. ``at`` is where, and counts in no comparison.

``id`` binds an entry to a resource that is there already, whoever made it. Without it, the resource is the one that
bears the entry's name in `NAME_TAG`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pktmirror.document.text import Mark
from pktmirror.model.filter import Direction, NetworkService, Rule
from pktmirror.model.template import Selector

NOWHERE = Mark(1, 1)
DEFAULT_DOCUMENT = "default"

_ID = re.compile(r"(?:tmt|tmf|tms|eni)-[0-9a-f]{8,17}")


def is_id(text: str) -> bool:
    """Whether a text looks like an id, of whatever there is or is not; nothing in a document may be called so."""
    return _ID.fullmatch(text) is not None


class Destination(Enum):
    """What a target may be; the value is the parameter of CreateTrafficMirrorTarget."""

    INTERFACE = "NetworkInterfaceId"
    LOAD_BALANCER = "NetworkLoadBalancerArn"
    GATEWAY_ENDPOINT = "GatewayLoadBalancerEndpointId"


@dataclass(frozen=True, slots=True)
class Located:
    """An interface by its host and its provider's key, which outlive its id (spec 5.15)."""

    host: str
    key: str

    def __str__(self) -> str:
        return f"{self.key} on {self.host}"


InterfaceRef = str | Located
"""An ``eni-…``, or where it is."""


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """``resource`` is an `InterfaceRef` where the destination is an interface, and else an ARN or an id."""

    name: str
    destination: Destination
    resource: InterfaceRef
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    at: Mark = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """Known by its direction and number."""

    rule: Rule
    description: str | None = None
    at: Mark = field(default=NOWHERE, compare=False)

    @property
    def place(self) -> tuple[Direction, int]:
        return self.rule.direction, self.rule.number


@dataclass(frozen=True, slots=True)
class FilterEntry:
    name: str
    rules: tuple[RuleEntry, ...] = ()
    services: frozenset[NetworkService] = frozenset()
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    at: Mark = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """``target`` and ``filter`` are names in the document, or ids. ``number`` and ``vni`` None: whatever there is, and
    for a new session the lowest free number and a VNI that EC2 chooses."""

    name: str
    source: InterfaceRef
    target: str
    filter: str
    number: int | None = None
    vni: int | None = None
    packet_length: int | None = None
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    at: Mark = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class TemplateEntry:
    """As `Template`, with names in the place of ids."""

    name: str
    select: Selector
    target: str
    filter: str
    number: int
    limit: int
    vni: int | None = None
    packet_length: int | None = None
    description: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    at: Mark = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Document:
    """All entries, each kind in the order of the text."""

    name: str = DEFAULT_DOCUMENT
    targets: tuple[TargetEntry, ...] = ()
    filters: tuple[FilterEntry, ...] = ()
    sessions: tuple[SessionEntry, ...] = ()
    templates: tuple[TemplateEntry, ...] = ()

"""What there is, as the Describe calls and our own API tell it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pktmirror.document.values import Destination
from pktmirror.model.filter import Direction, NetworkService, Rule
from pktmirror.model.template import Template

Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TargetState:
    """``is_own`` False: another account shares it."""

    id: str
    destination: Destination
    resource: str
    description: str | None = None
    tags: Tags = field(default_factory=dict)
    is_own: bool = True


@dataclass(frozen=True, slots=True)
class RuleState:
    id: str
    rule: Rule
    description: str | None = None

    @property
    def place(self) -> tuple[Direction, int]:
        return self.rule.direction, self.rule.number


@dataclass(frozen=True, slots=True)
class FilterState:
    id: str
    rules: tuple[RuleState, ...] = ()
    services: frozenset[NetworkService] = frozenset()
    description: str | None = None
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionState:
    """``packet_length`` None: the whole packet. ``is_own`` False: another account's, to a target that is shared."""

    id: str
    interface_id: str
    target_id: str
    filter_id: str
    number: int
    vni: int
    packet_length: int | None = None
    description: str | None = None
    tags: Tags = field(default_factory=dict)
    is_own: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """All that an account sees. ``interfaces`` are the ids by host and key."""

    targets: tuple[TargetState, ...] = ()
    filters: tuple[FilterState, ...] = ()
    sessions: tuple[SessionState, ...] = ()
    templates: tuple[Template, ...] = ()
    interfaces: Mapping[tuple[str, str], str] = field(default_factory=dict)

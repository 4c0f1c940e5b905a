"""What a plan is made of: one change for each call, with the ids of what does not exist yet left open."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    TARGET = "target"
    FILTER = "filter"
    RULE = "rule"
    SESSION = "session"
    TEMPLATE = "template"


class Verb(Enum):
    CREATE = "create"
    MODIFY = "modify"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Made:
    """In parameters: the id of what an earlier change of the plan makes."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """One call. ``operation`` is of the EC2 API, or PutTemplate or DeleteTemplate of our own; ``id`` None: a new one.

    ``name`` is for people and, with the kind, what `Made` refers to. ``details`` say what changes, a line each.
    """

    verb: Verb
    kind: Kind
    name: str
    operation: str
    parameters: Mapping[str, Any]
    id: str | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """What bears the document's name and is no longer in it."""

    kind: Kind
    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Plan:
    changes: tuple[Change, ...]
    left: tuple[Left, ...] = ()


Ref = str | Made
"""An id, or what will have one."""


def filled(change: Change, ids: Mapping[Made, str]) -> dict[str, Any]:
    """The parameters of a change, with the ids of what was made before it."""
    return {name: ids[value] if isinstance(value, Made) else value for name, value in change.parameters.items()}


def id_made(change: Change, answer: Mapping[str, Any]) -> str | None:
    """The id of what a change has made, from the call's answer; None for a change that makes nothing EC2 has."""
    if change.verb is not Verb.CREATE or change.kind is Kind.TEMPLATE:
        return None
    resource = change.operation.removeprefix("Create")
    return str(answer[resource][f"{resource}Id"])

"""Session templates: a session whose source is a selector, and what a selector selects by.

A template and what `pktmirror apply` makes are known by a document's name and a name within it, as in ``office/web``.
A resource of the EC2 API carries that in a tag of ours, so that any client sees it.
"""

import re
from typing import Annotated

import msgspec

from pktmirror.model.limits import (
    PACKET_BYTES_MAX,
    PACKET_BYTES_MIN,
    SESSION_NUMBER_MAX,
    SESSION_NUMBER_MIN,
    VNI_MAX,
    VNI_MIN,
)

NAME_TAG = "pktmirror:name"
"""The tag of what `pktmirror apply` has made: the document's name and its own."""

ORIGIN_TAG = "pktmirror:template"
"""The tag of a session that a template has made: the template's name. The control plane alone puts it there."""

NAME_CHARACTERS_MAX = 63
LIMIT_MAX = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=2 * NAME_CHARACTERS_MAX + 1)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Selector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which interfaces; all that is given must hold, and something must be given.

    Each value is a pattern as in the filters of EC2's Describe calls: ``*``, ``?``, and a backslash before either.
    ``tags`` are those of the interface in the EC2 API. ``vpc`` and ``subnet`` are a declared name or an id. ``name``
    is the instance's (namespace, container, machine, pod), or the device's where there is none; ``key`` the provider's.
    ``labels`` are those that the instance's engine tells.
    """

    tags: dict[str, Pattern] = {}
    labels: dict[str, Pattern] = {}
    vpc: Pattern | None = None
    subnet: Pattern | None = None
    host: Pattern | None = None
    name: Pattern | None = None
    key: Pattern | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the control plane makes a session of for each interface that ``select`` selects, up to ``limit``.

    ``vni`` None: each session has one of its own, as EC2 chooses it. ``tags`` are put on each session.
    """

    name: Name
    select: Selector
    target_id: str
    filter_id: str
    number: Annotated[int, msgspec.Meta(ge=SESSION_NUMBER_MIN, le=SESSION_NUMBER_MAX)]
    limit: Annotated[int, msgspec.Meta(ge=0, le=LIMIT_MAX)]
    vni: Annotated[int, msgspec.Meta(ge=VNI_MIN, le=VNI_MAX)] | None = None
    packet_bytes_max: Annotated[int, msgspec.Meta(ge=PACKET_BYTES_MIN, le=PACKET_BYTES_MAX)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    tags: dict[str, str] = {}


def is_name(text: str) -> bool:
    """Whether a document, or something in one, may be called so."""
    return len(text) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(text) is not None


def is_full_name(text: str) -> bool:
    """Whether this is a document's name and a name within it."""
    document, slash, name = text.partition("/")
    return slash == "/" and is_name(document) and is_name(name)

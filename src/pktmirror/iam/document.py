"""A policy document in JSON becomes a `Policy`, or is refused with what is wrong and where.

What is not known is refused and never ignored: a statement whose condition nobody evaluates is an open door or a
wall. So are resource-based elements (Principal), operators and keys that no request here carries, and a name that
stands twice in one object, of which JSON readers keep the last.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pktmirror.iam import keys
from pktmirror.iam.condition import Condition, Presence, condition
from pktmirror.iam.malformed import Malformed
from pktmirror.iam.pattern import Pattern, in_segments, pattern
from pktmirror.iam.statement import Policy, Statement

CHARACTERS_MAX = 6144
"""Of a document without its white space: AWS's limit of a managed policy."""

WILDCARDS_MAX = 250
"""Of a document: whoever may put policies shall not make every decision about his users long."""

WITH_VARIABLES = "2012-10-17"
VERSIONS = (WITH_VARIABLES, "2008-10-17")

_ACTION = re.compile(r"\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+")
_SID = re.compile(r"[A-Za-z0-9]*")
_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}


def parse(text: str) -> Policy:
    """Raises `Malformed`."""
    size = sum(not character.isspace() for character in text)
    if size > CHARACTERS_MAX:
        raise Malformed(f"The document has {size} characters without white space; {CHARACTERS_MAX} are allowed")
    try:
        document = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of too many digits
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"The document is no JSON: {error}") from None
    document = _object(document, "The document")
    unknown = document.keys() - {"Version", "Id", "Statement"}
    if unknown:
        raise Malformed(f"{min(unknown)!r} is no element of a policy. Known are Version, Id and Statement")
    version = document.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise Malformed(f"Version is {version!r}; write {WITH_VARIABLES!r}")
    if "Id" in document and not isinstance(document["Id"], str):
        raise Malformed("Id is no text")
    found = document.get("Statement")
    statements = found if isinstance(found, list) else [found]
    if found is None or not statements:
        raise Malformed("The document has no Statement")
    parsed = tuple(
        _statement(_object(each, f"Statement {number}"), f"Statement {number}", variables=version == WITH_VARIABLES)
        for number, each in enumerate(statements, 1)
    )
    sids = [statement.sid for statement in parsed if statement.sid]
    if len(set(sids)) != len(sids):
        raise Malformed("Two statements have one Sid")
    policy = Policy(parsed)
    wildcards = sum(each.wildcards for each in policy.patterns)
    if wildcards > WILDCARDS_MAX:
        raise Malformed(f"The document has {wildcards} wildcards (* and ?); {WILDCARDS_MAX} are allowed")
    return policy


def _statement(found: Mapping[str, Any], where: str, *, variables: bool) -> Statement:
    unknown = found.keys() - _ELEMENTS
    if unknown:
        hint = "; a user's policy names no principal: it is the user" if "Principal" in min(unknown) else ""
        raise Malformed(f"{where}: {min(unknown)!r} is no element of a statement here{hint}")
    if found.get("Effect") not in ("Allow", "Deny"):
        raise Malformed(f"{where}: Effect is {found.get('Effect')!r}; write 'Allow' or 'Deny'")
    sid = found.get("Sid")
    if sid is not None and (not isinstance(sid, str) or _SID.fullmatch(sid) is None):
        raise Malformed(f"{where}: Sid is {sid!r}; letters and digits may stand in it")
    not_actions, actions = _one_of(found, "Action", where)
    not_resources, resources = _one_of(found, "Resource", where)
    return Statement(
        allows=found["Effect"] == "Allow",
        actions=tuple(_action(action, where) for action in actions),
        resources=tuple(_resource(resource, where, variables=variables) for resource in resources),
        conditions=_conditions(found.get("Condition", {}), where, variables=variables),
        not_actions=not_actions,
        not_resources=not_resources,
        sid=sid or None,
    )


def _one_of(found: Mapping[str, Any], name: str, where: str) -> tuple[bool, list[str]]:
    """Whether it is the element with Not before its name, and its texts."""
    if (name in found) == (f"Not{name}" in found):
        raise Malformed(f"{where}: it needs {name} or Not{name}, and not both")
    negated = name not in found
    return negated, _texts(found[f"Not{name}" if negated else name], f"{where}: {name}")


def _action(text: str, where: str) -> Pattern:
    if _ACTION.fullmatch(text) is None:
        raise Malformed(f"{where}: {text!r} is no action; write '*' or, as an example, 'ec2:Describe*'")
    return pattern(text.lower(), variables=False)


def _resource(text: str, where: str, *, variables: bool) -> Pattern:
    parts = pattern(text, variables=variables)
    _check_variables(parts, where)
    if text == "*":
        return parts
    pieces = text.split(":", 5)
    if len(pieces) < 6 or pieces[0] != "arn" or not pieces[2] or "*" in pieces[2] or "?" in pieces[2]:
        raise Malformed(
            f"{where}: {text!r} is no resource; write '*', or an ARN with its service in plain letters: "
            "arn:aws:ec2:*:*:traffic-mirror-filter/*"
        )
    return in_segments(parts)


def _conditions(found: object, where: str, *, variables: bool) -> tuple[Condition | Presence, ...]:
    conditions: list[Condition | Presence] = []
    for operator, tests in _object(found, f"{where}: Condition").items():
        for name, values in _object(tests, f"{where}: {operator}").items():
            key = keys.key(name)
            if key is None:
                raise Malformed(
                    f"{where}: no request here carries the condition key {name}. Known are {', '.join(keys.names())}"
                )
            texts = _texts(values, f"{where}: {operator} {name}", scalars=True)
            try:
                made = condition(operator, name, key, texts, variables=variables)
            except Malformed as error:
                raise Malformed(f"{where}: {error}") from None
            for parts in made.wanted if isinstance(made, Condition) else ():
                _check_variables(parts, where)
            conditions.append(made)
    return tuple(conditions)


def _check_variables(parts: Pattern, where: str) -> None:
    for name in parts.variables:
        key = keys.key(name)
        if key is None or key.has_many:
            raise Malformed(f"{where}: ${{{name}}} is no variable: write the name of a condition key with one value")


def _texts(found: object, where: str, *, scalars: bool = False) -> list[str]:
    """One text or a list of texts; numbers and booleans too where ``scalars``."""
    listed = found if isinstance(found, list) else [found]
    texts = [text for each in listed if isinstance(text := _text(each) if scalars else each, str)]
    if not texts or len(texts) != len(listed):
        raise Malformed(f"{where} must be a text or a list of texts, and not an empty one")
    return texts


def _text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def _object(found: object, where: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise Malformed(f"{where} must be an object in braces")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return made

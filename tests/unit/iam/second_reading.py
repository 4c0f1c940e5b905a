"""A second reading of AWS's evaluation logic: straight down a document, by regular expressions, without our types.

It shares nothing with `pktmirror.iam` and is slow on purpose; the two must agree on every document and request.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

Context = Mapping[str, Sequence[str]]


def verdict(documents: Sequence[Mapping[str, Any]], action: str, resource: str, context: Context) -> str:
    """``Deny``, ``Allow``, or ``nothing``."""
    effects = {
        statement["Effect"]
        for document in documents
        for statement in as_list(document["Statement"])
        if speaks_of(statement, action, resource, context)
    }
    return "Deny" if "Deny" in effects else "Allow" if "Allow" in effects else "nothing"


def as_list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def speaks_of(statement: Mapping[str, Any], action: str, resource: str, context: Context) -> bool:
    if "Action" in statement:
        action_fits = any(glob(text, action, re.IGNORECASE) for text in as_list(statement["Action"]))
    else:
        action_fits = not any(glob(text, action, re.IGNORECASE) for text in as_list(statement["NotAction"]))
    if "Resource" in statement:
        resource_fits = any(arn_like(text, resource, context) for text in as_list(statement["Resource"]))
    else:
        resource_fits = not any(arn_like(text, resource, context) for text in as_list(statement["NotResource"]))
    conditions = [
        (operator, key, as_list(wanted))
        for operator, tests in statement.get("Condition", {}).items()
        for key, wanted in tests.items()
    ]
    return action_fits and resource_fits and all(holds(*condition, context) for condition in conditions)


def holds(operator: str, key: str, wanted: list[Any], context: Context) -> bool:
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in wanted]
    found = next((list(values) for name, values in context.items() if name.lower() == key.lower()), [])
    if operator == "Null":
        return (texts[0] == "true") == (found == [])
    quantifier, _, rest = operator.rpartition(":")
    may_be_absent = rest.endswith("IfExists")
    rest = rest.removesuffix("IfExists")
    negated = "Not" in rest
    plain = rest.replace("Not", "")

    def passes(value: str) -> bool:
        matched = any(compares(plain, value, text, context) for text in texts)
        return not matched if negated else matched

    if quantifier == "ForAllValues":
        return all(passes(value) for value in found)
    if quantifier == "ForAnyValue":
        return any(passes(value) for value in found) or (may_be_absent and not found)
    if not found:
        return may_be_absent or negated
    return passes(found[0])


def compares(plain: str, value: str, text: str, context: Context) -> bool:
    if plain.startswith("String") or plain.startswith("Arn"):
        filled = filled_in(text, context)
        if filled is None:
            return False
        literal, globbed, arn = filled
        return {
            "StringEquals": lambda: literal == value,
            "StringEqualsIgnoreCase": lambda: literal.lower() == value.lower(),
            "StringLike": lambda: re.fullmatch(globbed, value, re.DOTALL) is not None,
            "ArnEquals": lambda: re.fullmatch(arn, value, re.DOTALL) is not None,
            "ArnLike": lambda: re.fullmatch(arn, value, re.DOTALL) is not None,
        }[plain]()
    if plain == "Bool":
        return value.lower() == text.lower()
    if plain == "IpAddress":
        return ip_address(value) in ip_network(text, strict=False)
    one, other = instant(value), instant(text)
    return {
        "Equals": one == other,
        "LessThan": one < other,
        "LessThanEquals": one <= other,
        "GreaterThan": one > other,
        "GreaterThanEquals": one >= other,
    }[plain.removeprefix("Date").removeprefix("Numeric")]


def instant(text: str) -> float:
    if re.fullmatch(r"[0-9]+", text):
        return float(text)
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).timestamp()


def glob(text: str, value: str, flags: int = 0) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in text)
    return re.fullmatch(expression, value, re.DOTALL | flags) is not None


def arn_like(text: str, value: str, context: Context) -> bool:
    filled = filled_in(text, context)
    return filled is not None and re.fullmatch(filled[2], value, re.DOTALL) is not None


def filled_in(text: str, context: Context) -> tuple[str, str, str] | None:
    """The text itself, a regular expression of it as a glob, and one as an ARN; None without a variable's value."""
    literal, globbed, arn = "", "", ""
    pieces = re.findall(r"\$\{[^}]*\}|.", text, re.DOTALL)
    for number, piece in enumerate(pieces):
        if piece.startswith("${"):
            name, _, otherwise = piece[2:-1].partition(", ")
            value = name if name in ("*", "?", "$") else next(iter(context.get(name, ())), otherwise.strip("'") or None)
            if value is None:
                return None
            literal, globbed, arn = literal + value, globbed + re.escape(value), arn + re.escape(value)
            continue
        ends_segment = number + 1 == len(pieces) or pieces[number + 1] == ":"
        literal += piece
        globbed += {"*": ".*", "?": "."}.get(piece, re.escape(piece))
        arn += {"*": ".*" if ends_segment else "[^:]*", "?": "[^:]"}.get(piece, re.escape(piece))
    return literal, globbed, arn

"""The filters of the describe calls: values of one filter are OR, filters are AND, ``*`` and ``?`` are wildcards.

Spec fact 37. How many they may be is of the EC2 user guide's page on filtering. A backslash makes the next character
literal, as that page has it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from pktmirror.aws import ApiError, errors
from pktmirror.control.operations.operation import FilterOfDescribe

T = TypeVar("T")
Field = Callable[[T], Iterable[object]]
Fields = Mapping[str, Field[T]]

FILTERS_MAX = 50
VALUES_MAX = 200  # of each filter

_TAG = "tag:"


def select(
    items: Iterable[T],
    filters: Sequence[FilterOfDescribe],
    fields: Fields[T],
    tags_of: Callable[[T], Mapping[str, str]] | None = None,
) -> list[T]:
    """The items that pass every filter. ``fields`` says which values of an item a filter name looks at."""
    if len(filters) > FILTERS_MAX:
        raise ApiError("FilterLimitExceeded", f"A call has at most {FILTERS_MAX} filters")
    tests = [_test(filter_, fields, tags_of) for filter_ in filters]
    return [item for item in items if all(test(item) for test in tests)]


def exactly(filters: Sequence[FilterOfDescribe], columns: Mapping[str, tuple[str, type]]) -> dict[str, object]:
    """What the store may be asked for in the place of all: by filters that have one value, and no wildcards in it.

    ``columns`` says which column holds what a filter looks at, and its type. `select` still judges what is found.
    """
    asked: dict[str, object] = {}
    for filter_ in filters:
        column, type_ = columns.get(filter_.name, ("", str))
        if not column or len(filter_.values) != 1 or re.search(r"[*?\\]", filter_.values[0]):
            continue
        value = filter_.values[0]
        if type_ is str:
            asked[column] = value
        elif re.fullmatch(r"0|[1-9][0-9]{0,8}", value):
            asked[column] = int(value)
    return asked


def one(value: object) -> tuple[object, ...]:
    """The values of a field that is there once or not at all."""
    return () if value is None else (value,)


def fits(pattern: str, text: str) -> bool:
    """Whether the whole text fits a pattern of ``*`` and ``?``."""
    return _matches(_pattern(pattern), text)


def _test(
    filter_: FilterOfDescribe, fields: Fields[T], tags_of: Callable[[T], Mapping[str, str]] | None
) -> Callable[[T], bool]:
    field = _field(filter_.name, fields, tags_of)
    if not filter_.values:
        raise errors.invalid_parameter_value(f"The filter '{errors.echo(filter_.name)}' has no values")
    if len(filter_.values) > VALUES_MAX:
        raise ApiError("FilterLimitExceeded", f"A filter has at most {VALUES_MAX} values")
    patterns = [_pattern(value) for value in filter_.values]
    return lambda item: any(_matches(pattern, _text(value)) for value in field(item) for pattern in patterns)


def _field(name: str, fields: Fields[T], tags_of: Callable[[T], Mapping[str, str]] | None) -> Field[T]:
    if name in fields:
        return fields[name]
    if tags_of is not None and name == "tag-key":
        return lambda item: tags_of(item).keys()
    if tags_of is not None and name.startswith(_TAG):
        key = name.removeprefix(_TAG)
        return lambda item: one(tags_of(item).get(key))
    offered = [*sorted(fields), *(["tag:<key>", "tag-key"] if tags_of is not None else [])]
    raise errors.invalid_filter(name, ", ".join(offered))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_ONE, _RUN = object(), object()


def _pattern(text: str) -> list[object]:
    """The parts of a pattern: a character, `_ONE` for ``?``, `_RUN` for ``*``."""
    wildcards = {"*": _RUN, "?": _ONE}
    return [wildcards.get(part, part[-1]) for part in re.findall(r"\\.|.", text, re.DOTALL)]


def _matches(pattern: list[object], text: str) -> bool:
    """Whether the whole text fits. At worst the product of both lengths, whatever a client sends."""
    at = part_at = taken = 0
    run_at: int | None = None
    while at < len(text):
        if part_at < len(pattern) and pattern[part_at] is _RUN:
            run_at, taken = part_at, at
            part_at += 1
        elif part_at < len(pattern) and pattern[part_at] in (_ONE, text[at]):
            part_at, at = part_at + 1, at + 1
        elif run_at is not None:  # the last run takes one character more
            taken += 1
            part_at, at = run_at + 1, taken
        else:
            return False
    return all(part is _RUN for part in pattern[part_at:])

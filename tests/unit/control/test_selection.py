import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.aws import ApiError
from pktmirror.control.operations.operation import DescribeRequest, FilterOfDescribe
from pktmirror.control.operations.pages import page
from pktmirror.control.operations.selection import one, select

FIELDS = {"name": one}


def names(*patterns: str) -> list[str]:
    items = ["web", "web-1", "db", "a*b", "a?b", "a\\b", ""]
    return select(items, [FilterOfDescribe("name", patterns)], FIELDS)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("web", ["web"]),
        ("web*", ["web", "web-1"]),
        ("*b", ["web", "db", "a*b", "a?b", "a\\b"]),
        ("?b", ["db"]),
        ("a?b", ["a*b", "a?b", "a\\b"]),
        ("a\\*b", ["a*b"]),
        ("a\\?b", ["a?b"]),
        ("a\\\\b", ["a\\b"]),
        ("", [""]),
        ("*", ["web", "web-1", "db", "a*b", "a?b", "a\\b", ""]),
        ("WEB", []),
        ("w.b", []),
    ],
)
def test_wildcards(pattern: str, found: list[str]) -> None:
    assert names(pattern) == found


def test_values_are_or() -> None:
    assert names("web", "db", "nothing") == ["web", "db"]


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_a_pattern_matches_as_the_same_regular_expression_does(pattern: str, text: str) -> None:
    expected = re.fullmatch(pattern.replace("*", ".*").replace("?", "."), text) is not None
    assert (select([text], [FilterOfDescribe("name", (pattern,))], FIELDS) == [text]) == expected


def test_a_pattern_made_to_be_slow_is_not() -> None:
    assert select(["a" * 256], [FilterOfDescribe("name", ("*a" * 120 + "b",) * 50)], FIELDS) == []


@pytest.mark.parametrize(
    ("filter_", "code"),
    [
        (FilterOfDescribe("colour", ("red",)), "InvalidFilter"),
        (FilterOfDescribe("", ("red",)), "InvalidFilter"),
        (FilterOfDescribe("tag:x", ("red",)), "InvalidFilter"),
        (FilterOfDescribe("name"), "InvalidParameterValue"),
        (FilterOfDescribe("name", ("x",) * 201), "FilterLimitExceeded"),
    ],
)
def test_a_filter_that_is_none(filter_: FilterOfDescribe, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        select(["web"], [filter_], FIELDS)
    assert caught.value.code == code


def test_a_call_has_a_bounded_number_of_filters() -> None:
    every = FilterOfDescribe("name", ("*",))
    assert select(["web"], [every] * 50, FIELDS) == ["web"]
    with pytest.raises(ApiError) as caught:
        select(["web"], [every] * 51, FIELDS)
    assert caught.value.code == "FilterLimitExceeded"


def test_tags_are_looked_at_where_a_resource_has_them() -> None:
    tags = {"a": {"team": "red"}, "b": {"team": "blue", "owner": "x"}, "c": {}}

    def found(name: str, *values: str) -> list[str]:
        return select(tags, [FilterOfDescribe(name, values)], {}, lambda item: tags[item])

    assert found("tag:team", "red") == ["a"]
    assert found("tag:team", "*") == ["a", "b"]
    assert found("tag-key", "owner", "none") == ["b"]


@given(st.sets(st.text(max_size=6), max_size=40), st.integers(5, 9))
def test_pages_give_every_item_once_in_order(items: set[str], size: int) -> None:
    seen: list[str] = []
    token: str | None = None
    while True:
        request = DescribeRequest(max_results=size, next_token=token)
        given, token = page(items, str, request, b"key")
        seen += given
        if token is None:
            break
        assert len(given) == size
    assert seen == sorted(items)


def test_a_full_last_page_has_no_token() -> None:
    assert page("abcde", str, DescribeRequest(max_results=5), b"key") == (list("abcde"), None)


def test_a_token_is_bound_to_its_key_and_its_call() -> None:
    items = [f"{number:02}" for number in range(9)]
    _, token = page(items, str, DescribeRequest(max_results=5), b"key")
    filtered = (FilterOfDescribe("name", ("x",)),)
    for key, request in (
        (b"other", DescribeRequest(max_results=5, next_token=token)),
        (b"key", DescribeRequest(max_results=5, next_token=token, filters=filtered)),
    ):
        with pytest.raises(ApiError) as caught:
            page(items, str, request, key)
        assert caught.value.code == "InvalidPaginationToken"
    given, last = page(items, str, DescribeRequest(max_results=6, next_token=token), b"key")
    assert (given, last) == (["05", "06", "07", "08"], None)

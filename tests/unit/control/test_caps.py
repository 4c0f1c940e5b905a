"""The tags of a session that say how much it may copy."""

import pytest

from pktmirror.control.caps import cap_of, problem
from pktmirror.model.rate import UNLIMITED, Rate

PACKETS, BITS = "pktmirror:packets-per-second", "pktmirror:bits-per-second"


@pytest.mark.parametrize(
    ("tags", "cap"),
    [
        ({}, UNLIMITED),
        ({"Name": "web", "packets-per-second": "5"}, UNLIMITED),
        ({PACKETS: "1"}, Rate(packets_per_s=1)),
        ({BITS: "100000000000"}, Rate(bits_per_s=10**11)),
        ({PACKETS: "300000000", BITS: "008", "Name": "web"}, Rate(300_000_000, 8)),
    ],
)
def test_the_cap_stands_in_two_tags(tags: dict[str, str], cap: Rate) -> None:
    assert problem(tags) is None
    assert cap_of(tags) == cap


@pytest.mark.parametrize("value", ["", "0", "-1", "+1", "1.5", "1e6", "10M", " 10", "1_000", "\u0663", "9" * 200])
@pytest.mark.parametrize("key", [PACKETS, BITS])
def test_what_is_no_rate_is_refused_by_name_and_is_no_cap_where_it_stands(key: str, value: str) -> None:
    said = problem({"Name": "web", key: value})
    assert said is not None
    assert key in said
    assert "from 1 to" in said
    assert cap_of({key: value}) == UNLIMITED


def test_more_than_can_be_kept_exactly_is_refused() -> None:
    assert problem({PACKETS: "300000001"})
    assert problem({BITS: "100000000001"})


@pytest.mark.parametrize("key", ["pktmirror:packet-per-second", "pktmirror:", "PktMirror:bits-per-second"])
def test_a_key_of_ours_that_means_nothing_is_refused_as_a_slip(key: str) -> None:
    said = problem({key: "5"})
    assert said is not None
    assert PACKETS in said
    assert BITS in said


def test_the_name_in_a_document_is_a_tag_of_ours_and_the_origin_is_nobody_elses_to_say() -> None:
    assert problem({"pktmirror:name": "office/web.1"}) is None
    for value in ("", "office", "office/", "/web", "a/b/c", "office/-web", "o ffice/web"):
        said = problem({"pktmirror:name": value})
        assert said is not None
        assert "a document's name and one in it" in said
    assert problem({"pktmirror:template": "office/web"})

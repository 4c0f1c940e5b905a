"""Rates of copying, as people write and read them."""

import pytest

from pktmirror.model.rate import BITS_PER_S_MAX, PACKETS_PER_S_MAX, UNLIMITED, Rate, default_budget


@pytest.mark.parametrize(
    ("packets", "bits"), [(0, None), (-1, None), (None, 0), (PACKETS_PER_S_MAX + 1, None), (None, BITS_PER_S_MAX + 1)]
)
def test_what_is_no_rate_cannot_be_one(packets: int | None, bits: int | None) -> None:
    with pytest.raises(ValueError, match="is no rate; the least is 1"):
        Rate(packets, bits)


def test_the_least_and_the_most_are_rates() -> None:
    assert Rate(1, 1) != Rate(PACKETS_PER_S_MAX, BITS_PER_S_MAX) != UNLIMITED


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (UNLIMITED, "none"),
        (Rate(packets_per_s=50_000), "50,000 packets/s"),
        (Rate(bits_per_s=1_000_000), "1,000,000 bits/s"),
        (Rate(1, 2), "1 packets/s and 2 bits/s"),
    ],
)
def test_a_rate_reads_as_people_say_it(rate: Rate, text: str) -> None:
    assert str(rate) == text


def test_the_default_budget_grows_with_the_cpus() -> None:
    assert default_budget(2) == Rate(packets_per_s=20_000)
    assert default_budget(64) == Rate(packets_per_s=640_000)

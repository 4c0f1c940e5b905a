"""What the options of a budget mean."""

import pytest

from pktmirror.agent import cpus
from pktmirror.cli.options import budget_of
from pktmirror.model.rate import UNLIMITED, Rate, default_budget


@pytest.mark.parametrize(
    ("packets", "bits", "budget"),
    [
        pytest.param(None, None, default_budget(cpus()), id="none given"),
        pytest.param(0, None, UNLIMITED, id="0 is no limit"),
        pytest.param(7, None, Rate(7), id="packets"),
        pytest.param(0, 8, Rate(None, 8), id="bits alone"),
        pytest.param(7, 0, Rate(7), id="no limit of bits"),
        pytest.param(None, 8, Rate(default_budget(cpus()).packets_per_s, 8), id="bits beside the default"),
    ],
)
def test_a_budget_by_its_options(packets: int | None, bits: int | None, budget: Rate) -> None:
    assert budget_of(packets, bits) == budget

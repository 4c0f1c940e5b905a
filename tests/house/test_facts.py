"""Every fact of the data plane (51 to 82 of the specification) has a test that names it, with real packets.

A test names its facts by ``@pytest.mark.fact(53)``, or a parameter of it by ``marks=pytest.mark.fact(53)``;
``pytest -m fact`` runs all of them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FACTS = range(51, 83)
WITH_REAL_PACKETS = ("lab", "kernel")

NOT_YET = {
    80: "delivery to a gateway load balancer endpoint, by GENEVE: such targets are refused",
}
IN_PART = {
    63: "shown by another desired state; that ModifyTrafficMirrorSession makes one is in tests/contract",
    68: "flow logs, in which copies never appear, are not there yet",
}
"""What a test shows only a part of, and why."""


def facts_named(source: str) -> Iterator[int]:
    """The arguments of every `pytest.mark.fact` in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fact":
            for argument in node.args:
                yield ast.literal_eval(argument)


SHOWN = {
    fact for room in WITH_REAL_PACKETS for path in (TESTS / room).glob("*.py") for fact in facts_named(path.read_text())
}


@pytest.mark.parametrize("number", FACTS)
def test_a_fact_has_a_test_that_names_it_or_a_reason_why_not(number: int) -> None:
    assert (number in SHOWN) != (number in NOT_YET), (
        f"fact {number}: mark the test that shows it with @pytest.mark.fact({number}), or say in {Path(__file__).name} "
        "why there is none; not both"
    )


def test_no_other_number_is_named_a_fact_of_the_data_plane() -> None:
    assert SHOWN | NOT_YET.keys() == set(FACTS)
    assert IN_PART.keys() <= SHOWN


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("@pytest.mark.fact(53, 54)\ndef test_x(): ...", [53, 54]),
        ("pytestmark = [pytest.mark.root, pytest.mark.fact(69)]", [69]),
        ("CASES = [pytest.param(1, marks=pytest.mark.fact(51))]", [51]),
        ("@pytest.mark.long\ndef test_of_fact_53(): ...", []),
    ],
)
def test_every_form_of_naming_is_seen(source: str, facts: list[int]) -> None:
    assert list(facts_named(source)) == facts

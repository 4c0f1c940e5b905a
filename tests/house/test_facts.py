"""Every fact of the control plane (1 to 50 of the specification) has a test that names it, with the real server; every
fact of the data plane (51 to 82) one with real packets.

A test names its facts by ``@pytest.mark.fact(53)``, or a parameter of it by ``marks=pytest.mark.fact(53)``;
``pytest -m fact`` runs all of them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONTROL_PLANE, WITH_THE_SERVER = range(1, 51), ("contract",)
DATA_PLANE, WITH_REAL_PACKETS = range(51, 83), ("lab", "kernel")

NOT_YET = {
    80: "delivery to a gateway load balancer endpoint, by GENEVE: such targets are stored, and nothing is sent to them",
}
IN_PART = {
    47: "no load balancer is delivered to yet, with a listener or without: tests/lab shows that no copy goes out",
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


def shown_in(*rooms: str) -> set[int]:
    return {fact for room in rooms for path in (TESTS / room).glob("*.py") for fact in facts_named(path.read_text())}


SHOWN = {
    fact
    for facts, rooms in ((CONTROL_PLANE, WITH_THE_SERVER), (DATA_PLANE, WITH_REAL_PACKETS))
    for fact in shown_in(*rooms)
    if fact in facts
}


@pytest.mark.parametrize("number", [*CONTROL_PLANE, *DATA_PLANE])
def test_a_fact_has_a_test_that_names_it_or_a_reason_why_not(number: int) -> None:
    rooms = WITH_THE_SERVER if number in CONTROL_PLANE else WITH_REAL_PACKETS
    assert (number in SHOWN) != (number in NOT_YET), (
        f"fact {number}: mark the test in tests/{' or tests/'.join(rooms)} that shows it with "
        f"@pytest.mark.fact({number}), or say in {Path(__file__).name} why there is none; not both"
    )


def test_no_other_number_is_named_a_fact() -> None:
    assert shown_in(*WITH_THE_SERVER, *WITH_REAL_PACKETS) | NOT_YET.keys() == {*CONTROL_PLANE, *DATA_PLANE}
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

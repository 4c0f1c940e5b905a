"""The product's own lab as the test bed."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from pktmirror import lab as product
from pktmirror.lab import Lab, Topology
from pktmirror.model.refusal import Refusal

OF_A_TEST = re.compile(r"t(?P<pid>[0-9]+)-[0-9a-f]{6}(-[0-9]+)?")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if os.geteuid() != 0 and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: run script/test"))


@pytest.fixture(scope="session", autouse=True)
def _labs_of_killed_runs() -> None:
    """Take down what a run that was killed has left; its pid is in the name."""
    for name in product.names():
        found = OF_A_TEST.fullmatch(name)
        if found and not Path("/proc", found["pid"]).exists():
            _down_if_up(name)


@pytest.fixture
def lab_name(request: pytest.FixtureRequest) -> str:
    """A name for a lab that no other test has, and no other run: this one's pid, and a digest of the test's name."""
    return f"t{os.getpid()}-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:6]}"


@pytest.fixture
def lab(lab_name: str) -> Iterator[Callable[[Topology], Lab]]:
    """``lab(topology)`` builds it under the test's own name; it is taken down after the test."""
    numbers = itertools.count(1)

    with ExitStack() as stack:

        def build(topology: Topology) -> Lab:
            number = next(numbers)
            name = lab_name if number == 1 else f"{lab_name}-{number}"
            stack.callback(_down_if_up, name)
            return product.up(msgspec.structs.replace(topology, name=name))

        yield build


def _down_if_up(name: str) -> None:
    if name in product.names():
        try:
            product.down(name)
        except Refusal as refusal:
            pytest.fail(str(refusal))

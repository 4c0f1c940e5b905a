"""The compiled object in the kernel, attached to nothing: the tests give it frames by BPF_PROG_TEST_RUN."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pktmirror.agent.apply import OBJECT
from pktmirror.kernel import bpf
from tests.kernel.bench import Bench

_HERE = Path(__file__).parent
_said: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if os.geteuid() != 0 and item.get_closest_marker("root") and item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.skip(reason="needs root: run script/test"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _said:
        terminalreporter.section("what the kernel tests decided")
        for line in _said:
            terminalreporter.line(line)


@pytest.fixture
def say() -> Callable[[str], None]:
    """Puts a line into the summary of the test run."""
    return _said.append


@pytest.fixture(scope="session")
def object_path() -> Path:
    assert OBJECT.exists(), f"no {OBJECT.name}: run script/build-bpf"
    return OBJECT


@pytest.fixture(scope="session")
def loaded(object_path: Path) -> Iterator[bpf.Object]:
    """Programs and maps of this test run alone; the kernel forgets them when it ends."""
    loaded = bpf.Object(object_path)
    yield loaded
    loaded.close()


@pytest.fixture
def bench(loaded: bpf.Object) -> Iterator[Bench]:
    bench = Bench(loaded)
    yield bench
    bench.close()

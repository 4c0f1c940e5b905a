"""What holds for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import postgresql as server
from tests.budget import FACTOR, examples

LONG_S = 900
"""After which a long test hangs, if it does not say so itself: on a machine that has other work too."""

# The suite asks the same of each version, so that what fails has changed; a soak draws anew each time. No example has a
# deadline of its own, and drawing one may take long: both would measure the machine.
settings.register_profile(
    "budget",
    max_examples=examples(100),
    derandomize=FACTOR == 1,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("budget")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[server.Server]:
    """A PostgreSQL server for all tests of this run that ask for one."""
    programs = server.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: script/setup installs Debian's")
    with server.running(programs) as running:
        yield running

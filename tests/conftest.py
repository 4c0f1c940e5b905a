"""What holds for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import postgresql as server
from tests.budget import examples

settings.register_profile("budget", max_examples=examples(100))
settings.load_profile("budget")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[server.Server]:
    """A PostgreSQL server for all tests of this run that ask for one."""
    programs = server.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: script/setup installs Debian's")
    with server.running(programs) as running:
        yield running

"""What holds for all tests."""

import pytest
from hypothesis import settings

from tests.budget import examples

LONG_S = 900
"""After which a long test hangs, if it does not say so itself: on a machine that has other work too."""

settings.register_profile("budget", max_examples=examples(100))
settings.load_profile("budget")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_S))

"""What holds for all tests."""

from hypothesis import settings

from tests.budget import examples

settings.register_profile("budget", max_examples=examples(100))
settings.load_profile("budget")

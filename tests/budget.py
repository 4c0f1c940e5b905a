"""How many examples a property gets: a part in the suite, many times more in script/soak."""

import os

FACTOR = int(os.environ.get("PKTMIRROR_SOAK", "1"))


def examples(count: int) -> int:
    """As many as the suite has time for, times the factor of a soak."""
    return count * FACTOR


def fuzzed_requests(count: int) -> int:
    """As many requests as the suite has time for, or the number that a soak names."""
    return int(os.environ.get("PKTMIRROR_FUZZED_REQUESTS", str(examples(count))))

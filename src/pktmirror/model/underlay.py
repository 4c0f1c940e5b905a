"""The network on which copies travel from a source's host to a target (spec 5.14)."""

from enum import Enum


class OuterSource(Enum):
    """Whose address a copy carries as its outer source."""

    ENI = "eni"  # the source's own primary address, as AWS has it (spec fact 71)
    HOST = "host"  # what the host itself would use on the route to the target: the route's preferred source

"""The network on which copies travel from a source's host to a target (spec 5.14)."""

from enum import Enum


class OuterSource(Enum):
    """Whose address a copy carries as its outer source."""

    ENI = "eni"  # the source's own primary address, as AWS has it (spec fact 71)
    HOST = "host"  # what the host itself would use on the route to the target: the route's preferred source


class Segmentation(Enum):
    """Who makes the packets on the wire out of a super-packet, and completes their checksums (docs/decisions/0011)."""

    AUTO = "auto"  # the kernel or the card on the way out, where the device leaves it to them; else the host
    HOST = "host"  # the host, before a copy leaves
    UNDERLAY = "underlay"  # whatever is behind the device: the operator knows that nobody looks at copies before it

"""How much a session may copy, as its tags say: EC2's API has no parameter for it (docs/decisions/0009). Pure.

Tags whose keys begin with ``pktmirror:`` are ours, as those with ``aws:`` are AWS's; on anything but a session they are
tags like any other.
"""

from collections.abc import Mapping

from pktmirror.aws import errors
from pktmirror.model.rate import BITS_PER_S_MAX, PACKETS_PER_S_MAX, Rate
from pktmirror.model.template import NAME_TAG, is_full_name

OURS = "pktmirror:"
PACKETS, BITS = f"{OURS}packets-per-second", f"{OURS}bits-per-second"
KEYS = (PACKETS, BITS)
_MOST = {PACKETS: PACKETS_PER_S_MAX, BITS: BITS_PER_S_MAX}


def cap_of(tags: Mapping[str, str]) -> Rate:
    """The cap of a session with these tags. What is no rate was never taken by `problem`, and is none."""
    return Rate(_number(PACKETS, tags.get(PACKETS)), _number(BITS, tags.get(BITS)))


def problem(tags: Mapping[str, str]) -> str | None:
    """Why a session cannot have these tags, in a sentence; None where it can."""
    for key, value in tags.items():
        if not key.lower().startswith(OURS):
            continue
        if key == NAME_TAG:
            if not is_full_name(value):
                return (
                    f"Value ({errors.echo(value)}) for the tag {key} is invalid. It is a document's name and one in it"
                )
            continue
        if key not in _MOST:
            return (
                f"Value ({errors.echo(key)}) for parameter key is invalid. Of the keys that begin with '{OURS}' a "
                f"session takes {PACKETS} and {BITS}"
            )
        if _number(key, value) is None:
            return (
                f"Value ({errors.echo(value)}) for the tag {key} is invalid. It is a number from 1 to {_MOST[key]}; "
                "without the tag there is no cap"
            )
    return None


def _number(key: str, value: str | None) -> int | None:
    if value is None or not (value.isascii() and value.isdecimal()) or len(value) > len(str(_MOST[key])):
        return None
    return int(value) if 1 <= int(value) <= _MOST[key] else None

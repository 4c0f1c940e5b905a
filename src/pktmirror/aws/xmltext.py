"""Text inside XML 1.0: which characters it can carry, and how it is escaped."""

import re

UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document can carry, not even escaped (XML 1.0, section 2.2, Char)."""

_PLAIN = re.compile("[0-9A-Za-z ./:_-]*")
"""Most of what is written: ids, names, addresses."""

# A bare carriage return would reach the client as a line feed (XML 1.0, section 2.11).
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


def escape(text: str) -> str:
    """Text as element content. What XML cannot carry becomes U+FFFD, so that every answer stays readable.

    Values from clients never need that: `query.parse` refuses them. Names found on a host may.
    """
    if _PLAIN.fullmatch(text):
        return text
    return UNWRITABLE.sub("\ufffd", text).translate(_ESCAPES)

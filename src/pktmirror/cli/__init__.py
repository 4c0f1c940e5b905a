"""The command `pktmirror`: the one place where the rooms are put together. Nouns show, verbs change."""

from pktmirror.cli.program import main

__all__ = ["main"]

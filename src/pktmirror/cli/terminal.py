"""Where tables are printed. What they show comes from elsewhere, so nothing of it is read as markup."""

import os
import sys

from rich.console import Console

UNBOUNDED_COLUMNS = 200


def terminal() -> Console:
    """The console; into a pipe or a file it is so wide that no id is broken, unless COLUMNS says otherwise."""
    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(markup=False, highlight=False, width=None if bounded else UNBOUNDED_COLUMNS)

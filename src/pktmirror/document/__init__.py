"""The declarative document: what `pktmirror apply` reads and `pktmirror export` writes, and the plan between. Pure.

`parse` makes a `Document` of text, `plan` the changes from a `State` to it, `exported` a document of a state, and
`written` text of that.
"""

from pktmirror.document.changes import Change, Kind, Left, Made, Plan, Verb, filled, id_made
from pktmirror.document.export import exported
from pktmirror.document.form import parse
from pktmirror.document.plan import plan
from pktmirror.document.state import (
    FilterState,
    RuleState,
    SessionState,
    State,
    TargetState,
)
from pktmirror.document.text import Malformed, Mark, Problem
from pktmirror.document.values import DEFAULT_DOCUMENT, Destination, Document
from pktmirror.document.writing import written

__all__ = [
    "DEFAULT_DOCUMENT",
    "Change",
    "Destination",
    "Document",
    "FilterState",
    "Kind",
    "Left",
    "Made",
    "Malformed",
    "Mark",
    "Plan",
    "Problem",
    "RuleState",
    "SessionState",
    "State",
    "TargetState",
    "Verb",
    "exported",
    "filled",
    "id_made",
    "parse",
    "plan",
    "written",
]

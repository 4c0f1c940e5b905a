"""Who may do what: policy documents, and what they decide about a request. Pure; no clock, no store.

`parse` reads a document and refuses what it does not know; `decide` says what policies make of a request.
Written from the pages "IAM JSON policy elements reference" and "Policy evaluation logic" of the AWS IAM user guide.
"""

from pktmirror.iam.access import Access, Effect, Verdict, decide
from pktmirror.iam.document import parse
from pktmirror.iam.effort import characters
from pktmirror.iam.malformed import Malformed
from pktmirror.iam.statement import Policy

__all__ = ["Access", "Effect", "Malformed", "Policy", "Verdict", "characters", "decide", "parse"]

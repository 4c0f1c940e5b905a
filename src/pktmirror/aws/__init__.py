"""The AWS wire without I/O: signed forms in, values out; values in, XML out. Driven by botocore's models. `json` is
the same for the one service that clients speak JSON to, `rest_json` for the one that has paths.

`verify` says who signed a request, `parse` makes its body a `Call`; `success` makes a result XML, `failure` an
`ApiError`. What a call means is decided by the control plane.
"""

from pktmirror.aws import errors, json, rest_json
from pktmirror.aws.errors import ApiError
from pktmirror.aws.query import BODY_BYTES_MAX, Call, parse
from pktmirror.aws.response import CONTENT_TYPE, failure, success
from pktmirror.aws.service import SERVICES
from pktmirror.aws.sigv4 import SignedRequest, Signer, claimed_service, verify

__all__ = [
    "BODY_BYTES_MAX",
    "CONTENT_TYPE",
    "SERVICES",
    "ApiError",
    "Call",
    "SignedRequest",
    "Signer",
    "claimed_service",
    "errors",
    "failure",
    "json",
    "parse",
    "rest_json",
    "success",
    "verify",
]

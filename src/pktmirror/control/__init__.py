"""The control plane: EC2's traffic mirror API over a store, the inventory of interfaces, and what each host must do.

`serve` runs it; `environment` gives an AWS client what it needs to talk to it; `back_up` and `restore` keep it.
"""

from pktmirror.control.backup import Contents, back_up, restore
from pktmirror.control.connections import ClientLimits
from pktmirror.control.daemon import DEFAULT_LISTEN, DEFAULT_REGION, Settings, serve
from pktmirror.control.statedir import environment
from pktmirror.control.trail import read as audit_records

__all__ = [
    "DEFAULT_LISTEN",
    "DEFAULT_REGION",
    "ClientLimits",
    "Contents",
    "Settings",
    "audit_records",
    "back_up",
    "environment",
    "restore",
    "serve",
]

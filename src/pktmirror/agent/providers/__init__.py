"""Who provides interfaces, beside network namespaces and NICs: engines of containers, virtual machines and pods.

An `Engine` is asked what instances it has; each kind is one file. Each is asked in a thread of its own (`asking`), so
that one which is slow or away delays nothing. What they have told is put to the interfaces that were found (`naming`,
pure): names, owners, labels, and a key that outlives the names that an engine gives out anew. What they told of taps
is kept over restarts of the agent (`memory`).
"""

from pktmirror.agent.providers.asking import Asking
from pktmirror.agent.providers.engine import Engine, Instance, Tap, Told
from pktmirror.agent.providers.memory import Memory
from pktmirror.agent.providers.naming import Known, instance_id_of, named
from pktmirror.agent.providers.roster import Roster
from pktmirror.agent.providers.standard import engines_of

__all__ = [
    "Asking",
    "Engine",
    "Instance",
    "Known",
    "Memory",
    "Roster",
    "Tap",
    "Told",
    "engines_of",
    "instance_id_of",
    "named",
]

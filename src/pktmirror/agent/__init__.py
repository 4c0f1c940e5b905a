"""The agent: finds a host's interfaces, makes the desired state true in the kernel, and reports back.

The only room that translates EC2's words into the kernel's; the border is `compile`.
"""

from pktmirror.agent.apply import OBJECT, is_agent_id
from pktmirror.agent.daemon import DEFAULT_BPFFS, Settings, look, purge_host, run, stop_agent
from pktmirror.agent.departures import NAMESPACE_GONE_S
from pktmirror.agent.host import cpus
from pktmirror.agent.identity import Identity
from pktmirror.agent.joining import join
from pktmirror.agent.line import Uplink
from pktmirror.agent.providers import engines_of
from pktmirror.agent.renewal import Renewal

__all__ = [
    "DEFAULT_BPFFS",
    "NAMESPACE_GONE_S",
    "OBJECT",
    "Identity",
    "Renewal",
    "Settings",
    "Uplink",
    "cpus",
    "engines_of",
    "is_agent_id",
    "join",
    "look",
    "purge_host",
    "run",
    "stop_agent",
]

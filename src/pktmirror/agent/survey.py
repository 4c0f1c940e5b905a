"""One look at a host: its links, and into every network namespace that its veths lead to. An edge module.

A namespace without a name is found by the processes that are in it, and known by whose they are.
"""

import contextlib
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

import structlog

from pktmirror.agent.containers import Owner, Process, is_made_up, owner_of
from pktmirror.agent.hops import HOP_PREFIX
from pktmirror.agent.inventory import Device, HostView, NamespaceView, devices
from pktmirror.kernel import netns
from pktmirror.kernel.netlink import Netlink

_log = structlog.get_logger("agent")
_STARTED_AT = 19  # field 22 of proc_pid_stat(5), counted from behind the command's name


def survey(
    netlink: Netlink, known_macs: Mapping[int, str], made_up: MutableMapping[str, Owner] | None = None
) -> list[Device]:
    """All interfaces, as they are now; ``known_macs`` are those behind devices at the last look, by ifindex.

    ``made_up`` keeps whose the namespaces are that a runtime has named: at their end they are empty for a while.
    """
    links = tuple(netlink.links())
    nsids = {link.peer_nsid for link in links if link.kind == "veth" and link.peer_nsid is not None}
    namespaces = _named(netlink, nsids, {} if made_up is None else made_up) if nsids else {}
    if nsids - namespaces.keys():
        namespaces |= _of_containers(netlink, nsids - namespaces.keys())
    unseen = any(link.kind == "tun" for link in links) or bool(nsids - namespaces.keys())
    host = HostView(
        links,
        tuple(netlink.addresses()),
        tuple(netlink.neighbours()),
        tuple(netlink.forwarding_entries()) if unseen else (),
        known_macs,
    )
    return devices(host, namespaces, own_prefix=HOP_PREFIX)


def _named(netlink: Netlink, nsids: set[int], made_up: MutableMapping[str, Owner]) -> dict[int, NamespaceView]:
    """The named namespaces to which links of this one lead, by nsid.

    One that a runtime has named belongs to the container or pod that is in it, where that can be told.
    """
    views: dict[int, NamespaceView] = {}
    names = netns.names()
    for name in made_up.keys() - set(names):
        del made_up[name]
    made_up.update(_owners_of([name for name in names if is_made_up(name) and name not in made_up]))
    for name in names:
        try:
            nsid = netlink.nsid_of(netns.path(name))
            if nsid is not None and nsid in nsids:
                own, owner = Owner("netns", name), made_up.get(name)
                views[nsid] = _visited(name, own) if owner is None else _visited(name, owner, own)
        except OSError as error:  # it was removed, or is only the file of one
            _log.debug("a network namespace cannot be looked into", name=name, why=str(error))
    return views


def _owners_of(names: Sequence[str]) -> dict[str, Owner]:
    """Whose named namespaces are, by the processes in them; those that nobody is in are left out."""
    inodes: dict[int, str] = {}
    for name in names:
        with contextlib.suppress(OSError):  # it was removed
            inodes[netns.inode(name)] = name
    inside: defaultdict[str, list[int]] = defaultdict(list)
    for pid, inode in netns.processes(frozenset(inodes)) if inodes else ():
        inside[inodes[inode]].append(pid)
    owners = {
        name: owner_of(process for pid in pids if (process := _process(pid)) is not None)
        for name, pids in inside.items()
    }
    return {name: owner for name, owner in owners.items() if owner is not None}


def _of_containers(netlink: Netlink, nsids: set[int]) -> dict[int, NamespaceView]:
    """The namespaces of containers to which links of this one lead, by nsid."""
    inside: defaultdict[int, list[int]] = defaultdict(list)
    for pid, inode in netns.processes():
        inside[inode].append(pid)
    views: dict[int, NamespaceView] = {}
    for inode, pids in inside.items():
        try:
            with netns.file_of_process(pids[0], inode) as file:
                nsid = netlink.nsid_of(file)
                if nsid is None or nsid not in nsids:
                    continue
                owner = owner_of(process for pid in pids if (process := _process(pid)) is not None)
                if owner is not None:
                    views[nsid] = _visited(file, owner)
        except OSError as error:  # it has ended meanwhile
            _log.debug("the network namespace of a process cannot be looked into", pid=pids[0], why=str(error))
    return views


def _process(pid: int) -> Process | None:
    """None where it has ended."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Process(int(after_name[_STARTED_AT]), Path(f"/proc/{pid}/cgroup").read_text(errors="replace"))
    except (OSError, IndexError):
        return None


def _visited(namespace: str | Path, owner: Owner, plain: Owner | None = None) -> NamespaceView:
    with netns.Visitor(namespace) as inside:
        return inside.run(_view, owner, plain)


def _view(owner: Owner, plain: Owner | None) -> NamespaceView:
    with Netlink() as netlink:
        return NamespaceView(owner, tuple(netlink.links()), tuple(netlink.addresses()), plain)

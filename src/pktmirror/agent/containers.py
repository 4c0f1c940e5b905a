"""Whose a process is, by the name of its control group: a container's, or a pod's. Pure.

Runtimes put the id of what they run into that name (the OCI runtime specification's cgroupsPath; the kubelet's
``pod<uid>``). It outlives a restart, which a network namespace and a process do not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_POD = re.compile(r"(?:^|[/-])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?(?=/|$)")
_LXC = re.compile(r"(?:^|/)lxc\.payload\.([^/]+)")
_MADE_UP = re.compile(r"(?:cni|netns)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORT = 12  # characters of a container's id, as runtimes show it


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a network namespace; ``provider`` and ``name`` begin the key of its interfaces."""

    provider: str
    name: str

    @property
    def instance(self) -> str:
        return self.name[:_SHORT] if self.provider == "container" else self.name


@dataclass(frozen=True, slots=True)
class Process:
    """A process in a network namespace: when it began, in clock ticks since boot, and its /proc/PID/cgroup."""

    started_ticks: int
    cgroup: str


def is_made_up(name: str) -> bool:
    """Whether a runtime has made up this name of a network namespace: containerd or CRI-O, or Podman, at each start."""
    return _MADE_UP.fullmatch(name) is not None


def owner_of(processes: Iterable[Process]) -> Owner | None:
    """The owner of the network namespace that these are in; None where no runtime's name is found.

    Containers that share another's network namespace come after that one.
    """
    for process in sorted(processes, key=lambda process: process.started_ticks):
        found = _owner(process.cgroup)
        if found is not None:
            return found
    return None


def _owner(cgroup: str) -> Owner | None:
    """By the first hierarchy of the process that tells; each line is ``number:controllers:path``."""
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        containers = _CONTAINER.findall(path)
        pod = _POD.search(path)
        if pod is not None and len(containers) <= 1:  # more: a container within a container of the pod
            return Owner("pod", pod[1].replace("_", "-"))
        if containers:
            return Owner("container", containers[-1])
        lxc = _LXC.search(path)
        if lxc is not None:
            return Owner("lxc", lxc[1])
    return None

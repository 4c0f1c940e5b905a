"""Which engines an agent asks: those at the standard places, and those that the operator names. An edge module.

No engine is looked for anywhere else.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pktmirror.agent.providers.docker import Docker
from pktmirror.agent.providers.engine import Engine
from pktmirror.agent.providers.kubernetes import Kubernetes
from pktmirror.agent.providers.libvirt import Libvirt
from pktmirror.model.refusal import Refusal

DOCKER_SOCKET = Path("/run/docker.sock")
PODMAN_SOCKET = Path("/run/podman/podman.sock")
NONE = "none"

_KINDS: dict[str, Callable[[str], Engine]] = {
    "docker": lambda where: Docker("docker", _socket(where), configured=True),
    "podman": lambda where: Docker("podman", _socket(where), configured=True),
    "libvirt": lambda where: Libvirt(where, configured=True),
    "kubernetes": Kubernetes.of,
}


def engines_of(options: Sequence[str]) -> tuple[Engine, ...]:
    """The engines of ``KIND=WHERE`` each, ``none`` for none at all; without options those at the standard places.

    Raises Refusal.
    """
    if not options:
        return (Docker("docker", DOCKER_SOCKET), Docker("podman", PODMAN_SOCKET), Libvirt())
    return tuple(_engine(option) for option in dict.fromkeys(options) if option != NONE)


def _engine(option: str) -> Engine:
    kind, equals, where = option.partition("=")
    if kind not in _KINDS or not equals or not where:
        raise Refusal(
            f"{option!r} names no engine.",
            do=f"write KIND=WHERE with one of {', '.join(sorted(_KINDS))}, as in docker={DOCKER_SOCKET}; or {NONE}",
        )
    return _KINDS[kind](where)


def _socket(where: str) -> Path:
    path = Path(where.removeprefix("unix://"))
    if not path.is_absolute() or len(os.fsencode(path)) > 107:  # sockaddr_un, unix(7)
        raise Refusal(f"{where!r} is no socket.", do="give its path, absolute and of 107 bytes at most")
    return path

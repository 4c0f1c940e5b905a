"""Whether anybody listens where copies are sent to, as far as this machine can tell. An edge module.

A target in a network namespace with a name, or at an interface of the host itself, can be looked at; who listens at
another machine, or in a virtual one, only shows by its errors (spec 5.17).
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import structlog

from pktmirror.agent.inventory import Device
from pktmirror.kernel import netns

Address = IPv4Address | IPv6Address

LOOK_EVERY_S = 2.0
TARGETS_MAX = 64
"""How many targets are looked at; of the others nothing is told."""

_UNCONNECTED = "07"
_log = structlog.get_logger("agent")


class Listeners:
    """What was found at the last look, by the target's address."""

    def __init__(self) -> None:
        self._looked_at_s = float("-inf")
        self._targets: frozenset[tuple[Address, int]] = frozenset()
        self._found: Mapping[Address, bool] = {}

    def at(
        self, targets: frozenset[tuple[Address, int]], devices: Iterable[Device], now_s: float
    ) -> Mapping[Address, bool]:
        """Looks at other targets at once, and at the same ones now and then. To be called in the agent's namespace."""
        if targets != self._targets or now_s - self._looked_at_s >= LOOK_EVERY_S:
            self._targets, self._looked_at_s = targets, now_s
            self._found = dict(_look(targets, list(devices)))
        return self._found


def is_heard(udp_sockets: str, address: Address, port: int) -> bool:
    """Whether the text of /proc/net/udp or udp6 (proc_pid_net(5)) has a socket that takes what is sent there."""
    for line in udp_sockets.splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        bound, _, bound_port = local.rpartition(":")
        if state == _UNCONNECTED and int(bound_port, 16) == port and _takes(_address(bound), address):
            return True
    return False


def _takes(bound: Address, address: Address) -> bool:
    if isinstance(bound, IPv6Address) and bound.ipv4_mapped is not None:
        bound = bound.ipv4_mapped
    return bound == address or (bound.is_unspecified and not (bound.version == 4 and address.version == 6))


def _address(text: str) -> Address:
    """The kernel prints the address in 32-bit words, each in the byte order of the machine."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return ip_address(b"".join(words))


def _look(targets: Iterable[tuple[Address, int]], devices: list[Device]) -> Iterator[tuple[Address, bool]]:
    owners = {address: device for device in devices for address in device.found.addresses}
    for address, port in sorted(targets, key=str)[:TARGETS_MAX]:
        owner = owners.get(str(address))
        if owner is None:
            continue
        try:
            if owner.found.provider == "nic":
                yield address, _hears(address, port)
            elif owner.found.provider == "netns" and owner.found.instance is not None:
                with netns.Visitor(owner.found.instance) as inside:
                    yield address, inside.run(_hears, address, port)
        except (OSError, ValueError) as error:  # it was removed meanwhile
            _log.debug("nobody can see who listens", address=str(address), why=str(error))


def _hears(address: Address, port: int) -> bool:
    return any(
        is_heard(file.read_text(), address, port)
        for file in (Path("/proc/thread-self/net/udp"), Path("/proc/thread-self/net/udp6"))
        if file.exists()  # a kernel without IPv6 has no second one
    )

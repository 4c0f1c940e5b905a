"""The policies of the mirrored interfaces in the kernel, by ifindex. An edge module.

The maps are those of bpf/maps.h: an array for all ifindexes below its size, which a program looks into without a call,
and a hash for those above, which a host reaches that makes and drops devices all day.
"""

from pktmirror.agent import abi
from pktmirror.kernel import bpf

_FIRST = bytes(4)


class Policies:
    """A policy is swapped as a whole: once `put` returns, no packet sees the old one any more."""

    def __init__(self, near: bpf.Map, far: bpf.Map) -> None:
        self._near, self._far = near, far

    def put(self, ifindex: int, value: bytes) -> None:
        with bpf.create_array("policy", value) as policy:
            self._map_of(ifindex).put(_key(ifindex), _key(policy.fd))

    def drop(self, ifindex: int) -> None:
        """Also where there is none."""
        if self._map_of(ifindex).get(_key(ifindex)) is not None:
            self._map_of(ifindex).delete(_key(ifindex))

    def get(self, ifindex: int) -> bytes | None:
        """The policy in force, with its generation; None where the device is not mirrored."""
        map_id = self._map_of(ifindex).get(_key(ifindex))
        return None if map_id is None else _read(map_id)

    def all(self) -> dict[int, bytes]:
        found = [*self._near.items(), *self._far.items()]
        return {int.from_bytes(key, "little"): _read(map_id) for key, map_id in found}

    def _map_of(self, ifindex: int) -> bpf.Map:
        return self._near if ifindex < self._near.entries_max else self._far


def _read(map_id: bytes) -> bytes:
    with bpf.Map.of_id(int.from_bytes(map_id, "little")) as policy:
        return policy.get(_FIRST) or bytes(bytearray(abi.InterfacePolicy()))


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")

"""Which interfaces their provider has deleted: those of a network namespace whose name was there and is gone. Pure.

A device that vanishes while its namespace is there is no deletion, nor is what an agent did not see happen: it may have
been away. A name that comes back in time is a restart of what it names (docs/decisions/0006).
"""

from collections.abc import Collection, Iterable, Mapping

from pktmirror.agent.inventory import Device

NAMESPACE_GONE_S = 10.0
"""So long a name must be gone before its namespace counts as deleted: what is restarted has it back by then."""

NAMESPACES_MAX = 4096
"""Of so many deleted namespaces an agent goes on telling, the latest. What it told before was heard long ago."""


def keys_by_name(devices: Iterable[Device]) -> dict[str, list[str]]:
    """The interfaces in named network namespaces, by the name; a runtime may have made that up."""
    keys: dict[str, list[str]] = {}
    for device in devices:
        plain_key = device.found.key if device.found.plain_key is None else device.found.plain_key
        if plain_key.startswith("netns:"):
            keys.setdefault(plain_key.partition(":")[2].rpartition("/")[0], []).append(device.found.key)
    return keys


class Departures:
    """What was seen since the start of the agent. A deletion is told in every report until the name is there again."""

    def __init__(self, gone_s: float = NAMESPACE_GONE_S) -> None:
        self._gone_s = gone_s
        self._keys: dict[str, set[str]] = {}
        self._gone_since_s: dict[str, float] = {}

    def looked(self, keys: Mapping[str, Collection[str]], names: Collection[str], now_s: float) -> None:
        """Take in the interfaces seen now, by the name of their namespace, and all names that there are."""
        for name, seen in keys.items():
            self._keys.setdefault(name, set()).update(seen)
        for name in self._keys:
            if name in names:
                self._gone_since_s.pop(name, None)
            else:
                self._gone_since_s.setdefault(name, now_s)
        for name in list(self._gone_since_s)[: max(0, len(self._gone_since_s) - NAMESPACES_MAX)]:
            del self._gone_since_s[name], self._keys[name]

    def deleted(self, now_s: float) -> tuple[str, ...]:
        """The keys of the interfaces whose namespaces count as deleted, sorted."""
        gone = [name for name, since_s in self._gone_since_s.items() if now_s - since_s >= self._gone_s]
        return tuple(sorted(key for name in gone for key in self._keys[name]))

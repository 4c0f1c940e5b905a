"""All engines of a host, and what they have told: names for the devices that were found, and deletions.

Nothing here waits for an engine, but for `start`, which gives them a second.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from pktmirror.agent.departures import NAMESPACE_GONE_S, Departures
from pktmirror.agent.inventory import Device
from pktmirror.agent.providers.asking import Asking
from pktmirror.agent.providers.engine import Engine
from pktmirror.agent.providers.memory import Memory
from pktmirror.agent.providers.naming import Known, named, within
from pktmirror.desired import EngineStatus

START_WAIT_S = 1.0
"""So long the agent's first look waits for the first answers, so that it knows whose taps are."""


FACTS_BYTES_MAX = 4 << 20
"""Of all interfaces in a report, which has 16 MiB."""


class Roster:
    """``on_change`` is called in a thread of an engine when that tells something else than before."""

    def __init__(
        self,
        engines: Iterable[Engine] = (),
        memory: Memory | None = None,
        *,
        on_change: Callable[[], None] = lambda: None,
        gone_s: float = NAMESPACE_GONE_S,
    ) -> None:
        self.askings = [Asking(engine, on_change) for engine in engines]
        self._departures = [Departures(gone_s) for _ in self.askings]
        self._memory = memory
        self._bonds = {} if memory is None else memory.read()
        self._since_s: dict[int, float] = {}
        self._left_out: Counter[str] = Counter()

    def start(self, ifindexes: Iterable[int]) -> None:
        """Begin to ask. ``ifindexes`` are the devices that are there already."""
        self.saw(ifindexes)
        for asking in self.askings:
            asking.start()
        until_s = time.monotonic() + START_WAIT_S
        for asking in self.askings:
            asking.wait(until_s)

    def stop(self) -> None:
        for asking in self.askings:
            asking.stop()

    def soon(self) -> None:
        """Something has changed on the host: ask all."""
        for asking in self.askings:
            asking.soon()

    def saw(self, ifindexes: Iterable[int]) -> None:
        """These devices are there, and no others."""
        now_s = time.monotonic()
        self._since_s = {ifindex: self._since_s.get(ifindex, now_s) for ifindex in ifindexes}

    def versions(self) -> tuple[tuple[int, bool], ...]:
        """Another value, and `named` may say something else of the same devices."""
        return tuple((asking.standing.answers, asking.standing.problem is None) for asking in self.askings)

    def named(self, devices: Sequence[Device], *, keys_of_engines: bool) -> list[Device]:
        """The devices of the last look, with all that engines know of them."""
        self.saw(device.ifindex for device in devices)
        found, self._bonds = named(devices, self._known(), self._bonds, self._since_s, keys_of_engines=keys_of_engines)
        if self._memory is not None:
            self._memory.keep(self._bonds)
        self._take_in(found)
        found, self._left_out = within(found, FACTS_BYTES_MAX)
        return found

    def _known(self) -> list[Known]:
        standings = [(asking.engine, asking.standing) for asking in self.askings]
        return [
            Known(engine.name, engine.provider, standing.told, standing.problem is None)
            for engine, standing in standings
            if standing.told is not None
        ]

    def _take_in(self, found: Iterable[Device]) -> None:
        """Which interfaces belong to which instance. Only the engine that lists an instance says when it is deleted."""
        keys: dict[str, list[str]] = {}
        for device in found:
            if device.found.facts is not None:
                keys.setdefault(device.found.facts.instance_id, []).append(device.found.key)
        for asking, departures in zip(self.askings, self._departures, strict=True):
            told = asking.standing.told
            if told is not None:
                mine = {id_: of_instance for id_, of_instance in keys.items() if id_ in told.instances}
                departures.looked(mine, told.instances.keys(), time.monotonic())

    def knows(self, instance_id: str) -> bool:
        """Whether an engine lists the instance."""
        return any(
            asking.standing.told is not None and instance_id in asking.standing.told.instances
            for asking in self.askings
        )

    def deleted(self) -> tuple[str, ...]:
        """The keys of the interfaces whose instances their engine has deleted, sorted."""
        now_s = time.monotonic()
        return tuple(sorted({key for departures in self._departures for key in departures.deleted(now_s)}))

    def statuses(self) -> tuple[EngineStatus, ...]:
        """How it stands with each engine that there is, or was."""
        told = (asking.status() for asking in self.askings)
        return tuple(
            msgspec.structs.replace(status, left_out=self._left_out[status.engine])
            for status in told
            if status is not None
        )

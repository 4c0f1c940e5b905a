"""What engines have told, put to the interfaces that were found: whose each is, and under which key. Pure.

A container's or pod's interface has its engine's id in its key, so that engines only add to it. A tap is known by its
name; one whose name libvirt has made up becomes ``libvirt:UUID/MAC``. Such a name is another machine's soon, so an
answer counts for a tap only if it was asked for after the tap was there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from pktmirror.agent.inventory import Device
from pktmirror.agent.providers.engine import Instance, Tap, Told
from pktmirror.agent.providers.libvirt import is_generated
from pktmirror.desired import InstanceFacts


@dataclass(frozen=True, slots=True)
class Known:
    """What an engine told last, and whether its last question was answered."""

    engine: str
    provider: str
    told: Told
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Bond:
    """Which machine is behind a tap, and who said so."""

    engine: str
    provider: str
    instance: Instance
    tap: Tap


def named(
    devices: Iterable[Device],
    known: Sequence[Known],
    remembered: Mapping[int, Bond],
    since_s: Mapping[int, float],
    *,
    keys_of_engines: bool,
) -> tuple[list[Device], dict[int, Bond]]:
    """The devices with what engines told, and the taps whose machines are known, by ifindex.

    ``remembered`` is the latter of before; ``since_s`` says since when a device is there, by ifindex. A tap with a
    made-up name that is waiting for its engine's next answer is left out. ``keys_of_engines`` False: keys stay as they
    are without engines, for a control plane that does not know of them.
    """
    behind = _by_tap(known)
    bonds: dict[int, Bond] = {}
    found: list[Device] = []
    for device in devices:
        if device.found.provider != "tap":
            found.append(_of_instance(device, known))
            continue
        bond = _bond(device, known, behind, remembered.get(device.ifindex), since_s)
        if bond is not None:
            bonds[device.ifindex] = bond
            found.append(_behind_tap(device, bond))
        elif not _waits(device, known, since_s):
            found.append(device)
    keys = Counter(device.found.key for device in found)  # a machine may have one MAC address twice
    return [
        device if keys_of_engines and keys[device.found.key] == 1 else _under_plain_key(device) for device in found
    ], bonds


def within(devices: Sequence[Device], bytes_max: int) -> tuple[list[Device], Counter[str]]:
    """The devices without what does not fit into a report, the longest first; how many that are, by engine."""
    sizes = sorted((_size_bytes(device.found.facts), device.ifindex) for device in devices)
    cut: set[int] = set()
    for size_bytes, ifindex in sizes:
        bytes_max -= size_bytes
        if bytes_max < 0:
            cut.add(ifindex)
    left_out = Counter(device.found.facts.engine for device in devices if device.ifindex in cut and device.found.facts)
    return [
        replace(device, found=msgspec.structs.replace(device.found, facts=None)) if device.ifindex in cut else device
        for device in devices
    ], left_out


def _size_bytes(facts: InstanceFacts | None) -> int:
    return 0 if facts is None else len(msgspec.json.encode(facts))


def instance_id_of(key: str) -> str:
    """The instance in the key of an interface that belongs to one."""
    return key.partition(":")[2].rpartition("/")[0]


def _of_instance(device: Device, known: Iterable[Known]) -> Device:
    for engine in known:
        if engine.provider == device.found.provider:
            instance = engine.told.instances.get(instance_id_of(device.found.key))
            if instance is not None:
                facts = _facts(engine.engine, instance)
                return replace(device, found=msgspec.structs.replace(device.found, facts=facts))
    return device


def _by_tap(known: Iterable[Known]) -> dict[tuple[str, str], Bond]:
    """By engine and device."""
    return {
        (engine.engine, tap.device): Bond(engine.engine, engine.provider, instance, tap)
        for engine in known
        for instance in engine.told.instances.values()
        for tap in instance.taps
    }


def _bond(
    device: Device,
    known: Iterable[Known],
    behind: Mapping[tuple[str, str], Bond],
    remembered: Bond | None,
    since_s: Mapping[int, float],
) -> Bond | None:
    """By an answer that is new enough, else by what was known of this device before."""
    for engine in known:
        if engine.told.asked_at_s < since_s.get(device.ifindex, float("-inf")):
            continue
        told = behind.get((engine.engine, device.found.device))
        if told is not None:
            return told
        if remembered is not None and remembered.engine == engine.engine:
            return None  # it is that engine's no more
    if remembered is not None and remembered.tap.device == device.found.device:
        return remembered
    return None


def _waits(device: Device, known: Iterable[Known], since_s: Mapping[int, float]) -> bool:
    """Whether the next answer will say whose tap it is: until then it would be taken for a new interface."""
    return is_generated(device.found.device) and any(
        engine.provider == "libvirt" and engine.answers and engine.told.asked_at_s < since_s.get(device.ifindex, 0.0)
        for engine in known
    )


def _behind_tap(device: Device, bond: Bond) -> Device:
    """The engine has set the machine's MAC address: it is known before anybody has heard it."""
    found = device.found
    is_heard = found.mac == bond.tap.mac
    generated = bond.tap.generated
    told = msgspec.structs.replace(
        found,
        key=f"{bond.provider}:{bond.instance.instance_id}/{bond.tap.mac}" if generated else found.key,
        plain_key=found.key if generated else None,
        provider=bond.provider,
        instance=bond.instance.instance_id,
        mac=bond.tap.mac,
        not_mirrorable=found.not_mirrorable if is_heard else None,
        neighbours=found.neighbours if is_heard else (),
        facts=_facts(bond.engine, bond.instance),
    )
    return replace(device, found=told)


def _under_plain_key(device: Device) -> Device:
    if device.found.plain_key is None:
        return device
    return replace(device, found=msgspec.structs.replace(device.found, key=device.found.plain_key, plain_key=None))


def _facts(engine: str, instance: Instance) -> InstanceFacts:
    return InstanceFacts(
        engine=engine,
        instance_id=instance.instance_id,
        name=instance.name,
        owner=instance.owner,
        labels=dict(instance.labels),
    )

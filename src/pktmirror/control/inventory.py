"""What an agent found against what is known: which interfaces are new, changed, gone, or back. Pure.

An interface is what its provider calls it, on its host (spec 5.15). Its EC2 id is given once and stored. One that
vanishes is detached and keeps its sessions; it heals when it returns.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import msgspec

from pktmirror.control.records import InterfaceRecord, declared_address
from pktmirror.desired import FoundInterface, Report
from pktmirror.model.ids import Prefix, new_id
from pktmirror.networks import Networks


def changes(
    known: Iterable[InterfaceRecord],
    report: Report,
    now_s: float,
    networks: Networks | None = None,
    *,
    interface_id: Callable[[], str] = lambda: new_id(Prefix.INTERFACE),
) -> list[InterfaceRecord]:
    """The records to store, given all that is known of the report's host. Empty when nothing has changed."""
    by_key = {record.found.key: record for record in known}
    by_plain_key = {record.found.plain_key: record for record in by_key.values() if record.found.plain_key is not None}
    reported = {found.key for found in report.interfaces}
    changed: list[InterfaceRecord] = []
    for found in report.interfaces:
        record = by_key.pop(found.key, None)
        if record is None:
            record = _under_its_other_key(found, by_key, by_plain_key, reported)
            if record is not None:
                del by_key[record.found.key]
        if record is None:
            address = None if networks is None else declared_address(networks, report.host_id, found)
            record = InterfaceRecord(interface_id(), report.host_id, found, None, address)
            changed.append(replace(record, found=_with_one_neighbour(None, found)))
            continue
        now = _with_facts(record.found, _with_one_neighbour(record.found, found))
        if record.found != now or not record.attached:
            changed.append(replace(record, found=now, detached_at_s=None))
    gone = [replace(record, detached_at_s=now_s) for record in by_key.values() if record.attached]
    return changed + gone


def deleted(known: Iterable[InterfaceRecord], report: Report) -> list[InterfaceRecord]:
    """The interfaces that their provider has deleted, as its agent says (spec 5.15).

    One that the same report lists is there, whatever else it says.
    """
    there = {found.key for found in report.interfaces}
    gone = set(report.deleted) - there
    return [record for record in known if record.found.key in gone]


def _under_its_other_key(
    found: FoundInterface,
    by_key: Mapping[str, InterfaceRecord],
    by_plain_key: Mapping[str, InterfaceRecord],
    reported: Collection[str],
) -> InterfaceRecord | None:
    """The record of an interface from before an engine told whose it is, or from before an agent had to do without.

    A name may have been given out anew meanwhile: what has another MAC address is another interface.
    """
    if found.plain_key is not None:
        record = by_key.get(found.plain_key)
        same = record is not None and record.found.mac in (None, found.mac)
    else:
        record = by_plain_key.get(found.key)
        same = record is not None and found.mac is not None and record.found.mac == found.mac
    if record is None or not same or record.found.key in reported or record.found.key not in by_key:
        return None
    return record


def _with_facts(before: FoundInterface, found: FoundInterface) -> FoundInterface:
    """What an engine told stays while it does not answer: no session ends because labels are not known now."""
    if found.facts is not None or before.facts is None:
        return found
    return msgspec.structs.replace(found, facts=before.facts)


def _with_one_neighbour(before: FoundInterface | None, found: FoundInterface) -> FoundInterface:
    """What the neighbour table tells comes and goes: the first answer stays while nothing contradicts it.

    Entries expire when nobody talks, and that is no reason for an interface to lose its address.
    """
    if found.addresses:
        return msgspec.structs.replace(found, neighbours=()) if found.neighbours else found
    known = () if before is None or before.mac != found.mac else before.neighbours
    if known and (not found.neighbours or known[0] in found.neighbours):
        return msgspec.structs.replace(found, neighbours=known)
    return msgspec.structs.replace(found, neighbours=found.neighbours[:1])


def forgotten(known: Iterable[InterfaceRecord], now_s: float, eni_forget_s: float | None) -> list[InterfaceRecord]:
    """The interfaces that are gone for longer than the operator waits for them; none when that is for ever."""
    if eni_forget_s is None:
        return []
    return [
        record for record in known if record.detached_at_s is not None and now_s - record.detached_at_s >= eni_forget_s
    ]

"""What an agent found against what is known: which interfaces are new, changed, gone, or back. Pure.

An interface is what its provider calls it, on its host (spec 5.15). Its EC2 id is given once and stored. One that
vanishes is detached and keeps its sessions; it heals when it returns.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from pktmirror.control.records import InterfaceRecord
from pktmirror.desired import Report
from pktmirror.model.ids import Prefix, new_id


def changes(
    known: Iterable[InterfaceRecord],
    report: Report,
    now_s: float,
    *,
    interface_id: Callable[[], str] = lambda: new_id(Prefix.INTERFACE),
) -> list[InterfaceRecord]:
    """The records to store, given all that is known of the report's host. Empty when nothing has changed."""
    by_key = {record.found.key: record for record in known}
    changed: list[InterfaceRecord] = []
    for found in report.interfaces:
        record = by_key.pop(found.key, None)
        if record is None:
            changed.append(InterfaceRecord(interface_id(), report.host_id, found))
        elif record.found != found or not record.attached:
            changed.append(replace(record, found=found, detached_at_s=None))
    gone = [replace(record, detached_at_s=now_s) for record in by_key.values() if record.attached]
    return changed + gone


def forgotten(known: Iterable[InterfaceRecord], now_s: float, eni_forget_s: float | None) -> list[InterfaceRecord]:
    """The interfaces that are gone for longer than the operator waits for them; none when that is for ever."""
    if eni_forget_s is None:
        return []
    return [
        record for record in known if record.detached_at_s is not None and now_s - record.detached_at_s >= eni_forget_s
    ]

"""The audit log as calls meet it: what is written of which call, and what happens where it cannot be.

A change that cannot be logged is refused. A record of what changed nothing may be left out, and is counted then.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from pktmirror.aws import ApiError
from pktmirror.control import operations
from pktmirror.control.events import OWN_SERVICE, Event, record
from pktmirror.control.operations import Result
from pktmirror.control.trail import Trail, Unwritable

AUDIT_RECORD_LOST = "AuditRecordLost"
"""Counted like a refusal: a record of a call that changed nothing, and that the audit log could not take."""

AUDIT_RECORD_LEFT_OUT = "AuditRecordLeftOut"
"""Counted likewise: one that was left out, because too many like it came at once."""

_log = structlog.get_logger("control")


@dataclass(slots=True)
class Refused:
    """Requests that were refused, by code, since the start."""

    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, code: str) -> None:
        with self._lock:
            self._counts[code] += 1

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(sorted(self._counts.items()))


class Audit:
    """Records in ``trail``; what of them was left out or lost is in ``refused``."""

    def __init__(self, trail: Trail, refused: Refused) -> None:
        self._trail = trail
        self._refused = refused

    def refusal(self, event: Event, error: ApiError) -> None:
        """Log a call that was refused; where the log cannot take it, or has too many such, that is counted."""
        written = record(event, error=error)
        # The end of what the log says has begun must stand in it: our own failure may be that of a commit.
        is_end = event.principal is not None and (event.began or error.status >= 500)
        self._log_or_count(lambda: self._trail.write(written) if is_end else self._write_refusal(event, written))

    def change(self, event: Event) -> Event:
        """Log a call that is about to change something. Raises Unavailable: then it must not be carried out."""
        self.write(event, None)
        return replace(event, began=True)

    def read(self, event: Event) -> None:
        """Log a call that changed nothing; where the log cannot take it, or has too many such, that is counted."""
        written = record(event)
        self._log_or_count(lambda: self._write_read(event, written))

    def _write_read(self, event: Event, written: dict[str, Any]) -> None:
        key_id = None if event.principal is None else event.principal.access_key_id
        self._count_left_out(
            self._trail.write_unknown(written, event.at_s)
            if key_id is None
            else self._trail.write_read(written, key_id, event.at_s)
        )

    def _write_refusal(self, event: Event, written: dict[str, Any]) -> None:
        key_id = None if event.principal is None else event.principal.access_key_id
        is_offered = event.service == OWN_SERVICE or (event.service, event.operation) in operations.OPERATIONS
        operation = f"{event.service}:{event.operation}" if is_offered else ""  # else it is what anybody makes up
        self._count_left_out(
            self._trail.write_unknown(written, event.at_s)
            if key_id is None
            else self._trail.write_refusal(written, key_id, operation, event.at_s)
        )

    def _count_left_out(self, is_kept: bool) -> None:
        if not is_kept:
            self._refused.count(AUDIT_RECORD_LEFT_OUT)

    def _log_or_count(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Unwritable as error:
            self._refused.count(AUDIT_RECORD_LOST)
            _log.error("the audit log cannot be written", found=str(error))

    def write(self, event: Event, result: Result | None) -> None:
        """Log a change, with what it answers once that is known. Raises Unavailable: then it must not take effect."""
        try:
            self._trail.write(record(event, result))
        except Unwritable as error:
            _log.error("the audit log cannot be written, and a change is refused", found=str(error))
            raise ApiError(
                "Unavailable", "The audit log cannot be written, and nothing is changed that cannot be logged"
            ) from None

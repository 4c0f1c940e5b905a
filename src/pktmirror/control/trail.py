"""The audit log: one record a line, only ever appended to, a file for each day (UTC). An edge module.

STATE/audit/2026-11-23.jsonl, for its owner only. A record is one write, and is on its way to the disk before the call
is answered. What cannot be written raises `Unwritable`; a torn line that a full disk left is taken back, or else ended,
so that the next record stands on a line of its own.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pktmirror.control.events import Record
from pktmirror.model.refusal import Refusal

DIRECTORY = "audit"
UNKNOWN_PER_S, UNKNOWN_BURST = 20.0, 200.0
KNOWN_PER_S, KNOWN_BURST = 20.0, 2000.0


class Unwritable(OSError):
    """A record could not be written."""


@dataclass(slots=True)
class Allowance:
    """How many records of what changed nothing are kept, of an account or of callers that nobody knows: whoever asks
    and asks must not fill the disk, and so stop all changes.

    ``left_out`` counts those that were not kept since the last one that was.
    """

    per_s: float = UNKNOWN_PER_S
    burst: float = UNKNOWN_BURST
    left_out: int = 0
    _used: float = 0.0
    _at_s: float | None = None

    def take(self, now_s: float) -> bool:
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._used, self._at_s = max(0.0, self._used - passed_s * self.per_s), now_s
        if self._used + 1 > self.burst:
            self.left_out += 1
            return False
        self._used += 1
        return True


class Trail:
    """The log of one control plane; safe to use from several threads."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / DIRECTORY
        self._lock = threading.Lock()
        self._unknown = Allowance()
        self._known: dict[str, Allowance] = {}  # by account; the operator alone makes accounts
        self._day = ""
        self._file: int | None = None
        self._torn = False

    def write(self, record: Record) -> None:
        """Append a record. Raises `Unwritable`, and then nothing of it is in the log."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            try:
                self._append(self._opened(str(record["eventTime"])[:10]), line)
            except OSError as error:
                raise Unwritable(*error.args) from None

    def write_unknown(self, record: Record, now_s: float) -> bool:
        """Append a record of a caller that nobody knows, as long as they do not come in floods; whether it was."""
        return self._write_allowed(record, self._unknown, "recordsOfUnknownCallersLeftOut", now_s)

    def write_idle(self, record: Record, account_id: str, now_s: float) -> bool:
        """Append a record of a call that changed nothing, as long as the account's do not come in floods; whether it
        was."""
        with self._lock:
            allowance = self._known.setdefault(account_id, Allowance(KNOWN_PER_S, KNOWN_BURST))
        return self._write_allowed(record, allowance, "recordsOfTheAccountLeftOut", now_s)

    def _write_allowed(self, record: Record, allowance: Allowance, said: str, now_s: float) -> bool:
        with self._lock:
            if not allowance.take(now_s):
                return False
            left_out, allowance.left_out = allowance.left_out, 0
        try:
            self.write(record | {"additionalEventData": {said: left_out}} if left_out else record)
        except Unwritable:
            with self._lock:
                allowance.left_out += left_out
            raise
        return True

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _opened(self, day: str) -> int:
        path = self._directory / f"{day}.jsonl"
        if self._file is not None and day == self._day and _is_there(self._file, path):
            return self._file
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._day = day
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        return self._file

    def _append(self, file: int, line: bytes) -> None:
        before = os.fstat(file).st_size
        whole = (b"\n" if self._torn else b"") + line
        try:
            written = os.write(file, whole)
            if written != len(whole):
                raise OSError("the disk is full: a record was written in part")
        except OSError:
            self._take_back(file, before)
            raise
        self._torn = False

    def _take_back(self, file: int, size: int) -> None:
        try:
            os.ftruncate(file, size)
        except OSError:
            self._torn = self._torn or os.fstat(file).st_size != size


def read(state_dir: Path, since: datetime | None = None, until: datetime | None = None) -> Iterator[Record | None]:
    """The records of a state directory from the oldest on; None for a line that is none. Raises `Refusal`."""
    directory = state_dir / DIRECTORY
    first = "" if since is None else since.astimezone(UTC).strftime("%Y-%m-%d")
    last = "9" if until is None else until.astimezone(UTC).strftime("%Y-%m-%d")
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".jsonl" and first <= path.stem <= last)
        for path in paths:
            with path.open("rb") as lines:
                for line in lines:
                    yield _read(line)
    except FileNotFoundError:
        raise Refusal(
            f"There is no audit log in {state_dir}.",
            do="name the state directory of a control plane that has run with --state",
        ) from None
    except OSError as error:
        raise Refusal(
            f"The audit log in {directory} cannot be read.",
            found=error.strerror or str(error),
            do="run as the owner of the state directory",
        ) from None


def _read(line: bytes) -> Record | None:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def _is_there(file: int, path: Path) -> bool:
    """Whether the file still has its name: whoever moves it away to archive it gets no more records in it."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False

"""The audit log: one record a line, only ever appended to, a file for each day (UTC). An edge module.

STATE/audit/2026-11-23.jsonl, for its owner only. A record is one write, and is on its way to the disk before the call
is answered. What cannot be written raises `Unwritable`; a torn line that a full disk left is taken back, or else ended,
so that the next record stands on a line of its own.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pktmirror.control.events import Record
from pktmirror.model.refusal import Refusal

DIRECTORY = "audit"
UNKNOWN_PER_S, UNKNOWN_BURST = 20.0, 200.0
KNOWN_PER_S, KNOWN_BURST = 20.0, 2000.0
RESERVED_PER_S, RESERVED_BURST = 0.2, 20.0
KEYS_MAX = 10_000
"""Of so many access keys it is known how much they were kept of; then those are forgotten that may have all again."""


class Unwritable(OSError):
    """A record could not be written."""


@dataclass(slots=True)
class Allowance:
    """How many records of what changed nothing are kept, of an access key or of callers that nobody knows: whoever asks
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

    def is_whole(self, now_s: float) -> bool:
        """Whether it is as one that nothing was taken from."""
        passed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        return self._used <= passed_s * self.per_s and not self.left_out


@dataclass(slots=True)
class Refusals:
    """Those of an access key. Where they come in floods, some of each operation are kept nevertheless: what is tried in
    earnest shall not be hidden by what is refused on purpose."""

    left_out: int = 0
    _all: Allowance = field(default_factory=lambda: Allowance(KNOWN_PER_S, KNOWN_BURST))
    _of: dict[str, Allowance] = field(default_factory=dict)

    def take(self, operation: str, now_s: float) -> bool:
        if self._all.take(now_s):
            return True
        reserved = self._of.setdefault(operation, Allowance(RESERVED_PER_S, RESERVED_BURST))
        is_taken = reserved.take(now_s)
        self.left_out += not is_taken
        self._all.left_out = reserved.left_out = 0  # they are counted here
        return is_taken

    def is_whole(self, now_s: float) -> bool:
        return not self.left_out and all(each.is_whole(now_s) for each in (self._all, *self._of.values()))


@dataclass(slots=True)
class _Known:
    """What is kept of an access key."""

    reads: Allowance = field(default_factory=lambda: Allowance(KNOWN_PER_S, KNOWN_BURST))
    refusals: Refusals = field(default_factory=Refusals)

    def is_whole(self, now_s: float) -> bool:
        return self.reads.is_whole(now_s) and self.refusals.is_whole(now_s)


class Trail:
    """The log of one control plane; safe to use from several threads."""

    def __init__(self, state_dir: Path, *, keys_max: int = KEYS_MAX) -> None:
        self._directory = state_dir / DIRECTORY
        self._keys_max = keys_max
        self._lock = threading.Lock()
        self._unknown = Allowance()
        self._known: dict[str, _Known] = {}  # by access key
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
        with self._lock:
            is_kept = self._unknown.take(now_s)
        return is_kept and self._write_kept(record, self._unknown, "recordsOfUnknownCallersLeftOut")

    def write_read(self, record: Record, access_key_id: str, now_s: float) -> bool:
        """Append a record of a call that reads, as long as the key's do not come in floods; whether it was."""
        with self._lock:
            reads = self._of_key(access_key_id, now_s).reads
            is_kept = reads.take(now_s)
        return is_kept and self._write_kept(record, reads, "recordsOfTheKeyLeftOut")

    def write_refusal(self, record: Record, access_key_id: str, operation: str, now_s: float) -> bool:
        """Likewise of one that was refused; ``operation`` is one of few."""
        with self._lock:
            refusals = self._of_key(access_key_id, now_s).refusals
            is_kept = refusals.take(operation, now_s)
        return is_kept and self._write_kept(record, refusals, "recordsOfTheKeyLeftOut")

    @property
    def keys(self) -> frozenset[str]:
        """The access keys of which it is known how much was kept."""
        return frozenset(self._known)

    def _of_key(self, access_key_id: str, now_s: float) -> _Known:
        if access_key_id not in self._known and len(self._known) >= self._keys_max:
            self._known = {key: known for key, known in self._known.items() if not known.is_whole(now_s)}
        return self._known.setdefault(access_key_id, _Known())

    def _write_kept(self, record: Record, allowance: Allowance | Refusals, said: str) -> bool:
        with self._lock:
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

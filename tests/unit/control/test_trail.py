"""The audit log as files: whole lines or nothing, also where the disk is full."""

import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pktmirror.control.trail import (
    KNOWN_BURST,
    KNOWN_PER_S,
    RESERVED_BURST,
    UNKNOWN_BURST,
    UNKNOWN_PER_S,
    Allowance,
    Trail,
    Unwritable,
    read,
)
from pktmirror.model.refusal import Refusal


def record(number: int, day: str = "2026-01-02") -> dict[str, Any]:
    return {"eventTime": f"{day}T00:00:00Z", "eventName": f"call{number}", "text": "x" * 200}


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    trail = Trail(tmp_path)
    yield trail
    trail.close()


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """Lets files of this process grow to so many bytes only, as a full disk would.

    No longer than the writes that it is for: what the suite prints may be going to a file as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def names(state: Path, **bounds: Any) -> list[str | None]:
    return [None if found is None else found["eventName"] for found in read(state, **bounds)]


def test_a_day_has_a_file_for_its_owner_only(trail: Trail, tmp_path: Path) -> None:
    trail.write(record(1))
    trail.write(record(2, "2026-01-03"))
    files = sorted((tmp_path / "audit").iterdir())
    assert [file.name for file in files] == ["2026-01-02.jsonl", "2026-01-03.jsonl"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert names(tmp_path) == ["call1", "call2"]
    third = datetime(2026, 1, 3, tzinfo=UTC)
    assert names(tmp_path, since=third) == ["call2"]
    assert names(tmp_path, until=datetime(2026, 1, 2, tzinfo=UTC)) == ["call1"]


def test_a_record_that_does_not_fit_leaves_nothing_of_it(trail: Trail, tmp_path: Path) -> None:
    trail.write(record(1))
    size = (tmp_path / "audit/2026-01-02.jsonl").stat().st_size
    with largest_file(size + 100), pytest.raises(Unwritable):  # the next is written in part
        trail.write(record(2))
    assert (tmp_path / "audit/2026-01-02.jsonl").stat().st_size == size
    with largest_file(size), pytest.raises(Unwritable):  # and the next not at all
        trail.write(record(3))
    trail.write(record(4))
    assert names(tmp_path) == ["call1", "call4"]


def test_a_line_that_a_crash_has_torn_spoils_no_other(trail: Trail, tmp_path: Path) -> None:
    trail.write(record(1))
    trail.close()
    with (tmp_path / "audit/2026-01-02.jsonl").open("ab") as file:
        file.write(b'{"eventTime": "20')
    after = Trail(tmp_path)
    after.write(record(2))
    after.write(record(3))
    after.close()
    assert names(tmp_path) == ["call1", None, "call2", "call3"]


def test_a_file_that_is_taken_away_is_begun_anew(trail: Trail, tmp_path: Path) -> None:
    trail.write(record(1))
    (tmp_path / "audit/2026-01-02.jsonl").unlink()
    trail.write(record(2))
    assert names(tmp_path) == ["call2"]


def test_a_file_that_is_moved_away_gets_no_more_records(trail: Trail, tmp_path: Path) -> None:
    trail.write(record(1))
    day, archived = tmp_path / "audit/2026-01-02.jsonl", tmp_path / "archived"
    day.rename(archived)
    trail.write(record(2))
    assert names(tmp_path) == ["call2"]
    day.unlink()
    archived.rename(day)  # and one that is put in its place is gone on with
    trail.write(record(3))
    assert names(tmp_path) == ["call1", "call3"]


def test_unknown_callers_are_kept_at_a_bounded_rate_and_the_rest_is_counted() -> None:
    allowance = Allowance()
    assert [allowance.take(5.0) for _ in range(int(UNKNOWN_BURST) + 3)].count(True) == UNKNOWN_BURST
    assert allowance.left_out == 3
    assert not allowance.take(4.0)  # a clock that goes back gives nothing
    assert allowance.take(4.0 + 1.5 / UNKNOWN_PER_S)
    assert not allowance.take(4.0 + 1.5 / UNKNOWN_PER_S)


def test_what_was_left_out_stands_in_the_next_record(trail: Trail, tmp_path: Path) -> None:
    for number in range(int(UNKNOWN_BURST) + 2):
        trail.write_unknown(record(number), 5.0)
    trail.write_unknown(record(1000), 15.0)
    found = list(read(tmp_path))
    assert len(found) == UNKNOWN_BURST + 1
    assert found[-1] is not None
    assert found[-1]["additionalEventData"] == {"recordsOfUnknownCallersLeftOut": 2}
    assert all(each is not None and "additionalEventData" not in each for each in found[:-1])


def test_a_key_has_an_allowance_of_its_own_for_what_it_reads(trail: Trail, tmp_path: Path) -> None:
    kept = [trail.write_read(record(number), "red", 5.0) for number in range(int(KNOWN_BURST) + 2)]
    assert kept == [True] * int(KNOWN_BURST) + [False] * 2
    assert trail.write_read(record(1), "blue", 5.0)
    assert trail.write_refusal(record(2), "red", "a", 5.0)
    assert trail.write_unknown(record(2), 5.0)
    assert trail.write_read(record(3), "red", 5.0 + 1.5 / KNOWN_PER_S)
    found = list(read(tmp_path))
    assert len(found) == KNOWN_BURST + 4
    assert found[-1] is not None
    assert found[-1]["additionalEventData"] == {"recordsOfTheKeyLeftOut": 2}
    assert all(each is not None and "additionalEventData" not in each for each in found[:-1])


def test_of_a_flood_of_refusals_some_of_each_operation_are_kept(trail: Trail, tmp_path: Path) -> None:
    def written(operation: str, times: float, now_s: float = 5.0, key: str = "red") -> int:
        return sum(trail.write_refusal(record(1), key, operation, now_s) for _ in range(int(times)))

    assert written("a", KNOWN_BURST + RESERVED_BURST + 3) == KNOWN_BURST + RESERVED_BURST
    assert written("b", RESERVED_BURST + 1) == RESERVED_BURST
    assert written("a", 1, key="blue") == 1
    assert written("b", 2, 5.0 + 1.5 / KNOWN_PER_S) == 1
    assert written("b", KNOWN_BURST, 5.0 + KNOWN_BURST / KNOWN_PER_S) == KNOWN_BURST
    said = [
        each["additionalEventData"] for each in read(tmp_path) if each is not None and "additionalEventData" in each
    ]
    assert said == [{"recordsOfTheKeyLeftOut": left_out} for left_out in (3, 1, 1)]


def test_keys_that_may_have_all_again_are_forgotten_when_there_are_too_many(tmp_path: Path) -> None:
    trail = Trail(tmp_path, keys_max=3)
    for _ in range(int(KNOWN_BURST) + 1):
        trail.write_read(record(1), "red", 5.0)
    for key in ("a", "b"):
        trail.write_read(record(1), key, 5.0)
    trail.write_read(record(1), "c", 5.0)  # none can be forgotten
    assert not trail.write_read(record(1), "red", 5.0)
    trail.write_read(record(1), "d", 6.0)  # those but red, which has something to say
    assert trail.write_read(record(1), "red", 6.0)
    last = list(read(tmp_path))[-1]
    assert last is not None
    assert last["additionalEventData"] == {"recordsOfTheKeyLeftOut": 2}
    assert trail.keys == {"red", "d"}
    trail.close()


def test_what_was_left_out_is_not_forgotten_by_a_record_that_could_not_be_written(trail: Trail, tmp_path: Path) -> None:
    for number in range(int(UNKNOWN_BURST) + 2):
        trail.write_unknown(record(number), 5.0)
    size = (tmp_path / "audit/2026-01-02.jsonl").stat().st_size
    with largest_file(size), pytest.raises(Unwritable):
        trail.write_unknown(record(1000), 15.0)
    trail.write_unknown(record(1001), 15.0)
    last = list(read(tmp_path))[-1]
    assert last is not None
    assert last["additionalEventData"] == {"recordsOfUnknownCallersLeftOut": 2}


def test_no_log_is_a_refusal_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no audit log"):
        list(read(tmp_path))
    assert os.listdir(tmp_path) == []  # noqa: PTH208

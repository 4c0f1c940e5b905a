"""All of a control plane in one file, while it runs; and back, into either kind of store."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from pktmirror.cli.program import app
from pktmirror.control import back_up, restore
from pktmirror.control.statedir import SHARED
from pktmirror.control.store import REVISION_LEAP, Store
from pktmirror.model.refusal import Refusal
from tests.contract.conftest import Maker
from tests.contract.plane import Plane, running
from tests.contract.test_cli_questions import PROGRAM
from tests.contract.test_life import everything


def filled(plane: Plane) -> Any:
    """Some of each; everything that can be asked for."""
    make, ec2 = Maker(plane, plane.client()), plane.client()
    filter_id = make.filter(ClientToken="kept")
    make.rule(filter_id)
    make.session(TrafficMirrorFilterId=filter_id)
    ec2.create_tags(Resources=[filter_id], Tags=[{"Key": "a", "Value": "b"}])
    return everything(plane)


@pytest.fixture(scope="module")
def other(store: str | None, request: pytest.FixtureRequest) -> str | None:
    """A store of the other kind, which is empty."""
    return None if store else request.getfixturevalue("postgresql").database()


def test_a_backup_of_a_running_control_plane_comes_back_in_either_kind_of_store(
    plane: Plane, store: str | None, other: str | None, tmp_path: Path
) -> None:
    before, desired, file = filled(plane), plane.desired(), tmp_path / "backup"
    contents = back_up(plane.state, store, file, replace=False)
    assert desired is not None
    assert (contents.revision, contents.sessions) == (desired.revision, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]
    Maker(plane, plane.client()).filter(Description="after the backup")

    state = tmp_path / "state"
    restored = restore(file, state, other, replace=False)
    assert restored.revision == desired.revision + REVISION_LEAP
    assert {path.name for path in state.iterdir()} == {"lock", *SHARED} | (set() if other else {"pktmirror.sqlite"})
    with running(state, store=other) as again:
        assert everything(again) == before
        known = again.desired()
        assert known is not None
        assert known.revision > restored.revision
        assert known.interfaces == desired.interfaces
        assert Maker(again, again.client()).filter(ClientToken="kept") == before[1][0]["TrafficMirrorFilterId"]


def test_a_backup_is_of_one_moment(plane: Plane, store: str | None, tmp_path: Path) -> None:
    """Each session is made with its tags in one transaction, so a backup has both or neither."""
    make = Maker(plane, plane.client())
    shared = make.session_parameters()
    del shared["NetworkInterfaceId"]
    interfaces = make.interfaces(8)
    tagged = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "k", "Value": "v"}]}]
    writing = threading.Thread(
        target=lambda: [make.session(NetworkInterfaceId=i, TagSpecifications=tagged, **shared) for i in interfaces]
    )
    writing.start()
    number = 0
    while writing.is_alive() or number == 0:
        number += 1
        file = tmp_path / f"backup-{number}"
        back_up(plane.state, store, file, replace=False)
        copy = Store.open(file)
        with copy.read() as transaction:
            made = [
                record.session_id for record in transaction.sessions.where(target_id=shared["TrafficMirrorTargetId"])
            ]
            assert all(transaction.tags.of(session_id) == {"k": "v"} for session_id in made)
            revision = transaction.revision
        copy.close()
    writing.join()
    assert revision


def test_a_restore_takes_nothing_that_it_was_not_told_to_take(plane: Plane, store: str | None, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    back_up(plane.state, store, file, replace=False)
    with pytest.raises(Refusal, match="is there already"):
        back_up(plane.state, store, file, replace=False)
    back_up(plane.state, store, file, replace=True)
    with pytest.raises(Refusal, match="in use"):
        restore(file, plane.state, store, replace=True)
    if store is not None:
        with pytest.raises(Refusal, match="in use"):
            restore(file, tmp_path / "another", store, replace=True)


def rows_of(at: Path) -> Any:
    """Every row of a store in a file, but for its revision, which a restore raises."""
    store = Store.open(at)
    with store.read() as transaction:
        rows = transaction.dump()
    store.close()
    rows["settings"] = [row for row in rows["settings"] if row[0] != "revision"]
    return rows


def test_a_restore_over_a_store_is_told_so(plane: Plane, store: str | None, tmp_path: Path) -> None:
    older, newer, state = tmp_path / "older", tmp_path / "newer", tmp_path / "state"
    back_up(plane.state, store, older, replace=False)
    Maker(plane, plane.client()).filter()
    back_up(plane.state, store, newer, replace=False)
    restore(newer, state, None, replace=False)
    before, key = rows_of(state / "pktmirror.sqlite"), (state / "key").read_text()
    assert before == rows_of(newer) != rows_of(older)
    (state / "key").write_text("another")
    with pytest.raises(Refusal, match="a store already") as refused:
        restore(older, state, None, replace=False)
    assert "--replace" in refused.value.do
    assert (rows_of(state / "pktmirror.sqlite"), (state / "key").read_text()) == (before, "another"), "nothing is taken"
    restore(older, state, None, replace=True)
    assert (rows_of(state / "pktmirror.sqlite"), (state / "key").read_text()) == (rows_of(older), key)


@pytest.fixture
def restored(plane: Plane, store: str | None, tmp_path: Path) -> tuple[Path, Path]:
    """A backup, and a state directory with what was before it, and other files."""
    older, newer, state = tmp_path / "older", tmp_path / "newer", tmp_path / "state"
    back_up(plane.state, store, older, replace=False)
    restore(older, state, None, replace=False)
    for name in SHARED:
        (state / name).write_text("another")
    Maker(plane, plane.client()).filter()
    back_up(plane.state, store, newer, replace=False)
    return newer, state


def files_of(state: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in state.iterdir() if path.suffix != ".sqlite"}


def test_a_store_is_not_restored_without_its_files(restored: tuple[Path, Path]) -> None:
    file, state = restored
    (state / ".metrics-token.new").mkdir()  # in the way of the file before it has its name
    rows = rows_of(state / "pktmirror.sqlite")
    with pytest.raises(Refusal, match="Nothing has changed"):
        restore(file, state, None, replace=True)
    assert rows_of(state / "pktmirror.sqlite") == rows
    (state / ".metrics-token.new").rmdir()
    assert files_of(state) == {"lock": "", **dict.fromkeys(SHARED, "another")}, "and none is left half done"


def test_files_that_cannot_take_their_names_are_told_and_the_next_restore_puts_it_right(
    plane: Plane, restored: tuple[Path, Path]
) -> None:
    file, state = restored
    (state / "metrics-token").unlink()
    (state / "metrics-token").mkdir()
    with pytest.raises(Refusal, match="metrics-token") as refused:
        restore(file, state, None, replace=True)
    assert "restore again with --replace" in refused.value.do
    (state / "metrics-token").rmdir()
    restore(file, state, None, replace=True)
    assert rows_of(state / "pktmirror.sqlite") == rows_of(file)
    assert files_of(state) == {"lock": "", **{name: (plane.state / name).read_text() for name in SHARED}}


def test_a_full_disk_and_a_server_that_is_away_are_told_and_leave_things_as_they_were(
    plane: Plane, restored: tuple[Path, Path], tmp_path: Path
) -> None:
    file, state = restored
    before = rows_of(state / "pktmirror.sqlite"), files_of(state), sorted(path.name for path in tmp_path.iterdir())
    for words in (["backup", str(file), "--replace"], ["restore", str(file), "--replace"]):
        # 64 blocks of 512 bytes: too little for any store
        command = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", sys.executable, "-c", PROGRAM, *words]
        done = subprocess.run([*command, f"--state={state}"], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert "pktmirror: " in done.stderr
        assert "Next: " in done.stderr
    away = f"postgresql://nobody@/none?host={tmp_path}"
    with pytest.raises(Refusal, match="server runs"):
        restore(file, state, away, replace=True)
    assert (rows_of(state / "pktmirror.sqlite"), files_of(state)) == before[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == before[2]


def names_and_secrets(state: Path) -> Any:
    """What is in a state directory, but for the files that SQLite has beside its own while it runs."""
    names = {path.name for path in state.iterdir() if not path.name.startswith("pktmirror.sqlite-")}
    return (
        names,
        (state / "pktmirror.sqlite").stat().st_ino if "pktmirror.sqlite" in names else None,
        {name: (state / name).read_text() for name in SHARED if name in names},
    )


def test_no_backup_is_written_over_what_is_none(plane: Plane, store: str | None, tmp_path: Path) -> None:
    """Nor into the state directory of a store, under whatever name: renamed over the open store it would be the end."""
    (tmp_path / "link").symlink_to(plane.state)
    before, files = everything(plane), names_and_secrets(plane.state)
    for name in ("pktmirror.sqlite", "pktmirror.sqlite-wal", "key", "ca-key.pem", "monday", "of/monday"):
        for state in (plane.state, tmp_path / "link", plane.state / ".." / plane.state.name):
            with pytest.raises(Refusal, match="the state directory") as refused:
                back_up(plane.state, store, state / name, replace=True)
            assert "name a file elsewhere" in refused.value.do
    Store.open(tmp_path / "another").close()  # a store, as of another state directory, and no backup
    (tmp_path / "text").write_text("mine")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name in ("another", "text", "empty", "folder"):
        with pytest.raises(Refusal, match="is no backup"):
            back_up(plane.state, store, tmp_path / name, replace=True)
    assert (tmp_path / "text").read_text() == "mine"
    Store.open(tmp_path / "another", migrate=False).close()
    back_up(plane.state, store, tmp_path / "monday", replace=True)  # where there is nothing yet
    back_up(plane.state, store, tmp_path / "monday", replace=True)
    assert everything(plane) == before
    assert names_and_secrets(plane.state) == files


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no backup")
    Store.open(tmp_path / "store").close()
    for name in ("text", "store", "absent"):
        with pytest.raises(Refusal, match="no backup"):
            restore(tmp_path / name, tmp_path / "state", None, replace=False)
    assert not (tmp_path / "state").exists()
    with pytest.raises(Refusal, match="no store"):
        back_up(tmp_path / "state", None, tmp_path / "backup", replace=False)
    assert not (tmp_path / "backup").exists()


def test_a_damaged_backup_is_named_and_nothing_of_it_is_restored(
    plane: Plane, store: str | None, tmp_path: Path
) -> None:
    Maker(plane, plane.client()).filter(Description="whatever it was")
    file, damaged = tmp_path / "backup", tmp_path / "damaged"
    back_up(plane.state, store, file, replace=False)
    whole = file.read_bytes()
    flipped = [whole.index(b"whatever it was")]  # where SQLite itself cannot know
    flipped += [4096 * page + 3 for page in range(1, len(whole) // 4096, 2)]  # and the heads of its pages
    found = [whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :] for at in flipped]
    for content in (*found, whole[: len(whole) // 2], whole[:4096] + bytes(len(whole) - 4096)):
        damaged.write_bytes(content)
        with pytest.raises(Refusal, match=f"{damaged} is damaged") as refused:
            restore(damaged, tmp_path / "state", None, replace=False)
        assert "another backup" in refused.value.do
        assert not (tmp_path / "state").exists()
    restore(file, tmp_path / "state", None, replace=False)


def test_a_backup_of_before_the_digests_is_restored(plane: Plane, store: str | None, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    back_up(plane.state, store, file, replace=False)
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE backup_digest")
    connection.close()
    restore(file, tmp_path / "state", None, replace=False)
    assert rows_of(tmp_path / "state" / "pktmirror.sqlite") == rows_of(file)


def test_a_backup_of_a_later_version_is_refused(plane: Plane, store: str | None, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    back_up(plane.state, store, file, replace=False)
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99, written_by = '9.9'"))
    engine.dispose()
    with pytest.raises(Refusal, match=r"later version.*pktmirror 9\.9"):
        restore(file, tmp_path / "state", None, replace=False)
    assert not (tmp_path / "state").exists()


def test_both_are_one_command(plane: Plane, store: str | None, tmp_path: Path) -> None:
    of = ["--state", str(plane.state), *(["--store", store] if store else [])]
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "backup"), *of])
    assert done.exit_code == 0, done.output
    assert "the key" in done.output
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "backup"), "--state", str(tmp_path / "state")])
    assert done.exit_code == 0, done.output
    assert rows_of(tmp_path / "state" / "pktmirror.sqlite") == rows_of(tmp_path / "backup")

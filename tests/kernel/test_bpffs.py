"""What is unpinned: all of an agent's directory, and nothing outside of a bpffs."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.agent.apply import pins_of, remove_pins
from pktmirror.kernel import bpf, bpffs

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of this test's own."""
    root = tmp_path / "bpf"
    bpffs.mount(root)
    yield root
    if bpffs.is_mounted(root):
        bpffs.unmount(root)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory with a file, in an ordinary file system."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    return victim


def pinned(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with bpf.create_array("a", bytes(4)) as array:
        array.pin(path)


def test_an_agents_pins_go_and_those_of_others_stay(root: Path) -> None:
    pinned(pins_of(root, "mine") / "version" / "map")
    pinned(pins_of(root, "other") / "version" / "map")
    assert remove_pins(root, "mine")
    assert not pins_of(root, "mine").exists()
    assert (pins_of(root, "other") / "version" / "map").exists()
    assert not remove_pins(root, "mine"), "there is nothing any more"
    assert remove_pins(root, "other")
    assert not root.exists(), "the last one takes the mount along"


def test_a_mount_in_which_somebody_is_at_work_stays_and_goes_when_he_has_left(root: Path) -> None:
    pinned(pins_of(root, "mine") / "version" / "map")
    inside = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert remove_pins(root, "mine")
        assert bpffs.is_mounted(root)
    finally:
        os.close(inside)
    assert not remove_pins(root, "mine"), "there is nothing any more"
    assert not root.exists()


def test_a_directory_outside_of_a_bpffs_keeps_what_it_holds(tmp_path: Path, victim: Path) -> None:
    with pytest.raises(OSError, match="no directory of a bpffs") as refused:
        bpffs.remove_tree(victim)
    assert refused.value.errno == errno.EXDEV
    assert (victim / "file").read_text() == "kept"
    agent = tmp_path / "pktmirror" / "host"
    agent.mkdir(parents=True)
    with pytest.raises(OSError, match="no directory of a bpffs"):
        remove_pins(tmp_path, "host")
    assert agent.is_dir()


def test_a_way_out_of_a_bpffs_is_not_gone(root: Path, victim: Path) -> None:
    with pytest.raises(OSError, match="no directory of a bpffs"):
        bpffs.remove_tree(root / ".." / "victim")
    pinned(root / "tree" / "map")
    (root / "tree" / "link").symlink_to(victim)
    bpffs.remove_tree(root / "tree")
    assert not (root / "tree").exists()
    assert (victim / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "../../victim", "a/b", "/tmp", "-x", "a\n", "x" * 129])
def test_what_leads_elsewhere_is_no_id_of_an_agent(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the id of an agent"):
        pins_of(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("a", "a"),
        ("vm-pktmirror-host", "vm-pktmirror-host"),
        ("host_1.example", "host_1:example"),  # the kernel makes nothing with a dot in a BPF filesystem
        ("x" * 128, "x" * 128),
    ],
)
def test_names_of_hosts_are_ids_of_agents(tmp_path: Path, name: str, directory: str) -> None:
    assert pins_of(tmp_path, name) == tmp_path / "pktmirror" / directory

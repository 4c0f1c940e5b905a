"""A purge beside an agent that puts back what it misses: all goes, and the agent finds out."""

import threading
from pathlib import Path

import pytest

from pktmirror.agent.apply import DataPlane, pins_of, remove_pins
from pktmirror.kernel import bpffs, netns
from pktmirror.kernel.netlink import Netlink
from tests.waiting import wait_until

pytestmark = pytest.mark.root

AGENT = "purged.example"
WITHIN_S = 10.0


class Mender:
    """What an agent does at each of its turns, without pause, until its directory is gone."""

    def __init__(self, data_plane: DataPlane) -> None:
        self.turns = 0
        self.ended: OSError | None = None
        self._data_plane = data_plane
        self.thread = threading.Thread(target=self._mend)

    def _mend(self) -> None:
        try:
            while True:
                self._data_plane.mend_pins()
                self.turns += 1
        except OSError as error:
            self.ended = error


def purged_beside_a_mender(root: Path) -> None:
    with Netlink() as netlink:
        data_plane = DataPlane(netlink, root, AGENT)
    mender = Mender(data_plane)
    mender.thread.start()
    try:
        wait_until(lambda: mender.turns > 0, WITHIN_S, "it does not turn")
        assert remove_pins(root, AGENT)
        mender.thread.join(WITHIN_S)
        assert mender.ended is not None, "it goes on"
        assert not pins_of(root, AGENT).exists()
        assert not remove_pins(root, AGENT), "nothing is left to remove"
    finally:
        if bpffs.is_mounted(root):
            bpffs.unmount(root)
        mender.thread.join(WITHIN_S)
        data_plane.close()


def test_a_purge_beside_an_agent_that_mends_its_pins_leaves_none(lab_name: str, tmp_path: Path) -> None:
    name = f"{lab_name}-host"
    netns.create(name)
    try:
        with netns.Visitor(name) as inside:
            inside.run(purged_beside_a_mender, tmp_path / "bpf")
    finally:
        netns.remove(name)


def test_what_a_purge_that_was_killed_has_put_aside_goes_with_the_next(tmp_path: Path) -> None:
    root = tmp_path / "bpf"
    bpffs.mount(root)
    try:
        aside = pins_of(root, AGENT).with_name(f"_purged-{pins_of(root, AGENT).name}")
        (aside / "version").mkdir(parents=True)
        other = pins_of(root, "another")
        other.mkdir()
        assert remove_pins(root, AGENT)
        assert not aside.exists()
        assert other.is_dir()
        assert not remove_pins(root, AGENT)
    finally:
        bpffs.unmount(root)

"""Network namespaces: the ordinary named ones, and a thread to work inside."""

import fcntl
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.kernel import netns
from pktmirror.kernel.netns import Visitor
from tests.lab.alone import alone
from tests.waiting import wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def name(lab_name: str) -> Iterator[str]:
    """A namespace of the test's own."""
    if netns.exists(lab_name):
        netns.remove(lab_name)
    netns.create(lab_name)
    yield lab_name
    if netns.exists(lab_name):
        netns.remove(lab_name)


def network() -> str:
    """The network namespace of the calling thread."""
    return str(Path("/proc/thread-self/ns/net").readlink())


def test_a_new_namespace_is_a_network_of_its_own_with_a_loopback_that_is_down(name: str) -> None:
    assert name in netns.names()
    with Visitor(name) as inside:
        assert inside.run(network) == f"net:[{netns.inode(name)}]" != network()
        assert inside.run(socket.if_nameindex) == [(1, "lo")]
        assert inside.run(Path("/proc/net/if_inet6").read_text) == Path("/proc/net/if_inet6").read_text()


def test_a_visit_moves_one_thread_and_no_other(name: str) -> None:
    before = network()
    with Visitor(name) as inside:
        assert inside.run(network) != before
        assert network() == before
        assert inside.run(threading.get_ident) != threading.get_ident()
    assert network() == before


def test_a_visitor_without_a_name_stays_in_the_namespace_of_the_process() -> None:
    with Visitor(None) as inside:
        assert inside.run(network) == network()


def test_a_socket_opened_inside_belongs_to_the_namespace_and_outlives_the_visit(name: str) -> None:
    with Visitor(name) as inside:
        opened = inside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with opened, pytest.raises(OSError, match="unreachable"):
        opened.connect(("127.0.0.1", 9))  # the loopback of this namespace is down


def test_what_is_raised_inside_comes_out_as_it_is(name: str) -> None:
    with Visitor(name) as inside:
        with pytest.raises(ZeroDivisionError):
            inside.run(lambda: 1 // 0)
        assert inside.run(len, "and goes on") == 11


def test_a_call_inside_may_itself_run_inside(name: str) -> None:
    with Visitor(name) as inside:
        assert inside.run(lambda: inside.run(network)) == inside.run(network)


def test_a_visit_is_over_when_it_is_closed(name: str) -> None:
    with Visitor(name) as inside:
        pass
    with pytest.raises(RuntimeError):
        inside.run(network)


def test_a_name_that_is_taken_is_refused_and_keeps_its_namespace(name: str) -> None:
    before = netns.inode(name)
    with pytest.raises(FileExistsError):
        netns.create(name)
    assert netns.inode(name) == before


def test_a_removed_namespace_is_gone(name: str) -> None:
    netns.remove(name)
    assert not netns.exists(name)
    assert name not in netns.names()
    for act in (netns.remove, netns.inode, Visitor, lambda name: netns.start(name, ["true"])):
        with pytest.raises(FileNotFoundError, match="no network namespace of this name"):
            act(name)


def test_a_namespace_whose_making_was_cut_short_can_be_removed(lab_name: str) -> None:
    netns.path(lab_name).touch()
    netns.remove(lab_name)
    assert not netns.exists(lab_name)


@pytest.mark.parametrize("wrong", ["", ".", "..", "a/b", "/etc"])
def test_a_path_is_no_name(wrong: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        netns.create(wrong)


def test_iproute2_sees_the_namespace_and_can_remove_it(name: str) -> None:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name in listed.split()
    subprocess.run(["ip", "netns", "del", name], check=True)
    assert not netns.exists(name)


def test_a_process_inside_shares_everything_but_the_network(name: str) -> None:
    kinds = ("mnt", "pid", "uts", "ipc", "user", "cgroup", "net")
    argv = ["readlink", *(f"/proc/self/ns/{kind}" for kind in kinds)]
    process = netns.start(name, argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=5)
    expected = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds[:-1]]
    assert output.split() == [*expected, f"net:[{netns.inode(name)}]"]


def test_a_process_inside_is_the_one_that_was_started_and_is_found_by_its_namespace(name: str) -> None:
    with netns.start(name, ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        assert process.stdout.read(1) == b"x"  # it runs, so it is inside
        inode = netns.inode(name)
        assert list(netns.processes(frozenset({inode}))) == [(process.pid, inode)]
        assert netns.inode_of_process(process.pid) == inode
        process.stdin.close()
    assert netns.inode_of_process(process.pid) is None


def test_the_first_to_make_namespaces_mount_the_directory_once_however_many_they_are() -> None:
    def scene() -> None:
        netns.remove("bystander")
        subprocess.run(["umount", "/run/netns"], check=True)
        before = mounts_of_directory()
        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                netns.create(f"made-{number}")
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
        assert netns.names() == [f"made-{number}" for number in range(8)]
        assert mounts_of_directory() == before + 1

    alone(scene)


def test_whoever_makes_a_namespace_waits_for_the_one_who_prepares_the_directory() -> None:
    def scene() -> None:
        directory = os.open("/run/netns", os.O_RDONLY)
        fcntl.flock(directory, fcntl.LOCK_EX)  # as iproute2 holds it
        child = os.fork()
        if child == 0:
            os.close(directory)
            netns.create("late")
            os._exit(0)
        # proc_locks(5): "12: -> FLOCK ADVISORY WRITE 4711 …" is process 4711 waiting.
        waiting = f"-> FLOCK ADVISORY WRITE {child} "
        wait_until(lambda: waiting in re.sub(" +", " ", Path("/proc/locks").read_text()), 5, "it does not wait")
        assert not netns.exists("late")
        fcntl.flock(directory, fcntl.LOCK_UN)
        assert os.waitpid(child, 0)[1] == 0
        assert netns.exists("late")

    alone(scene)


def mounts_of_directory() -> int:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in mounts].count("/run/netns")

"""Network namespaces: make and remove those with a name, work inside them and inside those of processes.

The names are the ordinary ones of iproute2, a bind mount each below /run/netns, so that ``ip netns`` shows and enters
them too. An edge module; every failure is an OSError with its errno. Whoever works inside enters the network
namespace alone: mounts stay as they are, /sys included, so bpffs stays visible (`ip netns exec` hides it).
"""

import ctypes
import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

DIRECTORY = Path("/run/netns")

# linux/sched.h and linux/mount.h
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h

_OWN_NAMESPACE = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Visitor:
    """A thread that has entered a network namespace and runs what it is given there, one call at a time.

    ``with Visitor("shop-web") as web: web.run(socket.socket, AF_INET, SOCK_DGRAM)``. What a call opens (sockets,
    netlink, bpf links) belongs to the namespace and may be used from any thread. The name None stays in the
    namespace of the process; a Path is a file of one that has no name. The namespace lives as long as its visitor.
    """

    def __init__(self, name: str | Path | None) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netns-{name or 'own'}")
        self._ident = self._thread.submit(threading.get_ident).result()
        if name is not None:
            try:
                self._thread.submit(_enter, name).result()
            except BaseException:
                self.close()
                raise

    def run(self, call: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The result of ``call`` inside; its exception comes out as it is. A call inside may itself use `run`."""
        if threading.get_ident() == self._ident:
            return call(*args, **kwargs)
        return self._thread.submit(call, *args, **kwargs).result()

    def close(self) -> None:
        """Leave the namespace, after the call under way; further calls raise RuntimeError."""
        self._thread.shutdown()

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def path(name: str) -> Path:
    """Where a named namespace is mounted. Raises ValueError for what cannot be a name."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} cannot be the name of a network namespace")
    return DIRECTORY / name


def names() -> list[str]:
    """The names of all named namespaces of this machine, sorted."""
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir())
    except FileNotFoundError:
        return []


def exists(name: str) -> bool:
    """Whether the name is taken, by a namespace or by a file that is left of one."""
    return path(name).exists()


def create(name: str) -> None:
    """Make an empty namespace; FileExistsError where the name is taken."""
    _share_directory()
    mount_point = path(name)
    mount_point.touch(mode=0o000, exist_ok=False)
    try:
        with ThreadPoolExecutor(1) as thread:  # unshare moves the calling thread, so it must be one to throw away
            thread.submit(_unshare_onto, mount_point).result()
    except BaseException:  # an interruption may come when the mount has been made already
        _unmount(mount_point)
        raise


def remove(name: str) -> None:
    """Take the name away; FileNotFoundError where there is none.

    The kernel ends the namespace and its devices when the last process, thread and socket has left it.
    """
    mount_point = path(name)
    if not mount_point.exists():
        raise _missing(name)
    _unmount(mount_point)


def inode(name: str) -> int:
    """The number by which the kernel knows the namespace, as in ``readlink /proc/PID/ns/net``."""
    try:
        return path(name).stat().st_ino
    except FileNotFoundError:
        raise _missing(name) from None


def cookie() -> int:
    """The number by which the kernel knows the namespace of this thread; no other ever has it (Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def processes(inodes: frozenset[int] | None = None) -> Iterator[tuple[int, int]]:
    """(pid, inode) of each process whose main thread is in one of the namespaces, or in any. A zombie is in none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            found = inode_of_process(int(entry.name))
            if found is not None and (inodes is None or found in inodes):
                yield int(entry.name), found


@contextmanager
def file_of_process(pid: int, expected_inode: int) -> Iterator[Path]:
    """A file of a process's namespace that stays even if the process ends; ProcessLookupError if it is another one."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != expected_inode:
            raise ProcessLookupError(errno.ESRCH, "another process has this number by now", str(pid))
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def inode_of_process(pid: int) -> int | None:
    """The namespace of a process; None where it is gone, a zombie, or beyond the caller's privileges."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def command(name: str | None, argv: Sequence[str]) -> list[str]:
    """The argv that runs ``argv`` inside a namespace. It keeps its pid: nsenter executes in place."""
    if name is None:
        return list(argv)
    if not exists(name):
        raise _missing(name)
    return ["nsenter", f"--net={path(name)}", "--", *argv]


def start(name: str | None, argv: Sequence[str], **popen_kwargs: Any) -> "subprocess.Popen[Any]":
    """A process inside a namespace; the keyword arguments are those of subprocess.Popen.

    What nsenter cannot execute ends with its exit status 127 (not found) or 126, and a line on stderr.
    """
    return subprocess.Popen(command(name, argv), **popen_kwargs)


def _enter(name: str | Path) -> None:
    try:
        fd = os.open(name if isinstance(name, Path) else path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if isinstance(name, Path):
            raise
        raise _missing(name) from None
    try:
        _call("setns", fd, _CLONE_NEWNET)
    finally:
        os.close(fd)


def _unshare_onto(mount_point: Path) -> None:
    _call("unshare", _CLONE_NEWNET)
    _call("mount", os.fsencode(_OWN_NAMESPACE), os.fsencode(mount_point), b"none", _MS_BIND, None)


def _unmount(mount_point: Path) -> None:
    try:
        _call("umount2", os.fsencode(mount_point), _MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not a mount point: the file of a namespace that was never finished
            raise
    mount_point.unlink()


def _share_directory() -> None:
    """Make the directory a shared mount, as iproute2 does: a removal then reaches every mount namespace.

    The lock is iproute2's as well: two who find no mount would stack two, and the lower could not be removed.
    """
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(DIRECTORY):
        directory = os.fsencode(DIRECTORY)
        try:
            _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: not a mount point yet
                raise
            _call("mount", directory, directory, b"none", _MS_BIND | _MS_REC, None)
            _call("mount", b"", directory, b"none", _MS_SHARED | _MS_REC, None)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _call(function: str, *args: int | bytes | None) -> None:
    """A libc function that returns 0 or sets errno."""
    if getattr(_libc, function)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


def _missing(name: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "there is no network namespace of this name", str(path(name)))

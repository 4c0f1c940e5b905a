"""No two agents of one host in one place: neither with one state directory, nor with one bpffs. An edge module."""

import contextlib
import fcntl
import hashlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from pktmirror.model.refusal import Refusal

RUN = Path("/run/pktmirror")
"""Where the locks of the bpffs lie: beside the default one, as neither a bpffs nor sysfs takes files."""


def bpffs_lock(bpffs_root: Path, host_id: str) -> Path:
    """The lock file of a host's agent on a bpffs. That of an agent that was killed stays, and locks nothing."""
    return RUN / f"agent-{host_id}-{hashlib.sha256(os.fsencode(bpffs_root.resolve())).hexdigest()[:8]}.lock"


def forget_killed(bpffs_root: Path, host_id: str) -> None:
    """Remove the lock file that an agent which was killed left; that of one at work stays."""
    path = bpffs_lock(bpffs_root, host_id)
    with contextlib.suppress(BlockingIOError):
        if path.exists():
            fd = _locked(path)
            path.unlink(missing_ok=True)
            os.close(fd)
    with contextlib.suppress(OSError):  # other things are there
        RUN.rmdir()


def end(bpffs_root: Path, host_id: str, within_s: float) -> bool:
    """Ask the agent that is at work to end, and wait until it has; whether there was one. Refusal where it does not."""
    with _at_work(bpffs_root, host_id) as process:
        if process is None:
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        _wait_for_end(process, host_id, within_s)
        return True


def wait_until_ended(bpffs_root: Path, host_id: str, within_s: float) -> bool:
    """Wait until the agent that is at work has ended by itself; whether there was one. Refusal where it does not."""
    with _at_work(bpffs_root, host_id) as process:
        if process is not None:
            _wait_for_end(process, host_id, within_s)
        return process is not None


def _wait_for_end(process: int, host_id: str, within_s: float) -> None:
    if not select.select([process], [], [], within_s)[0]:
        raise Refusal(
            f"The agent of {host_id} is still at work after {within_s:g} s.",
            do="see its log; end its process, and try again",
        )


@contextlib.contextmanager
def _at_work(bpffs_root: Path, host_id: str) -> Iterator[int | None]:
    """The process of a host's agent (a pidfd), if there is one."""
    with contextlib.ExitStack() as stack:
        try:
            lock = os.open(bpffs_lock(bpffs_root, host_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        stack.callback(os.close, lock)
        try:
            process = os.pidfd_open(int(os.read(lock, 32)))
        except (ValueError, ProcessLookupError):  # it locks nothing any more, or not yet
            yield None
            return
        stack.callback(os.close, process)
        # Looked at last: while the lock is held its owner lives, so the process is it and none of the same number.
        yield process if _is_held(lock) else None


def _is_held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


@contextlib.contextmanager
def alone(state_dir: Path, bpffs_root: Path, host_id: str) -> Iterator[None]:
    """No other agent of this host works with this state directory or this bpffs meanwhile; Refusal where one does."""
    with (
        _held(state_dir / f"agent-{host_id}.lock", host_id, state_dir, "state directory", "--state"),
        _held(bpffs_lock(bpffs_root, host_id), host_id, bpffs_root, "bpffs", "--bpffs"),
    ):
        yield


@contextlib.contextmanager
def _held(path: Path, host_id: str, place: Path, what: str, option: str) -> Iterator[None]:
    """The lock file ``path`` stands for ``place``; it and the directory that was made for it are gone at the end."""
    directory = path.parent
    is_new = not directory.exists()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _locked(path)
    except BlockingIOError:
        raise Refusal(
            f"Another agent of the host {host_id} works with {place}.",
            do="stop it first, or give this one a --host-id of its own",
        ) from None
    except OSError as error:
        raise Refusal(
            f"The agent cannot use the {what} {place}.",
            found=str(error),
            do=f"run it as root, or name a directory that it may write with {option}",
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)
        if is_new:
            with contextlib.suppress(OSError):  # it holds something now
                directory.rmdir()


def _locked(path: Path) -> int:
    """The descriptor that holds the lock; BlockingIOError where another does. Its owner removes the file.

    The file tells the process that holds it.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if path.samefile(f"/proc/self/fd/{fd}"):  # else its last owner has just removed it
                    os.ftruncate(fd, 0)
                    os.write(fd, str(os.getpid()).encode())
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)

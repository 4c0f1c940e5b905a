"""No two agents of one host in one place: neither with one state directory, nor with one bpffs. An edge module."""

import contextlib
import fcntl
import hashlib
import os
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
    """The descriptor that holds the lock; BlockingIOError where another does. Its owner removes the file."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if path.samefile(f"/proc/self/fd/{fd}"):  # else its last owner has just removed it
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)

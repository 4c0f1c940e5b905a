"""A bpffs: the file system whose files keep programs, maps and links alive when their process ends. An edge module."""

import ctypes
import errno
import os
from pathlib import Path

BPF_FS_MAGIC = 0xCAFE4A11  # linux/magic.h

_SOURCE = b"pktmirror"  # as which a mount of ours shows in /proc/mounts
_libc = ctypes.CDLL(None, use_errno=True)


def is_mounted(path: Path) -> bool:
    """Whether the path lies in a bpffs."""
    if not path.exists():
        return False
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with the type, a long
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF == BPF_FS_MAGIC


def mount(path: Path) -> None:
    """Make the directory and mount a bpffs there, for root only; nothing to do where there is one.

    A failure takes the directories that it made away again.
    """
    if is_mounted(path):
        return
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    if _libc.mount(_SOURCE, os.fsencode(path), b"bpf", 0, b"mode=700") != 0:
        error = ctypes.get_errno()
        for directory in made:
            directory.rmdir()
        raise OSError(error, f"mount a bpffs: {os.strerror(error)}", str(path))


def unmount_if_unused(path: Path) -> None:
    """Take away a bpffs that `mount` made, and its directory, once nothing is pinned there; others are left alone.

    One in which somebody is at work at this moment (EBUSY) is in use too, and stays.
    """
    ours = any(
        line.split()[:3] == [_SOURCE.decode(), str(path), "bpf"]
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    )
    if ours and not any(entry.is_dir() for entry in path.iterdir()):
        try:
            unmount(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            path.rmdir()


def unmount(path: Path) -> None:
    """Take the bpffs away, with everything pinned in it."""
    if _libc.umount2(os.fsencode(path), 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unmount: {os.strerror(error)}", str(path))


def refuse_elsewhere(path: Path) -> None:
    """OSError (EXDEV) for what is no directory of a bpffs, a symbolic link to one too."""
    if path.is_symlink() or not is_mounted(path):
        raise OSError(errno.EXDEV, "this is no directory of a bpffs, so nothing of it is removed", str(path))


def remove_tree(path: Path) -> None:
    """Unpin everything below a directory, and the directory; nothing to do where it is gone.

    It never leaves a bpffs: a directory of another file system is an OSError (EXDEV) and keeps what it holds, and a
    symbolic link is removed, not followed.
    """
    if not path.is_dir():
        return
    refuse_elsewhere(path)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()
    path.rmdir()

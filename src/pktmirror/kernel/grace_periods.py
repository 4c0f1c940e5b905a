"""The kernel's grace periods (RCU), which each attach of a program and each swap of a policy waits for. An edge module.

One takes some 10 ms, in which the kernel holds the lock of all network configuration; expedited, it takes some tens of
microseconds, as the kernel has it for itself when a network device goes (synchronize_net under RTNL). So whoever has
many of them to wait for asks for expedited ones meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SWITCH = Path("/sys/kernel/rcu_expedited")
_OFF, _OURS = b"0", b"28779"  # any number but 0 is on; by ours a later agent knows what a killed one has left behind


@contextmanager
def expedited(switch: Path = SWITCH) -> Iterator[None]:
    """Short grace periods, on the whole machine; then as it was. One process at a time.

    Where the operator has set it, and where /sys cannot be written, all stays as it is.
    """
    try:
        file = switch.open("r+b", buffering=0)
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if _number(file.fileno()) not in (_OFF, _OURS):
            yield
            return
        _write(file.fileno(), _OURS)
        try:
            yield
        finally:
            if _number(file.fileno()) == _OURS:
                _write(file.fileno(), _OFF)


def _number(fd: int) -> bytes:
    return os.pread(fd, 16, 0).split()[0]


def _write(fd: int, number: bytes) -> None:
    os.pwrite(fd, number + b"\n", 0)

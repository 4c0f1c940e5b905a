"""Ends what runs in a lab, and never anything else. An edge module: /proc and pidfds.

A process is held by a pidfd before it is looked at, so the one that was judged is the one that gets the signal,
whatever becomes of its pid.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pktmirror.kernel import netns
from pktmirror.lab.state import Process

TERM_WITHIN_S = 1.0  # then SIGKILL
KILL_WITHIN_S = 5.0
ROUNDS_MAX = 5  # a round takes what the one before has forked at the last moment


def identified(pid: int) -> Process | None:
    """A process by its pid and the time of its start; None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc_pid_stat(5): field 2 is the command in parentheses, which may itself hold spaces and parentheses.
    return Process(pid, int(stat.rpartition(")")[2].split()[22 - 3]))


def end(started: Iterable[Process], inodes: frozenset[int]) -> list[int]:
    """End what was started through the lab and whatever else is in the namespaces; returns the pids that were ended.

    Spares the caller and its ancestors: a shell that was started through the lab may take it down. Raises
    TimeoutError for a process that outlives SIGKILL.
    """
    spared = frozenset(_self_and_ancestors())
    started = tuple(started)
    ended: list[int] = []
    for _ in range(ROUNDS_MAX):
        candidates = {process.pid for process in started} | {pid for pid, _ in netns.processes(inodes)}
        with ExitStack() as stack:
            held = {}
            for pid in sorted(candidates - spared):
                try:
                    pidfd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                stack.callback(os.close, pidfd)
                if (identified(pid) in started or netns.inode_of_process(pid) in inodes) and not _gone([pidfd], 0):
                    held[pidfd] = pid
            if not held:
                break
            _end(held)
            ended += held.values()
    return ended


def _end(held: dict[int, int]) -> None:
    """SIGTERM, and SIGKILL for what it did not end. SIGCONT as well: a stopped process would sit on its SIGTERM."""
    waiting = list(held)
    for signals, within_s in (
        ((signal.SIGTERM, signal.SIGCONT), TERM_WITHIN_S),
        ((signal.SIGKILL,), KILL_WITHIN_S),
    ):
        for pidfd in waiting:
            for number in signals:
                _send(pidfd, number)
        gone = _gone(waiting, within_s)
        waiting = [pidfd for pidfd in waiting if pidfd not in gone]
    if waiting:
        raise TimeoutError(f"processes that outlive SIGKILL: {', '.join(str(held[pidfd]) for pidfd in waiting)}")


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return  # it has just ended


def _gone(pidfds: list[int], within_s: float) -> set[int]:
    """Those whose process has ended, as soon as all have or the time is over."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    gone: set[int] = set()
    deadline_s = time.monotonic() + within_s
    while len(gone) < len(pidfds):
        left_s = max(0.0, deadline_s - time.monotonic())
        ready = [pidfd for pidfd, _ in poll.poll(left_s * 1000)]
        if not ready:
            break
        for pidfd in ready:
            poll.unregister(pidfd)
        gone.update(ready)
    return gone


def _self_and_ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4 - 3])
        except (FileNotFoundError, ProcessLookupError):
            return

"""Control planes that may be killed: each is a fork of a process that has loaded all already, so a start is quick."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NURSERY = """
import os, signal, sys
from pathlib import Path
from pktmirror.control import Settings, serve
state, store = Path(sys.argv[1]), sys.argv[2] or None
for order in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            serve("127.0.0.1:0", state, settings=Settings(store=store), ready=lambda url: print(url, flush=True))
        finally:
            print("failed", flush=True)
            os._exit(1)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


class Nursery:
    """One control plane at a time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self) -> str:
        """The URL of a new control plane."""
        self._order()
        return self._answer("http://")

    def kill(self) -> None:
        """It ends here and now, by SIGKILL."""
        self._order()
        self._answer("dead")

    def _order(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _answer(self, begin: str) -> str:
        """The next line that begins so; what is logged before is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            assert line != "failed\n", "the control plane did not start"
            if line.startswith(begin):
                return line.strip()
        raise AssertionError("the nursery has ended")


@contextmanager
def opened(state: Path, store: str | None) -> Iterator[Nursery]:
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(state), store or ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()

"""Recorded answers of real engines: those of the Docker Engine API over a real unix socket, those of `virsh` by a
program that writes them.

Recorded in a network namespace of their own, from: Docker 20.10.24 (API 1.41), Podman 4.3.1 (API 1.41) and libvirt
9.0.0 with QEMU 7.2.22, the packages of Debian 12. ``engines/`` has one state of an engine in each file: containers
``web`` and ``db`` run, ``web`` is stopped, started again (by Docker: and renamed), removed; machines likewise.
"""

import contextlib
import socket
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

RECORDED = Path(__file__).parent / "engines"
REQUEST_BYTES_MAX = 65536


def recorded(name: str) -> bytes:
    """An answer as the engine sent it: head and body."""
    head = (RECORDED / f"{name}.head").read_bytes().replace(b"\r\n", b"\n").strip().replace(b"\n", b"\r\n")
    body = (RECORDED / f"{name}.json").read_bytes()
    if b"Transfer-Encoding: chunked" in head:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return head + b"\r\n\r\n" + body


class EngineServer:
    """Answers each request with `answer`, as the bytes it is. ``held`` set: it accepts, and answers when that is
    cleared. ``requests`` are the first lines of what was asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.path = path
        self.answer = answer
        self.requests: list[str] = []
        self._let_go = threading.Event()
        self._let_go.set()
        self._ends = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hold(self) -> None:
        self._let_go.clear()

    def let_go(self) -> None:
        self._let_go.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        self.let_go()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._ends:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request and (part := connection.recv(REQUEST_BYTES_MAX)):
                    request += part
                if request:
                    self.requests.append(request.split(b"\r\n", 1)[0].decode())
                    self._let_go.wait()
                    connection.sendall(self.answer)


class Virsh:
    """A `virsh` that writes what the real one wrote, in the state ``state``; each of its calls is in `calls`."""

    def __init__(self, directory: Path, state: str) -> None:
        self.program = directory / "virsh"
        self._log = directory / "calls"
        self._state = directory / "state"
        self.state = state
        self.program.write_text(
            f"""#!/bin/sh
echo "$*" >> {self._log}
state=$(cat {self._state})
case "$state" in
down) cat {RECORDED}/libvirt-down.err >&2; exit 1 ;;
hangs) exec sleep 1000 ;;
esac
for last; do :; done
case "$last" in
"list --all --uuid") cat {RECORDED}/libvirt-$state.list ;;
*) cat {RECORDED}/libvirt-$state.xml ;;
esac
"""
        )
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    @property
    def state(self) -> str:
        return self._state.read_text()

    @state.setter
    def state(self, state: str) -> None:
        beside = self._state.with_suffix(".new")
        beside.write_text(state)
        beside.replace(self._state)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

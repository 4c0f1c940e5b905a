"""The long polls of many hosts, each over a TLS connection of its own with its own certificate.

As a process of its own it reads where the control plane is and which hosts there are, as JSON, connects them all, and
says ``ready`` when each of them waits for news. For each line it reads it then says when each host had its document,
on the clock that all processes share (CLOCK_MONOTONIC). A host asks again at once, as an agent does.
"""

import asyncio
import json
import re
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.parse import urlsplit

from pktmirror.model.join import PLANE_NAME

CONNECTING_MAX = 50
WAIT_S = 60
_REVISION = re.compile(rb'"revision":(\d+)')
_STREAMS = re.compile(rb'"streams_id":"([^"]*)"')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Followers:
    """The process, as the bench sees it."""

    def __init__(self, process: "Popen[str]") -> None:
        self._process = process

    def expect(self) -> None:
        """From now on the next document of each host counts."""
        assert self._process.stdin is not None
        self._process.stdin.write("next\n")
        self._process.stdin.flush()
        assert self._heard() == "waiting"

    def delivered_s(self) -> tuple[list[float], int]:
        """When each host had all of it; and how many bytes they were, of all."""
        told = json.loads(self._heard())
        return told["delivered_s"], told["bytes"]

    def _heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


@contextmanager
def followers(url: str, ca: Path, pems: Mapping[str, Path]) -> Iterator[Followers]:
    """All connected, each with what it has to do already told; ``pems`` are the key and certificate of each host."""
    with Popen([sys.executable, str(Path(__file__))], stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            hosts = {host_id: str(path) for host_id, path in pems.items()}
            process.stdin.write(json.dumps({"url": url, "ca": str(ca), "hosts": hosts}) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n", "not all hosts have connected"
            yield Followers(process)
        finally:
            process.kill()


class _Poll(asyncio.Protocol):
    """One host: asks, takes its document, asks for the next."""

    def __init__(self, host_id: str, crowd: "_Crowd") -> None:
        self._host_id = host_id
        self._crowd = crowd
        self._revision = -1
        self._streams = ""
        self._chunks: list[bytes] = []
        self._left: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        known = f"after={self._revision}&streams={self._streams}&wait_s={WAIT_S}"
        path = f"/pktmirror/v1/agents/{self._host_id}/desired?{known}"
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: plane\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        if self._left is None:
            head, separator, body = b"".join(self._chunks).partition(b"\r\n\r\n")
            if not separator:
                return
            length = _LENGTH.search(head)
            self._left = (int(length[1]) if length else 0) - len(body)
        else:
            self._left -= len(data)
        if self._left > 0:
            return
        now_s, answer = time.monotonic(), b"".join(self._chunks)
        self._chunks, self._left = [], None
        status = int(answer[9:12])
        if status == 200:
            revision = _REVISION.search(answer)
            assert revision is not None
            self._revision = int(revision[1])
            streams = _STREAMS.search(answer)
            assert streams is not None
            self._streams = streams[1].decode()
            self._crowd.delivered(self._host_id, now_s, len(answer))
        elif status != 204:
            raise SystemExit(answer.decode())
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        raise SystemExit(f"{self._host_id} has lost its connection: {error}")


class _Crowd:
    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        self._at_s: dict[str, float] = {}
        self._bytes = 0
        self.all_have_it = asyncio.Event()

    def expect(self) -> None:
        self._at_s, self._bytes = {}, 0
        self.all_have_it.clear()

    def delivered(self, host_id: str, now_s: float, answer_bytes: int) -> None:
        self._at_s.setdefault(host_id, now_s)
        self._bytes += answer_bytes
        if len(self._at_s) == self._hosts:
            self.all_have_it.set()

    def told(self) -> str:
        return json.dumps({"delivered_s": sorted(self._at_s.values()), "bytes": self._bytes})


async def _run() -> None:
    loop = asyncio.get_running_loop()
    asked = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    place, crowd = urlsplit(asked["url"]), _Crowd(len(asked["hosts"]))
    connecting = asyncio.Semaphore(CONNECTING_MAX)

    async def connect(host_id: str, pem: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=asked["ca"])
        context.load_cert_chain(pem)
        async with connecting:
            await loop.create_connection(
                lambda: _Poll(host_id, crowd), place.hostname, place.port, ssl=context, server_hostname=PLANE_NAME
            )

    await asyncio.gather(*(connect(host_id, pem) for host_id, pem in asked["hosts"].items()))
    await crowd.all_have_it.wait()
    _tell("ready")
    while await loop.run_in_executor(None, sys.stdin.readline):
        crowd.expect()
        _tell("waiting")
        await crowd.all_have_it.wait()
        _tell(crowd.told())


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_run())

"""Who counts as one source of connections, how many there may be, and what becomes of an answer that nobody takes."""

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from pktmirror.cli.services import client_limits_of
from pktmirror.control.connections import (
    FILES_BESIDE,
    BoundedProtocol,
    ClientLimits,
    Connections,
    Reason,
    as_many_as_files,
    source_of,
)
from pktmirror.model.refusal import Refusal

ANSWER = b"x" * 32_000_000
"""More than all buffers of a connection hold."""


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_of_ipv6_all_addresses_that_one_machine_may_have_are_one_source(address: str, source: str) -> None:
    assert source_of(address) == source


def test_there_is_room_again_for_each_that_goes() -> None:
    connections = Connections(ClientLimits(connections_per_address=2), 3, lambda _why: None)
    first = [connections.admit("10.0.0.1") for _ in range(3)]
    assert first == ["10.0.0.1", "10.0.0.1", Reason.TOO_MANY_OF_ADDRESS]
    assert [connections.admit("10.0.0.2") for _ in range(2)] == ["10.0.0.2", Reason.TOO_MANY]
    connections.release("10.0.0.1")
    assert [connections.admit("10.0.0.3") for _ in range(2)] == ["10.0.0.3", Reason.TOO_MANY]
    connections.release("10.0.0.2")
    assert [connections.admit("10.0.0.1") for _ in range(2)] == ["10.0.0.1", Reason.TOO_MANY]


@pytest.fixture
def files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("files")
def test_the_soft_limit_of_open_files_is_raised_as_far_as_the_connections_need() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    assert as_many_as_files(ClientLimits(connections=400)) == 400
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1024, hard)
    assert as_many_as_files(ClientLimits(connections=1000)) == 1000
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1000 + FILES_BESIDE, hard)
    assert as_many_as_files(ClientLimits(connections=hard)) == hard - FILES_BESIDE
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


def test_an_answer_that_nobody_takes_ends_its_connection_and_one_that_is_taken_is_whole() -> None:
    counted: Counter[str] = Counter()
    connections = Connections(ClientLimits(answer_s=1.0), 10, lambda why: counted.update([why]))

    async def both() -> int:
        loop = asyncio.get_running_loop()
        config, state = uvicorn.Config(large, ws="none", log_config=None), ServerState()
        config.load()
        server = await loop.create_server(
            lambda: BoundedProtocol(config, state, {}, connections=connections), "127.0.0.1", 0
        )
        at = server.sockets[0].getsockname()
        async with server:
            with socket.create_connection(at) as stuck:
                stuck.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                reader, writer = await asyncio.open_connection(*at)
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                taken = len(await reader.read(-1))
                writer.close()
                while not counted:
                    await asyncio.sleep(0.01)
                while state.connections:
                    await asyncio.sleep(0.01)
        return taken

    assert asyncio.run(asyncio.wait_for(both(), 60)) > len(ANSWER)
    assert counted == {"AnswerNotTaken": 1}
    assert connections.admit("127.0.0.1") == "127.0.0.1"


def test_limits_of_the_command_line_take_the_place_of_the_usual_ones() -> None:
    given = client_limits_of(["connections=5", "body_s=2.5"])
    assert given == ClientLimits(connections=5, body_s=2.5)


@pytest.mark.parametrize("text", ["connections=2.5", "headers_s=x", "headers_s", "headers_s=-1", "speed=1", ""])
def test_what_is_no_limit_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refusal, match="no limit of clients"):
        client_limits_of([text])

"""Clients that are slow, silent or many are sent away and counted, while others are served."""

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from pktmirror import agent
from pktmirror.agent.identity import Identity
from pktmirror.control import ClientLimits
from pktmirror.model.join import PLANE_NAME
from tests.contract.plane import HOST, Plane, running
from tests.waiting import PATIENCE, wait_until

LATE_S = 2.5
"""How long a client may take. Those that are served say all at once; those that are not never come to an end."""
BYTE_EVERY_S = 0.05
GIVEN_UP_S = 30.0 * PATIENCE
HEADERS_LATE = b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "
BODY_LATE = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nAction="
POLL_WITH_A_BODY = (
    f"GET /pktmirror/v1/agents/{HOST}/desired?after=REVISION&wait_s=25 HTTP/1.1\r\nhost: x\r\n"
    "authorization: Bearer TOKEN\r\ncontent-length: 1000000\r\n\r\n"
).encode()
HANDSHAKE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first bytes of a ClientHello of 512 bytes."""


@dataclass(frozen=True)
class Slow:
    """What a client says at once; then it says ``more``, byte by byte, or nothing where that is empty."""

    by_tls: bool
    shakes_hands: bool
    says: bytes
    more: bytes = b"a"


SLOW = {
    "headers": Slow(False, False, HEADERS_LATE),
    "headers by TLS": Slow(True, True, HEADERS_LATE),
    "body": Slow(False, False, BODY_LATE),
    "body by TLS": Slow(True, True, BODY_LATE),
    "body that nobody reads": Slow(False, False, POLL_WITH_A_BODY),
    "silent": Slow(False, False, b"", b""),
    "silent by TLS": Slow(True, True, b"", b""),
    "no handshake": Slow(True, False, b"", b""),
    "slow handshake": Slow(True, False, HANDSHAKE, b"\0"),
}
COUNTED = {"RequestHeadersTimeout": 4, "RequestBodyTimeout": 3, "HandshakeTimeout": 2}


@dataclass(frozen=True)
class Seen:
    """What the slow ones were told, by kind, how long that took, and what was counted; how others were served."""

    told: dict[str, bytes]
    took_s: dict[str, float]
    counted: dict[str, int]
    statuses: set[int]
    polls: dict[str, int]


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def connected(plane: Plane, client: Slow, identity: Identity, stack: ExitStack) -> socket.socket:
    url = plane.tls_url if client.by_tls else plane.url
    assert url is not None
    connection = stack.enter_context(socket.create_connection(address(url), GIVEN_UP_S))
    if not client.shakes_hands:
        return connection
    return stack.enter_context(identity.context().wrap_socket(connection, server_hostname=PLANE_NAME))


def told(connection: socket.socket, says: bytes, more: bytes, begun_s: float) -> tuple[bytes, float]:
    """All that the server says until it has ended the connection, and after how long it has."""
    answer = b""
    connection.settimeout(BYTE_EVERY_S)
    connection.sendall(says)
    while time.monotonic() < begun_s + GIVEN_UP_S:
        try:
            if not (said := connection.recv(4096)):
                return answer, time.monotonic() - begun_s
            answer += said
        except TimeoutError:
            pass
        except OSError:
            return answer, time.monotonic() - begun_s
        with contextlib.suppress(OSError):  # what the server has said before it ended is read above
            connection.sendall(more)
    raise AssertionError("the connection was never ended")


def refusals(plane: Plane) -> dict[str, int]:
    counted: dict[str, int] = plane.own("status")["refused_requests"]
    return counted


def joined(plane: Plane, state: Path) -> Identity:
    assert plane.tls_url is not None
    wish = msgspec.json.encode({"host_id": "joined", "valid_s": 600.0}).decode()
    token = plane.own_answer("join-tokens", method="POST", body=wish).json()["token"]
    return agent.join(plane.tls_url, token, "joined", state)


def polled(plane: Plane, identity: Identity | None, wait_s: float) -> int:
    """The status of an agent's long poll that nothing comes of: by TLS of a host that has joined, else by the token."""
    url, host = (plane.url, HOST) if identity is None else (plane.tls_url, "joined")
    context = True if identity is None else identity.context()
    with httpx.Client(verify=context, trust_env=False, timeout=GIVEN_UP_S) as client:
        answer = client.get(
            f"{url}/pktmirror/v1/agents/{host}/desired",
            params={"after": plane.own("status")["revision"], "wait_s": wait_s},
            headers={"authorization": f"Bearer {plane.token}"} if identity is None else {},
            extensions={} if identity is None else {"sni_hostname": PLANE_NAME},
        )
    return answer.status_code


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """All slow clients at once, and meanwhile two agents' long polls and one client that asks again and again."""
    directory = tmp_path_factory.mktemp("slow")
    limits = ClientLimits(handshake_s=LATE_S, headers_s=LATE_S, body_s=LATE_S)
    with (
        running(directory / "state", listen_tls="127.0.0.1:0", clients=limits) as plane,
        ExitStack() as stack,
        ThreadPoolExecutor(len(SLOW) + 2) as threads,
    ):
        identity = joined(plane, directory / "host")
        before, revision = refusals(plane), plane.own("status")["revision"]
        polling = {
            name: threads.submit(polled, plane, shown, LATE_S + 1)
            for name, shown in {"plain": None, "by TLS": identity}.items()
        }
        slow: dict[str, Future[tuple[bytes, float]]] = {}
        for name, client in SLOW.items():
            begun_s = time.monotonic()
            connection = connected(plane, client, identity, stack)
            says = client.says.replace(b"TOKEN", plane.token.encode()).replace(b"REVISION", b"%d" % revision)
            slow[name] = threads.submit(told, connection, says, client.more, begun_s)
        statuses: set[int] = set()
        while wait((*slow.values(), *polling.values()), timeout=0.1).not_done:
            statuses.add(plane.own_answer("status").status_code)
        after = refusals(plane)
        yield Seen(
            told={name: each.result()[0] for name, each in slow.items()},
            took_s={name: each.result()[1] for name, each in slow.items()},
            counted={code: count - before.get(code, 0) for code, count in after.items() if count != before.get(code)},
            statuses=statuses,
            polls={name: each.result() for name, each in polling.items()},
        )


@pytest.mark.parametrize("kind", SLOW)
def test_a_client_that_owes_something_for_too_long_is_sent_away(seen: Seen, kind: str) -> None:
    has_spoken_http = SLOW[kind].says not in (b"", HANDSHAKE)
    status_line = seen.told[kind].partition(b"\r\n")[0]
    assert status_line == (b"HTTP/1.1 408 Request Timeout" if has_spoken_http else b"")


@pytest.mark.parametrize("kind", SLOW)
def test_it_is_not_sent_away_before_its_time(seen: Seen, kind: str) -> None:
    assert seen.took_s[kind] >= LATE_S


def test_each_is_counted_once_by_what_it_owed(seen: Seen) -> None:
    assert seen.counted == COUNTED


def test_others_are_served_meanwhile_and_long_polls_owe_nothing(seen: Seen) -> None:
    assert seen.statuses == {200}
    assert seen.polls == {"plain": 204, "by TLS": 204}


CONNECTIONS, OF_ADDRESS = 6, 2


@pytest.fixture
def few(tmp_path: Path) -> Iterator[Plane]:
    """A server with room for few connections."""
    limits = ClientLimits(connections=CONNECTIONS, connections_per_address=OF_ADDRESS)
    with running(tmp_path / "state", listen_tls="127.0.0.1:0", clients=limits) as plane:
        yield plane


def opened(stack: ExitStack, plane: Plane, source: str, *, by_tls: bool = False) -> socket.socket:
    """A connection from that address, which may be refused yet."""
    url = plane.tls_url if by_tls else plane.url
    assert url is not None
    return stack.enter_context(socket.create_connection(address(url), GIVEN_UP_S, (source, 0)))


def held(stack: ExitStack, plane: Plane, source: str, *, by_tls: bool = False) -> socket.socket:
    """One that was let in, and was answered: it stays, until it is closed."""
    connection = opened(stack, plane, source, by_tls=by_tls)
    if by_tls:
        context = ssl.create_default_context(cafile=str(plane.state / "ca.pem"))
        connection = stack.enter_context(context.wrap_socket(connection, server_hostname="localhost"))
    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert told_at_once(connection) == b"HTTP/1.1 200 OK"
    return connection


def told_at_once(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096).partition(b"\r\n")[0]
    except OSError:
        return b""


def is_let_in(plane: Plane, source: str) -> bool:
    with ExitStack() as stack:
        try:
            held(stack, plane, source)
        except (AssertionError, OSError):
            return False
        return True


def test_one_address_has_its_share_of_the_connections_and_another_its_own(few: Plane) -> None:
    with ExitStack() as stack:
        first = held(stack, few, "127.0.0.2")
        held(stack, few, "127.0.0.2", by_tls=True)
        assert told_at_once(opened(stack, few, "127.0.0.2")) == b"HTTP/1.1 503 Service Unavailable"
        assert told_at_once(opened(stack, few, "127.0.0.2", by_tls=True)) == b""
        assert refusals(few) == {"TooManyConnectionsOfAddress": 2}
        first.close()
        wait_until(lambda: is_let_in(few, "127.0.0.2"), 30, "no room after one of them has gone")


def test_beyond_all_connections_the_next_one_is_refused_and_those_there_are_served(few: Plane) -> None:
    with ExitStack() as stack:
        asking = stack.enter_context(httpx.Client(base_url=few.url, trust_env=False, timeout=GIVEN_UP_S))
        assert asking.get("/").status_code == 200
        others = [held(stack, few, f"127.0.0.{2 + each // 2}", by_tls=each % 2 == 1) for each in range(CONNECTIONS - 1)]
        assert told_at_once(opened(stack, few, "127.0.0.9")) == b"HTTP/1.1 503 Service Unavailable"
        assert told_at_once(opened(stack, few, "127.0.0.9", by_tls=True)) == b""
        assert not is_let_in(few, "127.0.0.1")
        assert refused_by_metrics(asking, few) == {"TooManyConnections": 3}
        others[0].close()
        wait_until(lambda: is_let_in(few, "127.0.0.9"), 30, "no room after one of them has gone")


def refused_by_metrics(client: httpx.Client, plane: Plane) -> dict[str, int]:
    token = (plane.state / "metrics-token").read_text().strip()
    text = client.get("/metrics", headers={"authorization": f"Bearer {token}"}).text
    found = re.findall(r'^pktmirror_requests_refused_total\{code="(\w+)"\} (\d+)\.0$', text, re.M)
    return {code: int(count) for code, count in found}


def test_a_handshake_that_fails_is_counted_and_one_that_is_given_up_asked_for_nothing(few: Plane) -> None:
    assert few.tls_url is not None
    with socket.create_connection(address(few.tls_url), GIVEN_UP_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while connection.recv(4096):
            pass
    wait_until(lambda: refusals(few) == {"HandshakeFailed": 1}, 30, "it was not counted")
    with socket.create_connection(address(few.tls_url), GIVEN_UP_S):
        pass
    context = ssl.create_default_context(cafile=str(few.state / "ca.pem"))
    with (
        socket.create_connection(address(few.tls_url), GIVEN_UP_S) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert secured.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert refusals(few) == {"HandshakeFailed": 1}

"""Connections of clients to the listeners: how many there may be, and how long each may take. An edge module.

uvicorn bounds only how long a connection is idle between two requests. `BoundedProtocol` is its HTTP protocol with a
deadline for whatever the client owes: a handshake, the headers of a request, its body, the taking of an answer. It is
given to uvicorn as the class of its protocol, which uvicorn documents. A long poll owes nothing while it waits.
"""

import asyncio
import resource
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address
from typing import Any

import h11
import structlog
from starlette.requests import Request
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

FILES_BESIDE = 512
"""Open files that are left for the store, the audit log and all else, however many connections may be open."""
FEWEST = 64
LINGER_S = 1.0
"""For so long what was written last may be on its way to a client that is sent away."""

_GAVE_UP = "pktmirror_gave_up"
_log = structlog.get_logger("control")


class Reason(Enum):
    """Why a connection was refused or ended; each is counted under its value, like the codes of requests."""

    TOO_MANY = "TooManyConnections"
    TOO_MANY_OF_ADDRESS = "TooManyConnectionsOfAddress"
    HANDSHAKE_FAILED = "HandshakeFailed"
    HANDSHAKE_LATE = "HandshakeTimeout"
    HEADERS_LATE = "RequestHeadersTimeout"
    BODY_LATE = "RequestBodyTimeout"
    ANSWER_NOT_TAKEN = "AnswerNotTaken"


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Of both listeners together. An agent has up to four connections, so the defaults hold the agents of 2,000 hosts
    also where all come from one address, as by a load balancer.

    Seconds are from the connection to the end of its TLS handshake, to the end of a request's headers (of a later
    request from its first byte), from there to the end of its body, and until an answer is taken.
    """

    connections: int = 16_384
    connections_per_address: int = 8_192
    handshake_s: float = 20.0
    headers_s: float = 20.0
    body_s: float = 60.0
    answer_s: float = 60.0


def as_many_as_files(limits: ClientLimits) -> int:
    """The connections for which this process may open files; its soft limit is raised as far as that takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = limits.connections + FILES_BESIDE
    if hard != resource.RLIM_INFINITY and hard < files:
        _log.warning("there may be fewer connections than set: raise the limit of open files", files=hard, needed=files)
        files = hard
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return min(limits.connections, max(files - FILES_BESIDE, FEWEST))


class Connections:
    """The open connections of all listeners. ``count`` is told of each that is refused or ended, and why."""

    def __init__(self, limits: ClientLimits, connections_max: int, count: Callable[[str], None]) -> None:
        self.limits = limits
        self._max = connections_max
        self._count = count
        self._by_source: Counter[str] = Counter()
        self._open = 0
        self._lock = threading.Lock()

    def admit(self, address: str) -> str | Reason:
        """The source under which it counts until `release`, or why there is no room for one more from there."""
        source = source_of(address)
        with self._lock:
            if self._open >= self._max:
                return Reason.TOO_MANY
            if self._by_source[source] >= self.limits.connections_per_address:
                return Reason.TOO_MANY_OF_ADDRESS
            self._open += 1
            self._by_source[source] += 1
            return source

    def release(self, source: str) -> None:
        with self._lock:
            self._open -= 1
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]

    def count(self, why: Reason) -> None:
        self._count(why.value)


def source_of(address: str) -> str:
    """By what connections are counted together: an IPv4 address, or the /64 that one machine may have all of."""
    plain = address.partition("%")[0]
    try:
        found = ip_address(plain)
    except ValueError:
        return address
    return f"{IPv6Address(int(found) >> 64 << 64)}/64" if found.version == 6 else plain


def gave_up(request: Request) -> bool:
    """Whether the request was ended, and counted, because it was too long on its way."""
    return bool(request.scope.get("state", {}).get(_GAVE_UP))


class BoundedProtocol(H11Protocol):
    """A connection of a client, and how long it may be at what."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.admissions = connections
        self.limits = connections.limits
        self._source: str | None = None  # None: not admitted, or gone
        self._owed: tuple[Reason, object] | None = None  # and of which request
        self._owing: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        admitted = self.admissions.admit(peer[0] if peer else "")
        if isinstance(admitted, Reason):
            self.admissions.count(admitted)
            self.turn_away(transport)
            return
        self._source = admitted
        self.admitted(transport)

    def turn_away(self, transport: asyncio.Transport) -> None:
        """There is no room for this connection."""
        transport.write(_answer(503, "Service Unavailable"))
        self._end(transport)

    def admitted(self, transport: asyncio.Transport) -> None:
        """There is room for it."""
        self.begin(transport)

    def begin(self, transport: asyncio.Transport) -> None:
        """From now on it speaks HTTP."""
        super().connection_made(transport)
        self._watch()

    def release(self) -> None:
        """It counts no more."""
        if self._source is not None:
            self.admissions.release(self._source)
            self._source = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._owing, self._taking, self._ending):
            if timer is not None:
                timer.cancel()
        if self._source is not None:
            self.release()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._taking is None:
            self._taking = self.loop.call_later(self.limits.answer_s, self._not_taken)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _watch(self) -> None:
        """Let the deadline of what the client owes now run, and no other."""
        if self.transport.is_closing():
            self._owe(None, 0.0)
            if self._ending is None:
                self._ending = self.loop.call_later(self.limits.answer_s, self._not_taken)
        elif self.conn.their_state is h11.SEND_BODY:
            self._owe(Reason.BODY_LATE, self.limits.body_s)
        elif self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            self._owe(Reason.HEADERS_LATE, self.limits.headers_s)
        else:
            self._owe(None, 0.0)

    def _owe(self, what: Reason | None, within_s: float) -> None:
        owed = None if what is None else (what, self.cycle)
        if owed == self._owed:
            return
        if self._owing is not None:
            self._owing.cancel()
        self._owed = owed
        self._owing = None if what is None else self.loop.call_later(within_s, self._late, what)

    def _late(self, what: Reason) -> None:
        """What the client owes has not come: it is told, where it has said anything yet, and sent away."""
        self.admissions.count(what)
        is_answered = False
        if what is Reason.BODY_LATE:
            is_answered = self.cycle.response_started
            self.scope["state"][_GAVE_UP] = True  # whoever reads the body finds the client gone, and need not count it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        has_spoken = what is Reason.BODY_LATE or bool(self.conn.trailing_data[0])
        if has_spoken and not is_answered:
            self.transport.write(_answer(408, "Request Timeout"))
        self._end(self.transport)

    def _not_taken(self) -> None:
        if self.transport.get_write_buffer_size() > 0:
            self.admissions.count(Reason.ANSWER_NOT_TAKEN)
        self.transport.abort()

    def _end(self, transport: asyncio.Transport) -> None:
        transport.close()
        self._ending = self.loop.call_later(LINGER_S, transport.abort)


def _answer(status: int, phrase: str) -> bytes:
    return f"HTTP/1.1 {status} {phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode("ascii")

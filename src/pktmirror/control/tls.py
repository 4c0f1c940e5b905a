"""TLS of the control plane: what its listener shows, and which certificate a client has shown. An edge module.

A client need not show a certificate: who signs requests has no other. One that it shows must be of the control
plane's own CA, or the handshake fails.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from pktmirror.control.authority import Authority, Shown, key_pem_of, pem_of
from pktmirror.control.connections import BoundedProtocol, Connections, Reason

_PEER = "pktmirror.peer"


class PeerKnown:
    """Puts into the scope of each request who is at the other end of its connection."""

    def __init__(self, app: ASGIApp, shown: Shown | None) -> None:
        self._app = app
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), _PEER: self._shown}
        await self._app({**scope, "extensions": extensions}, receive, send)


class _Early(asyncio.Protocol):
    """What comes in the moment between the end of a handshake and its news."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.said.append(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.is_lost = True


class TlsProtocol(BoundedProtocol):
    """HTTP that knows whose certificate its connection has shown. It takes no header's word for it.

    It has the handshake itself, and not uvicorn, so that a connection counts from its first moment, and so that a
    handshake that fails or never ends is counted too.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
        context: ssl.SSLContext,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, connections=connections)
        self._context = context
        self._handshake: asyncio.Task[None] | None = None
        self._unsecured: asyncio.Transport | None = None

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Without a handshake there is nothing that it could be told, and handshakes are dear."""
        transport.abort()

    def admitted(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()  # until TLS reads
        self.connections.add(self)
        self._unsecured = transport
        self._handshake = self.loop.create_task(self._shake_hands(transport))

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        early = _Early()
        secured: asyncio.Transport | None = None
        try:
            secured = await self.loop.start_tls(
                transport, early, self._context, server_side=True, ssl_handshake_timeout=self.limits.handshake_s
            )
        except ssl.SSLError:
            self.admissions.count(Reason.HANDSHAKE_FAILED)
        except ConnectionAbortedError:
            self.admissions.count(Reason.HANDSHAKE_LATE)
        except OSError:
            pass  # it went away, and has asked for nothing
        self._handshake = None
        if secured is None or early.is_lost:
            transport.abort()
            self.connections.discard(self)
            self.release()
            return
        secured.set_protocol(self)
        self.begin(secured)
        for data in early.said:
            self.data_received(data)

    def begin(self, transport: asyncio.Transport) -> None:
        super().begin(transport)
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.app = PeerKnown(self.app, Shown.of(der) if der else None)

    def shutdown(self) -> None:
        """A connection that is idle ends at once: by TLS it would else wait for its client, which waits too."""
        if self._handshake is not None and self._unsecured is not None:
            self._unsecured.abort()
            return
        super().shutdown()
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()


def came_by_tls(request: Request) -> bool:
    """Whether this control plane itself has taken it by TLS; a proxy in front of it does not count."""
    return _PEER in request.scope.get("extensions", {})


def shown(request: Request) -> Shown | None:
    """The certificate that the client showed, if any."""
    found: Shown | None = request.scope.get("extensions", {}).get(_PEER)
    return found


class ServerCertificate:
    """A certificate of our own CA for the listener, made anew before it ends; connections that are open go on.

    ``names`` are those by which clients other than hosts reach it.
    """

    def __init__(
        self, authority: Authority, names: tuple[str, ...], write: Callable[[bytes], Path], now_s: float
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.load_verify_locations(cadata=authority.certificate_pem.decode())
        self._authority = authority
        self._names = names
        self._write = write
        self._certificate = self._made(now_s)

    def renew_if_due(self, now_s: float) -> None:
        """In the last third of its life."""
        begins_s, ends_s = (
            moment.timestamp()
            for moment in (self._certificate.not_valid_before_utc, self._certificate.not_valid_after_utc)
        )
        if now_s >= ends_s - (ends_s - begins_s) / 3:
            self._certificate = self._made(now_s)

    def _made(self, now_s: float) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._authority.for_server(key.public_key(), self._names, now_s)
        pem = key_pem_of(key) + pem_of(certificate) + self._authority.certificate_pem
        self.context.load_cert_chain(self._write(pem))
        return certificate


def own_names(address: str) -> tuple[str, ...]:
    """The names that this machine has for itself, and the address listened on where it is a certain one."""
    return ("localhost", "127.0.0.1", "::1", socket.gethostname(), address)

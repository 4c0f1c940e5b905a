"""The control plane as a process: state directory, store, declaration of networks, and its listening sockets,
one without TLS and, where it is asked for, one with it.

An edge module.
"""

import asyncio
import contextlib
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, cast

import structlog
import uvicorn
from starlette.applications import Starlette

from pktmirror.aws import ApiError
from pktmirror.control.authority import HOST_S, Authority
from pktmirror.control.callers import Identity
from pktmirror.control.connections import BoundedProtocol, ClientLimits, Connections, as_many_as_files
from pktmirror.control.http import Endpoint
from pktmirror.control.joins import Joins
from pktmirror.control.plane import ControlPlane
from pktmirror.control.statedir import CA, CA_KEY, KEY, Client, StateDirectory
from pktmirror.control.store import Store
from pktmirror.control.tls import ServerCertificate, TlsProtocol, own_names
from pktmirror.control.trail import Trail
from pktmirror.model.limits import DATA_PLANE_RULES_PER_FILTER, DATA_PLANE_SESSIONS_PER_INTERFACE, Quotas
from pktmirror.model.probe import probe_key
from pktmirror.model.refusal import Refusal
from pktmirror.networks import Declaration, networks, parse

DEFAULT_LISTEN = "127.0.0.1:8773"
DEFAULT_REGION = "local-1"  # botocore and the aws CLI take any host label, and this one is no region of AWS
SHUTDOWN_S = 3
KEEP_ALIVE_S = 75
STOP_POLL_S = 0.05
RENEW_LOOK_S = 3600.0
_CA_FINGERPRINT = "ca_fingerprint"
"""The setting of the store that says by which CA its hosts have joined, if any have."""

_REGION = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_log = structlog.get_logger("control")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set beside the address. ``eni_forget_s`` None: an interface that is gone is kept.

    ``listen_tls`` is the address for hosts that have joined, and for all who want TLS; ``tls_names`` are by which names
    and addresses they reach it. None: no TLS.
    """

    region: str = DEFAULT_REGION
    quotas: Quotas = field(default_factory=Quotas)
    eni_forget_s: float | None = None
    store: str | None = None
    """The URL of a PostgreSQL database; None: SQLite in the state directory."""
    listen_tls: str | None = None
    tls_names: tuple[str, ...] = ()
    host_certificate_s: float = HOST_S
    new_ca: bool = False
    """Whether another CA than the one that the store's hosts have joined may take its place: all have to join again."""
    clients: ClientLimits = field(default_factory=ClientLimits)


def serve(
    listen: str,
    state_dir: Path,
    networks_file: Path | None = None,
    *,
    allow_remote_without_tls: bool = False,
    settings: Settings | None = None,
    stop: threading.Event | None = None,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Run until ``stop`` is set, or until SIGINT or SIGTERM where this is the main thread and ``stop`` is None.

    ``ready`` is called with the URL when requests are answered, and then with that for TLS. Port 0 takes a free one.
    Raises `Refusal` for what the operator can mend: the address, the state directory, the declaration of networks, the
    settings.
    """
    settings = settings or Settings()
    _check(settings)
    declared = _declaration(networks_file)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listening(listen, allow_remote_without_tls))
        secured = None
        if settings.listen_tls is not None:
            secured = stack.enter_context(_listening(settings.listen_tls, True))
        state = stack.enter_context(_state(state_dir))
        store = Store.open(settings.store or state.store)
        stack.callback(store.close)
        trail = Trail(state.path)
        stack.callback(trail.close)
        plane = _plane(store, trail, state, settings, declared, networks_file)

        def known_by(identity: Identity) -> None:
            key_id, secret = identity.access_key_id, identity.secret_access_key
            state.write_client(
                Client(
                    endpoint_url=_url(listening), region=settings.region, access_key_id=key_id, secret_access_key=secret
                )
            )

        plane.callers.follow(known_by)
        tls, joins = None, None
        # Also without TLS: replicas that are to have it share what the first of them has made.
        authority = _authority(store, state, settings)
        if secured is not None:
            names = (*own_names(secured.getsockname()[0]), *settings.tls_names)
            certificate = ServerCertificate(authority, names, state.write_server_certificate, time.time())
            tls = secured, certificate
            joins = Joins(
                store, authority, probe_key(state.agent_token()), host_certificate_s=settings.host_certificate_s
            )
        urls = [_url(listening), *([] if secured is None else [_url(secured, "https")])]
        endpoint = Endpoint(
            plane,
            state.agent_token(),
            state.metrics_token(),
            joins=joins,
            started=lambda: _announce(urls, ready),
        )
        connections = Connections(settings.clients, as_many_as_files(settings.clients), plane.refused.count)
        asyncio.run(_serve(endpoint, store, connections, listening, tls, stack.enter_context(_stopping(stop))))


def _check_shared_files(store: Store, state: StateDirectory, new_ca: bool) -> None:
    """Refusal where a store that is in use needs files that this directory lacks: new ones would not fit."""
    with store.read() as transaction:
        is_in_use = transaction.access_keys.count() > 0
    lacking = [name for name in state.lacks() if store.url is not None or name == KEY]
    if new_ca:
        lacking = [name for name in lacking if name not in (CA, CA_KEY)]
    if is_in_use and lacking:
        raise Refusal(
            f"The store {store.name} is in use, and {state.path} lacks what belongs to it.",
            found=f"no {', '.join(lacking)}",
            do="copy these files of another control plane of this store, for their owner only, or restore a backup",
        )


def _authority(store: Store, state: StateDirectory, settings: Settings) -> Authority:
    """The CA of the store; a new one only where hosts have joined none yet, or where that is asked for.

    Refusal where it is lost, or another's: hosts that have joined would be turned away without a word of why.
    """
    with store.write() as transaction:  # one of several that start at once is the first
        known = transaction.setting(_CA_FINGERPRINT)
        has_had_one = known is not None or transaction.host_certificates.count() > 0
        if has_had_one and not state.has_authority and not settings.new_ca:
            raise _refused_ca(state, f"no {CA}")
        is_lost = has_had_one and not state.has_authority
        authority = state.authority(time.time())
        fingerprint = authority.fingerprint.hex()
        is_another = is_lost or known not in (None, fingerprint)
        if is_another and not settings.new_ca:
            raise _refused_ca(state, f"one with the SHA-256 fingerprint {fingerprint[:16]}…, not {str(known)[:16]}…")
        if is_another:
            what = "another CA takes the place of the hosts' own: all of them have to join again. Drop --new-ca"
            _log.warning(what, ca=fingerprint, before=known)
        elif known is not None and settings.new_ca:  # left so, it would let any other pass as well
            raise Refusal(
                f"The CA in {state.path} is the one of this store, and --new-ca is for the start after it is lost.",
                found=f"the SHA-256 fingerprint {fingerprint[:16]}… at both",
                do="drop --new-ca; to have another CA all the same, move the files of this one away first",
            )
        transaction.set_setting(_CA_FINGERPRINT, fingerprint)
    return authority


def _refused_ca(state: StateDirectory, found: str) -> Refusal:
    return Refusal(
        f"The CA in {state.path} is not the one that the hosts of this store have joined.",
        found=found,
        do=f"put back {CA} and {CA_KEY} of a backup or of another control plane of this store; or start once with "
        "--new-ca, and then let each host join again (`pktmirror agent token`)",
    )


def _plane(
    store: Store,
    trail: Trail,
    state: StateDirectory,
    settings: Settings,
    declared: Declaration | None,
    file: Path | None,
) -> ControlPlane:
    _check_shared_files(store, state, settings.new_ca)
    try:
        plane = ControlPlane(
            store,
            state.key(),
            trail,
            region=settings.region,
            networks=declared,
            quotas=settings.quotas,
            eni_forget_s=settings.eni_forget_s,
            now_s=time.time(),
        )
    except ApiError as error:
        if error.code == "Unavailable":
            raise Refusal(
                f"The store {store.name} is away.", found=error.message, do="start again when its server runs"
            ) from None
        raise Refusal(
            f"The declaration of networks {file} cannot take the place of the one in force.",
            found=error.message,
            do="correct the file, or start without --networks and delete what is in the way",
        ) from None
    for change in plane.networks_applied:
        _log.info("the declaration of networks has changed", file=str(file), change=change)
    return plane


def _announce(urls: list[str], ready: Callable[[str], None]) -> None:
    for url in urls:
        _log.info("the control plane answers", url=url)
        ready(url)


async def _serve(
    endpoint: Endpoint,
    store: Store,
    connections: Connections,
    listening: socket.socket,
    tls: tuple[socket.socket, ServerCertificate] | None,
    stop: threading.Event,
) -> None:
    app = endpoint.app()
    servers = [(_server(app, partial(BoundedProtocol, connections=connections), lifespan="on"), listening)]
    if tls is not None:
        secured, certificate = tls
        protocol = partial(TlsProtocol, connections=connections, context=certificate.context)
        servers.append((_server(app, protocol, lifespan="off"), secured))
    loop = asyncio.get_running_loop()

    def changed(told: str) -> None:
        loop.call_soon_threadsafe(endpoint.told_elsewhere, told)

    with store.listening(changed):
        serving = [asyncio.create_task(server.serve([socket_])) for server, socket_ in servers]
        renewing = asyncio.create_task(_renewing(None if tls is None else tls[1]))
        while not stop.is_set() and not any(task.done() for task in serving):
            await asyncio.sleep(STOP_POLL_S)
        renewing.cancel()
        endpoint.stop()
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*serving)


def _server(app: Starlette, protocol: Callable[..., asyncio.Protocol], *, lifespan: Literal["on", "off"]) -> "_Server":
    """An HTTP server of connections that ``protocol`` makes."""
    config = uvicorn.Config(
        app,
        http=cast(Any, protocol),  # uvicorn calls what it is given, and asks nothing else of it
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # whoever calls from this machine could say that it calls from another
        lifespan=lifespan,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return _Server(config)


async def _renewing(certificate: ServerCertificate | None) -> None:
    while certificate is not None:
        await asyncio.sleep(RENEW_LOOK_S)
        try:
            certificate.renew_if_due(time.time())
        except Exception:  # the old one lasts for days yet; what failed is in the log
            _log.exception("the server's certificate cannot be renewed")


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone: `serve` may run in any thread."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _stopping(stop: threading.Event | None) -> Iterator[threading.Event]:
    """The caller's event, or one that the signals set."""
    if stop is not None or threading.current_thread() is not threading.main_thread():
        yield stop or threading.Event()
        return
    event = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda _number, _frame: event.set()) for number in numbers]
    try:
        yield event
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _state(state_dir: Path) -> Iterator[StateDirectory]:
    state = StateDirectory.open(state_dir)
    try:
        yield state
    finally:
        state.close()


@contextmanager
def _listening(listen: str, beyond_loopback: bool) -> Iterator[socket.socket]:
    """The bound and listening socket; nothing else is touched when the address cannot be had."""
    host, _, port = listen.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError
    except ValueError:
        raise Refusal(
            f"{listen} is no address to listen on.", do="write ADDRESS:PORT, as in 127.0.0.1:8773 or [::1]:8773"
        ) from None
    if not address.is_loopback and not beyond_loopback:
        raise Refusal(
            f"The control plane does not listen on {address} without TLS: that is no loopback address.",
            found="requests are signed, but anybody on the way could read them, and the agents' token",
            do="listen there with --listen-tls; or give --allow-remote-without-tls to accept that",
        )
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it each answer waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((str(address), number))
        except OSError as error:
            raise Refusal(
                f"The control plane cannot listen on {listen}.",
                found=error.strerror or str(error),
                do="stop what has the port (`ss -ltnp` names it), or choose another address with --listen",
            ) from None
        listening.listen(2048)
        yield listening


def _url(listening: socket.socket, scheme: str = "http") -> str:
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _declaration(file: Path | None) -> Declaration | None:
    if file is None:
        return None
    try:
        declared = parse(file.read_text(encoding="utf-8-sig"))
        networks(declared)
        return declared
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"The declaration of networks {file} cannot be read.",
            found=getattr(error, "strerror", None) or str(error),
            do="name a readable networks.toml with --networks",
        ) from None


def _check(settings: Settings) -> None:
    if _REGION.fullmatch(settings.region) is None:
        raise Refusal(
            f"{settings.region!r} is no name for a region.", do="use lower case letters, digits and hyphens: local-1"
        )
    quotas = settings.quotas
    for name, most in (
        ("rules_per_filter", DATA_PLANE_RULES_PER_FILTER),
        ("sessions_per_interface", DATA_PLANE_SESSIONS_PER_INTERFACE),
    ):
        if getattr(quotas, name) > most:
            raise Refusal(
                f"The quota {name} is more than the data plane holds.",
                found=f"{getattr(quotas, name)}, and there is room for {most}",
                do=f"set it to {most} or less",
            )
    for limit in fields(settings.clients):
        if getattr(settings.clients, limit.name) <= 0:
            raise Refusal(f"The limit of clients {limit.name} is not above 0.", do="leave it out for the usual one")
    for quota in fields(quotas):
        if getattr(quotas, quota.name) < 0:
            raise Refusal(f"The quota {quota.name} is negative.", do="set it to 0 or more")

"""The monitor as it runs: a UDP socket, a capture file, a report now and then. An edge module: sockets and clocks.

A plain loop over recvmsg. What it is too slow for, the kernel counts as `socket_queue_full`.
"""

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from pathlib import Path
from select import POLLIN, poll
from typing import NamedTuple

from pktmirror.kernel import netns as namespaces
from pktmirror.kernel.clock import clock_id
from pktmirror.kernel.netlink import Netlink
from pktmirror.model.refusal import Refusal
from pktmirror.monitor.capture import FREE_BYTES_MIN, Capture, Written
from pktmirror.monitor.demux import (
    STREAMS_MAX,
    FrameMirrored,
    ProbeArrived,
    Received,
    Receiver,
    Stream,
    StreamGaveWay,
)
from pktmirror.monitor.report import GivenWay, MonitorReport, ReportedProbe, StreamFigures
from pktmirror.packet import vxlan

QUEUE_BYTES = 64 << 20
"""How much the socket may hold while we are busy. Without CAP_NET_ADMIN net.core.rmem_max limits it."""
DATAGRAM_BYTES_MAX = 65_535
FLUSH_S = 0.2
"""A follower of the capture sees a packet at the latest after this."""
PROBES_TOLD_S = 60
"""For how long a probe stands in the reports."""

_BATCH = 512  # datagrams between two looks at the clock
# asm-generic/socket.h, linux/in.h, linux/in6.h, linux/sock_diag.h; Python's socket module does not name them all
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SO_MEMINFO = 33, 35, 55
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_MEMINFO_WORDS, _MEMINFO_DROPS = 9, 8
_TIMESPEC = struct.Struct("@ll")


class _Datagram(NamedTuple):
    payload: bytes
    truncated: bool
    source: str
    destination: str
    time_ns: int


def run(
    listen_address: str,
    captures_dir: Path,
    *,
    stop: threading.Event,
    port: int = vxlan.PORT,
    netns: str | None = None,
    report: Callable[[MonitorReport], None] | None = None,
    report_every_s: float = 1.0,
    free_bytes_min: int = FREE_BYTES_MIN,
    datagram_bytes_max: int = DATAGRAM_BYTES_MAX,
    queue_bytes: int = QUEUE_BYTES,
    streams_max: int = STREAMS_MAX,
    probe_key: bytes | None = None,
) -> MonitorReport:
    """Receive until ``stop`` is set; then empty the socket's queue, close the file and return the last report.

    ``listen_address`` is an IPv4 or IPv6 address of this machine, or ``0.0.0.0`` or ``::``. With ``netns`` the
    socket is opened in that network namespace, and everything else stays where it is. ``report`` is called once
    when the monitor listens, then every ``report_every_s``, at once after a probe, and with the last report.
    ``probe_key`` is what agents and monitors share; without it a probe is a copy as others.

    Raises `Refusal` before the first report: an address or a port that is not to be had, a missing privilege, a
    namespace that is not there, a directory that cannot be written.
    """
    sock, addresses = _open_socket(listen_address, port, netns, queue_bytes)
    try:
        capture = Capture(captures_dir, time.time_ns(), free_bytes_min=free_bytes_min)
        receiver = Receiver(streams_max=streams_max, probe_key=probe_key)
        monitor = _Monitor(sock, addresses, capture, receiver, datagram_bytes_max)
        return monitor.loop(stop, report or (lambda _: None), report_every_s)
    finally:
        sock.close()
        addresses.close()


class _Monitor:
    """The socket, the receiver and the file of one run."""

    def __init__(
        self,
        sock: socket.socket,
        addresses: "_Addresses",
        capture: Capture,
        receiver: Receiver,
        datagram_bytes_max: int,
    ) -> None:
        self._socket = sock
        self._addresses = addresses
        self._clock = clock_id()
        self._probes_told = 0
        self._capture = capture
        self._receiver = receiver
        self._buffer = bytearray(datagram_bytes_max)
        self._queue_drops = _QueueDrops(sock)

    def loop(
        self, stop: threading.Event, report: Callable[[MonitorReport], None], report_every_s: float
    ) -> MonitorReport:
        report(self._report())
        poller = poll()
        poller.register(self._socket, POLLIN)
        flush_at_s = time.monotonic() + FLUSH_S
        report_at_s = time.monotonic() + report_every_s
        statistics_written = False
        try:
            while not stop.is_set():
                if poller.poll(FLUSH_S * 1000):
                    self._receive_batch()
                now_s = time.monotonic()
                if now_s >= flush_at_s:
                    self._capture.flush()
                    flush_at_s = now_s + FLUSH_S
                if now_s >= report_at_s or self._receiver.probe_count != self._probes_told:
                    report(self._report())
                    report_at_s = now_s + report_every_s
            self._empty_queue()
        finally:
            statistics_written = self._capture.close(time.time_ns())
        last = self._report(stopped=True, statistics_written=statistics_written)
        report(last)
        return last

    def _empty_queue(self) -> None:
        """What had arrived before the stop still counts; a sender that goes on does not keep us."""
        until_s = time.monotonic() + 1.0
        while self._receive_batch() and time.monotonic() < until_s:
            pass

    def _receive_batch(self) -> bool:
        """Take what the socket holds, at most a batch; whether there may be more."""
        for _ in range(_BATCH):
            try:
                datagram = _receive(self._socket, self._buffer)
            except BlockingIOError:
                return False
            if datagram.truncated:
                self._receiver.datagram_truncated(datagram.source)
                continue
            for event in self._receiver.datagram_received(
                datagram.payload, datagram.source, datagram.destination, datagram.time_ns
            ):
                match event:
                    case FrameMirrored():
                        self._capture.write(event.stream, event.frame, event.time_ns)
                    case ProbeArrived():
                        return True  # it is told at once
                    case StreamGaveWay():
                        self._capture.give_way(event.stream)
        return True

    def _report(self, *, stopped: bool = False, statistics_written: bool = False) -> MonitorReport:
        if not stopped:
            self._capture.flush()
        nothing = Written()
        streams = [
            _stream_figures(stream, received, self._capture.streams.get(stream, nothing))
            for stream, received in self._receiver.streams.items()
        ]
        address, port = self._socket.getsockname()[:2]
        self._probes_told = self._receiver.probe_count
        return MonitorReport(
            listening=f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
            capture=str(self._capture.path),
            streams=tuple(sorted(streams, key=lambda stream: stream.first_seen_ns)),
            given_way=_given_way(self._receiver, self._capture.given_way),
            refused={reason.value: count for reason, count in self._receiver.refused.items()},
            socket_queue_full=self._queue_drops.total(),
            probes=_reported_probes(self._receiver.probes, time.time_ns() - PROBES_TOLD_S * 10**9),
            probes_received=self._probes_told,
            addresses=self._addresses.now() if ip_address(address).is_unspecified else (),
            clock=self._clock,
            stopped=stopped,
            statistics_written=statistics_written,
        )


def _reported_probes(probes: Iterable[ProbeArrived], since_ns: int) -> tuple[ReportedProbe, ...]:
    return tuple(
        ReportedProbe(
            token=probe.token.hex(),
            vni=probe.stream.vni,
            outer_source=probe.stream.outer_source,
            outer_destination=probe.stream.outer_destination,
            arrived_at_ns=probe.time_ns,
        )
        for probe in probes
        if probe.time_ns >= since_ns
    )


def _stream_figures(stream: Stream, received: Received, written: Written) -> StreamFigures:
    return StreamFigures(
        vni=stream.vni,
        outer_source=stream.outer_source,
        outer_destination=stream.outer_destination,
        first_seen_ns=received.first_seen_ns,
        last_seen_ns=received.last_seen_ns,
        received_packets=received.packets,
        received_bytes=received.bytes,
        written_packets=written.packets,
        written_bytes=written.bytes,
        not_written_packets=dict(written.not_written_packets),
        not_written_bytes=dict(written.not_written_bytes),
    )


def _given_way(receiver: Receiver, written: Written) -> GivenWay:
    return GivenWay(
        streams={reason.value: count for reason, count in receiver.gave_way.items()},
        received_packets=receiver.given_way.packets,
        received_bytes=receiver.given_way.bytes,
        written_packets=written.packets,
        written_bytes=written.bytes,
        not_written_packets=dict(written.not_written_packets),
        not_written_bytes=dict(written.not_written_bytes),
    )


class _Addresses:
    """Those of the network namespace in which the monitor listens."""

    def __init__(self, visitor: namespaces.Visitor) -> None:
        self._visitor = visitor
        self._netlink = visitor.run(Netlink)

    def now(self) -> tuple[str, ...]:
        """None where they cannot be read now."""
        try:
            found = self._visitor.run(self._netlink.addresses)  # each thread that asks has a socket of its own
        except OSError:
            return ()
        return tuple(sorted(str(each.address) for each in found))

    def close(self) -> None:
        self._visitor.run(self._netlink.close)
        self._visitor.close()


class _QueueDrops:
    """What the kernel dropped at the socket's queue.

    SO_MEMINFO (Linux 4.12) reads the same counter as SO_RXQ_OVFL, but at any time: the latter comes with a
    datagram only, so that the drops after the last one would never be told.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._total = 0

    def total(self) -> int:
        meminfo = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
        now = int.from_bytes(meminfo[4 * _MEMINFO_DROPS :][:4], sys.byteorder)
        self._total += (now - self._total) % (1 << 32)  # the kernel's counter has 32 bits
        return self._total


def _receive(sock: socket.socket, buffer: bytearray) -> _Datagram:
    """The next datagram; BlockingIOError when there is none."""
    size, ancillary, flags, peer = sock.recvmsg_into([buffer], 256)
    destination, time_ns = "", 0
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            time_ns = seconds * 10**9 + nanoseconds
        elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            destination = socket.inet_ntop(socket.AF_INET, data[8:12])  # ipi_addr, as the header has it
        elif level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            destination = _plain(socket.inet_ntop(socket.AF_INET6, data[:16]))
    return _Datagram(
        bytes(memoryview(buffer)[:size]),
        bool(flags & socket.MSG_TRUNC),
        _plain(peer[0]),
        destination,
        time_ns or time.time_ns(),
    )


def _plain(address: str) -> str:
    """An IPv4 address that an IPv6 socket has seen, as an IPv4 address."""
    return address.removeprefix("::ffff:") if "." in address else address


def _open_socket(address: str, port: int, netns: str | None, queue_bytes: int) -> tuple[socket.socket, _Addresses]:
    """The socket, and the addresses of its namespace."""
    try:
        parsed = ip_address(address)
    except (AddressValueError, ValueError):
        raise Refusal(
            f"The monitor cannot listen on {address}.",
            found="no IP address",
            do="give an address of this machine, as in --listen 10.0.0.9:4789, or 0.0.0.0 for all of IPv4",
        ) from None
    try:
        with contextlib.ExitStack() as undo:
            visitor = undo.enter_context(namespaces.Visitor(netns))
            sock = visitor.run(_bound_socket, parsed, port)
            undo.callback(sock.close)
            addresses = _Addresses(visitor)
            undo.pop_all()
    except (OSError, ValueError) as error:
        raise _refusal(error, parsed, port, netns) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, queue_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, queue_bytes)
    return sock, addresses


def _bound_socket(address: IPv4Address | IPv6Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if address.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        sock.bind((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _refusal(error: OSError | ValueError, address: IPv4Address | IPv6Address, port: int, netns: str | None) -> Refusal:
    where = f"{address} port {port}" + (f" in network namespace {netns}" if netns else "")
    what = f"The monitor cannot listen on {where}."
    code = error.errno if isinstance(error, OSError) else None
    ways_out = {
        errno.EADDRINUSE: f"end what listens there (`ss -lunp 'sport = :{port}'`, or a vxlan device: "
        "`ip -d link show type vxlan`), or give --listen another address or port",
        errno.EADDRNOTAVAIL: "give --listen an address that `ip address` shows here, or 0.0.0.0",
        errno.ENOENT: "make the network namespace first; `ip netns` lists those there are",
        errno.EPERM: "run as root: entering a network namespace needs CAP_SYS_ADMIN",
        errno.EACCES: "run as root, or use a port from 1024 on",
    }
    found = os.strerror(code) if code is not None else str(error)
    return Refusal(what, found=found, do=ways_out.get(code or 0, "correct --listen, or the namespace's name"))

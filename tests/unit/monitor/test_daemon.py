"""The monitor on real sockets: loopback, real datagrams, real disks."""

import hashlib
import os
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pktmirror.kernel import netns
from pktmirror.kernel.clock import clock_id
from pktmirror.model.probe import new_token
from pktmirror.model.refusal import Refusal
from pktmirror.monitor import daemon
from pktmirror.monitor.report import GivenWay, MonitorReport, StreamFigures
from pktmirror.packet import probe
from pktmirror.packet.vxlan import Encapsulated
from tests.unit.packet.frames import IPV4, ethernet, ipv4, tcp
from tests.waiting import wait_until

WITHIN_S = 10
SSH = ethernet(ipv4(tcp(payload=bytes(200)), 6), IPV4)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run script/test")


class Running:
    """A monitor in a thread, on a port that the kernel chose."""

    def __init__(self, address: str, captures: Path, **options: Any) -> None:
        self._stop = threading.Event()
        self.reports: list[MonitorReport] = []
        self._thread = threading.Thread(target=self._run, args=(address, captures, options))
        self._thread.start()
        try:
            first = wait_until(lambda: self.reports[:1], WITHIN_S, "the monitor never listened")[0]
        except BaseException:
            self.stop()
            raise
        self.capture = Path(first.capture)
        self.port = int(first.listening.rpartition(":")[2])

    def _run(self, address: str, captures: Path, options: dict[str, Any]) -> None:
        report = options.pop("report", self.reports.append)
        daemon.run(address, captures, stop=self._stop, port=0, **{"report": report, "report_every_s": 0.05} | options)

    def wait_for(self, condition: Callable[[MonitorReport], bool], else_say: str) -> None:
        wait_until(lambda: condition(self.reports[-1]), WITHIN_S, lambda: f"{else_say}: {self.reports[-1]}")

    def stop(self) -> MonitorReport:
        """The last report."""
        self._stop.set()
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive(), "the monitor did not stop"
        assert self.reports
        assert self.reports[-1].stopped
        return self.reports[-1]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(address: str = "127.0.0.1", captures: Path | None = None, **options: Any) -> Running:
        running.append(Running(address, captures or tmp_path / "captures", **options))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def send(to: str, port: int, *payloads: bytes, source: str = "") -> None:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if source:
            sock.bind((source, 0))
        for payload in payloads:
            sock.sendto(payload, (to, port))


def mirrored(vni: int, frame: bytes = SSH) -> bytes:
    return Encapsulated(vni, frame).encode()


def received(report: MonitorReport) -> int:
    return sum(stream.received_packets for stream in report.streams)


def assert_the_books_balance(stream: StreamFigures) -> None:
    assert stream.received_packets == stream.written_packets + sum(stream.not_written_packets.values())
    assert stream.received_bytes == stream.written_bytes + sum(stream.not_written_bytes.values())


def column_of(capture: Path, field: str) -> list[str]:
    """A field of each packet, as tshark reads the file."""
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-e", field]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def interfaces_in(capture: Path) -> Counter[str]:
    """Packets by interface name."""
    return Counter(column_of(capture, "frame.interface_name"))


def lengths_in(capture: Path) -> list[int]:
    """What the file has of each packet, in bytes."""
    return [int(length) for length in column_of(capture, "frame.cap_len")]


def test_what_is_sent_is_received_and_written_per_stream(monitor: Callable[..., Running]) -> None:
    running = monitor()
    send("127.0.0.1", running.port, *[mirrored(7)] * 300, source="127.0.0.48")
    send("127.0.0.1", running.port, *[mirrored(8, SSH[:60])] * 20, source="127.0.0.49")
    running.wait_for(lambda report: received(report) == 320, "not all came")
    last = running.stop()
    assert [
        (stream.vni, stream.outer_source, stream.outer_destination, stream.received_packets, stream.received_bytes)
        for stream in last.streams
    ] == [
        (7, "127.0.0.48", "127.0.0.1", 300, 300 * len(SSH)),
        (8, "127.0.0.49", "127.0.0.1", 20, 20 * 60),
    ]
    for stream in last.streams:
        assert stream.written_packets == stream.received_packets
        assert 0 < stream.first_seen_ns <= stream.last_seen_ns
        assert_the_books_balance(stream)
    assert (last.refused, last.socket_queue_full, last.statistics_written) == ({}, 0, True)
    assert (last.given_way.streams, last.given_way.received_packets) == ({}, 0)
    assert interfaces_in(running.capture) == {"vni-7 127.0.0.48": 300, "vni-8 127.0.0.49": 20}


def test_what_arrived_before_the_stop_is_written(monitor: Callable[..., Running]) -> None:
    running = monitor()
    send("127.0.0.1", running.port, *[mirrored(7)] * 200)
    last = running.stop()
    assert [stream.written_packets for stream in last.streams] == [200]
    assert interfaces_in(running.capture) == {"vni-7 127.0.0.1": 200}


def test_garbage_is_counted_by_reason_and_what_is_right_beside_it_is_written(
    monitor: Callable[..., Running],
) -> None:
    running = monitor(datagram_bytes_max=1000)
    send("127.0.0.1", running.port, b"", b"hello", bytes(50), mirrored(7), mirrored(7, bytes(993)))
    send("127.0.0.1", running.port, mirrored(7, bytes(992)))
    running.wait_for(lambda report: received(report) == 2, "the right ones did not come")
    last = running.stop()
    assert last.refused == {"too short": 2, "I flag not set": 1, "longer than the receive buffer": 1}
    assert [stream.written_packets for stream in last.streams] == [2]


def test_a_copy_cut_within_the_ethernet_header_is_received_and_an_empty_one_is_refused(
    monitor: Callable[..., Running],
) -> None:
    running = monitor()
    lengths = [1, 13, 14]
    send("127.0.0.1", running.port, mirrored(7, b""), *(mirrored(7, SSH[:length]) for length in lengths))
    running.wait_for(lambda report: received(report) == 3, "the cut ones did not come")
    last = running.stop()
    assert last.refused == {"too short": 1}
    [stream] = last.streams
    assert (stream.received_bytes, stream.written_packets) == (sum(lengths), 3)
    assert_the_books_balance(stream)
    assert lengths_in(running.capture) == lengths


def test_streams_beyond_the_limit_give_way_in_the_report_and_in_the_file_and_the_totals_add_up(
    monitor: Callable[..., Running],
) -> None:
    running = monitor(streams_max=4)
    spoofed = [mirrored(vni, SSH[:60]) for vni in range(1000, 1050)]
    with_the_session = [datagram for each in spoofed for datagram in (mirrored(7), each)]
    send("127.0.0.1", running.port, *with_the_session)
    running.wait_for(lambda report: report.received_packets == 100, "not all came")
    last = running.stop()
    assert [(stream.vni, stream.received_packets) for stream in last.streams] == [
        *((7, 50), (1047, 1), (1048, 1), (1049, 1)),
    ]
    for stream in last.streams:
        assert stream.written_packets == stream.received_packets
        assert_the_books_balance(stream)
    assert last.given_way == GivenWay(
        streams={"too many streams": 47},
        received_packets=47,
        received_bytes=47 * 60,
        written_packets=47,
        written_bytes=47 * 60,
        not_written_packets={},
        not_written_bytes={},
    )
    assert (last.received_packets, last.written_packets) == (100, 100)
    assert (last.refused, last.socket_queue_full, last.statistics_written) == ({}, 0, True)
    vnis = {"vni-7 127.0.0.1": 50} | {f"vni-{vni} 127.0.0.1": 1 for vni in range(1000, 1050)}
    assert interfaces_in(running.capture) == vnis


def test_a_socket_for_all_addresses_tells_them_apart(monitor: Callable[..., Running]) -> None:
    """An IPv6 socket for all addresses receives IPv4 too, and names it as IPv4."""
    running = monitor("::")
    send("::1", running.port, mirrored(7))
    send("127.0.0.2", running.port, mirrored(7), source="127.0.0.3")
    running.wait_for(lambda report: received(report) == 2, "not all came")
    assert [(stream.outer_source, stream.outer_destination) for stream in running.stop().streams] == [
        ("::1", "::1"),
        ("127.0.0.3", "127.0.0.2"),
    ]
    assert running.reports[0].listening == f"[::]:{running.port}"


def test_the_outer_destination_is_what_the_header_says_not_which_address_took_it(
    monitor: Callable[..., Running],
) -> None:
    running = monitor("0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(mirrored(7), ("127.255.255.255", running.port))
    running.wait_for(lambda report: received(report) == 1, "it did not come")
    assert [stream.outer_destination for stream in running.stop().streams] == ["127.255.255.255"]


def test_what_the_socket_s_queue_drops_is_counted(monitor: Callable[..., Running], tmp_path: Path) -> None:
    """The first report holds the monitor up while more arrives than its queue takes."""
    reports: list[MonitorReport] = []
    sent = 500

    def flood_first(report: MonitorReport) -> None:
        if not reports:
            send("127.0.0.1", int(report.listening.rpartition(":")[2]), *[mirrored(7)] * sent)
        reports.append(report)

    stop = threading.Event()
    stop.set()
    last = daemon.run("127.0.0.1", tmp_path, stop=stop, port=0, report=flood_first, queue_bytes=20_000)
    assert last == reports[-1]
    assert 0 < received(last) < sent
    assert received(last) + last.socket_queue_full == sent


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    name = "t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    netns.create(name)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        netns.remove(name)


@needs_root
@pytest.mark.root
def test_the_socket_may_be_in_another_namespace(monitor: Callable[..., Running], namespace: str) -> None:
    before = Path("/proc/self/ns/net").readlink()
    running = monitor(netns=namespace)
    send("127.0.0.1", running.port, mirrored(6))  # in our own namespace nobody listens
    with netns.Visitor(namespace) as inside:
        inside.run(send, "127.0.0.1", running.port, mirrored(7))
    running.wait_for(lambda report: received(report) == 1, "it did not come")
    assert [stream.vni for stream in running.stop().streams] == [7]
    assert Path("/proc/self/ns/net").readlink() == before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@needs_root
@pytest.mark.root
def test_a_full_disk_loses_packets_by_name_and_the_file_goes_on_when_there_is_room(
    monitor: Callable[..., Running], tiny_disk: Path
) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(350 << 10))
    running = monitor(captures=tiny_disk, free_bytes_min=16 << 10)
    big = ethernet(ipv4(bytes(1000), 253), IPV4)
    sent = 0

    def all_came(report: MonitorReport) -> bool:
        return received(report) == sent

    def send_until(condition: Callable[[StreamFigures], bool], else_say: str) -> None:
        nonlocal sent
        for _ in range(100):
            send("127.0.0.1", running.port, *[mirrored(7, big)] * 20)
            sent += 20
            running.wait_for(all_came, "not all came")
            if condition(running.reports[-1].streams[0]):
                return
        raise AssertionError(f"{else_say}: {running.reports[-1]}")

    send_until(lambda stream: "disk full" in stream.not_written_packets, "the disk never filled")
    while_full = running.reports[-1].streams[0]
    assert while_full.written_packets > 0
    ballast.unlink()
    send_until(lambda stream: stream.written_packets > while_full.written_packets, "nothing was written again")
    last = running.stop()
    [stream] = last.streams
    assert stream.received_packets == sent
    assert set(stream.not_written_packets) == {"disk full"}
    assert_the_books_balance(stream)
    assert last.statistics_written
    assert interfaces_in(running.capture) == {"vni-7 127.0.0.1": stream.written_packets}


def refusal_of(address: str, captures: Path, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        daemon.run(address, captures, stop=threading.Event(), **options)
    return refused.value


def test_a_port_in_use_is_refused_by_name(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        refusal = refusal_of("127.0.0.1", tmp_path / "captures", port=port)
    assert refusal.what == f"The monitor cannot listen on 127.0.0.1 port {port}."
    assert refusal.found == "Address already in use"
    assert f"sport = :{port}" in refusal.do
    assert not (tmp_path / "captures").exists()


@pytest.mark.parametrize(
    ("address", "found"), [("192.0.2.1", "Cannot assign requested address"), ("sensor", "no IP address")]
)
def test_an_address_that_is_not_ours_is_refused(tmp_path: Path, address: str, found: str) -> None:
    assert refusal_of(address, tmp_path, port=0).found == found


def test_a_namespace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refusal = refusal_of("127.0.0.1", tmp_path, port=0, netns="pktmirror-nowhere")
    assert "in network namespace pktmirror-nowhere" in refusal.what
    assert "ip netns" in refusal.do


def test_a_directory_that_cannot_be_made_is_refused_and_the_port_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusal = refusal_of("127.0.0.1", tmp_path / "file" / "captures", port=0)
    assert refusal.found == "Not a directory"
    assert "--captures" in refusal.do


@needs_root
@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "found", "do"),
    [
        pytest.param({"netns": True}, "Operation not permitted", "CAP_SYS_ADMIN", id="another namespace"),
        pytest.param({"port": 53}, "Permission denied", "a port from 1024 on", id="a low port"),
        pytest.param({}, "Permission denied", "--captures", id="another's directory"),
    ],
)
def test_a_missing_privilege_is_refused_by_name(
    tmp_path: Path, namespace: str, options: dict[str, Any], found: str, do: str
) -> None:
    options = {"port": 0} | options | ({"netns": namespace} if "netns" in options else {})
    refusal = as_nobody(lambda: refusal_of("127.0.0.1", tmp_path / "captures", **options))
    assert f"Found: {found}." in refusal
    assert do in refusal


def as_nobody(call: Callable[[], object]) -> str:
    """What ``call`` returns in a child process without privileges, as text; or the text of its exception."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            answer = str(call())
        except BaseException as error:  # whatever it is, this process must not go on as pytest
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def test_a_probe_is_told_at_once_and_is_neither_received_nor_written(
    monitor: Callable[..., Running],
) -> None:
    running = monitor(probe_key=b"shared", report_every_s=3600)
    token = new_token(b"shared")
    send("127.0.0.1", running.port, mirrored(7), mirrored(7, probe.frame(token, 1, "tms-0123456789abcdef0")))
    running.wait_for(lambda report: report.probes_received == 1, "the probe is not told")
    last = running.stop()
    [told] = last.probes
    assert (told.token, told.vni) == (token.hex(), 7)
    assert (told.outer_source, told.outer_destination) == ("127.0.0.1", "127.0.0.1")
    assert told.arrived_at_ns > 0
    assert last.clock == clock_id()
    assert (last.received_packets, last.written_packets, last.refused) == (1, 1, {})
    assert token not in running.capture.read_bytes()


def test_a_monitor_on_all_addresses_tells_which_they_are_and_one_on_a_single_address_tells_no_more(
    monitor: Callable[..., Running],
) -> None:
    assert "127.0.0.1" in monitor("0.0.0.0").stop().addresses
    assert monitor("127.0.0.1").stop().addresses == ()

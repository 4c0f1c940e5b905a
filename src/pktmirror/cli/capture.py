"""`pktmirror explain INTERFACE --capture FILE`: each packet of a capture file, and a summary by answer. An edge module.

The file is mapped, not read: one of any size takes no more memory than a small one.
"""

import json
import mmap
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.cli.balance import Ledger
from pktmirror.cli.captured import Hook, Place, Summary, line, mac_bytes, own_copies, packet_document
from pktmirror.cli.path import copied_bytes
from pktmirror.cli.view import View
from pktmirror.model.filter import Direction
from pktmirror.model.refusal import Refusal
from pktmirror.packet import pcapng
from pktmirror.packet.blocks import LINKTYPE_ETHERNET, Interface, Packet, Section, Unreadable

QUIET_S = 2.0
NO_FIGURES = Ledger(sessions=(), interfaces=())
PROGRESS_EVERY_S = 0.5
_RECORD_BYTES = 32  # what a packet has beside its frame, or about that: for the progress only


class Progress:
    """Says on ``stream`` how far it is, from two seconds on; nothing where nobody looks."""

    def __init__(self, stream: IO[str], total_bytes: int, now_s: float) -> None:
        self._stream, self._total_bytes = stream, total_bytes
        self._began_s = now_s
        self._next_s = now_s + QUIET_S
        self._width = 0
        self._done_bytes = self._packets = 0

    def passed(self, packet: Packet, now_s: float) -> None:
        self._packets += 1
        self._done_bytes += len(packet.frame) + _RECORD_BYTES
        if now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_EVERY_S
            share = min(0.99, self._done_bytes / self._total_bytes)
            rate = self._packets / (now_s - self._began_s)
            self._say(f"{share:4.0%}  {self._packets:,} packets, {rate:,.0f}/s")

    def close(self) -> None:
        """Nothing of it is left on the line."""
        if self._width:
            self._say("")
            self._stream.write("\r")

    def _say(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)


def place(view: View, forced: Direction | None) -> Place:
    """The interface as its hooks see it; raises `Refusal` where no direction can be told."""
    mac = mac_bytes(view.interface.mac)
    if mac is None and forced is None:
        raise Refusal(
            f"The direction of a packet at {view.interface.interface_id} cannot be told.",
            found="no MAC address of the interface is known",
            do="say it with --direction ingress or --direction egress, for all packets of the file",
        )
    sources = {each.session_id: each.outer_source for each in view.status.sessions if each.outer_source is not None}
    return Place(view.sessions, view.surroundings, own_copies(view.desired, sources), mac, forced)


def explain_file(
    view: View, file: Path, forced: Direction | None, *, as_json: bool, only_summary: bool
) -> tuple[Summary, str | None]:
    """Explain each packet on stdout; the summary, and why the file could not be read to its end, if so."""
    hook, summary = Hook(place(view, forced)), Summary()
    ways = {way.session.session_id: way for way in view.ways(NO_FIGURES)}
    first_ns: int | None = None
    with _mapped(file) as data:
        progress = _progress(len(data), prints=not only_summary)
        try:
            for number, (packet, linktype) in enumerate(_packets(data), 1):
                first_ns = packet.time_ns if first_ns is None else first_ns
                answer = hook.answer(packet, linktype)
                summary.add(answer, packet.wire_bytes)
                if as_json and not only_summary:
                    taker = answer.taken_by
                    way = None if taker is None or taker.problem is not None else ways.get(taker.session_id)
                    copied = None if way is None else copied_bytes(way, packet.wire_bytes)
                    typer.echo(json.dumps(packet_document(number, packet, answer, copied)))
                elif not only_summary:
                    seconds = None if packet.time_ns is None or first_ns is None else (packet.time_ns - first_ns) / 1e9
                    typer.echo(line(number, seconds, packet, answer))
                if progress is not None:
                    progress.passed(packet, time.monotonic())
        except Unreadable as error:
            return summary, error.reason
        finally:
            if progress is not None:
                progress.close()
    return summary, None


def shown(summary: Summary) -> RenderableType:
    """The summary for people."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("packets", "bytes on the wire", "answer"):
        table.add_column(column, justify="left" if column == "answer" else "right", overflow="fold")
    for text, packets, bytes_ in summary.lines():
        style = "green" if text.startswith("mirrored by") else "red" if "does not arrive" in text else ""
        table.add_row(f"{packets:,}", f"{bytes_:,}", Text(text, style))
    total = Text(
        f"{summary.packets.total():,} packets of the file, {summary.bytes.total():,} bytes on the wire", "bold"
    )
    return Group(table, total) if summary.packets else Text("No packet is in the file.")


def not_read_to_its_end(file: Path, why: str, packets: int) -> Refusal:
    """What is said of a file that stops being a capture."""
    return Refusal(
        f"{file} cannot be read to its end.",
        found=f"{why}; {packets:,} packets before that were explained",
        do="give a pcap or pcapng file; one that is being written is whole when its writer has ended",
    )


def summary_document(summary: Summary, interface_id: str, unreadable: str | None) -> dict[str, object]:
    """The last line for scripts."""
    return {
        "summary": [{"answer": text, "packets": packets, "bytes": bytes_} for text, packets, bytes_ in summary.lines()],
        "interface_id": interface_id,
        "packets": summary.packets.total(),
        "unreadable": unreadable,
    }


def _packets(data: bytes) -> Iterator[tuple[Packet, int]]:
    """Each packet and the link type of the interface at which it was captured."""
    linktypes: list[int] = []
    for block in pcapng.read(data):
        match block:
            case Section():
                linktypes = []
            case Interface():
                linktypes.append(block.linktype)
            case Packet():
                yield block, linktypes[block.interface] if block.interface < len(linktypes) else LINKTYPE_ETHERNET


@contextmanager
def _mapped(file: Path) -> Iterator[bytes]:
    """The bytes of a file: what reads them takes slices and numbers out, which a mapping gives as bytes does."""
    try:
        with file.open("rb") as opened:
            if opened.seek(0, 2) == 0:
                yield b""
                return
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                mapped.madvise(mmap.MADV_SEQUENTIAL)
                yield cast(bytes, mapped)
    except OSError as error:
        raise Refusal(
            f"The capture {file} cannot be read.",
            found=error.strerror or str(error),
            do="name a pcap or pcapng file that is on a disk; what comes through a pipe must be stored first",
        ) from None


def _progress(total_bytes: int, *, prints: bool) -> Progress | None:
    """None where packets scroll by on the same terminal, or stderr is read by a machine."""
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        return None
    return Progress(sys.stderr, total_bytes, time.monotonic())

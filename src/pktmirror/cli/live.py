"""`pktmirror explain INTERFACE --live`: what the kernel decides of packets as they pass. An edge module.

The control plane hands the wish to the agent of the interface's host; what that one tells comes back by long poll.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from pktmirror.cli.endpoint import Endpoint, own_path
from pktmirror.cli.traced import History, Rules, Told, lines, told, told_document
from pktmirror.cli.view import View, view
from pktmirror.model.refusal import Refusal
from pktmirror.tracing import Selection, TraceProgress, TraceWish

WAIT_S = 4


@dataclass(frozen=True, slots=True)
class Traced:
    """What was told, how the trace stood at last, and the interface as it was seen last."""

    packets: tuple[Told, ...]
    last: TraceProgress
    seen: View

    @property
    def taken(self) -> int:
        return sum(one.packet.taken_by is not None for one in self.packets)

    @property
    def ended(self) -> str:
        return self.last.ended or "interrupted"

    @property
    def longest_bytes(self) -> dict[str, int | None]:
        """By session: the longest wire packet that it has taken."""
        longest: dict[str, int | None] = {}
        for packet in (one.packet for one in self.packets):
            if packet.taken_by is not None:
                length = packet.bytes // max(1, packet.packets)
                longest[packet.taken_by] = max(length, longest.get(packet.taken_by) or 0)
        return longest


def explain_live(endpoint: Endpoint, begun: View, wish: TraceWish, console: Console, *, as_json: bool) -> Traced:
    """Trace until the bounds are reached or somebody interrupts it; each packet goes to stdout as it is told.

    Raises `Refusal` where the trace cannot be had.
    """
    _refuse_unmirrored(begun)
    history, seen = History(_rules(begun)), begun
    found: list[Told] = []
    asked = endpoint.post(own_path("traces"), TraceProgress, msgspec.json.encode(wish))
    last = asked
    try:
        for progress in _progress(endpoint, asked):
            last = progress
            for packet in progress.packets:
                if packet.revision is not None and packet.revision > history.newest_revision:
                    seen = view(endpoint, begun.interface)
                    history.add(_rules(seen))
                one = told(packet, history)
                found.append(one)
                _say(one, console, as_json)
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.suppress(Refusal):  # it has ended, or the control plane has
            endpoint.delete(own_path("traces", asked.trace_id))
    return Traced(tuple(found), last, seen)


def wish_for(view_: View, selection: Selection, *, packets_max: int, seconds: float) -> TraceWish:
    """A trace of the interface."""
    return TraceWish(
        interface_id=view_.interface.interface_id, packets_max=packets_max, seconds=seconds, selection=selection
    )


def _progress(endpoint: Endpoint, asked: TraceProgress) -> Iterator[TraceProgress]:
    after, began = 0, False
    while True:
        question = own_path("traces", asked.trace_id, after=str(after), began=f"{began:d}", wait_s=str(WAIT_S))
        progress = endpoint.get(question, TraceProgress)
        if progress.began and not began:
            typer.echo(f"the agent of {progress.host_id} traces; Ctrl-C ends it", err=True)
        after, began = after + len(progress.packets), progress.began
        yield progress
        if progress.ended is not None:
            return


def _rules(view_: View) -> Rules:
    return Rules(view_.desired.revision, view_.sessions, view_.surroundings)


def _refuse_unmirrored(view_: View) -> None:
    if not view_.sessions:
        raise Refusal(
            f"Nothing looks at the packets of {view_.interface.interface_id}.",
            found="it has no session in force, so no program is at its device",
            do="make a session for it with `aws ec2 create-traffic-mirror-session`, or ask without --live",
        )


def _say(one: Told, console: Console, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told_document(one)))
        return
    for text in lines(one):
        console.print(Text(text, "green" if one.packet.taken_by and not text.startswith(" ") else ""))
    if one.disagreement is not None:
        console.print(Text(f"  ‼ KERNEL AND MODEL DISAGREE: {one.disagreement}", "bold white on red"))


def shown(traced: Traced) -> RenderableType:
    """The summary for people."""
    last = traced.last
    count = len(traced.packets)
    said = f"{count:,} packet{'s'[: count != 1]} traced, {traced.taken:,} taken by a session; {traced.ended}."
    parts: list[RenderableType] = [Text(said, "bold")]
    if last.skipped:
        parts.append(
            Text(f"  · {last.skipped:,} more were asked for, over the number or the rate of a trace", "yellow")
        )
    if last.lost:
        parts.append(Text(f"  · {last.lost:,} records were lost for want of room: ask for fewer packets", "yellow"))
    uncompared = sum(not one.compared and bool(one.packet.offers) for one in traced.packets)
    if uncompared:
        parts.append(Text(f"  · {uncompared:,} were decided by rules that have changed since: not compared", "yellow"))
    if not traced.packets and last.began:
        parts.append(Text("  · no packet that was asked for has passed the interface meanwhile", "yellow"))
    return Group(*parts)


def summary_document(traced: Traced) -> dict[str, object]:
    """The last line for scripts."""
    return {
        "interface_id": traced.seen.interface.interface_id,
        "packets": len(traced.packets),
        "taken": traced.taken,
        "skipped": traced.last.skipped,
        "lost": traced.last.lost,
        "disagreements": sum(one.disagreement is not None for one in traced.packets),
        "ended": traced.ended,
    }


def refuse_what_is_wrong(traced: Traced) -> None:
    """Raises `Refusal` where kernel and model disagree, and where nobody has taken the trace up."""
    wrong = [one for one in traced.packets if one.disagreement is not None]
    if wrong:
        raise Refusal(
            f"The kernel and the model disagree about {len(wrong)} of {len(traced.packets)} packets: one of them is "
            "wrong.",
            found=wrong[0].disagreement,
            do="keep this output with --json and report it as a bug of pktmirror",
        )
    if not traced.last.began and traced.last.ended is not None:
        raise Refusal(
            f"Nothing was traced at {traced.seen.interface.interface_id}.",
            found=traced.last.ended,
            do=f"see with `pktmirror status` that the agent of {traced.last.host_id} reports, and is of this version",
        )

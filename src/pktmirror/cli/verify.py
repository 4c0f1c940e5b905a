"""`pktmirror verify`: a marked probe on the way of a session's copies, and whether it arrived. An edge module."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.status import Status
from pktmirror.cli.terminal import terminal
from pktmirror.cli.verification import answer, document, exit_status, next_steps
from pktmirror.control.probes import ArrivalUnknown, Arrived, Verification, Waiting
from pktmirror.model.refusal import Refusal

LOOK_EVERY_S = 0.1
AT_ONCE = 64
SPARE_S = 5.0
"""Beyond the two waits of the control plane, for agent and monitor, before the command gives up itself."""


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("verify")(verify)


def verify(
    session: Annotated[str | None, typer.Argument(help="A session's id, tms-….")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every session of the account.")] = False,
    within_s: Annotated[
        float, typer.Option(min=0.1, max=60, help="How long to wait for the agent, and then for the monitor.")
    ] = 5.0,
    as_json: JsonOption = False,
    state: StateOption = None,
) -> None:
    """Send a marked probe on the way of a session's copies, and say whether it arrived. Production is not touched.

    Neither the source nor its peers see the probe, and no figure of production counts it. It arrived where a monitor of
    this control plane tells so; at any other collector the answer is "sent, arrival unknown".

    Exit status: 0 arrived, 1 not sent, 3 sent and arrival unknown, 4 sent and not seen; of several the highest.

    Example: [bold]pktmirror verify tms-0a1b2c3d4e5f60718[/bold], or
    [bold]pktmirror verify --all --json | jq '.[] | select(.outcome != "arrived")'[/bold]
    """
    endpoint = Endpoint.found(state)
    chosen = _chosen(endpoint, session, all_)
    ended: list[Verification] = []
    with Console(stderr=True).status("asking for a probe") as progress:

        def waits(known: Verification) -> None:
            progress.update(f"{len(ended)} of {len(chosen)} known; {_waits(known)}")

        for first in range(0, len(chosen), AT_ONCE):
            until_s = time.monotonic() + 2 * within_s + SPARE_S
            asked = [_asked(endpoint, each, within_s) for each in chosen[first : first + AT_ONCE]]
            for each in asked:
                ended.append(_end(endpoint, each, until_s, waits))
    if as_json:
        documents = [document(each) for each in ended]
        typer.echo(json.dumps(documents if all_ else documents[0], indent=2, ensure_ascii=False))
    else:
        _show(ended, names=all_)
    raise typer.Exit(exit_status(ended))


def _chosen(endpoint: Endpoint, session: str | None, all_: bool) -> list[str]:
    """Refusal where there is nothing to verify."""
    if (session is None) is not all_:
        raise Refusal(
            "One session is verified, or all of them.",
            found="both" if all_ else "neither a session nor --all",
            do="name a session of `pktmirror status`, or give --all",
        )
    there = [each.session_id for each in endpoint.get(own_path("status"), Status).sessions]
    if session is None:
        return there
    if session not in there:
        raise Refusal(
            f"There is no session {session}.",
            found=", ".join(there) or "no session at all",
            do="name one of these, or give --all",
        )
    return [session]


def _asked(endpoint: Endpoint, session_id: str, within_s: float) -> Verification:
    return endpoint.post(own_path("sessions", session_id, "probes", within_s=f"{within_s:g}"), Verification)


def _end(
    endpoint: Endpoint, asked: Verification, until_s: float, waits: Callable[[Verification], None]
) -> Verification:
    """What came of a probe; it still waits only where the control plane came to no end in time."""
    known = asked
    while isinstance(known.outcome, Waiting) and known.probe_id is not None and time.monotonic() < until_s:
        waits(known)
        time.sleep(LOOK_EVERY_S)
        known = endpoint.get(own_path("probes", known.probe_id), Verification)
    return known


def _waits(known: Verification) -> str:
    match known.outcome:
        case Waiting(waits_for="agent"):
            return f"{known.session_id}: waiting for the agent of {known.host_id}"
        case _:
            return f"{known.session_id}: sent, waiting for the monitor at {known.target}"


def _show(ended: Iterable[Verification], *, names: bool) -> None:
    console = terminal()
    for each in ended:
        style = {Arrived: "green", ArrivalUnknown: "yellow"}.get(type(each.outcome), "bold red")
        title = [(f"{each.session_id}  ", "bold")] if names else []
        console.print(Text.assemble(*title, (answer(each), style)))
        for step in next_steps(each):
            console.print(Text(f"  · {step}"))

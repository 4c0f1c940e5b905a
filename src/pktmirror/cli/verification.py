"""What a verification means, in words and as an exit status. Pure."""

from collections.abc import Iterable, Iterator

from pktmirror.control.probes import ArrivalUnknown, Arrived, NotSeen, NotSent, Verification, Waiting

ARRIVED, NOT_SENT, UNKNOWN, NOT_SEEN = 0, 1, 3, 4
"""Exit statuses; 2 is a command line that is not understood. The highest one is that of several sessions."""

_NOT_SENT = (
    ("no route to the target", "add a route on the host, or declare another underlay: `pktmirror network apply`"),
    ("does not answer", "see that the next hop is up: `ip neighbour` on the host of the source shows who answers"),
    ("has no preferred source", "give the host's route to the target a `src`, or the underlay the ENI's address"),
    ("target type not yet deliverable", "give the session a target that is a network interface"),
    ("target interface gone", "start the machine of the target, or give the session another target"),
    ("interface gone", "plug the source in again, or `pktmirror forget` the interface with its sessions"),
    ("target interface has no primary address", "declare its address: `pktmirror network set-address`"),
    ("has not reported", "start `pktmirror agent` on that host, or see what it logs"),
    ("has not taken the request", "see what the agent logs; it must be of the version of the control plane"),
    ("has not applied it yet", "try again in a second; `pktmirror status` shows what keeps the agent"),
    ("are cut to", "raise the session's packet length for the time of a verification"),
    ("the hop does not take it", "copies come faster than they can be sent: lower the host's budget, and try again"),
    ("lost in the hop", "see `pktmirror ledger` for what else is lost there, and the agent's log"),
)


def answer(verification: Verification) -> str:
    """The one line that says what came of it."""
    match verification.outcome:
        case Arrived() as arrived:
            return f"arrived{_after(arrived)} at {arrived.monitor_id}"
        case ArrivalUnknown(reason=reason):
            return f"sent, arrival unknown: {reason}"
        case NotSeen(monitors=monitors, within_s=within_s):
            have = "has" if len(monitors) == 1 else "have"
            return f"sent, and {_listed(monitors)} at the target {have} not seen it within {within_s:g} s"
        case NotSent(reason=reason):
            return f"not sent: {reason}"
        case Waiting(waits_for=whom):
            return f"unknown: the control plane still waits for the {whom}"


def next_steps(verification: Verification) -> Iterator[str]:
    """What to do, the likeliest first; nothing where it arrived."""
    target = verification.target
    match verification.outcome:
        case NotSent(reason=reason):
            known = [step for part, step in _NOT_SENT if part in reason]
            yield known[0] if known else "`pktmirror status` tells more of the session and its host"
        case ArrivalUnknown():
            yield f"look for it there: `tcpdump -ni any 'udp port 4789'` on {target} shows a datagram of VNI " + (
                f"{verification.vni} with 192.0.2.1 > 192.0.2.2 inside (docs/reference/probe.md)"
            )
            yield f"or run `pktmirror monitor --listen {_socket(target)} --control URL` there, and try again"
        case NotSeen() as missing:
            yield from _missing(missing, verification)
        case Arrived() | Waiting():
            return


def _missing(missing: NotSeen, verification: Verification) -> Iterator[str]:
    target, host = verification.target, verification.host_id
    if missing.problem is not None:
        yield f"the agent of {host} says: {missing.problem}. Look with `ip neighbour` on {host}, and mend that first"
    if missing.refused:
        yield (
            f"an ICMP error about a copy of this session came back: nobody listens on UDP 4789 of {target}, or a "
            "firewall rejects it"
        )
    if missing.socket_queue_full:
        yield "the monitor's socket dropped datagrams meanwhile: it is too slow for what it gets, or has to try again"
    if missing.problem is None:
        yield f"the neighbour: `ip neighbour` on {host} must have a MAC address for the next hop to {target}"
    yield (
        f"the firewall: UDP 4789 from {host} to {target} must pass on {host} (output), on the way, and at {target} "
        "(input: `nft list ruleset`)"
    )
    yield (
        f"the listener: {_listed(missing.monitors)} must have the agents' token of this control plane, and "
        f"`ss -lun 'sport = :4789'` at {target} must show it and no other"
    )


def exit_status(verifications: Iterable[Verification]) -> int:
    """The highest of all."""
    statuses = {Arrived: ARRIVED, NotSent: NOT_SENT, ArrivalUnknown: UNKNOWN, NotSeen: NOT_SEEN, Waiting: UNKNOWN}
    return max((statuses[type(verification.outcome)] for verification in verifications), default=ARRIVED)


def document(verification: Verification) -> dict[str, object]:
    """For scripts."""
    outcome = verification.outcome
    told = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
    return {
        "session_id": verification.session_id,
        "host_id": verification.host_id,
        "target": verification.target,
        "vni": verification.vni,
        "outcome": outcome.__struct_config__.tag,
        **told,
        "next_steps": list(next_steps(verification)),
    }


def _after(arrived: Arrived) -> str:
    if arrived.milliseconds is None:
        return ""
    if arrived.one_clock:
        return f" after {arrived.milliseconds:g} ms"
    if arrived.milliseconds >= 0:
        return f" after {arrived.milliseconds:g} ms by the clocks of two machines"
    return ", by its clock before it was sent (the clocks of the two machines differ),"


def _listed(monitors: tuple[str, ...]) -> str:
    return f"the monitor {monitors[0]}" if len(monitors) == 1 else f"the monitors {', '.join(monitors)}"


def _socket(address: str | None) -> str:
    return f"[{address}]:4789" if address is not None and ":" in address else f"{address}:4789"

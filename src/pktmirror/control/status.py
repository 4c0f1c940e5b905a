"""How each session fares, in one sentence where it does not mirror. Pure."""

from collections.abc import Container, Iterable

from pktmirror.control.placement import Resources, delivery
from pktmirror.control.records import SessionRecord
from pktmirror.control.reports import Reports
from pktmirror.desired import EngineStatus, Undeliverable

INTERFACE_GONE = "interface gone"
MIRRORING = "mirroring"
AGENT_SILENT_S = 30.0

TAG = "pktmirror:status"
"""The key of a tag that nobody puts on a session, and that says how it fares, to who asks (docs/decisions/0025)."""
_TAG_CHARACTERS_MAX = 256  # of the value of a tag (spec 2.2)


def problems(resources: Resources, reports: Reports, now_s: float) -> dict[str, str | None]:
    """By session id: why its packets are not mirrored; None for a session that its agent says is mirrored."""
    told = {
        host_id: {status.session_id: status.problem for status in received.report.statuses}
        for host_id, received in reports.agents.items()
    }
    silences = {host_id: agent_silence(host_id, reports, now_s) for host_id in resources.sessions_by_host}

    def problem(session: SessionRecord, host_id: str) -> str | None:
        why = not_placed(session, resources) or silences[host_id]
        return why or told[host_id].get(session.session_id, _not_applied(host_id, reports))

    return {
        session.session_id: problem(session, host_id)
        for host_id, sessions in resources.sessions_by_host.items()
        for session in sessions
    }


def _not_applied(host_id: str, reports: Reports) -> str:
    """With the first problem of the agent, which may be what keeps it from that."""
    not_yet = f"the agent of {host_id} has not applied it yet"
    return ": ".join((not_yet, *reports.agents[host_id].report.problems[:1]))


def as_tag(problem: str | None) -> str:
    """A session's problem, or that it has none, as the value of a tag: a long sentence is cut."""
    told = MIRRORING if problem is None else problem
    return told if len(told) <= _TAG_CHARACTERS_MAX else f"{told[: _TAG_CHARACTERS_MAX - 1]}…"


def not_placed(session: SessionRecord, resources: Resources) -> str | None:
    """Why no agent can mirror a session, whatever it does."""
    interface = resources.interfaces[session.interface_id]
    if not interface.attached:
        return INTERFACE_GONE
    if interface.not_mirrorable is not None:
        return interface.not_mirrorable
    where = delivery(session, resources)
    if isinstance(where, Undeliverable):
        return where.reason
    return None


def apart(agent_version: str, own_version: str) -> str | None:
    """What is to be said of an agent more than one minor version away; None where nothing is, or it is no version."""
    theirs, ours = _minor(agent_version), _minor(own_version)
    if theirs is None or ours is None or (theirs[0] == ours[0] and abs(theirs[1] - ours[1]) <= 1):
        return None
    return (
        f"its agent is of version {agent_version} and this control plane of {own_version}: more than one minor version "
        "apart is not tested. Bring the older one forward"
    )


def _minor(version: str) -> tuple[int, int] | None:
    parts = version.split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) >= 2 and parts[0].isdecimal() and parts[1].isdecimal() else None


def silent_engines(engines: Iterable[EngineStatus]) -> list[str]:
    """What does not follow the engines now: of those that did not answer the last question, or told too much."""
    too_long = [
        f"{engine.engine} at {engine.where} tells so long names and labels that those of {engine.left_out} interfaces "
        "are left out, the longest: what was known of them before stays"
        for engine in engines
        if engine.left_out
    ]
    return too_long + [
        f"{engine.problem} ({engine.failed} of {engine.asked} questions since the agent's start): names, labels and "
        "deletions of its instances stay as it told them last"
        for engine in engines
        if engine.problem is not None
    ]


def restless(host_id: str, resources: Resources, session_ids: Container[str]) -> list[str]:
    """That of these sessions, where they are of the host, not all outer addresses are remembered."""
    of_host = [
        session.session_id
        for session in resources.sessions
        if session.session_id in session_ids and resources.interfaces[session.interface_id].host_id == host_id
    ]
    return [
        f"{len(of_host)} of its sessions ({', '.join(of_host[:3])}{', …' if of_host[3:] else ''}) had ever other outer "
        "addresses: the older are forgotten, and the ledger does not compare their ends"
    ] * bool(of_host)


def still_mirroring(host_id: str) -> str:
    """Of a session that was deleted, as long as its host has not said that it has applied that."""
    return f"still mirroring on {host_id}"


def agent_silence(host_id: str, reports: Reports, now_s: float) -> str | None:
    """Since when an agent has said nothing; None where it reports."""
    told = reports.agents.get(host_id)
    if told is None:
        return f"the agent of {host_id} has not reported since the control plane started"
    silent_s = now_s - told.received_at_s
    return f"the agent of {host_id} has not reported for {silent_s:.0f} s" if silent_s > AGENT_SILENT_S else None

"""What people are shown of hosts, sessions and interfaces, as documents of our own API. Pure."""

from collections.abc import Container, Iterable, Sequence
from typing import Any

import msgspec

import pktmirror
from pktmirror.control import declaration, reports, status
from pktmirror.control.placement import Resources, stream_of
from pktmirror.control.records import HostRecord, InterfaceRecord, SessionRecord, UnconfirmedEndRecord
from pktmirror.control.reports import Reports
from pktmirror.model.ledger import Tally
from pktmirror.model.rate import UNLIMITED
from pktmirror.networks import Networks


def hosts(
    records: Iterable[HostRecord], resources: Resources, restless: Container[str], told: Reports, now_s: float
) -> list[dict[str, Any]]:
    """Each host, and how its agent is. ``restless`` are the sessions of which not all ways are remembered."""
    return [_host(record, told, now_s, status.restless(record.host_id, resources, restless)) for record in records]


def _host(host: HostRecord, told_by: Reports, now_s: float, beside: Iterable[str]) -> dict[str, Any]:
    told = told_by.agents.get(host.host_id)
    reported_at_s = host.reported_at_s if told is None else told.received_at_s
    agent_version = host.agent_version if told is None else told.report.agent_version
    apart = status.apart(agent_version, pktmirror.__version__)
    return {
        "host_id": host.host_id,
        "agent_version": agent_version,
        "reported_s_ago": now_s - reported_at_s,
        "applied_revision": None if told is None else told.report.applied_revision,
        "problems": [
            *([] if told is None else told.report.problems),
            *status.silent_engines(() if told is None else told.report.engines),
            *([] if apart is None else [apart]),
            *beside,
        ],
        "engines": () if told is None else msgspec.to_builtins(told.report.engines),
        "stray_packets": 0 if told is None else told.report.strays.packets,
        "budget": None if told is None else told.report.budget,
    }


def sessions(resources: Resources, told: Reports, now_s: float) -> list[dict[str, Any]]:
    """Each session, with its problem or None."""
    problems = status.problems(resources, told, now_s)
    outer_sources, capped, paths = reports.outer_sources(told), reports.capped(told), reports.paths(told)
    return [
        {
            "session_id": session.session_id,
            "interface_id": session.interface_id,
            "host_id": resources.interfaces[session.interface_id].host_id,
            "target_id": session.target_id,
            "filter_id": session.filter_id,
            "number": session.number,
            "vni": session.vni,
            "outer_source": _outer_source(session, resources, outer_sources.get(session.session_id)),
            "problem": problems[session.session_id],
            "cap": resources.caps.get(session.session_id, UNLIMITED),
            "capped": capped.get(session.session_id, Tally()),
            "path": paths.get(session.session_id),
        }
        for session in resources.sessions
    ]


def _outer_source(session: SessionRecord, resources: Resources, told: str | None) -> str | None:
    stream = stream_of(session, resources, told)
    return stream[1] if isinstance(stream, tuple) else None


def deleted_sessions(ends: Iterable[UnconfirmedEndRecord], now_s: float) -> list[dict[str, Any]]:
    """Sessions that are deleted, and whose hosts have not said that they mirror no more."""
    return [
        {
            "session_id": end.session_id,
            "host_id": end.host_id,
            "deleted_s_ago": now_s - end.ended_at_s,
            "problem": status.still_mirroring(end.host_id),
        }
        for end in ends
    ]


def monitors(told: Reports, now_s: float) -> list[dict[str, Any]]:
    """Each monitor, and what it refused or lost."""
    return [
        {
            "monitor_id": monitor_id,
            "listening": received.report.listening,
            "reported_s_ago": now_s - received.received_at_s,
            "refused": received.report.refused,
            "socket_queue_full": received.report.socket_queue_full,
            "probes_received": received.report.probes_received,
        }
        for monitor_id, received in sorted(told.monitors.items())
    ]


def bypassed(resources: Resources, told: Reports) -> list[dict[str, Any]]:
    """What went past the hooks, by interface; ``interface_id`` None: it is not in the inventory."""
    return [
        {
            "interface_id": resources.interface_ids.get((host_id, key)),
            "host_id": host_id,
            "key": key,
            "packets": packets,
        }
        for (host_id, key), packets in reports.bypassed(told).items()
    ]


def mirrored_interfaces(resources: Resources, told: Reports) -> list[dict[str, Any]]:
    """The ledger of each interface that an agent mirrors, by direction."""
    return [
        {
            "interface_id": resources.interface_ids.get((host_id, figures.key)),
            "host_id": host_id,
            "key": figures.key,
            "directions": {
                direction.value: {
                    "seen": seen.seen,
                    "outcomes": {outcome.value: tally for outcome, tally in seen.outcomes.items()},
                    "bypassed_packets": figures.bypassed_packets.get(direction),
                }
                for direction, seen in figures.directions.items()
            },
        }
        for host_id, received in sorted(told.agents.items())
        for figures in received.report.mirrored_interfaces
    ]


def interfaces(
    records: Iterable[InterfaceRecord], sessions: Sequence[SessionRecord], networks: Networks
) -> list[dict[str, Any]]:
    """The inventory, mirrorable or not, with where each interface was found."""
    by_interface: dict[str, list[str]] = {}
    for session in sessions:
        by_interface.setdefault(session.interface_id, []).append(session.session_id)
    return [{**_placed(record, networks), "sessions": by_interface.get(record.interface_id, [])} for record in records]


def _placed(record: InterfaceRecord, networks: Networks) -> dict[str, Any]:
    vpc_id, subnet_id = declaration.place_of(record, networks)
    return {
        "interface_id": record.interface_id,
        "host_id": record.host_id,
        "instance_id": record.instance_id,
        "vpc_id": vpc_id,
        "subnet_id": subnet_id,
        "attached": record.attached,
        **msgspec.to_builtins(record.found),
        "addresses": record.addresses,
        "address_from": record.address_from,
        "not_mirrorable": record.not_mirrorable,
    }

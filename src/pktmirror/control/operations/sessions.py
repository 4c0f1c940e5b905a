"""Traffic mirror sessions: create, describe, modify, delete."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Annotated, Any

import msgspec

from pktmirror.aws import ApiError, Call, errors
from pktmirror.control import history, sharing, status
from pktmirror.control.operations import filters, interfaces, selection, tags, targets
from pktmirror.control.operations.operation import (
    Context,
    CreateRequest,
    DescribeRequest,
    Description,
    Ids,
    Operation,
    Request,
    Result,
    not_found,
    parsed,
)
from pktmirror.control.operations.pages import page, walked
from pktmirror.control.operations.selection import one
from pktmirror.control.records import SessionRecord, TargetRecord
from pktmirror.control.store import Transaction
from pktmirror.model.ids import Prefix, new_id
from pktmirror.model.limits import (
    PACKET_BYTES_MAX,
    PACKET_BYTES_MIN,
    SESSION_NUMBER_MAX,
    SESSION_NUMBER_MIN,
    VNI_MAX,
    VNI_MIN,
)
from pktmirror.model.target import EndpointTarget, InterfaceTarget, LoadBalancerTarget

LOAD_BALANCER_PACKET_BYTES_MAX = 8500  # the default of a session to a load balancer (spec 1.8)

SessionNumber = Annotated[int, msgspec.Meta(ge=SESSION_NUMBER_MIN, le=SESSION_NUMBER_MAX)]
PacketLength = Annotated[int, msgspec.Meta(ge=PACKET_BYTES_MIN, le=PACKET_BYTES_MAX)]
VirtualNetworkId = Annotated[int, msgspec.Meta(ge=VNI_MIN, le=VNI_MAX)]


class RemovableField(Enum):
    PACKET_LENGTH = "packet-length"
    DESCRIPTION = "description"
    VIRTUAL_NETWORK_ID = "virtual-network-id"


class CreateTrafficMirrorSession(CreateRequest, frozen=True, kw_only=True):
    network_interface_id: str
    traffic_mirror_target_id: str
    traffic_mirror_filter_id: str
    session_number: SessionNumber
    packet_length: PacketLength | None = None
    virtual_network_id: VirtualNetworkId | None = None


class DescribeTrafficMirrorSessions(DescribeRequest, frozen=True, kw_only=True):
    traffic_mirror_session_ids: Ids = ()


class ModifyTrafficMirrorSession(Request, frozen=True, kw_only=True):
    traffic_mirror_session_id: str
    traffic_mirror_target_id: str | None = None
    traffic_mirror_filter_id: str | None = None
    packet_length: PacketLength | None = None
    session_number: SessionNumber | None = None
    virtual_network_id: VirtualNetworkId | None = None
    description: Description | None = None
    remove_fields: tuple[RemovableField, ...] = ()


class DeleteTrafficMirrorSession(Request, frozen=True, kw_only=True):
    traffic_mirror_session_id: str


def create(request: CreateTrafficMirrorSession, context: Context) -> Result:
    transaction = context.transaction
    interfaces.require_source(transaction, request.network_interface_id)
    target = targets.require_seen(transaction, request.traffic_mirror_target_id)
    filters.require(transaction, request.traffic_mirror_filter_id)
    given = tags.of_specifications(request.tag_specifications, tags.SESSION)
    record = SessionRecord(
        new_id(Prefix.SESSION),
        request.network_interface_id,
        request.traffic_mirror_target_id,
        request.traffic_mirror_filter_id,
        request.session_number,
        request.virtual_network_id or free_vni(transaction),
        request.packet_length,
        request.description,
        target.account_id,
    )
    _check_quotas(record, context)
    _check_number_is_free(record, transaction)
    _check_target_has_room(record, target.record, context)
    transaction.sessions.put(record)
    history.sessions_changed(transaction, [record])
    tags.put(transaction, record.session_id, given)
    transaction.bump_revision()
    return {"TrafficMirrorSession": _described(record, target.record, given, context)}


def describe(request: DescribeTrafficMirrorSessions, context: Context) -> Result:
    """The account's own, and those of other accounts to its targets, of which it sees no tags (spec 2.2)."""
    transaction = context.transaction
    key, named = (lambda record: record.session_id), request.traffic_mirror_session_ids
    known: dict[str, TargetRecord] = {}
    held: dict[str, dict[str, str]] = {}
    others = {session.session_id: (session, account) for session, account in sharing.sessions_of_others(transaction)}

    def owner_id(record: SessionRecord) -> str:
        return others[record.session_id][1] if record.session_id in others else context.account_id

    fields: selection.Fields[SessionRecord] = {
        **_FIELDS,
        "owner-id": lambda record: one(owner_id(record)),
        "packet-length": lambda record: one(_packet_length(record, known[record.target_id])),
    }

    def select(records: Sequence[SessionRecord]) -> list[SessionRecord]:
        asked_for = {record.target_id for record in records} - known.keys()
        known.update((target.target_id, target) for target in sharing.any_targets(transaction, asked_for))
        held.update(transaction.tags.of_each(map(key, records)))
        if context.problems is not None:
            for id_ in map(key, records):
                held[id_] = {**held.get(id_, {}), status.TAG: status.as_tag(context.problems[id_])}
        return selection.select(records, request.filters, fields, lambda record: held.get(record.session_id, {}))

    if named:
        seen = (others[id_][0] if id_ in others else require(transaction, id_) for id_ in dict.fromkeys(named))
        given, next_token = page(select(list(seen)), key, request, context.page_key)
    else:
        asked = selection.exactly(request.filters, _COLUMNS)

        def read(above: str, most: int) -> list[SessionRecord]:
            own = transaction.sessions.piece(above, most, **asked)
            after = [session for id_, (session, _) in others.items() if id_ > above]
            return sorted([*own, *after], key=key)[:most] if after else own

        given, next_token = walked(read, select, key, request, context.page_key)
    listed = [
        _described(record, known[record.target_id], held.get(record.session_id, {}), context)
        | {"OwnerId": owner_id(record)}
        for record in given
    ]
    return {"TrafficMirrorSessions": listed, "NextToken": next_token}


def asks_for_status(call: Call) -> bool:
    """Whether a call wants to see how sessions fare: by a filter that names the tag, with no wildcard for it."""
    if call.operation != "DescribeTrafficMirrorSessions":
        return False
    request = parsed(DescribeTrafficMirrorSessions, call)
    return any(
        asked.name == f"tag:{status.TAG}" or (asked.name == "tag-key" and status.TAG in asked.values)
        for asked in request.filters
    )


def modify(request: ModifyTrafficMirrorSession, context: Context) -> Result:
    transaction = context.transaction
    record = require(transaction, request.traffic_mirror_session_id)
    target_id, filter_id = request.traffic_mirror_target_id, request.traffic_mirror_filter_id
    if target_id is None:  # it may stay what it is, also where it is not shared any more
        [target] = sharing.any_targets(transaction, [record.target_id])
        account_id = record.target_account_id
    else:
        seen = targets.require_seen(transaction, target_id)
        target, account_id = seen.record, seen.account_id
    filter_ = filters.require(transaction, record.filter_id if filter_id is None else filter_id)
    changed = replace(
        _with_fields(record, request, transaction),
        target_id=target.target_id,
        target_account_id=account_id,
        filter_id=filter_.filter_id,
        number=request.session_number or record.number,
    )
    if changed != record:
        _check_number_is_free(changed, transaction)
        _check_target_has_room(changed, target, context)
        transaction.sessions.put(changed)
        history.sessions_changed(transaction, [changed])
        transaction.bump_revision()
    held = transaction.tags.of(record.session_id)
    return {"TrafficMirrorSession": _described(changed, target, held, context)}


def delete(request: DeleteTrafficMirrorSession, context: Context) -> Result:
    session_id = require(context.transaction, request.traffic_mirror_session_id).session_id
    context.transaction.remove_session(session_id)
    context.transaction.bump_revision()
    return {"TrafficMirrorSessionId": session_id}


def require(transaction: Transaction, session_id: str) -> SessionRecord:
    """A session of the account itself."""
    record = transaction.sessions.get(session_id)
    if record is None:
        for other, account_id in sharing.sessions_of_others(transaction):
            if other.session_id == session_id:
                raise ApiError(
                    "UnauthorizedOperation",
                    f"You are not authorized to perform this operation. The session {session_id} to your target "
                    f"{other.target_id} is of account {account_id}, and only its owner may do this",
                )
        raise not_found("TrafficMirrorSessionId", "traffic mirror session", session_id)
    return record


def _with_fields(record: SessionRecord, request: ModifyTrafficMirrorSession, transaction: Transaction) -> SessionRecord:
    """Packet length, VNI and description after the call. A field is set or removed, not both (fact 27)."""
    removed = frozenset(request.remove_fields)
    for name, given in (
        (RemovableField.PACKET_LENGTH, request.packet_length),
        (RemovableField.VIRTUAL_NETWORK_ID, request.virtual_network_id),
        (RemovableField.DESCRIPTION, request.description),
    ):
        if name in removed and given is not None:
            raise errors.invalid_parameter_combination(f"{name.value} cannot be set and removed in one call")
    if request.packet_length is not None or RemovableField.PACKET_LENGTH in removed:
        record = replace(record, packet_bytes_max=request.packet_length)
    if request.description is not None or RemovableField.DESCRIPTION in removed:
        record = replace(record, description=request.description)
    if RemovableField.VIRTUAL_NETWORK_ID in removed:
        return replace(record, vni=free_vni(transaction))
    return replace(record, vni=request.virtual_network_id or record.vni)


def free_vni(transaction: Transaction) -> int:
    """A random VNI that no session of the account has (spec 5.5). 10,000 of 16 million: soon found."""
    while True:
        vni = VNI_MIN + secrets.randbelow(VNI_MAX - VNI_MIN + 1)
        if not transaction.sessions.count(vni=vni):
            return vni


def _check_quotas(record: SessionRecord, context: Context) -> None:
    sessions, quotas = context.transaction.sessions, context.quotas
    if sessions.count() >= quotas.sessions_per_account:
        raise ApiError(
            "TrafficMirrorSessionLimitExceeded",
            f"Sessions per account limit reached ({quotas.sessions_per_account})",
        )
    if sessions.count(interface_id=record.interface_id) >= quotas.sessions_per_interface:
        raise ApiError(
            "TrafficMirrorSessionsPerInterfaceLimitExceeded",
            f"Sessions per interface limit reached ({quotas.sessions_per_interface}): {record.interface_id}",
        )


def _check_number_is_free(record: SessionRecord, transaction: Transaction) -> None:
    """Spec 5.3, undocumented by AWS."""
    for other in transaction.sessions.where(interface_id=record.interface_id, number=record.number):
        if other.session_id != record.session_id:
            raise errors.invalid_parameter_value(
                f"Session number {record.number} is already being used on {record.interface_id} "
                f"by session {other.session_id}"
            )


def _check_target_has_room(record: SessionRecord, target: TargetRecord, context: Context) -> None:
    """An interface target takes a limited number of sources, of all accounts together; load balancers of both kinds do
    not count (fact 21). Of a gateway load balancer's endpoint AWS says that its sessions are not limited (spec 1.13).
    """
    transaction, quotas = context.transaction, context.quotas
    count = sharing.number_of_sessions_to(transaction, target.target_id)
    if not isinstance(target.target, EndpointTarget) and count >= quotas.sessions_per_target:
        before = transaction.sessions.get(record.session_id)
        if before is None or before.target_id != target.target_id:
            raise ApiError(
                "TrafficMirrorSessionsPerTargetLimitExceeded",
                f"Sessions per target limit reached ({quotas.sessions_per_target}): {target.target_id}",
            )
    if not isinstance(target.target, InterfaceTarget):
        return
    limit = quotas.sources_per_interface_target
    if count < limit:
        return  # of no more sources than there are sessions
    others = sharing.sessions_to(transaction, target.target_id)
    sources = {other.interface_id for other in others if other.session_id != record.session_id}
    wanted = len(sources | {record.interface_id})
    if wanted > limit:
        raise ApiError(
            "TrafficMirrorSourcesPerTargetLimitExceeded",
            f"Sources per interface-target limit reached ({wanted}): {target.target_id} takes {limit}",
        )


def _packet_length(record: SessionRecord, target: TargetRecord) -> int | None:
    if record.packet_bytes_max is None and isinstance(target.target, LoadBalancerTarget):
        return LOAD_BALANCER_PACKET_BYTES_MAX
    return record.packet_bytes_max


def _described(
    record: SessionRecord, target: TargetRecord, held: Mapping[str, str], context: Context
) -> dict[str, Any]:
    return {
        "TrafficMirrorSessionId": record.session_id,
        "TrafficMirrorTargetId": record.target_id,
        "TrafficMirrorFilterId": record.filter_id,
        "NetworkInterfaceId": record.interface_id,
        "OwnerId": context.account_id,
        "PacketLength": _packet_length(record, target),
        "SessionNumber": record.number,
        "VirtualNetworkId": record.vni,
        "Description": record.description,
        "Tags": tags.described(held),
    }


_FIELDS: selection.Fields[SessionRecord] = {
    "description": lambda record: one(record.description),
    "network-interface-id": lambda record: one(record.interface_id),
    "session-number": lambda record: one(record.number),
    "traffic-mirror-filter-id": lambda record: one(record.filter_id),
    "traffic-mirror-session-id": lambda record: one(record.session_id),
    "traffic-mirror-target-id": lambda record: one(record.target_id),
    "virtual-network-id": lambda record: one(record.vni),
}

_COLUMNS: Mapping[str, tuple[str, type]] = {
    "network-interface-id": ("interface_id", str),
    "session-number": ("number", int),
    "traffic-mirror-filter-id": ("filter_id", str),
    "traffic-mirror-session-id": ("session_id", str),
    "traffic-mirror-target-id": ("target_id", str),
    "virtual-network-id": ("vni", int),
}

OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateTrafficMirrorSession": Operation(CreateTrafficMirrorSession, create, writes=True),
    "DescribeTrafficMirrorSessions": Operation(DescribeTrafficMirrorSessions, describe),
    "ModifyTrafficMirrorSession": Operation(ModifyTrafficMirrorSession, modify, writes=True),
    "DeleteTrafficMirrorSession": Operation(DeleteTrafficMirrorSession, delete, writes=True),
}

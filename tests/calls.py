"""Calls to a control plane without its sockets, by the root of its own account."""

from pktmirror.aws import Call
from pktmirror.control.events import Event
from pktmirror.control.operations import Result
from pktmirror.control.plane import ControlPlane
from pktmirror.control.principals import Origin


def perform(plane: ControlPlane, call: Call, now_s: float) -> Result:
    """What the endpoint does with a call whose signature is right."""
    event = Event(
        request_id="00000000-0000-0000-0000-000000000000",
        at_s=now_s,
        region=plane.region,
        origin=Origin("127.0.0.1"),
        service=call.service,
        operation=call.operation,
        parameters=call.parameters,
        principal=plane.callers.principal(plane.callers.identity.access_key_id),
    )
    return plane.perform(call, event, now_s)

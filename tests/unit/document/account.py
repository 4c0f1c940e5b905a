"""A control plane without its sockets, to which plans are applied as `pktmirror apply` does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pktmirror.aws import ApiError, Call
from pktmirror.cli.account import state
from pktmirror.cli.apply import Done, carry_out
from pktmirror.cli.templates import TemplateStatus
from pktmirror.control.keys import Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import FoundInterface, Report
from pktmirror.document import Plan, State
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal
from pktmirror.model.template import Template
from tests.calls import perform
from tests.unit.control.records import HOST, found

NOW_S = 1_000_000.0


class Account:
    """``refuse_after``: so many calls go through, and then none, as with a control plane that ends."""

    def __init__(self, directory: Path, quotas: Quotas) -> None:
        self.store = Store.open(directory / "store")
        self.refuse_after: int | None = None
        self.calls: list[str] = []
        self._plane = ControlPlane(
            self.store,
            Key(bytes(32)),
            Trail(directory),
            region="local-1",
            networks=None,
            quotas=quotas,
            eni_forget_s=None,
            now_s=NOW_S,
        )

    def finds(self, *names: str) -> list[str]:
        """Interfaces that an agent reports, and their ids."""
        there: list[FoundInterface] = [found(name, f"10.0.0.{place}") for place, name in enumerate(names, 1)]
        self._plane.intake.agent_reported(
            Report(host_id=HOST, agent_version="1", applied_revision=0, interfaces=tuple(there)), NOW_S
        )
        by_key = {each["key"]: str(each["interface_id"]) for each in self._plane.interfaces()}
        return [by_key[name] for name in names]

    def ec2(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.refuse_after is not None and len(self.calls) >= self.refuse_after:
            raise Refusal("The control plane does not answer.", do="start it")
        self.calls.append(operation)
        try:
            if operation == "PutTemplate":
                self._plane.put_template(msgspec.convert(dict(parameters), Template), NOW_S)
                return {}
            if operation == "DeleteTemplate":
                self._plane.delete_template(parameters["name"], NOW_S)
                return {}
            return perform(self._plane, Call("ec2", operation, dict(parameters)), NOW_S)
        except ApiError as error:
            raise Refusal(f"{operation} is refused.", found=str(error), do="mend it") from None

    def state(self) -> State:
        def listed(kind: str) -> list[dict[str, Any]]:
            answer = perform(self._plane, Call("ec2", f"DescribeTrafficMirror{kind}", {}), NOW_S)
            found: list[dict[str, Any]] = answer[f"TrafficMirror{kind}"]
            return found

        return state(
            targets=listed("Targets"),
            filters=listed("Filters"),
            sessions=listed("Sessions"),
            templates=msgspec.convert(msgspec.to_builtins(self._plane.templates()), tuple[TemplateStatus, ...]),
            interfaces={(each["host_id"], each["key"]): each["interface_id"] for each in self._plane.interfaces()},
        )

    def carry_out(self, planned: Plan) -> Done:
        return carry_out(planned, self.ec2, self.ec2)

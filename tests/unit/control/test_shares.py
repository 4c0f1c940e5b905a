"""What becomes of an invitation in its time, what a name means, and what follows where a share begins or ends."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pktmirror.aws import ApiError, Call
from pktmirror.control import shares
from pktmirror.control.placement import TARGET_NOT_SHARED, delivery
from pktmirror.control.records import InvitationRecord
from pktmirror.control.shares import INVITATION_S, Answer, Arns
from pktmirror.control.templates import Outcome, decide
from pktmirror.desired import Undeliverable
from pktmirror.model.limits import Quotas
from pktmirror.model.template import Selector, Template
from tests.unit.control.office import NOW_S, Office, opened
from tests.unit.control.records import found, report, resources, session
from tests.unit.control.records import interface as record
from tests.unit.control.records import target as target_record
from tests.unit.control.test_templates import WEB1, WEB2, situation, template

RED = "111122223333"
SENT = InvitationRecord("i", "s", RED, NOW_S)
HERE = {"web1": "10.0.0.1", "web2": "10.0.0.2", "sensor": "10.9.0.9"}
NETWORKS = """
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
[[vpc]]
name = "red"
cidr = "10.9.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.9.0.0/24"
"""


@pytest.mark.parametrize(
    ("accepted", "after_s", "answer", "status"),
    [
        (None, 0.0, Answer.PENDING, "ASSOCIATING"),
        (None, INVITATION_S - 1, Answer.PENDING, "ASSOCIATING"),
        (None, INVITATION_S, Answer.EXPIRED, "FAILED"),
        (True, 2 * INVITATION_S, Answer.ACCEPTED, "ASSOCIATED"),
        (False, 0.0, Answer.REJECTED, "FAILED"),
    ],
)
def test_an_invitation_waits_for_a_week_and_an_answer_is_for_good(
    accepted: bool | None, after_s: float, answer: Answer, status: str
) -> None:
    found = shares.answer(replace(SENT, accepted=accepted), NOW_S + after_s)
    assert found is answer
    assert shares.association(found)[0] == status
    assert shares.is_over(found) == (status == "FAILED")


def code(refused: Any, *asked: str) -> str:
    with pytest.raises(ApiError) as refusal:
        refused(*asked)
    return refusal.value.code


def test_an_arn_is_of_its_service_and_type_or_malformed() -> None:
    arns = Arns("local-1")
    assert shares.id_in(arns.share(RED, "x-1"), "ram", "resource-share") == "x-1"
    assert shares.target_id_in(arns.target(RED, "tmt-1")) == "tmt-1"
    for wrong in ("", "x-1", arns.invitation(RED, "x-1"), arns.share("1", "x-1"), f"{arns.share(RED, 'x-1')}/y"):
        assert code(shares.id_in, wrong, "ram", "resource-share") == "MalformedArnException", wrong
    for wrong in (arns.share(RED, "x-1"), arns.target(RED, "tmt-1").replace("target", "session"), "tmt-1"):
        assert code(shares.target_id_in, wrong) == "MalformedArnException", wrong


def test_who_is_let_in_is_another_account_by_its_number() -> None:
    assert shares.receiver(RED, "999999999999") == RED
    for wrong in (RED, "red", "1111222233334", f"arn:aws:iam::{RED}:root", "11112222333\u0663"):
        assert code(shares.receiver, wrong, RED) == "InvalidParameterException", wrong


def test_a_session_whose_target_is_shared_no_more_goes_nowhere() -> None:
    web, sensor = record("web", "10.0.0.1"), record("sensor", "10.0.0.9")
    lent = session("a", "web", "sensor")
    around = resources([web, sensor], [target_record("sensor")], [lent])
    assert not isinstance(delivery(lent, around), Undeliverable)
    lapsed = replace(around, lapsed=frozenset({lent.session_id}))
    assert delivery(lent, lapsed) == Undeliverable(reason=TARGET_NOT_SHARED)


def test_a_template_counts_the_sources_of_other_accounts() -> None:
    quotas = Quotas(sources_per_interface_target=2)
    now = replace(situation(template(), quotas=quotas), sources_of_others={"tmt-sensor": {"eni-red"}})
    [one] = decide(now).make
    assert one.interface_id == WEB1.interface_id
    [outcome] = decide(now).outcomes
    assert WEB2.interface_id in {each.interface_id for each in outcome.reasons}
    assert len(decide(replace(now, sources_of_others={})).make) == 2


class Lending:
    """The account red, which has the interface of the sensor, and the operator's, which has the others."""

    def __init__(self, office: Office) -> None:
        self.office = office
        office.plane.declare(NETWORKS, NOW_S)
        made = office.plane.create_account("red", NOW_S)
        self.red_id, self.red_key = made["account_id"], made["access_key_id"]
        [vpc] = [each["vpc_id"] for each in office.plane.declared()["vpcs"] if each["name"] == "red"]
        office.plane.assign(vpc, "red", NOW_S)
        self.finds()
        target = self.red("CreateTrafficMirrorTarget", service="ec2", NetworkInterfaceId=self.ids["sensor"])
        self.target_id = str(target["TrafficMirrorTarget"]["TrafficMirrorTargetId"])
        self.arn = Arns("local-1").target(self.red_id, self.target_id)

    def finds(self, **elsewhere: str) -> None:
        told = report(*(found(name, at) for name, at in {**HERE, **elsewhere}.items()))
        self.office.plane.intake.agent_reported(told, NOW_S)

    @property
    def ids(self) -> dict[str, str]:
        return {each["key"]: each["interface_id"] for each in self.office.plane.interfaces()}

    def red(self, operation: str, *, service: str = "ram", now_s: float = NOW_S, **asked: Any) -> Any:
        return self._asked(self.red_key, operation, service, now_s, asked)

    def own(self, operation: str, *, now_s: float = NOW_S, **asked: Any) -> Any:
        return self._asked(None, operation, "ram", now_s, asked)

    def _asked(self, key_id: str | None, operation: str, service: str, now_s: float, asked: dict[str, Any]) -> Any:
        event = self.office.event(operation, key_id, service=service, **asked)
        return self.office.plane.perform(Call(service, operation, asked), event, now_s)

    def share(self) -> str:
        own_id = self.office.plane.callers.identity.account_id
        made = self.red("CreateResourceShare", name="s", resourceArns=[self.arn], principals=[own_id])
        return str(made["resourceShare"]["resourceShareArn"])

    def invitation(self) -> str:
        [found] = self.own("GetResourceShareInvitations")["resourceShareInvitations"]
        return str(found["resourceShareInvitationArn"])

    def lend(self) -> str:
        share = self.share()
        self.own("AcceptResourceShareInvitation", resourceShareInvitationArn=self.invitation())
        return share

    def template(self) -> Template:
        return Template(
            name="office/web",
            select=Selector(name="web*"),
            target_id=self.target_id,
            filter_id=self.office.filter(),
            number=1,
            limit=1,
        )

    def outcome(self) -> Outcome:
        [outcome] = self.office.plane.templates()
        return outcome


@pytest.fixture
def lending(tmp_path: Path) -> Iterator[Lending]:
    with opened(tmp_path) as office:
        yield Lending(office)


def test_an_invitation_that_is_a_week_old_is_no_longer_good_and_another_follows_it(lending: Lending) -> None:
    share, week_s = lending.share(), NOW_S + INVITATION_S
    first, own_id = lending.invitation(), lending.office.plane.callers.identity.account_id
    with pytest.raises(ApiError) as refusal:
        lending.own("AcceptResourceShareInvitation", now_s=week_s, resourceShareInvitationArn=first)
    assert refusal.value.code == "ResourceShareInvitationExpiredException"
    [found] = lending.own("GetResourceShareInvitations", now_s=week_s)["resourceShareInvitations"]
    assert found["status"] == "EXPIRED"
    again = {"resourceShareArn": share, "principals": [own_id]}
    lending.red("AssociateResourceShare", now_s=week_s - 1, **again)
    assert lending.invitation() == first, "who is invited stays so"
    lending.red("AssociateResourceShare", now_s=week_s, **again)
    second = lending.invitation()
    assert second != first
    late = {"now_s": week_s + INVITATION_S - 1}
    lending.own("AcceptResourceShareInvitation", **late, resourceShareInvitationArn=second)
    lending.red("AssociateResourceShare", now_s=2 * week_s, **again)
    assert lending.invitation() == second, "who is in it stays in it"


def test_a_template_mirrors_to_a_shared_target_as_long_as_it_is_shared(lending: Lending) -> None:
    plane, wanted = lending.office.plane, lending.template()
    with pytest.raises(ApiError, match="does not exist"):
        plane.put_template(wanted, NOW_S)
    share = lending.lend()
    plane.put_template(wanted, NOW_S)
    [made] = lending.outcome().sessions
    plane.put_template(msgspec.structs.replace(wanted, limit=2), NOW_S)
    assert len(lending.outcome().sessions) == 2
    with lending.office.store.read() as transaction:
        kept = transaction.sessions.where()
        assert {each.target_account_id for each in kept} == {lending.red_id}
    lending.office.call("DeleteTrafficMirrorSession", TrafficMirrorSessionId=made)
    assert made not in lending.outcome().sessions
    assert len(lending.outcome().sessions) == 2, "what is deleted is made again"
    lending.red("DeleteResourceShare", resourceShareArn=share)
    outcome = lending.outcome()
    assert outcome.problem == f"its target {lending.target_id} is not shared with its account any more"
    lending.office.call("DeleteTrafficMirrorSession", TrafficMirrorSessionId=outcome.sessions[0])
    assert len(lending.outcome().sessions) == 1
    lending.lend()
    assert (lending.outcome().problem, len(lending.outcome().sessions)) == (None, 2)


def test_the_ledger_knows_the_streams_of_what_is_shared_while_it_is(lending: Lending) -> None:
    share = lending.lend()
    lending.office.plane.put_template(lending.template(), NOW_S)

    def destinations() -> set[str]:
        with lending.office.store.read() as transaction:
            return {stream.outer_destination for stream in transaction.streams.where()}

    assert destinations() == {"10.9.0.9"}
    lending.red("DisassociateResourceShare", resourceShareArn=share, resourceArns=[lending.arn])
    lending.finds(sensor="10.9.0.10")
    assert destinations() == {"10.9.0.9"}
    lending.red("AssociateResourceShare", resourceShareArn=share, resourceArns=[lending.arn])
    assert destinations() == {"10.9.0.9", "10.9.0.10"}
    lending.red("DeleteResourceShare", resourceShareArn=share)
    lending.finds(sensor="10.9.0.11")
    assert "10.9.0.11" not in destinations()
    lending.lend()
    assert "10.9.0.11" in destinations()

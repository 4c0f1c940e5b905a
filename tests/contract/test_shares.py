"""Targets that one account shares with another, by boto3's RAM client against a real server. What must not be stands
below what must."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from pktmirror.control.placement import TARGET_NOT_SHARED
from pktmirror.desired import Destination, Undeliverable
from tests.contract.plane import HOST, Plane, code_of, found, refusal_of
from tests.contract.test_rights import Someone, allow, policy

TARGET_GONE = "InvalidTrafficMirrorTargetId.NotFound"
SESSION_GONE = "InvalidTrafficMirrorSessionId.NotFound"
REFUSED = "UnauthorizedOperation"
_numbers = count(1)


@dataclass
class Account:
    """An account, its root, and what it can mirror with."""

    plane: Plane
    id: str
    root: Someone
    assigned: str = ""
    unused: list[str] = field(default_factory=list)

    @property
    def ec2(self) -> Any:
        return self.root.client()

    @property
    def ram(self) -> Any:
        return self.root.client("ram")

    def interface(self) -> str:
        """One that nothing uses. Ten are found at once: that takes as long as for one."""
        if not self.unused:
            numbers = [next(_numbers) for _ in range(10)]
            self.unused = self.plane.find(*(found(f"shares{number}", f"10.0.0.{number}") for number in numbers))
        interface_id = self.unused.pop()
        if self.assigned:
            answer = self.plane.own_answer(f"assignments/{interface_id}", method="PUT", body=self.assigned)
            assert answer.status_code == 204, answer.text
        return interface_id

    def target(self, interface_id: str | None = None, **more: Any) -> str:
        made = self.ec2.create_traffic_mirror_target(NetworkInterfaceId=interface_id or self.interface(), **more)
        return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def filter(self) -> str:
        return str(self.ec2.create_traffic_mirror_filter()["TrafficMirrorFilter"]["TrafficMirrorFilterId"])

    def asked_session(self, target_id: str, **more: Any) -> dict[str, Any]:
        return {
            "NetworkInterfaceId": self.interface(),
            "TrafficMirrorTargetId": target_id,
            "TrafficMirrorFilterId": self.filter(),
            "SessionNumber": 1,
        } | more

    def session(self, target_id: str, **more: Any) -> str:
        made = self.ec2.create_traffic_mirror_session(**self.asked_session(target_id, **more))
        return str(made["TrafficMirrorSession"]["TrafficMirrorSessionId"])

    def targets(self) -> dict[str, dict[str, Any]]:
        listed = self.ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"]
        return {each["TrafficMirrorTargetId"]: each for each in listed}

    def sessions(self) -> dict[str, dict[str, Any]]:
        listed = self.ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
        return {each["TrafficMirrorSessionId"]: each for each in listed}

    def arn(self, target_id: str) -> str:
        return f"arn:aws:ec2:local-1:{self.id}:traffic-mirror-target/{target_id}"

    def share(self, *target_ids: str, to: "tuple[Account, ...]" = (), **more: Any) -> str:
        asked = {"resourceArns": [self.arn(id_) for id_ in target_ids], "principals": [each.id for each in to]}
        made = self.ram.create_resource_share(name="tools", **asked, **more)
        return str(made["resourceShare"]["resourceShareArn"])

    def invitation(self, share_arn: str) -> dict[str, Any]:
        [found] = self.ram.get_resource_share_invitations(resourceShareArns=[share_arn])["resourceShareInvitations"]
        return dict(found)

    def accept(self, share_arn: str) -> None:
        arn = self.invitation(share_arn)["resourceShareInvitationArn"]
        self.ram.accept_resource_share_invitation(resourceShareInvitationArn=arn)

    def user(self, *statements: dict[str, Any]) -> Someone:
        name, iam = f"user{next(_numbers)}", self.root.client("iam")
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        if statements:
            iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(*statements))
        return Someone(self.plane.url, key["AccessKeyId"], key["SecretAccessKey"])


@dataclass
class Accounts:
    own: Account
    red: Account
    blue: Account

    @property
    def pairs(self) -> list[tuple[Account, Account]]:
        """Owner and consumer: the operator's account, which the store knows by no number, in either part."""
        return [(self.red, self.blue), (self.own, self.red), (self.red, self.own)]


@pytest.fixture(scope="module")
def accounts(plane: Plane) -> Iterator[Accounts]:
    known = plane.environment
    own = Someone(plane.url, known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
    others = []
    for name in ("red", "blue"):
        made = plane.own_answer(f"accounts/{name}", method="POST").json()
        root = Someone(plane.url, made["access_key_id"], made["secret_access_key"])
        others.append(Account(plane, made["account_id"], root, name))
    yield Accounts(Account(plane, plane.own("status")["account_id"], own), *others)


def delivery(plane: Plane, session_id: str) -> Destination | Undeliverable:
    """What the host of a session is told of its target."""
    desired = plane.desired(HOST)
    assert desired is not None
    [found] = [s for each in desired.interfaces for s in each.sessions if s.session_id == session_id]
    return found.delivery


def problem(plane: Plane, session_id: str) -> Any:
    [found] = [each for each in plane.own("status")["sessions"] if each["session_id"] == session_id]
    return found["problem"]


def test_a_target_is_seen_and_used_by_another_account_when_that_has_accepted(accounts: Accounts) -> None:
    for owner, consumer in accounts.pairs:
        aim = owner.interface()
        tags = [{"ResourceType": "traffic-mirror-target", "Tags": [{"Key": "team", "Value": "ids"}]}]
        target_id = owner.target(aim, TagSpecifications=tags)
        asked = consumer.asked_session(target_id)
        share = owner.share(target_id, to=(consumer,))
        assert target_id not in consumer.targets()
        assert code_of(consumer.ec2.describe_traffic_mirror_targets, TrafficMirrorTargetIds=[target_id]) == TARGET_GONE
        assert code_of(consumer.ec2.create_traffic_mirror_session, **asked) == TARGET_GONE
        consumer.accept(share)
        own, seen = owner.targets()[target_id], consumer.targets()[target_id]
        assert (own["OwnerId"], own["Tags"]) == (owner.id, tags[0]["Tags"])
        assert seen == own | {"Tags": []}
        [by_id] = consumer.ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[target_id])[
            "TrafficMirrorTargets"
        ]
        assert by_id == seen
        by_owner = {"Filters": [{"Name": "owner-id", "Values": [owner.id]}]}
        listed = consumer.ec2.describe_traffic_mirror_targets(**by_owner)["TrafficMirrorTargets"]
        assert seen in listed
        assert {each["OwnerId"] for each in listed} == {owner.id}
        by_tag = {"Filters": [{"Name": "tag:team", "Values": ["ids"]}]}
        assert target_id in str(owner.ec2.describe_traffic_mirror_targets(**by_tag))
        assert target_id not in str(consumer.ec2.describe_traffic_mirror_targets(**by_tag))
        made = consumer.ec2.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
        assert (made["OwnerId"], made["TrafficMirrorTargetId"]) == (consumer.id, target_id)
        told = delivery(owner.plane, made["TrafficMirrorSessionId"])
        assert isinstance(told, Destination)
        [behind] = owner.ec2.describe_network_interfaces(NetworkInterfaceIds=[aim])["NetworkInterfaces"]
        assert told.address == behind["PrivateIpAddress"]
        [third] = {accounts.own.id, accounts.red.id, accounts.blue.id} - {owner.id, consumer.id}
        other = next(each for each in (accounts.own, accounts.red, accounts.blue) if each.id == third)
        assert target_id not in other.targets()
        assert made["TrafficMirrorSessionId"] not in other.sessions()
        assert code_of(other.ec2.create_traffic_mirror_session, **other.asked_session(target_id)) == TARGET_GONE


def test_a_session_moves_to_a_shared_target_and_back(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    shared, own, unshared = owner.target(), consumer.target(), owner.target()
    consumer.accept(owner.share(shared, to=(consumer,)))
    session_id = consumer.session(own)
    modify, named = consumer.ec2.modify_traffic_mirror_session, {"TrafficMirrorSessionId": session_id}
    assert session_id not in owner.sessions()
    assert modify(**named, TrafficMirrorTargetId=shared)["TrafficMirrorSession"]["TrafficMirrorTargetId"] == shared
    assert session_id in owner.sessions()
    assert code_of(modify, **named, TrafficMirrorTargetId=unshared) == TARGET_GONE
    modify(**named, TrafficMirrorTargetId=own)
    assert session_id not in owner.sessions()


def test_a_shared_target_is_its_owners_to_change(accounts: Accounts) -> None:
    for owner, consumer in accounts.pairs:
        target_id = owner.target()
        consumer.accept(owner.share(target_id, to=(consumer,)))
        named = {"TrafficMirrorTargetId": target_id}
        tags = {"Resources": [target_id], "Tags": [{"Key": "a", "Value": "b"}]}
        assert code_of(consumer.ec2.delete_traffic_mirror_target, **named) == REFUSED
        assert code_of(consumer.ec2.create_tags, **tags) == REFUSED
        assert code_of(consumer.ec2.delete_tags, **tags) == REFUSED
        again = {"name": "mine", "resourceArns": [owner.arn(target_id)]}
        assert code_of(consumer.ram.create_resource_share, **again) == "UnknownResourceException"
        again = {"name": "mine", "resourceArns": [consumer.arn(target_id)]}
        assert code_of(consumer.ram.create_resource_share, **again) == "UnknownResourceException"
        owner.ec2.create_tags(**tags)
        assert owner.targets()[target_id]["Tags"] == tags["Tags"]
        assert target_id not in str(consumer.ec2.describe_tags()["Tags"])
        owner.ec2.delete_traffic_mirror_target(**named)
        assert target_id not in consumer.targets()


def test_the_owner_sees_the_sessions_to_his_target_and_they_hold_it(accounts: Accounts) -> None:
    for owner, consumer in accounts.pairs:
        target_id = owner.target()
        consumer.accept(owner.share(target_id, to=(consumer,)))
        tags = [{"ResourceType": "traffic-mirror-session", "Tags": [{"Key": "a", "Value": "b"}]}]
        session_id, elsewhere = consumer.session(target_id, TagSpecifications=tags), consumer.session(consumer.target())
        session = consumer.sessions()[session_id]
        assert session["Tags"] == tags[0]["Tags"]
        named = {"TrafficMirrorSessionId": session_id}
        assert owner.sessions()[session_id] == session | {"Tags": []}
        assert elsewhere not in owner.sessions()
        describe = owner.ec2.describe_traffic_mirror_sessions
        assert describe(TrafficMirrorSessionIds=[session_id])["TrafficMirrorSessions"] == [session | {"Tags": []}]
        by_owner = describe(Filters=[{"Name": "owner-id", "Values": [consumer.id]}])["TrafficMirrorSessions"]
        assert session_id in [each["TrafficMirrorSessionId"] for each in by_owner]
        assert {each["OwnerId"] for each in by_owner} == {consumer.id}
        assert code_of(describe, TrafficMirrorSessionIds=[elsewhere]) == SESSION_GONE
        assert code_of(owner.ec2.modify_traffic_mirror_session, **named, SessionNumber=7) == REFUSED
        assert code_of(owner.ec2.delete_traffic_mirror_session, **named) == REFUSED
        assert code_of(owner.ec2.create_tags, Resources=[session_id], Tags=[{"Key": "c"}]) == REFUSED
        delete = owner.ec2.delete_traffic_mirror_target
        code, message = refusal_of(delete, TrafficMirrorTargetId=target_id)
        assert (code, session_id in message) == ("TrafficMirrorTargetInUseException", True)
        assert session["SessionNumber"] == consumer.sessions()[session_id]["SessionNumber"]
        consumer.ec2.delete_traffic_mirror_session(**named)
        assert delete(TrafficMirrorTargetId=target_id)


def test_the_pages_of_the_owner_hold_the_sessions_of_both(accounts: Accounts) -> None:
    owner, consumer = accounts.blue, accounts.red
    target_id, filter_id = owner.target(), consumer.filter()
    consumer.accept(owner.share(target_id, to=(consumer,)))
    made = {consumer.session(target_id, TrafficMirrorFilterId=filter_id) for _ in range(4)}
    made |= {owner.session(target_id) for _ in range(4)}
    pages = list(owner.ec2.get_paginator("describe_traffic_mirror_sessions").paginate(PaginationConfig={"PageSize": 5}))
    listed = [each["TrafficMirrorSessionId"] for page in pages for each in page["TrafficMirrorSessions"]]
    assert made <= set(listed)
    assert len(listed) == len(set(listed))
    assert listed == sorted(listed)
    assert [len(page["TrafficMirrorSessions"]) for page in pages[:-1]] == [5] * (len(pages) - 1)
    to_target = [{"Name": "traffic-mirror-target-id", "Values": [target_id]}]
    found = owner.ec2.describe_traffic_mirror_sessions(Filters=to_target)["TrafficMirrorSessions"]
    assert {each["TrafficMirrorSessionId"] for each in found} == made


UNSHARED = ("the target", "the account", "the share", "left")


def unshare(how: str, owner: Account, consumer: Account, share: str, target_id: str) -> None:
    if how == "the target":
        owner.ram.disassociate_resource_share(resourceShareArn=share, resourceArns=[owner.arn(target_id)])
    elif how == "the account":
        owner.ram.disassociate_resource_share(resourceShareArn=share, principals=[consumer.id])
    elif how == "the share":
        assert owner.ram.delete_resource_share(resourceShareArn=share)["returnValue"]
    else:
        consumer.ram.disassociate_resource_share(resourceShareArn=share, principals=[consumer.id])


@pytest.mark.parametrize("how", UNSHARED)
def test_what_is_shared_no_more_is_not_seen_and_sessions_to_it_stand_still(accounts: Accounts, how: str) -> None:
    owner, consumer = accounts.red, accounts.blue
    plane, target_id = owner.plane, owner.target()
    share = owner.share(target_id, to=(consumer,))
    consumer.accept(share)
    session_id = consumer.session(target_id)
    assert isinstance(delivery(plane, session_id), Destination)
    unshare(how, owner, consumer, share, target_id)
    assert target_id not in consumer.targets()
    assert target_id in owner.targets()
    assert code_of(consumer.ec2.create_traffic_mirror_session, **consumer.asked_session(target_id)) == TARGET_GONE
    assert delivery(plane, session_id) == Undeliverable(reason=TARGET_NOT_SHARED)
    assert problem(plane, session_id) == TARGET_NOT_SHARED
    session = consumer.sessions()[session_id]
    assert session["TrafficMirrorTargetId"] == target_id
    modify, named = consumer.ec2.modify_traffic_mirror_session, {"TrafficMirrorSessionId": session_id}
    assert modify(**named, Description="mine")["TrafficMirrorSession"]["Description"] == "mine"
    assert code_of(modify, **named, TrafficMirrorTargetId=target_id) == TARGET_GONE
    in_use = code_of(owner.ec2.delete_traffic_mirror_target, TrafficMirrorTargetId=target_id)
    assert in_use == "TrafficMirrorTargetInUseException"
    assert session_id in owner.sessions()
    again = owner.share(target_id, to=(consumer,))
    assert isinstance(delivery(plane, session_id), Undeliverable)
    consumer.accept(again)
    assert isinstance(delivery(plane, session_id), Destination)
    consumer.ec2.delete_traffic_mirror_session(**named)


def test_what_is_shared_twice_stays_when_one_share_ends(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    target_id = owner.target()
    first, second = (owner.share(target_id, to=(consumer,)) for _ in range(2))
    consumer.accept(first)
    consumer.accept(second)
    session_id = consumer.session(target_id)
    owner.ram.delete_resource_share(resourceShareArn=first)
    assert target_id in consumer.targets()
    assert isinstance(delivery(owner.plane, session_id), Destination)
    owner.ram.delete_resource_share(resourceShareArn=second)
    assert isinstance(delivery(owner.plane, session_id), Undeliverable)


def test_an_invitation_is_answered_once(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    target_id = owner.target()
    share = owner.share(target_id, to=(consumer,))
    sent = consumer.invitation(share)
    arn = {"resourceShareInvitationArn": sent["resourceShareInvitationArn"]}
    assert arn["resourceShareInvitationArn"].startswith(f"arn:aws:ram:local-1:{owner.id}:resource-share-invitation/")
    assert (sent["senderAccountId"], sent["receiverAccountId"]) == (owner.id, consumer.id)
    assert (sent["resourceShareArn"], sent["resourceShareName"], sent["status"]) == (share, "tools", "PENDING")
    seen = consumer.ram.list_pending_invitation_resources(**arn)["resources"]
    assert [each["arn"] for each in seen] == [owner.arn(target_id)]
    for other in (owner, accounts.own):
        assert share not in str(other.ram.get_resource_share_invitations())
        not_theirs = code_of(other.ram.accept_resource_share_invitation, **arn)
        assert not_theirs == "ResourceShareInvitationArnNotFoundException"
    rejected = consumer.ram.reject_resource_share_invitation(**arn)["resourceShareInvitation"]
    assert rejected == sent | {"status": "REJECTED"}
    code = "ResourceShareInvitationAlreadyRejectedException"
    assert code_of(consumer.ram.accept_resource_share_invitation, **arn) == code
    assert code_of(consumer.ram.list_pending_invitation_resources, **arn) == code
    assert target_id not in consumer.targets()
    asked = {"resourceShareArns": [share], "associationType": "PRINCIPAL"}
    [failed] = owner.ram.get_resource_share_associations(**asked)["resourceShareAssociations"]
    assert (failed["associatedEntity"], failed["status"], failed["external"]) == (consumer.id, "FAILED", True)
    assert "rejected" in failed["statusMessage"]
    owner.ram.associate_resource_share(resourceShareArn=share, principals=[consumer.id])
    second = {"resourceShareInvitationArn": consumer.invitation(share)["resourceShareInvitationArn"]}
    assert second != arn
    assert consumer.ram.accept_resource_share_invitation(**second)["resourceShareInvitation"]["status"] == "ACCEPTED"
    code = "ResourceShareInvitationAlreadyAcceptedException"
    assert code_of(consumer.ram.reject_resource_share_invitation, **second) == code
    assert target_id in consumer.targets()


def test_both_sides_are_told_what_is_shared_and_with_whom(accounts: Accounts) -> None:
    owner, consumer = accounts.own, accounts.blue
    target_id = owner.target()
    given = [{"key": "team", "value": "shares"}]
    made = owner.ram.create_resource_share(
        name="told", resourceArns=[owner.arn(target_id)], principals=[consumer.id], tags=given, clientToken="t"
    )
    share, arn = made["resourceShare"], made["resourceShare"]["resourceShareArn"]
    assert made["clientToken"] == "t"
    assert (share["owningAccountId"], share["status"], share["tags"]) == (owner.id, "ACTIVE", given)
    assert share["allowExternalPrincipals"] is True
    only = {"resourceShareArns": [arn]}
    assert owner.ram.get_resource_shares(resourceOwner="SELF", **only)["resourceShares"] == [share]
    theirs = {"resourceOwner": "OTHER-ACCOUNTS"}
    assert arn not in str(consumer.ram.get_resource_shares(**theirs))
    associations = owner.ram.get_resource_share_associations
    [of_target] = associations(associationType="RESOURCE", **only)["resourceShareAssociations"]
    assert (of_target["associatedEntity"], of_target["status"]) == (owner.arn(target_id), "ASSOCIATED")
    [of_account] = associations(associationType="PRINCIPAL", **only)["resourceShareAssociations"]
    assert (of_account["associatedEntity"], of_account["status"]) == (consumer.id, "ASSOCIATING")
    assert owner.ram.list_principals(resourceOwner="SELF", **only)["principals"] == []
    consumer.accept(arn)
    [of_account] = associations(associationType="PRINCIPAL", **only)["resourceShareAssociations"]
    assert of_account["status"] == "ASSOCIATED"
    seen = consumer.ram.get_resource_shares(**theirs, **only)["resourceShares"]
    assert seen == [share | {"tags": []}]
    for someone, whose in ((owner, "SELF"), (consumer, "OTHER-ACCOUNTS")):
        [resource] = someone.ram.list_resources(resourceOwner=whose, **only)["resources"]
        assert (resource["arn"], resource["type"]) == (owner.arn(target_id), "ec2:TrafficMirrorTarget")
        [principal] = someone.ram.list_principals(resourceOwner=whose, **only)["principals"]
        assert principal["id"] == (consumer.id if someone is owner else owner.id)
        other = "SELF" if whose == "OTHER-ACCOUNTS" else "OTHER-ACCOUNTS"
        assert code_of(someone.ram.list_resources, resourceOwner=other, **only) == "UnknownResourceException"
        assert someone.ram.list_resource_share_permissions(resourceShareArn=arn)["permissions"] == []
    unknown = code_of(accounts.red.ram.list_resource_share_permissions, resourceShareArn=arn)
    assert unknown == "UnknownResourceException"
    changed = owner.ram.update_resource_share(resourceShareArn=arn, name="renamed")["resourceShare"]
    assert (changed["name"], changed["creationTime"]) == ("renamed", share["creationTime"])
    owner.ram.tag_resource(resourceShareArn=arn, tags=[{"key": "site", "value": "x"}])
    by_tag = {"resourceOwner": "SELF", "tagFilters": [{"tagKey": "site", "tagValues": ["x", "y"]}]}
    assert [each["name"] for each in owner.ram.get_resource_shares(**by_tag)["resourceShares"]] == ["renamed"]
    owner.ram.untag_resource(resourceShareArn=arn, tagKeys=["site"])
    assert owner.ram.get_resource_shares(**by_tag)["resourceShares"] == []
    assert "shares" not in str(owner.ec2.describe_tags()["Tags"])
    for change in (
        lambda ram: ram.update_resource_share(resourceShareArn=arn, name="x"),
        lambda ram: ram.delete_resource_share(resourceShareArn=arn),
        lambda ram: ram.associate_resource_share(resourceShareArn=arn, principals=[accounts.red.id]),
        lambda ram: ram.disassociate_resource_share(resourceShareArn=arn, resourceArns=[owner.arn(target_id)]),
        lambda ram: ram.tag_resource(resourceShareArn=arn, tags=given),
    ):
        assert code_of(change, ram=consumer.ram) == "UnknownResourceException"
    assert target_id in consumer.targets()


def test_a_token_makes_one_share_and_pages_are_signed(accounts: Accounts) -> None:
    owner = accounts.blue
    target_id = owner.target()
    asked = {"name": "once", "resourceArns": [owner.arn(target_id)], "clientToken": "one"}
    first = owner.ram.create_resource_share(**asked)
    again = owner.ram.create_resource_share(**asked)
    assert again["resourceShare"] == first["resourceShare"]
    other = asked | {"name": "twice"}
    assert code_of(owner.ram.create_resource_share, **other) == "IdempotentParameterMismatchException"
    more = {owner.ram.create_resource_share(name="once")["resourceShare"]["resourceShareArn"] for _ in range(3)}
    named = {"resourceOwner": "SELF", "name": "once"}
    pages = list(owner.ram.get_paginator("get_resource_shares").paginate(**named, PaginationConfig={"PageSize": 2}))
    assert [len(page["resourceShares"]) for page in pages] == [2, 2]
    listed = {each["resourceShareArn"] for page in pages for each in page["resourceShares"]}
    assert listed == more | {first["resourceShare"]["resourceShareArn"]}
    call, token = owner.ram.get_resource_shares, pages[0]["nextToken"]
    assert call(**named, nextToken=token)
    assert code_of(call, resourceOwner="SELF", nextToken=token) == "InvalidNextTokenException"
    assert code_of(call, **named, nextToken=token[:-4] + "AAAA") == "InvalidNextTokenException"
    assert code_of(accounts.red.ram.get_resource_shares, **named, nextToken=token) == "InvalidNextTokenException"


def test_only_what_can_be_shared_is_and_only_with_whom_it_can(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    target_id, theirs = owner.target(), consumer.target()
    before = len(owner.ram.get_resource_shares(resourceOwner="SELF")["resourceShares"])

    def refused(**asked: Any) -> str:
        return code_of(owner.ram.create_resource_share, **{"name": "x", **asked})

    arn = owner.arn(target_id)
    assert refused(resourceArns=["tmt-1"]) == "MalformedArnException"
    assert refused(resourceArns=[arn.replace("target", "filter")]) == "MalformedArnException"
    assert refused(resourceArns=[arn.replace("local-1", "local-2")]) == "UnknownResourceException"
    assert refused(resourceArns=[consumer.arn(theirs)]) == "UnknownResourceException"
    assert refused(resourceArns=[owner.arn("tmt-00000000000000000")]) == "UnknownResourceException"
    assert refused(principals=["12345"]) == "InvalidParameterException"
    assert refused(principals=[owner.id]) == "InvalidParameterException"
    assert refused(principals=["arn:aws:organizations::1:organization/o-1"]) == "InvalidParameterException"
    alone = {"allowExternalPrincipals": False}
    assert refused(principals=[consumer.id], **alone) == "OperationNotPermittedException"
    assert refused(permissionArns=["arn:aws:ram::aws:permission/x"]) == "OperationNotPermittedException"
    assert refused(name="") == "InvalidParameterException"
    assert refused(tags=[{"key": "aws:x", "value": "y"}]) == "InvalidParameterException"
    assert refused(tags=[{"key": str(n), "value": ""} for n in range(51)]) == "TagLimitExceededException"
    assert refused(resourceArns=[arn], principals=["bad"]) == "InvalidParameterException"  # and nothing of it is done
    shares = owner.ram.get_resource_shares
    assert len(shares(resourceOwner="SELF")["resourceShares"]) == before
    assert code_of(shares, resourceOwner="NOBODY") == "InvalidParameterException"
    assert code_of(shares) == "MissingRequiredParameterException"
    assert code_of(shares, resourceOwner="SELF", maxResults=501) == "InvalidParameterException"
    assert code_of(owner.ram.associate_resource_share, resourceShareArn="x") == "InvalidParameterException"
    share = owner.share(target_id, **alone)
    nobody = {"resourceShareArn": share, "principals": [consumer.id]}
    assert code_of(owner.ram.associate_resource_share, **nobody) == "OperationNotPermittedException"
    assert code_of(owner.ram.disassociate_resource_share, **nobody) == "UnknownResourceException"
    owner.ram.update_resource_share(resourceShareArn=share, allowExternalPrincipals=True)
    assert owner.ram.associate_resource_share(**nobody)
    close = {"resourceShareArn": share, "allowExternalPrincipals": False}
    assert code_of(owner.ram.update_resource_share, **close) == "OperationNotPermittedException"
    assert code_of(owner.ram.enable_sharing_with_aws_organization) == "InvalidAction"


def test_whether_there_is_an_account_is_not_told(accounts: Accounts) -> None:
    owner, nobody = accounts.red, "999999999999"
    target_id = owner.target()
    share = owner.share(target_id, to=(accounts.blue,))
    [association] = owner.ram.associate_resource_share(resourceShareArn=share, principals=[nobody])[
        "resourceShareAssociations"
    ]
    of_both = owner.ram.get_resource_share_associations(associationType="PRINCIPAL", resourceShareArns=[share])
    known, unknown = (
        next(each for each in of_both["resourceShareAssociations"] if each["associatedEntity"] == id_)
        for id_ in (accounts.blue.id, nobody)
    )
    assert unknown == association
    assert known["status"] == unknown["status"] == "ASSOCIATING"


def test_the_sources_of_all_accounts_count_at_a_target(accounts: Accounts) -> None:
    owner, consumer = accounts.own, accounts.red
    target_id, full = owner.target(), "TrafficMirrorSourcesPerTargetLimitExceeded"
    consumer.accept(owner.share(target_id, to=(consumer,)))
    own_filter, their_filter = owner.filter(), consumer.filter()
    for number in range(10):
        who, filter_id = (owner, own_filter) if number % 2 else (consumer, their_filter)
        who.session(target_id, TrafficMirrorFilterId=filter_id)
    for who, filter_id in ((owner, own_filter), (consumer, their_filter)):
        asked = who.asked_session(target_id, TrafficMirrorFilterId=filter_id)
        assert code_of(who.ec2.create_traffic_mirror_session, **asked) == full
    assert consumer.session(consumer.target(), TrafficMirrorFilterId=their_filter)


def test_a_user_needs_the_right_to_the_target_of_the_other_account(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    target_id = owner.target()
    consumer.accept(owner.share(target_id, to=(consumer,)))
    asked = consumer.asked_session(target_id, DryRun=True)
    action, prefix = "ec2:CreateTrafficMirrorSession", f"arn:aws:ec2:*:{consumer.id}:"
    own = [f"{prefix}{type_}/*" for type_ in ("network-interface", "traffic-mirror-filter", "traffic-mirror-session")]
    may = consumer.user(allow(action, resource=[*own, owner.arn(target_id)])).client()
    assert code_of(may.create_traffic_mirror_session, **asked) == "DryRunOperation"
    for resource in ([*own, f"{prefix}traffic-mirror-target/*"], own):
        may_not = consumer.user(allow(action, resource=resource)).client()
        code, message = refusal_of(may_not.create_traffic_mirror_session, **asked)
        assert (code, owner.arn(target_id) in message) == (REFUSED, True)
    foreign = {"StringNotEquals": {"aws:ResourceAccount": consumer.id}}
    deny = {"Effect": "Deny", "Action": "ec2:*", "Resource": "*", "Condition": foreign}
    denied = consumer.user(allow("*"), deny).client()
    assert code_of(denied.create_traffic_mirror_session, **asked) == REFUSED
    at_home = consumer.asked_session(consumer.target(), DryRun=True)
    assert code_of(denied.create_traffic_mirror_session, **at_home) == "DryRunOperation"


def test_sharing_needs_its_own_rights(accounts: Accounts) -> None:
    owner, consumer = accounts.red, accounts.blue
    target_id, denied = owner.target(), "AccessDeniedException"
    share, other = owner.share(target_id), owner.share(target_id)
    to_blue = {"StringEquals": {"ram:Principal": consumer.id}}
    user = owner.user(
        allow("ram:AssociateResourceShare", resource=share, Condition=to_blue),
        allow("ram:CreateResourceShare", Condition={"Bool": {"ram:RequestedAllowsExternalPrincipals": "false"}}),
    ).client("ram")
    assert code_of(owner.user(allow("ec2:*")).client("ram").get_resource_shares, resourceOwner="SELF") == denied
    assert user.associate_resource_share(resourceShareArn=share, principals=[consumer.id])
    for principals in ([accounts.own.id], [consumer.id, accounts.own.id]):
        assert code_of(user.associate_resource_share, resourceShareArn=share, principals=principals) == denied
    assert code_of(user.associate_resource_share, resourceShareArn=other, principals=[consumer.id]) == denied
    assert code_of(user.delete_resource_share, resourceShareArn=share) == denied
    assert user.create_resource_share(name="inside", allowExternalPrincipals=False)
    tagged = {"name": "inside", "allowExternalPrincipals": False, "tags": [{"key": "a", "value": "b"}]}
    assert code_of(user.create_resource_share, **tagged) == denied  # without ram:TagResource
    assert code_of(user.create_resource_share, name="open", allowExternalPrincipals=True) == denied
    invitation = {"resourceShareInvitationArn": consumer.invitation(share)["resourceShareInvitationArn"]}
    reader = consumer.user(allow("ram:Get*", "ram:List*")).client("ram")
    assert reader.get_resource_share_invitations()["resourceShareInvitations"]
    assert code_of(reader.accept_resource_share_invitation, **invitation) == denied
    taker = consumer.user(allow("ram:AcceptResourceShareInvitation", resource=f"arn:aws:ram:*:{owner.id}:*"))
    assert taker.client("ram").accept_resource_share_invitation(**invitation)
    assert target_id in consumer.targets()


def test_an_account_that_is_deleted_takes_its_shares_and_invitations_along(accounts: Accounts) -> None:
    plane, owner = accounts.own.plane, accounts.red
    made = plane.own_answer("accounts/green", method="POST").json()
    green = Account(plane, made["account_id"], Someone(plane.url, made["access_key_id"], made["secret_access_key"]))
    target_id = owner.target()
    share = owner.share(target_id, to=(green, accounts.blue))
    green.ram.create_resource_share(name="empty", principals=[owner.id], tags=[{"key": "a", "value": "b"}])
    green.accept(share)
    [sent] = [
        each
        for each in owner.ram.get_resource_share_invitations()["resourceShareInvitations"]
        if each["senderAccountId"] == green.id
    ]
    assert plane.own_answer("accounts/green", method="DELETE").status_code == 204
    assert green.id not in str(owner.ram.get_resource_share_invitations())
    accept = owner.ram.accept_resource_share_invitation
    gone = code_of(accept, resourceShareInvitationArn=sent["resourceShareInvitationArn"])
    assert gone == "ResourceShareInvitationArnNotFoundException"
    left = owner.ram.get_resource_share_associations(associationType="PRINCIPAL", resourceShareArns=[share])
    assert [each["associatedEntity"] for each in left["resourceShareAssociations"]] == [accounts.blue.id]
    store = plane.opened()
    try:
        with store.read() as transaction:
            assert green.id not in str(transaction.dump())
    finally:
        store.close()

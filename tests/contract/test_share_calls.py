"""RAM's calls, by boto3 and the aws CLI against a real server: what they tell and refuse, to whom, and what is logged.
What is seen of a shared target: `test_shares`."""

import json
import os
import subprocess
import sys
from typing import Any

import boto3
import httpx
import pytest

from tests.contract.accounts import Account, Accounts
from tests.contract.plane import Plane, code_of
from tests.contract.test_audit import records
from tests.contract.test_rights import Someone, allow


@pytest.fixture(scope="module")
def accounts(plane: Plane) -> Accounts:
    return Accounts.of(plane)


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


def test_each_call_is_in_the_audit_log(accounts: Accounts) -> None:
    owner = accounts.red
    share = owner.share(clientToken="logged")
    code = code_of(owner.ram.delete_resource_share, resourceShareArn=f"{share}0")
    owner.ram.delete_resource_share(resourceShareArn=share)
    owner.ram.get_resource_shares(resourceOwner="SELF")

    def last(name: str, **wanted: Any) -> dict[str, Any]:
        logged = [each for each in records(owner.plane) if each["eventName"] == name]
        return next(each for each in reversed(logged) if wanted.items() <= each.items())

    made = last("CreateResourceShare")
    assert (made["eventSource"], made["userIdentity"]["accountId"]) == ("ram.amazonaws.com", owner.id)
    assert made["requestParameters"]["name"] == "tools"
    assert made["responseElements"]["resourceShare"]["resourceShareArn"] == share
    deleted = last("DeleteResourceShare")
    assert (deleted["requestParameters"], deleted["readOnly"]) == ({"resourceShareArn": share}, False)
    assert last("DeleteResourceShare", errorCode=code)["requestParameters"] == {"resourceShareArn": f"{share}0"}
    assert (last("GetResourceShares")["readOnly"], code) == (True, "UnknownResourceException")


def test_a_path_is_rams_and_asks_who_calls(accounts: Accounts) -> None:
    url = accounts.own.plane.url

    def answer(method: str, path: str, **headers: str) -> tuple[int, str | None]:
        told = httpx.request(method, f"{url}{path}", headers=headers, content=b"{}", trust_env=False, timeout=30)
        return told.status_code, told.headers.get("x-amzn-errortype")

    assert answer("POST", "/getresourceshares") == (403, "MissingAuthenticationToken")
    assert answer("DELETE", "/deleteresourceshare?resourceShareArn=x") == (403, "MissingAuthenticationToken")
    assert answer("GET", "/getresourceshares")[0] == 405
    assert answer("POST", "/nosuchpath")[0] == 404
    tampered = Someone(url, accounts.red.root.access_key_id, "wrong").client("ram")
    assert code_of(tampered.get_resource_shares, resourceOwner="SELF") == "SignatureDoesNotMatch"
    ec2 = accounts.own.root.client()
    keys = {"aws_access_key_id": accounts.own.root.access_key_id, "aws_secret_access_key": accounts.own.root.secret}
    by_path = boto3.client("ec2", endpoint_url=f"{url}/getresourceshares", region_name="local-1", **keys)
    assert ec2.describe_vpcs()["Vpcs"]
    assert code_of(by_path.describe_vpcs) == "InvalidAction"


def test_the_aws_cli_shares_too(accounts: Accounts) -> None:
    owner = accounts.own

    def aws(*words: str) -> Any:
        asked = [sys.executable, "-m", "awscli", "ram", *words, "--output", "json"]
        known = {**os.environ, **owner.plane.environment}
        done = subprocess.run(asked, env=known, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = aws("create-resource-share", "--name", "by-cli", "--resource-arns", owner.arn(owner.target()))
    arn = made["resourceShare"]["resourceShareArn"]
    assert aws("delete-resource-share", "--resource-share-arn", arn) == {"returnValue": True}

"""Targets that one account shares with another, by boto3 against a real server: who sees and uses them, and until when.
What must not be stands below what must. RAM's own calls: `test_share_calls`."""

from pathlib import Path
from typing import Any

import pytest

from pktmirror.control.placement import TARGET_NOT_SHARED
from pktmirror.desired import Destination, Undeliverable
from tests.contract.accounts import Account, Accounts
from tests.contract.plane import HOST, Plane, code_of, refusal_of
from tests.contract.test_apply import run
from tests.contract.test_rights import allow

TARGET_GONE = "InvalidTrafficMirrorTargetId.NotFound"
SESSION_GONE = "InvalidTrafficMirrorSessionId.NotFound"
REFUSED = "UnauthorizedOperation"


@pytest.fixture(scope="module")
def accounts(plane: Plane) -> Accounts:
    return Accounts.of(plane)


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


DOCUMENT = """
document: lent
filters:
  all: {{}}
sessions:
  web: {{source: {source}, target: {target}, filter: all}}
"""


def test_a_document_names_a_shared_target_by_its_id(accounts: Accounts, tmp_path: Path) -> None:
    owner, consumer = accounts.red, accounts.own
    plane, target_id, lent, file = owner.plane, owner.target(), consumer.target(), tmp_path / "lent.yaml"
    file.write_text(DOCUMENT.format(source=consumer.interface(), target=target_id))
    assert "does not exist" in str(run(plane, "apply", file, "--yes").exception)
    owner.accept(consumer.share(lent, to=(owner,)))
    foreign = owner.session(lent)
    consumer.accept(owner.share(target_id, to=(consumer,)))
    applied = run(plane, "apply", file, "--yes")
    assert applied.exit_code == 0, applied.output
    [session] = [each for each in consumer.sessions().values() if each["TrafficMirrorTargetId"] == target_id]
    assert session["OwnerId"] == consumer.id
    exported = run(plane, "export", "--document", "lent").stdout
    again = tmp_path / "again.yaml"
    again.write_text(exported)
    assert f"target: {target_id}" in exported
    assert f"id: {target_id}" not in exported
    assert lent in exported
    assert foreign not in exported
    unchanged = run(plane, "apply", again, "--yes")
    assert (unchanged.exit_code, consumer.sessions()[session["TrafficMirrorSessionId"]]) == (0, session)
    file.write_text("document: lent")
    assert run(plane, "apply", file, "--yes", "--prune").exit_code == 0
    assert session["TrafficMirrorSessionId"] not in consumer.sessions()
    assert foreign in owner.sessions()

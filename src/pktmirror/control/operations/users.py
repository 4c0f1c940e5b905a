"""IAM: the users of an account, their access keys, and the policies that say what they may do.

The subset of IAM's API that this takes, with IAM's codes. A policy that is not understood is refused when it is put.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from pktmirror.aws import ApiError, errors
from pktmirror.control.access_keys import new_access_key, new_user_id
from pktmirror.control.operations.operation import Context, Operation, Request, Result
from pktmirror.control.principals import PARTITION
from pktmirror.control.records import AccessKeyRecord, UserPolicyRecord, UserRecord
from pktmirror.iam import Malformed, parse

KEYS_PER_USER_MAX = 2
POLICIES_PER_USER_MAX = 10
USERS_PER_ACCOUNT_MAX = 5000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[\w+=,.@-]+$")]
PolicyName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[\w+=,.@-]+$")]
_ASCII = re.compile(r"[\x21-\x7e]+")


class CreateUser(Request, frozen=True, kw_only=True):
    user_name: Name


class GetUser(Request, frozen=True, kw_only=True):
    user_name: Name | None = None


class ListUsers(Request, frozen=True, kw_only=True):
    path_prefix: str | None = None
    max_items: int | None = None
    marker: str | None = None


class DeleteUser(Request, frozen=True, kw_only=True):
    user_name: Name


class CreateAccessKey(Request, frozen=True, kw_only=True):
    user_name: Name | None = None


class ListAccessKeys(Request, frozen=True, kw_only=True):
    user_name: Name | None = None
    max_items: int | None = None
    marker: str | None = None


class UpdateAccessKey(Request, frozen=True, kw_only=True):
    user_name: Name | None = None
    access_key_id: str
    status: Literal["Active", "Inactive"]


class DeleteAccessKey(Request, frozen=True, kw_only=True):
    user_name: Name | None = None
    access_key_id: str


class PutUserPolicy(Request, frozen=True, kw_only=True):
    user_name: Name
    policy_name: PolicyName
    policy_document: str


class GetUserPolicy(Request, frozen=True, kw_only=True):
    user_name: Name
    policy_name: PolicyName


class ListUserPolicies(Request, frozen=True, kw_only=True):
    user_name: Name
    max_items: int | None = None
    marker: str | None = None


class DeleteUserPolicy(Request, frozen=True, kw_only=True):
    user_name: Name
    policy_name: PolicyName


def create(request: CreateUser, context: Context) -> Result:
    users = context.transaction.users
    if _ASCII.fullmatch(request.user_name) is None:
        raise ApiError("ValidationError", "A user's name is of letters, digits and + = , . @ _ -")
    # As IAM has it: two names that differ in case only would be mistaken for each other.
    if any(user.name.lower() == request.user_name.lower() for user in users.where()):
        raise ApiError("EntityAlreadyExists", f"User with name {request.user_name} already exists.", 409)
    if users.count() >= USERS_PER_ACCOUNT_MAX:
        raise ApiError("LimitExceeded", f"Cannot exceed quota for UsersPerAccount: {USERS_PER_ACCOUNT_MAX}", 409)
    record = UserRecord(new_user_id(), request.user_name, context.now_s)
    users.put(record)
    return {"User": _described(record, context)}


def get(request: GetUser, context: Context) -> Result:
    user_id = _user_id(request.user_name, context)
    record = context.transaction.users.get(user_id) if user_id else None
    if record is not None:
        return {"User": _described(record, context)}
    principal = context.principal
    root = {"UserId": principal.account_id, "UserName": "root", "Path": "/", "Arn": principal.arn}
    return {"User": root | {"CreateDate": datetime.fromtimestamp(0, UTC)}}


def list_(_request: ListUsers, context: Context) -> Result:
    records = sorted(context.transaction.users.where(), key=lambda record: record.name)
    return {"Users": [_described(record, context) for record in records], "IsTruncated": False}


def delete(request: DeleteUser, context: Context) -> Result:
    transaction, user_id = context.transaction, require(context, request.user_name).user_id
    for what, count in (
        ("access keys", transaction.access_keys.count(user_id=user_id)),
        ("policies", transaction.user_policies.count(user_id=user_id)),
    ):
        if count:
            raise ApiError("DeleteConflict", f"Cannot delete entity, must delete {what} first.", 409)
    transaction.users.remove(user_id)
    return {}


def create_key(request: CreateAccessKey, context: Context) -> Result:
    """The one answer in which the secret stands."""
    keys, user_id = context.transaction.access_keys, _user_id(request.user_name, context)
    if keys.count(user_id=user_id) >= KEYS_PER_USER_MAX:
        raise ApiError("LimitExceeded", f"Cannot exceed quota for AccessKeysPerUser: {KEYS_PER_USER_MAX}", 409)
    record, secret = new_access_key(context.seal, context.now_s, user_id=user_id, owner=context.principal.owner)
    keys.put(record)
    return {"AccessKey": _described_key(record, context) | {"SecretAccessKey": secret}}


def list_keys(request: ListAccessKeys, context: Context) -> Result:
    records = context.transaction.access_keys.where(user_id=_user_id(request.user_name, context))
    return {"AccessKeyMetadata": [_described_key(record, context) for record in records], "IsTruncated": False}


def update_key(request: UpdateAccessKey, context: Context) -> Result:
    record = _require_key(request.access_key_id, request.user_name, context)
    if request.status == "Inactive":
        _keep_a_way_in(record, context)
    context.transaction.access_keys.put(replace(record, active=request.status == "Active"))
    return {}


def delete_key(request: DeleteAccessKey, context: Context) -> Result:
    record = _require_key(request.access_key_id, request.user_name, context)
    _keep_a_way_in(record, context)
    context.transaction.access_keys.remove(record.access_key_id)
    return {}


def put_policy(request: PutUserPolicy, context: Context) -> Result:
    policies, user = context.transaction.user_policies, require(context, request.user_name)
    try:
        parse(request.policy_document)
    except Malformed as error:
        raise ApiError("MalformedPolicyDocument", str(error)) from None
    key = f"{user.user_id}/{request.policy_name}"
    if policies.get(key) is None and policies.count(user_id=user.user_id) >= POLICIES_PER_USER_MAX:
        raise ApiError("LimitExceeded", f"Cannot exceed {POLICIES_PER_USER_MAX} policies of a user", 409)
    policies.put(UserPolicyRecord(key, user.user_id, request.policy_name, request.policy_document))
    return {}


def get_policy(request: GetUserPolicy, context: Context) -> Result:
    record = _require_policy(request.user_name, request.policy_name, context)
    return {"UserName": request.user_name, "PolicyName": record.name, "PolicyDocument": record.document}


def list_policies(request: ListUserPolicies, context: Context) -> Result:
    records = context.transaction.user_policies.where(user_id=require(context, request.user_name).user_id)
    return {"PolicyNames": sorted(record.name for record in records), "IsTruncated": False}


def delete_policy(request: DeleteUserPolicy, context: Context) -> Result:
    record = _require_policy(request.user_name, request.policy_name, context)
    context.transaction.user_policies.remove(record.policy_key)
    return {}


def require(context: Context, name: str) -> UserRecord:
    found = context.transaction.users.where(name=name)
    if not found:
        raise ApiError("NoSuchEntity", f"The user with name {errors.echo(name)} cannot be found.")
    return found[0]


def _user_id(name: str | None, context: Context) -> str:
    """Of the user that is named, or of the caller: empty for the root."""
    return context.principal.user_id if name is None else require(context, name).user_id


def _require_key(access_key_id: str, user_name: str | None, context: Context) -> AccessKeyRecord:
    record = context.transaction.access_keys.get(access_key_id)
    if record is None or record.user_id != _user_id(user_name, context):
        raise ApiError("NoSuchEntity", f"The Access Key with id {errors.echo(access_key_id)} cannot be found.")
    return record


def _require_policy(user_name: str, name: str, context: Context) -> UserPolicyRecord:
    record = context.transaction.user_policies.get(f"{require(context, user_name).user_id}/{name}")
    if record is None:
        raise ApiError("NoSuchEntity", f"The user policy with name {errors.echo(name)} cannot be found.")
    return record


def _keep_a_way_in(record: AccessKeyRecord, context: Context) -> None:
    """The root's last active key stays: without it nobody could make another."""
    if record.user_id or not record.active:
        return
    if context.transaction.access_keys.count(user_id="", active=True) < 2:
        raise ApiError(
            "DeleteConflict",
            f"{record.access_key_id} is the last active key of the account's root. Make another one first",
            409,
        )


def _described(record: UserRecord, context: Context) -> dict[str, Any]:
    return {
        "Path": "/",
        "UserName": record.name,
        "UserId": record.user_id,
        "Arn": f"arn:{PARTITION}:iam::{context.account_id}:user/{record.name}",
        "CreateDate": datetime.fromtimestamp(int(record.created_at_s), UTC),
    }


def _described_key(record: AccessKeyRecord, context: Context) -> dict[str, Any]:
    user = context.transaction.users.get(record.user_id) if record.user_id else None
    return {
        "UserName": "root" if user is None else user.name,
        "AccessKeyId": record.access_key_id,
        "Status": "Active" if record.active else "Inactive",
        "CreateDate": datetime.fromtimestamp(int(record.created_at_s), UTC),
    }


OPERATIONS: Mapping[str, Operation[Any]] = {
    "CreateUser": Operation(CreateUser, create, writes=True),
    "GetUser": Operation(GetUser, get),
    "ListUsers": Operation(ListUsers, list_),
    "DeleteUser": Operation(DeleteUser, delete, writes=True),
    "CreateAccessKey": Operation(CreateAccessKey, create_key, writes=True),
    "ListAccessKeys": Operation(ListAccessKeys, list_keys),
    "UpdateAccessKey": Operation(UpdateAccessKey, update_key, writes=True),
    "DeleteAccessKey": Operation(DeleteAccessKey, delete_key, writes=True),
    "PutUserPolicy": Operation(PutUserPolicy, put_policy, writes=True),
    "GetUserPolicy": Operation(GetUserPolicy, get_policy),
    "ListUserPolicies": Operation(ListUserPolicies, list_policies),
    "DeleteUserPolicy": Operation(DeleteUserPolicy, delete_policy, writes=True),
}

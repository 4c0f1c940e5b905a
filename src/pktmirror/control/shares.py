"""Resource shares: how things are called there, and what has become of an invitation. Pure.

From RAM's API reference and user guide. All accounts count as of different organisations, so each has to accept a share
before anything of it is its (docs/decisions/0026).
"""

import re
from dataclasses import dataclass
from enum import Enum

from pktmirror.aws import ApiError, errors
from pktmirror.control.principals import PARTITION
from pktmirror.control.records import InvitationRecord

INVITATION_S = 7 * 24 * 3600.0
"""For as long an invitation waits for an answer."""

TARGET_TYPE = "ec2:TrafficMirrorTarget"
"""The one type of what can be shared here."""

SHARES_PER_ACCOUNT_MAX = 5000
ENTRIES_PER_SHARE_MAX = 5000
"""Targets, and likewise accounts."""

_ARN = re.compile(r"arn:[a-z0-9-]+:([a-z0-9-]+):([a-z0-9-]*):([0-9]{12}):([a-z-]+)/([A-Za-z0-9-]{1,64})")
_ACCOUNT_ID = re.compile(r"[0-9]{12}")


class Answer(Enum):
    """What has become of an invitation, as RAM calls it."""

    PENDING = "PENDING"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"


def answer(invitation: InvitationRecord, now_s: float) -> Answer:
    if invitation.accepted is not None:
        return Answer.ACCEPTED if invitation.accepted else Answer.REJECTED
    return Answer.EXPIRED if now_s - invitation.invited_at_s >= INVITATION_S else Answer.PENDING


def association(answer_: Answer) -> tuple[str, str | None]:
    """How an account stands in a share, and why, by what became of its invitation."""
    match answer_:
        case Answer.PENDING:
            return "ASSOCIATING", None
        case Answer.ACCEPTED:
            return "ASSOCIATED", None
        case Answer.REJECTED:
            return "FAILED", "The invitation was rejected"
        case Answer.EXPIRED:
            return "FAILED", "The invitation has expired"


def is_over(answer_: Answer) -> bool:
    """Whether the account may be invited again."""
    return answer_ in (Answer.REJECTED, Answer.EXPIRED)


def refuse_answered(answer_: Answer, arn: str) -> None:
    """An invitation is answered once, and in time."""
    if answer_ is not Answer.PENDING:
        name = "Expired" if answer_ is Answer.EXPIRED else f"Already{answer_.value.title()}"
        raise ApiError(
            f"ResourceShareInvitation{name}Exception",
            f"The invitation {arn} is {answer_.value.lower()}. The owner of the share can associate the account again",
        )


@dataclass(frozen=True, slots=True)
class Arns:
    """What things are called in a region. Accounts are numbers here."""

    region: str

    def share(self, account_id: str, share_id: str) -> str:
        return f"arn:{PARTITION}:ram:{self.region}:{account_id}:resource-share/{share_id}"

    def invitation(self, account_id: str, invitation_id: str) -> str:
        """``account_id`` is the sender's."""
        return f"arn:{PARTITION}:ram:{self.region}:{account_id}:resource-share-invitation/{invitation_id}"

    def target(self, account_id: str, target_id: str) -> str:
        return f"arn:{PARTITION}:ec2:{self.region}:{account_id}:traffic-mirror-target/{target_id}"


def id_in(arn: str, service: str, type_: str) -> str:
    """The id in an ARN of a type; whether it is that of something there, its caller compares. MalformedArnException."""
    found = _ARN.fullmatch(arn)
    if found is None:
        raise _malformed(f"The specified resource ARN {errors.echo(arn)} is not valid. Verify the ARN and try again")
    if (found[1], found[4]) != (service, type_):
        raise _malformed(f"{errors.echo(arn)} is not the ARN of a {type_} of {service}")
    return found[5]


def target_id_in(arn: str) -> str:
    """The id in the ARN of what is to be shared."""
    found = _ARN.fullmatch(arn)
    if found is not None and (found[1], found[4]) != ("ec2", "traffic-mirror-target"):
        raise _malformed(
            f"You cannot share the selected resource type: {errors.echo(arn)}. Shared here are traffic mirror targets"
        )
    return id_in(arn, "ec2", "traffic-mirror-target")


def receiver(principal: str, own_account_id: str) -> str:
    """The number of the account that a principal is. Whether there is one, is not told (docs/decisions/0026)."""
    if principal.startswith("arn:"):
        raise invalid(
            f"Principal ID {errors.echo(principal)} cannot be shared with here: give the number of an account. There "
            "are no organizations, and users and roles of other accounts are let in by their own account"
        )
    if _ACCOUNT_ID.fullmatch(principal) is None:
        raise invalid(f"Principal ID {errors.echo(principal)} is malformed. Verify the ID and try again.")
    if principal == own_account_id:
        raise invalid(f"Principal ID {principal} is the owner of the resource share")
    return principal


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)


def not_permitted(message: str) -> ApiError:
    return ApiError("OperationNotPermittedException", message)


def unknown(arn: str, what: str = "ResourceShare") -> ApiError:
    return ApiError("UnknownResourceException", f"{what} {errors.echo(arn)} could not be found.")


def _malformed(message: str) -> ApiError:
    return ApiError("MalformedArnException", message)

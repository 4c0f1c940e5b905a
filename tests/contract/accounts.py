"""Three accounts of one control plane, and what each can mirror with."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.contract.plane import Plane, found
from tests.contract.test_rights import Someone, policy

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
            self.unused = self.plane.find(
                *(found(f"shares{number}", f"10.0.{number // 250}.{number % 250 + 1}") for number in numbers)
            )
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

    @classmethod
    def of(cls, plane: Plane) -> "Accounts":
        known = plane.environment
        own = Someone(plane.url, known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"])
        others = []
        for name in ("red", "blue"):
            made = plane.own_answer(f"accounts/{name}", method="POST").json()
            root = Someone(plane.url, made["access_key_id"], made["secret_access_key"])
            others.append(Account(plane, made["account_id"], root, name))
        return cls(Account(plane, plane.own("status")["account_id"], own), *others)

    @property
    def pairs(self) -> list[tuple[Account, Account]]:
        """Owner and consumer: the operator's account, which the store knows by no number, in either part."""
        return [(self.red, self.blue), (self.own, self.red), (self.red, self.own)]

"""Terraform's side of a conversation: what its AWS provider asks of each traffic mirror resource, and what it makes of
the answers (section 2.4 of the specification).

Neither Terraform nor its provider runs here: this plays their calls, through boto3, in their order, and compares as
they compare. Attributes have the provider's names. A string, number or list that an answer lacks is empty or 0 in the
state, as in the provider's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from botocore.exceptions import ClientError

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Attribute:
    """``empty`` is what a state holds where there is nothing. A change of what is ``fixed`` makes the resource anew;
    what is ``computed`` too may differ from a configuration that does not name it."""

    empty: Any = ""
    fixed: bool = False
    computed: bool = False


class Resource(ABC):
    """One resource of a configuration, and its state: None until it is applied, and when it is gone."""

    schema: ClassVar[Mapping[str, Attribute]]
    not_found: ClassVar[str]

    def __init__(self, ec2: Any) -> None:
        self.ec2 = ec2
        self.id = ""
        self.state: Attributes | None = None

    def plan(self, config: Attributes) -> dict[str, tuple[Any, Any]]:
        """What would change, from what to what: nothing in a configuration that was applied."""
        assert config.keys() <= self.schema.keys()
        if self.state is None:
            return {name: (None, value) for name, value in config.items()}
        return {
            name: (self.state[name], config.get(name, attribute.empty))
            for name, attribute in self.schema.items()
            if (name in config or not attribute.computed) and self.state[name] != config.get(name, attribute.empty)
        }

    def apply(self, config: Attributes) -> None:
        """Make it so, and read it again."""
        changes = self.plan(config)
        if self.state is not None and any(self.schema[name].fixed for name in changes):
            self.destroy()
        if self.state is None:
            self.id = self.create({name: config.get(name, attribute.empty) for name, attribute in self.schema.items()})
        elif changes:
            self.update({name: after for name, (_before, after) in changes.items() if name != "tags"})
            if "tags" in changes:
                self._change_tags(*changes["tags"])
        self.refresh()
        assert self.state is not None, f"{self.id} was made and cannot be read"

    def refresh(self) -> None:
        try:
            self.state = self.read()
        except ClientError as error:
            if error.response["Error"]["Code"] != self.not_found:
                raise
            self.state = None

    def destroy(self) -> None:
        """Delete it; that it is gone already is no error."""
        try:
            self.delete()
        except ClientError as error:
            if error.response["Error"]["Code"] != self.not_found:
                raise
        self.state = None

    def take_over(self, import_id: str) -> None:
        """`terraform import`: the state of what was made by somebody else."""
        self.id = import_id
        self.refresh()

    @abstractmethod
    def create(self, config: Attributes) -> str: ...

    @abstractmethod
    def read(self) -> Attributes: ...

    @abstractmethod
    def update(self, changes: Attributes) -> None: ...

    @abstractmethod
    def delete(self) -> None: ...

    def _change_tags(self, before: dict[str, str], after: dict[str, str]) -> None:
        """What is gone goes first, by key and value; then what is new or has another value."""
        removed = {key: value for key, value in before.items() if key not in after}
        if removed:
            self.ec2.delete_tags(Resources=[self.id], Tags=listed(removed))
        added = {key: value for key, value in after.items() if before.get(key) != value}
        if added:
            self.ec2.create_tags(Resources=[self.id], Tags=listed(added))


class Target(Resource):
    not_found = "InvalidTrafficMirrorTargetId.NotFound"
    schema: ClassVar = {
        "description": Attribute(fixed=True),
        "gateway_load_balancer_endpoint_id": Attribute(fixed=True),
        "network_interface_id": Attribute(fixed=True),
        "network_load_balancer_arn": Attribute(fixed=True),
        "owner_id": Attribute(computed=True),
        "tags": Attribute({}),
    }
    _members: ClassVar = {
        "description": "Description",
        "gateway_load_balancer_endpoint_id": "GatewayLoadBalancerEndpointId",
        "network_interface_id": "NetworkInterfaceId",
        "network_load_balancer_arn": "NetworkLoadBalancerArn",
        "owner_id": "OwnerId",
    }

    def create(self, config: Attributes) -> str:
        made = self.ec2.create_traffic_mirror_target(**given(config, self._members), **of_create("target", config))
        return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])

    def read(self) -> Attributes:
        [found] = self.ec2.describe_traffic_mirror_targets(TrafficMirrorTargetIds=[self.id])["TrafficMirrorTargets"]
        assert found["TrafficMirrorTargetId"] == self.id
        return {**read(found, self._members, self.schema), "tags": tags_of(found)}

    def update(self, changes: Attributes) -> None:
        assert not changes, "nothing of a target but its tags can change"

    def delete(self) -> None:
        self.ec2.delete_traffic_mirror_target(TrafficMirrorTargetId=self.id)


class Filter(Resource):
    not_found = "InvalidTrafficMirrorFilterId.NotFound"
    schema: ClassVar = {
        "description": Attribute(fixed=True),
        "network_services": Attribute([]),
        "tags": Attribute({}),
    }

    def create(self, config: Attributes) -> str:
        """The network services take a second call."""
        asked = {**given(config, {"description": "Description"}), **of_create("filter", config)}
        filter_id = str(self.ec2.create_traffic_mirror_filter(**asked)["TrafficMirrorFilter"]["TrafficMirrorFilterId"])
        if config["network_services"]:
            self.ec2.modify_traffic_mirror_filter_network_services(
                TrafficMirrorFilterId=filter_id, AddNetworkServices=config["network_services"]
            )
        return filter_id

    def read(self) -> Attributes:
        [found] = self.ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[self.id])["TrafficMirrorFilters"]
        return {
            "description": found.get("Description", ""),
            "network_services": found["NetworkServices"],
            "tags": tags_of(found),
        }

    def update(self, changes: Attributes) -> None:
        if "network_services" in changes:
            assert self.state is not None
            before, after = set(self.state["network_services"]), set(changes["network_services"])
            asked = {"AddNetworkServices": sorted(after - before), "RemoveNetworkServices": sorted(before - after)}
            self.ec2.modify_traffic_mirror_filter_network_services(
                TrafficMirrorFilterId=self.id, **{name: services for name, services in asked.items() if services}
            )

    def delete(self) -> None:
        self.ec2.delete_traffic_mirror_filter(TrafficMirrorFilterId=self.id)


class FilterRule(Resource):
    """It has no tags in the provider, and is read out of its filter; ``import_id`` is FILTER:RULE."""

    not_found = "InvalidTrafficMirrorFilterRuleId.NotFound"
    schema: ClassVar = {
        "description": Attribute(),
        "destination_cidr_block": Attribute(),
        "destination_port_range": Attribute(None),
        "protocol": Attribute(0),
        "rule_action": Attribute(),
        "rule_number": Attribute(0),
        "source_cidr_block": Attribute(),
        "source_port_range": Attribute(None),
        "traffic_direction": Attribute(),
        "traffic_mirror_filter_id": Attribute(fixed=True),
    }
    _members: ClassVar = {name: "".join(part.title() for part in name.split("_")) for name in schema}
    _ranges = ("destination_port_range", "source_port_range")
    _fields: ClassVar = {
        "description": "description",
        "protocol": "protocol",
        "destination_port_range": "destination-port-range",
        "source_port_range": "source-port-range",
    }

    def __init__(self, ec2: Any) -> None:
        super().__init__(ec2)
        self._filter_id = ""

    def create(self, config: Attributes) -> str:
        self._filter_id = config["traffic_mirror_filter_id"]
        asked = {**given(config, self._members), "ClientToken": str(uuid4())}
        made = self.ec2.create_traffic_mirror_filter_rule(**asked)["TrafficMirrorFilterRule"]
        return str(made["TrafficMirrorFilterRuleId"])

    def read(self) -> Attributes:
        asked = {"TrafficMirrorFilterIds": [self._filter_id]}
        try:
            [found] = self.ec2.describe_traffic_mirror_filters(**asked)["TrafficMirrorFilters"]
        except ClientError as error:
            if error.response["Error"]["Code"] == Filter.not_found:  # gone with its filter
                error.response["Error"]["Code"] = self.not_found
            raise
        for rule in [*found["IngressFilterRules"], *found["EgressFilterRules"]]:
            if rule["TrafficMirrorFilterRuleId"] == self.id:
                return read(rule, self._members, self.schema)
        raise ClientError({"Error": {"Code": self.not_found, "Message": "not in its filter"}}, "Read")

    def update(self, changes: Attributes) -> None:
        """All that changed in one call; with a port range goes the protocol, changed or not."""
        assert self.state is not None
        asked = {self._members[name]: value for name, value in changes.items() if not is_removed(name, value, self)}
        removed = [self._fields[name] for name, value in changes.items() if is_removed(name, value, self)]
        if any(changes.get(name) is not None for name in self._ranges) and "protocol" not in removed:
            asked["Protocol"] = changes.get("protocol", self.state["protocol"])
        more = {"RemoveFields": removed} if removed else {}
        self.ec2.modify_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=self.id, **asked, **more)

    def delete(self) -> None:
        self.ec2.delete_traffic_mirror_filter_rule(TrafficMirrorFilterRuleId=self.id)

    def take_over(self, import_id: str) -> None:
        self._filter_id, _, rule_id = import_id.partition(":")
        super().take_over(rule_id)


class Session(Resource):
    not_found = "InvalidTrafficMirrorSessionId.NotFound"
    schema: ClassVar = {
        "description": Attribute(),
        "network_interface_id": Attribute(fixed=True),
        "owner_id": Attribute(computed=True),
        "packet_length": Attribute(0, computed=True),
        "session_number": Attribute(0),
        "traffic_mirror_filter_id": Attribute(),
        "traffic_mirror_target_id": Attribute(),
        "virtual_network_id": Attribute(0, computed=True),
        "tags": Attribute({}),
    }
    _members: ClassVar = {name: "".join(part.title() for part in name.split("_")) for name in schema if name != "tags"}
    _fields: ClassVar = {
        "description": "description",
        "packet_length": "packet-length",
        "virtual_network_id": "virtual-network-id",
    }

    def create(self, config: Attributes) -> str:
        asked = {**given(config, self._members), **of_create("session", config)}
        return str(self.ec2.create_traffic_mirror_session(**asked)["TrafficMirrorSession"]["TrafficMirrorSessionId"])

    def read(self) -> Attributes:
        asked = {"TrafficMirrorSessionIds": [self.id]}
        [found] = self.ec2.describe_traffic_mirror_sessions(**asked)["TrafficMirrorSessions"]
        assert found["TrafficMirrorSessionId"] == self.id
        return {**read(found, self._members, self.schema), "tags": tags_of(found)}

    def update(self, changes: Attributes) -> None:
        if not changes:
            return
        asked = {self._members[name]: value for name, value in changes.items() if not is_removed(name, value, self)}
        removed = [self._fields[name] for name, value in changes.items() if is_removed(name, value, self)]
        more = {"RemoveFields": removed} if removed else {}
        self.ec2.modify_traffic_mirror_session(TrafficMirrorSessionId=self.id, **asked, **more)

    def delete(self) -> None:
        self.ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=self.id)


class FormerSession(Session):
    """As the provider had it until it took the packet length for computed: leaving it out removes it."""

    schema: ClassVar = {**Session.schema, "packet_length": Attribute(0)}


def is_removed(name: str, value: Any, resource: Resource) -> bool:
    return bool(value == resource.schema[name].empty)


def given(config: Attributes, members: Mapping[str, str]) -> Attributes:
    """What a create call is given: nothing for what is empty."""
    return {member: config[name] for name, member in members.items() if config[name]}


def of_create(type_: str, config: Attributes) -> Attributes:
    """What every create call has: a token, and the tags where there are any."""
    specification = {"ResourceType": f"traffic-mirror-{type_}", "Tags": listed(config["tags"])}
    return {"ClientToken": str(uuid4()), **({"TagSpecifications": [specification]} if config["tags"] else {})}


def read(found: Attributes, members: Mapping[str, str], schema: Mapping[str, Attribute]) -> Attributes:
    return {name: found.get(member, schema[name].empty) for name, member in members.items()}


def listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_of(found: Attributes) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found["Tags"]}

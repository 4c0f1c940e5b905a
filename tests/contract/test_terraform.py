"""Fact 49: what Terraform's provider needs of each resource, played by `terraform.py`, which says how.

A configuration is applied, and then there is nothing left to plan, at once and after a refresh.
"""

from typing import Any

import pytest

from tests.contract.conftest import NLB, Maker
from tests.contract.plane import code_of
from tests.contract.terraform import Filter, FilterRule, FormerSession, Resource, Session, Target

pytestmark = pytest.mark.fact(49)


def settle(resource: Resource, **config: Any) -> dict[str, Any]:
    """The state after an apply that leaves nothing to plan."""
    resource.apply(config)
    assert resource.plan(config) == {}
    applied = resource.state
    resource.refresh()
    assert resource.state == applied
    assert resource.state is not None
    return dict(resource.state)


def imported(kind: type[Resource], ec2: Any, import_id: str) -> dict[str, Any]:
    taken = kind(ec2)
    taken.take_over(import_id)
    assert taken.state is not None
    return taken.state


def test_a_target(ec2: Any, make: Maker) -> None:
    target = Target(ec2)
    interface_id = make.interface()
    state = settle(target, network_interface_id=interface_id, description="t", tags={"Name": "t", "a": "1"})
    assert state == {
        "description": "t",
        "gateway_load_balancer_endpoint_id": "",
        "network_interface_id": interface_id,
        "network_load_balancer_arn": "",
        "owner_id": state["owner_id"],
        "tags": {"Name": "t", "a": "1"},
    }
    first = target.id
    state = settle(target, network_interface_id=interface_id, description="t", tags={"a": "2", "b": ""})
    assert (target.id, state["tags"]) == (first, {"a": "2", "b": ""})
    assert settle(target, network_interface_id=interface_id, description="t")["tags"] == {}
    assert imported(Target, ec2, target.id) == target.state
    for changed in (
        {"network_interface_id": interface_id, "description": "u"},
        {"network_load_balancer_arn": NLB},
        {"gateway_load_balancer_endpoint_id": "vpce-0123456789abcdef0"},
    ):
        before = target.id
        settle(target, **changed)
        assert target.id != before, "it is made anew"
        assert code_of(ec2.delete_traffic_mirror_target, TrafficMirrorTargetId=before) == Target.not_found
    target.destroy()
    target.refresh()
    assert target.state is None


def test_a_filter(ec2: Any) -> None:
    filter_ = Filter(ec2)
    assert settle(filter_) == {"description": "", "network_services": [], "tags": {}}
    first = filter_.id
    settle(filter_, network_services=["amazon-dns"], tags={"Name": "f"})
    assert settle(filter_, tags={"Name": "g"}) == {"description": "", "network_services": [], "tags": {"Name": "g"}}
    assert filter_.id == first
    state = settle(filter_, description="d", network_services=["amazon-dns"])
    assert filter_.id != first
    assert imported(Filter, ec2, filter_.id) == state
    filter_.destroy()
    filter_.destroy()
    filter_.refresh()
    assert filter_.state is None


MINIMAL = {
    "traffic_direction": "ingress",
    "rule_number": 1,
    "rule_action": "accept",
    "destination_cidr_block": "10.0.0.0/8",
    "source_cidr_block": "0.0.0.0/0",
}
FULL = MINIMAL | {
    "description": "d",
    "protocol": 6,
    "destination_port_range": {"FromPort": 10000, "ToPort": 10001},
    "source_port_range": {"FromPort": 0, "ToPort": 64000},
}
NOTHING = {"description": "", "protocol": 0, "destination_port_range": None, "source_port_range": None}


def test_a_rule_from_minimal_to_full_and_back(ec2: Any, make: Maker) -> None:
    rule, in_filter = FilterRule(ec2), {"traffic_mirror_filter_id": make.filter()}
    assert settle(rule, **in_filter, **MINIMAL) == in_filter | MINIMAL | NOTHING
    first = rule.id
    for more in (
        FULL,
        FULL | {"rule_number": 2, "traffic_direction": "egress", "rule_action": "reject"},
        FULL | {"protocol": 17, "destination_port_range": {"FromPort": 53, "ToPort": 53}},
        FULL | {"source_port_range": {"FromPort": 1, "ToPort": 1}},
        FULL | {"destination_cidr_block": "2001:db8::/32", "source_cidr_block": "::/0"},
    ):
        assert settle(rule, **in_filter, **more) == in_filter | more
    assert settle(rule, **in_filter, **MINIMAL) == in_filter | MINIMAL | NOTHING, "optionals removed"
    assert rule.id == first
    assert imported(FilterRule, ec2, f"{in_filter['traffic_mirror_filter_id']}:{rule.id}") == rule.state


@pytest.mark.parametrize("field", ["description", "destination_port_range", "source_port_range"])
def test_one_optional_of_a_rule_is_removed(ec2: Any, make: Maker, field: str) -> None:
    rule, in_filter = FilterRule(ec2), {"traffic_mirror_filter_id": make.filter()}
    settle(rule, **in_filter, **FULL)
    less = {name: value for name, value in FULL.items() if name != field}
    assert settle(rule, **in_filter, **less) == in_filter | less | {field: NOTHING[field]}


def test_a_rule_moves_to_another_filter_by_being_made_anew(ec2: Any, make: Maker) -> None:
    rule, one, other = FilterRule(ec2), make.filter(), make.filter()
    settle(rule, traffic_mirror_filter_id=one, **MINIMAL)
    settle(rule, traffic_mirror_filter_id=other, **MINIMAL)
    [left] = ec2.describe_traffic_mirror_filters(TrafficMirrorFilterIds=[one])["TrafficMirrorFilters"]
    assert left["IngressFilterRules"] == []


def test_a_rule_disappears_alone_or_with_its_filter(ec2: Any, make: Maker) -> None:
    for delete, of_rule in ((ec2.delete_traffic_mirror_filter_rule, True), (ec2.delete_traffic_mirror_filter, False)):
        rule, filter_id = FilterRule(ec2), make.filter()
        settle(rule, traffic_mirror_filter_id=filter_id, **MINIMAL)
        delete(**({"TrafficMirrorFilterRuleId": rule.id} if of_rule else {"TrafficMirrorFilterId": filter_id}))
        rule.refresh()
        assert rule.state is None
        assert rule.plan({"traffic_mirror_filter_id": filter_id, **MINIMAL}), "it would be made again"
        rule.destroy()


@pytest.mark.parametrize("kind", [Session, FormerSession])
def test_a_session_from_minimal_to_full_and_back(ec2: Any, make: Maker, kind: type[Session]) -> None:
    minimal = {
        "network_interface_id": make.interface(),
        "traffic_mirror_target_id": make.target(),
        "traffic_mirror_filter_id": make.filter(),
        "session_number": 7,
    }
    session = kind(ec2)
    state = settle(session, **minimal)
    assert state == minimal | {
        "description": "",
        "owner_id": state["owner_id"],
        "packet_length": 0,
        "tags": {},
        "virtual_network_id": state["virtual_network_id"],
    }
    assert 1 <= state["virtual_network_id"] <= 16777215
    first = session.id
    full = minimal | {"description": "d", "packet_length": 100, "virtual_network_id": 16777215, "tags": {"Name": "s"}}
    assert settle(session, **full) == state | full
    moved = full | {
        "session_number": 32766,
        "traffic_mirror_target_id": make.target(),
        "traffic_mirror_filter_id": make.filter(),
    }
    assert settle(session, **moved) == state | moved
    left = settle(session, **minimal)
    assert left["virtual_network_id"] == 16777215, "computed: leaving it out keeps it"
    assert left["packet_length"] == (100 if kind is Session else 0)
    assert (left["description"], left["tags"]) == ("", {})
    assert session.id == first
    assert imported(kind, ec2, session.id) == session.state
    settle(session, **minimal | {"network_interface_id": make.interface()})
    assert session.id != first, "another source is another session"


def test_a_cleared_vni_is_still_a_number(ec2: Any, make: Maker) -> None:
    """Where a configuration says 0, the provider removes the field and reads what it gets."""
    session = Session(ec2)
    asked = {
        "network_interface_id": make.interface(),
        "traffic_mirror_target_id": make.target(),
        "traffic_mirror_filter_id": make.filter(),
        "session_number": 1,
    }
    settle(session, **asked, virtual_network_id=5, packet_length=60)
    session.apply({**asked, "virtual_network_id": 0, "packet_length": 0})
    assert session.state is not None
    assert session.state["packet_length"] == 0
    assert session.state["virtual_network_id"] not in (0, 5)
    assert session.plan(asked) == {}


def test_the_packet_length_to_a_load_balancer_is_computed(ec2: Any, make: Maker) -> None:
    session = Session(ec2)
    asked = {
        "network_interface_id": make.interface(),
        "traffic_mirror_target_id": make.nlb_target(),
        "traffic_mirror_filter_id": make.filter(),
        "session_number": 1,
    }
    assert settle(session, **asked)["packet_length"] == 8500
    assert settle(session, **asked, packet_length=1)["packet_length"] == 1
    session.apply({**asked, "packet_length": 0})
    assert session.state is not None
    assert session.state["packet_length"] == 8500


def test_a_session_disappears(ec2: Any, make: Maker) -> None:
    session = Session(ec2)
    asked = {
        "network_interface_id": make.interface(),
        "traffic_mirror_target_id": make.target(),
        "traffic_mirror_filter_id": make.filter(),
        "session_number": 1,
    }
    settle(session, **asked)
    ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=session.id)
    session.refresh()
    assert session.state is None
    session.destroy()
    settle(session, **asked)


def test_what_depends_on_another_goes_first(ec2: Any, make: Maker) -> None:
    """Terraform destroys in the order of dependencies; out of that order it is told so."""
    target, filter_, session = Target(ec2), Filter(ec2), Session(ec2)
    settle(target, network_load_balancer_arn=NLB)
    settle(filter_)
    settle(
        session,
        network_interface_id=make.interface(),
        traffic_mirror_target_id=target.id,
        traffic_mirror_filter_id=filter_.id,
        session_number=1,
    )
    assert code_of(target.ec2.delete_traffic_mirror_target, TrafficMirrorTargetId=target.id) == (
        "TrafficMirrorTargetInUseException"
    )
    assert code_of(filter_.ec2.delete_traffic_mirror_filter, TrafficMirrorFilterId=filter_.id) == (
        "TrafficMirrorFilterInUse"
    )
    for resource in (session, filter_, target):
        resource.destroy()
        resource.refresh()
        assert resource.state is None

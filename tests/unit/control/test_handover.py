"""An interface that is due to another account goes there with the end of its use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pktmirror.aws import ApiError
from pktmirror.model.template import Selector, Template
from tests.unit.control.office import NOW_S, Office, opened
from tests.unit.control.records import found, report

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
HERE = {"web1": "10.0.0.1", "web2": "10.0.0.2", "sensor": "10.0.0.9"}


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Its VPC red is assigned to the account red."""
    with opened(tmp_path) as office:
        office.plane.declare(NETWORKS, NOW_S)
        office.plane.create_account("red", NOW_S)
        [red] = [vpc["vpc_id"] for vpc in office.plane.declared()["vpcs"] if vpc["name"] == "red"]
        office.plane.assign(red, "red", NOW_S)
        finds(office)
        yield office


def finds(office: Office, **elsewhere: str) -> None:
    office.plane.intake.agent_reported(report(*(found(name, at) for name, at in {**HERE, **elsewhere}.items())), NOW_S)


def ids(office: Office) -> dict[str, str]:
    return {each["key"]: each["interface_id"] for each in office.plane.interfaces()}


def of_red(office: Office) -> set[str]:
    [red] = [account["account_id"] for account in office.plane.accounts() if account["name"] == "red"]
    with office.store.read() as transaction:
        return {name for name, id_ in ids(office).items() if transaction.interfaces.owner_of(id_) == red}


def sources(office: Office) -> dict[str, str]:
    """By the name of the interface: its session."""
    names = {id_: name for name, id_ in ids(office).items()}
    with office.store.read() as transaction:
        return {names[session.interface_id]: session.session_id for session in transaction.sessions.where()}


def target(office: Office) -> str:
    made = office.call("CreateTrafficMirrorTarget", NetworkInterfaceId=ids(office)["sensor"])
    return str(made["TrafficMirrorTarget"]["TrafficMirrorTargetId"])


def put_template(office: Office, select: Selector | None = None) -> None:
    """It mirrors one of what is selected: of what is called web, on whichever address."""
    made = Template(
        name="office/web",
        select=select or Selector(name="web*"),
        target_id=target(office),
        filter_id=office.filter(),
        number=1,
        limit=1,
    )
    office.plane.put_template(made, NOW_S)


def test_the_end_of_a_session_or_a_target_hands_over_the_interface_that_it_used(office: Office) -> None:
    target_id = target(office)
    office.call(
        "CreateTrafficMirrorSession",
        NetworkInterfaceId=ids(office)["web1"],
        TrafficMirrorTargetId=target_id,
        TrafficMirrorFilterId=office.filter(),
        SessionNumber=1,
    )
    finds(office, web1="10.9.0.1", web2="10.9.0.2", sensor="10.9.0.9")
    assert of_red(office) == {"web2"}
    office.call("DeleteTrafficMirrorSession", TrafficMirrorSessionId=sources(office)["web1"])
    assert of_red(office) == {"web1", "web2"}
    office.call("DeleteTrafficMirrorTarget", TrafficMirrorTargetId=target_id)
    assert of_red(office) == {"web1", "web2", "sensor"}
    assert office.plane.accounts()[1]["interfaces"] == 3


def test_the_end_of_a_template_hands_over_what_it_has_mirrored(office: Office) -> None:
    put_template(office)
    finds(office, web1="10.9.0.1", web2="10.9.0.2")
    assert of_red(office) == {"web2"}
    office.plane.delete_template("office/web", NOW_S)
    assert of_red(office) == {"web1", "web2"}
    assert sources(office) == {}


def test_a_template_does_not_take_again_what_is_due_to_another(office: Office) -> None:
    put_template(office)
    assert sources(office).keys() == {"web1"}
    finds(office, web1="10.9.0.1")
    assert (of_red(office), sources(office).keys()) == (set(), {"web1"})
    office.call("DeleteTrafficMirrorSession", TrafficMirrorSessionId=sources(office)["web1"])
    assert (of_red(office), sources(office).keys()) == ({"web1"}, {"web2"})


def test_a_template_that_lets_go_of_an_interface_takes_another_in_its_place(office: Office) -> None:
    """It looks at the network too: the interface leaves what is selected, and the account, in one transaction."""
    put_template(office, Selector(name="web*", vpc="office"))
    finds(office, web1="10.9.0.1")
    assert (of_red(office), sources(office).keys()) == ({"web1"}, {"web2"})


def test_whoever_assigns_what_a_template_mirrors_is_told_which(office: Office) -> None:
    put_template(office)
    with pytest.raises(ApiError, match=r"the source of tms-.* of the template office/web: let that select"):
        office.plane.assign(ids(office)["web1"], "red", NOW_S)
    with pytest.raises(ApiError, match=r"the target tmt-.*: delete that before"):
        office.plane.assign(ids(office)["sensor"], "red", NOW_S)
    office.plane.assign(ids(office)["web2"], "red", NOW_S)
    assert of_red(office) == {"web2"}

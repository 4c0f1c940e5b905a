"""Which interface somebody means."""

from typing import Any

import pytest

from pktmirror.cli.interfaces import Interface, described, meant
from pktmirror.model.refusal import Refusal


def interface(interface_id: str, instance: str | None, *addresses: str, **changed: Any) -> Interface:
    return Interface(
        **{
            "interface_id": interface_id,
            "host_id": "host-1",
            "instance_id": instance and f"i-{instance}",
            "vpc_id": None,
            "subnet_id": None,
            "attached": True,
            "provider": "netns",
            "key": f"netns:{instance}/eth0",
            "instance": instance,
            "name": "eth0",
            "device": f"{instance}0",
            "kind": "veth",
            "mac": "02:00:00:00:00:01",
            "addresses": addresses,
            "address_from": "provider" if addresses else None,
            "mtu": 1500,
            "up": True,
            "not_mirrorable": None,
            "sessions": (),
            **changed,
        }
    )


WEB = interface("eni-1", "web", "10.0.0.48", "2001:db8::48")
GONE = interface("eni-2", "web", "10.0.0.48", attached=False)
ROUTER = (interface("eni-3", "router", "10.0.0.1"), interface("eni-4", "router", "10.0.1.1"))
NIC = interface("eni-5", None)
KNOWN = (WEB, GONE, *ROUTER, NIC)


@pytest.mark.parametrize("name", ["eni-1", "web", "i-web", "netns:web/eth0", "10.0.0.48", "2001:db8::48"])
def test_an_interface_is_meant_by_its_id_its_key_its_instance_or_an_address(name: str):
    assert meant(KNOWN, name) is WEB


def test_an_interface_that_is_gone_is_meant_by_its_id_only():
    assert meant(KNOWN, "eni-2") is GONE


def test_a_name_for_nothing_is_refused():
    with pytest.raises(Refusal, match=r"No interface is known as 10\.0\.0\.99"):
        meant(KNOWN, "10.0.0.99")


def test_a_name_for_more_than_one_is_refused_with_their_ids():
    with pytest.raises(Refusal, match=r"eni-3 .*eni-4"):
        meant(KNOWN, "router")


def test_scripts_see_state_and_role():
    told = described(GONE, {"eni-2": ["tmt-1"]})
    assert told["state"] == "gone"
    assert told["targets"] == ["tmt-1"]
    assert described(WEB, {"eni-2": ["tmt-1"]})["targets"] == []
    assert described(WEB, {})["state"] == "up"

"""What engines tell, put to the interfaces that were found."""

from collections.abc import Mapping

import msgspec
import pytest

from pktmirror.agent.inventory import Device
from pktmirror.agent.providers.engine import Instance, Tap, Told
from pktmirror.agent.providers.naming import Bond, Known, named, within
from pktmirror.desired import FoundInterface, InstanceFacts

ID = "4bab25ca3a288b0e6ff3249071e3ab57b128694f78fbfe84612ca7a5f81551a5"
WEB = Instance(ID, "web", "shop", {"tier": "front"})
UUID, MAC = "6c5b1f0e-8c1d-4e0a-9a4f-1f2d3c4b5a69", "52:54:00:00:00:77"
NAMED_MAC = "52:54:00:00:00:78"
MACHINE = Instance(UUID, "vm", None, {}, (Tap("vnet0", MAC, generated=True), Tap("web1", NAMED_MAC, generated=False)))
KEY = f"libvirt:{UUID}/{MAC}"
FACTS = InstanceFacts(engine="docker", instance_id=ID, name="web", owner="shop", labels={"tier": "front"})


def interface(key: str, device: str, *, ifindex: int = 7, mac: str | None = None, **more: object) -> Device:
    provider = key.partition(":")[0]
    found = FoundInterface(
        key=key,
        provider=provider,
        instance=None if provider == "tap" else key.partition(":")[2][:12],
        name="eth0",
        device=device,
        kind="veth",
        mac=mac,
        addresses=(),
        mtu=1500,
        up=True,
        not_mirrorable=None if mac else "nobody has heard it",
    )
    return Device(msgspec.structs.replace(found, **more), ifindex, is_host_side=True)


def containers(*instances: Instance, engine: str = "docker") -> Known:
    return Known(engine, "container", Told({each.instance_id: each for each in instances}, 10.0))


def machines(*instances: Instance, asked_at_s: float = 10.0, answers: bool = True) -> Known:
    return Known("libvirt", "libvirt", Told({each.instance_id: each for each in instances}, asked_at_s), answers)


def put(
    device: Device,
    *known: Known,
    remembered: Mapping[int, Bond] | None = None,
    there_since_s: float = 5.0,
    keys_of_engines: bool = True,
) -> tuple[list[FoundInterface], dict[int, Bond]]:
    since_s = {device.ifindex: there_since_s}
    found, bonds = named([device], known, remembered or {}, since_s, keys_of_engines=keys_of_engines)
    return [each.found for each in found], bonds


def test_a_container_gets_its_name_and_labels_and_stays_the_interface_that_it_was() -> None:
    before = interface(f"container:{ID}/eth0", "veth1", mac=MAC)
    [found], bonds = put(before, containers(WEB))
    assert found == msgspec.structs.replace(before.found, facts=FACTS)
    assert (found.key, found.plain_key, found.instance) == (before.found.key, None, ID[:12])
    assert bonds == {}


def test_what_no_engine_lists_is_as_it_was_found() -> None:
    for key in (f"container:{ID[::-1]}/eth0", f"netns:{ID}/eth0", f"pod:{ID}/eth0", "nic:02:00:00:00:00:01"):
        device = interface(key, "veth1", mac=MAC)
        assert put(device, containers(WEB), machines(MACHINE)) == ([device.found], {})
    assert put(interface(f"container:{ID}/eth0", "veth1", mac=MAC))[0][0].facts is None


def test_a_container_is_told_by_whichever_engine_lists_it() -> None:
    device = interface(f"container:{ID}/eth0", "veth1", mac=MAC)
    [found], _ = put(device, containers(), containers(WEB, engine="podman"))
    assert found.facts == msgspec.structs.replace(FACTS, engine="podman")


def test_a_tap_whose_name_libvirt_made_up_is_known_by_its_machine_and_mac_address() -> None:
    [found], bonds = put(interface("tap:vnet0", "vnet0"), machines(MACHINE))
    assert (found.key, found.plain_key) == (KEY, "tap:vnet0")
    assert (found.provider, found.instance) == ("libvirt", UUID)
    assert (found.mac, found.not_mirrorable) == (MAC, None), "libvirt has set it: it need not be heard"
    assert found.facts == InstanceFacts(engine="libvirt", instance_id=UUID, name="vm")
    assert bonds == {7: Bond("libvirt", "libvirt", MACHINE, MACHINE.taps[0])}


def test_after_the_next_start_of_the_machine_it_is_the_same_under_another_device() -> None:
    again = Instance(UUID, "vm", taps=(Tap("vnet9", MAC, generated=True),))
    [found], _ = put(interface("tap:vnet9", "vnet9", ifindex=8), machines(again))
    assert (found.key, found.device) == (KEY, "vnet9")


def test_a_tap_that_the_operator_has_named_keeps_its_key() -> None:
    [found], _ = put(interface("tap:web1", "web1"), machines(MACHINE))
    assert (found.key, found.plain_key, found.mac) == ("tap:web1", None, NAMED_MAC)
    assert (found.provider, found.instance) == ("libvirt", UUID), "one instance with the machine's other interfaces"


def test_an_answer_from_before_the_tap_was_there_says_nothing_of_it() -> None:
    """The name was another machine's until just now; what it was would be mirrored as that machine's."""
    device = interface("tap:vnet0", "vnet0", mac="52:54:00:00:00:99")
    assert put(device, machines(MACHINE), there_since_s=10.1) == ([], {}), "the next answer is waited for"
    assert put(device, machines(MACHINE, answers=False), there_since_s=10.1) == ([device.found], {}), "but not for ever"
    named_by_operator = interface("tap:web1", "web1", mac=NAMED_MAC)
    assert put(named_by_operator, machines(MACHINE), there_since_s=10.1) == ([named_by_operator.found], {})


def test_what_was_known_of_a_tap_holds_while_its_engine_says_nothing_newer() -> None:
    device = interface("tap:vnet0", "vnet0")
    remembered = {7: Bond("libvirt", "libvirt", MACHINE, MACHINE.taps[0])}
    for known in ([], [machines(asked_at_s=1.0, answers=False)]):
        [found], bonds = put(device, *known, remembered=remembered)
        assert (found.key, bonds) == (KEY, remembered)
    [found], bonds = put(device, machines(), remembered=remembered)
    assert (found.key, bonds) == ("tap:vnet0", {}), "libvirt does not know it any more"
    [found], _ = put(interface("tap:vnet0", "vnet0", ifindex=8), remembered=remembered)
    assert found.key == "tap:vnet0", "another device of that name"
    [found], _ = put(interface("tap:other", "other"), remembered=remembered)
    assert found.key == "tap:other", "the device has another name by now"


def test_a_machine_with_one_mac_address_twice_has_its_taps_by_their_names() -> None:
    twice = Instance(UUID, "vm", taps=(Tap("vnet0", MAC, generated=True), Tap("vnet1", MAC, generated=True)))
    devices = [interface("tap:vnet0", "vnet0", ifindex=7), interface("tap:vnet1", "vnet1", ifindex=8)]
    found, _ = named(devices, [machines(twice)], {}, {}, keys_of_engines=True)
    assert [(each.found.key, each.found.plain_key) for each in found] == [("tap:vnet0", None), ("tap:vnet1", None)]


@pytest.mark.parametrize("key", ["tap:vnet0", f"container:{ID}/eth0"])
def test_a_control_plane_that_does_not_know_of_engines_is_told_the_keys_that_it_knows(key: str) -> None:
    plain = None if key == "tap:vnet0" else "netns:netns-fe6840ab-f20c-1347-9d40-4e459af23f04/eth0"
    device = interface(key, "vnet0", mac=MAC, plain_key=plain)
    [found], _ = put(device, machines(MACHINE), containers(WEB), keys_of_engines=False)
    assert (found.key, found.plain_key) == (plain or key, None)
    assert found.facts is not None, "it skips what it does not know"


def test_what_was_heard_of_neighbours_is_of_the_mac_address_that_was_heard() -> None:
    heard = interface("tap:vnet0", "vnet0", mac=MAC, neighbours=("10.0.0.7",))
    assert put(heard, machines(MACHINE))[0][0].neighbours == ("10.0.0.7",)
    another = interface("tap:vnet0", "vnet0", mac=NAMED_MAC, neighbours=("10.0.0.7",))
    assert put(another, machines(MACHINE))[0][0].neighbours == ()


def test_who_labels_much_loses_what_does_not_fit_into_a_report_and_nobody_else_does() -> None:
    def told(ifindex: int, label: str) -> Device:
        facts = msgspec.structs.replace(FACTS, labels={"a": label})
        return interface(f"container:{ifindex}/eth0", "veth", ifindex=ifindex, mac=MAC, facts=facts)

    short, long, none = told(1, "x"), told(2, "x" * 200), interface("nic:1", "up0", ifindex=3, mac=MAC)
    room = len(msgspec.json.encode(short.found.facts))
    kept, left_out = within([long, none, short], room)
    assert [device.found.facts for device in kept] == [None, None, short.found.facts]
    assert left_out == {"docker": 1}
    assert within([long, none, short], room + len(msgspec.json.encode(long.found.facts))) == ([long, none, short], {})

"""What can be a source beside a namespace's interface: a tap, a bridge's port, a NIC, a container (5.14, 5.15, 5.20).

In each test the last packets are such as must not be mirrored.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from pktmirror.cli.doctor import findings
from pktmirror.desired import FoundInterface
from pktmirror.kernel import netns
from pktmirror.lab import Lab, Topology
from pktmirror.lab.plan import host_device
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.packet.checksum import Check, Checksums, checksums_of
from tests.contract.plane import refusal_of
from tests.lab.arrivals import Tap, completed
from tests.lab.line import line
from tests.lab.machines import (
    SEGMENT_BYTES,
    Container,
    Guest,
    cable,
    ip,
    join_bridge,
    mac_bytes,
    run_inside,
    send_raw,
    super_packet,
    unnamed,
)
from tests.lab.mirror import WITHIN_S, Elsewhere, Mirror, Session
from tests.lab.test_interface_life import PORT, session_parameters
from tests.lab.test_mirror_tso import payloads
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
GUEST_MAC, STRANGER_MAC = "52:54:00:00:00:77", "52:54:00:00:00:99"
ADDRESS = "10.0.0.77"
NIC, PEER = "192.0.2.1", "192.0.2.2"
DATA = bytes(range(251)) * 119 + b"rest"
SEGMENTS = -(-len(DATA) // SEGMENT_BYTES)


def udp(source_mac: str, destination_mac: str, text: str = "some words") -> bytes:
    packet = IP(src="192.0.2.48", dst="192.0.2.6") / UDP(sport=40000, dport=9) / Raw(text.encode())
    return bytes(Ether(src=source_mac, dst=destination_mac) / packet)


def hello(mac: str) -> bytes:
    """By which a bridge learns where somebody is. ARP is never mirrored."""
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=ADDRESS, pdst=ADDRESS))


def found(mirror: Mirror, key: str) -> FoundInterface | None:
    """What the agent says of an interface, once it has heard of all that happened."""
    return next((each for each in mirror.agents["host"].turn().interfaces if each.key == key), None)


def wait_for_problem(mirror: Mirror, source: str, problem: str | None) -> None:
    wait_until(lambda: mirror.status(source) == problem, WITHIN_S, lambda: f"it says {mirror.status(source)}")


def arrived(mirror: Mirror) -> list[bytes]:
    return [copy.frame for copy in mirror.collector("monitor").copies()]


def counted(mirror: Mirror, source: str, direction: Direction) -> dict[InterfaceOutcome, int]:
    """Without what the machines of the lab say by themselves: ARP is never mirrored."""
    outcomes = mirror.outcomes(source, direction)
    outcomes.pop(InterfaceOutcome.NEVER_MIRRORED, None)
    return outcomes


@contextlib.contextmanager
def guest_at_bridge(built: Lab) -> Iterator[Guest]:
    host = built.namespace("host")
    with built.inside("host") as inside, Guest(inside, "vnet0", GUEST_MAC) as guest:
        ip("-n", host, "link", "set", "vnet0", "addrgenmode", "none")
        join_bridge(host, "vnet0")
        yield guest


def test_a_tap_of_a_virtual_machine_is_mirrored_in_packets_of_the_wire(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab) as guest:
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", ADDRESS)
        client = mirror.mac("client")
        guest.send(hello(GUEST_MAC))
        mirror.send("client", [hello(client)])  # the bridge knows both, and floods nothing between them
        wait_until(lambda: (found(mirror, "tap:vnet0") or nobody()).mac == GUEST_MAC, WITHIN_S, "it is not known")
        mirror.mirror({"guest": [Session("monitor")]})
        assert mirror.status("guest") is None

        header, sent = super_packet(mac_bytes(client) + mac_bytes(GUEST_MAC), DATA)
        guest.send(sent, header=header)
        mirror.wait_for_copies("monitor", SEGMENTS)
        assert counted(mirror, "guest", EGRESS) == {InterfaceOutcome.TAKEN: SEGMENTS}
        assert mirror.stages("guest", EGRESS) == {Stage.SENT: SEGMENTS}
        header, answered = super_packet(mac_bytes(GUEST_MAC) + mac_bytes(client), DATA[::-1])
        send_raw(mirror.inside("client"), "eth0", answered, header=header)
        mirror.wait_for_copies("monitor", 2 * SEGMENTS)
        assert counted(mirror, "guest", INGRESS) == {InterfaceOutcome.TAKEN: SEGMENTS}
        assert mirror.stages("guest", INGRESS) == {Stage.SENT: SEGMENTS}

        copies = arrived(mirror)
        wire = [54 + SEGMENT_BYTES] * (SEGMENTS - 1) + [54 + len(DATA) % SEGMENT_BYTES]
        assert [len(copy) for copy in copies] == 2 * wire
        assert {checksums_of(copy) for copy in copies} == {Checksums(Check.RIGHT, Check.RIGHT)}
        assert (payloads(copies[:SEGMENTS]), payloads(copies[SEGMENTS:])) == (DATA, DATA[::-1])
        ledger = mirror.ledger("guest")
        for direction in Direction:
            assert ledger[direction].stage(Stage.SENT).bytes == sum(wire)
            assert ledger[direction].verdict(Verdict.TAKEN) == ledger[direction].stage(Stage.SENT)
        assert any(answered[54:] in frame for frame in guest.received()), "production came as one super-packet"

        plain = [udp(GUEST_MAC, client), udp(client, GUEST_MAC)]
        guest.send(plain[0], hello(GUEST_MAC))
        mirror.wait_for_copies("monitor", 2 * SEGMENTS + 1)
        mirror.send("client", [plain[1], udp(client, STRANGER_MAC)])  # the bridge floods the last one
        mirror.wait_for_seen("guest", INGRESS, SEGMENTS + 2)
        assert arrived(mirror)[2 * SEGMENTS :] == plain
        assert counted(mirror, "guest", INGRESS) == {
            InterfaceOutcome.TAKEN: SEGMENTS + 1,
            InterfaceOutcome.NOT_FOR_THIS_INTERFACE: 1,
        }


def nobody() -> FoundInterface:
    return FoundInterface(
        key="", provider="", instance=None, name="", device="", kind="", mac=None, addresses=(), mtu=0, up=False
    )


def test_a_tap_is_no_source_until_its_machine_is_heard_and_again_when_another_takes_its_place(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror:
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", ADDRESS)
        mirror.rearranged.add("guest")  # the interface's figures are those of its device
        unheard = (
            "the MAC address behind it is not known: the bridge br-a has heard nobody there "
            "(`bridge fdb replace MAC dev vnet0 master static` tells it)"
        )
        frames = []
        for life in range(2):
            with guest_at_bridge(mirror.lab) as guest:
                mirror.mirror({"guest": [Session("monitor")]})
                wait_for_problem(mirror, "guest", unheard)
                guest.send(udp(GUEST_MAC, mirror.mac("client"), f"not yet {life}"))
                wait_for_problem(mirror, "guest", None)
                frames.append(udp(GUEST_MAC, mirror.mac("client"), f"life {life}"))
                guest.send(frames[-1])
                mirror.wait_for_copies("monitor", len(frames))
            wait_for_problem(mirror, "guest", "interface gone")
        assert arrived(mirror) == frames
        assert mirror.stages("guest", EGRESS) == {Stage.SENT: 2}, "its ledger goes on"


def test_behind_a_tap_that_is_no_port_is_who_has_spoken_with_the_host(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, Guest(mirror.inside("host"), "vnet0", GUEST_MAC) as guest:
        host = mirror.lab.namespace("host")
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", PEER)
        ip("-n", host, "link", "set", "vnet0", "addrgenmode", "none", "up")
        ip("-n", host, "address", "add", f"{NIC}/24", "dev", "vnet0")
        tap = wait_until(lambda: found(mirror, "tap:vnet0"), WITHIN_S, "it is not found")
        assert "neighbour table has nobody there" in ((tap or nobody()).not_mirrorable or "")
        own_mac = ip("-n", host, "-o", "link", "show", "vnet0").split("link/ether ")[1].split()[0]
        asks = ARP(hwsrc=GUEST_MAC, psrc=PEER, pdst=NIC)
        guest.send(bytes(Ether(src=GUEST_MAC, dst="ff:ff:ff:ff:ff:ff") / asks))
        wait_until(lambda: (found(mirror, "tap:vnet0") or nobody()).neighbours == (PEER,), WITHIN_S, "not learnt")
        mirror.mirror({"guest": [Session("monitor")]})
        frames = [udp(GUEST_MAC, own_mac, "out")]
        guest.send(*frames, bytes(Ether(src=GUEST_MAC, dst=own_mac) / asks))
        mirror.wait_for_copies("monitor", 1)
        guest.received()
        say(mirror.inside("host"), PEER, "in")
        mirror.wait_for_copies("monitor", 2)
        frames += [frame for frame in guest.received() if frame.endswith(b"in")]
        assert arrived(mirror) == [completed(frame) for frame in frames]
        assert counted(mirror, "guest", EGRESS) == counted(mirror, "guest", INGRESS) == {InterfaceOutcome.TAKEN: 1}


def test_what_the_agent_knows_of_a_machine_outlives_the_bridges_memory_and_the_agent(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab) as guest:
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", ADDRESS)
        guest.send(hello(GUEST_MAC))
        wait_until(lambda: (found(mirror, "tap:vnet0") or nobody()).mac == GUEST_MAC, WITHIN_S, "it is not known")
        mirror.mirror({"guest": [Session("monitor")]})
        agent = mirror.agents["host"]
        run_inside(mirror.inside("host"), "bridge", "fdb", "del", GUEST_MAC, "dev", "vnet0", "master")
        assert mirror.status("guest") is None
        agent.stop()
        agent.start()
        assert (mirror.status("guest"), (found(mirror, "tap:vnet0") or nobody()).mac) == (None, GUEST_MAC)
        guest.send(udp(GUEST_MAC, mirror.mac("client")))
        mirror.wait_for_copies("monitor", 1)


def test_a_renamed_tap_is_another_interface(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, guest_at_bridge(mirror.lab) as guest:
        mirror.elsewhere["guest"] = Elsewhere("tap:vnet0", ADDRESS)
        mirror.rearranged.add("guest")
        guest.send(hello(GUEST_MAC))
        mirror.mirror({"guest": [Session("monitor")]})
        wait_for_problem(mirror, "guest", None)
        ip("-n", mirror.lab.namespace("host"), "link", "set", "vnet0", "name", "vnet7")
        wait_for_problem(mirror, "guest", "interface gone")
        assert (found(mirror, "tap:vnet7") or nobody()).not_mirrorable is None
        guest.send(udp(GUEST_MAC, mirror.mac("client")))
        assert mirror.agents["host"].turn().mirrored_interfaces == ()
        assert arrived(mirror) == []


def test_a_port_into_a_namespace_that_nobody_knows_is_mirrored_and_what_is_flooded_to_it_is_not(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, unnamed(f"{mirror.lab.name}-box") as box:
        host, client = mirror.lab.namespace("host"), mirror.mac("client")
        mirror.elsewhere["box"] = Elsewhere("port:box0", ADDRESS)
        mirror.rearranged.add("box")
        frames: list[bytes] = []
        for life in range(2):  # with another cable, too
            cable(host, "box0", box, GUEST_MAC)
            join_bridge(host, "box0")
            mirror.send("client", [hello(client)])
            send_raw(box, "eth0", hello(GUEST_MAC))
            mirror.mirror({"box": [Session("monitor")]})
            wait_for_problem(mirror, "box", None)
            frames += [udp(GUEST_MAC, client, f"out {life}"), udp(client, GUEST_MAC, f"in {life}")]
            send_raw(box, "eth0", frames[-2])
            mirror.wait_for_copies("monitor", len(frames) - 1)
            mirror.send("client", [frames[-1], udp(client, STRANGER_MAC)])
            mirror.wait_for_copies("monitor", len(frames))
            wait_until(lambda: mirror.seen("box", INGRESS) >= 2, WITHIN_S, "it is not flooded")
            assert counted(mirror, "box", EGRESS) == {InterfaceOutcome.TAKEN: 1}
            assert counted(mirror, "box", INGRESS) == {
                InterfaceOutcome.TAKEN: 1,
                InterfaceOutcome.NOT_FOR_THIS_INTERFACE: 1,
            }
            ip("-n", host, "link", "del", "box0")
            wait_for_problem(mirror, "box", "interface gone")
        assert arrived(mirror) == frames
        assert [mirror.stages("box", direction) for direction in Direction] == [{Stage.SENT: 2}] * 2


@contextlib.contextmanager
def uplink(mirror: Mirror) -> Iterator[netns.Visitor]:
    """The host's NIC `up0`, and the machine that it is connected with."""
    with unnamed(f"{mirror.lab.name}-far") as far:
        plug_uplink(mirror, far)
        yield far


def plug_uplink(mirror: Mirror, far: netns.Visitor) -> None:
    host = mirror.lab.namespace("host")
    cable(host, "up0", far, GUEST_MAC, f"{PEER}/24")
    ip("-n", host, "address", "add", f"{NIC}/24", "dev", "up0")


def say(inside: netns.Visitor, address: str, text: str) -> None:
    with inside.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), (address, 9999))


def test_a_nic_of_the_host_is_mirrored_with_what_it_receives_as_ingress(lab: Build) -> None:
    with Mirror(lab(VPC)) as mirror, uplink(mirror) as far:
        mirror.elsewhere["nic"] = Elsewhere("nic:up0", NIC)
        mirror.rearranged.add("nic")
        host = mirror.inside("host")
        inward, outward = [], []
        with (
            host.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listener,
            far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as at_peer,
        ):
            listener.bind((NIC, 9999))
            at_peer.bind(("0.0.0.0", 9999))
            for life in range(2):
                mirror.mirror({"nic": [Session("monitor")]})
                wait_for_problem(mirror, "nic", None)
                nic = found(mirror, "nic:up0") or nobody()
                assert (nic.addresses, nic.provider) == ((NIC,), "nic")
                assert nic.mac is not None
                with Tap(host, "up0") as tap:
                    say(far, NIC, f"in {life}")
                    say(host, PEER, f"out {life}")
                    mirror.wait_for_copies("monitor", 2 * life + 2)
                    wire = [each.completed for each in tap.read() if each.frame[12:14] == b"\x08\x00"]
                assert host.run(listener.recv, 100) == f"in {life}".encode(), "production"
                assert far.run(at_peer.recv, 100) == f"out {life}".encode(), "production"
                inward += [frame for frame in wire if frame[:6] == mac_bytes(nic.mac) and b"in " in frame]
                outward += [frame for frame in wire if frame[6:12] == mac_bytes(nic.mac) and b"out " in frame]
                send_raw(far, "eth0", udp(GUEST_MAC, STRANGER_MAC))
                wait_until(
                    lambda: InterfaceOutcome.NOT_FOR_THIS_INTERFACE in counted(mirror, "nic", INGRESS),
                    WITHIN_S,
                    "the last frame is not seen",
                )
                ip("-n", mirror.lab.namespace("host"), "link", "del", "up0")
                wait_for_problem(mirror, "nic", "interface gone")
                plug_uplink(mirror, far)
        copies = arrived(mirror)
        assert [frame for frame in copies if b"in " in frame] == inward
        assert [frame for frame in copies if b"out " in frame] == outward
        assert len(copies) == len(inward) + len(outward) == 4


@pytest.mark.fact(68)
def test_copies_that_leave_by_a_mirrored_nic_are_not_mirrored_again(lab: Build) -> None:
    with (
        Mirror(lab(VPC)) as mirror,
        uplink(mirror) as far,
        far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as s,
    ):
        s.bind(("0.0.0.0", 4789))
        mirror.unheard.add(7)
        mirror.elsewhere["nic"] = Elsewhere("nic:up0", NIC)
        mirror.mirror({"nic": [Session(PEER)]})
        wait_for_problem(mirror, "nic", None)
        for number in range(3):
            say(far, NIC, f"in {number}")
        wait_until(lambda: mirror.sent("nic") >= 3, WITHIN_S, "nothing is sent")
        mirror.assert_everything_adds_up()
        outcomes = counted(mirror, "nic", EGRESS)
        answers = outcomes.pop(InterfaceOutcome.TAKEN, 0)  # nobody listens: the host says so, and that is its traffic
        assert outcomes == {InterfaceOutcome.OWN_COPY: 3 + answers}
        assert mirror.sent("nic") == 3 + answers <= 6


CONTAINER = "5e" * 32
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


def test_an_interface_in_a_containers_namespace_is_known_by_the_container_and_found_again_after_its_restart(
    lab: Build, lab_name: str
) -> None:
    root = next(each for each in CGROUPS if (each / "cgroup.procs").exists())
    group = root / lab_name / f"docker-{CONTAINER}.scope"
    key = f"container:{CONTAINER}/eth0"
    try:
        with Mirror(lab(VPC)) as mirror:
            host, client = mirror.lab.namespace("host"), mirror.mac("client")
            mirror.elsewhere["app"] = Elsewhere(key, ADDRESS)
            mirror.rearranged.add("app")
            frames = []
            for life in range(2):
                with Container(group) as container:
                    cable(host, f"veth{life}", container.inside, GUEST_MAC, f"{ADDRESS}/24")
                    join_bridge(host, f"veth{life}")
                    mirror.send("client", [hello(client)])
                    send_raw(container.inside, "eth0", hello(GUEST_MAC))
                    mirror.mirror({"app": [Session("monitor")]})
                    wait_for_problem(mirror, "app", None)
                    app = found(mirror, key) or nobody()
                    assert (app.provider, app.instance, app.addresses) == ("container", CONTAINER[:12], (ADDRESS,))
                    frames += [udp(GUEST_MAC, client, f"out {life}"), udp(client, GUEST_MAC, f"in {life}")]
                    send_raw(container.inside, "eth0", frames[-2])
                    mirror.wait_for_copies("monitor", len(frames) - 1)
                    mirror.send("client", [frames[-1], udp(client, STRANGER_MAC)])
                    mirror.wait_for_copies("monitor", len(frames))
                    wait_until(
                        lambda: InterfaceOutcome.NOT_FOR_THIS_INTERFACE in counted(mirror, "app", INGRESS),
                        WITHIN_S,
                        "it is not flooded",
                    )
                wait_for_problem(mirror, "app", "interface gone")
            assert arrived(mirror) == frames
            assert [mirror.stages("app", direction) for direction in Direction] == [{Stage.SENT: 2}] * 2
    finally:
        group.parent.rmdir()


def test_a_mirrored_device_that_moves_into_another_namespace_sends_and_counts_nothing_there(
    lab: Build, lab_name: str
) -> None:
    """The hooks move with the device, and so do the ifindexes that they know: to strangers of the same number."""
    elsewhere = f"{lab_name}-x"
    with Mirror(lab(VPC)) as mirror:
        mirror.mirror({"web": [Session("monitor")]})
        host, device = mirror.lab.namespace("host"), host_device("web")
        frame = udp(mirror.mac("web"), STRANGER_MAC)
        mirror.send("web", [frame])
        mirror.wait_for_copies("monitor", 1)
        hops = [line.split(":")[0] for line in ip("-n", host, "-o", "link").splitlines() if ": pktm-" in line]
        assert hops
        netns.create(elsewhere)
        try:
            with netns.Visitor(elsewhere) as other, contextlib.ExitStack() as stack:
                for one, two in zip(hops[::2], hops[1::2], strict=True):
                    link = f"link add stranger{one} index {one} type veth peer name stranger{two} index {two}"
                    ip("-n", elsewhere, *link.split())
                for index in hops:
                    ip("-n", elsewhere, "link", "set", f"stranger{index}", "addrgenmode", "none", "up")
                strangers = [stack.enter_context(Tap(other, f"stranger{index}")) for index in hops]
                ip("-n", host, "link", "set", device, "netns", elsewhere)
                ip("-n", elsewhere, "link", "set", device, "up")
                with Tap(other, device) as moved:
                    mirror.send("web", [frame] * 5)
                    wait_until(lambda: moved.received(lambda each: each == frame)[4:], WITHIN_S, "production is lost")
                assert [stranger.read() for stranger in strangers] == [[]] * len(hops)
                wait_for_problem(mirror, "web", "interface gone")
                assert mirror.verdicts("web", EGRESS) == {Verdict.TAKEN: 1}
                assert (mirror.stages("web", EGRESS), arrived(mirror)) == ({Stage.SENT: 1}, [frame])
        finally:
            netns.remove(elsewhere)


def test_a_tap_becomes_a_source_of_the_whole_line_when_its_machine_is_heard(lab: Build, tmp_path: Path) -> None:
    built = lab(VPC)
    with line(built, tmp_path) as whole, guest_at_bridge(built) as guest:

        def tap() -> dict[str, object]:
            return next((each for each in whole.plane.own("interfaces") if each["key"] == "tap:vnet0"), {})

        wait_until(lambda: tap().get("attached"), WITHIN_S, "it is not listed")
        assert (tap()["mac"], tap()["provider"]) == (None, "tap")
        asked = {**session_parameters(whole, "web"), "NetworkInterfaceId": tap()["interface_id"]}
        code, message = refusal_of(whole.plane.client().create_traffic_mirror_session, **asked)
        assert code == "NetworkInterfaceNotSupported"
        assert str(tap()["not_mirrorable"]) in message

        asks = ARP(hwsrc=GUEST_MAC, psrc=ADDRESS, pdst="10.0.0.3")
        guest.send(bytes(Ether(src=GUEST_MAC, dst="ff:ff:ff:ff:ff:ff") / asks))
        wait_until(lambda: tap()["addresses"] == [ADDRESS], WITHIN_S, "the host does not learn its address")
        assert (tap()["mac"], tap()["address_from"], tap()["not_mirrorable"]) == (GUEST_MAC, "neighbour table", None)
        created = whole.plane.client().create_traffic_mirror_session(**asked)["TrafficMirrorSession"]
        session_id = created["TrafficMirrorSessionId"]
        whole.wait_for_problem(session_id, None)
        client = built.topology.mac_address("client")
        datagram = IP(src=ADDRESS, dst="10.0.0.6") / UDP(sport=40000, dport=PORT) / Raw(b"word")
        guest.send(*[bytes(Ether(src=GUEST_MAC, dst=client) / datagram)] * 3, udp(GUEST_MAC, client))
        whole.wait_until_collected(session_id, 3)
        assert whole.row(session_id)["outer_source"] == ADDRESS


def test_doctor_lists_the_interfaces_with_their_keys_and_why_one_is_no_source(lab: Build, tmp_path: Path) -> None:
    with Mirror(lab(VPC)) as mirror, uplink(mirror), guest_at_bridge(mirror.lab):
        looked = mirror.inside("host").run(lambda: [*findings(tmp_path / "bpffs", 0, 0)])
        found_here = {each.subject: each.problem for each in looked if not each.fault}
        web = mirror.key("web")
        assert found_here.keys() >= {web, "nic:up0", "tap:vnet0"}
        assert (found_here[web], found_here["nic:up0"]) == (None, None)
        assert "has heard nobody there" in (found_here["tap:vnet0"] or "")

"""The lab: a VPC in network namespaces that works at once, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec
import pytest

from pktmirror import lab as product
from pktmirror.kernel import netns
from pktmirror.lab import DEMO, Instance, Lab, Subnet, Topology
from pktmirror.lab.plan import MakeNamespace, plan
from pktmirror.model.refusal import Refusal
from tests.lab.alone import alone, snapshot
from tests.lab.topologies import TWO_HOSTS
from tests.waiting import wait_until

pytestmark = pytest.mark.root

Build = Callable[[Topology], Lab]
WITHIN_S = 2.0
MLD_REPORT = bytes([143])  # RFC 3810; behind Ethernet, IPv6 and a hop-by-hop header of 8 bytes
QUIET_S = 1.5  # longer than the second in which an MLD listener repeats its report (RFC 3810 section 9.11)
ETH_P_ALL = 3
IP_RECVTTL = 12  # linux/in.h; the socket module has no name for it


def test_a_client_reaches_the_web_instance_with_its_first_packet(lab: Build) -> None:
    demo = lab(DEMO)
    assert tcp_greeting(demo, "client", "web", "10.0.0.48") == b"hello from 10.0.0.6"


def test_every_instance_has_the_address_mac_and_mtu_of_the_topology(lab: Build) -> None:
    topology = Topology(
        name="x",
        cidr=IPv4Network("10.0.0.0/16"),
        subnets=(Subnet("a", IPv4Network("10.0.0.0/24"), mtu=9001),),
        instances=(
            Instance("small", "a", IPv4Address("10.0.0.4"), mtu=1400),
            Instance("large", "a", IPv4Address("10.0.0.254"), mac="0a:00:00:00:00:7b"),
        ),
    )
    built = lab(topology)
    shown = {place.name: {device.name: device for device in place.devices} for place in product.show(built.name).places}
    small, large = shown["small"]["eth0"], shown["large"]["eth0"]
    assert (small.addresses, small.mtu, small.mac) == (("10.0.0.4/24",), 1400, built.topology.mac_address("small"))
    assert (large.addresses, large.mtu, large.mac) == (("10.0.0.254/24",), 9001, "0a:00:00:00:00:7b")
    assert {name: device.mtu for name, device in shown["host"].items() if name != "lo"} == {
        "br-a": 9001,  # not the smallest of its ports
        "rtr-a": 9001,
        "small0": 1400,
        "large0": 9001,
    }
    assert all(device.up for devices in shown.values() for device in devices.values())


@pytest.mark.parametrize("address", ["10.0.1.48", "2001:db8:1:1::48"])
def test_two_subnets_reach_each_other_through_the_router(lab: Build, address: str) -> None:
    built = lab(TWO_HOSTS)
    assert tcp_greeting(built, "client", "web", address).startswith(b"hello from ")
    assert hops_left(built, "client", "web", address) == 63


def test_neighbours_in_a_subnet_reach_each_other_without_the_router(lab: Build) -> None:
    assert hops_left(lab(DEMO), "client", "web", "10.0.0.48") == 64


@pytest.mark.parametrize("address", ["10.0.1.48", "2001:db8:1:1::48"])
def test_a_host_reaches_the_subnets_of_other_hosts_through_the_router(lab: Build, address: str) -> None:
    assert hops_left(lab(TWO_HOSTS), "east", "web", address) == 63


def test_an_instance_does_not_forward(lab: Build) -> None:
    built = lab(TWO_HOSTS)
    for place, forwards in (("client", "0"), ("east", "0"), ("router", "1")):
        with built.inside(place) as inside:
            for family in ("ipv4", "ipv6"):
                found = inside.run(Path(f"/proc/sys/net/{family}/conf/all/forwarding").read_text)
                assert (place, family, found.strip()) == (place, family, forwards)


def test_a_lab_in_which_nobody_speaks_is_silent_from_the_start(lab: Build) -> None:
    assert heard(lab(DEMO), "host") == []


def test_with_ipv6_a_lab_says_nothing_but_its_listener_reports(lab: Build) -> None:
    frames = heard(lab(TWO_HOSTS), "east")
    assert [frame.hex() for frame in frames if frame[62:63] != MLD_REPORT] == []


def test_a_process_in_an_instance_sees_the_instances_network_and_the_machines_sys(lab: Build) -> None:
    demo = lab(DEMO)
    argv = ["sh", "-c", "ip -o -4 address show dev eth0; readlink /proc/self/ns/mnt"]
    process = demo.start("web", argv, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=WITHIN_S)
    assert "10.0.0.48/24" in output
    assert str(Path("/proc/self/ns/mnt").readlink()) in output  # bpffs below /sys stays in sight
    assert process.returncode == 0


def test_ip_netns_knows_the_labs_namespaces(lab: Build) -> None:
    demo = lab(DEMO)
    addresses = subprocess.run(
        ["ip", "-n", demo.namespace("web"), "-brief", "address"], capture_output=True, text=True, check=True
    ).stdout
    assert "10.0.0.48/24" in addresses
    assert demo.namespace("web") in netns.names()


def test_execute_becomes_the_process_and_down_ends_it(lab: Build) -> None:
    demo = lab(DEMO)
    child = os.fork()
    if child == 0:
        demo.execute("web", ["sleep", "1000"])
    wait_until(
        lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n" and child in pids(demo, "web"),
        WITHIN_S,
        f"process {child} is not in web",
    )
    assert child in product.down(demo.name).ended_pids
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_place_that_the_lab_does_not_have_is_refused_with_those_it_has(lab: Build) -> None:
    demo = lab(DEMO)
    with pytest.raises(Refusal, match=r"no place 'wbe'.*host, router, client, web, monitor"):
        demo.start("wbe", ["true"])
    with pytest.raises(Refusal, match="no place 'wbe'"):
        demo.inside("wbe")


def test_a_second_up_is_refused_and_the_first_goes_on_working(lab: Build) -> None:
    demo = lab(DEMO)
    with pytest.raises(Refusal, match=f"up already.*pktmirror lab down {demo.name}"):
        product.up(demo.topology)
    assert tcp_greeting(demo, "client", "web", "10.0.0.48") == b"hello from 10.0.0.6"


def test_two_labs_with_the_same_addresses_do_not_meet(lab: Build) -> None:
    one, other = lab(DEMO), lab(DEMO)
    product.down(one.name)
    assert tcp_greeting(other, "client", "web", "10.0.0.48") == b"hello from 10.0.0.6"


@pytest.mark.parametrize("act", [product.down, product.show, product.find])
def test_a_lab_that_is_not_there_is_refused(act: Callable[[str], object], lab_name: str) -> None:
    with pytest.raises(Refusal, match=rf"no lab '{lab_name}'.*pktmirror lab up"):
        act(lab_name)
    with pytest.raises(Refusal, match="cannot be a lab's name"):
        act(f"../{lab_name}")


def test_a_namespace_of_the_same_name_is_not_taken_over(lab_name: str) -> None:
    topology = msgspec.structs.replace(DEMO, name=lab_name)
    netns.create(f"{lab_name}-web")
    try:
        with pytest.raises(Refusal, match=f"names of its namespaces are taken.*{lab_name}-web.*ip netns del"):
            product.up(topology)
        assert [name for name in netns.names() if name.startswith(lab_name)] == [f"{lab_name}-web"]
        assert lab_name not in product.names()
    finally:
        netns.remove(f"{lab_name}-web")


def test_a_namespace_that_was_replaced_is_left_and_reported(lab: Build) -> None:
    demo = lab(DEMO)
    web = demo.namespace("web")
    with demo.inside("web"):  # keeps the old one, so that the new one cannot get its inode number
        netns.remove(web)
        netns.create(web)
        try:
            removed = product.down(demo.name)
            assert removed.left == (f"namespace {web} stays: it is not the one that the lab has made",)
            assert web not in removed.namespaces
            assert [name for name in netns.names() if name.startswith(demo.name)] == [web]
        finally:
            netns.remove(web)


def test_down_unplugs_a_namespace_that_somebody_still_visits(lab: Build) -> None:
    demo = lab(DEMO)
    with demo.inside("web") as visitor:
        product.down(demo.name)
        assert [name for _, name in visitor.run(socket.if_nameindex)] == ["lo"]


def test_up_and_down_leave_the_machine_as_it_was() -> None:
    def scene() -> None:
        before = snapshot()
        built = product.up(TWO_HOSTS)
        tcp_greeting(built, "client", "web", "2001:db8:1:1::48")
        during = snapshot()
        assert {what for what in before if during[what] != before[what]} == {"/run", "mounts"}
        product.down("two-hosts")
        assert snapshot() == before

    alone(scene)


def test_an_up_that_is_interrupted_before_any_of_its_steps_leaves_the_machine_as_it_was() -> None:
    def scene() -> None:
        before = snapshot()
        for number, step in enumerate(plan(TWO_HOSTS)):
            with pytest.raises(KeyboardInterrupt, match=re.escape(str(step))):
                product.up(TWO_HOSTS, interrupt_before(number))
            assert snapshot() == before, f"interrupted before {step}"
        product.up(TWO_HOSTS)  # and nothing is in the way of the next one
        product.down("two-hosts")

    alone(scene)


def test_an_up_that_was_killed_is_shown_as_incomplete_and_can_be_taken_down() -> None:
    namespaces = sum(isinstance(step, MakeNamespace) for step in plan(TWO_HOSTS))

    def kill_after_the_second_namespace(step: str) -> None:
        if step == str(plan(TWO_HOSTS)[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    def scene() -> None:
        before = snapshot()
        child = os.fork()
        if child == 0:
            product.up(TWO_HOSTS, kill_after_the_second_namespace)
        os.waitpid(child, 0)
        with pytest.raises(Refusal, match="not complete"):
            product.find("two-hosts")
        shown = product.show("two-hosts")
        assert not shown.complete
        assert [place.present for place in shown.places] == [True] * 2 + [False] * (namespaces - 2)
        with pytest.raises(Refusal, match="up already"):
            product.up(TWO_HOSTS)
        product.down("two-hosts")
        assert snapshot() == before

    alone(scene)


def test_down_ends_what_runs_inside_and_nothing_else() -> None:
    def scene() -> None:
        before = snapshot()
        built = product.up(DEMO)
        stubborn = 'trap "" TERM; setsid sleep 1001 & sleep 1002 & wait; wait'
        started = built.start("web", ["sh", "-c", stubborn])
        outside = subprocess.Popen(["sleep", "1003"])
        bystander = netns.start("bystander", ["sleep", "1004"])
        wait_until(lambda: len(pids(built, "web")) == 3, WITHIN_S, lambda: f"in web: {pids(built, 'web')}")
        inside = pids(built, "web")
        removed = product.down("pktmirror")
        assert sorted(removed.ended_pids) == sorted(inside)
        assert started.wait() == -signal.SIGKILL
        assert (outside.poll(), bystander.poll()) == (None, None)
        assert snapshot() == before
        for process in (outside, bystander):
            process.kill()
            process.wait()

    alone(scene)


def test_down_ends_nothing_in_the_network_in_which_it_runs_whatever_the_state_says() -> None:
    def scene() -> None:
        built = product.up(DEMO)
        web = built.namespace("web")
        bystander = subprocess.Popen(["sleep", "1000"])
        netns.remove(web)
        subprocess.run(["ip", "netns", "attach", web, str(bystander.pid)], check=True)
        file = Path("/run/pktmirror/lab/pktmirror.json")
        recorded = msgspec.json.decode(file.read_bytes())
        recorded["namespaces"][web] = netns.inode(web)
        file.write_bytes(msgspec.json.encode(recorded))
        removed = product.down("pktmirror")
        assert bystander.poll() is None
        assert removed.ended_pids == ()
        assert removed.left == (f"processes in {web} stay: this one, or the machine's first, is in it",)
        bystander.kill()
        bystander.wait()

    alone(scene)


def test_a_shell_inside_may_take_the_lab_down_and_lives_on() -> None:
    def scene() -> None:
        before = snapshot()
        built = product.up(DEMO)
        take_down = "from pktmirror import lab; print(*lab.down('pktmirror').left)"
        shell = built.start(
            "web", ["sh", "-c", f'{sys.executable} -c "{take_down}"; echo still here'], stdout=-1, text=True
        )
        output, _ = shell.communicate(timeout=20)
        assert output.splitlines() == [
            "processes in pktmirror-web stay: this one, or the machine's first, is in it",
            "still here",
        ]
        assert snapshot() == before

    alone(scene)


def test_a_pid_that_has_become_anothers_is_not_ended(lab: Build) -> None:
    demo = lab(DEMO)
    with subprocess.Popen(["sleep", "1000"]) as recycled:
        file = Path(f"/run/pktmirror/lab/{demo.name}.json")
        recorded = msgspec.json.decode(file.read_bytes())
        recorded["processes"] = [{"pid": recycled.pid, "started_ticks": 1}]
        file.write_bytes(msgspec.json.encode(recorded))
        try:
            assert product.down(demo.name).ended_pids == ()
            assert recycled.poll() is None
        finally:
            recycled.kill()


def heard(built: Lab, host: str) -> list[bytes]:
    """The frames that pass the host, until none has come for a while."""
    frames: list[bytes] = []
    with (
        built.inside(host) as inside,
        inside.run(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ears,
    ):
        ears.settimeout(QUIET_S)
        while len(frames) < 100:
            try:
                frames.append(ears.recv(2048))
            except TimeoutError:
                break
    return frames


def tcp_greeting(built: Lab, client: str, server: str, address: str) -> bytes:
    """What the server reads of a client that says its own address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with built.inside(client) as here, built.inside(server) as there:
        listening = there.run(socket.create_server, (address, 0), family=family)
        with listening, here.run(socket.socket, family, socket.SOCK_STREAM) as calling:
            calling.settimeout(WITHIN_S)
            calling.connect((address, listening.getsockname()[1]))
            calling.sendall(f"hello from {calling.getsockname()[0]}".encode())
            calling.shutdown(socket.SHUT_WR)
            answering, _ = listening.accept()
            with answering:
                answering.settimeout(WITHIN_S)
                return answering.recv(100)


def hops_left(built: Lab, sender: str, receiver: str, address: str) -> int:
    """The TTL or hop limit, 64 at its start, with which a datagram arrives."""
    six = ":" in address
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if six else (socket.AF_INET, socket.IPPROTO_IP)
    ask = socket.IPV6_RECVHOPLIMIT if six else IP_RECVTTL
    with (
        built.inside(sender) as here,
        built.inside(receiver) as there,
        there.run(socket.socket, family, socket.SOCK_DGRAM) as ears,
        here.run(socket.socket, family, socket.SOCK_DGRAM) as mouth,
    ):
        ears.setsockopt(level, ask, 1)
        ears.bind((address, 0))
        ears.settimeout(WITHIN_S)
        mouth.sendto(b"x", ears.getsockname()[:2])
        _, [(_, _, hops)], _, _ = ears.recvmsg(10, socket.CMSG_SPACE(4))
        return int.from_bytes(hops, "little")


def interrupt_before(number: int) -> Callable[[str], None]:
    steps = iter(range(number + 1))

    def progress(step: str) -> None:
        if next(steps) == number:
            raise KeyboardInterrupt(step)

    return progress


def pids(built: Lab, place: str) -> tuple[int, ...]:
    return next(shown.pids for shown in product.show(built.name).places if shown.name == place)

"""The mirror beside what others have at the same device, in whichever order they come and go: theirs stay, run in their
order and decide as before; and the mirror mirrors."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pktmirror.agent.apply import hop_prefix
from pktmirror.kernel import bpf
from pktmirror.lab import Lab, Topology, host_device
from pktmirror.model.filter import UDP
from tests.lab.mirror import WITHIN_S, Mirror, Session, accepting
from tests.lab.others import BEFORE_ALL, Other, Tcx, Xdp, at_hook
from tests.lab.production import OF_PRODUCTION, Production, producing
from tests.lab.test_mirror_agent import ifindex_of
from tests.lab.topologies import VPC
from tests.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.fact(69)]

Build = Callable[[Topology], Lab]

DROPPED, PASSED = 4444, 5555
SESSION = Session("monitor", filter=accepting(UDP))
HOOKS = {"ingress": bpf.TCX_INGRESS, "egress": bpf.TCX_EGRESS}


def say(mirror: Mirror, source: str, destination: str, port: int) -> bytes:
    """A datagram that nobody else sends; its payload."""
    word = f"{source} to {destination}, port {port}".encode()
    with mirror.inside(source).run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(word, (mirror.address(destination), port))
    return word


def ends_of(hook: str) -> tuple[str, str]:
    """Who sends and who receives what passes a hook of web's device: what it receives the source has sent."""
    return ("web", "client") if hook == "ingress" else ("client", "web")


def copies_of(mirror: Mirror, word: bytes) -> int:
    return sum(word in copy.frame for copy in mirror.collector("monitor").copies())


def assert_theirs_decides_and_ours_mirrors(mirror: Mirror, other: Other, hook: str, *, is_before: bool) -> None:
    """What theirs drops does not arrive, and is mirrored only where the mirror comes before it; all else is as ever."""
    source, destination = ends_of(hook)
    seen = other.seen
    with mirror.tap(destination) as tap:
        before = [copies_of(mirror, f"{source} to {destination}, port {port}".encode()) for port in (DROPPED, PASSED)]
        dropped, passed = (say(mirror, source, destination, port) for port in (DROPPED, PASSED))
        wait_until(lambda: copies_of(mirror, passed) == before[1] + 1, WITHIN_S, "ours does not mirror")
        wait_until(lambda: tap.received(lambda frame: passed in frame), WITHIN_S, "production is lost")
        assert tap.received(lambda frame: dropped in frame) == [], "their verdict does not count"
    assert copies_of(mirror, dropped) == before[0] + (0 if is_before else 1)
    assert other.seen >= seen + 2, "theirs does not run"


@contextmanager
def mirrored(mirror: Mirror) -> Iterator[Production]:
    """With production, which is untouched at the end."""
    with producing(mirror) as production:
        yield production
        production.goes_on(30)
        production.assert_is_untouched()
    mirror.assert_everything_adds_up()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_tcx_program_that_was_there_before(lab: Build, hook: str) -> None:
    with Mirror(lab(VPC)) as mirror, Other(Tcx.DROP, to_port=DROPPED, otherwise=Tcx.NEXT) as other:
        host, ifindex = mirror.inside("host"), ifindex_of(mirror, host_device("web"))
        host.run(other.put_on, ifindex, HOOKS[hook])
        with mirrored(mirror):
            mirror.mirror({"web": [SESSION]})
            assert host.run(at_hook, ifindex, HOOKS[hook])[0] == other.program_id
            assert len(host.run(at_hook, ifindex, HOOKS[hook])) == 2
            assert_theirs_decides_and_ours_mirrors(mirror, other, hook, is_before=True)
        mirror.unheard.add(7)
        mirror.mirror({})
        assert host.run(at_hook, ifindex, HOOKS[hook]) == [other.program_id], "theirs stays when ours goes"
        say(mirror, *ends_of(hook), PASSED)
        mirror.mirror({"web": [SESSION]})
        assert host.run(at_hook, ifindex, HOOKS[hook])[0] == other.program_id


@pytest.mark.parametrize("flags", [0, BEFORE_ALL], ids=["behind ours", "in front of ours"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_tcx_program_that_comes_later_and_goes_first(lab: Build, hook: str, flags: int) -> None:
    otherwise = Tcx.NEXT if flags else Tcx.PASS  # one that lets pass ends the chain: see the next test
    with Mirror(lab(VPC)) as mirror, Other(Tcx.DROP, to_port=DROPPED, otherwise=otherwise) as other:
        host, ifindex = mirror.inside("host"), ifindex_of(mirror, host_device("web"))
        mirror.mirror({"web": [SESSION]})
        [ours] = host.run(at_hook, ifindex, HOOKS[hook])
        with mirrored(mirror):
            host.run(lambda: other.put_on(ifindex, HOOKS[hook], flags=flags))
            order = [other.program_id, ours] if flags else [ours, other.program_id]
            assert host.run(at_hook, ifindex, HOOKS[hook]) == order
            assert_theirs_decides_and_ours_mirrors(mirror, other, hook, is_before=bool(flags))
            mirror.agents["host"].turn()
            assert host.run(at_hook, ifindex, HOOKS[hook]) == order, "the agent leaves it alone"
            other.take_off()
            assert host.run(at_hook, ifindex, HOOKS[hook]) == [ours]


def test_a_tcx_program_in_front_that_ends_the_chain_is_respected_and_takes_its_packets_from_the_mirror(
    lab: Build,
) -> None:
    with Mirror(lab(VPC)) as mirror, Other(Tcx.PASS, to_port=PASSED, otherwise=Tcx.NEXT) as other:
        host, ifindex = mirror.inside("host"), ifindex_of(mirror, host_device("web"))
        host.run(other.put_on, ifindex, bpf.TCX_INGRESS)
        mirror.mirror({"web": [SESSION]})
        with mirror.tap("client") as tap:
            bypassed, seen = (say(mirror, "web", "client", port) for port in (PASSED, DROPPED))
            wait_until(lambda: copies_of(mirror, seen) == 1, WITHIN_S, "ours does not mirror")
            wait_until(lambda: tap.received(lambda frame: bypassed in frame), WITHIN_S, "production is lost")
        assert copies_of(mirror, bypassed) == 0


@pytest.mark.parametrize("is_first", [True, False], ids=["there before", "comes later"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_tc_filter_of_cls_bpf(lab: Build, hook: str, is_first: bool) -> None:
    """The classic hook comes behind tcx, whoever was there first."""
    with Mirror(lab(VPC)) as mirror, Other(Tcx.DROP, to_port=DROPPED, otherwise=Tcx.PASS) as other:
        device = host_device("web")
        pin = mirror.agents["host"].bpffs_root / "others"
        other.program.pin(pin)
        try:
            if is_first:
                add_filter(mirror, device, hook, f"bpf da object-pinned {pin}")
            mirror.mirror({"web": [SESSION]})
            add_clsact(mirror, device)  # before production: the device drops what is sent meanwhile, mirrored or not
            with mirrored(mirror):
                if not is_first:
                    add_filter(mirror, device, hook, f"bpf da object-pinned {pin}")
                assert_theirs_decides_and_ours_mirrors(mirror, other, hook, is_before=False)
            shown = filters(mirror, device, hook)
            mirror.unheard.add(7)
            mirror.mirror({})
            assert filters(mirror, device, hook) == shown, "theirs stays when ours goes"
            seen = other.seen
            say(mirror, *ends_of(hook), PASSED)
            wait_until(lambda: other.seen > seen, WITHIN_S, "theirs does not run any more")
            mirror.mirror({"web": [SESSION]})
            tc(mirror, "qdisc", "del", "dev", device, "clsact")
            before = copies_of(mirror, word := say(mirror, *ends_of(hook), DROPPED))
            assert before <= 2
            wait_until(lambda: copies_of(mirror, word) >= 2, WITHIN_S, "ours goes with theirs")
        finally:
            pin.unlink()


def test_a_mirror_of_u32_and_mirred_at_the_same_device(lab: Build) -> None:
    """Theirs copies what the source sends to another device, ours to its target: each packet once by each."""
    with Mirror(lab(VPC)) as mirror:
        host, device = mirror.lab.namespace("host"), host_device("web")
        subprocess.run(
            f"ip -n {host} link add theirs0 mtu 9000 type veth peer name theirs1 mtu 9000".split(), check=True
        )
        for end in ("theirs0", "theirs1"):
            subprocess.run(f"ip -n {host} link set {end} addrgenmode none up".split(), check=True)
        to_theirs = "protocol ip u32 match ip protocol 17 0xff action mirred egress mirror dev theirs0"
        with mirror.tap("host", "theirs1") as theirs:
            add_filter(mirror, device, "ingress", to_theirs)
            mirror.mirror({"web": [Session("monitor", filter=OF_PRODUCTION)]})
            with producing(mirror) as production:
                production.goes_on()
                production.assert_is_copied(mirror, "monitor")
            words = [word for word in production.ways[0].sent if len(word) == 1000]
            assert words
            sent = len(production.ways[0].sent)
            wait_until(lambda: packets(theirs.received()) >= sent, WITHIN_S, "theirs misses some")
            assert packets(theirs.received()) == sent, "theirs copies each packet once, and no copy of ours"


def packets(frames: list[bytes]) -> int:
    """A super-packet of production counts as its datagrams."""
    return sum(max(1, (int.from_bytes(frame[16:18]) - 28) // 1000 if len(frame) > 2000 else 1) for frame in frames)


@pytest.mark.parametrize("is_first", [True, False], ids=["there before", "comes later"])
def test_an_xdp_program(lab: Build, is_first: bool) -> None:
    """It comes before everything: what it drops was never received, so that it is not mirrored."""
    with Mirror(lab(VPC)) as mirror, Other(Xdp.DROP, to_port=DROPPED, otherwise=Xdp.PASS) as other:
        host, ifindex = mirror.inside("host"), ifindex_of(mirror, host_device("web"))
        if is_first:
            host.run(other.put_on, ifindex)
        mirror.mirror({"web": [SESSION]})
        if not is_first:
            host.run(other.put_on, ifindex)
        with mirrored(mirror) as production:
            assert_theirs_decides_and_ours_mirrors(mirror, other, "ingress", is_before=True)
            production.goes_on()
        mirror.unheard.add(7)
        mirror.mirror({})
        seen = other.seen
        say(mirror, "web", "client", PASSED)
        wait_until(lambda: other.seen > seen, WITHIN_S, "theirs goes with ours")
        mirror.mirror({"web": [SESSION]})
        other.take_off()
        word = say(mirror, "web", "client", DROPPED)
        wait_until(lambda: copies_of(mirror, word) == 1, WITHIN_S, "ours goes with theirs")


def test_no_hop_of_the_mirror_is_a_place_where_others_are(lab: Build) -> None:
    """A program that somebody puts on a hop stays there too; the mirror does not take it for its own."""
    with Mirror(lab(VPC)) as mirror, Other(Tcx.DROP, to_port=DROPPED, otherwise=Tcx.NEXT) as other:
        mirror.mirror({"web": [SESSION]})
        prefix = hop_prefix(mirror.agents["host"].host_id)
        names = [name for _, name in mirror.inside("host").run(socket.if_nameindex) if name.startswith(prefix)]
        finishing = next(name for name in names if name[12] == "d")
        ifindex = ifindex_of(mirror, finishing)
        mirror.inside("host").run(other.put_on, ifindex, bpf.TCX_INGRESS)
        mirror.agents["host"].turn()
        assert other.program_id in mirror.inside("host").run(at_hook, ifindex, bpf.TCX_INGRESS)
        word = say(mirror, "web", "client", PASSED)
        wait_until(lambda: copies_of(mirror, word) == 1, WITHIN_S, "ours does not mirror")


def tc(mirror: Mirror, *arguments: str) -> str:
    argv = ["tc", "-n", mirror.lab.namespace("host"), *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def add_clsact(mirror: Mirror, device: str) -> None:
    if "clsact" not in tc(mirror, "qdisc", "show", "dev", device):
        tc(mirror, "qdisc", "add", "dev", device, "clsact")


def add_filter(mirror: Mirror, device: str, hook: str, filter_: str) -> None:
    add_clsact(mirror, device)
    tc(mirror, "filter", "add", "dev", device, hook, *filter_.split())


def filters(mirror: Mirror, device: str, hook: str) -> str:
    return tc(mirror, "filter", "show", "dev", device, hook)

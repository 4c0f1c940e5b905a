"""Which next hops are unresolved, for how long, and which of them the kernel is to ask for."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pktmirror.agent.neighbours import NextHop, no_answer, to_ask, unresolved
from pktmirror.kernel.netlink import Link, Neighbour

NIC = Link(2, "eth0", None, "02:00:00:00:00:01", 9000, True, None, None, None, None)
TUNNEL = replace(NIC, ifindex=3, name="wg0", kind="wireguard", ethernet=False, resolves=False)
LINKS = {link.ifindex: link for link in (NIC, TUNNEL)}
MAC = "02:00:00:00:00:09"
HOP: NextHop = (2, IPv4Address("10.0.0.9"))
OTHER: NextHop = (2, IPv4Address("10.0.0.8"))
NEVER: frozenset[NextHop] = frozenset()
WAS = frozenset({HOP})


def entry(hop: NextHop = HOP, mac: str | None = None, *, failed: bool = False, incomplete: bool = False) -> Neighbour:
    return Neighbour(*hop, mac, failed, incomplete)


FAILED, ASKED_FOR, KNOWN, NEEDS_NONE = entry(failed=True), entry(incomplete=True), entry(mac=MAC), entry()


def held(*entries: Neighbour) -> dict[tuple[int, str], Neighbour]:
    return {(each.ifindex, str(each.address)): each for each in entries}


@pytest.mark.parametrize(
    ("former", "entries", "is_unresolved"),
    [
        pytest.param(NEVER, [FAILED], True, id="it has not answered"),
        pytest.param(NEVER, [ASKED_FOR], False, id="asked for the first time"),
        pytest.param(NEVER, [], False, id="never asked for"),
        pytest.param(WAS, [FAILED], True, id="it has not answered again"),
        pytest.param(WAS, [ASKED_FOR], True, id="asked for again"),
        pytest.param(WAS, [], True, id="forgotten meanwhile, and asked for again"),
        pytest.param(WAS, [KNOWN], False, id="it has answered"),
        pytest.param(WAS, [NEEDS_NONE], False, id="the device has come to need no link addresses"),
        pytest.param(frozenset({OTHER}), [ASKED_FOR, entry(OTHER, incomplete=True)], False, id="another has failed"),
        pytest.param(frozenset({(7, HOP[1])}), [ASKED_FOR], False, id="the same address at another device has failed"),
    ],
)
def test_a_next_hop_is_unresolved_from_its_first_failure_until_its_link_address_is_known(
    former: frozenset[NextHop], entries: list[Neighbour], is_unresolved: bool
) -> None:
    assert unresolved(former, [HOP], held(*entries), LINKS) == (WAS if is_unresolved else NEVER)


def test_asking_again_and_again_changes_nothing_until_somebody_answers() -> None:
    now = NEVER
    told = []
    for found in (ASKED_FOR, FAILED, ASKED_FOR, FAILED, ASKED_FOR, KNOWN, ASKED_FOR, FAILED):
        now = unresolved(now, [HOP], held(found), LINKS)
        told.append(HOP in now)
    assert told == [False, True, True, True, True, False, False, True]


def test_only_next_hops_of_now_are_remembered_and_all_who_share_one_share_its_state() -> None:
    assert unresolved(WAS, [HOP, HOP, OTHER], held(FAILED, entry(OTHER, MAC)), LINKS) == WAS
    assert unresolved(WAS, [OTHER], held(FAILED, entry(OTHER, MAC)), LINKS) == NEVER


def test_nobody_is_unresolved_at_a_device_without_neighbours_or_at_one_that_is_gone() -> None:
    at = {ifindex: (ifindex, HOP[1]) for ifindex in (2, 3, 4)}
    failed = [entry(hop, failed=True) for hop in at.values()]
    assert unresolved(frozenset(at.values()), at.values(), held(*failed), LINKS) == {at[2]}
    assert to_ask(at.values(), held(*failed), LINKS) == {at[2]}
    assert to_ask(at.values(), {}, LINKS) == {at[2]}


@pytest.mark.parametrize(
    ("entries", "asks"),
    [
        pytest.param([], True, id="nobody has asked yet"),
        pytest.param([FAILED], True, id="it has not answered"),
        pytest.param([ASKED_FOR], False, id="the kernel is asking"),
        pytest.param([KNOWN], False, id="it is known"),
    ],
)
def test_whom_nobody_asks_for_is_asked_for(entries: list[Neighbour], asks: bool) -> None:
    assert to_ask([HOP, HOP], held(*entries), LINKS) == (WAS if asks else NEVER)


def test_an_ipv6_next_hop_is_found_and_named_as_one() -> None:
    hop: NextHop = (2, IPv6Address("fe80::9"))
    assert unresolved(NEVER, [hop], held(entry(hop, failed=True)), LINKS) == {hop}
    assert no_answer(hop) == "the next hop fe80::9 does not answer neighbour solicitations"
    assert no_answer((2, ip_address("10.0.0.9"))) == "the next hop 10.0.0.9 does not answer ARP"

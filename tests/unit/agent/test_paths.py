"""The facts of a session's path, and who listens, by what the kernel says."""

from ipaddress import IPv4Address, ip_address

import pytest

from pktmirror.agent.compile import compile_state, route_queries
from pktmirror.agent.inventory import Device
from pktmirror.agent.listeners import is_heard
from pktmirror.agent.neighbours import NextHop
from pktmirror.agent.paths import Sight, paths, targets
from pktmirror.agent.ways import RouteQuery, Way
from pktmirror.desired import (
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    FilterDocument,
    FoundInterface,
    PathFacts,
    Undeliverable,
    Underlay,
)
from pktmirror.kernel.netlink import Link, Neighbour

TARGET, HOP = IPv4Address("10.0.0.90"), IPv4Address("192.0.2.1")
WEB = FoundInterface(
    key="netns:web/eth0",
    provider="netns",
    instance="web",
    name="eth0",
    device="web0",
    kind="veth",
    mac="02:00:00:00:00:48",
    addresses=("10.0.0.48",),
    mtu=1500,
    up=True,
)
DEVICE = Link(7, "up0", None, "02:00:00:00:00:07", 9000, True, None, None, None, None)
UDP = """   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
 1234: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 12345 2 0000000000000000 0
"""


def state(*deliveries: Destination | Undeliverable) -> DesiredState:
    sessions = tuple(
        DesiredSession(
            session_id=f"tms-{number}", number=number, vni=number, filter_id="f", packet_bytes_max=None, delivery=to
        )
        for number, to in enumerate(deliveries, 1)
    )
    return DesiredState(
        host_id="host",
        revision=1,
        interfaces=(
            DesiredInterface(
                key=WEB.key,
                interface_id="eni-1",
                primary_address="10.0.0.48",
                underlay=Underlay(route_table=100),
                resolvers=(),
                sessions=sessions,
            ),
        ),
        filters={"f": FilterDocument()},
    )


def found(
    desired: DesiredState,
    *,
    way: Way | None,
    neighbour: Neighbour | None = None,
    listens: bool | None = None,
    unresolved: frozenset[NextHop] = frozenset(),
) -> dict[str, PathFacts]:
    ways: dict[RouteQuery, Way] = {} if way is None else dict.fromkeys(route_queries(desired), way)
    wanted = compile_state(desired, [Device(WEB, 3, True)], ways, unresolved=unresolved)
    neighbours = {} if neighbour is None else {(neighbour.ifindex, str(neighbour.address)): neighbour}
    heard = {} if listens is None else {ip_address(TARGET): listens}
    return paths(desired, wanted, Sight(ways, {DEVICE.ifindex: DEVICE}, neighbours, heard, unresolved))


def test_a_path_is_told_from_the_route_to_the_listener():
    desired = state(Destination(address=str(TARGET)))
    way, neighbour = Way(7, HOP, 1500), Neighbour(7, HOP, "02:00:00:00:00:01", False)
    assert found(desired, way=way, neighbour=neighbour, listens=True) == {
        "tms-1": PathFacts(
            address="10.0.0.90",
            port=4789,
            table=100,
            device="up0",
            next_hop="192.0.2.1",
            source="10.0.0.48",
            route_mtu=1500,
            neighbour="02:00:00:00:00:01",
            listens=True,
        )
    }
    assert targets(compile_state(desired, [Device(WEB, 3, True)], dict.fromkeys(route_queries(desired), way))) == {
        (TARGET, 4789)
    }


def test_what_is_not_there_is_not_told():
    desired = state(Destination(address=str(TARGET)), Undeliverable(reason="it is a load balancer"))
    assert found(desired, way=None) == {"tms-1": PathFacts(address="10.0.0.90", port=4789, table=100)}


def test_a_next_hop_that_does_not_answer_is_told_as_that_and_its_old_address_is_not():
    desired = state(Destination(address=str(TARGET)))
    way, unresolved = Way(7, HOP, 1500), frozenset({(7, HOP)})
    failed, asked_for = Neighbour(7, HOP, None, True), Neighbour(7, HOP, None, False, incomplete=True)
    for entry in (failed, asked_for, None):
        silent = found(desired, way=way, neighbour=entry, unresolved=unresolved)["tms-1"]
        assert (silent.neighbour, silent.neighbour_failed) == (None, True), "as long as the session is unresolved"
        assert (silent.next_hop, silent.source, silent.route_mtu) == ("192.0.2.1", "10.0.0.48", 1500), "it has a way"
    first = found(desired, way=way, neighbour=asked_for, unresolved=frozenset({(8, HOP)}))["tms-1"]
    assert (first.neighbour, first.neighbour_failed) == (None, False), "asked for the first time"
    unknown = found(desired, way=Way(7, HOP, 1500))["tms-1"]
    assert (unknown.neighbour, unknown.neighbour_failed, unknown.listens) == (None, False, None)


@pytest.mark.parametrize(
    ("local", "state_", "heard"),
    [
        pytest.param("00000000:12B5", "07", True, id="any address"),
        pytest.param("5A00000A:12B5", "07", True, id="the target's address"),
        pytest.param("0000000000000000FFFF00005A00000A:12B5", "07", True, id="the same, mapped into IPv6"),
        pytest.param("00000000000000000000000000000000:12B5", "07", True, id="any address of both families"),
        pytest.param("5B00000A:12B5", "07", False, id="another address"),
        pytest.param("00000000:12B6", "07", False, id="another port"),
        pytest.param("00000000:12B5", "01", False, id="a connected socket takes from one peer only"),
    ],
)
def test_a_listener_is_a_socket_that_takes_what_is_sent_there(local: str, state_: str, heard: bool):
    text = UDP.format(local=local, remote="00000000:0000", state=state_)
    assert is_heard(text, TARGET, 4789) is heard


def test_nobody_listens_where_there_is_no_socket():
    assert is_heard(UDP.splitlines()[0], TARGET, 4789) is False

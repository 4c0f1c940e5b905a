"""What people see of the ledger."""

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from pktmirror.cli import ledger, status
from pktmirror.cli.balance import InterfaceDirection, Ledger, RuleFigures, Uncollected, document
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import Stage, Tally
from pktmirror.model.rate import Rate
from tests.unit.cli.figures import collected, direction, interface, session


def printed(shown: Any) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def outline(**changed: Any) -> list[tuple[int, str, int]]:
    return [(line.depth, line.label, line.both.packets) for line in ledger.waterfall(session(**changed))]


def test_the_waterfall_names_what_happened_and_leaves_out_losses_that_did_not():
    assert outline() == [
        (0, "offered", 10),
        (1, "taken", 6),
        (2, "sent", 5),
        (3, "cut to the target's MTU", 2),
        (3, "received", 5),
        (4, "written", 5),
        (2, "no route to the target", 1),
        (1, "rejected by rule", 3),
        (1, "no rule matched", 1),
        (1, "network service not enabled", 0),
    ]


def test_losses_stand_below_what_they_are_lost_from():
    lines = outline(
        directions={Direction.INGRESS: direction(stages={}, lost_in_hop_packets=6)},
        collector=collected(
            received=Tally(4, 400), written=Tally(1, 100), not_written=Tally(3, 300), lost_on_wire_packets=1
        ),
    )
    assert (2, "lost in hop", 6) in lines
    assert lines[3:7] == [
        (3, "received", 4),
        (4, "written", 1),
        (4, "not written", 3),
        (3, "lost on the wire", 1),
    ]


def test_a_loss_that_only_a_later_control_plane_knows_is_told_in_its_own_words_and_adds_up():
    stages = {Stage.SENT.value: Tally(5, 500), "new in the next version": Tally(1, 100)}
    told = msgspec.json.encode(
        Ledger(sessions=(session(directions={Direction.INGRESS: direction(stages=stages)}),), interfaces=())
    )
    decoded = msgspec.json.decode(told, type=Ledger)
    assert "✓ adds up" in printed(ledger.shown(decoded))
    assert [(line.depth, line.both) for line in ledger.waterfall(decoded.sessions[0]) if "next" in line.label] == [
        (2, Tally(1, 100))
    ]
    assert document(decoded)["sessions"][0]["directions"]["ingress"]["stages"] == {
        "sent": {"packets": 5, "bytes": 500},
        "new in the next version": {"packets": 1, "bytes": 100},
    }


def test_a_cap_and_what_was_over_it_are_said_and_are_no_difference():
    directions = {
        Direction.INGRESS: direction(stages={Stage.SENT.value: Tally(2, 200), Stage.CAPPED.value: Tally(4, 400)})
    }
    figures = session(
        cap=Rate(packets_per_s=1000),
        directions=directions,
        sent=Tally(2, 200),
        collector=collected(received=Tally(2, 200), written=Tally(2, 200)),
    )
    shown = printed(ledger.shown(Ledger(sessions=(figures,), interfaces=())))
    assert "cap: 1,000 packets/s; 4 packets were over it" in shown
    assert "✓ adds up" in shown
    assert (2, "capped", 4) in outline(directions=directions)
    assert "cap:" not in printed(ledger.shown(Ledger(sessions=(session(),), interfaces=())))


def test_nothing_is_said_of_a_far_end_where_nobody_counts():
    labels = [label for _, label, _ in outline(collector=Uncollected(reason="no monitor"))]
    assert "sent" in labels
    assert not {"received", "written", "lost on the wire"} & set(labels)


def test_an_interface_shows_the_outcomes_that_occurred():
    assert [(line.depth, line.label, line.both.packets) for line in ledger.outcomes(interface())] == [
        (0, "seen", 12),
        (1, "taken by a session", 6),
        (1, "no session took it", 6),
    ]


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234567, "1.23 MB"),
        (12345678, "12.3 MB"),
        (999499, "999 kB"),
        (999500, "1.00 MB"),
        (-1500, "-1.50 kB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_bytes_are_humanised_to_three_digits(bytes_: int, text: str):
    assert ledger.humanised(bytes_) == text


def test_the_ledger_says_that_it_adds_up():
    shown = printed(ledger.shown(Ledger(sessions=(session(),), interfaces=(interface(),))))
    assert shown.count("✓ adds up") == 2
    assert "✗" not in shown
    assert "10.0.0.48 → 10.0.0.9" in shown


def test_the_ledger_says_where_it_does_not_add_up_and_why_a_session_does_not_mirror():
    broken = session(
        problem="target type not yet deliverable",
        sent=Tally(4, 500),
        collector=Uncollected(reason="target type not yet deliverable"),
    )
    shown = printed(ledger.shown(Ledger(sessions=(broken,), interfaces=())))
    assert "✗ sent is 4 packets" in shown
    assert "adds up" not in shown
    assert "! not mirroring: target type not yet deliverable" in shown
    assert "the far end is not compared: target type not yet deliverable" in shown


def test_an_empty_ledger_says_what_to_do():
    assert "create-traffic-mirror-session" in printed(ledger.shown(Ledger(sessions=(), interfaces=())))


def test_what_went_past_the_hooks_is_said_with_its_causes_and_is_no_fault_of_the_sums():
    ingress = msgspec.structs.replace(interface().directions[Direction.INGRESS], bypassed_packets=1234)
    egress = InterfaceDirection(seen=Tally(), outcomes={}, bypassed_packets=0)
    figures = msgspec.structs.replace(interface(), directions={Direction.INGRESS: ingress, Direction.EGRESS: egress})
    shown = printed(ledger.shown(Ledger(sessions=(session(),), interfaces=(figures,))))
    assert "bypassed" in shown
    assert "! 1,234 packets of ingress went past the hooks" in shown
    assert "bpf_redirect_peer" in shown
    assert shown.count("✓ adds up") == 2
    assert [(line.depth, line.label, line.both.packets) for line in ledger.outcomes(figures)][-1] == (
        0,
        "bypassed",
        1234,
    )
    assert document(Ledger(sessions=(), interfaces=(figures,)))["adds_up"] is True


@pytest.mark.parametrize("packets", [None, 0])
def test_where_nothing_went_past_or_nothing_is_compared_nothing_is_said(packets: int | None):
    ingress = msgspec.structs.replace(interface().directions[Direction.INGRESS], bypassed_packets=packets)
    figures = msgspec.structs.replace(interface(), directions={Direction.INGRESS: ingress})
    assert "bypassed" not in printed(ledger.shown(Ledger(sessions=(session(),), interfaces=(figures,))))


def host(**changed: Any) -> status.Host:
    return status.Host(
        **{
            "host_id": "host-1",
            "agent_version": "0.1.0",
            "reported_s_ago": 1.2,
            "applied_revision": 7,
            "problems": (),
            **changed,
        }
    )


@pytest.mark.parametrize(
    ("applied", "said"),
    [
        pytest.param(7, ("7", "green"), id="a host that has applied what is desired"),
        pytest.param(5, ("5 of 7", "yellow"), id="a host that is behind"),
        pytest.param(None, ("not reported since the control plane started", "red"), id="a host that is silent"),
    ],
)
def test_the_status_says_how_far_a_host_is(applied: int | None, said: tuple[str, str]):
    assert status.progress(host(applied_revision=applied), 7) == said


def test_the_status_shows_problems_monitors_and_refused_requests():
    shown = printed(
        status.shown(
            status.Status(
                version="0.1.0",
                account_id="111122223333",
                region="local-1",
                started_at_s=0.0,
                revision=7,
                hosts=(host(problems=("cannot attach to web0",)),),
                sessions=(
                    status.Session(
                        session_id="tms-1",
                        interface_id="eni-1",
                        host_id="host-1",
                        target_id="tmt-1",
                        filter_id="tmf-1",
                        number=1,
                        vni=7,
                        problem=None,
                    ),
                ),
                monitors=(
                    status.Monitor(
                        monitor_id="monitor-1",
                        listening="[fe80::1]:4789",
                        reported_s_ago=0.5,
                        refused={"too short": 2, "no VNI": 0},
                        socket_queue_full=3,
                    ),
                ),
                refused_requests={"AuthFailure": 4},
                bypassed=(
                    status.Bypassed(
                        interface_id="eni-1",
                        host_id="host-1",
                        key="netns:web/eth0",
                        packets={Direction.INGRESS: 2, Direction.EGRESS: 1},
                    ),
                ),
            )
        )
    )
    assert "! eni-1, netns:web/eth0 on host-1: 2 packets of ingress and 1 packet of egress went past the hooks" in shown
    for said in ("! host-1: cannot attach to web0", "mirroring", "[fe80::1]:4789", "too short 2", "AuthFailure 4"):
        assert said in shown
    assert "no VNI" not in shown


def rule_figures(rule_id: str, number: int | None, packets: int, *, in_force: bool = True) -> RuleFigures:
    return RuleFigures(
        rule_id=rule_id,
        number=number,
        direction=Direction.INGRESS,
        action=Action.ACCEPT,
        matched=Tally(packets, packets * 100),
        in_force=in_force,
    )


def test_each_rule_is_a_line_with_its_number_id_action_and_figures():
    rules = (
        rule_figures("tmfr-1", 10, 1234),
        rule_figures("tmfr-2", 20, 0),
        rule_figures("tmfr-1", 10, 5, in_force=False),
        rule_figures("former rules", None, 6, in_force=False),
    )
    lines = printed(ledger.shown(Ledger(sessions=(session(rules=rules),), interfaces=()))).splitlines()
    [head] = [place for place, line in enumerate(lines) if line.split()[:3] == ["direction", "number", "rule"]]
    assert [line.split() for line in lines[head + 2 : head + 6]] == [
        ["ingress", "10", "tmfr-1", "accept", "1,234", "123", "kB"],
        ["ingress", "20", "tmfr-2", "accept", "0", "0", "B"],
        ["ingress", "10", "tmfr-1", "before", "it", "was", "changed", "accept", "5", "500", "B"],
        ["ingress", "former", "rules", "accept", "6", "600", "B"],
    ]
    assert "tmfr" not in printed(ledger.shown(Ledger(sessions=(session(),), interfaces=())))


def test_a_lack_of_figures_is_said_beside_them():
    shown = printed(ledger.shown(Ledger(sessions=(session(rules=(), rules_lack="no room"),), interfaces=())))
    assert "what its rules matched is not complete: no room" in shown

"""What `pktmirror verify` says, and with which exit status it ends."""

import pytest

from pktmirror.cli.verification import answer, document, exit_status, next_steps
from pktmirror.control.probes import (
    ArrivalUnknown,
    Arrived,
    NotSeen,
    NotSent,
    Outcome,
    Verification,
    Waiting,
)


def of(outcome: Outcome, target: str | None = "10.0.0.9") -> Verification:
    return Verification(probe_id="p1", session_id="tms-a", host_id="h1", vni=7, target=target, outcome=outcome)


def arrived(milliseconds: float | None, *, one_clock: bool = True) -> Verification:
    return of(
        Arrived(
            monitor_id="sensor",
            outer_source="10.0.0.1",
            outer_destination="10.0.0.9",
            milliseconds=milliseconds,
            one_clock=one_clock,
        )
    )


@pytest.mark.parametrize(
    ("verification", "said", "status"),
    [
        (arrived(0.412), "arrived after 0.412 ms at sensor", 0),
        (arrived(3.0, one_clock=False), "arrived after 3 ms by the clocks of two machines at sensor", 0),
        (
            arrived(-3.0, one_clock=False),
            "arrived, by its clock before it was sent (the clocks of the two machines differ), at sensor",
            0,
        ),
        (arrived(None), "arrived at sensor", 0),
        (of(NotSent(reason="no route")), "not sent: no route", 1),
        (of(ArrivalUnknown(reason="nobody watches")), "sent, arrival unknown: nobody watches", 3),
        (
            of(NotSeen(monitors=("sensor",), within_s=5.0)),
            "sent, and the monitor sensor at the target has not seen it within 5 s",
            4,
        ),
        (
            of(NotSeen(monitors=("one", "two"), within_s=0.5)),
            "sent, and the monitors one, two at the target have not seen it within 0.5 s",
            4,
        ),
        (of(Waiting(waits_for="agent")), "unknown: the control plane still waits for the agent", 3),
    ],
)
def test_each_outcome_has_a_sentence_and_an_exit_status(verification: Verification, said: str, status: int) -> None:
    assert answer(verification) == said
    assert exit_status([verification]) == status


def test_the_exit_status_of_several_is_the_highest_and_of_none_is_success() -> None:
    unknown, missing = of(ArrivalUnknown(reason="")), of(NotSeen(monitors=(), within_s=1))
    assert exit_status([arrived(1.0), of(NotSent(reason=""))]) == 1
    assert exit_status([missing, arrived(1.0), unknown]) == 4
    assert exit_status([]) == 0


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("interface gone", "plug the source in again"),
        ("no route to the target 203.0.113.9 (table 254)", "add a route"),
        ("target type not yet deliverable", "a network interface"),
        ("target interface gone", "another target"),
        ("the agent of h1 has not reported for 31 s", "start `pktmirror agent`"),
        ("the agent of h1 has not taken the request in time", "see what the agent logs"),
        ("its copies are cut to 40 bytes, and a probe is known by its first 58", "raise the session's packet length"),
        ("the next hop 10.0.0.9 does not answer ARP", "see that the next hop is up"),
        ("something else", "`pktmirror status`"),
    ],
)
def test_what_was_not_sent_says_what_to_do(reason: str, step: str) -> None:
    [said] = next_steps(of(NotSent(reason=reason)))
    assert step in said


def test_what_was_not_seen_names_the_clues_first() -> None:
    problem = "the next hop 10.0.0.9 does not answer ARP"
    plain = [*next_steps(of(NotSeen(monitors=("sensor",), within_s=5.0)))]
    assert [step.split(":")[0] for step in plain] == ["the neighbour", "the firewall", "the listener"]
    with_problem = [*next_steps(of(NotSeen(monitors=("sensor",), within_s=5.0, problem=problem)))]
    assert with_problem[0].startswith(f"the agent of h1 says: {problem}.")
    assert [step.split(":")[0] for step in with_problem[1:]] == ["the firewall", "the listener"]
    refused = [*next_steps(of(NotSeen(monitors=("sensor",), within_s=5.0, refused=True)))]
    assert refused[0].startswith("an ICMP error about a copy of this session came back")
    full = [*next_steps(of(NotSeen(monitors=("sensor",), within_s=5.0, socket_queue_full=True)))]
    assert full[0].startswith("the monitor's socket dropped datagrams meanwhile")


def test_what_arrived_has_no_next_step_and_what_a_stranger_got_says_how_to_see_it() -> None:
    assert [*next_steps(arrived(1.0))] == []
    look, run = next_steps(of(ArrivalUnknown(reason="")))
    assert "VNI 7" in look
    assert "--listen 10.0.0.9:4789" in run
    [_, run] = next_steps(of(ArrivalUnknown(reason=""), target="2001:db8::9"))
    assert "--listen [2001:db8::9]:4789" in run


def test_the_document_says_the_same_for_scripts() -> None:
    assert document(of(NotSent(reason="no route"), target=None)) == {
        "session_id": "tms-a",
        "host_id": "h1",
        "target": None,
        "vni": 7,
        "outcome": "not sent",
        "reason": "no route",
        "next_steps": ["`pktmirror status` tells more of the session and its host"],
    }

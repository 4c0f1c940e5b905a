"""What a live trace tells, beside the model: they agree, or it is said loudly; and which packets are asked for."""

import json
from ipaddress import ip_network
from typing import Any

import pytest

from pktmirror.cli.explanation import PlacedSession
from pktmirror.cli.traced import History, Rules, lines, selection, told, told_document
from pktmirror.model.evaluation import Surroundings, Verdict
from pktmirror.model.exclusions import NEVER_MIRRORED
from pktmirror.model.filter import TCP, UDP, Action, Direction, Filter, PortRange, Rule
from pktmirror.model.ledger import InterfaceOutcome, Stage
from pktmirror.model.refusal import Refusal
from pktmirror.tracing import Offered, Selection, TracedPacket

ANY4 = ip_network("0.0.0.0/0")
SURROUNDINGS = Surroundings(NEVER_MIRRORED, frozenset())
LOGIN: dict[str, Any] = {
    "time_ns": 1_700_000_000_000_000_000,
    "direction": Direction.INGRESS,
    "bytes": 100,
    "packets": 1,
    "outcome": InterfaceOutcome.TAKEN,
    "protocol": TCP,
    "source": "10.0.0.6",
    "destination": "10.0.0.48",
    "source_port": 40000,
    "destination_port": 22,
    "revision": 5,
    "offers": (Offered("tms-1", Verdict.REJECTED_BY_RULE), Offered("tms-2", Verdict.TAKEN)),
    "taken_by": "tms-2",
    "stage": Stage.SENT.value,
    "copies": {Stage.SENT.value: 1},
    "copied_bytes": 100,
}


def rules(revision: int = 5, port: int = 22) -> Rules:
    """The first session rejects what the second accepts."""
    sessions = tuple(
        PlacedSession(
            f"tms-{number}",
            number,
            f"tmf-{number}",
            Filter((Rule(7, Direction.INGRESS, action, ANY4, ANY4, TCP, None, PortRange(port, port)),)),
        )
        for number, action in ((1, Action.REJECT), (2, Action.ACCEPT))
    )
    return Rules(revision, sessions, SURROUNDINGS)


def packet(**changed: Any) -> TracedPacket:
    return TracedPacket(**{**LOGIN, **changed})


def nothing_taken(**changed: Any) -> TracedPacket:
    offers = tuple(Offered(session_id, Verdict.NO_RULE_MATCHED) for session_id in ("tms-1", "tms-2"))
    not_taken = {"outcome": InterfaceOutcome.NOT_TAKEN, "taken_by": None, "stage": None, "copies": {}}
    return packet(**{**not_taken, "offers": offers, "destination_port": 80, **changed})


def test_where_kernel_and_model_agree_the_rules_are_told():
    for one in (packet(), nothing_taken()):
        told_ = told(one, History(rules()))
        assert (told_.compared, told_.disagreement) == (True, None)
    first, *sessions = lines(told(packet(), History(rules())))
    assert first.endswith("tcp 10.0.0.6:40000 → 10.0.0.48:22  100 B: taken by tms-2, 1 copy sent, 100 B")
    assert [text.split(" (id")[0] for text in sessions] == [
        "    #1 tms-1: rejected by rule: rule 7",
        "    #2 tms-2: taken: rule 7",
    ]
    document = told_document(told(packet(), History(rules())))
    assert [each["rule_number"] for each in document["sessions"]] == [7, 7]
    assert json.dumps(document)


@pytest.mark.parametrize(
    ("one", "model"),
    [
        pytest.param(packet(destination_port=80), "tms-1: no rule matched; tms-2: no rule matched", id="taken"),
        pytest.param(nothing_taken(destination_port=22), "tms-2: taken", id="not taken"),
        pytest.param(
            packet(offers=(Offered("tms-1", Verdict.TAKEN),), taken_by="tms-1"), "tms-1: rejected", id="another session"
        ),
        pytest.param(
            packet(protocol=UDP, destination_port=67, source_port=68), "never mirrored: dhcp", id="never mirrored"
        ),
        pytest.param(
            packet(outcome=InterfaceOutcome.NEVER_MIRRORED, offers=(), taken_by=None, stage=None),
            "tms-1: rejected by rule",
            id="mirrored after all",
        ),
    ],
)
def test_where_they_disagree_it_is_said(one: TracedPacket, model: str):
    told_ = told(one, History(rules()))
    assert told_.compared
    assert told_.disagreement is not None
    assert model in told_.disagreement
    assert told_document(told_)["disagreement"] == told_.disagreement


@pytest.mark.parametrize(
    "one",
    [
        packet(outcome=InterfaceOutcome.NOT_IP, protocol=None, source=None, destination=None, offers=()),
        packet(outcome=InterfaceOutcome.OWN_COPY, offers=(), taken_by=None, stage=None),
        packet(outcome=InterfaceOutcome.NEVER_MIRRORED, protocol=None, source=None, offers=()),
        packet(revision=4),
        packet(revision=6),
        packet(revision=None, offers=None),
    ],
    ids=["not IP", "own copy", "ARP", "an older revision", "a newer one", "a policy that is gone"],
)
def test_what_the_model_has_no_rules_for_is_not_compared(one: TracedPacket):
    told_ = told(one, History(rules()))
    assert (told_.compared, told_.explanation, told_.disagreement) == (False, None, None)
    assert lines(told_)
    assert told_document(told_)["compared_with_model"] is False


def test_between_two_revisions_that_decide_alike_every_one_does():
    history = History(rules(5))
    history.add(rules(9))
    assert history.of(7) is not None
    assert (history.of(4), history.of(10), history.newest_revision) == (None, None, 9)
    history.add(rules(12, port=80))
    assert history.of(11) is None, "one of the two holds, and nobody knows which"
    assert history.of(12) == rules(12, port=80)


@pytest.mark.parametrize(
    ("changed", "became"),
    [
        ({"stage": Stage.CAPPED.value, "copies": {}}, "taken by tms-2, and not copied: capped"),
        (
            {"packets": 3, "copies": {Stage.SENT.value: 1, Stage.CUT.value: 2}, "copied_bytes": 3000},
            "taken by tms-2, 3 copies sent, 3000 B (cut to fit: 2)",
        ),
        ({"copies": {Stage.STALE.value: 1}}, "taken by tms-2, 1 copy lost: session changed on the way"),
        ({"copies": {}}, "taken by tms-2, of 1 copy nothing was heard behind the hops"),
    ],
)
def test_what_became_of_the_copy_is_said(changed: dict[str, Any], became: str):
    first, *_ = lines(told(packet(**changed), History(rules())))
    assert first.endswith(became)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((None, None, None, None), Selection()),
        ((Direction.EGRESS, "tcp", None, None), Selection(direction=Direction.EGRESS, protocol=6)),
        ((None, None, "10.0.0.6", "10.0.0.0/24"), Selection(source="10.0.0.6", destination="10.0.0.0/24")),
        ((None, None, "10.0.0.6:22", None), Selection(source="10.0.0.6", source_ports=PortRange(22, 22))),
        ((None, None, None, ":1024-65535"), Selection(destination_ports=PortRange(1024, 65535))),
        ((None, "17", "2001:db8::/64", None), Selection(protocol=17, source="2001:db8::/64")),
        (
            (None, None, "[2001:db8::6]:53", None),
            Selection(source="2001:db8::6", source_ports=PortRange(53, 53)),
        ),
    ],
)
def test_words_select_packets(words: tuple[Any, ...], asked: Selection):
    assert selection(*words) == asked


@pytest.mark.parametrize(
    "words",
    [
        (None, "smtp", None, None),
        (None, None, "nowhere", None),
        (None, None, "10.0.0.6:", None),
        (None, None, "10.0.0.256", None),
        (None, None, "10.0.0.0/33", None),
        (None, None, ":70000", None),
        (None, None, ":5-4", None),
        (None, None, "10.0.0.6", "2001:db8::6"),
        (None, None, "", None),
    ],
)
def test_words_that_select_nothing_are_refused_with_a_way_out(words: tuple[Any, ...]):
    with pytest.raises(Refusal) as refused:
        selection(*words)
    assert refused.value.do

"""When the ledger adds up, and what is said where it does not."""

from typing import Any

import pytest

from pktmirror.cli.balance import (
    Ledger,
    Uncollected,
    differences,
    document,
    interface_differences,
    of_session,
)
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import Stage, Tally
from pktmirror.model.refusal import Refusal
from tests.unit.cli.figures import collected, direction, interface, session


def test_a_session_whose_every_packet_has_a_name_adds_up():
    assert differences(session()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(
            {"offered": Tally(11, 1000)},
            "ingress: offered is 11 packets, 1,000 bytes, and the verdicts 10 packets, 1,000 bytes",
            id="more offered than verdicts",
        ),
        pytest.param(
            {"offered": Tally(10, 1001)},
            "ingress: offered is 10 packets, 1,001 bytes, and the verdicts 10 packets, 1,000 bytes",
            id="a byte too many",
        ),
        pytest.param(
            {"stages": {Stage.SENT.value: Tally(5, 500), Stage.CUT.value: Tally(2, 200)}},
            "ingress: 1 packet taken and neither sent nor lost for a counted reason: "
            "in flight, or dropped between the hops",
            id="a packet that vanished between the hops",
        ),
        pytest.param(
            {"stages": {Stage.SENT.value: Tally(5, 500), Stage.NO_ROUTE.value: Tally(3, 300)}},
            "ingress: 2 packets more sent or lost than were taken",
            id="more stages than taken",
        ),
    ],
)
def test_what_does_not_add_up_at_the_source_is_one_sentence(changed: dict[str, Any], said: str):
    assert differences(session(directions={Direction.INGRESS: direction(**changed)})) == [said]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(
            {"received": Tally(3, 300), "written": Tally(3, 300), "lost_on_wire_packets": 2},
            "2 packets sent and not received: in flight, or lost between host and collector",
            id="lost on the wire",
        ),
        pytest.param(
            {"received": Tally(6, 600), "written": Tally(6, 600), "lost_on_wire_packets": -1},
            "1 packet more received than sent: somebody else sends with this VNI, "
            "or counters began anew while the control plane was down",
            id="received from somebody else",
        ),
        pytest.param(
            {"received": Tally(5, 499), "written": Tally(5, 499)},
            "sent is 5 packets, 500 bytes, and received 5 packets, 499 bytes",
            id="a byte changed on the way",
        ),
        pytest.param(
            {"written": Tally(4, 400), "not_written": Tally(1, 100)},
            "1 packet received and not written: the monitor's report says why",
            id="not written",
        ),
    ],
)
def test_what_does_not_add_up_on_the_way_is_one_sentence(changed: dict[str, Any], said: str):
    assert differences(session(collector=collected(**changed))) == [said]


def test_a_shared_stream_is_compared_with_all_that_its_sessions_sent():
    shared = {"received": Tally(9, 900), "written": Tally(9, 900), "shared_with": ("tms-2",)}
    assert differences(session(collector=collected(**shared, lost_on_wire_packets=0))) == []
    [said] = differences(session(collector=collected(**shared, lost_on_wire_packets=1)))
    assert said.startswith("1 packet sent (with tms-2) and not received")


def test_where_nobody_counts_at_the_far_end_the_source_still_adds_up():
    assert differences(session(collector=Uncollected(reason="no monitor reports this target"))) == []


def test_the_sum_of_both_directions_is_what_was_sent():
    [said] = differences(session(sent=Tally(5, 501), collector=Uncollected(reason="no monitor")))
    assert said == "sent is 5 packets, 501 bytes, and both directions 5 packets, 500 bytes"


def test_an_interface_has_seen_the_sum_of_its_outcomes():
    assert interface_differences(interface()) == []
    [said] = interface_differences(interface(seen=Tally(13, 1300)))
    assert said == "ingress: seen is 13 packets, 1,300 bytes, and the outcomes 12 packets, 1,200 bytes"


def test_one_session_of_the_ledger_comes_with_its_interface_and_nothing_else():
    whole = Ledger(
        sessions=(session(), session(session_id="tms-2", interface_id="eni-2")),
        interfaces=(interface(), interface("eni-2")),
    )
    chosen = of_session(whole, "tms-2")
    assert [one.session_id for one in chosen.sessions] == ["tms-2"]
    assert [one.interface_id for one in chosen.interfaces] == ["eni-2"]
    assert of_session(whole, None) == whole


def test_a_session_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(Refusal) as refusal:
        of_session(Ledger(sessions=(session(),), interfaces=()), "tms-9")
    assert str(refusal.value).startswith("There is no session tms-9. Found: tms-1.")


def test_the_document_has_exact_figures_under_the_names_of_the_model():
    told = document(Ledger(sessions=(session(),), interfaces=(interface(),)))
    assert told["adds_up"] is True
    [shown] = told["sessions"]
    assert shown["adds_up"] is True
    assert shown["differences"] == []
    ingress = shown["directions"]["ingress"]
    assert ingress["offered"] == {"packets": 10, "bytes": 1000}
    assert ingress["verdicts"][Verdict.REJECTED_BY_RULE.value] == {"packets": 3, "bytes": 300}
    assert ingress["stages"][Stage.NO_ROUTE.value] == {"packets": 1, "bytes": 100}
    assert shown["collector"]["type"] == "collected"
    assert shown["collector"]["received"] == {"packets": 5, "bytes": 500}


def test_one_difference_anywhere_and_the_document_says_so():
    told = document(Ledger(sessions=(session(),), interfaces=(interface(seen=Tally()),)))
    assert told["adds_up"] is False
    assert told["sessions"][0]["adds_up"] is True
    assert told["interfaces"][0]["adds_up"] is False


@pytest.mark.parametrize(
    ("by_rules", "said"),
    [
        pytest.param(
            {Action.ACCEPT: Tally(5, 600), Action.REJECT: Tally(3, 300)},
            ["ingress: taken is 6 packets, 600 bytes, and the accept rules 5 packets, 600 bytes"],
            id="a packet that was taken by no rule",
        ),
        pytest.param(
            {Action.ACCEPT: Tally(6, 600), Action.REJECT: Tally(3, 301)},
            ["ingress: rejected by rule is 3 packets, 300 bytes, and the reject rules 3 packets, 301 bytes"],
            id="a byte too many",
        ),
        pytest.param(
            {},
            [
                "ingress: taken is 6 packets, 600 bytes, and the accept rules 0 packets, 0 bytes",
                "ingress: rejected by rule is 3 packets, 300 bytes, and the reject rules 0 packets, 0 bytes",
            ],
            id="rules that matched nothing",
        ),
    ],
)
def test_what_rules_matched_is_what_the_session_took_and_rejected(by_rules: dict[Action, Tally], said: list[str]):
    figures = session(directions={Direction.INGRESS: direction(by_rules=by_rules)})
    assert differences(figures) == said
    lacking = session(directions={Direction.INGRESS: direction(by_rules=by_rules)}, rules_lack="for a time …")
    assert differences(lacking) == [], "a lack that is known and told is no difference"

"""Figures of a ledger that adds up, to be changed one at a time."""

from typing import Any

from pktmirror.cli.balance import Collected, DirectionFigures, InterfaceDirection, InterfaceFigures, SessionFigures
from pktmirror.model.evaluation import Verdict
from pktmirror.model.filter import Action, Direction
from pktmirror.model.ledger import InterfaceOutcome, Stage, Tally

SEEN = Tally(12, 1200)


def direction(**changed: Any) -> DirectionFigures:
    """Ten offered, six taken, of which five were sent and one was lost."""
    return DirectionFigures(
        **{
            "offered": Tally(10, 1000),
            "verdicts": {
                Verdict.TAKEN: Tally(6, 600),
                Verdict.REJECTED_BY_RULE: Tally(3, 300),
                Verdict.NO_RULE_MATCHED: Tally(1, 100),
                Verdict.SERVICE_NOT_ENABLED: Tally(),
            },
            "stages": {
                Stage.SENT.value: Tally(5, 500),
                Stage.NO_ROUTE.value: Tally(1, 100),
                Stage.CUT.value: Tally(2, 200),
            },
            "lost_in_hop_packets": 0,
            "by_rules": {Action.ACCEPT: Tally(6, 600), Action.REJECT: Tally(3, 300)},
            **changed,
        }
    )


def collected(**changed: Any) -> Collected:
    return Collected(
        **{
            "monitors": ("monitor-1",),
            "received": Tally(5, 500),
            "written": Tally(5, 500),
            "not_written": Tally(),
            "lost_on_wire_packets": 0,
            "shared_with": (),
            **changed,
        }
    )


def session(**changed: Any) -> SessionFigures:
    return SessionFigures(
        **{
            "session_id": "tms-1",
            "interface_id": "eni-1",
            "target_id": "tmt-1",
            "vni": 7,
            "number": 1,
            "outer_source": "10.0.0.48",
            "outer_destination": "10.0.0.9",
            "problem": None,
            "directions": {
                Direction.INGRESS: direction(),
                Direction.EGRESS: DirectionFigures(offered=Tally(), verdicts={}, stages={}, lost_in_hop_packets=0),
            },
            "rules_lack": None,
            "sent": Tally(5, 500),
            "collector": collected(),
            **changed,
        }
    )


def interface(interface_id: str = "eni-1", seen: Tally = SEEN) -> InterfaceFigures:
    outcomes = {InterfaceOutcome.TAKEN: Tally(6, 600), InterfaceOutcome.NOT_TAKEN: Tally(6, 600)}
    return InterfaceFigures(
        interface_id=interface_id,
        host_id="host-1",
        key="netns:web/eth0",
        directions={Direction.INGRESS: InterfaceDirection(seen=seen, outcomes=outcomes)},
    )

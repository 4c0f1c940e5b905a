"""What session templates make of the interfaces that there are."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.control.records import InterfaceRecord, SessionRecord, TargetRecord
from pktmirror.control.templates import Decision, Outcome, Situation, decide, selects
from pktmirror.desired import InstanceFacts
from pktmirror.model.limits import Quotas
from pktmirror.model.target import LoadBalancerTarget
from pktmirror.model.template import Selector, Template
from pktmirror.networks import load
from tests.unit.control.records import interface, session, target

NETWORKS = load("""
[[vpc]]
name = "office"
cidr = "10.0.0.0/16"
[[vpc.subnet]]
name = "a"
cidr = "10.0.0.0/24"
[[vpc.subnet]]
name = "b"
cidr = "10.0.1.0/24"
""")
[OFFICE] = NETWORKS.vpcs
WEB1, WEB2, WEB3 = (interface(f"web{number}", f"10.0.0.{number}") for number in (1, 2, 3))
DB = interface("db", "10.0.1.9", host="h2")
SENSOR = interface("sensor", "10.0.0.200")
ALL = (WEB1, WEB2, WEB3, DB, SENSOR)
GONE_S = 1.0


def template(name: str = "doc/web", *, select: Selector | None = None, **more: Any) -> Template:
    wanted = {"target_id": "tmt-sensor", "filter_id": "tmf-f", "number": 1, "limit": 10, **more}
    return Template(name=name, select=select or Selector(name="web*"), **wanted)


def situation(
    *templates: Template,
    interfaces: tuple[InterfaceRecord, ...] = ALL,
    sessions: tuple[SessionRecord, ...] = (),
    origins: dict[str, str] | None = None,
    tags: dict[str, dict[str, str]] | None = None,
    targets: tuple[TargetRecord, ...] = (target("sensor"),),
    quotas: Quotas | None = None,
) -> Situation:
    return Situation(
        templates,
        interfaces,
        sessions,
        origins or {},
        tags or {},
        {record.target_id: record for record in targets},
        {"tmf-f", "tmf-g"},
        NETWORKS,
        quotas or Quotas(),
    )


def after(now: Situation, decision: Decision) -> Situation:
    """The situation when a decision is carried out in its order; numbers and ids stay unique at every step."""
    sessions = {each.session_id: each for each in now.sessions}
    origins = dict(now.origins)
    for session_id in decision.delete:
        del sessions[session_id], origins[session_id]

    def put(record: SessionRecord) -> None:
        taken = {(o.interface_id, o.number) for o in sessions.values() if o.session_id != record.session_id}
        assert (record.interface_id, record.number) not in taken
        sessions[record.session_id] = record

    for record in decision.change:
        assert record.session_id in sessions
        put(record)
    for making in decision.make:
        of = making.template
        session_id = f"tms-{of.name}-{making.interface_id}"
        put(
            SessionRecord(
                session_id,
                making.interface_id,
                of.target_id,
                of.filter_id,
                of.number,
                of.vni or 7,
                of.packet_bytes_max,
                of.description,
            )
        )
        origins[session_id] = of.name
    return replace(now, sessions=tuple(sessions.values()), origins=origins)


def settled(now: Situation) -> Situation:
    """After as many decisions as it takes, which are few."""
    for _ in range(8):
        decision = decide(now)
        if decision.is_nothing:
            return now
        now = after(now, decision)
    raise AssertionError("it does not come to rest")


def made(now: Situation) -> list[tuple[str, str]]:
    return sorted((origin, each.interface_id) for each in now.sessions if (origin := now.origins.get(each.session_id)))


def reasons(now: Situation) -> dict[str, str]:
    """Of the one template."""
    [outcome] = decide(now).outcomes
    return {each.interface_id: each.reason for each in outcome.reasons}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (Selector(name="web*"), [WEB1, WEB2, WEB3]),
        (Selector(name="web?"), [WEB1, WEB2, WEB3]),
        (Selector(name="web2"), [WEB2]),
        (Selector(name="eb2"), []),
        (Selector(host="h2"), [DB]),
        (Selector(key="*b"), [DB]),
        (Selector(vpc="office", name="*"), list(ALL)),
        (Selector(vpc=OFFICE.vpc_id), list(ALL)),
        (Selector(vpc="home"), []),
        (Selector(subnet="b"), [DB]),
        (Selector(subnet=OFFICE.subnets[0].subnet_id, name="web1"), [WEB1]),
        (Selector(tags={"role": "front*"}), [WEB1, DB]),
        (Selector(tags={"role": "front*"}, host="h1"), [WEB1]),
        (Selector(tags={"role": "*", "stage": "*"}), [DB]),
        (Selector(), []),
    ],
    ids=repr,
)
def test_a_selector_means_what_all_its_patterns_fit(selector: Selector, selected: list[InterfaceRecord]) -> None:
    tags = {"eni-web1": {"role": "front"}, "eni-db": {"role": "frontier", "stage": ""}}
    found = [each for each in ALL if selects(selector, each, tags.get(each.interface_id, {}), NETWORKS)]
    assert found == selected


def test_each_interface_that_is_selected_gets_a_session_and_no_other_does() -> None:
    now = settled(situation(template()))
    assert made(now) == [("doc/web", "eni-web1"), ("doc/web", "eni-web2"), ("doc/web", "eni-web3")]
    [outcome] = decide(now).outcomes
    assert (outcome.selected, len(outcome.sessions), outcome.reasons, outcome.problem) == (3, 3, (), None)


def test_a_session_that_is_not_selected_any_more_is_deleted_and_others_are_left() -> None:
    by_hand = session("hand", "db", "sensor")
    now = settled(situation(template(), sessions=(by_hand,)))
    [of_web2] = [each.session_id for each in now.sessions if each.interface_id == "eni-web2"]
    narrowed = replace(now, templates=(template(select=Selector(name="web2")),))
    decision = decide(narrowed)
    assert (decision.make, decision.change) == ((), ())
    assert sorted(decision.delete) == sorted(
        each.session_id for each in now.sessions if each.session_id not in (of_web2, "tms-hand")
    )
    assert {each.session_id for each in settled(replace(now, templates=())).sessions} == {"tms-hand"}


def test_a_session_that_somebody_deleted_is_made_again_and_one_that_was_changed_is_put_right() -> None:
    now = settled(situation(template()))
    first, second, third = now.sessions
    spoiled = replace(second, number=7, filter_id="tmf-g", packet_bytes_max=64, description="x", vni=9)
    decision = decide(replace(now, sessions=(spoiled, third)))
    assert [making.interface_id for making in decision.make] == [first.interface_id]
    assert decision.change == (replace(second, vni=9),)  # its own VNI is as good as another
    assert decision.delete == ()


def test_a_vni_that_the_template_says_is_put_right_too() -> None:
    now = settled(situation(template(vni=5)))
    spoiled = tuple(replace(each, vni=9) for each in now.sessions)
    assert decide(replace(now, sessions=spoiled)).change == now.sessions


def test_an_interface_that_is_gone_keeps_its_session_and_gets_none() -> None:
    gone = replace(WEB2, detached_at_s=GONE_S)
    assert made(settled(situation(template(), interfaces=(WEB1, gone)))) == [("doc/web", "eni-web1")]
    now = settled(situation(template()))
    left = replace(now, interfaces=(WEB1, gone, WEB3, DB, SENSOR))
    assert decide(left).is_nothing


def test_beyond_the_limit_nothing_is_made_and_the_reason_is_said() -> None:
    now = settled(situation(template(limit=2)))
    assert [source for _, source in made(now)] == ["eni-web1", "eni-web2"]
    assert reasons(now) == {"eni-web3": "the template's limit of 2 is reached"}


def test_a_lower_limit_takes_those_first_that_are_gone() -> None:
    now = settled(situation(template()))
    gone = replace(WEB1, detached_at_s=GONE_S)
    fewer = replace(now, templates=(template(limit=2),), interfaces=(gone, WEB2, WEB3, DB, SENSOR))
    assert [source for _, source in made(settled(fewer))] == ["eni-web2", "eni-web3"]


@pytest.mark.parametrize(
    ("limit", "quotas"),
    [
        (2, Quotas()),
        (10, Quotas(sources_per_interface_target=2)),
        (10, Quotas(sessions_per_account=2)),
        (10, Quotas(sessions_per_target=2)),
    ],
)
def test_the_session_of_an_interface_that_is_gone_makes_room_for_one_that_is_there(limit: int, quotas: Quotas) -> None:
    two = settled(situation(template(limit=limit), interfaces=(WEB1, WEB2, SENSOR), quotas=quotas))
    gone = replace(WEB1, detached_at_s=GONE_S)
    assert decide(replace(two, interfaces=(gone, WEB2, SENSOR))).is_nothing
    now = settled(replace(two, interfaces=(gone, WEB2, WEB3, SENSOR)))
    assert [source for _, source in made(now)] == ["eni-web2", "eni-web3"]
    back = settled(replace(now, interfaces=(WEB1, WEB2, WEB3, SENSOR)))
    assert made(back) == made(now)
    assert "reached" in reasons(back)["eni-web1"]


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [
        (Quotas(sessions_per_account=3), "the quota sessions_per_account of 3 is reached"),
        (Quotas(sources_per_interface_target=3), "the quota sources_per_interface_target of 3 is reached"),
        (Quotas(sessions_per_target=3), "the quota sessions_per_target of 3 is reached"),
    ],
)
def test_a_quota_is_kept_and_said(quotas: Quotas, reason: str) -> None:
    by_hand = session("hand", "db", "sensor")
    now = settled(situation(template(), sessions=(by_hand,), quotas=quotas))
    assert [source for _, source in made(now)] == ["eni-web1", "eni-web2"]
    assert reasons(now) == {"eni-web3": reason}


def test_a_load_balancer_takes_any_number_of_sources() -> None:
    balancer = target("sensor", LoadBalancerTarget("arn"))
    now = settled(situation(template(), targets=(balancer,), quotas=Quotas(sources_per_interface_target=1)))
    assert len(made(now)) == 3


def test_what_stands_in_the_way_is_said_interface_by_interface() -> None:
    nic = replace(interface("web4"), found=msgspec.structs.replace(interface("web4").found, not_mirrorable="a bridge"))
    by_hand = session("hand", "web1", "sensor", number=1)
    others = tuple(session(f"o{number}", "web2", "sensor", number) for number in (5, 6, 7))
    now = settled(situation(template(select=Selector(name="*")), interfaces=(*ALL, nic), sessions=(by_hand, *others)))
    assert [source for _, source in made(now)] == ["eni-db", "eni-web3"]
    assert reasons(now) == {
        "eni-web1": "session number 1 is taken by tms-hand",
        "eni-web2": "the quota sessions_per_interface of 3 is reached",
        "eni-web4": "it cannot be a source: a bridge",
        "eni-sensor": "it is the interface of target tmt-sensor, and none is both source and target",
    }


def test_of_two_templates_with_one_number_the_first_by_name_has_it_and_the_holder_keeps_it() -> None:
    first, second = template("doc/a"), template("doc/b")
    now = settled(situation(first, second, interfaces=(WEB1, SENSOR)))
    assert made(now) == [("doc/a", "eni-web1")]
    [of_first, of_second] = decide(now).outcomes
    assert of_first.reasons == ()
    assert [each.reason for each in of_second.reasons] == [
        "session number 1 is taken by tms-doc/a-eni-web1 of template doc/a"
    ]
    held = settled(situation(second, interfaces=(WEB1, SENSOR)))
    assert made(settled(replace(held, templates=(first, second)))) == [("doc/b", "eni-web1")]


def test_a_number_that_becomes_free_goes_to_who_waits_for_it() -> None:
    names = ("doc/a", "doc/b", "doc/c")
    one_two_three = tuple(template(name, number=number) for number, name in enumerate(names, 1))
    now = settled(situation(*one_two_three, interfaces=(WEB1, SENSOR)))
    moved = replace(now, templates=tuple(template(name, number=number) for number, name in enumerate(names, 2)))
    assert [(each.session_id, each.number) for each in decide(moved).change] == [
        ("tms-doc/c-eni-web1", 4),
        ("tms-doc/b-eni-web1", 3),
        ("tms-doc/a-eni-web1", 2),
    ]


def test_a_number_that_is_taken_leaves_the_session_its_own_and_says_so() -> None:
    """All else is as the template says: what it was before may be about to be deleted."""
    now = settled(situation(template(), interfaces=(WEB1, SENSOR), sessions=(session("hand", "web1", "sensor", 2),)))
    moved = settled(replace(now, templates=(template(number=2, filter_id="tmf-2"),), filters={*now.filters, "tmf-2"}))
    [before] = [each for each in now.sessions if each.session_id != "tms-hand"]
    [after] = [each for each in moved.sessions if each.session_id != "tms-hand"]
    assert after == replace(before, filter_id="tmf-2")
    assert reasons(moved) == {
        "eni-web1": "tms-doc/web-eni-web1 is not as its template says: session number 2 is taken by tms-hand"
    }


@pytest.mark.parametrize("missing", ["target_id", "filter_id"])
def test_a_template_whose_target_or_filter_is_gone_makes_nothing_and_says_so(missing: str) -> None:
    [outcome] = decide(situation(template(**{missing: "tm-gone"}))).outcomes
    assert outcome == Outcome(
        template(**{missing: "tm-gone"}), 3, (), (), f"its {missing.removesuffix('_id')} tm-gone does not exist"
    )


NAMES = ("web1", "web2", "db1", "db2", "sensor")
SELECTORS = st.sampled_from(
    [Selector(name="*"), Selector(name="web*"), Selector(name="*1"), Selector(tags={"role": "x"}), Selector(host="h1")]
)
TEMPLATES = st.lists(
    st.builds(
        template,
        name=st.sampled_from(["d/a", "d/b", "d/c"]),
        select=SELECTORS,
        number=st.integers(1, 3),
        limit=st.integers(0, 4),
        target_id=st.sampled_from(["tmt-sensor", "tmt-nlb"]),
        filter_id=st.sampled_from(["tmf-f", "tmf-g", "tmf-gone"]),
    ),
    max_size=3,
    unique_by=lambda each: each.name,
).map(tuple)
INTERFACES = st.tuples(
    *(
        st.builds(
            lambda name, gone: interface(name, f"10.0.0.{len(name)}", detached_at_s=GONE_S if gone else None),
            st.just(name),
            st.booleans(),
        )
        for name in NAMES
    )
)
WORLD = {
    "tags": st.dictionaries(st.sampled_from([f"eni-{name}" for name in NAMES]), st.just({"role": "x"})),
    "interfaces": INTERFACES,
}
QUOTAS = st.builds(
    Quotas,
    sessions_per_account=st.integers(0, 6),
    sessions_per_interface=st.integers(0, 3),
    sources_per_interface_target=st.integers(0, 3),
)
SESSIONS = st.lists(
    st.builds(
        lambda source, number: session(f"hand-{source}-{number}", source, "sensor", number),
        st.sampled_from(NAMES[:-1]),
        st.integers(1, 3),
    ),
    max_size=3,
    unique_by=lambda each: each.session_id,
).map(tuple)


@given(data=st.data(), quotas=QUOTAS, by_hand=SESSIONS)
def test_whatever_comes_and_goes_it_comes_to_rest_within_quotas_and_leaves_what_is_others(
    data: st.DataObject, quotas: Quotas, by_hand: tuple[SessionRecord, ...]
) -> None:
    targets = (target("sensor"), target("nlb", LoadBalancerTarget("arn")))
    now = situation(sessions=by_hand, targets=targets, quotas=quotas)
    for _ in range(3):
        before = len(now.sessions)
        now = replace(now, templates=data.draw(TEMPLATES), **{name: data.draw(one) for name, one in WORLD.items()})
        now = settled(now)
        assert [each for each in now.sessions if each.session_id not in now.origins] == list(by_hand)
        assert len(now.sessions) <= max(quotas.sessions_per_account, before)
        limits = {each.name: each.limit for each in now.templates}
        for outcome in decide(now).outcomes:
            assert len(outcome.sessions) <= limits[outcome.template.name]
            told = {each.interface_id for each in outcome.reasons}
            there = {
                each.interface_id
                for each in now.interfaces
                if each.attached
                and selects(outcome.template.select, each, now.tags.get(each.interface_id, {}), NETWORKS)
            }
            sources = {each.interface_id for each in now.sessions if each.session_id in outcome.sessions}
            if outcome.problem is None:
                assert there <= sources | told, "an interface that is selected has a session or a reason why not"


def labelled(record: InterfaceRecord, name: str, **labels: str) -> InterfaceRecord:
    facts = InstanceFacts(engine="docker", instance_id="4bab", name=name, labels=labels)
    return replace(record, found=msgspec.structs.replace(record.found, facts=facts))


def test_a_selector_selects_by_the_labels_that_an_engine_tells() -> None:
    front, back = labelled(WEB1, "shop-1", tier="front"), labelled(WEB2, "shop-2", tier="back")
    now = situation(template(select=Selector(labels={"tier": "fr*"})), interfaces=(front, back, WEB3, SENSOR))
    assert [making.interface_id for making in decide(now).make] == [WEB1.interface_id]
    assert not selects(Selector(labels={"tier": "*", "team": "*"}), front, {}, NETWORKS), "all that is given must hold"
    assert not selects(Selector(labels={"tier": "*"}), WEB1, {"tier": "front"}, NETWORKS), "a tag is no label"
    assert not selects(Selector(tags={"tier": "*"}), front, {}, NETWORKS), "nor a label a tag"


def test_an_instance_is_selected_by_its_engines_name_and_by_its_providers() -> None:
    record = labelled(WEB1, "shop-1")
    selected = [selects(Selector(name=name), record, {}, NETWORKS) for name in ("shop-1", "web1", "web2")]
    assert selected == [True, True, False]


def test_an_interface_is_selected_by_the_key_that_it_has_without_its_engine_too() -> None:
    record = replace(WEB1, found=msgspec.structs.replace(WEB1.found, key="libvirt:6c5b/x", plain_key="tap:vnet0"))
    selected = [selects(Selector(key=key), record, {}, NETWORKS) for key in ("libvirt:*", "tap:*", "netns:*")]
    assert selected == [True, True, False]

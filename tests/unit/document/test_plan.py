"""From what there is to what a document says, against a control plane without sockets.

Plans are carried out as `pktmirror apply` does. To apply twice changes nothing, to export and apply changes nothing,
and what the document has not made is never touched.
"""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from pktmirror.document import Document, Malformed, Plan, State, exported, parse, plan, written
from pktmirror.document.values import (
    Destination,
    FilterEntry,
    Located,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
)
from pktmirror.model.filter import Action, Direction, NetworkService, Rule
from pktmirror.model.limits import Quotas
from pktmirror.model.template import NAME_TAG, ORIGIN_TAG, Selector
from tests.budget import examples
from tests.unit.control.records import HOST
from tests.unit.document.account import Account
from tests.unit.document.documents import ARN, documents

SOURCES, SENSORS = ("web1", "web2", "web3"), ("sensor1", "sensor2")
QUOTAS = Quotas(sessions_per_interface=20, rules_per_filter=20)
ANY = ip_network("0.0.0.0/0")


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """With resources of somebody else, which must never move."""
    account = Account(tmp_path_factory.mktemp("account"), QUOTAS)
    ids = account.finds(*SOURCES, *SENSORS)
    others = Document(
        "others",
        (TargetEntry("a", Destination.INTERFACE, ids[-1]),),
        (FilterEntry("a", (accept(10),)),),
        (SessionEntry("a", ids[0], "a", "a", number=9, vni=5),),
        (TemplateEntry("a", Selector(name="web2"), "a", "a", 8, 5, vni=6),),
    )
    assert account.carry_out(plan(others, account.state())).failed is None
    account.ec2("CreateTrafficMirrorTarget", {"NetworkLoadBalancerArn": ARN, "Description": "nobody's"})
    account.ec2("CreateTrafficMirrorFilter", {"TagSpecifications": [tagged("filter", {"Name": "no document's"})]})
    yield account
    account.store.close()


@pytest.fixture
def clean(account: Account) -> Iterator[Account]:
    """The account; afterwards the document `office` has nothing there, and all else is as it was."""
    before = account.state()
    yield account
    empty(account)
    assert account.state() == before


def empty(account: Account) -> None:
    account.refuse_after = None
    done = account.carry_out(plan(Document("office"), account.state(), prune=True))
    assert done.failed is None


def tagged(kind: str, tags: dict[str, str]) -> dict[str, Any]:
    given = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"ResourceType": f"traffic-mirror-{kind}", "Tags": given}


def accept(number: int, action: Action = Action.ACCEPT, direction: Direction = Direction.INGRESS) -> RuleEntry:
    return RuleEntry(Rule(number, direction, action, ANY, ANY))


def at(name: str) -> Located:
    return Located(HOST, name)


def office(**changes: Any) -> Document:
    """A target, a filter and a session."""
    whole = Document(
        "office",
        (TargetEntry("collector", Destination.INTERFACE, at("sensor1")),),
        (FilterEntry("web", (accept(10),)),),
        (SessionEntry("first", at("web1"), "collector", "web"),),
    )
    return replace(whole, **changes)


def applied(account: Account, document: Document, *, prune: bool = False) -> list[str]:
    """Apply it; the operations that this took."""
    planned = plan(document, account.state(), prune=prune)
    done = account.carry_out(planned)
    assert done.failed is None, f"{done.failed} after {planned.changes}"
    assert plan(document, account.state(), prune=prune).changes == (), "to apply twice changes nothing"
    return [change.operation.replace("TrafficMirror", "") for change in planned.changes]


def owned(state: State) -> dict[str, list[str]]:
    """The names of what the document has made, by kind."""
    return {
        kind: sorted(
            name.partition("/")[2] for each in there if (name := each.tags.get(NAME_TAG, "")).startswith("office/")
        )
        for kind, there in (("targets", state.targets), ("filters", state.filters), ("sessions", state.sessions))
    }


def session(state: State, name: str = "first") -> Any:
    [found] = [each for each in state.sessions if each.tags.get(NAME_TAG) == f"office/{name}"]
    return found


def test_everything_is_made_in_the_order_in_which_it_is_needed_and_then_nothing_is_left_to_do(clean: Account) -> None:
    operations = applied(
        clean, office(templates=(TemplateEntry("t", Selector(name="web3"), "collector", "web", 4, 5),))
    )
    assert operations == ["CreateFilter", "CreateFilterRule", "CreateTarget", "CreateSession", "PutTemplate"]
    state = clean.state()
    assert owned(state) == {"targets": ["collector"], "filters": ["web"], "sessions": ["first"]}
    assert [each.tags for each in state.sessions if each.number == 4] == [{ORIGIN_TAG: "office/t"}]


@pytest.mark.parametrize(
    ("changes", "operations"),
    [
        pytest.param(
            {"sessions": (SessionEntry("first", at("web1"), "collector", "web", 3, 7, 64, "d"),)},
            ["ModifySession"],
            id="what EC2 can change is changed in place",
        ),
        pytest.param(
            {"sessions": (SessionEntry("first", at("web2"), "collector", "web"),)},
            ["DeleteSession", "CreateSession"],
            id="a session of another source is another session",
        ),
        pytest.param(
            {"targets": (TargetEntry("collector", Destination.INTERFACE, at("sensor2")),)},
            ["CreateTarget", "ModifySession", "DeleteTarget"],
            id="a target is replaced under its sessions",
        ),
        pytest.param(
            {"filters": (FilterEntry("web", (accept(10),), description="d"),)},
            ["CreateFilter", "CreateFilterRule", "ModifySession", "DeleteFilter"],
            id="a filter with another description is replaced under its sessions",
        ),
        pytest.param(
            {"filters": (FilterEntry("web", (accept(10),), frozenset({NetworkService.AMAZON_DNS}), tags={"a": "b"}),)},
            ["CreateTags", "ModifyFilterNetworkServices"],
            id="services and tags are changed in place",
        ),
        pytest.param(
            {
                "filters": (
                    FilterEntry("web", (accept(11), accept(12, Action.REJECT), accept(10, direction=Direction.EGRESS))),
                )
            },
            ["DeleteFilterRule", "CreateFilterRule", "CreateFilterRule", "CreateFilterRule"],
            id="a rule is known by direction and number",
        ),
        pytest.param(
            {"filters": (FilterEntry("web", (accept(10, Action.REJECT),)),)},
            ["ModifyFilterRule"],
            id="a rule is changed in place",
        ),
        pytest.param({"sessions": ()}, [], id="what is no longer in the document stays"),
    ],
)
def test_a_change_takes_the_least_that_ec2_needs_for_it(
    clean: Account, changes: dict[str, Any], operations: list[str]
) -> None:
    applied(clean, office())
    assert applied(clean, office(**changes)) == operations


def test_rules_that_accept_go_first_and_come_last(clean: Account) -> None:
    """So that for a moment too little may be mirrored, never more than before or after."""
    accepts, rejects = Action.ACCEPT, Action.REJECT
    before = FilterEntry("web", (accept(1), accept(2, rejects), accept(3), accept(4, rejects)))
    after = FilterEntry("web", (accept(3, rejects), accept(4, accepts), accept(5), accept(6, rejects)))
    applied(clean, office(filters=(before,)))
    changes = plan(office(filters=(after,)), clean.state()).changes
    assert [(change.verb.value, change.name) for change in changes] == [
        ("delete", "web ingress 1"),
        ("create", "web ingress 6"),
        ("modify", "web ingress 3"),
        ("modify", "web ingress 4"),
        ("create", "web ingress 5"),
        ("delete", "web ingress 2"),
    ]


def test_what_is_no_longer_in_the_document_is_named_and_goes_only_where_that_is_asked_for(clean: Account) -> None:
    template = TemplateEntry("t", Selector(name="web3"), "collector", "web", 4, 5)
    applied(clean, office(templates=(template,)))
    planned = plan(Document("office"), clean.state())
    assert planned.changes == ()
    assert sorted((left.kind.value, left.name) for left in planned.left) == [
        ("filter", "web"),
        ("session", "first"),
        ("target", "collector"),
        ("template", "t"),
    ]
    operations = applied(clean, Document("office"), prune=True)
    assert operations == ["DeleteSession", "DeleteTemplate", "DeleteFilter", "DeleteTarget"]


def test_what_another_session_still_uses_is_not_deleted_and_that_is_said_before_anything_changes(
    clean: Account,
) -> None:
    applied(clean, office())
    state = clean.state()
    made = clean.ec2(
        "CreateTrafficMirrorSession",
        {
            "NetworkInterfaceId": state.interfaces[HOST, "web2"],
            "TrafficMirrorTargetId": session(state).target_id,
            "TrafficMirrorFilterId": session(state).filter_id,
            "SessionNumber": 1,
        },
    )["TrafficMirrorSession"]["TrafficMirrorSessionId"]
    for document, prune in (
        (Document("office"), True),
        (office(targets=(TargetEntry("collector", Destination.INTERFACE, at("sensor2")),)), False),
    ):
        with pytest.raises(Malformed, match=f"has to go, and session {made} uses it"):
            plan(document, clean.state(), prune=prune)
    clean.ec2("DeleteTrafficMirrorSession", {"TrafficMirrorSessionId": made})


def test_what_a_template_uses_that_stays_is_not_deleted_though_it_has_no_session(clean: Account) -> None:
    template = TemplateEntry("t", Selector(name="nobody"), "collector", "web", 4, 5)
    applied(clean, office(templates=(template,)))
    with pytest.raises(Malformed, match=r"tmt-.* has to go, and template office/t uses it"):
        plan(office(targets=(TargetEntry("collector", Destination.INTERFACE, at("sensor2")),)), clean.state())


def test_a_session_without_a_number_keeps_the_one_it_has_and_a_new_one_takes_the_lowest(clean: Account) -> None:
    applied(clean, office(sessions=(SessionEntry("first", at("web1"), "collector", "web", 5),)))
    two = (
        SessionEntry("first", at("web1"), "collector", "web"),
        SessionEntry("second", at("web1"), "collector", "web"),
    )
    assert applied(clean, office(sessions=two)) == ["CreateSession"]
    state = clean.state()
    assert (session(state).number, session(state, "second").number) == (5, 1)
    assert applied(clean, office(sessions=(two[0], replace(two[1], number=5)))) == ["ModifySession"] * 3
    assert (session(clean.state()).number, session(clean.state(), "second").number) == (1, 5)


def test_sessions_change_their_numbers_round_a_ring(clean: Account) -> None:
    def numbered(*numbers: int) -> Document:
        return office(
            sessions=tuple(
                SessionEntry(name, at("web1"), "collector", "web", number)
                for name, number in zip("abc", numbers, strict=True)
            )
        )

    applied(clean, numbered(1, 2, 3))
    ids = {name: session(clean.state(), name).id for name in "abc"}
    assert applied(clean, numbered(2, 3, 1)) == ["ModifySession"] * 4
    assert {name: session(clean.state(), name).id for name in "abc"} == ids
    assert [session(clean.state(), name).number for name in "abc"] == [2, 3, 1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"sessions": (SessionEntry("s", at("web1"), "collector", "web", 9),)},
            "has number 9 on eni-.*, as has",
        ),
        (
            {"sessions": tuple(SessionEntry(name, at("web1"), "collector", "web", 1) for name in "ab")},
            "session b has number 1 on eni-.*, as has session a: give it another",
        ),
        ({"sessions": (SessionEntry("s", at("web9"), "collector", "web"),)}, "names web9 on h1, where no interface is"),
        ({"sessions": (SessionEntry("s", "eni-9", "collector", "web"),)}, "names eni-9, which is no interface that is"),
        (
            {"targets": (TargetEntry("collector", Destination.INTERFACE, "eni-9"),)},
            "target collector names eni-9",
        ),
        (
            {"sessions": (SessionEntry("s", at("web1"), "tmt-0", "web"),)},
            "s has the target tmt-0, which does not",
        ),
        ({"filters": (FilterEntry("web", id="tmf-0"),)}, "filter web is tmf-0, which does not exist: drop its id"),
    ],
)
def test_what_cannot_be_planned_is_said_and_nothing_changes(
    clean: Account, changes: dict[str, Any], problem: str
) -> None:
    before = clean.state()
    with pytest.raises(Malformed, match=problem):
        plan(office(**changes), before)
    assert clean.state() == before


def test_an_id_binds_an_entry_to_what_is_there_which_is_then_changed_but_never_replaced_or_pruned(
    account: Account,
) -> None:
    made = account.ec2("CreateTrafficMirrorFilter", {"Description": "by hand"})["TrafficMirrorFilter"]
    id_ = made["TrafficMirrorFilterId"]
    bound = FilterEntry("mine", (accept(1),), description="by hand", id=id_)
    assert applied(account, Document("office", filters=(bound,))) == ["CreateFilterRule"]
    assert applied(account, Document("office"), prune=True) == []
    with pytest.raises(Malformed, match=f"filter mine is bound to {id_}, and is not as it says: EC2 cannot change a f"):
        plan(Document("office", filters=(replace(bound, description="else"),)), account.state())
    account.ec2("DeleteTrafficMirrorFilter", {"TrafficMirrorFilterId": id_})


def test_a_source_becomes_a_target_and_a_target_a_source(clean: Account) -> None:
    applied(clean, office(sessions=(SessionEntry("first", at("web3"), "collector", "web"),)))
    turned = office(
        targets=(TargetEntry("collector", Destination.INTERFACE, at("web3")),),
        sessions=(SessionEntry("first", at("sensor1"), "collector", "web"),),
    )
    assert applied(clean, turned) == ["DeleteSession", "CreateTarget", "DeleteTarget", "CreateSession"]


def picked(*names: str, to: str = "collector", number: int = 4) -> TemplateEntry:
    """A template of an interface by its name, or of all that are called web."""
    return TemplateEntry("t", Selector(name=names[0] if names else "web*"), to, "web", number, 5)


@pytest.mark.parametrize(
    ("template", "operations"),
    [
        pytest.param(picked("web2"), ["PutTemplate", "CreateTarget"], id="it only lets go"),
        pytest.param(
            picked("web2", number=5),
            ["PutTemplate", "CreateTarget"],
            id="with another number",
        ),
        pytest.param(
            picked("web2", to="second"),
            ["PutTemplate", "CreateTarget", "PutTemplate"],
            id="and goes to the target that its source becomes",
        ),
        pytest.param(
            replace(picked("web2", to="second"), filter="other"),
            ["CreateFilter", "PutTemplate", "CreateTarget", "PutTemplate"],
            id="by another filter too, which counts from the first on",
        ),
    ],
)
def test_a_source_of_a_template_becomes_a_target(
    clean: Account, template: TemplateEntry, operations: list[str]
) -> None:
    applied(clean, office(sessions=(), templates=(picked(),)))
    before = {each.interface_id: each for each in clean.state().sessions if each.tags.get(ORIGIN_TAG) == "office/t"}
    web = clean.state().interfaces
    assert before.keys() >= {web[HOST, "web2"], web[HOST, "web3"]}
    second = TargetEntry("second", Destination.INTERFACE, at("web3"))
    others = (FilterEntry("other"),) if template.filter == "other" else ()
    turned = office(
        targets=(*office().targets, second), filters=(*office().filters, *others), sessions=(), templates=(template,)
    )
    assert applied(clean, turned) == operations
    [left] = [each for each in clean.state().sessions if each.tags.get(ORIGIN_TAG) == "office/t"]
    assert (left.interface_id, left.id) == (web[HOST, "web2"], before[web[HOST, "web2"]].id), (
        "and the other is as it was"
    )
    assert left.number == template.number


def test_a_replacement_that_was_interrupted_is_finished_and_the_old_one_goes(clean: Account) -> None:
    applied(clean, office())
    old = session(clean.state()).target_id
    replaced = office(targets=(TargetEntry("collector", Destination.INTERFACE, at("sensor2")),))
    clean.refuse_after = len(clean.calls) + 1
    assert len(clean.carry_out(plan(replaced, clean.state())).ids) == 1
    clean.refuse_after = None
    state = clean.state()
    assert owned(state)["targets"] == ["collector", "collector"]
    assert session(state).target_id == old
    assert applied(clean, replaced) == ["ModifySession", "DeleteTarget"]
    [left] = [each for each in clean.state().targets if each.tags.get(NAME_TAG) == "office/collector"]
    assert left.id == session(clean.state()).target_id != old


@pytest.mark.parametrize(("there", "here"), [(None, None), (None, 8500), (8500, None), (8500, 8500), (64, None)])
def test_a_session_that_leaves_a_load_balancer_has_the_packet_length_of_the_document(
    clean: Account, there: int | None, here: int | None
) -> None:
    """To a load balancer 8500 is shown where none was given (spec 1.8)."""
    sessions = (SessionEntry("first", at("web1"), "collector", "web", packet_length=there),)
    balancer = (TargetEntry("collector", Destination.LOAD_BALANCER, ARN),)
    applied(clean, office(targets=balancer, sessions=sessions))
    assert session(clean.state()).packet_length == (there or 8500)
    applied(clean, office(sessions=(replace(sessions[0], packet_length=here),)))
    assert session(clean.state()).packet_length == here


def test_what_an_id_binds_is_not_also_taken_by_its_name(clean: Account) -> None:
    applied(clean, office())
    filter_id = session(clean.state()).filter_id
    bound = office(
        filters=(FilterEntry("other", (accept(10),), id=filter_id),),
        sessions=(SessionEntry("first", at("web1"), "collector", "other"),),
    )
    assert applied(clean, bound, prune=True) == []


def test_an_export_names_what_the_document_has_made_and_leaves_out_what_templates_make(clean: Account) -> None:
    template = TemplateEntry("t", Selector(name="web3"), "collector", "web", 4, 5)
    applied(clean, office(templates=(template,)))
    state = clean.state()
    document = exported(state, "office", only_named=True)
    [first] = document.sessions
    assert (first.name, first.target, first.filter) == ("first", "collector", "web")
    assert document.templates == (template,)
    whole = exported(state, "office")
    assert {entry.id for entry in (*whole.targets, *whole.filters, *whole.sessions)} > {None}
    assert len(whole.sessions) == 1, "all others are of other documents and of templates"
    assert [entry.name for entry in exported(state, "new").targets] == [
        f"target.{each.id.removeprefix('tmt-')}" for each in state.targets if NAME_TAG not in each.tags
    ]


def test_an_export_names_everything_so_that_apply_takes_it(clean: Account) -> None:
    """A `Name` may be anything: an id of another resource, or what an export calls another one that has none."""

    def made(tags: dict[str, str]) -> str:
        answer = clean.ec2("CreateTrafficMirrorFilter", {"TagSpecifications": [tagged("filter", tags)] if tags else []})
        return str(answer["TrafficMirrorFilter"]["TrafficMirrorFilterId"])

    ids = [made({}), made({})]
    fallbacks = [f"filter.{id_.removeprefix('tmf-')}" for id_ in ids]
    ids += [made({"Name": name}) for name in (*ids, *fallbacks, "fine", "fine", "eni-0123456789abcdef0", "no name")]
    ids.append(made({NAME_TAG: f"office/{fallbacks[0]}"}))
    ids.append(made({NAME_TAG: f"office/{ids[1]}"}))
    ids.append(made({f"k{number}": "v" for number in range(50)}))
    try:
        state = clean.state()
        document = exported(state, "office")
        names = [entry.name for entry in document.filters]
        assert len(set(names)) == len(names)
        assert names.count("fine") == 1
        assert {entry.id for entry in document.filters} >= {*ids} - {ids[-3]}
        assert plan(parse(written(document)), state, prune=True) == Plan(())
    finally:
        for id_ in ids:
            clean.ec2("DeleteTrafficMirrorFilter", {"TrafficMirrorFilterId": id_})


# --- whatever the documents are

TAGS = st.dictionaries(st.sampled_from(["a", "Name"]), st.sampled_from(["", "b"]), max_size=2)
DESCRIPTIONS = st.none() | st.just("d")
SELECTORS = st.sampled_from([Selector(name="web*"), Selector(name="web3"), Selector(host="h1", name="web?")])
OFFICE = documents(
    st.sampled_from([at(name) for name in SOURCES]),
    st.sampled_from([at(name) for name in SENSORS]),
    DESCRIPTIONS,
    TAGS,
    SELECTORS,
)


def possible(account: Account, document: Document, *, prune: bool) -> Plan:
    """The plan, where there is one."""
    try:
        return plan(document, account.state(), prune=prune)
    except Malformed:
        assume(False)
        raise


PROPERTY = settings(
    max_examples=examples(25),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes a tenth of a second: too long to shrink
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@PROPERTY
@given(first=OFFICE, second=OFFICE, prune=st.booleans())
def test_to_apply_twice_or_to_export_and_apply_changes_nothing(
    account: Account, first: Document, second: Document, prune: bool
) -> None:
    before = account.state()
    try:
        for document in (first, second):
            done = account.carry_out(possible(account, document, prune=prune))
            assert done.failed is None
            state = account.state()
            assert plan(document, state, prune=prune).changes == ()
            for only_named in (True, False):
                again = parse(written(exported(state, "office", only_named=only_named)))
                assert plan(again, state, prune=True) == Plan(())
            if prune:
                entries = (document.targets, document.filters, document.sessions)
                names = dict(zip(owned(state), (sorted(each.name for each in of) for of in entries), strict=True))
                assert owned(state) == names
    finally:
        empty(account)
    assert account.state() == before, "what is of others has not moved"


@PROPERTY
@given(first=OFFICE, second=OFFICE, data=st.data())
def test_a_plan_that_fails_half_way_leaves_what_the_next_apply_finishes(
    account: Account, first: Document, second: Document, data: st.DataObject
) -> None:
    before = account.state()
    try:
        for document in (first, second):
            planned = possible(account, document, prune=True)
            stop = data.draw(st.integers(0, len(planned.changes)))
            account.refuse_after = len(account.calls) + stop
            done = account.carry_out(planned)
            assert len(done.ids) == stop
            assert (done.failed is None) == (stop == len(planned.changes))
            account.refuse_after = None
            assert account.carry_out(plan(document, account.state(), prune=True)).failed is None
            assert plan(document, account.state(), prune=True) == Plan(())
    finally:
        empty(account)
    assert account.state() == before

"""The document between control plane and agent: what goes in comes out, and other layouts stay out."""

from ipaddress import ip_network
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.desired import (
    LAYOUT,
    RULES_NOT_TOLD,
    DesiredInterface,
    DesiredSession,
    DesiredState,
    Destination,
    ExclusionDocument,
    FilterDocument,
    FoundInterface,
    InterfaceFigures,
    Report,
    RuleFigures,
    SessionFigures,
    SessionStatus,
    Undeliverable,
    Underlay,
    decode_desired_state,
    decode_report,
    encode,
)
from pktmirror.model.evaluation import Verdict
from pktmirror.model.exclusions import NEVER_MIRRORED, Exclusion
from pktmirror.model.filter import Action, Direction, Filter, NetworkService, PortRange, Rule
from pktmirror.model.ledger import InterfaceLedger, InterfaceOutcome, RuleLedger, SessionLedger, Stage, Tally

T = TypeVar("T")

words = st.text(max_size=12)
counts = st.integers(0, 2**63 - 1)
ports = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda ends: PortRange(min(ends), max(ends)))
NETWORKS = tuple(
    tuple(ip_network(text) for text in texts)
    for texts in (("0.0.0.0/0", "10.0.0.48/32", "10.0.0.0/9"), ("::/0", "fd00::48/128", "fc00::/7"))
)


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.one_of(st.none(), strategy)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    networks = st.sampled_from(draw(st.sampled_from(NETWORKS)))
    return Rule(
        draw(st.integers(1, 32766)),
        draw(st.sampled_from(Direction)),
        draw(st.sampled_from(Action)),
        draw(networks),
        draw(networks),
        draw(maybe(st.integers(0, 255))),
        draw(maybe(ports)),
        draw(maybe(ports)),
    )


filters = st.builds(
    Filter, st.lists(rules(), max_size=3).map(tuple), st.frozensets(st.sampled_from(NetworkService), max_size=1)
)
exclusions = st.builds(Exclusion, words, maybe(st.ip_addresses()), maybe(st.integers(0, 255)), maybe(ports))
deliveries = st.one_of(
    st.builds(Destination, address=words, port=st.integers(1, 65535), mtu=maybe(counts)),
    st.builds(Undeliverable, reason=words),
)
sessions = st.builds(
    DesiredSession,
    session_id=words,
    number=st.integers(1, 32766),
    vni=st.integers(1, 2**24 - 1),
    filter_id=words,
    packet_bytes_max=maybe(st.integers(1, 8500)),
    delivery=deliveries,
)
interfaces = st.builds(
    DesiredInterface,
    key=words,
    interface_id=words,
    primary_address=words,
    underlay=st.builds(Underlay, route_table=counts, device=maybe(words), mtu_max=maybe(counts)),
    resolvers=st.lists(words, max_size=2).map(tuple),
    sessions=st.lists(sessions, max_size=3).map(tuple),
)
desired_states = st.builds(
    DesiredState,
    host_id=words,
    revision=counts,
    interfaces=st.lists(interfaces, max_size=3).map(tuple),
    filters=st.dictionaries(words, filters.map(FilterDocument.of), max_size=2),
    exclusions=st.lists(exclusions.map(ExclusionDocument.of), max_size=2).map(tuple),
)
tallies = st.builds(Tally, counts, counts)
found_interfaces = st.builds(
    FoundInterface,
    key=words,
    provider=words,
    instance=maybe(words),
    name=words,
    device=words,
    kind=words,
    mac=words,
    addresses=st.lists(words, max_size=2).map(tuple),
    mtu=counts,
    up=st.booleans(),
    not_mirrorable=maybe(words),
)
session_ledgers = st.builds(
    SessionLedger,
    st.dictionaries(st.sampled_from(Verdict), tallies),
    st.dictionaries(st.sampled_from(Stage), tallies),
)
interface_ledgers = st.builds(InterfaceLedger, st.dictionaries(st.sampled_from(InterfaceOutcome), tallies))
directions = st.sampled_from(Direction)
reports = st.builds(
    Report,
    host_id=words,
    agent_version=words,
    applied_revision=st.integers(-1, 2**63 - 1),
    interfaces=st.lists(found_interfaces, max_size=2).map(tuple),
    statuses=st.lists(st.builds(SessionStatus, session_id=words, problem=maybe(words)), max_size=2).map(tuple),
    sessions=st.lists(
        st.builds(SessionFigures, session_id=words, directions=st.dictionaries(directions, session_ledgers)), max_size=2
    ).map(tuple),
    mirrored_interfaces=st.lists(
        st.builds(InterfaceFigures, key=words, directions=st.dictionaries(directions, interface_ledgers)), max_size=2
    ).map(tuple),
    problems=st.lists(words, max_size=2).map(tuple),
)


@given(desired_states)
def test_a_desired_state_survives_the_wire(state: DesiredState) -> None:
    assert decode_desired_state(encode(state)) == state


@given(reports)
def test_a_report_survives_the_wire(report: Report) -> None:
    assert decode_report(encode(report)) == report


MAPS = {"filters", "directions", "verdicts", "stages", "outcomes", "bypassed_packets"}
"""Members that are maps from names to values; all other objects have members that a version may add to."""


def of_a_later_version(document: bytes) -> bytes:
    """The same, with a member more in every object."""

    def grown(value: object, is_map: bool = False) -> object:
        match value:
            case dict():
                more = {} if is_map else {"new_in_the_next_version": {"of": ["any", 1, None]}}
                return {name: grown(member, name in MAPS) for name, member in value.items()} | more
            case list():
                return [grown(member) for member in value]
        return value

    return msgspec.json.encode(grown(msgspec.json.decode(document)))


NAMED = {"verdicts", "stages", "outcomes"}
"""Maps to which a later version may add a name; elsewhere a map is of a host's own names."""


def with_later_names(document: bytes) -> bytes:
    """The same, with a name more that has counted something in each of these maps."""

    def grown(value: object, is_named: bool = False) -> object:
        match value:
            case dict():
                more = {"new in the next version": {"packets": 3, "bytes": 180}} if is_named else {}
                return {name: grown(member, name in NAMED) for name, member in value.items()} | more
            case list():
                return [grown(member) for member in value]
        return value

    return msgspec.json.encode(grown(msgspec.json.decode(document)))


@given(desired_states)
def test_an_agent_reads_what_a_later_control_plane_adds_to(state: DesiredState) -> None:
    assert decode_desired_state(of_a_later_version(encode(state))) == state


@given(reports)
def test_a_control_plane_reads_what_a_later_agent_adds_to(report: Report) -> None:
    assert decode_report(of_a_later_version(encode(report))) == report
    assert decode_report(with_later_names(of_a_later_version(encode(report)))) == report, "what it names is left out"


@given(filters)
def test_a_filter_survives_its_document(filter_: Filter) -> None:
    assert FilterDocument.of(filter_).filter() == filter_


@given(exclusions)
def test_an_exclusion_survives_its_document(line: Exclusion) -> None:
    assert ExclusionDocument.of(line).exclusion() == line


def test_equal_filters_are_equal_documents() -> None:
    """Services are a set and have no order; the document must not have one by chance."""
    services = [frozenset(NetworkService), frozenset(reversed(list(NetworkService)))]
    assert (
        len(
            {
                encode(DesiredState(host_id="", revision=0, filters={"f": FilterDocument.of(Filter((), each))}))
                for each in services
            }
        )
        == 1
    )


def test_the_table_of_what_is_never_mirrored_survives_its_document() -> None:
    assert tuple(ExclusionDocument.of(line).exclusion() for line in NEVER_MIRRORED) == NEVER_MIRRORED


@pytest.mark.parametrize("layout", [LAYOUT - 1, LAYOUT + 1, 0])
def test_a_document_of_another_layout_is_refused_and_says_what_to_do(layout: int) -> None:
    state = DesiredState(layout=layout, host_id="here", revision=1)
    report = Report(layout=layout, host_id="here", agent_version="0", applied_revision=1)
    for decode, document in ((decode_desired_state, encode(state)), (decode_report, encode(report))):
        with pytest.raises(msgspec.ValidationError, match=f"layout {layout}.*knows {LAYOUT}: run the same version"):
            decode(document)


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b'{"host_id": 7, "revision": 1}', b'{"revision": 1}', b"\xff"])
def test_what_is_no_document_is_refused(document: bytes) -> None:
    for decode in (decode_desired_state, decode_report):
        with pytest.raises(msgspec.DecodeError):
            decode(document)


def test_what_is_no_delivery_is_refused() -> None:
    session = DesiredSession(
        session_id="tms-1", number=1, vni=1, filter_id="f", packet_bytes_max=None, delivery=Undeliverable(reason="")
    )
    interface = DesiredInterface(
        key="k", interface_id="e", primary_address="a", underlay=Underlay(), resolvers=(), sessions=(session,)
    )
    document = encode(DesiredState(host_id="here", revision=1, interfaces=(interface,)))
    assert decode_desired_state(document).interfaces == (interface,)
    with pytest.raises(msgspec.ValidationError):
        decode_desired_state(document.replace(b'"undeliverable"', b'"carrier pigeon"'))


def test_a_report_of_an_agent_that_tells_nothing_of_rules_is_read_and_says_so() -> None:
    older = (
        b'{"host_id":"h","agent_version":"1","applied_revision":3,'
        b'"sessions":[{"session_id":"tms-1","directions":{"ingress":{"verdicts":{"taken":{"packets":1,"bytes":60}}}}}]}'
    )
    [figures] = decode_report(older).sessions
    assert figures.directions[Direction.INGRESS].verdict(Verdict.TAKEN) == Tally(1, 60)
    assert (figures.rules, figures.rules_lack) == ((), RULES_NOT_TOLD)


NAMES_BEFORE_LEASES = (
    *("capped", "clone failed", "session changed on the way", "no route to the target", "target not deliverable"),
    *("encapsulation failed", "sent", "cut to the target's MTU", "target refused", "probes sent", "probes lost"),
)
"""The stages of a session before hosts had leases; that version tells of all of them, whether they count or not."""


def test_a_report_of_the_version_before_leases_is_read() -> None:
    stages = {name: {"packets": 0, "bytes": 0} for name in NAMES_BEFORE_LEASES}
    session = {"session_id": "tms-1", "directions": {"egress": {"verdicts": {}, "stages": stages}}, "rules": []}
    older = {"layout": 1, "host_id": "h", "agent_version": "0.1.0", "applied_revision": 3, "sessions": [session]}
    [figures] = decode_report(msgspec.json.encode(older)).sessions
    told = figures.directions[Direction.EGRESS]
    assert {stage.value for stage in told.stages} == set(NAMES_BEFORE_LEASES)
    assert told.stage(Stage.LEASE_ENDED) == Tally()


def test_a_report_names_no_stage_that_counts_nothing_as_the_version_before_may_not_know_it() -> None:
    counters = abi.SessionCounters()
    counters.verdicts[1][abi.VERDICTS.index(Verdict.TAKEN)] = abi.TallyEntry(2, 120)
    counters.stages[1][abi.STAGES.index(Stage.SENT)] = abi.TallyEntry(2, 120)
    figures = SessionFigures(session_id="tms-1", directions=abi.session_ledgers([bytes(bytearray(counters))]))
    nothing = InterfaceFigures(key="k", directions=abi.interface_ledgers([bytes(bytearray(abi.InterfaceCounters()))]))
    report = Report(
        host_id="h", agent_version="1", applied_revision=3, sessions=(figures,), mirrored_interfaces=(nothing,)
    )
    told = msgspec.json.decode(encode(report))
    assert told["sessions"][0]["directions"] == {
        "ingress": {"verdicts": {}, "stages": {}},
        "egress": {
            "verdicts": {"taken": {"packets": 2, "bytes": 120}},
            "stages": {"sent": {"packets": 2, "bytes": 120}},
        },
    }
    assert told["mirrored_interfaces"][0]["directions"] == {"ingress": {"outcomes": {}}, "egress": {"outcomes": {}}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"sessions": [{"session_id": "tms-1", "directions": {"egress": {"stages": {"no such stage": 7}}}, "rules": 7}]},
        {"sessions": [{"directions": {"egress": {"stages": {"no such stage": 7}}}}]},
        {"sessions": [{"session_id": "tms-1", "directions": {"egress": {"stages": {"sent": "many"}}}}]},
        {"sessions": [{"session_id": "tms-1", "directions": {"egress": {"stages": ["sent"]}}}]},
        {"sessions": [{"session_id": "tms-1", "directions": {"sideways": {}}}]},
        {"sessions": {"tms-1": [7]}, "mirrored_interfaces": 7},
        {"sessions": [[{"directions": []}], None, {"directions": [{"stages": None}]}]},
    ],
)
def test_a_report_that_is_wrong_beside_its_names_is_refused(wrong: dict[str, object]) -> None:
    document = {"host_id": "h", "agent_version": "1", "applied_revision": 3}
    assert decode_report(msgspec.json.encode(document)).host_id == "h"
    with pytest.raises(msgspec.ValidationError):
        decode_report(msgspec.json.encode(document | wrong))


def test_a_rule_s_figures_are_a_short_array_on_the_wire() -> None:
    rule = RuleLedger("tmfr-1", Direction.EGRESS, Action.REJECT, Tally(2, 120))
    figures = SessionFigures(session_id="tms-1", directions={}, rules=(RuleFigures.of(rule),), rules_lack=None)
    report = Report(host_id="h", agent_version="1", applied_revision=3, sessions=(figures,))
    assert b'["tmfr-1","egress","reject",2,120]' in encode(report)
    [read] = decode_report(encode(report)).sessions
    assert [each.ledger() for each in read.rules] == [rule]


def test_a_rule_of_an_older_control_plane_has_no_id() -> None:
    older = (
        b'{"host_id":"h","revision":1,"filters":{"tmf-1":{"rules":[{"number":1,"direction":"ingress","action":"accept",'
        b'"source":"0.0.0.0/0","destination":"0.0.0.0/0"}]}}}'
    )
    [rule] = decode_desired_state(older).filters["tmf-1"].rules
    assert rule.rule_id is None
    newer = FilterDocument.of(Filter((rule.rule(),)), ["tmfr-1"])
    state = DesiredState(host_id="h", revision=1, filters={"tmf-1": newer})
    assert decode_desired_state(encode(state)).filters["tmf-1"].rules[0].rule_id == "tmfr-1"

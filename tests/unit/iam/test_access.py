"""What policies decide. The cases are AWS's published semantics, in our words; each that is refused stands below one
that is allowed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.iam import Access, Effect, Verdict, decide, parse
from pktmirror.iam.keys import names
from tests.budget import examples
from tests.unit.iam.second_reading import verdict

FILTER = "arn:aws:ec2:local-1:111122223333:traffic-mirror-filter/tmf-1"
SESSIONS = "arn:aws:ec2:local-1:111122223333:traffic-mirror-session/*"
VPC = "arn:aws:ec2:local-1:111122223333:vpc/vpc-1"
CREATE, DESCRIBE = "ec2:CreateTrafficMirrorFilter", "ec2:DescribeTrafficMirrorFilters"

ALLOWED, DENIED, NOT_ALLOWED = Effect.ALLOWED, Effect.EXPLICITLY_DENIED, Effect.NOT_ALLOWED


def statement(effect: str = "Allow", action: Any = "*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": action, "Resource": resource} | more


def document(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


def decided(text: str, action: str = CREATE, resource: str = FILTER, **context: Any) -> Effect:
    keys = {name.replace("__", ":").replace("_s_", "/"): values for name, values in context.items()}
    return decide([parse(text)], Access(action, resource, keys)).effect


def on(operator: str, key: str, wanted: Any, found: list[str] | None, version: str = "2012-10-17") -> Effect:
    """What an Allow with one condition makes of a request whose key has these values."""
    text = document(statement(Condition={operator: {key: wanted}}), version=version)
    context = {} if found is None else {key: found}
    return decide([parse(text)], Access(CREATE, FILTER, context)).effect


@pytest.mark.parametrize(
    ("statements", "effect"),
    [
        pytest.param([statement()], ALLOWED, id="an Allow that fits allows"),
        pytest.param([], NOT_ALLOWED, id="what nothing allows is not allowed"),
        pytest.param([statement("Deny")], DENIED, id="a Deny that fits denies"),
        pytest.param([statement(), statement("Deny")], DENIED, id="a Deny wins over an Allow"),
        pytest.param([statement("Deny"), statement()], DENIED, id="whatever their order"),
        pytest.param([statement(), statement("Deny", "ec2:Delete*")], ALLOWED, id="a Deny of other actions is none"),
        pytest.param([statement("Deny", "ec2:Delete*")], NOT_ALLOWED, id="and allows nothing either"),
    ],
)
def test_deny_goes_first_and_nothing_is_allowed_by_default(statements: list[Any], effect: Effect) -> None:
    policies = [parse(document(each)) for each in statements]
    assert decide(policies, Access(CREATE, FILTER)).effect is effect
    if statements:
        assert decide([parse(document(*statements))], Access(CREATE, FILTER)).effect is effect


def test_the_deciding_statement_is_named() -> None:
    policies = [parse(document(statement(Sid="all"))), parse(document(statement("Deny", Sid="no"), statement("Deny")))]
    assert decide(policies, Access(CREATE, FILTER)) == Verdict(DENIED, "no")
    assert decide(policies[:1], Access(CREATE, FILTER)) == Verdict(ALLOWED, "all")
    assert decide([], Access(CREATE, FILTER)) == Verdict(NOT_ALLOWED, None)


@pytest.mark.parametrize(
    ("actions", "effect"),
    [
        ("ec2:CreateTrafficMirrorFilter", ALLOWED),
        ("EC2:createtrafficmirrorFILTER", ALLOWED),
        ("ec2:*", ALLOWED),
        ("ec2:Create*", ALLOWED),
        ("*", ALLOWED),
        ("ec2:CreateTrafficMirror?ilter", ALLOWED),
        (["ec2:DescribeVpcs", "ec2:CreateTrafficMirrorFilter"], ALLOWED),
        ("ec2:CreateTrafficMirrorFilter?", NOT_ALLOWED),
        ("ec2:CreateTrafficMirrorFilterRule", NOT_ALLOWED),
        ("ec2:CreateTrafficMirror", NOT_ALLOWED),
        ("ec2:Describe*", NOT_ALLOWED),
        ("iam:*", NOT_ALLOWED),
    ],
)
def test_an_action_fits_by_its_name_in_any_case_and_by_wildcards(actions: Any, effect: Effect) -> None:
    assert decided(document(statement(action=actions))) is effect


def test_not_action_speaks_of_all_other_actions() -> None:
    text = document({"Effect": "Allow", "NotAction": ["ec2:Delete*", "iam:*"], "Resource": "*"})
    assert decided(text) is ALLOWED
    assert decided(text, "ec2:DeleteTrafficMirrorFilter") is NOT_ALLOWED
    assert decided(text, "iam:CreateUser") is NOT_ALLOWED


@pytest.mark.parametrize(
    ("resource", "effect"),
    [
        (FILTER, ALLOWED),
        ("*", ALLOWED),
        ("arn:aws:ec2:*:*:traffic-mirror-filter/*", ALLOWED),
        ("arn:aws:ec2:local-1:111122223333:traffic-mirror-filter/tmf-?", ALLOWED),
        ("arn:aws:ec2:loc*1:111122223333:traffic-mirror-filter/tmf-1", ALLOWED),
        pytest.param("arn:aws:ec2:*", None, id="an ARN has six parts"),
        pytest.param("arn:aws:ec2:*:*:*", ALLOWED, id="a * that ends a segment goes on beyond the colons"),
        ("arn:aws:ec2:local-1:111122223333:traffic-mirror-filter/tmf-2", NOT_ALLOWED),
        ("arn:aws:ec2:local-1:111122223333:Traffic-Mirror-Filter/*", NOT_ALLOWED),
        ("arn:aws:ec2:local-1:444455556666:traffic-mirror-filter/*", NOT_ALLOWED),
        pytest.param("arn:aws:ec2:l*r/tmf-1:*:*", NOT_ALLOWED, id="a * within a segment does not"),
        pytest.param("arn:aws:ec2:local-1?111122223333:x:traffic-mirror-filter/tmf-1", NOT_ALLOWED, id="nor does a ?"),
    ],
)
def test_a_resource_fits_by_its_arn_and_by_wildcards(resource: str, effect: Effect | None) -> None:
    if effect is None:
        with pytest.raises(ValueError, match="is no resource"):
            parse(document(statement(resource=resource)))
        return
    assert decided(document(statement(resource=resource))) is effect


def test_a_call_without_a_resource_needs_the_star() -> None:
    assert decided(document(statement(action=DESCRIBE)), DESCRIBE, "*") is ALLOWED
    assert decided(document(statement(action=DESCRIBE, resource=FILTER)), DESCRIBE, "*") is NOT_ALLOWED


def test_not_resource_speaks_of_all_other_resources() -> None:
    text = document({"Effect": "Allow", "Action": "*", "NotResource": [FILTER]})
    assert decided(text, resource=SESSIONS) is ALLOWED
    assert decided(text) is NOT_ALLOWED


TAG, TAGS = "aws:RequestTag/team", "aws:TagKeys"
TIME, ADDRESS, SECURE = "aws:CurrentTime", "aws:SourceIp", "aws:SecureTransport"


@pytest.mark.parametrize(
    ("operator", "key", "wanted", "found", "effect"),
    [
        ("StringEquals", TAG, "red", ["red"], ALLOWED),
        ("StringEquals", TAG, ["blue", "red"], ["red"], ALLOWED),
        ("StringEquals", TAG, "red", ["Red"], NOT_ALLOWED),
        ("StringEquals", TAG, "r*", ["red"], NOT_ALLOWED),
        ("StringEquals", TAG, "red", None, NOT_ALLOWED),
        ("StringEqualsIfExists", TAG, "red", None, ALLOWED),
        ("StringEqualsIfExists", TAG, "red", ["blue"], NOT_ALLOWED),
        ("StringNotEquals", TAG, ["blue", "green"], ["red"], ALLOWED),
        ("StringNotEquals", TAG, ["blue", "red"], ["red"], NOT_ALLOWED),
        ("StringNotEquals", TAG, "red", None, ALLOWED),
        ("StringEqualsIgnoreCase", TAG, "RED", ["red"], ALLOWED),
        ("StringEqualsIgnoreCase", TAG, "REDD", ["red"], NOT_ALLOWED),
        ("StringNotEqualsIgnoreCase", TAG, "RED", ["red"], NOT_ALLOWED),
        ("StringLike", TAG, "r*d", ["red"], ALLOWED),
        ("StringLike", TAG, "r?d", ["red"], ALLOWED),
        ("StringLike", TAG, "*", None, NOT_ALLOWED),
        ("StringLike", TAG, "r?", ["red"], NOT_ALLOWED),
        ("StringLike", TAG, "${*}", ["*"], ALLOWED),
        ("StringLike", TAG, "${*}", ["red"], NOT_ALLOWED),
        ("StringNotLike", TAG, "b*", ["red"], ALLOWED),
        ("StringNotLike", TAG, "r*", ["red"], NOT_ALLOWED),
        ("ArnLike", "ec2:Vpc", "arn:aws:ec2:*:*:vpc/vpc-1", [VPC], ALLOWED),
        ("ArnEquals", "ec2:Vpc", "arn:aws:ec2:*:*:vpc/vpc-?", [VPC], ALLOWED),
        ("StringEquals", "ec2:Vpc", VPC, [VPC], ALLOWED),
        ("ArnLike", "ec2:Vpc", "arn:aws:ec2:*:*:vpc/vpc-2", [VPC], NOT_ALLOWED),
        ("ArnNotEquals", "ec2:Vpc", VPC, [VPC], NOT_ALLOWED),
        ("ArnNotLike", "ec2:Vpc", "arn:aws:ec2:*:*:vpc/x*", [VPC], ALLOWED),
        ("IpAddress", ADDRESS, "10.0.0.0/8", ["10.1.2.3"], ALLOWED),
        ("IpAddress", ADDRESS, ["192.0.2.1", "2001:db8::/32"], ["2001:db8::1"], ALLOWED),
        ("IpAddress", ADDRESS, "10.0.0.0/8", ["11.0.0.1"], NOT_ALLOWED),
        ("IpAddress", ADDRESS, "0.0.0.0/0", ["::1"], NOT_ALLOWED),
        ("IpAddress", ADDRESS, "0.0.0.0/0", ["a socket without a peer"], NOT_ALLOWED),
        ("NotIpAddress", ADDRESS, "10.0.0.0/8", ["11.0.0.1"], ALLOWED),
        ("NotIpAddress", ADDRESS, "10.0.0.0/8", ["10.0.0.1"], NOT_ALLOWED),
        ("DateLessThan", TIME, "2030-01-01T00:00:00Z", ["2026-01-01T00:00:00Z"], ALLOWED),
        ("DateLessThan", TIME, "2026-01-01T00:00:00Z", ["2026-01-01T00:00:00Z"], NOT_ALLOWED),
        ("DateLessThanEquals", TIME, "2026-01-01T01:00:00+01:00", ["2026-01-01T00:00:00Z"], ALLOWED),
        ("DateGreaterThan", TIME, "2025-12-31", ["2026-01-01T00:00:00Z"], ALLOWED),
        ("DateGreaterThan", TIME, "2026-01-01", ["2026-01-01T00:00:00Z"], NOT_ALLOWED),
        ("DateGreaterThanEquals", TIME, "1767225600", ["2026-01-01T00:00:00Z"], ALLOWED),
        ("DateEquals", TIME, "2026-01-01", ["2026-01-01T00:00:00Z"], ALLOWED),
        ("DateNotEquals", TIME, "2026-01-01", ["2026-01-01T00:00:00Z"], NOT_ALLOWED),
        ("NumericLessThan", "aws:EpochTime", 100, ["99"], ALLOWED),
        ("NumericLessThan", "aws:EpochTime", "100", ["100"], NOT_ALLOWED),
        ("NumericGreaterThanEquals", "aws:EpochTime", 100, ["100"], ALLOWED),
        ("NumericNotEquals", "aws:EpochTime", 100, ["100"], NOT_ALLOWED),
        ("Bool", SECURE, "true", ["true"], ALLOWED),
        ("Bool", SECURE, True, ["true"], ALLOWED),
        ("Bool", SECURE, "true", ["false"], NOT_ALLOWED),
        ("Bool", SECURE, "false", None, NOT_ALLOWED),
        ("BoolIfExists", SECURE, "false", None, ALLOWED),
        ("Null", TAG, "true", None, ALLOWED),
        ("Null", TAG, "true", ["red"], NOT_ALLOWED),
        ("Null", TAG, "false", ["red"], ALLOWED),
        ("Null", TAG, "false", None, NOT_ALLOWED),
        ("ForAllValues:StringEquals", TAGS, ["a", "b"], ["a", "b"], ALLOWED),
        ("ForAllValues:StringEquals", TAGS, ["a", "b"], ["a", "c"], NOT_ALLOWED),
        pytest.param("ForAllValues:StringEquals", TAGS, ["a"], None, ALLOWED, id="all of none hold"),
        ("ForAnyValue:StringEquals", TAGS, ["a", "b"], ["c", "a"], ALLOWED),
        ("ForAnyValue:StringEquals", TAGS, ["a", "b"], ["c", "d"], NOT_ALLOWED),
        pytest.param("ForAnyValue:StringEquals", TAGS, ["a"], None, NOT_ALLOWED, id="any of none does not"),
        ("ForAllValues:StringNotEquals", TAGS, ["a"], ["b", "c"], ALLOWED),
        ("ForAllValues:StringNotEquals", TAGS, ["a"], ["b", "a"], NOT_ALLOWED),
        ("ForAnyValue:StringNotEquals", TAGS, ["a"], ["b", "a"], ALLOWED),
        ("ForAnyValue:StringNotEquals", TAGS, ["a"], ["a"], NOT_ALLOWED),
        ("ForAnyValue:StringNotEquals", TAGS, ["a"], None, NOT_ALLOWED),
        ("ForAnyValue:StringLikeIfExists", TAGS, ["a*"], None, ALLOWED),
        ("ForAnyValue:StringLike", TAGS, ["a*"], ["xa", "ax"], ALLOWED),
    ],
)
def test_a_condition_holds(operator: str, key: str, wanted: Any, found: list[str] | None, effect: Effect) -> None:
    assert on(operator, key, wanted, found) is effect


def test_all_conditions_of_a_statement_must_hold() -> None:
    text = document(
        statement(Condition={"StringEquals": {TAG: "red", "ec2:Region": "local-1"}, "Bool": {SECURE: "true"}})
    )
    request = {TAG: ["red"], "ec2:Region": ["local-1"], SECURE: ["true"]}
    policies = [parse(text)]
    assert decide(policies, Access(CREATE, FILTER, request)).effect is ALLOWED
    for key in request:
        assert decide(policies, Access(CREATE, FILTER, request | {key: ["false"]})).effect is NOT_ALLOWED
        without = {name: values for name, values in request.items() if name != key}
        assert decide(policies, Access(CREATE, FILTER, without)).effect is NOT_ALLOWED


def test_the_case_of_a_key_does_not_count_and_an_exact_name_goes_first() -> None:
    policies = [parse(document(statement(Condition={"StringEquals": {"AWS:requesttag/TEAM": "red"}})))]
    assert decide(policies, Access(CREATE, FILTER, {TAG: ["red"]})).effect is ALLOWED
    both = {"aws:RequestTag/team": ["red"], "AWS:requesttag/TEAM": ["blue"]}
    assert decide(policies, Access(CREATE, FILTER, both)).effect is NOT_ALLOWED
    exact = [parse(document(statement(Condition={"StringEquals": {TAG: "red"}})))]
    assert decide(exact, Access(CREATE, FILTER, both)).effect is ALLOWED


def test_a_variable_stands_for_a_value_of_the_request() -> None:
    own = "arn:aws:ec2:*:*:traffic-mirror-filter/${aws:username}-*"
    policies = [parse(document(statement(resource=own)))]
    resource = "arn:aws:ec2:local-1:111122223333:traffic-mirror-filter/ada-1"
    assert decide(policies, Access(CREATE, resource, {"aws:username": ["ada"]})).effect is ALLOWED
    assert decide(policies, Access(CREATE, resource, {"aws:username": ["bob"]})).effect is NOT_ALLOWED
    assert decide(policies, Access(CREATE, resource, {"aws:username": ["*"]})).effect is NOT_ALLOWED
    assert decide(policies, Access(CREATE, resource)).effect is NOT_ALLOWED


def test_a_variable_in_a_condition_with_and_without_a_default() -> None:
    def effect(wanted: str, context: dict[str, list[str]]) -> Effect:
        text = document(statement(Condition={"StringEquals": {TAG: wanted}}))
        return decide([parse(text)], Access(CREATE, FILTER, {TAG: ["ada"]} | context)).effect

    assert effect("${aws:username}", {"aws:username": ["ada"]}) is ALLOWED
    assert effect("${aws:username}", {"aws:username": ["bob"]}) is NOT_ALLOWED
    assert effect("${aws:username, 'ada'}", {}) is ALLOWED
    assert effect("${aws:username}", {}) is NOT_ALLOWED


def test_in_the_older_version_a_variable_is_plain_text() -> None:
    assert on("StringEquals", TAG, "${aws:username}", ["${aws:username}"], version="2008-10-17") is ALLOWED
    assert on("StringEquals", TAG, "${aws:username}", ["${aws:username}"]) is NOT_ALLOWED


def test_where_an_exception_cannot_be_told_nothing_is_allowed_and_nothing_is_spared() -> None:
    spared = "arn:aws:ec2:*:*:traffic-mirror-filter/${aws:username}"
    allow = parse(document({"Effect": "Allow", "Action": "*", "NotResource": spared}))
    deny = parse(document({"Effect": "Deny", "Action": "*", "NotResource": spared}))
    known = {"aws:username": ["tmf-1"]}
    assert decide([allow], Access(CREATE, SESSIONS, known)).effect is ALLOWED
    assert decide([allow], Access(CREATE, SESSIONS)).effect is NOT_ALLOWED
    everything = parse(document(statement()))
    assert decide([everything, deny], Access(CREATE, FILTER, known)).effect is ALLOWED
    assert decide([everything, deny], Access(CREATE, FILTER)).effect is DENIED


# Small alphabets, so that what is asked and what is written often meet.
WORDS = st.sampled_from(["a", "b", "ab", "A", "aba", ""])
PATTERNS = st.sampled_from(["a", "b", "a*", "*b", "?", "a?", "*", "**a", "a*a", "A", "${aws:username}", "${*}", "ab"])
ACTIONS = ["ec2:CreateA", "ec2:CreateB", "ec2:DeleteA", "iam:CreateA"]
ACTION_PATTERNS = st.sampled_from([*ACTIONS, "*", "ec2:*", "EC2:create?", "ec2:Cre*A", "s3:*"])
RESOURCES = ["arn:aws:ec2:r:1:a/1", "arn:aws:ec2:r:1:b/1", "arn:aws:ec2:r:2:a/1", "*", "arn:aws:iam::1:a:b"]
RESOURCE_PATTERNS = st.sampled_from(
    [
        *RESOURCES,
        "arn:aws:ec2:*:1:a/*",
        "arn:aws:ec2:r:1:?/1",
        "arn:*:ec2:r:*:a/1",
        "arn:aws:ec2:*1:a/1:x:y",
        "arn:aws:ec2:r?1:a/1:",
        "arn:a*s:ec2:r:1:a*1",
        "arn:aws:ec2:*:*:${aws:username}/1",
        "arn:aws:iam::1:a*b",
        "arn:aws:iam::1:a*",
    ]
)
OPERANDS: list[tuple[list[str], list[str], st.SearchStrategy[str], st.SearchStrategy[str]]] = [
    (
        ["String" + middle + kind for middle in ("", "Not") for kind in ("Equals", "EqualsIgnoreCase", "Like")],
        ["aws:RequestTag/a", "aws:RequestTag/b", "aws:username", "aws:TagKeys"],
        PATTERNS,
        WORDS,
    ),
    (
        ["ArnLike", "ArnEquals", "ArnNotLike", "ArnNotEquals"],
        ["ec2:Vpc"],
        st.sampled_from(["arn:aws:ec2:*:1:a/1", "arn:aws:ec2:r:1:?/1", "arn:aws:ec2:r*1:a/1:x"]),
        st.sampled_from(RESOURCES[:3]),
    ),
    (
        ["IpAddress", "NotIpAddress"],
        ["aws:SourceIp"],
        st.sampled_from(["10.0.0.0/8", "10.0.0.1", "::/0", "2001:db8::/32", "10.0.0.9/31"]),
        st.sampled_from(["10.0.0.1", "10.0.0.8", "11.0.0.1", "2001:db8::1", "::1"]),
    ),
    (["Bool"], ["aws:SecureTransport"], st.sampled_from(["true", "false", "True"]), st.sampled_from(["true", "false"])),
    (
        [
            f"Date{kind}"
            for kind in ("Equals", "NotEquals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
        ],
        ["aws:CurrentTime"],
        st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "1767225600", "2027-01-01T00:00:00Z"]),
        st.sampled_from(["2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"]),
    ),
]


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for _ in range(draw(st.integers(0, 2))):
        operators, keys, wanted, _ = draw(st.sampled_from(OPERANDS))
        key = draw(st.sampled_from(keys))
        if draw(st.integers(0, 5)) == 0:
            made.setdefault("Null", {})[key] = draw(st.sampled_from(["true", "false"]))
            continue
        quantifiers = ["ForAllValues:", "ForAnyValue:", *([] if key == "aws:TagKeys" else ["", ""])]
        name = draw(st.sampled_from(quantifiers)) + draw(st.sampled_from(operators))
        name += draw(st.sampled_from(["", "IfExists"]))
        made.setdefault(name, {})[key] = draw(st.lists(wanted, min_size=1, max_size=3))
    return made


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Allow", "Deny"]))}
    actions = draw(st.lists(ACTION_PATTERNS, min_size=1, max_size=2))
    made[draw(st.sampled_from(["Action", "Action", "NotAction"]))] = actions
    negated = draw(st.integers(0, 2)) == 0
    resources = draw(st.lists(RESOURCE_PATTERNS, min_size=1, max_size=2))
    if negated:  # what an exception that cannot be told means is ours, and tested above
        resources = [text for text in resources if "${" not in text] or ["*"]
    made["NotResource" if negated else "Resource"] = resources
    found = draw(conditions())
    return made | ({"Condition": found} if found else {})


CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        key: st.lists(found, min_size=1, max_size=3 if key == "aws:TagKeys" else 1)
        for _, keys, _, found in OPERANDS
        for key in keys
    },
)


@settings(max_examples=examples(500), deadline=None)
@given(
    st.lists(st.lists(statements(), min_size=1, max_size=3), max_size=2),
    st.sampled_from(ACTIONS),
    st.sampled_from(RESOURCES),
    CONTEXTS,
)
def test_two_readings_of_the_published_logic_agree(
    policies: list[list[dict[str, Any]]], action: str, resource: str, context: dict[str, list[str]]
) -> None:
    documents = [{"Version": "2012-10-17", "Statement": each} for each in policies]
    ours = decide([parse(json.dumps(each)) for each in documents], Access(action, resource, context)).effect
    theirs = verdict(documents, action, resource, context)
    assert ours is {"Deny": DENIED, "Allow": ALLOWED, "nothing": NOT_ALLOWED}[theirs]


def test_every_key_can_stand_in_a_policy() -> None:
    for name in names():
        key = name.replace("<key>", "k").replace("<name>", "Description")
        assert parse(document(statement(Condition={"Null": {key: "true"}})))

"""What a policy document may say. What is not known is refused, with the place, and never ignored."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.iam import Malformed, Policy, parse
from pktmirror.iam.document import CHARACTERS_MAX
from tests.budget import examples

GOOD: dict[str, Any] = {"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}


def text(*statements: Any, **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)} | more)


def with_condition(operator: str, key: str, value: Any) -> dict[str, Any]:
    return GOOD | {"Condition": {operator: {key: value}}}


def test_a_document_of_aws_is_understood() -> None:
    document = """{
      "Version": "2012-10-17", "Id": "mirrors",
      "Statement": {"Sid": "Sessions1", "Effect": "Allow",
        "Action": ["ec2:CreateTrafficMirrorSession", "ec2:DeleteTrafficMirrorSession"],
        "Resource": ["arn:aws:ec2:*:*:traffic-mirror-session/*", "arn:aws:ec2:*:111122223333:network-interface/*"],
        "Condition": {"StringEquals": {"ec2:ResourceTag/team": ["red", "blue"], "ec2:Region": "local-1"},
                      "Null": {"aws:RequestTag/owner": "false"}}}
    }"""
    [statement] = parse(document).statements
    assert (statement.sid, statement.allows, len(statement.actions)) == ("Sessions1", True, 2)
    assert (len(statement.resources), len(statement.conditions)) == (2, 3)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        pytest.param("no", "is no JSON", id="no JSON"),
        pytest.param("[" * 5000, "is no JSON", id="JSON as deep as a well"),
        pytest.param('{"Version": ' + "9" * 5000 + "}", "is no JSON", id="a number of too many digits"),
        pytest.param("[]", "The document must be an object", id="no object"),
        pytest.param(text(), "has no Statement", id="no statement"),
        pytest.param(text(GOOD, Version="2020-01-01"), "Version is '2020-01-01'", id="a version that is none"),
        pytest.param(text(GOOD, Version=["2012-10-17"]), "Version is", id="a version that is a list"),
        pytest.param(text(GOOD, Statements=[]), "'Statements' is no element", id="an element that is none"),
        pytest.param(text("x"), "Statement 1 must be an object", id="a statement that is none"),
        pytest.param(text(GOOD, GOOD | {"Efect": "Deny"}), "Statement 2: 'Efect' is no element", id="a typing error"),
        pytest.param(text(GOOD | {"Principal": "*"}), "names no principal", id="a principal"),
        pytest.param(text(GOOD | {"Effect": "allow"}), "Effect is 'allow'", id="an effect in lower case"),
        pytest.param(text(GOOD | {"NotAction": "*"}), "Action or NotAction, and not both", id="both kinds of action"),
        pytest.param(text({"Effect": "Allow", "Resource": "*"}), "it needs Action", id="no action"),
        pytest.param(text({"Effect": "Allow", "Action": "*"}), "it needs Resource", id="no resource"),
        pytest.param(text(GOOD | {"Action": []}), "not an empty one", id="an empty list"),
        pytest.param(text(GOOD | {"Action": [7]}), "must be a text", id="a number as action"),
        pytest.param(text(GOOD | {"Action": "Describe"}), "'Describe' is no action", id="an action without a service"),
        pytest.param(text(GOOD | {"Resource": "tmf-1"}), "is no resource", id="an id in the place of an ARN"),
        pytest.param(text(GOOD | {"Resource": "arn:aws:*:*:*:*"}), "is no resource", id="an ARN without a service"),
        pytest.param(text(GOOD | {"Resource": "arn:aws:ec2:*:*:${x}"}), "no variable", id="an unknown variable"),
        pytest.param(
            text(GOOD | {"Resource": "arn:aws:ec2:*:*:${aws:TagKeys}"}), "no variable", id="a variable of many"
        ),
        pytest.param(text(GOOD | {"Resource": "arn:aws:ec2:*:*:${x"}), "has no }", id="a variable without an end"),
        pytest.param(text(GOOD | {"Sid": "a b"}), "Sid is 'a b'", id="a Sid with a blank"),
        pytest.param(text(GOOD | {"Sid": "a"}, GOOD | {"Sid": "a"}), "one Sid", id="a Sid twice"),
        pytest.param(
            text(with_condition("StringEqual", "aws:username", "a")), "StringEqual is no operator", id="an operator"
        ),
        pytest.param(
            text(with_condition("ForSomeValues:StringEquals", "aws:TagKeys", "a")), "is no operator", id="a prefix"
        ),
        pytest.param(
            text(with_condition("StringEquals", "aws:MultiFactorAuthAge", "1")), "no request here carries", id="a key"
        ),
        pytest.param(text(with_condition("StringEquals", "aws:RequestTag/", "1")), "no request here", id="a tag's key"),
        pytest.param(
            text(with_condition("StringEquals", "aws:SourceIp", "10.0.0.1")),
            "cannot compare aws:SourceIp, which is a IP address",
            id="an operator of another type",
        ),
        pytest.param(
            text(with_condition("StringEquals", "aws:TagKeys", "a")),
            "write ForAllValues:",
            id="many without a quantifier",
        ),
        pytest.param(text(with_condition("IpAddress", "aws:SourceIp", "10.0.0.0/33")), "'10.0.0.0/33'", id="a network"),
        pytest.param(text(with_condition("Bool", "aws:SecureTransport", "yes")), "'yes'", id="a boolean"),
        pytest.param(text(with_condition("DateEquals", "aws:CurrentTime", "now")), "'now'", id="a date"),
        pytest.param(text(with_condition("NullIfExists", "aws:username", "true")), 'write "Null"', id="Null if exists"),
        pytest.param(text(with_condition("Null", "aws:username", "no")), 'write "Null"', id="Null of another value"),
        pytest.param(text(with_condition("ArnLike", "ec2:Vpc", "vpc-1")), "is no ARN", id="no ARN"),
        pytest.param(
            text(with_condition("StringEquals", "aws:username", {})), "must be a text", id="an object as value"
        ),
        pytest.param(text(GOOD | {"Condition": []}), "Condition must be an object", id="a condition that is a list"),
        pytest.param('{"Statement": [], "Statement": []}', "'Statement' stands twice", id="a name twice"),
    ],
)
def test_what_is_not_known_is_refused(document: str, said: str) -> None:
    assert isinstance(parse(text(GOOD)), Policy)
    with pytest.raises(Malformed) as refused:
        parse(document)
    assert said in str(refused.value)


def test_a_document_has_a_largest_size_and_white_space_does_not_count() -> None:
    room = CHARACTERS_MAX - len("".join(text(GOOD | {"Sid": ""}).split()))
    assert parse(text(GOOD | {"Sid": "a" * room}) + " " * CHARACTERS_MAX)
    with pytest.raises(Malformed, match=f"has {CHARACTERS_MAX + 1} characters"):
        parse(text(GOOD | {"Sid": "a" * (room + 1)}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["*", "Allow", "ec2:*", "${", "${aws:username, x}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Version",
                    "Statement",
                    "Effect",
                    "Action",
                    "NotAction",
                    "Resource",
                    "Condition",
                    "StringLike",
                    "Null",
                    "aws:username",
                    "aws:TagKeys",
                    "DateEquals",
                    "aws:CurrentTime",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(JSON)
def test_any_json_is_a_policy_or_refused(document: Any) -> None:
    for candidate in (document, {"Statement": GOOD | {"Condition": document}}, {"Statement": document}):
        try:
            parse(json.dumps(candidate))
        except Malformed:
            continue

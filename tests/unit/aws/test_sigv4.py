"""What botocore signs is accepted, and nothing else is."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from pktmirror.aws import ApiError, SignedRequest, Signer, claimed_service, verify
from tests.budget import examples

SECRETS = {"AKIAONE": "secret/one+1", "AKIATWO": "secret two"}
SERVICES = frozenset({"ec2", "sts"})
FORM = "application/x-www-form-urlencoded; charset=utf-8"
BODY = b"Action=DescribeVpcs&Version=2016-11-15"


def signed(
    *, key: str = "AKIAONE", service: str = "ec2", region: str = "eu-central-1", method: str = "POST",
    url: str = "http://127.0.0.1:8773/", body: bytes = BODY, token: str | None = None, **headers: str,
) -> SignedRequest:  # fmt: skip
    """A request as a server sees it, signed by botocore at the real time."""
    given_headers = {"Content-Type": FORM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = AWSRequest(method, url, headers=given_headers, data=body)
    SigV4Auth(Credentials(key, SECRETS[key], token), service, region).add_auth(request)
    parts = urlsplit(url)
    sent = (("Host", parts.netloc), *request.headers.items(), ("User-Agent", "not signed"))
    return SignedRequest(method, parts.path, parts.query, sent, body)


def header(request: SignedRequest, name: str) -> str:
    [value] = [value for sent, value in request.headers if sent.lower() == name.lower()]
    return value


def with_header(request: SignedRequest, name: str, value: str) -> SignedRequest:
    rest = tuple(field for field in request.headers if field[0].lower() != name.lower())
    return replace(request, headers=(*rest, (name, value)))


def without_header(request: SignedRequest, name: str) -> SignedRequest:
    return replace(request, headers=tuple(field for field in request.headers if field[0].lower() != name.lower()))


def with_authorization(request: SignedRequest, old: str, new: str) -> SignedRequest:
    value = header(request, "Authorization")
    assert old in value
    return with_header(request, "Authorization", value.replace(old, new))


def signed_at(request: SignedRequest) -> datetime:
    return datetime.strptime(header(request, "X-Amz-Date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def checked(request: SignedRequest, now: datetime | None = None) -> Signer:
    return verify(request, SECRETS.get, now or datetime.now(UTC), services=SERVICES)


def refusal(request: SignedRequest, now: datetime | None = None) -> ApiError:
    with pytest.raises(ApiError) as refused:
        checked(request, now)
    return refused.value


@pytest.mark.parametrize("service", ["ec2", "sts"])
@pytest.mark.parametrize("key", ["AKIAONE", "AKIATWO"])
def test_what_botocore_signs_is_accepted(service: str, key: str) -> None:
    assert checked(signed(service=service, key=key)) == Signer(key, "eu-central-1", service)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(lambda: signed(body=b""), id="an empty body"),
        pytest.param(lambda: signed(method="GET", body=b"", url="http://h/?b=2&a=%20x&a=&c"), id="a query"),
        pytest.param(lambda: signed(url="http://h/a%20b/../c//d/~x/"), id="a path to normalise"),
        pytest.param(lambda: signed(url="https://ec2.example.org/"), id="a name without a port"),
        pytest.param(lambda: signed(url="http://[::1]:8773/"), id="an IPv6 address"),
        pytest.param(lambda: signed(X_Amz_Meta="  a   b  "), id="blanks in a header"),
        pytest.param(lambda: signed(X_Amz_Content_SHA256=hashlib.sha256(BODY).hexdigest()), id="a payload hash"),
    ],
)  # fmt: skip
def test_every_form_that_botocore_signs_is_accepted(request_) -> None:  # type: ignore[no-untyped-def]
    assert checked(request_()).access_key_id == "AKIAONE"


def test_the_signature_of_aws_own_example_is_accepted() -> None:
    """The "get-vanilla" case of the test suite that AWS publishes for Signature Version 4."""
    request = SignedRequest(
        "GET",
        "/",
        "",
        (
            ("Host", "example.amazonaws.com"),
            ("X-Amz-Date", "20150830T123600Z"),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
                "SignedHeaders=host;x-amz-date, "
                "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
        ),
        b"",
    )
    secrets = {"AKIDEXAMPLE": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
    now = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
    assert verify(request, secrets.get, now, services=frozenset({"service"})) == Signer(
        "AKIDEXAMPLE", "us-east-1", "service"
    )


def test_headers_that_are_not_signed_do_not_count() -> None:
    request = signed()
    proxied = replace(with_header(request, "User-Agent", "other"), headers=(*request.headers, ("Via", "1.1 p")))
    assert checked(proxied) == checked(request)


def a_second_away(time: datetime) -> datetime:
    """On the same day: the day is in the credential scope too."""
    return time + timedelta(seconds=1 if time.hour == 0 else -1)


CHANGES = {
    "the method": lambda request: replace(request, method="PUT"),
    "the method's case": lambda request: replace(request, method="post"),
    "the path": lambda request: replace(request, path="/x"),
    "the query": lambda request: replace(request, query="a=1"),
    "the body": lambda request: replace(request, body=request.body + b"&DryRun=true"),
    "the host": lambda request: with_header(request, "Host", "127.0.0.2:8773"),
    "a second host": lambda request: replace(request, headers=(*request.headers, ("host", "evil"))),
    "the content type": lambda request: with_header(request, "Content-Type", "application/json"),
    "the region": lambda request: with_authorization(request, "/eu-central-1/", "/eu-central-2/"),
    "the key, to another that exists": lambda request: with_authorization(request, "=AKIAONE/", "=AKIATWO/"),
    "the signed headers": lambda request: with_authorization(request, "=content-type;host", "=host"),
    "the signature": lambda request: with_header(
        request, "Authorization", header(request, "Authorization")[:-64] + 64 * "0"
    ),
    "the time, within what clocks may differ": lambda request: with_header(
        request, "X-Amz-Date", a_second_away(signed_at(request)).strftime("%Y%m%dT%H%M%SZ")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_changed_after_it_was_signed_is_refused(change: str) -> None:
    for service, code, status in (("ec2", "AuthFailure", 401), ("sts", "SignatureDoesNotMatch", 403)):
        request = signed(service=service)
        changed = CHANGES[change](request)
        assert changed != request
        error = refusal(changed)
        assert (error.code, error.status) == (code, status)


def test_a_signature_for_one_service_is_not_good_for_another() -> None:
    error = refusal(with_authorization(signed(service="sts"), "/sts/", "/ec2/"))
    assert error.code == "AuthFailure"
    assert error.message == "AWS was not able to validate the provided access credentials"


def test_an_unknown_key_and_a_wrong_signature_look_the_same_to_ec2() -> None:
    unknown = refusal(with_authorization(signed(), "=AKIAONE/", "=AKIAXXX/"))
    wrong = refusal(replace(signed(), body=b""))
    assert (unknown.code, unknown.message, unknown.status) == (wrong.code, wrong.message, wrong.status)


def test_a_service_that_is_not_offered_is_refused_by_name() -> None:
    error = refusal(signed(service="s3"))
    assert error.code == "SignatureDoesNotMatch"
    assert "ec2, sts" in error.message


def test_clocks_may_differ_by_five_minutes_either_way_and_no_more() -> None:
    request = signed()
    time = signed_at(request)
    for seconds in (-300, 0, 300):
        assert checked(request, time + timedelta(seconds=seconds)).access_key_id == "AKIAONE"
    for seconds in (-301, 301, 86_400):
        now = time + timedelta(seconds=seconds)
        error = refusal(request, now)
        assert (error.code, error.status) == ("RequestExpired", 400)
        assert header(request, "X-Amz-Date") in error.message
        assert now.strftime("%Y%m%dT%H%M%SZ") in error.message


def test_the_allowed_difference_is_the_callers_to_choose() -> None:
    request = signed()
    later = signed_at(request) + timedelta(seconds=301)
    assert verify(request, SECRETS.get, later, services=SERVICES, skew_s_max=301).service == "ec2"


def malformed(value: str) -> SignedRequest:
    return with_header(signed(), "Authorization", value)


SCOPE = "AKIAONE/20240101/eu-central-1/ec2/aws4_request"
REST = f"SignedHeaders=host;x-amz-date, Signature={64 * '0'}"


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        pytest.param(lambda: without_header(signed(), "Authorization"), "MissingAuthenticationToken", "access key",
                     id="no Authorization"),
        pytest.param(lambda: replace(signed(), headers=()), "MissingAuthenticationToken", "", id="no header at all"),
        pytest.param(lambda: replace(without_header(signed(), "Authorization"), query="X-Amz-Signature=00"),
                     "UnsupportedOperation", "Presigned", id="a presigned query"),
        pytest.param(lambda: replace(signed(), query="X-Amz-Signature=00"), "UnsupportedOperation", "Presigned",
                     id="a presigned query beside a header"),
        pytest.param(lambda: signed(token="t"), "InvalidClientTokenId", "security token", id="a session token"),
        pytest.param(lambda: with_header(signed(), "X-Amz-Security-Token", "t"), "InvalidClientTokenId", "",
                     id="a session token that is not signed"),
        pytest.param(lambda: replace(signed(), headers=signed().headers * 2), "IncompleteSignature",
                     "one authorization header and has 2", id="two Authorizations"),
        pytest.param(lambda: malformed(""), "IncompleteSignature", "AWS4-HMAC-SHA256", id="an empty Authorization"),
        pytest.param(lambda: malformed("Basic eDp5"), "IncompleteSignature", "AWS4-HMAC-SHA256", id="Basic"),
        pytest.param(lambda: malformed(f"AWS4-ECDSA-P256-SHA256 Credential={SCOPE}, {REST}"), "IncompleteSignature",
                     "AWS4-HMAC-SHA256", id="Signature Version 4a"),
        pytest.param(lambda: malformed(f"AWS4-HMAC-SHA256 Credential={SCOPE}"), "IncompleteSignature",
                     "Credential, SignedHeaders and Signature", id="a credential alone"),
        pytest.param(lambda: malformed(f"AWS4-HMAC-SHA256 Credential={SCOPE}, {REST}, {REST}"), "IncompleteSignature",
                     "once each", id="fields twice"),
        pytest.param(lambda: malformed(f"AWS4-HMAC-SHA256 Credential=AKIAONE, {REST}"), "IncompleteSignature",
                     "aws4_request", id="a credential without its scope"),
        pytest.param(lambda: with_authorization(signed(), "aws4_request", "aws5_request"), "IncompleteSignature",
                     "aws4_request", id="another end of the scope"),
        pytest.param(lambda: with_authorization(signed(), "content-type;host;", "content-type;"),
                     "IncompleteSignature", "host must be signed", id="the host unsigned"),
        pytest.param(lambda: with_authorization(signed(), ";x-amz-date", ""), "IncompleteSignature",
                     "x-amz-date must be signed", id="the time unsigned"),
        pytest.param(lambda: with_authorization(signed(), "content-type;host", "host;content-type"),
                     "IncompleteSignature", "in order", id="signed headers out of order"),
        pytest.param(lambda: with_authorization(signed(), ";host;", ";Host;"), "IncompleteSignature", "lower-case",
                     id="signed headers in capitals"),
        pytest.param(lambda: with_authorization(signed(), ";x-amz-date", ";x-amz-date;x-none"), "IncompleteSignature",
                     "x-none is not in the request", id="a signed header that is absent"),
        pytest.param(lambda: with_authorization(signed(), "Signature=", "Signature=0"), "IncompleteSignature",
                     "64 hexadecimal", id="a long signature"),
        pytest.param(lambda: without_header(signed(), "X-Amz-Date"), "IncompleteSignature", "x-amz-date", id="no time"),
        pytest.param(lambda: with_header(signed(), "X-Amz-Date", "yesterday"), "IncompleteSignature", "yesterday",
                     id="a time that is none"),
        pytest.param(lambda: with_header(signed(), "X-Amz-Date", "20241301T000000Z"), "IncompleteSignature",
                     "20241301", id="a thirteenth month"),
        pytest.param(lambda: malformed(f"AWS4-HMAC-SHA256 Credential={SCOPE}, {REST}"), "IncompleteSignature",
                     "20240101", id="a scope of another day"),
        pytest.param(lambda: with_header(signed(), "X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD"), "IncompleteSignature",
                     "cannot go unsigned", id="an unsigned payload"),
        pytest.param(lambda: signed(X_Amz_Content_SHA256="UNSIGNED-PAYLOAD"), "IncompleteSignature",
                     "cannot go unsigned", id="an unsigned payload, and the header signed"),
        pytest.param(lambda: signed(X_Amz_Content_SHA256=hashlib.sha256(b"").hexdigest()), "IncompleteSignature",
                     "SHA-256 of the body", id="the hash of another body, signed"),
    ],
)  # fmt: skip
def test_a_signature_is_refused_for_what_is_wrong_with_it(request_, code: str, message: str) -> None:  # type: ignore[no-untyped-def]
    error = refusal(request_())
    assert error.code == code
    assert message in error.message


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(0, len(BODY) - 1), st.integers(0, 7))
def test_no_bit_of_the_body_can_be_flipped(index: int, bit: int) -> None:
    flipped = bytearray(BODY)
    flipped[index] ^= 1 << bit
    assert refusal(replace(signed(), body=bytes(flipped))).code == "AuthFailure"


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(0, 63), st.sampled_from("0123456789abcdef"))
def test_no_digit_of_the_signature_can_be_changed(index: int, digit: str) -> None:
    request = signed()
    start, signature = header(request, "Authorization").rsplit("=", 1)
    changed = signature[:index] + digit + signature[index + 1 :]
    other = with_header(request, "Authorization", f"{start}={changed}")
    if changed == signature:
        assert checked(other).access_key_id == "AKIAONE"
    else:
        assert refusal(other).code == "AuthFailure"


URL_TEXT = st.text(st.sampled_from("abz/.~-_%20AF+@:!$'()*,;="), max_size=15)


@settings(max_examples=examples(300), deadline=None)
@given(URL_TEXT, URL_TEXT, st.binary(max_size=20))
def test_any_path_query_and_body_that_botocore_signs_is_accepted(path: str, query: str, body: bytes) -> None:
    assert checked(signed(url=f"http://h:1/{path}?{query}", body=body)).service == "ec2"


@settings(max_examples=examples(500), deadline=None)
@given(
    st.builds(
        SignedRequest,
        st.text(max_size=5),
        st.text(max_size=5),
        st.text(max_size=5),
        st.lists(
            st.tuples(
                st.sampled_from(["Host", "X-Amz-Date", "Authorization", "X-Amz-Content-SHA256"]) | st.text(max_size=5),
                st.text(max_size=10)
                | st.sampled_from(["20240101T000000Z", f"AWS4-HMAC-SHA256 Credential={SCOPE}, {REST}"]),
            ),
            max_size=5,
        ).map(tuple),
        st.binary(max_size=5),
    )
)
def test_an_arbitrary_request_is_refused_and_never_breaks_the_check(request: SignedRequest) -> None:
    refusal(request, datetime(2024, 1, 1, tzinfo=UTC))
    assert claimed_service(request, services=SERVICES) == "ec2"


@pytest.mark.parametrize("part", ["method", "path", "query", "header"])
def test_a_lone_surrogate_is_refused(part: str) -> None:
    request = signed()
    odd = with_header(request, "Content-Type", "\ud800") if part == "header" else replace(request, **{part: "/\ud800"})
    assert refusal(odd).code == "AuthFailure"


def test_the_claimed_service_gives_an_error_answer_its_form() -> None:
    assert claimed_service(signed(service="sts"), services=SERVICES) == "sts"
    assert claimed_service(signed(service="s3"), services=SERVICES) == "ec2"
    assert claimed_service(without_header(signed(service="sts"), "Authorization"), services=SERVICES) == "ec2"
    assert claimed_service(malformed("Basic eDp5"), services=SERVICES, otherwise="sts") == "sts"

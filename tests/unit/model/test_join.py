"""The token with which a host joins: one word that says to whom, by what, and whom to trust."""

import hashlib

import pytest

from pktmirror.model.join import RANDOM_BYTES, JoinToken, host_of, host_uri

CA = b"the certificate of a CA"
TOKEN = JoinToken.of(bytes(range(RANDOM_BYTES)), hashlib.sha256(CA).digest())


def test_a_token_is_read_as_it_was_written() -> None:
    assert JoinToken.parse(str(TOKEN)) == TOKEN
    assert JoinToken.parse(f" {TOKEN}\n") == TOKEN
    assert " " not in str(TOKEN)


def test_a_token_does_not_show_its_secret_where_it_is_logged() -> None:
    assert str(TOKEN.secret) not in repr(TOKEN)
    assert TOKEN.digest() != TOKEN.secret
    assert TOKEN.digest() == hashlib.sha256(bytes(range(8, 40))).digest()


@pytest.mark.parametrize(
    "text", ["", "x", str(TOKEN)[:-1], f"{TOKEN}x", str(TOKEN).replace("join", "part"), str(TOKEN).replace(".", "-")]
)
def test_what_is_no_token_is_none(text: str) -> None:
    assert JoinToken.parse(text) is None


def test_a_token_names_one_ca() -> None:
    assert TOKEN.names(CA)
    assert not TOKEN.names(CA + b"x")
    assert not TOKEN.names(b"")


def test_a_certificate_names_its_host() -> None:
    assert host_of(host_uri("host-1")) == "host-1"
    assert host_of("spiffe://host-1") is None

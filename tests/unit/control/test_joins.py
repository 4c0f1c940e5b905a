"""Who may become a host, and who is one: tokens that are shown once, certificates, and their revocation."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from pktmirror.aws import ApiError
from pktmirror.control.authority import HOST_S, Authority, Shown, pem_of, requested_key, serial_of
from pktmirror.control.joins import TOKEN_REMEMBERED_S, TOKEN_S_MAX, Joins
from pktmirror.control.records import HostRecord
from pktmirror.control.store import Store
from pktmirror.model.join import JoinRequest, JoinToken, TokenWish
from pktmirror.model.refusal import Refusal

NOW_S = 1_800_000_000.0
AUTHORITY = Authority.made(NOW_S)
KEY = ec.generate_private_key(ec.SECP256R1())
HOUR_S = 3600.0


def csr_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


CSR = csr_of(KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def joins(store: Store) -> Joins:
    return Joins(store, AUTHORITY, b"probe key")


def token(joins: Joins, host_id: str | None = None, now_s: float = NOW_S) -> str:
    return joins.make_token(TokenWish(host_id=host_id, valid_s=HOUR_S), now_s).token


def joined(joins: Joins, host_id: str, token_text: str, now_s: float = NOW_S) -> Shown:
    """What the host shows from then on."""
    certified = joins.join(JoinRequest(token=token_text, host_id=host_id, csr=CSR), now_s)
    return shown(certified.certificate)


def shown(certificate_pem: str) -> Shown:
    return Shown.of(x509.load_pem_x509_certificate(certificate_pem.encode()).public_bytes(serialization.Encoding.DER))


def code(store: Store, call: object, *arguments: object) -> str:
    """The code of a call that must be refused, and must change nothing."""
    with store.read() as transaction:
        before = transaction.dump()
    with pytest.raises(ApiError) as refusal:
        call(*arguments)  # type: ignore[operator]
    with store.read() as transaction:
        assert transaction.dump() == before
    return refusal.value.code


def test_a_token_becomes_the_certificate_of_its_host_once(store: Store, joins: Joins) -> None:
    text = token(joins, "host-1")
    other = token(joins, "host-2")
    wrong = str(JoinToken.of(bytes(40), AUTHORITY.fingerprint))
    forged = JoinToken.parse(text)
    assert forged is not None
    forged_text = str(JoinToken(forged.token_id, bytes(32), forged.ca_fingerprint))
    assert code(store, joined, joins, "host-1", wrong) == "InvalidJoinToken"
    assert code(store, joined, joins, "host-1", forged_text) == "InvalidJoinToken"
    assert code(store, joined, joins, "host-1", "nonsense") == "InvalidJoinToken"
    assert code(store, joined, joins, "host-1", other) == "JoinTokenNotOfHost"
    assert code(store, joined, joins, "host-1", text, NOW_S + HOUR_S) == "JoinTokenExpired"
    mine = joined(joins, "host-1", text, NOW_S + HOUR_S - 1)
    assert mine.host_id == "host-1"
    joins.refuse_stranger(mine, "host-1", NOW_S)
    assert code(store, joined, joins, "host-1", text) == "JoinTokenUsed"
    assert code(store, joined, joins, "host-1", forged_text) == "InvalidJoinToken", (
        "who only knows its name learns that"
    )
    joins.refuse_stranger(mine, "host-1", NOW_S)


def test_of_a_token_only_a_digest_is_kept(store: Store, joins: Joins) -> None:
    made = JoinToken.parse(token(joins))
    assert made is not None
    with store.read() as transaction:
        [record] = transaction.join_tokens.where()
        assert made.secret not in repr(transaction.dump()).encode()
    assert record.digest == made.digest()
    assert made.names(AUTHORITY.certificate.public_bytes(serialization.Encoding.DER))


def test_a_token_for_any_host_makes_nobody_a_host_that_is_known(store: Store, joins: Joins) -> None:
    first, second, named = token(joins), token(joins), token(joins, "host-1")
    with store.write() as transaction:
        transaction.hosts.put(HostRecord("on-loopback", "0.1.0", NOW_S))
    mine = joined(joins, "host-1", first)
    assert code(store, joined, joins, "host-1", second) == "JoinTokenNotOfHost"
    assert code(store, joined, joins, "on-loopback", second) == "JoinTokenNotOfHost"
    joined(joins, "host-2", second)
    joins.refuse_stranger(mine, "host-1", NOW_S)
    again = joined(joins, "host-1", named)
    joins.refuse_stranger(again, "host-1", NOW_S)
    assert code(store, joins.refuse_stranger, mine, "host-1", NOW_S) == "CertificateRevoked", "it has joined again"


def test_a_host_is_who_shows_its_certificate_and_nobody_else(store: Store, joins: Joins) -> None:
    mine, theirs = joined(joins, "host-1", token(joins)), joined(joins, "host-2", token(joins))
    unknown = shown(pem_of(AUTHORITY.for_host(KEY.public_key(), "host-1", NOW_S)).decode())
    server = Shown(None, "1")
    joins.refuse_stranger(mine, "host-1", NOW_S)
    refused = [
        code(store, joins.refuse_stranger, who, "host-1", now_s)
        for who, now_s in (
            (None, NOW_S),
            (theirs, NOW_S),
            (server, NOW_S),
            (unknown, NOW_S),
            (Shown("host-1", theirs.serial), NOW_S),
            (mine, NOW_S + HOST_S),
        )
    ]
    assert refused == [
        "AuthFailure",
        "CertificateOfAnotherHost",
        "CertificateOfAnotherHost",
        "CertificateUnknown",
        "CertificateUnknown",
        "CertificateExpired",
    ]
    joins.refuse_stranger(mine, "host-1", NOW_S + HOST_S - 1)


def test_revoked_is_every_certificate_of_a_host_and_none_of_another(store: Store, joins: Joins) -> None:
    mine, theirs = joined(joins, "host-1", token(joins)), joined(joins, "host-2", token(joins))
    renewed = shown(joins.renew(mine, "host-1", CSR, NOW_S + 1).certificate)
    unused, for_others = token(joins, "host-1"), token(joins)
    for who in (mine, renewed):
        joins.refuse_stranger(who, "host-1", NOW_S + 1)
    joins.revoke("host-1", NOW_S + 2)
    for who in (mine, renewed):
        assert code(store, joins.refuse_stranger, who, "host-1", NOW_S + 2) == "CertificateRevoked"
    assert code(store, joined, joins, "host-1", unused) == "InvalidJoinToken"
    assert code(store, joined, joins, "host-1", for_others) == "JoinTokenNotOfHost"
    joins.refuse_stranger(theirs, "host-2", NOW_S + 2)
    assert code(store, joins.revoke, "host-1", NOW_S + 3) == "InvalidHostId.NotFound"
    joins.refuse_stranger(joined(joins, "host-1", token(joins, "host-1")), "host-1", NOW_S + 4)


def test_nobody_renews_a_certificate_that_does_not_count(store: Store, joins: Joins) -> None:
    mine, theirs = joined(joins, "host-1", token(joins)), joined(joins, "host-2", token(joins))
    assert code(store, joins.renew, theirs, "host-1", CSR, NOW_S) == "CertificateOfAnotherHost"
    assert code(store, joins.renew, None, "host-1", CSR, NOW_S) == "AuthFailure"
    assert code(store, joins.renew, mine, "host-1", CSR, NOW_S + HOST_S) == "CertificateExpired"
    joins.revoke("host-1", NOW_S + 1)
    assert code(store, joins.renew, mine, "host-1", CSR, NOW_S + 2) == "CertificateRevoked"
    next_ = shown(joins.renew(theirs, "host-2", CSR, NOW_S + 2).certificate)
    joins.refuse_stranger(next_, "host-2", NOW_S + 2)


def test_what_is_revoked_by_a_clock_that_is_ahead_counts_no_more_when_it_is_right_again(
    store: Store, joins: Joins
) -> None:
    mine, theirs = joined(joins, "host-1", token(joins)), joined(joins, "host-2", token(joins))
    unused = token(joins, "host-1")
    joins.revoke("host-1", NOW_S + 2 * HOST_S)
    assert code(store, joins.refuse_stranger, mine, "host-1", NOW_S) == "CertificateRevoked"
    assert code(store, joined, joins, "host-1", unused) == "InvalidJoinToken"
    assert code(store, joins.revoke, "host-1", NOW_S) == "InvalidHostId.NotFound"
    joins.refuse_stranger(theirs, "host-2", NOW_S)


def test_what_has_ended_is_forgotten(store: Store, joins: Joins) -> None:
    old_token = token(joins, "host-1")
    joined(joins, "host-1", old_token)
    later_s = NOW_S + HOST_S + HOUR_S + TOKEN_REMEMBERED_S
    joined(joins, "host-1", token(joins, "host-1", later_s), later_s)
    with store.read() as transaction:
        assert len(transaction.join_tokens.where()) == 1
        assert [record.ends_at_s for record in transaction.host_certificates.where()] == [later_s + HOST_S]


@pytest.mark.parametrize("valid_s", [0.0, -1.0, TOKEN_S_MAX + 1])
def test_a_token_lasts_for_some_days_at_most(store: Store, joins: Joins, valid_s: float) -> None:
    assert code(store, joins.make_token, TokenWish(host_id=None, valid_s=valid_s), NOW_S) == "InvalidParameterValue"
    joins.make_token(TokenWish(host_id=None, valid_s=TOKEN_S_MAX), NOW_S)


def test_a_weak_key_or_no_proof_of_it_gets_nothing_and_costs_no_token(store: Store, joins: Joins) -> None:
    text = token(joins)
    weak = csr_of(rsa.generate_private_key(65537, 1024))
    der = x509.load_pem_x509_csr(CSR.encode()).public_bytes(serialization.Encoding.DER)
    unproved = x509.load_der_x509_csr(der[:-1] + bytes([der[-1] ^ 1]))  # the end of its signature
    tampered = unproved.public_bytes(serialization.Encoding.PEM).decode()
    for csr in (weak, tampered, "", "é", pem_of(AUTHORITY.certificate).decode()):
        asked = JoinRequest(token=text, host_id="host-1", csr=csr)
        assert code(store, joins.join, asked, NOW_S) == "InvalidParameterValue"
    joined(joins, "host-1", text)


@pytest.mark.parametrize(
    "key",
    [KEY, ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "P-384", "RSA"],
)
def test_keys_that_are_taken(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    assert requested_key(csr_of(key)) == key.public_key()


def test_no_host_can_stand_as_a_server_and_no_server_as_a_host() -> None:
    def uses(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    host = AUTHORITY.for_host(KEY.public_key(), "host-1", NOW_S)
    server = AUTHORITY.for_server(KEY.public_key(), ("10.0.0.1", "control.example"), NOW_S)
    assert uses(host) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert uses(server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert Shown.of(server.public_bytes(serialization.Encoding.DER)).host_id is None
    for certificate in (host, server):
        certificate.verify_directly_issued_by(AUTHORITY.certificate)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert serial_of(host) != serial_of(server)


def test_a_ca_is_its_two_files_and_those_of_another_are_refused() -> None:
    again = Authority.of(AUTHORITY.certificate_pem, AUTHORITY.key_pem)
    assert again.fingerprint == AUTHORITY.fingerprint
    other = Authority.made(NOW_S)
    for certificate, key in (
        (AUTHORITY.certificate_pem, other.key_pem),
        (b"", AUTHORITY.key_pem),
        (AUTHORITY.certificate_pem, b"x"),
    ):
        with pytest.raises(Refusal, match="CA of the state directory"):
            Authority.of(certificate, key)

"""What a host keeps of its joining, and when its certificate is renewed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pktmirror.agent.identity import Identity, Joined, due_at_s, new_key, of_key
from pktmirror.agent.line import Uplink
from pktmirror.model.refusal import Refusal

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CA_KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])


def signed(key: ec.EllipticCurvePublicKey, days: int = 30, by: ec.EllipticCurvePrivateKey = CA_KEY) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=days))
        .sign(by, hashes.SHA256())
    )


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


CA = pem(signed(CA_KEY.public_key()))


def certified(by: ec.EllipticCurvePrivateKey = CA_KEY) -> tuple[bytes, str]:
    """A key of this host, and its certificate."""
    key, request = new_key()
    return key, pem(signed(x509.load_pem_x509_csr(request.encode()).public_key(), by=by))  # type: ignore[arg-type]


def test_a_certificate_is_renewed_in_the_last_third_of_its_life() -> None:
    assert due_at_s(signed(CA_KEY.public_key(), days=30)) == (BEGIN + timedelta(days=20)).timestamp()


def test_what_a_host_keeps_is_for_its_owner_alone_and_found_again(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert Identity.found(state, "host-1") is None
    key, certificate = certified()
    joined = Joined(control_url="https://control.example:8774", ca=CA, probe_key="00")
    kept = Identity.keep(state, "host-1", joined, of_key(certificate, key, CA))
    found = Identity.found(state, "host-1")
    assert found == kept
    assert pem(kept.certificate()) == certificate
    kept.context()
    assert {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()} == {
        "joined-host-1.json": 0o600,
        "joined-host-1.pem": 0o600,
    }
    assert state.stat().st_mode & 0o777 == 0o700
    assert Identity.found(state, "host-2") is None


def test_a_host_that_has_joined_asks_nobody_without_tls(tmp_path: Path) -> None:
    key, certificate = certified()
    joined = Joined(control_url="https://control.example:8774", ca=CA, probe_key="00")
    identity = Identity.keep(tmp_path, "host-1", joined, of_key(certificate, key, CA))
    with pytest.raises(Refusal, match="not by TLS"):
        Uplink("http://127.0.0.1:8773", identity, "host-1")
    Uplink("https://127.0.0.1:8774", identity, "host-1").close()


@pytest.mark.parametrize("damaged", ["joined-host-1.json", "joined-host-1.pem"])
def test_what_is_damaged_is_refused_with_a_way_out(tmp_path: Path, damaged: str) -> None:
    key, certificate = certified()
    Identity.keep(
        tmp_path, "host-1", Joined(control_url="https://x", ca=CA, probe_key="00"), of_key(certificate, key, CA)
    )
    (tmp_path / damaged).write_bytes(b"x")
    with pytest.raises(Refusal, match="join again"):
        Identity.found(tmp_path, "host-1")


def test_a_certificate_counts_with_its_own_key_and_of_its_own_ca_only() -> None:
    key, certificate = certified()
    other_key, _ = certified()
    assert of_key(certificate, key, CA) == key + certificate.encode()
    with pytest.raises(ValueError, match="another key"):
        of_key(certificate, other_key, CA)
    key, certificate = certified(by=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ValueError, match="not signed"):
        of_key(certificate, key, CA)

"""What a host has of its joining: the control plane that it trusts, its own certificate, and the key. An edge module.

Two files in the state directory, for their owner alone: the key and the certificate in one, since neither is of use
without the other, and beside it where the control plane is and which CA it has.
"""

import contextlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pktmirror.model.refusal import Refusal

_RENEWED_IN_LAST = 3  # the last third of its life, so that a control plane may be away for days


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane that a host has joined; ``ca`` is PEM, and the only one that counts.

    ``probe_key`` is that of its probes, in hexadecimal.
    """

    control_url: str
    ca: str
    probe_key: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A host that has joined."""

    joined: Joined
    pem: Path
    """Its key and certificate."""

    @classmethod
    def found(cls, state_dir: Path, host_id: str) -> "Identity | None":
        """None for a host that has not joined; Refusal where what is there cannot be read."""
        path = _joined_path(state_dir, host_id)
        try:
            identity = cls(msgspec.json.decode(path.read_bytes(), type=Joined), _pem_path(state_dir, host_id))
            identity.certificate()
            return identity
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise Refusal(
                f"What {host_id} has of its joining in {state_dir} cannot be read.",
                found=str(error),
                do="run as root; or join again with `pktmirror agent join` and a new token",
            ) from None

    @classmethod
    def keep(cls, state_dir: Path, host_id: str, joined: Joined, pem: bytes) -> "Identity":
        """Write both files, the one that is looked for last."""
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_at_once(_pem_path(state_dir, host_id), pem, synced=True)
        write_at_once(_joined_path(state_dir, host_id), msgspec.json.encode(joined), synced=True)
        return cls(joined, _pem_path(state_dir, host_id))

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.pem.read_bytes())

    def context(self) -> ssl.SSLContext:
        """For connections to this control plane and to no other."""
        context = trusting(self.joined.ca)
        context.load_cert_chain(self.pem)
        return context

    def renew(self, pem: bytes) -> None:
        write_at_once(self.pem, pem, synced=True)


def trusting(ca_pem: str) -> ssl.SSLContext:
    """For connections to servers whose certificate this CA has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    return context


def due_at_s(certificate: x509.Certificate) -> float:
    """When a certificate is to be renewed, in Unix seconds."""
    begins_s = certificate.not_valid_before_utc.timestamp()
    ends_s = certificate.not_valid_after_utc.timestamp()
    return ends_s - (ends_s - begins_s) / _RENEWED_IN_LAST


def new_key() -> tuple[bytes, str]:
    """A key that stays on this host, and the request for its certificate; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, request.public_bytes(serialization.Encoding.PEM).decode()


def of_key(certificate_pem: str, key_pem: bytes, ca_pem: str) -> bytes:
    """Key and certificate as they are kept; ValueError where they are not of each other, or not of this CA."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    key = serialization.load_pem_private_key(key_pem, None)
    if certificate.public_key() != key.public_key():
        raise ValueError("a certificate of another key")
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca_pem.encode()))
    except (ValueError, TypeError, InvalidSignature):
        raise ValueError("a certificate that the CA has not signed") from None
    return key_pem + certificate_pem.encode()


def write_at_once(path: Path, document: bytes, *, synced: bool = False) -> None:
    """All of the document or none, readable by its owner alone; nothing is left of a failure.

    ``synced`` waits until it is on the disk, for what nobody gives a second time.
    """
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(document)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        fresh.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def _joined_path(state_dir: Path, host_id: str) -> Path:
    return state_dir / f"joined-{host_id}.json"


def _pem_path(state_dir: Path, host_id: str) -> Path:
    return state_dir / f"joined-{host_id}.pem"

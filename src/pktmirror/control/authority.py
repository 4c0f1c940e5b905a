"""The control plane's own CA: what it signs for hosts, and for the servers that hosts talk to.

It takes of a request for a certificate the public key alone; who it is for and how long it lasts is decided here.
An edge module: keys and serial numbers are the kernel's random bytes.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pktmirror.aws import errors
from pktmirror.model.join import PLANE_NAME, host_of, host_uri
from pktmirror.model.refusal import Refusal

AUTHORITY_S = 20 * 365 * 86400.0
HOST_S = 30 * 86400.0
SERVER_S = 30 * 86400.0
BACKDATED_S = 3600.0
"""A certificate counts from before it was made, for hosts whose clocks are behind."""

_RSA_BITS_MIN = 2048
_KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def made(cls, now_s: float) -> "Authority":
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pktmirror control plane CA")])
        builder = _builder(name, name, key.public_key(), key.public_key(), now_s, AUTHORITY_S)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def of(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """From its files; raises `Refusal` where they are damaged, or are not of each other."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _damaged(str(error)) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise _damaged("a key that is not the certificate's")
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        return pem_of(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return key_pem_of(self.key)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate (DER)."""
        return self.certificate.fingerprint(hashes.SHA256())

    def for_host(self, key: PublicKey, host_id: str, now_s: float, lasts_s: float = HOST_S) -> x509.Certificate:
        """By which a host is known; no server can show it."""
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pktmirror host")])
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(host_uri(host_id))])
        return self._signed(subject, names, key, ExtendedKeyUsageOID.CLIENT_AUTH, now_s, lasts_s)

    def for_server(self, key: PublicKey, names: tuple[str, ...], now_s: float) -> x509.Certificate:
        """What this control plane shows, under the name that hosts know it by and those that other clients use."""
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "pktmirror control plane")])
        alternative = x509.SubjectAlternativeName([_name(name) for name in dict.fromkeys((PLANE_NAME, *names))])
        return self._signed(subject, alternative, key, ExtendedKeyUsageOID.SERVER_AUTH, now_s, SERVER_S)

    def _signed(
        self,
        subject: x509.Name,
        names: x509.SubjectAlternativeName,
        key: PublicKey,
        for_: x509.ObjectIdentifier,
        now_s: float,
        lasts_s: float,
    ) -> x509.Certificate:
        issuer, issuer_key = self.certificate.subject, self.key.public_key()
        builder = _builder(subject, issuer, key, issuer_key, now_s, lasts_s).add_extension(names, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage("digital_signature"), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([for_]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that a client showed, and proved to have the key of: of which host, and which one."""

    host_id: str | None
    serial: str

    @classmethod
    def of(cls, der: bytes) -> "Shown":
        certificate = x509.load_der_x509_certificate(der)
        return cls(host_named(certificate), serial_of(certificate))


def requested_key(csr_pem: str) -> PublicKey:
    """The key that a certificate is asked for; ApiError where the asker has not proved to have it, or it is weak."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        is_proved = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise errors.invalid_parameter_value(f"The certificate request cannot be read: {error}") from None
    if not is_proved:
        raise errors.invalid_parameter_value("The certificate request is not signed with the key that it names")
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()) | ed25519.Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey(key_size=size) if size >= _RSA_BITS_MIN:
            return key
    raise errors.invalid_parameter_value("The certificate request is of a key that is not taken: use P-256")


def host_named(certificate: x509.Certificate) -> str | None:
    """The host that a certificate is of."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    hosts = [host_of(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    return hosts[0] if len(hosts) == 1 else None


def serial_of(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now_s: float,
    lasts_s: float,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_s, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=BACKDATED_S))
        .not_valid_after(now + timedelta(seconds=lasts_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _KEY_USAGES})


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _damaged(found: str) -> Refusal:
    return Refusal(
        "The CA of the state directory cannot be used.",
        found=found,
        do="put back the files ca.pem and ca-key.pem that belong together; without them all hosts must join again",
    )

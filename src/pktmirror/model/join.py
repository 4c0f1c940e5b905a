"""How a host joins its control plane: the token that it shows once, and what the two say to each other. Pure.

A token is three parts in one word: by what the control plane knows it, the secret that it shows, and the fingerprint
of the CA whose certificate the server must show. Who holds a token so knows whom to trust before anything is sent.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

import msgspec

PLANE_NAME = "control-plane.pktmirror.internal"
"""The name in every server certificate of a control plane's own CA, by whatever address it is reached."""

SECRET_BYTES = 32
_ID_BYTES = 8
_PREFIX = "pktmirror-join"
_TOKEN = re.compile(rf"{_PREFIX}\.([A-Za-z0-9_-]{{11}})\.([A-Za-z0-9_-]{{43}})\.([A-Za-z0-9_-]{{43}})")
_HOST_URI = "pktmirror:host:"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """``ca_fingerprint`` is the SHA-256 of the CA's certificate (DER), all 32 bytes."""

    token_id: str
    secret: bytes = field(repr=False)
    ca_fingerprint: bytes

    @classmethod
    def of(cls, random: bytes, ca_fingerprint: bytes) -> "JoinToken":
        """A new one, of `RANDOM_BYTES` that nobody can guess."""
        return cls(_text(random[:_ID_BYTES]), random[_ID_BYTES:], ca_fingerprint)

    @classmethod
    def parse(cls, text: str) -> "JoinToken | None":
        """None for what is no token."""
        parts = _TOKEN.fullmatch(text.strip())
        return None if parts is None else cls(parts[1], _bytes(parts[2]), _bytes(parts[3]))

    def __str__(self) -> str:
        return f"{_PREFIX}.{self.token_id}.{_text(self.secret)}.{_text(self.ca_fingerprint)}"

    def digest(self) -> bytes:
        """What the control plane keeps of the secret. It is random enough that nobody finds it by trying."""
        return hashlib.sha256(self.secret).digest()

    def names(self, ca_der: bytes) -> bool:
        """Whether it is this CA that the token is of."""
        return hmac.compare_digest(hashlib.sha256(ca_der).digest(), self.ca_fingerprint)


RANDOM_BYTES = _ID_BYTES + SECRET_BYTES


class TokenWish(msgspec.Struct, frozen=True, kw_only=True):
    """An operator asks for a token; ``host_id`` None is one for any host that is not known yet."""

    host_id: str | None
    valid_s: float


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """It is shown this one time."""

    token: str
    expires_at_s: float


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A host shows its token and asks for a certificate; ``csr`` is PEM, of a key that never leaves the host."""

    token: str
    host_id: str
    csr: str


class HostJoined(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate that was asked for (PEM), and by which key the host's monitor knows probes, in hexadecimal."""

    certificate: str
    probe_key: str


class RenewalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A host that shows its certificate asks for the next."""

    csr: str


class Certified(msgspec.Struct, frozen=True, kw_only=True):
    """The next certificate (PEM)."""

    certificate: str


def host_uri(host_id: str) -> str:
    """How a certificate names its host."""
    return _HOST_URI + host_id


def host_of(uri: str) -> str | None:
    """The host that a name in a certificate is of; None where it is of none."""
    return uri.removeprefix(_HOST_URI) if uri.startswith(_HOST_URI) else None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

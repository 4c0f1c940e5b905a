"""Which hosts have joined: tokens that are shown once, certificates, and their revocation. The time is an argument.

What is known is in the store, so that any replica with the same CA takes what another gave out.
"""

import hmac
import secrets
from collections.abc import Callable, Mapping

from cryptography import x509

from pktmirror.aws import ApiError, errors
from pktmirror.control.authority import (
    HOST_S,
    Authority,
    PublicKey,
    Shown,
    pem_of,
    requested_key,
    serial_of,
)
from pktmirror.control.records import HostCertificateRecord, JoinTokenRecord
from pktmirror.control.store import Store, Transaction
from pktmirror.model.join import RANDOM_BYTES, Certified, HostJoined, JoinRequest, JoinToken, TokenMade, TokenWish

TOKEN_S_MAX = 7 * 86400.0
TOKEN_REMEMBERED_S = 30 * 86400.0
"""For so long after its end a token's user is told why it is refused."""
HOSTS = "hosts"
"""What replicas are told when certificates of a host count no more."""


class Joins:
    """Safe to use from several threads. Each refusal is an ApiError, and then nothing has changed.

    ``probe_key`` is what a host's monitor is to know probes by.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        probe_key: bytes,
        *,
        host_certificate_s: float = HOST_S,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._authority = authority
        self._probe_key = probe_key
        self._host_certificate_s = host_certificate_s
        self._random = random

    @property
    def ca_pem(self) -> bytes:
        return self._authority.certificate_pem

    def make_token(self, wish: TokenWish, now_s: float) -> TokenMade:
        """A token for one host to join with, once."""
        if not 0 < wish.valid_s <= TOKEN_S_MAX:
            raise errors.invalid_value("valid_s", str(wish.valid_s), f"Expected seconds, at most {TOKEN_S_MAX:.0f}")
        token = JoinToken.of(self._random(RANDOM_BYTES), self._authority.fingerprint)
        record = JoinTokenRecord(token.token_id, token.digest(), wish.host_id, now_s + wish.valid_s)
        with self._store.write() as transaction:
            for known in transaction.join_tokens.where():
                if known.expires_at_s + TOKEN_REMEMBERED_S < now_s:
                    transaction.join_tokens.remove(known.token_id)
            transaction.join_tokens.put(record)
        return TokenMade(token=str(token), expires_at_s=record.expires_at_s)

    def join(self, request: JoinRequest, now_s: float) -> HostJoined:
        """A token becomes the certificate of a host. Those that the host had before are revoked by it."""
        key = requested_key(request.csr)
        with self._store.write() as transaction:
            token = _usable(transaction, request, now_s)
            if token.host_id is None and _is_known(transaction, request.host_id, now_s):
                raise ApiError(
                    "JoinTokenNotOfHost",
                    f"The host {errors.echo(request.host_id)} is known already, and this token is for a new one. "
                    "Make a token for it by its name",
                    403,
                )
            _revoke(transaction, request.host_id, now_s)
            certificate = self._issued(transaction, key, request.host_id, now_s)
            used = JoinTokenRecord(token.token_id, token.digest, token.host_id, token.expires_at_s, request.host_id)
            transaction.join_tokens.put(used)
        return HostJoined(certificate=pem_of(certificate).decode(), probe_key=self._probe_key.hex())

    def renew(self, shown: Shown | None, host_id: str, csr: str, now_s: float) -> Certified:
        """The next certificate of a host that has shown the one before, which goes on until its end.

        Whether that one counts is asked in the same transaction: no revocation comes between.
        """
        key = requested_key(csr)
        with self._store.write() as transaction:
            _refuse_stranger(transaction.host_certificates.get, shown, host_id, now_s)
            certificate = self._issued(transaction, key, host_id, now_s)
        return Certified(certificate=pem_of(certificate).decode())

    def revoke(self, host_id: str, now_s: float) -> None:
        """No certificate of the host counts any more, nor a token for it that was not used yet."""
        with self._store.write() as transaction:
            revoked = _revoke(transaction, host_id, now_s)
            for token in transaction.join_tokens.where(host_id=host_id):
                if token.used_by is None:  # also one that has ended: by this clock, which may be ahead
                    transaction.join_tokens.remove(token.token_id)
                    revoked += 1
        if not revoked:
            raise ApiError(
                "InvalidHostId.NotFound", f"The host '{errors.echo(host_id)}' has no certificate that counts", 404
            )

    def given_out(self) -> Mapping[str, HostCertificateRecord]:
        """All certificates of hosts, by their serial numbers."""
        with self._store.read() as transaction:
            return {record.serial: record for record in transaction.host_certificates.where()}

    def refuse_stranger(
        self,
        shown: Shown | None,
        host_id: str,
        now_s: float,
        given_out: Mapping[str, HostCertificateRecord] | None = None,
    ) -> None:
        """ApiError unless who showed this certificate is this host, now, or when ``given_out`` was read."""
        if given_out is not None:
            _refuse_stranger(given_out.get, shown, host_id, now_s)
            return
        with self._store.read() as transaction:
            _refuse_stranger(transaction.host_certificates.get, shown, host_id, now_s)

    def _issued(self, transaction: Transaction, key: PublicKey, host_id: str, now_s: float) -> x509.Certificate:
        for known in transaction.host_certificates.where(host_id=host_id):
            if known.ends_at_s <= now_s:
                transaction.host_certificates.remove(known.serial)
        certificate = self._authority.for_host(key, host_id, now_s, self._host_certificate_s)
        ends_at_s = certificate.not_valid_after_utc.timestamp()
        transaction.host_certificates.put(HostCertificateRecord(serial_of(certificate), host_id, ends_at_s))
        return certificate


def _refuse_stranger(
    given_out: Callable[[str], HostCertificateRecord | None], shown: Shown | None, host_id: str, now_s: float
) -> None:
    if shown is None:
        raise ApiError("AuthFailure", "No client certificate was shown: the host has to join first", 401)
    if shown.host_id != host_id:
        raise ApiError(
            "CertificateOfAnotherHost",
            f"The certificate is of {errors.echo(shown.host_id or 'no host')}, which is not {errors.echo(host_id)}",
            403,
        )
    record = given_out(shown.serial)
    if record is None or record.host_id != host_id:
        raise ApiError("CertificateUnknown", "The certificate is not among those that were given out", 403)
    if record.revoked_at_s is not None:
        raise ApiError("CertificateRevoked", f"The certificate of {errors.echo(host_id)} is revoked", 403)
    if record.ends_at_s <= now_s:
        raise ApiError("CertificateExpired", f"The certificate of {errors.echo(host_id)} has ended", 403)


def _usable(transaction: Transaction, request: JoinRequest, now_s: float) -> JoinTokenRecord:
    """The token that is shown. Who does not know its secret learns nothing of it."""
    shown = JoinToken.parse(request.token)
    known = None if shown is None else transaction.join_tokens.get(shown.token_id)
    if shown is None or known is None or not hmac.compare_digest(known.digest, shown.digest()):
        raise ApiError("InvalidJoinToken", "The token is none of this control plane", 403)
    if known.used_by is not None:
        raise ApiError("JoinTokenUsed", f"The token was used by {known.used_by}; each is for one join", 403)
    if known.expires_at_s <= now_s:
        raise ApiError("JoinTokenExpired", f"The token ended {now_s - known.expires_at_s:.0f} s ago", 403)
    if known.host_id not in (None, request.host_id):
        raise ApiError(
            "JoinTokenNotOfHost", f"The token is for {known.host_id}, not for {errors.echo(request.host_id)}", 403
        )
    return known


def _is_known(transaction: Transaction, host_id: str, now_s: float) -> bool:
    """Whether somebody is this host already, or was: a token for new hosts must not make another one of it."""
    certificates = transaction.host_certificates.where(host_id=host_id)
    return transaction.hosts.get(host_id) is not None or any(known.ends_at_s > now_s for known in certificates)


def _revoke(transaction: Transaction, host_id: str, now_s: float) -> int:
    """How many certificates were not revoked until now, also ended ones: the clock that says so may be ahead."""
    transaction.news.add(HOSTS)
    revoked = 0
    for known in transaction.host_certificates.where(host_id=host_id):
        if known.revoked_at_s is None:
            revoked += 1
            transaction.host_certificates.put(HostCertificateRecord(known.serial, host_id, known.ends_at_s, now_s))
    return revoked


def offered(joins: Joins | None) -> Joins:
    """What hosts join by; raises UnsupportedOperation where there is no TLS."""
    if joins is None:
        raise ApiError("UnsupportedOperation", "No host can join: `pktmirror serve` was started without --listen-tls")
    return joins

"""How this host joins a control plane, by a token. An edge module.

The token says which CA the control plane has. Its certificate is asked for first, from whoever answers, and counts only
where it is the one that the token names; all else goes over a connection that it has verified.
"""

import ssl
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pktmirror.agent.identity import Identity, Joined, new_key, of_key, trusting
from pktmirror.agent.line import refuse_bad_url
from pktmirror.model.join import PLANE_NAME, HostJoined, JoinRequest, JoinToken
from pktmirror.model.refusal import Refusal

TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 65_536


class _Said(msgspec.Struct):
    """A refusal of the control plane."""

    code: str
    message: str


def join(url: str, token_text: str, host_id: str, state_dir: Path) -> Identity:
    """Become the host ``host_id`` of a control plane; Refusal where it, or the token, is not what it should be."""
    token = JoinToken.parse(token_text)
    if token is None:
        raise Refusal(
            "This is no token to join with.",
            do="take what `pktmirror agent token` prints at the control plane, whole: pktmirror-join. and three parts",
        )
    refuse_bad_url(url)
    url = url.rstrip("/")
    if httpx.URL(url).scheme != "https":
        raise Refusal(
            f"{url} is not by TLS, and a host joins by TLS alone.",
            do="name what `pktmirror serve --listen-tls` listens on, as in https://control.example:8774",
        )
    ca = _ca(url, token)
    key, request = new_key()
    document = msgspec.json.encode(JoinRequest(token=str(token), host_id=host_id, csr=request))
    extensions = {"sni_hostname": PLANE_NAME}
    answer = _asked("POST", f"{url}/pktmirror/v1/join", trusting(ca), content=document, extensions=extensions)
    try:
        joined = msgspec.json.decode(answer, type=HostJoined)
        pem = of_key(joined.certificate, key, ca)
    except (ValueError, msgspec.DecodeError) as error:
        raise _not_understood(url, str(error)) from None
    try:
        return Identity.keep(state_dir, host_id, Joined(control_url=url, ca=ca, probe_key=joined.probe_key), pem)
    except OSError as error:
        raise Refusal(
            f"The certificate of {host_id} cannot be kept in {state_dir}.",
            found=str(error),
            do="make it writable, or name another directory with --state; then join with a new token",
        ) from None


def _ca(url: str, token: JoinToken) -> str:
    """The certificate of the control plane's CA (PEM), which the token vouches for."""
    from_anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    from_anybody.check_hostname = False
    from_anybody.verify_mode = ssl.CERT_NONE
    document = _asked("GET", f"{url}/pktmirror/v1/ca", from_anybody)
    try:
        certificate = x509.load_pem_x509_certificate(document)
    except ValueError as error:
        raise _not_understood(url, str(error)) from None
    if not token.names(certificate.public_bytes(Encoding.DER)):
        raise Refusal(
            f"What answers at {url} is not the control plane that made this token.",
            found="another CA than the token names; nothing was sent to it",
            do="check the URL, and who answers there; or make a token at that control plane",
        )
    return certificate.public_bytes(Encoding.PEM).decode()


def _asked(method: str, url: str, context: ssl.SSLContext, **more: Any) -> bytes:
    """The body of a good answer, of bounded size."""
    try:
        with (
            httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False) as client,
            client.stream(method, url, **more) as answer,
        ):
            body = b""
            for part in answer.iter_bytes():
                body += part
                if len(body) > _ANSWER_BYTES_MAX:
                    raise _not_understood(url, f"more than {_ANSWER_BYTES_MAX} bytes")
    except httpx.HTTPError as error:
        raise Refusal(
            f"{url} does not answer as a control plane does.",
            found=str(error) or type(error).__name__,
            do="check the address, and that `pktmirror serve --listen-tls` runs there",
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise _refused(url, answer.status_code, body)
    return body


def _refused(url: str, status: int, body: bytes) -> Refusal:
    try:
        said = msgspec.json.decode(body, type=_Said)
    except msgspec.DecodeError:
        return _not_understood(url, f"status {status}")
    return Refusal(
        "The control plane does not let this host join.",
        found=f"{said.code}: {said.message}",
        do="make a new token at the control plane with `pktmirror agent token`, --host and this host's name",
    )


def _not_understood(url: str, found: str) -> Refusal:
    return Refusal(
        f"The answer of {url} is not understood.",
        found=found,
        do="check the address; and run the same version of pktmirror here and there",
    )

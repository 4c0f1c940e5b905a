"""A probe: one marked frame that takes the way of a session's copies, to learn whether they would arrive. Pure.

Its token is what makes it one: a nonce of the control plane, and a digest of it under a key that it shares with
monitors. Who does not know that one can neither make a probe, to have a packet of production taken for it, nor
guess which nonce the control plane waits for.
"""

import hmac
import secrets

import msgspec

NONCE_BYTES = DIGEST_BYTES = 8
TOKEN_BYTES = NONCE_BYTES + DIGEST_BYTES


class ProbeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane asks an agent to send a probe on the way of a session; ``token`` is in hexadecimal."""

    probe_id: str
    session_id: str
    token: str


class ProbeSent(msgspec.Struct, frozen=True, kw_only=True, tag="sent"):
    """The data plane has sent it: it has its outer headers and is on the network.

    ``sent_at_ns`` is Unix time by the clock ``clock``; times of another clock cannot be compared exactly.
    """

    probe_id: str
    sent_at_ns: int
    clock: str


class ProbeNotSent(msgspec.Struct, frozen=True, kw_only=True, tag="not sent"):
    """It did not leave the host; ``reason`` says why."""

    probe_id: str
    reason: str


ProbeAnswer = ProbeSent | ProbeNotSent


def probe_key(agent_token: str) -> bytes:
    """What control plane and monitors share. It is made of the agents' token, and tells nobody what that is."""
    return hmac.digest(agent_token.encode(), b"pktmirror probe key", "sha256")


def new_token(shared: bytes) -> bytes:
    """A token that never was before; ``shared`` is the `probe_key`."""
    return _signed(shared, secrets.token_bytes(NONCE_BYTES))


def is_token(shared: bytes, token: bytes) -> bool:
    """Whether somebody made it who knows what is shared."""
    return len(token) == TOKEN_BYTES and hmac.compare_digest(token, _signed(shared, token[:NONCE_BYTES]))


def _signed(shared: bytes, nonce: bytes) -> bytes:
    return nonce + hmac.digest(shared, b"pktmirror probe" + nonce, "sha256")[:DIGEST_BYTES]

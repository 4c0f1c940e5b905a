"""The key file of the state directory: what seals secrets at rest and signs pagination tokens.

The key is 32 random bytes. Each use has a key of its own derived from it, so that one does not weaken the other.
An edge module: the nonces are the kernel's random bytes.
"""

import hmac
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pktmirror.model.refusal import Refusal

KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Key:
    secret: bytes = field(repr=False)

    def derived(self, purpose: str) -> bytes:
        """A key for one purpose: HMAC-SHA256 of its name."""
        return hmac.digest(self.secret, purpose.encode(), "sha256")

    def seal(self, text: str, *, bound_to: str) -> bytes:
        """Encrypt; the result opens only under the same name (AES-256-GCM with associated data)."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self.derived("seal")).encrypt(nonce, text.encode(), bound_to.encode())

    def open(self, sealed: bytes, *, bound_to: str) -> str:
        """Decrypt; raises `Refusal` where the key is not the one that sealed."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.derived("seal")).decrypt(nonce, ciphertext, bound_to.encode()).decode()
        except InvalidTag:
            raise Refusal(
                f"The secret of {bound_to} cannot be read with the key file of the state directory.",
                do="put back the file `key` that belongs to this store, or start with an empty directory",
            ) from None

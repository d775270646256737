"""One secret key, many purposes: each gets a key of its own, so that a MAC of one kind never passes for another."""

from __future__ import annotations

import hashlib
import hmac
import os
from functools import cached_property
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12


class Vault:
    """Seals what must be read again, hashes what must only be recognised, signs what comes back from outside."""

    def __init__(self, secret_key: str) -> None:
        if len(secret_key) < 32:
            raise ValueError("SECRET_KEY must have at least 32 characters: set PUNCHCONNECT_SECRET_KEY.")
        self._root = secret_key.encode()

    def _derive(self, purpose: str) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"punchconnect:" + purpose.encode()).derive(
            self._root
        )

    @cached_property
    def _sealing(self) -> AESGCM:
        return AESGCM(self._derive("seal"))

    @cached_property
    def _recognising(self) -> bytes:
        return self._derive("recognise")

    @cached_property
    def cursor_key(self) -> bytes:
        """Signs cursors."""
        return self._derive("cursor")

    @cached_property
    def form_key(self) -> bytes:
        """Signs the forms of the dashboard."""
        return self._derive("form")

    @cached_property
    def bus_key(self) -> bytes:
        """Signs messages on the broadcast channel."""
        return self._derive("bus")

    def seal(self, secret: str, *, owner: UUID, purpose: str) -> bytes:
        """Encrypted; opens again only for the same owner and purpose."""
        return self.seal_bytes(secret.encode(), owner=owner, purpose=purpose)

    def open(self, sealed: bytes, *, owner: UUID, purpose: str) -> str:
        """What `seal` took. Raises cryptography's InvalidTag for another owner, purpose or key."""
        return self.open_bytes(sealed, owner=owner, purpose=purpose).decode()

    def seal_bytes(self, secret: bytes, *, owner: UUID, purpose: str) -> bytes:
        """The same of what is no text."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._sealing.encrypt(nonce, secret, self._context(owner, purpose))

    def open_bytes(self, sealed: bytes, *, owner: UUID, purpose: str) -> bytes:
        """What `seal_bytes` took. Raises cryptography's InvalidTag for another owner, purpose or key."""
        nonce, secret = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        return self._sealing.decrypt(nonce, secret, self._context(owner, purpose))

    def recognise(self, secret: str) -> bytes:
        """A keyed hash: enough to find a high-entropy secret again, useless without our key."""
        return hmac.digest(self._recognising, secret.encode(), hashlib.sha256)

    @staticmethod
    def _context(owner: UUID, purpose: str) -> bytes:
        return owner.bytes + purpose.encode()

"""Stream tokens, as text: what a browser or a phone calls with instead of a key.

A token holds no key. It holds the keyed hash by which its key is found, sealed, with what narrows it. So it works on
every process, needs no table, ends by itself within the hour, and dies with its key wherever that is revoked.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag

from app.vault import Vault

PREFIX: Final = "pc_stream_"
#: What a token may be good for: those of them that its key is good for.
SCOPES: Final = frozenset({"punches:read", "devices:read"})
MOST_SITES: Final = 50
_LONGEST: Final = 4096
_NOBODY: Final = UUID(int=0)
_PURPOSE: Final = "stream token"


@dataclass(frozen=True, slots=True)
class StreamToken:
    """The key's keyed hash, the second it ends, and the only sites it sees; None for all."""

    digest: bytes
    expires_at: datetime
    site_ids: tuple[UUID, ...] | None = None


def write(token: StreamToken, vault: Vault) -> str:
    """Its text."""
    held = {
        "key": token.digest.hex(),
        "ends": int(token.expires_at.timestamp()),
        "sites": None if token.site_ids is None else [site_id.hex for site_id in token.site_ids],
    }
    sealed = vault.seal(orjson.dumps(held).decode(), owner=_NOBODY, purpose=_PURPOSE)
    return PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def read(text: str, vault: Vault) -> StreamToken | None:
    """The token, whether or not it has ended; None unless we wrote it."""
    body = text.removeprefix(PREFIX)
    if body == text or len(body) > _LONGEST or not body.isascii():
        return None
    try:
        sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        held = orjson.loads(vault.open(sealed, owner=_NOBODY, purpose=_PURPOSE))
    except (ValueError, InvalidTag):
        return None
    found = held["sites"]
    return StreamToken(
        bytes.fromhex(held["key"]),
        datetime.fromtimestamp(held["ends"], UTC),
        None if found is None else tuple(UUID(hex=site_id) for site_id in found),
    )

"""Making stream tokens: only a key can, and never for more than it may itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.database import Session
from app.domain import keys, sites, tokens
from app.domain.keys import Actor, PermissionDenied
from app.domain.tables import now
from app.domain.tokens import MOST_SITES, StreamToken
from app.errors import InvalidInput
from app.vault import Vault

LONGEST: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A token's text, which is nowhere else, and when it ends."""

    token: str
    expires_at: datetime


async def issue(
    session: Session, actor: Actor, lasts: timedelta, site_ids: Sequence[UUID] | None, vault: Vault
) -> Issued:
    """A token of the caller's key. `site_ids` None is for all sites. InvalidInput, SiteNotFound, PermissionDenied."""
    if actor.read_only:
        raise PermissionDenied("A stream token cannot make another: have your server make one, with its key.")
    if not timedelta(seconds=1) <= lasts <= LONGEST:
        raise InvalidInput(
            f"A token lasts 1 to {LONGEST // timedelta(seconds=1)} seconds.", path=("input", "ttlSeconds")
        )
    if site_ids is not None:
        if not 1 <= len(site_ids) <= MOST_SITES:
            raise InvalidInput(f"Name 1 to {MOST_SITES} sites, or leave them out.", path=("input", "siteIds"))
        found = await sites.by_ids(session, actor.tenant_id, site_ids)
        for site_id in site_ids:
            if site_id not in found:
                raise sites.SiteNotFound(site_id, "siteIds")
    key = await keys.get(session, actor.tenant_id, actor.key_id)
    expires_at = (now() + lasts).replace(microsecond=0)
    if key.expires_at is not None:
        expires_at = min(expires_at, key.expires_at)
    held = None if site_ids is None else tuple(sorted(set(site_ids)))
    return Issued(tokens.write(StreamToken(key.hash, expires_at, held), vault), expires_at)

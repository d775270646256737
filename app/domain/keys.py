"""API keys: issued once, kept as a keyed hash, recognised on every request, revoked within seconds everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary, String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key
from app.errors import AppError


class Unauthenticated(AppError):
    """No key, or one that does not work (any more)."""

    code, status = "unauthenticated", 401


class PermissionDenied(AppError):
    """The key is good, and not for this."""

    code, status = "permission_denied", 403


class ApiKey(SQLModel, table=True):
    """What may call us, and for what."""

    __tablename__: ClassVar[str] = "api_keys"
    __table_args__ = (Index("uq_api_keys_hash", "hash", unique=True),)

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    prefix: str
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    scopes: list[str] = Field(sa_column=Column(ARRAY(String), nullable=False))
    created_at: datetime = instant()
    last_used_at: datetime | None = instant(optional=True)
    expires_at: datetime | None = instant(optional=True)
    revoked_at: datetime | None = instant(optional=True)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is calling: one key of one tenant, and what it may do."""

    tenant_id: UUID
    key_id: UUID
    scopes: frozenset[str]
    plan: str
    expires_at: datetime | None = None

    def may(self, scope: str) -> Self:
        """Itself, if it has `scope`; PermissionDenied otherwise."""
        if scope not in self.scopes:
            raise PermissionDenied(f"This API key lacks the scope {scope}.")
        return self

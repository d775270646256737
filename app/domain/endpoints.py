"""Where a tenant wants webhooks: URL, secrets, filter, health."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, String, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key
from app.vault import Vault


class EndpointStatus(StrEnum):
    """PAUSED keeps the backlog; DISABLED is what we do to one that is gone."""

    ENABLED = "ENABLED"
    PAUSED = "PAUSED"
    DISABLED = "DISABLED"


class Endpoint(SQLModel, table=True):
    """One receiver. Deleting marks it: its deliveries stay readable."""

    __tablename__: ClassVar[str] = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("status IN ('ENABLED', 'PAUSED', 'DISABLED')", name="status"),
        Index("ix_webhook_endpoints_live", "tenant_id", postgresql_where=text("deleted_at IS NULL")),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    url: str
    description: str | None = None
    status: str = EndpointStatus.ENABLED
    #: Empty means every type.
    event_types: list[str] = Field(
        default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}")
    )
    secret_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    previous_secret_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    previous_secret_expires_at: datetime | None = instant(optional=True)
    disabled_reason: str | None = None
    created_at: datetime = instant()
    updated_at: datetime = instant()
    deleted_at: datetime | None = instant(optional=True)


def seal_secret(vault: Vault, endpoint_id: UUID, tenant_id: UUID, secret: str) -> bytes:
    """A signing secret as it is stored; opens again only for this endpoint of this tenant."""
    return vault.seal(secret, owner=endpoint_id, purpose=_secret_of(tenant_id))


def open_secret(vault: Vault, endpoint_id: UUID, tenant_id: UUID, sealed: bytes) -> str:
    """The secret as the customer copied it. Raises cryptography's InvalidTag when it is not this endpoint's."""
    return vault.open(sealed, owner=endpoint_id, purpose=_secret_of(tenant_id))


def _secret_of(tenant_id: UUID) -> str:
    return f"webhook secret of {tenant_id}"

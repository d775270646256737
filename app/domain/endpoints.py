"""Where a tenant wants webhooks: URL, secrets, filter, health."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Select, String, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session
from app.domain.tables import build, columns, instant, tenant_key
from app.errors import AppError
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


class EndpointNotFound(AppError):
    """No endpoint with this id belongs to the tenant."""

    code, status = "webhook_endpoint_not_found", 404

    def __init__(self, endpoint_id: UUID) -> None:
        super().__init__(f"No webhook endpoint {ids.show('whk', endpoint_id)}.", path=("input", "id"))


_ROW: Final = columns(Endpoint)
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[None]) -> paging.Page[Endpoint]:
    """One page of the tenant's endpoints that are not deleted."""
    return (await paging.fetch(session, _query(tenant_id), asked)).map(partial(build, Endpoint))


async def count(session: Session, tenant_id: UUID) -> int:
    """How many endpoints the tenant has."""
    return await paging.count(session, _query(tenant_id))


async def by_ids(session: Session, tenant_id: UUID, endpoint_ids: Sequence[UUID]) -> dict[UUID, Endpoint]:
    """Those of them that are the tenant's and not deleted."""
    query = _query(tenant_id).where(paging.among(_ROW.id, endpoint_ids))
    return {row.id: build(Endpoint, row) for row in await (await session.connection()).execute(query)}


def _query(tenant_id: UUID) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id, _ROW.deleted_at.is_(None))

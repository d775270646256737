"""An event owed to an endpoint: schedule, claim, settle, retry; and its attempts."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKeyConstraint, Index, text
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key, within_tenant


class DeliveryStatus(StrEnum):
    """PENDING waits for `due_at`; SENDING is held by a worker; the other three are final."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    EXHAUSTED = "EXHAUSTED"
    CANCELLED = "CANCELLED"


class Delivery(SQLModel, table=True):
    """The id is what receivers see in X-PunchConnect-Delivery."""

    __tablename__: ClassVar[str] = "webhook_deliveries"
    __table_args__ = (
        within_tenant("endpoint_id", "webhook_endpoints"),
        ForeignKeyConstraint(["tenant_id", "position"], ["events.tenant_id", "events.position"]),
        CheckConstraint("status IN ('PENDING', 'SENDING', 'DELIVERED', 'EXHAUSTED', 'CANCELLED')", name="status"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text("status = 'PENDING'")),
        Index("ix_webhook_deliveries_leased", "lease_until", postgresql_where=text("status = 'SENDING'")),
        Index(None, "tenant_id", "endpoint_id", "id"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    tenant_id: UUID = tenant_key(reference=False)
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    endpoint_id: UUID
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    event_id: UUID
    event_type: str
    status: str = DeliveryStatus.PENDING
    attempt_count: int = 0
    due_at: datetime | None = instant(optional=True)
    lease_until: datetime | None = instant(optional=True)
    #: Minted at each claim; every later write must match it, so a worker that lost its lease changes nothing.
    claim_token: UUID | None = None
    created_at: datetime = instant()
    completed_at: datetime | None = instant(optional=True)


class Attempt(SQLModel, table=True):
    """One HTTP try."""

    __tablename__: ClassVar[str] = "webhook_attempts"
    __table_args__ = (within_tenant("delivery_id", "webhook_deliveries"),)

    tenant_id: UUID = tenant_key(reference=False)
    delivery_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    started_at: datetime = instant()
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response_body: str | None = None

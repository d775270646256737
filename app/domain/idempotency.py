"""A mutation's outcome, kept beside its effects for a day. Same key, other arguments: refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app.domain.tables import instant, tenant_key


class IdempotencyKey(SQLModel, table=True):
    """What a call with this key did. Written in the transaction of the effect, so both exist or neither."""

    __tablename__: ClassVar[str] = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant_id: UUID = tenant_key()
    field: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    outcome: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    created_at: datetime = instant()

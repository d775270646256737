"""Where a tenant's terminals are pointed: a token for URLs, a label for host names. Whoever knows it may knock."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key


class Enrollment(SQLModel, table=True):
    """One address of a tenant; a rotated one works until `expires_at`."""

    __tablename__: ClassVar[str] = "enrollments"
    __table_args__ = (
        Index("uq_enrollments_token_hash", "token_hash", unique=True),
        Index("uq_enrollments_label_hash", "label_hash", unique=True),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    token_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    label_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    token_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    label_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = instant()
    expires_at: datetime | None = instant(optional=True)

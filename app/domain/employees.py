"""People and the PINs by which terminals know them. A punch belongs to whoever has its PIN: nothing is attached."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key


class EmployeePrivilege(StrEnum):
    """What a person may do at a terminal."""

    USER = "USER"
    ADMIN = "ADMIN"


class Employee(SQLModel, table=True):
    """One person; the PIN is text, leading zeros kept, unique in the tenant."""

    __tablename__: ClassVar[str] = "employees"
    __table_args__ = (
        CheckConstraint("privilege IN ('USER', 'ADMIN')", name="privilege"),
        Index(None, "tenant_id", "pin", unique=True),
        Index(None, "tenant_id", "name", "id"),
        Index(None, "tenant_id", "external_id"),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    pin: str
    name: str | None = None
    external_id: str | None = None
    card_number: str | None = None
    privilege: str = EmployeePrivilege.USER
    created_at: datetime = instant()
    updated_at: datetime = instant()

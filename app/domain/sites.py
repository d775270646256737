"""Places. A site lends its time zone to devices that have none of their own."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key


class Site(SQLModel, table=True):
    """Where devices hang."""

    __tablename__: ClassVar[str] = "sites"

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    time_zone: str
    created_at: datetime = instant()

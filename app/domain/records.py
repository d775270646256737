"""What terminals sent besides punches: uploads kept raw until someone understands them, and lines nobody could read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary, Select, select
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session, driver
from app.domain.tables import build, columns, instant, tenant_key, within_tenant

#: For so long an unreadable record is worth a flag.
RECENT: Final = timedelta(days=30)


class KeptUpload(SQLModel, table=True):
    """An upload that is not punches, as it came, less templates, photos and passwords."""

    __tablename__: ClassVar[str] = "kept_uploads"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        Index("uq_kept_uploads_digest", "tenant_id", "device_id", "digest", unique=True),
        Index(None, "tenant_id", "device_id", "id"),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    device_id: UUID
    table_name: str
    stamp: str | None = None
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    #: Tells a resend from news.
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    record_count: int
    #: Templates and photos that were counted and thrown away.
    discarded_count: int = 0
    received_at: datetime = instant()


class RejectedRecord(SQLModel, table=True):
    """A line that could not be read, kept, counted and acknowledged: it must not block the queue behind it."""

    __tablename__: ClassVar[str] = "rejected_records"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        Index("uq_rejected_records_digest", "tenant_id", "device_id", "digest", unique=True),
        Index(None, "tenant_id", "device_id", "id"),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    device_id: UUID
    table_name: str | None = None
    reason: str
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    received_at: datetime = instant()


_ROW: Final = columns(RejectedRecord)
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page_rejected_by_device(
    session: Session, tenant_id: UUID, device_ids: Sequence[UUID], asked: paging.Asked[None]
) -> list[paging.Page[RejectedRecord]]:
    """The same page of what could not be read from each device."""
    pages = await paging.fetch_each(session, tenant_id, _query, asked, parent=_ROW.device_id, keys=device_ids)
    return [found.map(partial(build, RejectedRecord)) for found in pages]


def _query(tenant_id: UUID, _wanted: None) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id)


async def with_rejected(session: Session, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, bool]:
    """Which of these devices sent something unreadable in the last RECENT."""
    rows = await (await driver(session)).fetch(
        "SELECT d.id FROM unnest($2::uuid[]) AS d (id) WHERE EXISTS (SELECT 1 FROM rejected_records r "
        "WHERE r.tenant_id = $1 AND r.device_id = d.id AND r.received_at > now() - $3::interval)",
        tenant_id,
        list(device_ids),
        RECENT,
    )
    return {row[0]: True for row in rows}


async def rejected_by_ids(session: Session, tenant_id: UUID, record_ids: Sequence[UUID]) -> dict[UUID, RejectedRecord]:
    """Those of them that are the tenant's."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.id, record_ids))
    return {row.id: build(RejectedRecord, row) for row in await (await session.connection()).execute(query)}

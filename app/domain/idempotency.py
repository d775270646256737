"""A mutation's outcome, kept beside its effects for a day. Same key, other arguments: refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app.database import Connection
from app.domain.tables import instant, tenant_key

KEPT: Final = timedelta(hours=24)


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


_FORGET: Final = """
WITH old AS (
    SELECT k.tenant_id, k.field, k.key FROM idempotency_keys k WHERE k.created_at < now() - $1::interval
    ORDER BY k.created_at LIMIT $2
), gone AS (
    DELETE FROM idempotency_keys k USING old
    WHERE k.tenant_id = old.tenant_id AND k.field = old.field AND k.key = old.key
    RETURNING 1
)
SELECT count(*)::integer FROM gone
"""


async def forget(connection: Connection, limit: int) -> int:
    """Delete up to `limit` outcomes older than KEPT; how many were deleted. Purpose "operate"."""
    gone: int = await connection.fetchval(_FORGET, KEPT, limit)
    return gone

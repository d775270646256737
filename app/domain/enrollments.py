"""Where a tenant's terminals are pointed: a token for URLs, a label for host names. Whoever knows it may knock.

Both are found by a keyed hash, and kept sealed as well, because the tenant may read them again.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel, desc, select

from app import ids
from app.database import Connection, Session, driver
from app.domain.keys import check_grace
from app.domain.tables import instant, now, tenant_key
from app.settings import Settings
from app.vault import Vault

TOKEN_LENGTH: Final = 20  # 100 bits
LABEL_LENGTH: Final = 12
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


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


@dataclass(frozen=True, slots=True)
class Addresses:
    """What to type into a terminal. `host` is None where the operator has no device domain."""

    url: str
    host: str | None


def issue(
    tenant_id: UUID, vault: Vault, randomness: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[Enrollment, str, str]:
    """A new address: its row, not written yet, its token and its label (which is a valid DNS label)."""
    token = base64.b32encode(randomness(13)).decode().lower()[:TOKEN_LENGTH]
    first, *rest = randomness(8)
    label = _LETTERS[first % len(_LETTERS)] + base64.b32encode(bytes(rest)).decode().lower()[: LABEL_LENGTH - 1]
    enrollment_id = ids.new()
    row = Enrollment(
        tenant_id=tenant_id,
        id=enrollment_id,
        token_hash=vault.recognise(token),
        label_hash=vault.recognise(label),
        token_sealed=vault.seal(token, owner=enrollment_id, purpose=_purpose(tenant_id, "token")),
        label_sealed=vault.seal(label, owner=enrollment_id, purpose=_purpose(tenant_id, "label")),
    )
    return row, token, label


async def add(connection: Connection, row: Enrollment) -> None:
    """Write a new address."""
    await connection.execute(
        "INSERT INTO enrollments (tenant_id, id, token_hash, label_hash, token_sealed, label_sealed, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        row.tenant_id,
        row.id,
        row.token_hash,
        row.label_hash,
        row.token_sealed,
        row.label_sealed,
        row.created_at,
    )


async def addresses(session: Session, tenant_id: UUID, vault: Vault, settings: Settings) -> Addresses | None:
    """Where the tenant's terminals are to be pointed now; None for a tenant that was made without."""
    query = (
        select(Enrollment)
        .where(Enrollment.tenant_id == tenant_id, Enrollment.expires_at == None)  # noqa: E711
        .order_by(desc(Enrollment.id))
        .limit(1)
    )
    row = (await session.exec(query)).first()
    if row is None:
        return None
    token = vault.open(row.token_sealed, owner=row.id, purpose=_purpose(tenant_id, "token"))
    label = vault.open(row.label_sealed, owner=row.id, purpose=_purpose(tenant_id, "label"))
    return spell(token, label, settings)


def spell(token: str, label: str, settings: Settings) -> Addresses:
    """The address as people type it."""
    host = f"{label}.{settings.device_domain}" if settings.device_domain else None
    return Addresses(f"{settings.public_url.rstrip('/')}/d/{token}", host)


async def rotate(session: Session, tenant_id: UUID, grace: timedelta, vault: Vault) -> tuple[Enrollment, str, str]:
    """A new address, as `issue` has it; older ones work until the grace period ends, or their own end if sooner."""
    check_grace(grace)
    row, token, label = issue(tenant_id, vault)
    connection = await driver(session)
    # One rotation at a time: the second retires what the first has made.
    await connection.fetch("SELECT id FROM enrollments WHERE tenant_id = $1 ORDER BY id FOR UPDATE", tenant_id)
    await connection.execute(
        "UPDATE enrollments SET expires_at = least(expires_at, $2) "
        "WHERE tenant_id = $1 AND (expires_at IS NULL OR expires_at > $2)",
        tenant_id,
        now() + grace,
    )
    await add(connection, row)
    return row, token, label


def _purpose(tenant_id: UUID, part: str) -> str:
    """Sealed for this tenant: a row copied into another one does not open."""
    return f"enrollment:{part}:{tenant_id}"

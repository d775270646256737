"""Strangers who start a trial by themselves, where the operator lets them: a company name, an e-mail address, no card.

What keeps it from being a tap is counted in the database, one sign-up at a time: every process sees the same. Of the
network address only a keyed hash is kept, and that for a day.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, SQLModel

from app.database import Connection
from app.domain import tenants, words
from app.domain.audit import AuditSource, Author
from app.domain.tables import instant, tenant_key
from app.errors import InvalidInput, RateLimited
from app.vault import Vault

#: What the limits are counted over, and how long an address is remembered.
WINDOW: Final = timedelta(days=1)
LONGEST_EMAIL: Final = 254
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+")
#: The lock that lets one sign-up at a time count and write.
_TURN: Final = 0x7069676E7570


class Signup(SQLModel, table=True):
    """Who started a tenant's trial. Tenants that the operator made have none."""

    __tablename__: ClassVar[str] = "signups"

    tenant_id: UUID = tenant_key()
    email: str
    address_hash: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    created_at: datetime = instant(index=True)


async def start(
    connection: Connection, vault: Vault, company: str, email: str, address: str, *, per_address: int, per_day: int
) -> tenants.Created:
    """A tenant on trial, with a first key that may do everything.

    `address` is where the visitor comes from, as text. Needs the operator's door, `db.across("operate")`. Raises
    InvalidInput for a name or an e-mail address that is none, RateLimited beyond the limits.
    """
    company = words.line(company, "company", longest=200)
    email = read_email(email)
    hashed = vault.recognise(f"sign-up from {address}")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _TURN)
    await connection.execute(
        "UPDATE signups SET address_hash = NULL WHERE address_hash IS NOT NULL AND created_at <= now() - $1::interval",
        WINDOW,
    )
    row = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE address_hash = $1) AS here, count(*) AS all FROM signups "
        "WHERE created_at > now() - $2::interval",
        hashed,
        WINDOW,
    )
    if row["here"] >= per_address:
        raise RateLimited("As many trials as one address may start in a day were started from yours.")
    if row["all"] >= per_day:
        raise RateLimited("As many trials as may be started in a day were started today. Try again tomorrow.")
    created = await tenants.create(connection, vault, company, author=Author(AuditSource.SIGNUP))
    await connection.execute(
        "INSERT INTO signups (tenant_id, email, address_hash, created_at) VALUES ($1, $2, $3, now())",
        created.tenant.id,
        email,
        hashed,
    )
    return created


def read_email(text: str) -> str:
    """An e-mail address, as far as one can tell without writing to it. InvalidInput."""
    email = words.line(text, "email", longest=LONGEST_EMAIL)
    if not _EMAIL.fullmatch(email):
        raise InvalidInput("This is not an e-mail address.", path=("input", "email"))
    return email


async def emails(connection: Connection) -> dict[UUID, str]:
    """Who signed up, by tenant: for the operator."""
    return {row[0]: row[1] for row in await connection.fetch("SELECT tenant_id, email FROM signups")}

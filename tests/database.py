"""What tests ask of a database: a tenant's rows, its head held for a while, somebody who waits for a lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from app.database import Database, driver

PATIENCE = 20


async def rows(db: Database, tenant_id: UUID, query: str) -> list[tuple[Any, ...]]:
    """What the tenant itself may see."""
    async with db.read(tenant_id) as session:
        return [tuple(row) for row in await (await driver(session)).fetch(query)]


async def dicts(db: Database, tenant_id: UUID, query: str) -> list[dict[str, Any]]:
    """The same with names."""
    async with db.read(tenant_id) as session:
        return [dict(row) for row in await (await driver(session)).fetch(query)]


@asynccontextmanager
async def held(db: Database, tenant_id: UUID) -> AsyncIterator[None]:
    """Nothing that has events of this tenant commits meanwhile."""
    async with db.across("ingest", [tenant_id]) as connection:
        await connection.execute("SELECT position FROM feed_heads FOR UPDATE")
        yield


async def until_blocked(db: Database, n: int = 1) -> None:
    """Return once `n` transactions in this database wait for a lock."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with db.across("operate") as connection:
                waiting = await connection.fetchval(
                    "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN "
                    "(SELECT pid FROM pg_stat_activity WHERE datname = current_database())"
                )
            if waiting >= n:
                return
            await asyncio.sleep(0.01)

"""Workers take whatever is due in the whole database, so each of these tests has one of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from typing import Any, Final
from uuid import UUID

import pytest

from app.broadcast import Bell
from app.database import Database, driver
from app.domain.addresses import AddressGuard
from app.domain.endpoints import Endpoint
from app.domain.events import Cursors, EventType, Logged
from app.settings import Settings
from app.vault import Vault
from tests import factories
from tests.conftest import SECRET_KEY
from tests.receiver import Receiver
from workers.outbound import Outbound
from workers.pool import Worker

# Trusts no one. Reading the usual roots takes longer than most of these tests.
NOBODY: Final = ssl.create_default_context(cadata=None, capath=os.devnull)


@dataclass(frozen=True, slots=True)
class Scene:
    """A database, one tenant in it, a receiver, and workers that bring what happens from one to the other."""

    url: str
    db: Database
    vault: Vault
    cursors: Cursors
    receiver: Receiver
    tenant_id: UUID

    async def endpoint(self, path: str = "/hook", *, tenant_id: UUID | None = None, **fields: Any) -> Endpoint:
        """An endpoint of the tenant, or of another one, at a path of the receiver."""
        url = self.receiver.url(path)
        return await factories.make_endpoint(self.db, self.vault, tenant_id or self.tenant_id, url, **fields)

    async def happen(
        self, times: int = 1, type: EventType = EventType.PUNCH_CREATED, *, tenant_id: UUID | None = None
    ) -> list[Logged]:
        """So many events of the tenant, committed; nobody rings."""
        return await factories.happen(self.db, tenant_id or self.tenant_id, times, type)

    def settings(self, **changes: Any) -> Settings:
        """Those of a worker in a hurry."""
        defaults: dict[str, Any] = {
            "_env_file": None,
            "database_url": self.url,
            "secret_key": SECRET_KEY,
            "webhook_retry_delays": (0.05, 0.05),
            "webhook_allow_networks": (ip_network("127.0.0.0/8"),),
            "webhook_timeout_seconds": 10,
            "webhook_lease_seconds": 30,
            "webhook_endpoint_share": 0.5,
            "webhook_tenant_share": 1,
        }
        return Settings(**defaults | changes)

    @asynccontextmanager
    async def idle(self, *, concurrency: int = 50, bell: Bell | None = None, **changes: Any) -> AsyncIterator[Worker]:
        """A worker that has not been started."""
        settings = self.settings(**changes)
        timeout = timedelta(seconds=settings.webhook_timeout_seconds)
        guard = AddressGuard(settings.webhook_allow_networks)
        async with Outbound(guard, timeout=timeout, ssl_context=NOBODY) as door:
            yield Worker(self.db, door, self.vault, settings, bell, concurrency=concurrency)

    @asynccontextmanager
    async def worker(self, *, concurrency: int = 50, bell: Bell | None = None, **changes: Any) -> AsyncIterator[Worker]:
        """A worker at work. At the end it is told to stop, and drains."""
        async with self.idle(concurrency=concurrency, bell=bell, **changes) as worker:
            stop = asyncio.Event()
            task = asyncio.create_task(worker.run(stop))
            try:
                yield worker
            finally:
                stop.set()
                await task

    async def rows(self, query: str, *, tenant_id: UUID | None = None) -> list[dict[str, Any]]:
        """As the tenant sees them."""
        async with self.db.read(tenant_id or self.tenant_id) as session:
            return [dict(row) for row in await (await driver(session)).fetch(query)]

    async def statuses(self, *, tenant_id: UUID | None = None) -> Counter[str]:
        """How many deliveries are how far."""
        found = await self.rows("SELECT status FROM webhook_deliveries", tenant_id=tenant_id)
        return Counter(row["status"] for row in found)

    async def attempts(self, *, tenant_id: UUID | None = None) -> list[dict[str, Any]]:
        """In the order in which they were made."""
        return await self.rows(
            "SELECT number, status_code, error, response_body FROM webhook_attempts ORDER BY started_at, number",
            tenant_id=tenant_id,
        )

    async def until(self, *wanted: str, tenant_id: UUID | None = None, timeout: float = 20) -> Counter[str]:  # noqa: ASYNC109
        """Return once all deliveries have one of these statuses; TimeoutError otherwise."""
        async with asyncio.timeout(timeout):
            while set(found := await self.statuses(tenant_id=tenant_id)) - set(wanted):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found

    async def change(self, query: str, *args: Any) -> None:
        """What the tenant does to its rows."""
        async with self.db.write(self.tenant_id) as session:
            await (await driver(session)).execute(query, *args)


@asynccontextmanager
async def scene_in(url: str, vault: Vault, cursors: Cursors) -> AsyncIterator[Scene]:
    """A scene in a migrated database."""
    db = Database(url, pool=40)
    tenant_id = (await factories.make_tenant(db)).tenant_id
    async with Receiver() as receiver:
        yield Scene(url, db, vault, cursors, receiver, tenant_id)
    await db.stop()


@pytest.fixture
async def scene(fresh_database_url: str, vault: Vault, cursors: Cursors) -> AsyncIterator[Scene]:
    async with scene_in(fresh_database_url, vault, cursors) as made:
        yield made

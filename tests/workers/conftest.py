"""Workers take whatever is due in the whole database, so each of these tests has one of its own."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from ipaddress import ip_network
from typing import Any, Protocol

import pytest

from app.broadcast import Bell
from app.database import Database
from app.domain.addresses import AddressGuard
from app.settings import Settings
from app.vault import Vault
from tests.conftest import SECRET_KEY
from tests.receiver import Receiver
from workers.outbound import Outbound
from workers.pool import Worker

# Trusts no one. Reading the usual roots takes longer than most of these tests.
NOBODY = ssl.create_default_context(cadata=None, capath=os.devnull)


class MakeSettings(Protocol):
    """Settings of a worker in a hurry."""

    def __call__(self, **changes: Any) -> Settings: ...


class StartWorker(Protocol):
    """`async with start_worker() as worker:`; at the end it is told to stop and drains."""

    def __call__(
        self, *, concurrency: int = 50, bell: Bell | None = None, **changes: Any
    ) -> AbstractAsyncContextManager[Worker]: ...


@pytest.fixture
async def own_db(fresh_database_url: str) -> AsyncIterator[Database]:
    """The doors to the test's own database."""
    database = Database(fresh_database_url, pool=40)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A customer's server that says 200 unless told otherwise."""
    async with Receiver() as running:
        yield running


@pytest.fixture
def make_settings(fresh_database_url: str) -> MakeSettings:
    """`make_settings(webhook_timeout_seconds=1)`."""

    def make(**changes: Any) -> Settings:
        defaults: dict[str, Any] = {
            "_env_file": None,
            "database_url": fresh_database_url,
            "secret_key": SECRET_KEY,
            "webhook_retry_delays": (0.05, 0.05),
            "webhook_allow_networks": (ip_network("127.0.0.0/8"),),
            "webhook_timeout_seconds": 10,
            "webhook_lease_seconds": 30,
        }
        return Settings(**defaults | changes)

    return make


@pytest.fixture
def start_worker(own_db: Database, vault: Vault, make_settings: MakeSettings) -> StartWorker:
    """A worker on the test's own database."""

    @asynccontextmanager
    async def start(*, concurrency: int = 50, bell: Bell | None = None, **changes: Any) -> AsyncIterator[Worker]:
        settings = make_settings(**changes)
        async with door_of(settings) as door:
            worker = Worker(own_db, door, vault, settings, bell, concurrency=concurrency)
            async with running(worker):
                yield worker

    return start


def door_of(settings: Settings) -> Outbound:
    """The sender as settings describe it."""
    timeout = timedelta(seconds=settings.webhook_timeout_seconds)
    return Outbound(AddressGuard(settings.webhook_allow_networks), timeout=timeout, ssl_context=NOBODY)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Callable[[], None]]:
    """The worker at work; yields what tells it to stop. Returns once it has stopped."""
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop))
    try:
        yield stop.set
    finally:
        stop.set()
        await task

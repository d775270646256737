"""What is done now and then, by every worker alike: dead leases, late commands, rows that are no longer needed.

Two workers that do it at once do it once: each takes what the other has not locked, or finds nothing left.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, NoReturn

import structlog
from prometheus_client import Counter

from app import telemetry
from app.database import Database
from app.domain import commands, deliveries, idempotency, presence, replays
from app.domain.events import Logged
from app.errors import ServiceUnavailable

log = structlog.get_logger(__name__)

REAP_EVERY: Final = timedelta(seconds=5)
REPLAY_EVERY: Final = timedelta(seconds=0.5)
MISS_EVERY: Final = timedelta(seconds=2)
SWEEP_EVERY: Final = timedelta(minutes=1)
BATCH: Final = 1000

LOST_LEASES = Counter(
    "punchconnect_webhook_lost_leases", "Deliveries taken back from workers that died.", registry=telemetry.REGISTRY
)


async def every(period: timedelta, act: Callable[[], Awaitable[object]], name: str) -> NoReturn:
    """Do it once per period, more or less, whatever happens. Its failures are logged, the database's absence is not."""
    while True:
        await asyncio.sleep(period.total_seconds() * random.uniform(0.9, 1.1))  # noqa: S311
        try:
            await act()
        except ServiceUnavailable:
            pass  # it keeps until next time, and the pool says that the database is away
        except Exception:
            log.exception("worker_chore_failed", chore=name)


async def reap(db: Database) -> int:
    """Take back what dead workers held, all of it; how many deliveries. Looks at the backlog first."""
    async with db.across("work") as connection:
        await deliveries.watch(connection)
    total, freed = 0, BATCH
    while freed == BATCH:
        async with db.across("work") as connection:
            freed = await deliveries.reap(connection, BATCH)
        total += freed
    if total:
        LOST_LEASES.inc(total)
        log.warning("webhook_leases_lost", deliveries=total)
    return total


async def expire(db: Database, ring: Callable[[Sequence[Logged]], None]) -> int:
    """End the commands whose time is over; how many. Their events are rung out."""
    async with db.across("operate") as connection:
        late = await commands.overdue(connection, BATCH)
    total = 0
    for tenant_id in late:
        async with db.across("ingest", [tenant_id]) as connection:
            ended, logged = await commands.expire(connection, tenant_id, BATCH)
        ring(logged)
        total += ended
    return total


async def miss(db: Database, delay: timedelta, ring: Callable[[Sequence[Logged]], None]) -> int:
    """Announce the devices that are not in touch any more; how many. They should call every `delay`."""
    async with db.across("operate") as connection:
        tenants = await presence.tenants_with_missed(connection, delay, BATCH)
    total = 0
    for tenant_id in tenants:
        async with db.across("ingest", [tenant_id]) as connection:
            logged = await presence.miss(connection, tenant_id, delay, BATCH)
        ring(logged)
        total += len(logged)
    return total


async def sweep(db: Database) -> int:
    """Forget the outcomes of mutations that nobody may ask for any more; how many."""
    total, gone = 0, BATCH
    while gone == BATCH:
        async with db.across("operate") as connection:
            gone = await idempotency.forget(connection, BATCH)
        total += gone
    return total


async def forget_commands(db: Database, older: timedelta) -> int:
    """Remove commands that ended so long ago; how many."""
    total, gone = 0, BATCH
    while gone >= BATCH:
        async with db.across("operate") as connection:
            gone = await commands.forget(connection, older, BATCH)
        total += gone
    return total


async def forget(db: Database, older: timedelta) -> int:
    """Remove deliveries that ended so long ago; how many."""
    total, gone = 0, BATCH
    while gone >= BATCH:
        async with db.across("work") as connection:
            gone = await deliveries.forget(connection, older, BATCH)
        total += gone
    return total


async def replay(db: Database, rate: float, due: Callable[[], None]) -> int:
    """The next step of every replay; how many deliveries that made. `due` is called when there are any."""
    async with db.across("work") as connection:
        waiting = await replays.running(connection)
    total = 0
    for tenant_id, replay_id in waiting:
        async with db.across("work", [tenant_id]) as connection:
            total += await replays.step(connection, tenant_id, replay_id, rate)
    if total:
        due()
    return total

"""What the worker's statements read, on a table with many rows. Rows read are counted, not milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from app.database import Connection, Database, driver
from app.domain import deliveries
from app.domain.deliveries import Claim, DeliveryStatus, Result
from app.domain.endpoints import Endpoint
from app.vault import Vault
from tests.factories import make_endpoint, make_tenant

ENDED, DUE, TAKEN = 20_000, 2_000, 50
FILL = """
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, created_at,
     completed_at)
SELECT $1, uuid7(), $2, n, gen_random_uuid(), 'punch.created', $4::text, 0,
       CASE WHEN $4::text = 'PENDING' THEN now() END, now(), CASE WHEN $4::text <> 'PENDING' THEN now() END
FROM generate_series(1, $3::integer) AS n
"""
# As of this transaction: what the statements before it have read.
READ = """
SELECT coalesce(sum(seq_tup_read), 0)::integer, coalesce(sum(idx_tup_fetch), 0)::integer
FROM pg_stat_xact_user_tables WHERE relname = 'webhook_deliveries'
"""


@pytest.fixture
async def own_db(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url)
    yield database
    await database.stop()


@pytest.fixture
async def endpoint(own_db: Database, vault: Vault) -> Endpoint:
    """With many deliveries that ended and some that are due, all on a table that was never analysed."""
    tenant_id = (await make_tenant(own_db)).tenant_id
    made = await make_endpoint(own_db, vault, tenant_id)
    for rows, status in ((ENDED, DeliveryStatus.DELIVERED), (DUE, DeliveryStatus.PENDING)):
        async with own_db.across("ingest", [tenant_id]) as connection:
            await connection.execute(FILL, tenant_id, made.id, rows, status)
    return made


class Reads:
    """What was read since it was made: rows from front to back, and rows fetched by an index."""

    def __init__(self, connection: Connection, before: Sequence[int]) -> None:
        self._connection, self._before = connection, before

    @classmethod
    async def begin(cls, connection: Connection) -> Reads:
        return cls(connection, await connection.fetchrow(READ))

    async def end(self) -> tuple[int, int]:
        now = await self._connection.fetchrow(READ)
        return now[0] - self._before[0], now[1] - self._before[1]


async def claim(db: Database) -> list[Claim]:
    async with db.across("work") as connection:
        return await deliveries.claim(connection.fetch, TAKEN, timedelta(seconds=30))


async def test_whatever_has_ended_a_claim_reads_what_it_takes(own_db: Database, endpoint: Endpoint) -> None:
    async with own_db.across("work") as connection:
        reads = await Reads.begin(connection)
        taken = await deliveries.claim(connection.fetch, TAKEN, timedelta(seconds=30))
        scanned, fetched = await reads.end()

    assert len(taken) == TAKEN
    assert scanned == 0
    # A look at four times as many as are wanted, at what waits for each endpoint, and the rows themselves.
    assert fetched <= 8 * TAKEN


async def test_a_delivery_is_found_by_its_key_on_a_table_without_statistics(
    own_db: Database, endpoint: Endpoint
) -> None:
    claims = await claim(own_db)
    results = [Result(held, DeliveryStatus.DELIVERED, datetime.now(UTC), 1) for held in claims]

    counts: dict[str, tuple[int, int]] = {}
    async with own_db.across("work", [endpoint.tenant_id]) as connection:
        reads = await Reads.begin(connection)
        await connection.fetch(deliveries._LOAD, *deliveries._columns(claims))
        counts["load"] = await reads.end()
        reads = await Reads.begin(connection)
        await deliveries.renew(connection, claims, timedelta(seconds=30))
        counts["renew"] = await reads.end()
        reads = await Reads.begin(connection)
        settled = await deliveries.settle(connection, results)
        counts["settle"] = await reads.end()

    assert settled.ids == {held.id for held in claims}
    # Each row once, and once more to change it.
    assert all(scanned == 0 and fetched <= 2 * TAKEN for scanned, fetched in counts.values()), counts


async def test_the_queue_is_counted_without_reading_what_has_ended(own_db: Database, endpoint: Endpoint) -> None:
    async with own_db.across("work") as connection:
        reads = await Reads.begin(connection)
        backlog = await deliveries.backlog(connection)
        due = await deliveries.next_due(connection)
        scanned, fetched = await reads.end()

    assert (backlog.due, backlog.leased) == (DUE, 0)
    assert due is not None
    assert scanned == 0
    assert fetched <= 2 * DUE


async def test_a_tenant_looks_up_few_without_reading_all(own_db: Database, endpoint: Endpoint) -> None:
    claims = await claim(own_db)
    wanted = [held.id for held in claims[:10]]

    async with own_db.read(endpoint.tenant_id) as session:
        reads = await Reads.begin(await driver(session))
        found = await deliveries.by_ids(session, endpoint.tenant_id, wanted)
        scanned, fetched = await reads.end()

    assert set(found) == set(wanted)
    assert (scanned, fetched) == (0, 10)

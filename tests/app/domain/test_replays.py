"""A period sent again. Workers look at all replays there are, so each test has a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.database import Database, driver
from app.domain import deliveries, replays
from app.domain.deliveries import DeliveryStatus, Result
from app.domain.endpoints import Endpoint
from app.domain.events import EventType
from app.domain.replays import Replay
from app.errors import InvalidInput
from app.vault import Vault
from tests.factories import happen, make_endpoint, make_tenant

HOUR = timedelta(hours=1)


@pytest.fixture
async def own_db(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url, pool=20)
    yield database
    await database.stop()


@pytest.fixture
async def endpoint(own_db: Database, vault: Vault) -> Endpoint:
    """Of a tenant to which ten punches happened, and a test, before there was an endpoint."""
    tenant_id = (await make_tenant(own_db)).tenant_id
    await happen(own_db, tenant_id, 10)
    await happen(own_db, tenant_id, 1, EventType.WEBHOOK_TEST)
    return await make_endpoint(own_db, vault, tenant_id)


async def start(db: Database, endpoint: Endpoint, **options: Any) -> Replay:
    given: dict[str, Any] = {
        "since": datetime.now(UTC) - HOUR,
        "until": None,
        "event_types": None,
        "only_undelivered": False,
    }
    given |= options
    async with db.write(endpoint.tenant_id) as session:
        return await replays.start(
            session, endpoint.tenant_id, endpoint.id, given.pop("since"), given.pop("until"), **given
        )


async def step(db: Database, replay: Replay, rate: float = 1000, waited: timedelta = timedelta(seconds=1)) -> int:
    """The next step, as if so much time had passed since the last."""
    async with db.across("work", [replay.tenant_id]) as connection:
        await connection.execute("UPDATE webhook_replays SET paced_at = now() - $1::interval", waited)
        return await replays.step(connection, replay.tenant_id, replay.id, rate)


async def deliver(db: Database, tenant_id: UUID) -> int:
    """Everything that is due, with success."""
    async with db.across("work") as connection:
        claims = await deliveries.claim(connection.fetch, 1000, timedelta(seconds=30))
    if claims:
        async with db.across("work", [tenant_id]) as connection:
            results = [Result(held, DeliveryStatus.DELIVERED, datetime.now(UTC), 1, status_code=200) for held in claims]
            await deliveries.settle(connection, results)
    return len(claims)


async def now_is(db: Database, replay: Replay) -> tuple[str, int | None, int]:
    async with db.read(replay.tenant_id) as session:
        found = (await replays.by_ids(session, replay.tenant_id, [replay.id]))[replay.id]
    return found.status, found.total, found.done


async def sent(db: Database, endpoint: Endpoint) -> list[tuple[int, UUID, UUID]]:
    async with db.read(endpoint.tenant_id) as session:
        rows = await (await driver(session)).fetch(
            "SELECT position, event_id, id FROM webhook_deliveries ORDER BY position, id"
        )
    return [tuple(row) for row in rows]


async def test_events_from_before_the_endpoint_are_sent_under_their_ids(own_db: Database, endpoint: Endpoint) -> None:
    replay = await start(own_db, endpoint)
    at_first = await now_is(own_db, replay)
    made = await step(own_db, replay)
    dealt = await now_is(own_db, replay)
    await deliver(own_db, endpoint.tenant_id)
    await step(own_db, replay)

    assert (at_first, made, dealt) == (("RUNNING", None, 0), 10, ("RUNNING", 10, 0))
    assert await now_is(own_db, replay) == ("COMPLETED", 10, 10)
    assert [position for position, _, _ in await sent(own_db, endpoint)] == list(range(1, 11))


async def test_a_replay_leaves_what_it_sends_again_as_it_was(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 3)
    await deliver(own_db, endpoint.tenant_id)
    originals = await sent(own_db, endpoint)

    replay = await start(own_db, endpoint)
    await step(own_db, replay)
    again = [row for row in await sent(own_db, endpoint) if row not in originals]

    assert [row[0] for row in again] == [*range(1, 11), 12, 13, 14]
    assert {row[1] for row in originals} < {row[1] for row in again}
    assert {row[2] for row in originals}.isdisjoint(row[2] for row in again)


async def test_two_replays_of_one_period_each_send_it_once(own_db: Database, endpoint: Endpoint) -> None:
    pair = [await start(own_db, endpoint) for _ in range(2)]

    await asyncio.gather(*(step(own_db, replay, waited=HOUR) for replay in pair * 3))

    assert sorted(position for position, _, _ in await sent(own_db, endpoint)) == sorted([*range(1, 11)] * 2)


async def test_a_replay_that_another_worker_holds_is_left_to_it(own_db: Database, endpoint: Endpoint) -> None:
    replay = await start(own_db, endpoint)
    tenant_id = replay.tenant_id
    async with own_db.across("work", [tenant_id]) as holding, own_db.across("work", [tenant_id]) as another:
        await holding.execute("UPDATE webhook_replays SET paced_at = now() - interval '1 hour'")
        dealt = await replays.step(another, tenant_id, replay.id, 1000)

    assert (dealt, await sent(own_db, endpoint)) == (0, [])
    assert await step(own_db, replay) == 10


async def test_only_what_was_not_delivered_is_sent_again(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 4)
    await deliver(own_db, endpoint.tenant_id)
    await happen(own_db, endpoint.tenant_id, 2)  # still under way

    replay = await start(own_db, endpoint, only_undelivered=True)

    assert await step(own_db, replay) == 10


async def test_a_replay_is_of_a_period_and_of_types(own_db: Database, endpoint: Endpoint) -> None:
    await asyncio.sleep(0.05)
    begun = datetime.now(UTC)
    await happen(own_db, endpoint.tenant_id, 2, EventType.DEVICE_ONLINE)
    await happen(own_db, endpoint.tenant_id, 3, EventType.DEVICE_OFFLINE)
    await asyncio.sleep(0.05)
    ended = datetime.now(UTC)
    await happen(own_db, endpoint.tenant_id, 5, EventType.DEVICE_OFFLINE)

    offline = await start(own_db, endpoint, since=begun, until=ended, event_types=["device.offline"])
    both = await start(own_db, endpoint, since=begun, until=ended)

    assert (await step(own_db, offline), await step(own_db, both)) == (3, 5)


async def test_a_replay_keeps_its_pace_and_waits_for_its_receiver(own_db: Database, endpoint: Endpoint) -> None:
    replay = await start(own_db, endpoint)

    first = await step(own_db, replay, rate=1)
    at_once = await step(own_db, replay, rate=1, waited=timedelta(0))
    long_after = await step(own_db, replay, rate=1, waited=HOUR)
    more = [await step(own_db, replay, rate=1) for _ in range(4)]
    await deliver(own_db, endpoint.tenant_id)

    assert (first, at_once, long_after) == (1, 0, 2)
    assert more == [1, 1, 0, 0]  # five seconds' worth waits
    assert await step(own_db, replay, rate=1) == 1


async def test_a_replay_to_an_endpoint_that_is_gone_is_cancelled(own_db: Database, endpoint: Endpoint) -> None:
    replay = await start(own_db, endpoint)
    async with own_db.write(endpoint.tenant_id) as session:
        await (await driver(session)).execute("UPDATE webhook_endpoints SET status = 'DISABLED'")

    assert await step(own_db, replay) == 0
    assert (await now_is(own_db, replay))[0] == "CANCELLED"


async def test_a_replay_of_nothing_is_over_at_once(own_db: Database, endpoint: Endpoint) -> None:
    replay = await start(own_db, endpoint, event_types=["device.offline"])

    await step(own_db, replay)

    assert await now_is(own_db, replay) == ("COMPLETED", 0, 0)


async def test_a_period_that_ends_before_it_begins_is_refused(own_db: Database, endpoint: Endpoint) -> None:
    later = datetime.now(UTC) + HOUR

    with pytest.raises(InvalidInput, match="comes before"):
        await start(own_db, endpoint, since=later)


async def test_a_tenant_runs_ten_replays_at_a_time(own_db: Database, endpoint: Endpoint) -> None:
    for _ in range(replays.MOST):
        await start(own_db, endpoint)

    with pytest.raises(InvalidInput, match="10 replays are running"):
        await start(own_db, endpoint)


async def test_where_a_period_begins_is_found_among_many_events(own_db: Database, endpoint: Endpoint) -> None:
    async with own_db.across("ingest", [endpoint.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO events (tenant_id, position, id, type, body, created_at)"
            " SELECT $1, 1000 + n, uuid7(), 'x', '', now() - (2000 - n) * interval '1 hour'"
            " FROM generate_series(1, 1999) AS n",
            endpoint.tenant_id,
        )
        await connection.execute("UPDATE feed_heads SET position = 2999 WHERE tenant_id = $1", endpoint.tenant_id)

    replay = await start(own_db, endpoint, since=datetime.now(UTC) - 24.5 * HOUR, until=datetime.now(UTC) - 3.5 * HOUR)

    assert (replay.position, replay.last_position) == (2975, 2996)

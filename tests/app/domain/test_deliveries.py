"""Claims, leases and tokens. A worker takes what is due in the whole database, so each test has one of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.database import Database, driver
from app.domain import deliveries
from app.domain.deliveries import Caps, Claim, DeliveryStatus, Job, Load, Result
from app.domain.endpoints import Endpoint
from app.domain.events import Cursors, EventType, webhook_body
from app.vault import Vault
from tests.conftest import SECRET_KEY
from tests.factories import happen, make_endpoint, make_tenant

LEASE = timedelta(seconds=30)
OVER = timedelta(milliseconds=-1)
STARTED = datetime(2026, 3, 1, 7, tzinfo=UTC)


@pytest.fixture
async def own_db(fresh_database_url: str) -> AsyncIterator[Database]:
    database = Database(fresh_database_url, pool=20)
    yield database
    await database.stop()


@pytest.fixture
async def tenant_id(own_db: Database) -> UUID:
    return (await make_tenant(own_db)).tenant_id


@pytest.fixture
async def endpoint(own_db: Database, vault: Vault, tenant_id: UUID) -> Endpoint:
    return await make_endpoint(own_db, vault, tenant_id)


async def claim(db: Database, n: int = 100, lease: timedelta = LEASE, **options: Any) -> list[Claim]:
    return await deliveries.claim(db.at_once, n, lease, **options)


async def load(db: Database, claims: list[Claim]) -> list[Job]:
    async with db.across("work", [claim.tenant_id for claim in claims]) as connection:
        return await deliveries.load(connection, Cursors(Vault(SECRET_KEY).cursor_key), claims)


async def settle(db: Database, *results: Result) -> set[UUID]:
    async with db.across("work", [result.claim.tenant_id for result in results]) as connection:
        return (await deliveries.settle(connection, results)).ids


async def release(db: Database, claims: list[Claim]) -> set[UUID]:
    async with db.across("work", [claim.tenant_id for claim in claims]) as connection:
        return await deliveries.release(connection, claims)


async def reap(db: Database) -> int:
    async with db.across("work") as connection:
        return await deliveries.reap(connection)


async def rows(db: Database, tenant_id: UUID) -> list[dict[str, Any]]:
    """The tenant's deliveries, oldest first, with seconds until they are due and until their leases end."""
    async with db.read(tenant_id) as session:
        found = await (await driver(session)).fetch(
            "SELECT id, status, attempt_count, claim_token, completed_at,"
            " extract(epoch FROM due_at - now())::float AS due, extract(epoch FROM lease_until - now())::float AS lease"
            " FROM webhook_deliveries ORDER BY position"
        )
    return [dict(row) for row in found]


async def attempts(db: Database, tenant_id: UUID) -> list[dict[str, Any]]:
    async with db.read(tenant_id) as session:
        found = await (await driver(session)).fetch("SELECT * FROM webhook_attempts ORDER BY number")
    return [dict(row) for row in found]


async def set_endpoint(db: Database, endpoint: Endpoint, change: str) -> None:
    async with db.write(endpoint.tenant_id) as session:
        await (await driver(session)).execute(f"UPDATE webhook_endpoints SET {change} WHERE id = $1", endpoint.id)


def delivered(claim: Claim) -> Result:
    return Result(claim, DeliveryStatus.DELIVERED, STARTED, 12, status_code=200, response_body="ok")


def failed(claim: Claim, retry_in: timedelta = timedelta(minutes=1)) -> Result:
    return Result(claim, DeliveryStatus.PENDING, STARTED, 34, status_code=500, response_body="no", retry_in=retry_in)


# Claiming


async def test_a_claim_holds_what_is_due_and_counts_the_attempt(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 3)

    claims = await claim(own_db, 2)

    held = [row for row in await rows(own_db, endpoint.tenant_id) if row["status"] == "SENDING"]
    assert {row["id"] for row in held} == {claim.id for claim in claims}
    assert [row["attempt_count"] for row in held] == [1, 1]
    assert {row["claim_token"] for row in held} == {claim.token for claim in claims}
    assert all(25 < row["lease"] <= 30 for row in held)
    assert len(await claim(own_db)) == 1
    assert await claim(own_db) == []


async def test_what_is_not_due_yet_is_left_alone(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)
    await settle(own_db, failed(held, timedelta(minutes=1)))

    assert await claim(own_db) == []


async def test_eight_workers_claim_a_thousand_deliveries_once_each(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 1000)
    taken: Counter[UUID] = Counter()

    async def work() -> None:
        while claims := await claim(own_db, 7):
            taken.update(claim.id for claim in claims)

    await asyncio.gather(*(work() for _ in range(8)))

    assert len(taken) == 1000
    assert set(taken.values()) == {1}


async def test_a_claim_does_not_wait_for_another(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 3)

    async with own_db.across("work") as connection:
        first = await deliveries.claim(connection.fetch, 2, LEASE)
        second = await asyncio.wait_for(claim(own_db, 2), timeout=5)

    assert (len(first), len(second)) == (2, 1)
    assert len({claim.id for claim in [*first, *second]}) == 3


async def test_no_endpoint_gets_more_than_its_share_of_a_claim(own_db: Database, vault: Vault, tenant_id: UUID) -> None:
    crowded, quiet, full = [await make_endpoint(own_db, vault, tenant_id) for _ in range(3)]
    await happen(own_db, tenant_id, 5)

    claims = await claim(
        own_db, 100, caps=Caps(endpoint=4), load=Load({(tenant_id, crowded.id): 1, (tenant_id, full.id): 4})
    )

    taken = Counter(job.endpoint_id for job in await load(own_db, claims))
    assert taken == {crowded.id: 3, quiet.id: 4}


async def test_an_endpoint_that_has_its_share_does_not_hide_what_others_are_owed(
    own_db: Database, vault: Vault, tenant_id: UUID
) -> None:
    full = await make_endpoint(own_db, vault, tenant_id, event_types=["device.online"])
    other = await make_endpoint(own_db, vault, tenant_id, event_types=["device.offline"])
    await happen(own_db, tenant_id, 10, EventType.DEVICE_ONLINE)
    await happen(own_db, tenant_id, 1, EventType.DEVICE_OFFLINE)

    claims = await claim(own_db, 5, caps=Caps(endpoint=4), load=Load({(tenant_id, full.id): 4}))

    assert [job.endpoint_id for job in await load(own_db, claims)] == [other.id]


# Over all workers


async def test_what_others_hold_counts_against_an_endpoint(own_db: Database, vault: Vault, tenant_id: UUID) -> None:
    crowded, quiet = [
        await make_endpoint(own_db, vault, tenant_id, event_types=[name])
        for name in ("device.online", "device.offline")
    ]
    await happen(own_db, tenant_id, 20, EventType.DEVICE_ONLINE)
    caps = Caps(endpoint_everywhere=5)

    theirs = await claim(own_db, 3, caps=caps)
    mine = await claim(own_db, 10, caps=caps)
    nobody = await claim(own_db, 10, caps=caps)
    await happen(own_db, tenant_id, 20, EventType.DEVICE_OFFLINE)
    other = await claim(own_db, 10, caps=caps)
    # One of mine has ended; that it is not written down yet is nobody's business.
    already = Load(held={(tenant_id, crowded.id): 1, (tenant_id, quiet.id): 5}, tokens=[mine[0].token, other[0].token])
    after_one = await claim(own_db, 10, caps=caps, load=already)
    await settle(own_db, *map(delivered, theirs))
    after_theirs = await claim(own_db, 10, caps=caps)

    assert [len(claims) for claims in (theirs, mine, nobody, other, after_one, after_theirs)] == [3, 2, 0, 5, 1, 2]
    assert {job.endpoint_id for job in await load(own_db, other)} == {quiet.id}


async def test_what_others_hold_counts_against_a_tenant(own_db: Database, vault: Vault, tenant_id: UUID) -> None:
    for _ in range(2):
        await make_endpoint(own_db, vault, tenant_id)
    other = (await make_tenant(own_db)).tenant_id
    await make_endpoint(own_db, vault, other)
    await happen(own_db, tenant_id, 20)
    caps = Caps(tenant_everywhere=7)

    theirs = await claim(own_db, 6, caps=caps)
    await happen(own_db, other, 20)
    mine = await claim(own_db, 5, caps=caps)

    # Its last place, and the turns that it may not take go to others.
    assert {held.tenant_id for held in theirs} == {tenant_id}
    assert Counter(held.tenant_id for held in mine) == {tenant_id: 1, other: 4}


async def test_what_is_claimed_ahead_does_not_count_where_the_share_stays_within_the_cap(
    own_db: Database, endpoint: Endpoint
) -> None:
    await happen(own_db, endpoint.tenant_id, 40)
    lane = (endpoint.tenant_id, endpoint.id)
    caps = Caps(endpoint=4, tenant=4, endpoint_everywhere=6, tenant_everywhere=6)

    first = await claim(own_db, 40, caps=caps)
    # Three of four have ended, and three more wait here for their places.
    mine = Load({lane: -2}, {lane: 4}, [first[0].token])
    ahead = await claim(own_db, 40, caps=caps, load=mine)
    theirs = await claim(own_db, 40, caps=caps)

    assert [len(claims) for claims in (first, ahead, theirs)] == [4, 6, 0]


async def test_what_was_not_renewed_for_half_a_lease_does_not_count(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 20)
    await claim(own_db, 3, LEASE / 2)
    await claim(own_db, 4)

    claims = await claim(own_db, 10, LEASE, caps=Caps(endpoint_everywhere=5))

    assert len(claims) == 1


@pytest.mark.parametrize("caps", [Caps(endpoint_everywhere=5), Caps(tenant_everywhere=5)])
async def test_two_that_claim_at_once_stay_within_the_caps_together(
    own_db: Database, endpoint: Endpoint, caps: Caps
) -> None:
    await happen(own_db, endpoint.tenant_id, 20)

    async with own_db.across("work") as connection:
        first = await deliveries.claim(connection.fetch, 3, LEASE, caps)
        claiming = asyncio.create_task(claim(own_db, 10, caps=caps))
        # It has dealt itself five by now, and does not take them.
        async with asyncio.timeout(20), own_db.across("work") as watcher:
            while not claiming.done() and not await watcher.fetchval(  # noqa: ASYNC110
                "SELECT count(*) FROM pg_locks WHERE NOT granted"
            ):
                await asyncio.sleep(0.01)
    second = await claiming

    assert (len(first), len(second)) == (3, 2)


# Loading


async def test_a_job_holds_the_body_as_it_was_stored_with_its_cursor(own_db: Database, endpoint: Endpoint) -> None:
    [event] = await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    [job] = await load(own_db, [held])

    cursor = Cursors(Vault(SECRET_KEY).cursor_key).write(endpoint.tenant_id, event.position)
    body = webhook_body(event.body, cursor)
    assert orjson.loads(body) == {**orjson.loads(event.body), "feed_cursor": cursor}
    assert "Zoë".encode() in body
    assert job == Job(
        held, endpoint.id, event.id, "punch.created", 1, 0, endpoint.url, body, endpoint.secret_sealed, None
    )


async def test_the_previous_secret_comes_along_until_its_grace_ends(
    own_db: Database, vault: Vault, tenant_id: UUID
) -> None:
    now = datetime.now(UTC)
    in_grace = await make_endpoint(
        own_db, vault, tenant_id, previous_secret="whsec_AAAA", previous_secret_expires_at=now + timedelta(hours=1)
    )
    await make_endpoint(
        own_db, vault, tenant_id, previous_secret="whsec_AAAA", previous_secret_expires_at=now - timedelta(hours=1)
    )
    await happen(own_db, tenant_id)

    jobs = await load(own_db, await claim(own_db))

    assert [job.endpoint_id for job in jobs if job.previous_secret_sealed] == [in_grace.id]
    assert len(jobs) == 2


async def test_the_secret_before_that_comes_along_until_its_own_grace_ends(
    own_db: Database, vault: Vault, tenant_id: UUID
) -> None:
    now, hour = datetime.now(UTC), timedelta(hours=1)
    made = [
        await make_endpoint(
            own_db,
            vault,
            tenant_id,
            previous_secret="whsec_AAAA",
            previous_secret_expires_at=previous,
            older_secret="whsec_BBBB",
            older_secret_expires_at=older,
        )
        for previous, older in ((now + hour, now + hour), (now + hour, now - hour), (now - hour, now + hour))
    ]
    await happen(own_db, tenant_id)

    jobs = {job.endpoint_id: job for job in await load(own_db, await claim(own_db))}

    assert [(jobs[endpoint.id].previous_secret_sealed, jobs[endpoint.id].older_secret_sealed) for endpoint in made] == [
        (made[0].previous_secret_sealed, made[0].older_secret_sealed),
        (made[1].previous_secret_sealed, None),
        (None, made[2].older_secret_sealed),
    ]


async def test_a_paused_endpoints_delivery_is_parked_uncounted(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 2)
    claims = await claim(own_db)
    await set_endpoint(own_db, endpoint, "status = 'PAUSED'")

    jobs = await load(own_db, claims)

    assert jobs == []
    for row in await rows(own_db, endpoint.tenant_id):
        assert (row["status"], row["attempt_count"], row["due"], row["claim_token"]) == ("PENDING", 0, None, None)
    assert await claim(own_db) == []


@pytest.mark.parametrize(
    "change", ["status = 'DISABLED'", "deleted_at = now()", "deleted_at = now(), status = 'PAUSED'"]
)
async def test_a_delivery_to_an_endpoint_that_is_gone_is_cancelled_uncounted(
    own_db: Database, endpoint: Endpoint, change: str
) -> None:
    await happen(own_db, endpoint.tenant_id)
    claims = await claim(own_db)
    await set_endpoint(own_db, endpoint, change)

    jobs = await load(own_db, claims)

    assert jobs == []
    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["attempt_count"], row["due"]) == ("CANCELLED", 0, None)
    assert row["completed_at"] is not None


async def test_a_resume_beside_the_parking_leaves_nothing_parked(own_db: Database, endpoint: Endpoint) -> None:
    await set_endpoint(own_db, endpoint, "status = 'PAUSED'")
    await happen(own_db, endpoint.tenant_id)
    claims = await claim(own_db)

    async with own_db.write(endpoint.tenant_id) as session:
        # The resume has the endpoint's row and has not committed: the worker still reads PAUSED and has to wait.
        connection = await driver(session)
        await connection.execute("UPDATE webhook_endpoints SET status = 'ENABLED' WHERE id = $1", endpoint.id)
        loading = asyncio.create_task(load(own_db, claims))
        async with asyncio.timeout(20), own_db.across("work") as watcher:
            while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await connection.execute(
            "UPDATE webhook_deliveries SET due_at = now() WHERE status = 'PENDING' AND due_at IS NULL"
        )
    await loading

    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["attempt_count"]) == ("PENDING", 0)
    assert row["due"] is not None
    assert len(await load(own_db, await claim(own_db))) == 1


async def test_only_the_tenants_that_are_named_are_loaded(own_db: Database, vault: Vault, endpoint: Endpoint) -> None:
    other = await make_endpoint(own_db, vault, (await make_tenant(own_db)).tenant_id)
    await happen(own_db, endpoint.tenant_id)
    await happen(own_db, other.tenant_id)
    claims = await claim(own_db)

    async with own_db.across("work", [endpoint.tenant_id]) as connection:
        jobs = await deliveries.load(connection, Cursors(Vault(SECRET_KEY).cursor_key), claims)

    assert [job.claim.tenant_id for job in jobs] == [endpoint.tenant_id]


# Settling


async def test_a_success_ends_the_delivery_and_logs_the_attempt(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    settled = await settle(own_db, delivered(held))

    assert settled == {held.id}
    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["attempt_count"], row["due"], row["lease"]) == ("DELIVERED", 1, None, None)
    assert row["completed_at"] is not None
    assert await attempts(own_db, endpoint.tenant_id) == [
        {
            "tenant_id": endpoint.tenant_id,
            "delivery_id": held.id,
            "number": 1,
            "started_at": STARTED,
            "duration_ms": 12,
            "status_code": 200,
            "error": None,
            "response_body": "ok",
        }
    ]


async def test_a_failure_is_due_again_by_the_clock_of_the_database(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    await settle(own_db, failed(held, timedelta(seconds=100)))

    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["attempt_count"], row["completed_at"]) == ("PENDING", 1, None)
    assert 95 < row["due"] <= 100
    [attempt] = await attempts(own_db, endpoint.tenant_id)
    assert (attempt["status_code"], attempt["response_body"]) == (500, "no")


async def test_an_exhausted_delivery_is_kept_and_never_due_again(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    await settle(own_db, Result(held, DeliveryStatus.EXHAUSTED, STARTED, 5, error="timeout"))

    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["due"]) == ("EXHAUSTED", None)
    assert row["completed_at"] is not None
    assert await claim(own_db) == []


async def test_a_batch_settles_each_delivery_its_own_way(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 200)
    claims = await claim(own_db, 200)

    settled = await settle(own_db, *(delivered(held) if n % 2 else failed(held) for n, held in enumerate(claims)))

    assert len(settled) == 200
    assert Counter(row["status"] for row in await rows(own_db, endpoint.tenant_id)) == {
        "DELIVERED": 100,
        "PENDING": 100,
    }
    assert len(await attempts(own_db, endpoint.tenant_id)) == 200


async def test_a_worker_that_lost_its_lease_changes_nothing(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [stale] = await claim(own_db, lease=OVER)
    assert await reap(own_db) == 1
    [current] = await claim(own_db)
    before = await rows(own_db, endpoint.tenant_id)

    gone = Result(stale, DeliveryStatus.EXHAUSTED, STARTED, 1, status_code=410, gone=endpoint.url)
    settled = [await settle(own_db, result) for result in (delivered(stale), failed(stale), gone)]
    released = await release(own_db, [stale])
    async with own_db.across("work", [endpoint.tenant_id]) as connection:
        renewed = await deliveries.renew(connection, [stale], timedelta(hours=1))
    loaded = await load(own_db, [stale])

    assert settled == [set(), set(), set()]
    assert (released, renewed, loaded) == (set(), set(), [])
    [row] = await rows(own_db, endpoint.tenant_id)
    assert {**row, "lease": 0, "due": 0} == {**before[0], "lease": 0, "due": 0}
    assert row["lease"] <= 30
    assert await attempts(own_db, endpoint.tenant_id) == []
    async with own_db.read(endpoint.tenant_id) as session:
        assert (await session.get_one(Endpoint, (endpoint.tenant_id, endpoint.id))).status == "ENABLED"
    assert await settle(own_db, delivered(current)) == {current.id}


async def test_a_result_is_written_down_once(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    first, second = await settle(own_db, failed(held)), await settle(own_db, failed(held))

    assert (first, second) == ({held.id}, set())
    assert len(await attempts(own_db, endpoint.tenant_id)) == 1


async def test_a_receiver_that_is_gone_disables_its_endpoint(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 2)
    first, second = await claim(own_db)

    await settle(own_db, Result(first, DeliveryStatus.EXHAUSTED, STARTED, 5, status_code=410, gone=endpoint.url))

    async with own_db.read(endpoint.tenant_id) as session:
        found = await session.get_one(Endpoint, (endpoint.tenant_id, endpoint.id))
    assert (found.status, found.disabled_reason) == ("DISABLED", "The receiver answered 410 Gone.")
    assert await load(own_db, [second]) == []
    assert {row["status"] for row in await rows(own_db, endpoint.tenant_id)} == {"EXHAUSTED", "CANCELLED"}


async def test_a_gone_url_does_not_disable_an_endpoint_that_has_another_one_by_now(
    own_db: Database, endpoint: Endpoint
) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)
    await set_endpoint(own_db, endpoint, "url = 'https://moved.example/hook'")

    await settle(own_db, Result(held, DeliveryStatus.EXHAUSTED, STARTED, 5, status_code=410, gone=endpoint.url))

    async with own_db.read(endpoint.tenant_id) as session:
        assert (await session.get_one(Endpoint, (endpoint.tenant_id, endpoint.id))).status == "ENABLED"


async def test_another_tenants_delivery_cannot_be_settled(own_db: Database, endpoint: Endpoint) -> None:
    stranger = (await make_tenant(own_db)).tenant_id
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    async with own_db.across("work", [stranger]) as connection:
        settled = (await deliveries.settle(connection, [delivered(held)])).ids

    assert settled == set()
    assert (await rows(own_db, endpoint.tenant_id))[0]["status"] == "SENDING"


async def test_one_result_that_the_database_refuses_spoils_its_batch_whole(
    own_db: Database, endpoint: Endpoint
) -> None:
    await happen(own_db, endpoint.tenant_id, 2)
    good, bad = await claim(own_db)

    with pytest.raises(asyncpg.PostgresError):
        await settle(own_db, delivered(good), Result(bad, DeliveryStatus.DELIVERED, STARTED, 1, error="\x00"))

    assert {row["status"] for row in await rows(own_db, endpoint.tenant_id)} == {"SENDING"}
    assert await attempts(own_db, endpoint.tenant_id) == []


# Leases


async def test_a_renewed_lease_outlasts_the_first(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 2)
    kept, lost = await claim(own_db, lease=OVER)

    async with own_db.across("work", [endpoint.tenant_id]) as connection:
        renewed = await deliveries.renew(connection, [kept], LEASE)

    assert renewed == {kept.id}
    assert await reap(own_db) == 1
    assert await settle(own_db, delivered(kept), delivered(lost)) == {kept.id}


async def test_renewing_does_not_wait_for_who_is_settling(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 2)
    first, second = await claim(own_db)

    async with own_db.across("work", [endpoint.tenant_id]) as settling:
        await deliveries.settle(settling, [delivered(first)])
        async with own_db.across("work", [endpoint.tenant_id]) as renewing:
            renewed = await asyncio.wait_for(deliveries.renew(renewing, [first, second], LEASE), timeout=5)

    assert renewed == {second.id}


async def test_what_a_dead_worker_held_is_due_at_once_and_its_attempt_stays_counted(
    own_db: Database, endpoint: Endpoint
) -> None:
    await happen(own_db, endpoint.tenant_id)
    await claim(own_db, lease=OVER)

    assert await reap(own_db) == 1

    [job] = await load(own_db, await claim(own_db))
    assert (job.attempt, job.failures) == (2, 0)
    assert await reap(own_db) == 0


async def test_only_attempts_that_were_made_spend_the_schedule(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)
    await settle(own_db, failed(held, OVER))
    await claim(own_db, lease=OVER)
    await reap(own_db)

    [job] = await load(own_db, await claim(own_db))

    assert (job.attempt, job.failures) == (3, 1)


async def test_what_is_released_is_due_again_and_uncounted(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id)
    [held] = await claim(own_db)

    assert await release(own_db, [held]) == {held.id}

    [row] = await rows(own_db, endpoint.tenant_id)
    assert (row["status"], row["attempt_count"], row["claim_token"], row["lease"]) == ("PENDING", 0, None, None)
    [job] = await load(own_db, await claim(own_db))
    assert job.attempt == 1


async def test_the_next_due_is_known_across_tenants(own_db: Database, endpoint: Endpoint) -> None:
    async with own_db.across("work") as connection:
        assert await deliveries.next_due(connection) is None
    await happen(own_db, endpoint.tenant_id)
    async with own_db.across("work") as connection:
        late = await deliveries.next_due(connection)
    [held] = await claim(own_db)
    await settle(own_db, failed(held, timedelta(seconds=100)))
    async with own_db.across("work") as connection:
        ahead = await deliveries.next_due(connection)

    assert late is not None
    assert ahead is not None
    assert late <= timedelta(0) < timedelta(seconds=95) < ahead <= timedelta(seconds=100)


# Taking turns


async def test_a_tenant_with_a_backlog_does_not_keep_another_waiting(
    own_db: Database, vault: Vault, endpoint: Endpoint
) -> None:
    other = (await make_tenant(own_db)).tenant_id
    await make_endpoint(own_db, vault, other)
    await happen(own_db, endpoint.tenant_id, 200)
    await happen(own_db, other, 3)

    claims = await claim(own_db, 10)

    assert Counter(held.tenant_id for held in claims) == {endpoint.tenant_id: 7, other: 3}


async def test_endpoints_of_a_tenant_take_turns(own_db: Database, vault: Vault, tenant_id: UUID) -> None:
    busy = await make_endpoint(own_db, vault, tenant_id, event_types=["device.online"])
    quiet = await make_endpoint(own_db, vault, tenant_id, event_types=["device.offline"])
    await happen(own_db, tenant_id, 200, EventType.DEVICE_ONLINE)
    await happen(own_db, tenant_id, 3, EventType.DEVICE_OFFLINE)

    jobs = await load(own_db, await claim(own_db, 10))

    assert Counter(job.endpoint_id for job in jobs) == {busy.id: 7, quiet.id: 3}


async def test_no_tenant_gets_more_than_its_share_of_a_claim(own_db: Database, vault: Vault, tenant_id: UUID) -> None:
    first, second = [await make_endpoint(own_db, vault, tenant_id) for _ in range(2)]
    other = (await make_tenant(own_db)).tenant_id
    await make_endpoint(own_db, vault, other)
    await happen(own_db, tenant_id, 20)
    await happen(own_db, other, 20)

    claims = await claim(
        own_db, 100, caps=Caps(tenant=6), load=Load({(tenant_id, first.id): 3, (tenant_id, second.id): 1})
    )

    assert Counter(held.tenant_id for held in claims) == {tenant_id: 2, other: 6}


# An endpoint that fails


async def health(db: Database, endpoint: Endpoint) -> tuple[str, int, bool, bool]:
    """Status, failures in a row, whether it is known since when, and whether the breaker is open."""
    async with db.read(endpoint.tenant_id) as session:
        row = await (await driver(session)).fetchrow(
            "SELECT status, failures, failing_since IS NOT NULL, coalesce(breaker_until > now(), false) "
            "FROM webhook_endpoints WHERE id = $1",
            endpoint.id,
        )
    return tuple(row)


async def fail(db: Database, endpoint: Endpoint, times: int = 5) -> None:
    """So many failures in a row, of as many deliveries."""
    await happen(db, endpoint.tenant_id, times)
    await settle(db, *(failed(held, timedelta(hours=1)) for held in await claim(db, times)))


async def test_after_five_failures_in_a_row_an_endpoint_is_left_alone_and_nothing_is_spent(
    own_db: Database, endpoint: Endpoint
) -> None:
    await fail(own_db, endpoint, 4)
    before = await health(own_db, endpoint)
    await fail(own_db, endpoint, 1)
    await happen(own_db, endpoint.tenant_id, 3)

    assert before == ("ENABLED", 4, True, False)
    assert await health(own_db, endpoint) == ("ENABLED", 5, True, True)
    assert await claim(own_db) == []
    assert [row["attempt_count"] for row in await rows(own_db, endpoint.tenant_id)] == [1] * 5 + [0] * 3
    async with own_db.across("work") as connection:
        due = await deliveries.next_due(connection)
    assert due is not None
    assert timedelta(seconds=25) < due <= timedelta(seconds=30)


async def test_other_endpoints_are_not_left_alone_with_it(own_db: Database, vault: Vault, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint)
    well = await make_endpoint(own_db, vault, endpoint.tenant_id)
    await happen(own_db, endpoint.tenant_id, 400)

    jobs = await load(own_db, await claim(own_db, 50))

    assert {job.endpoint_id for job in jobs} == {well.id}
    assert len(jobs) == 50


async def test_after_a_while_one_delivery_tries_it_again_and_only_one(own_db: Database, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint)
    await happen(own_db, endpoint.tenant_id, 20)
    await set_endpoint(own_db, endpoint, "breaker_until = now()")

    claims = await asyncio.gather(*(claim(own_db) for _ in range(5)))

    assert sum(map(len, claims)) == 1
    assert await claim(own_db) == []


async def test_a_success_lets_everything_through_again(own_db: Database, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint)
    await happen(own_db, endpoint.tenant_id, 20)
    await set_endpoint(own_db, endpoint, "breaker_until = now()")
    [held] = await claim(own_db)
    [job] = await load(own_db, [held])

    await settle(own_db, replace(delivered(held), unwell=job.unwell))

    assert await health(own_db, endpoint) == ("ENABLED", 0, False, False)
    assert len(await claim(own_db)) == 19


async def test_a_success_ends_a_row_of_failures(own_db: Database, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint, 4)
    await happen(own_db, endpoint.tenant_id, 5)
    first, second, third, fourth, fifth = await claim(own_db)

    await settle(own_db, failed(first), failed(second), delivered(third), failed(fourth), failed(fifth))

    assert await health(own_db, endpoint) == ("ENABLED", 2, True, False)


async def fare(db: Database, endpoint: Endpoint, outcomes: str) -> None:
    """Attempts one after the other, each loaded when the one before it is settled: F fails, S succeeds."""
    await happen(db, endpoint.tenant_id, len(outcomes))
    for outcome, held in zip(outcomes, await claim(db), strict=True):
        [job] = await load(db, [held])
        await settle(db, replace(failed(held) if outcome == "F" else delivered(held), unwell=job.unwell))


async def test_an_endpoint_that_fails_more_than_half_the_time_is_left_alone(
    own_db: Database, endpoint: Endpoint
) -> None:
    await fare(own_db, endpoint, "FS" * 10)
    at_half = await health(own_db, endpoint)
    await fare(own_db, endpoint, "FF")

    assert at_half == ("ENABLED", 0, False, False)
    assert await health(own_db, endpoint) == ("ENABLED", 2, True, True)


async def test_what_was_long_ago_does_not_count_against_an_endpoint(own_db: Database, endpoint: Endpoint) -> None:
    await fare(own_db, endpoint, "FFFS" * 3 + "S" * 20)
    await happen(own_db, endpoint.tenant_id)
    [job] = await load(own_db, await claim(own_db))
    await fare(own_db, endpoint, "F")

    assert not job.unwell  # nothing is written down for an endpoint that is well
    assert await health(own_db, endpoint) == ("ENABLED", 1, True, False)


async def test_a_success_after_the_breaker_begins_a_new_count(own_db: Database, endpoint: Endpoint) -> None:
    await fare(own_db, endpoint, "FFFS" * 3 + "FF")
    open_by_then = await health(own_db, endpoint)
    await set_endpoint(own_db, endpoint, "breaker_until = now()")
    await fare(own_db, endpoint, "S")
    await fare(own_db, endpoint, "FF")

    assert open_by_then == ("ENABLED", 2, True, True)
    assert await health(own_db, endpoint) == ("ENABLED", 2, True, False)


async def test_a_breaker_does_not_outlast_the_schedule(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 5)

    await settle(own_db, *(failed(held, timedelta(milliseconds=20)) for held in await claim(own_db)))
    await asyncio.sleep(0.1)

    assert len(await claim(own_db)) == 1


async def test_a_retry_by_hand_does_not_wait_for_the_breaker(own_db: Database, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint)
    waiting = (await rows(own_db, endpoint.tenant_id))[2]["id"]
    async with own_db.write(endpoint.tenant_id) as session:
        await deliveries.retry(session, endpoint.tenant_id, waiting)

    [held] = await claim(own_db)
    async with own_db.read(endpoint.tenant_id) as session:
        urgent = await (await driver(session)).fetchval("SELECT count(*) FROM webhook_deliveries WHERE urgent")

    assert held.id == waiting
    assert urgent == 0  # it does so once


async def test_a_stale_result_says_nothing_about_its_endpoint(own_db: Database, endpoint: Endpoint) -> None:
    await happen(own_db, endpoint.tenant_id, 5)
    stale = await claim(own_db, lease=OVER)
    await reap(own_db)

    await settle(own_db, *map(failed, stale))

    assert await health(own_db, endpoint) == ("ENABLED", 0, False, False)


@pytest.mark.parametrize(("days", "status"), [(4.9, "ENABLED"), (5.1, "DISABLED")])
async def test_five_days_of_nothing_but_failure_disable_an_endpoint(
    own_db: Database, endpoint: Endpoint, days: float, status: str
) -> None:
    await happen(own_db, endpoint.tenant_id, 1)
    [held] = await claim(own_db)
    await set_endpoint(own_db, endpoint, f"failures = 60, failing_since = now() - interval '{days} days'")

    async with own_db.across("work", [endpoint.tenant_id]) as connection:
        settled = await deliveries.settle(connection, [failed(held)])

    assert (await health(own_db, endpoint))[0] == status
    reasons = [disabled.reason for disabled in settled.disabled]
    assert reasons == ([] if status == "ENABLED" else ["Nothing has arrived for 5 days."])


async def test_what_operators_watch_is_counted(own_db: Database, vault: Vault, endpoint: Endpoint) -> None:
    await fail(own_db, endpoint)
    await happen(own_db, endpoint.tenant_id, 2)  # held back
    other = (await make_tenant(own_db)).tenant_id
    await make_endpoint(own_db, vault, other)
    await happen(own_db, other, 7)
    await claim(own_db, 3)
    await claim(own_db, 1, lease=OVER)

    async with own_db.across("work") as connection:
        found = await deliveries.backlog(connection)

    assert (found.due, found.held_back, found.leased, found.expired) == (5, 2, 4, 1)
    assert 0 < found.oldest < 60

"""Workers against a real database and a real receiver."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import standardwebhooks
import structlog.testing
import svix

from app import ids, migrations
from app.broadcast import Bell
from app.database import Database, driver
from app.domain import deliveries
from app.domain.deliveries import DeliveryStatus, Result
from app.domain.endpoints import Endpoint
from app.domain.events import Cursors, EventType
from app.domain.outbox import DELIVERIES
from app.embedded import EmbeddedPostgres
from app.vault import Vault
from protocol import webhook
from tests.conftest import SECRET_KEY
from tests.factories import SECRET, happen, make_endpoint, make_tenant
from tests.receiver import HANG, RESET, Answer, Received, Receiver
from tests.workers.conftest import MakeSettings, StartWorker, door_of, running
from workers import pool, sweeper
from workers.pool import Worker

OTHER_SECRET = webhook.secret_from(bytes(range(32, 64)))


@pytest.fixture
async def tenant_id(own_db: Database) -> UUID:
    return (await make_tenant(own_db)).tenant_id


@pytest.fixture
async def endpoint(own_db: Database, vault: Vault, tenant_id: UUID, receiver: Receiver) -> Endpoint:
    return await make_endpoint(own_db, vault, tenant_id, receiver.url())


async def statuses(db: Database, tenant_id: UUID) -> Counter[str]:
    async with db.read(tenant_id) as session:
        found = await (await driver(session)).fetch("SELECT status FROM webhook_deliveries")
    return Counter(row[0] for row in found)


async def until(db: Database, tenant_id: UUID, *wanted: str, timeout: float = 20) -> Counter[str]:  # noqa: ASYNC109
    """Return once all of the tenant's deliveries have one of these statuses."""
    async with asyncio.timeout(timeout):
        while set(found := await statuses(db, tenant_id)) - set(wanted):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


async def attempts(db: Database, tenant_id: UUID) -> list[dict[str, Any]]:
    async with db.read(tenant_id) as session:
        found = await (await driver(session)).fetch(
            "SELECT number, status_code, error, response_body FROM webhook_attempts ORDER BY started_at, number"
        )
    return [dict(row) for row in found]


async def set_endpoint(db: Database, endpoint: Endpoint, change: str) -> None:
    async with db.write(endpoint.tenant_id) as session:
        await (await driver(session)).execute(f"UPDATE webhook_endpoints SET {change} WHERE id = $1", endpoint.id)


# One delivery


async def test_an_event_arrives_once_with_the_bytes_that_were_stored(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    [event] = await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    [request] = receiver.requests
    assert request.body == event.body
    assert request.event_id == ids.show("evt", event.id) == request.payload["id"]
    assert request.attempt == 1
    assert request.headers["x-punchconnect-event"] == "punch.created"
    assert request.headers["content-type"] == "application/json"
    assert await attempts(own_db, endpoint.tenant_id) == [
        {"number": 1, "status_code": 200, "error": None, "response_body": "ok"}
    ]


async def test_the_stock_verifiers_accept_every_request(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    await happen(own_db, cursors, endpoint.tenant_id, 3)

    async with start_worker():
        await receiver.count(3)

    for request in receiver.requests:
        assert verified(request, SECRET) == 3


async def test_during_a_rotation_both_secrets_verify_and_the_plain_header_keeps_the_old_one(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    tenant_id: UUID,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    until_then = datetime.now(UTC) + timedelta(hours=1)
    await make_endpoint(
        own_db,
        vault,
        tenant_id,
        receiver.url(),
        secret=OTHER_SECRET,
        previous_secret=SECRET,
        previous_secret_expires_at=until_then,
    )
    await happen(own_db, cursors, tenant_id)

    async with start_worker():
        await receiver.count(1)

    [request] = receiver.requests
    assert verified(request, SECRET) == 3
    standardwebhooks.Webhook(OTHER_SECRET).verify(request.body, request.headers)
    svix.Webhook(OTHER_SECRET).verify(request.body, request.headers)


def verified(request: Received, secret: str) -> int:
    """Three verifiers, each of which raises when it is not content."""
    webhook.verify_legacy(secret, request.headers, request.body)
    standardwebhooks.Webhook(secret).verify(request.body, request.headers)
    svix.Webhook(secret).verify(request.body, request.headers)
    return 3


async def test_another_tenants_endpoint_never_receives(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    stranger = (await make_tenant(own_db)).tenant_id
    await make_endpoint(own_db, vault, stranger, receiver.url("/stranger"))
    await happen(own_db, cursors, endpoint.tenant_id, 20)

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert len(receiver.to("/hook")) == 20
    assert receiver.to("/stranger") == []
    assert {request.payload["tenant_id"] for request in receiver.requests} == {ids.show("ten", endpoint.tenant_id)}


async def test_an_endpoint_gets_the_types_it_asked_for(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    tenant_id: UUID,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    await make_endpoint(own_db, vault, tenant_id, receiver.url(), event_types=["device.online"])
    await happen(own_db, cursors, tenant_id, 2)
    await happen(own_db, cursors, tenant_id, 1, EventType.DEVICE_ONLINE)

    async with start_worker():
        await until(own_db, tenant_id, "DELIVERED")

    assert [request.headers["x-punchconnect-event"] for request in receiver.requests] == ["device.online"]


# Failures


async def test_a_failure_is_tried_again_with_the_same_ids_and_bytes(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.then(RESET, Answer(500, body=b"not now"))
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert [request.attempt for request in receiver.requests] == [1, 2, 3]
    assert len({(request.delivery, request.event_id, request.body) for request in receiver.requests}) == 1
    assert await attempts(own_db, endpoint.tenant_id) == [
        {"number": 1, "status_code": None, "error": "connect", "response_body": None},
        {"number": 2, "status_code": 500, "error": None, "response_body": "not now"},
        {"number": 3, "status_code": 200, "error": None, "response_body": "ok"},
    ]


async def test_each_failure_waits_as_long_as_the_schedule_says(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.then(Answer(500), Answer(500))
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_retry_delays=(0.3, 0.6)):
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    first, second, third = (request.at for request in receiver.requests)
    assert second - first >= 0.3
    assert third - second >= 0.6 * (1 - webhook.JITTER)


async def test_after_the_last_attempt_the_delivery_is_exhausted(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.always(Answer(503))
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_retry_delays=(0.02,) * 9):
        await until(own_db, endpoint.tenant_id, "EXHAUSTED")
        await asyncio.sleep(0.2)

    assert [request.attempt for request in receiver.requests] == list(range(1, 11))
    assert [attempt["number"] for attempt in await attempts(own_db, endpoint.tenant_id)] == list(range(1, 11))


async def test_a_receiver_that_never_answers_is_a_timeout(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.then(HANG)
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_timeout_seconds=0.2):
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert [attempt["error"] for attempt in await attempts(own_db, endpoint.tenant_id)] == ["timeout", None]


async def test_gone_disables_the_endpoint_and_nothing_more_is_sent(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.always(Answer(410))
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "EXHAUSTED")
        await happen(own_db, cursors, endpoint.tenant_id)
        await asyncio.sleep(0.2)

    assert len(receiver.requests) == 1
    async with own_db.read(endpoint.tenant_id) as session:
        found = await session.get_one(Endpoint, (endpoint.tenant_id, endpoint.id))
    assert (found.status, found.disabled_reason) == ("DISABLED", "The receiver answered 410 Gone.")
    assert await statuses(own_db, endpoint.tenant_id) == {"EXHAUSTED": 1}


async def test_a_forbidden_address_is_an_attempt_without_a_request(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_allow_networks=(), webhook_retry_delays=(0.01,)):
        await until(own_db, endpoint.tenant_id, "EXHAUSTED")

    assert receiver.requests == []
    assert [attempt["error"] for attempt in await attempts(own_db, endpoint.tenant_id)] == ["forbidden_address"] * 2


async def test_a_secret_that_does_not_open_spoils_its_own_deliveries_only(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    broken = (await make_tenant(own_db)).tenant_id
    # Another endpoint's secret: bound to its owner, it opens nowhere else.
    await make_endpoint(own_db, vault, broken, receiver.url("/broken"), secret_sealed=endpoint.secret_sealed)
    await happen(own_db, cursors, broken)
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_retry_delays=(0.01,)):
        await until(own_db, broken, "EXHAUSTED")
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert [attempt["error"] for attempt in await attempts(own_db, broken)] == ["internal", "internal"]
    assert receiver.to("/broken") == []


# Pausing


async def test_a_paused_endpoint_keeps_its_backlog(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    await set_endpoint(own_db, endpoint, "status = 'PAUSED'")
    await happen(own_db, cursors, endpoint.tenant_id, 3)

    async with start_worker():
        await parked(own_db, endpoint.tenant_id, 3)
        assert receiver.requests == []
        await set_endpoint(own_db, endpoint, "status = 'ENABLED'")
        async with own_db.write(endpoint.tenant_id) as session:
            await (await driver(session)).execute(
                "UPDATE webhook_deliveries SET due_at = now() WHERE status = 'PENDING' AND due_at IS NULL"
            )
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert [request.attempt for request in receiver.requests] == [1, 1, 1]


async def parked(db: Database, tenant_id: UUID, n: int) -> None:
    async with asyncio.timeout(20):
        while True:
            async with db.read(tenant_id) as session:
                found = await (await driver(session)).fetchval(
                    "SELECT count(*) FROM webhook_deliveries WHERE status = 'PENDING' AND due_at IS NULL"
                )
            if found == n:
                return
            await asyncio.sleep(0.02)


# Many


async def test_eight_workers_deliver_a_thousand_events_once_each(
    own_db: Database,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    await happen(own_db, cursors, endpoint.tenant_id, 1000)

    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(start_worker(concurrency=10))
        await receiver.count(1000, timeout=60)
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert len(receiver.copies()) == 1000
    assert set(receiver.copies().values()) == {1}
    assert len(await attempts(own_db, endpoint.tenant_id)) == 1000


async def test_an_endpoint_that_hangs_leaves_the_others_half_of_the_slots(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    tenant_id: UUID,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    await make_endpoint(own_db, vault, tenant_id, receiver.url("/hangs"), event_types=["device.online"])
    await make_endpoint(own_db, vault, tenant_id, receiver.url("/works"), event_types=["device.offline"])
    receiver.always(HANG, path="/hangs")
    await happen(own_db, cursors, tenant_id, 50, EventType.DEVICE_ONLINE)

    async with start_worker(concurrency=8, webhook_timeout_seconds=2, webhook_retry_delays=(60,)):
        await receiver.until(lambda far: len(far.to("/hangs")) == 4)
        await happen(own_db, cursors, tenant_id, 50, EventType.DEVICE_OFFLINE)
        await receiver.until(lambda far: len(far.to("/works")) == 50)

        assert len(receiver.to("/hangs")) == 4


async def test_nothing_is_held_open_while_a_receiver_thinks(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.always(Answer(delay=1))
    await happen(own_db, cursors, endpoint.tenant_id, 5)

    async with start_worker():
        await receiver.count(5)
        async with own_db.across("lookup") as connection:
            under_way = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND state LIKE 'idle in transaction%' AND now() - state_change > interval '0.2 seconds'"
            )

    assert under_way == 0
    assert await statuses(own_db, endpoint.tenant_id) == {"DELIVERED": 5}


# Waking


async def test_a_worker_is_woken_by_the_bell(
    own_db: Database,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "POLL", 3600)
    bell = Bell(None)
    await bell.start()
    try:
        async with start_worker(bell=bell):
            await asyncio.sleep(0.3)
            await happen(own_db, cursors, endpoint.tenant_id)
            bell.ring(DELIVERIES, b"1")
            await receiver.count(1)
    finally:
        await bell.stop()

    assert len(receiver.requests) == 1


async def test_without_a_bell_the_clock_wakes_a_worker(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    async with start_worker():
        await asyncio.sleep(0.3)
        await happen(own_db, cursors, endpoint.tenant_id)
        await receiver.count(1)

    assert len(receiver.requests) == 1


# Dying, stopping, and the database


async def test_what_a_dead_worker_held_is_delivered_by_another(
    own_db: Database,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=100))
    await happen(own_db, cursors, endpoint.tenant_id, 3)
    async with own_db.across("work") as connection:
        assert len(await deliveries.claim(connection, 10, timedelta(seconds=0.3))) == 3

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert sorted(request.attempt for request in receiver.requests) == [2, 2, 2]
    assert set(receiver.copies().values()) == {1}


async def test_a_lease_lasts_as_long_as_its_worker_lives(
    own_db: Database,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "RENEW_EVERY", timedelta(milliseconds=100))
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=50))
    receiver.then(Answer(delay=2))
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker(webhook_timeout_seconds=10, webhook_lease_seconds=30) as worker:
        worker._lease = timedelta(seconds=0.6)
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert len(receiver.requests) == 1


async def test_a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_nothing_comes_twice(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.always(Answer(delay=0.3))
    await happen(own_db, cursors, endpoint.tenant_id, 40)

    async with start_worker(concurrency=20):
        await receiver.count(10)
    settled = await statuses(own_db, endpoint.tenant_id)
    seen = len(receiver.requests)
    async with start_worker(concurrency=20):
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert settled == {"DELIVERED": seen, "PENDING": 40 - seen}
    assert 10 <= seen < 40
    assert len(receiver.copies()) == 40
    assert {(request.attempt, receiver.copies()[request.delivery]) for request in receiver.requests} == {(1, 1)}


async def test_what_is_not_finished_in_time_is_given_back(
    own_db: Database,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "FINISH_WITHIN", 0.1)
    receiver.always(HANG)
    await happen(own_db, cursors, endpoint.tenant_id)

    async with start_worker():
        await receiver.count(1)

    async with own_db.read(endpoint.tenant_id) as session:
        row = await (await driver(session)).fetchrow(
            "SELECT status, attempt_count, lease_until FROM webhook_deliveries"
        )
    assert tuple(row) == ("PENDING", 0, None)
    assert await attempts(own_db, endpoint.tenant_id) == []


async def test_a_frozen_worker_that_comes_back_posts_nothing_and_changes_nothing(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    endpoint: Endpoint,
    receiver: Receiver,
    make_settings: MakeSettings,
) -> None:
    await happen(own_db, cursors, endpoint.tenant_id)
    settings = make_settings()
    async with door_of(settings) as door:
        worker = Worker(own_db, door, vault, settings)
        claims = await worker._claim(10)
        long_ago = time.monotonic() - settings.webhook_lease_seconds

        await worker._start(claims, long_ago, asyncio.Event())
        await asyncio.sleep(0.2)

    assert receiver.requests == []
    assert await statuses(own_db, endpoint.tenant_id) == {"SENDING": 1}


async def test_a_result_that_the_database_refuses_holds_up_no_other(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    endpoint: Endpoint,
    make_settings: MakeSettings,
) -> None:
    await happen(own_db, cursors, endpoint.tenant_id, 3)
    settings = make_settings()
    async with door_of(settings) as door:
        worker = Worker(own_db, door, vault, settings)
        results = [
            Result(claim, DeliveryStatus.DELIVERED, datetime.now(UTC), 1, error=error)
            for claim, error in zip(await worker._claim(10), (None, "\x00", None), strict=True)
        ]
        worker._results = {result.claim.id: result for result in results}

        await worker._settle(results)

    assert worker._results == {}
    assert await statuses(own_db, endpoint.tenant_id) == {"DELIVERED": 2, "SENDING": 1}


async def test_a_database_that_restarts_in_the_middle_costs_no_delivery(
    tmp_path: Path,
    vault: Vault,
    cursors: Cursors,
    receiver: Receiver,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=200))
    settings = make_settings(webhook_timeout_seconds=1, webhook_lease_seconds=4)
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        await migrations.upgrade(server.url)
        db = Database(server.url)
        tenant_id = (await make_tenant(db)).tenant_id
        await make_endpoint(db, vault, tenant_id, receiver.url())
        await happen(db, cursors, tenant_id, 400)
        receiver.always(Answer(delay=0.02))

        async with door_of(settings) as door, running(Worker(db, door, vault, settings, concurrency=10)):
            await receiver.count(100)
            await asyncio.to_thread(server.restart, "immediate")
            await until_back(db, tenant_id)
            found = await until(db, tenant_id, "DELIVERED", timeout=60)
        await db.stop()
    finally:
        await asyncio.to_thread(server.stop, "immediate")

    assert found == {"DELIVERED": 400}
    assert len(receiver.copies()) == 400
    assert len(receiver.requests) - 400 <= 10  # at most what was under way


async def until_back(db: Database, tenant_id: UUID) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await statuses(db, tenant_id)
            except Exception:
                await asyncio.sleep(0.1)
            else:
                return


async def test_a_worker_process_drains_on_sigterm_and_exits_zero(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, fresh_database_url: str
) -> None:
    receiver.always(Answer(delay=0.3))
    await happen(own_db, cursors, endpoint.tenant_id, 30)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio; from app.settings import Settings; from workers.pool import work;"
        " asyncio.run(work(Settings(_env_file=None), concurrency=16))",
        env={
            "PATH": "",
            "PUNCHCONNECT_DATABASE_URL": fresh_database_url,
            "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
            "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        },
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await receiver.count(8)

    process.send_signal(signal.SIGTERM)
    code = await asyncio.wait_for(process.wait(), timeout=20)

    assert code == 0
    seen = len(receiver.requests)
    assert await statuses(own_db, endpoint.tenant_id) == {"DELIVERED": seen, "PENDING": 30 - seen}


# What is said about it


async def test_each_attempt_is_one_line_with_its_ids_and_no_secret(
    own_db: Database,
    vault: Vault,
    cursors: Cursors,
    tenant_id: UUID,
    receiver: Receiver,
    start_worker: StartWorker,
) -> None:
    endpoint = await make_endpoint(own_db, vault, tenant_id, receiver.url() + "?token=canary")
    receiver.then(Answer(500), path="/hook?token=canary")
    [event] = await happen(own_db, cursors, tenant_id)

    with structlog.testing.capture_logs() as lines:
        async with start_worker():
            await until(own_db, tenant_id, "DELIVERED")

    said = [line for line in lines if line["event"] == "webhook_attempt"]
    for line in said:
        assert line.pop("duration_ms") >= 0
    shared = {
        "event": "webhook_attempt",
        "log_level": "info",
        "tenant": ids.show("ten", tenant_id),
        "endpoint": ids.show("whk", endpoint.id),
        "delivery": ids.show("whd", receiver.requests[0].delivery),
        "event_id": ids.show("evt", event.id),
        "event_type": "punch.created",
        "error": None,
    }
    assert said == [
        shared | {"attempt": 1, "status": 500, "outcome": "PENDING"},
        shared | {"attempt": 2, "status": 200, "outcome": "DELIVERED"},
    ]
    assert "canary" not in str(lines)
    assert SECRET not in str(lines)


async def test_outcomes_are_counted(
    own_db: Database, cursors: Cursors, endpoint: Endpoint, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.then(Answer(500))
    await happen(own_db, cursors, endpoint.tenant_id, 2)
    before = counted("pending", "delivered")

    async with start_worker():
        await until(own_db, endpoint.tenant_id, "DELIVERED")

    assert counted("pending", "delivered") == [before[0] + 1, before[1] + 2]
    assert pool.IN_FLIGHT._value.get() == 0


def counted(*outcomes: str) -> list[float]:
    return [pool.ATTEMPTS.labels(outcome)._value.get() for outcome in outcomes]

"""Workers against a real database and a real receiver."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import standardwebhooks
import structlog.testing
import svix

from app import ids, migrations
from app.broadcast import Bell
from app.domain import deliveries, endpoints, outbox, replays
from app.domain.deliveries import DeliveryStatus, Load, Result
from app.domain.endpoints import Endpoint
from app.domain.events import Cursors, EventType, webhook_body
from app.domain.outbox import DELIVERIES
from app.embedded import EmbeddedPostgres
from app.errors import ServiceUnavailable
from app.vault import Vault
from protocol import webhook
from tests.conftest import SECRET_KEY
from tests.factories import SECRET, make_tenant
from tests.receiver import HANG, RESET, Answer, Received
from tests.workers.conftest import Scene, scene_in
from workers import pool, sweeper

NEW_SECRET = webhook.secret_from(bytes(range(32, 64)))


# One delivery


async def test_an_event_arrives_once_with_its_cursor(scene: Scene) -> None:
    await scene.endpoint()
    [event] = await scene.happen()

    async with scene.worker():
        await scene.until("DELIVERED")

    [request] = scene.receiver.requests
    cursor = scene.cursors.write(scene.tenant_id, event.position)
    assert request.body == webhook_body(event.body, cursor)
    assert scene.cursors.read(scene.tenant_id, request.payload["feed_cursor"]) == event.position
    assert "Zoë".encode() in request.body
    assert request.event_id == ids.show("evt", event.id) == request.payload["id"]
    assert request.attempt == 1
    assert request.headers["x-punchconnect-event"] == "punch.created"
    assert request.headers["content-type"] == "application/json"
    assert [row["id"] for row in await scene.rows("SELECT id FROM webhook_deliveries")] == [request.delivery]
    assert await scene.attempts() == [{"number": 1, "status_code": 200, "error": None, "response_body": "ok"}]


async def test_the_stock_verifiers_accept_every_request(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen(3)

    async with scene.worker():
        await scene.receiver.count(3)

    for request in scene.receiver.requests:
        assert verified(request, SECRET) == 3


async def test_during_a_rotation_both_secrets_verify_and_the_plain_header_keeps_the_old_one(scene: Scene) -> None:
    grace = datetime.now(UTC) + timedelta(hours=1)
    await scene.endpoint(secret=NEW_SECRET, previous_secret=SECRET, previous_secret_expires_at=grace)
    await scene.happen()

    async with scene.worker():
        await scene.receiver.count(1)

    [request] = scene.receiver.requests
    assert verified(request, SECRET) == 3
    assert standardwebhooks.Webhook(NEW_SECRET).verify(request.body, request.headers) == request.payload
    svix.Webhook(NEW_SECRET).verify(request.body, request.headers)


async def test_after_two_rotations_all_three_secrets_verify_and_the_plain_header_keeps_the_oldest(
    scene: Scene,
) -> None:
    endpoint = await scene.endpoint(secret=SECRET)
    new = []
    for _ in range(2):
        async with scene.db.write(scene.tenant_id) as session:
            _, secret = await endpoints.rotate_secret(
                session, scene.tenant_id, endpoint.id, timedelta(days=1), scene.vault
            )
        new.append(secret)
    await scene.happen()

    async with scene.worker():
        await scene.receiver.count(1)

    [request] = scene.receiver.requests
    assert verified(request, SECRET) == 3
    for secret in new:
        assert standardwebhooks.Webhook(secret).verify(request.body, request.headers) == request.payload
        svix.Webhook(secret).verify(request.body, request.headers)


async def test_after_a_rotation_only_the_new_secret_is_used(scene: Scene) -> None:
    over = datetime.now(UTC) - timedelta(seconds=1)
    await scene.endpoint(secret=NEW_SECRET, previous_secret=SECRET, previous_secret_expires_at=over)
    await scene.happen()

    async with scene.worker():
        await scene.receiver.count(1)

    [request] = scene.receiver.requests
    assert verified(request, NEW_SECRET) == 3
    with pytest.raises(webhook.VerificationFailed):
        webhook.verify(SECRET, request.headers, request.body, datetime.now(UTC))


def verified(request: Received, secret: str) -> int:
    """Three verifiers, each of which raises when it is not content."""
    webhook.verify_legacy(secret, request.headers, request.body)
    standardwebhooks.Webhook(secret).verify(request.body, request.headers)
    svix.Webhook(secret).verify(request.body, request.headers)
    return 3


async def test_another_tenants_endpoint_never_receives(scene: Scene) -> None:
    stranger = (await make_tenant(scene.db)).tenant_id
    await scene.endpoint()
    await scene.endpoint("/stranger", tenant_id=stranger)
    await scene.happen(20)

    async with scene.worker():
        await scene.until("DELIVERED")

    assert len(scene.receiver.to("/hook")) == 20
    assert scene.receiver.to("/stranger") == []
    assert {request.payload["tenant_id"] for request in scene.receiver.requests} == {ids.show("ten", scene.tenant_id)}


async def test_an_endpoint_gets_the_types_it_asked_for(scene: Scene) -> None:
    await scene.endpoint(event_types=["device.online"])
    await scene.happen(2)
    await scene.happen(1, EventType.DEVICE_ONLINE)

    async with scene.worker():
        await scene.until("DELIVERED")

    assert [request.headers["x-punchconnect-event"] for request in scene.receiver.requests] == ["device.online"]


# Failures


async def test_a_failure_is_tried_again_with_the_same_ids_and_bytes(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.then(RESET, Answer(500, body=b"not now"))
    await scene.happen()

    async with scene.worker():
        await scene.until("DELIVERED")

    assert [request.attempt for request in scene.receiver.requests] == [1, 2, 3]
    assert len({(request.delivery, request.event_id, request.body) for request in scene.receiver.requests}) == 1
    assert await scene.attempts() == [
        {"number": 1, "status_code": None, "error": "connect", "response_body": None},
        {"number": 2, "status_code": 500, "error": None, "response_body": "not now"},
        {"number": 3, "status_code": 200, "error": None, "response_body": "ok"},
    ]


async def test_each_failure_waits_as_long_as_the_schedule_says(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.then(Answer(500), Answer(500))
    await scene.happen()

    async with scene.worker(webhook_retry_delays=(0.3, 0.6)):
        await scene.until("DELIVERED")

    first, second, third = (request.at for request in scene.receiver.requests)
    assert second - first >= 0.3
    assert third - second >= 0.6 * (1 - webhook.JITTER)


async def test_after_the_last_attempt_the_delivery_is_exhausted(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.always(Answer(503))
    await scene.happen()

    async with scene.worker(webhook_retry_delays=(0.02,) * 9):
        await scene.until("EXHAUSTED")
        await asyncio.sleep(0.2)

    assert [request.attempt for request in scene.receiver.requests] == list(range(1, 11))
    assert [attempt["number"] for attempt in await scene.attempts()] == list(range(1, 11))


async def test_a_receiver_that_never_answers_is_a_timeout(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.then(HANG)
    await scene.happen()

    async with scene.worker(webhook_timeout_seconds=0.2):
        await scene.until("DELIVERED")

    assert [attempt["error"] for attempt in await scene.attempts()] == ["timeout", None]


async def test_gone_disables_the_endpoint_and_nothing_more_is_sent(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    scene.receiver.always(Answer(410))
    await scene.happen()

    async with scene.worker():
        await scene.until("EXHAUSTED")
        await scene.happen()
        await asyncio.sleep(0.2)

    assert len(scene.receiver.requests) == 1
    async with scene.db.read(scene.tenant_id) as session:
        found = await session.get_one(Endpoint, (scene.tenant_id, endpoint.id))
    assert (found.status, found.disabled_reason) == ("DISABLED", "The receiver answered 410 Gone.")
    assert await scene.statuses() == {"EXHAUSTED": 1}


async def test_the_tenants_other_endpoints_and_its_feed_hear_of_a_disabled_one(scene: Scene) -> None:
    gone = await scene.endpoint("/gone", event_types=["punch.created"])
    await scene.endpoint("/other", event_types=["webhook.endpoint_disabled"])
    stranger = (await make_tenant(scene.db)).tenant_id
    await scene.endpoint("/stranger", tenant_id=stranger)
    scene.receiver.always(Answer(410), path="/gone")
    await scene.happen()

    async with scene.worker():
        await scene.receiver.until(lambda far: len(far.to("/other")) == 1)
        await scene.until("EXHAUSTED", "DELIVERED")

    [request] = scene.receiver.to("/other")
    assert request.headers["x-punchconnect-event"] == "webhook.endpoint_disabled"
    data = request.payload["data"]
    assert (data["endpoint_id"], data["url"]) == (ids.show("whk", gone.id), gone.url)
    assert data["reason"] == "The receiver answered 410 Gone."
    types = [row["type"] for row in await scene.rows("SELECT type FROM events ORDER BY position")]
    assert types == ["punch.created", "webhook.endpoint_disabled"]
    assert scene.receiver.to("/stranger") == []


async def test_an_endpoint_that_fails_is_left_alone_and_a_test_reaches_it_at_once(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    scene.receiver.always(Answer(500))
    await scene.happen(5)

    async with scene.worker(webhook_retry_delays=(60,)):
        await scene.receiver.count(5)
        async with asyncio.timeout(20):
            while not await scene.rows("SELECT 1 FROM webhook_endpoints WHERE breaker_until > now()"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await scene.happen(10)
        await asyncio.sleep(1.5)
        left_alone = len(scene.receiver.requests)
        async with scene.db.write(scene.tenant_id) as session:
            await outbox.send_test(session, scene.tenant_id, endpoint.id)
        await scene.receiver.count(6)

    assert left_alone == 5
    assert scene.receiver.requests[5].headers["x-punchconnect-event"] == "webhook.test"


async def test_a_tenant_whose_receivers_hang_leaves_other_tenants_their_slots(scene: Scene) -> None:
    for n in range(10):
        await scene.endpoint(f"/hangs/{n}")
        scene.receiver.always(HANG, path=f"/hangs/{n}")
    other = (await make_tenant(scene.db)).tenant_id
    await scene.endpoint("/works", tenant_id=other)
    await scene.happen(50)

    async with scene.worker(
        concurrency=8, webhook_tenant_share=0.5, webhook_timeout_seconds=5, webhook_retry_delays=(60,)
    ):
        await scene.receiver.count(4)
        await scene.happen(50, tenant_id=other)
        await scene.receiver.until(lambda far: len(far.to("/works")) == 50)
        hung = len(scene.receiver.requests) - 50

    assert hung == 4


async def test_a_forbidden_address_is_an_attempt_without_a_request(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen()

    async with scene.worker(webhook_allow_networks=(), webhook_retry_delays=(0.01,)):
        await scene.until("EXHAUSTED")

    assert scene.receiver.requests == []
    assert [attempt["error"] for attempt in await scene.attempts()] == ["forbidden_address"] * 2


async def test_a_secret_that_does_not_open_spoils_its_own_deliveries_only(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    other = (await make_tenant(scene.db)).tenant_id
    # A secret is bound to its endpoint: under another one it does not open.
    await scene.endpoint("/broken", tenant_id=other, secret_sealed=endpoint.secret_sealed)
    await scene.happen(tenant_id=other)
    await scene.happen()

    async with scene.worker(webhook_retry_delays=(0.01,)):
        await scene.until("EXHAUSTED", tenant_id=other)
        await scene.until("DELIVERED")

    assert [attempt["error"] for attempt in await scene.attempts(tenant_id=other)] == ["internal", "internal"]
    assert scene.receiver.to("/broken") == []


# Pausing


async def test_a_paused_endpoint_keeps_its_backlog(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.change("UPDATE webhook_endpoints SET status = 'PAUSED' WHERE id = $1", endpoint.id)
    await scene.happen(3)

    async with scene.worker():
        await parked(scene, 3)
        assert scene.receiver.requests == []
        await scene.change("UPDATE webhook_endpoints SET status = 'ENABLED' WHERE id = $1", endpoint.id)
        await scene.change("UPDATE webhook_deliveries SET due_at = now() WHERE status = 'PENDING' AND due_at IS NULL")
        await scene.until("DELIVERED")

    assert [request.attempt for request in scene.receiver.requests] == [1, 1, 1]


async def parked(scene: Scene, n: int) -> None:
    async with asyncio.timeout(20):
        query = "SELECT id FROM webhook_deliveries WHERE status = 'PENDING' AND due_at IS NULL"
        while len(await scene.rows(query)) != n:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


# Many


async def test_eight_workers_deliver_a_thousand_events_once_each(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen(1000)

    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(scene.worker(concurrency=10))
        await scene.until("DELIVERED", timeout=60)

    assert len(scene.receiver.copies()) == 1000
    assert set(scene.receiver.copies().values()) == {1}
    assert len(await scene.attempts()) == 1000


async def test_an_endpoint_that_hangs_leaves_the_others_half_of_the_slots(scene: Scene) -> None:
    await scene.endpoint("/hangs", event_types=["device.online"])
    await scene.endpoint("/works", event_types=["device.offline"])
    scene.receiver.always(HANG, path="/hangs")
    await scene.happen(50, EventType.DEVICE_ONLINE)

    async with scene.worker(concurrency=8, webhook_timeout_seconds=2, webhook_retry_delays=(60,)):
        await scene.receiver.until(lambda far: len(far.to("/hangs")) == 4)
        await scene.happen(50, EventType.DEVICE_OFFLINE)
        await scene.receiver.until(lambda far: len(far.to("/works")) == 50)

        assert len(scene.receiver.to("/hangs")) == 4


async def test_no_more_posts_are_under_way_than_there_are_slots(scene: Scene) -> None:
    for tenant_id in (scene.tenant_id, (await make_tenant(scene.db)).tenant_id):
        for n in range(2):
            path = f"/{tenant_id}/{n}"
            await scene.endpoint(path, tenant_id=tenant_id)
            scene.receiver.always(HANG, path=path)
        await scene.happen(10, tenant_id=tenant_id)

    async with scene.worker(concurrency=6, webhook_timeout_seconds=1, webhook_retry_delays=(60,)):
        await scene.receiver.count(6)
        await asyncio.sleep(0.3)

        assert len(scene.receiver.requests) == 6


async def test_nothing_is_held_open_while_a_receiver_thinks(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.always(Answer(delay=1))
    await scene.happen(5)

    async with scene.worker():
        await scene.receiver.count(5)
        await asyncio.sleep(0.3)
        async with scene.db.across("lookup") as connection:
            held = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND now() - xact_start > interval '0.2 seconds'"
            )

    assert held == 0
    assert await scene.statuses() == {"DELIVERED": 5}


async def test_half_as_many_again_are_claimed_ahead_as_ended_of_late(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.happen(30)

    async with scene.idle(concurrency=10) as worker:
        at_first = worker._room()
        worker._ended[scene.tenant_id, endpoint.id] = 6
        then = worker._room()
        claims = await worker._claim(*then)
        await worker._load(claims, time.monotonic())
        full = worker._room()

    lane = (scene.tenant_id, endpoint.id)
    assert at_first == (10, Load({}, {}, set()))
    assert then == (19, Load({lane: -9}, {}, set()))
    # All that is held is for one endpoint, which has five of the ten slots: the other five are for others.
    assert full == (5, Load({lane: 14}, {lane: 14}, {claims[0].token}))


async def test_posts_that_hung_and_end_together_are_no_reason_to_claim_ahead(scene: Scene) -> None:
    for n in range(8):
        await scene.endpoint(f"/hangs/{n}", event_types=["device.online"])
        scene.receiver.always(Answer(delay=0.6), path=f"/hangs/{n}")
    await scene.happen(5, EventType.DEVICE_ONLINE)
    healthy = (await make_tenant(scene.db)).tenant_id
    await scene.endpoint("/healthy", tenant_id=healthy)

    async with scene.worker(concurrency=8, webhook_tenant_share=0.5) as worker:
        held = []
        for _ in range(3):
            ended = len(await scene.attempts())
            async with asyncio.timeout(20):
                while len(await scene.attempts()) == ended:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            held.append(sum(map(len, worker._waiting.values())))
        await scene.happen(10, tenant_id=healthy)
        await scene.receiver.until(lambda far: len(far.to("/healthy")) == 10)
        await scene.until("DELIVERED")

    assert held == [0, 0, 0]


async def test_what_was_claimed_ahead_for_an_endpoint_that_begins_to_fail_is_given_back_uncounted(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    scene.receiver.always(Answer(500))
    await scene.happen(40)

    async with scene.idle(concurrency=4, webhook_retry_delays=(60,)) as worker:
        worker._ended[scene.tenant_id, endpoint.id] = 40
        await worker._load(await worker._claim(*worker._room()), time.monotonic())
        stop = asyncio.Event()
        working = asyncio.create_task(worker.run(stop))
        worker._begin()
        await scene.receiver.count(5)
        async with asyncio.timeout(20):
            while (await scene.statuses())["SENDING"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        stop.set()
        await working

    # Two at a time: one was under way when the fifth failed.
    assert len(scene.receiver.requests) in (5, 6)
    untried = await scene.rows("SELECT 1 FROM webhook_deliveries WHERE status = 'PENDING' AND attempt_count = 0")
    assert len(untried) == 40 - len(scene.receiver.requests)


# Waking


async def test_a_worker_is_woken_by_the_bell(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POLL", 3600)
    await scene.endpoint()
    bell = Bell(None)
    await bell.start()

    try:
        async with scene.worker(bell=bell):
            await asyncio.sleep(0.3)
            await scene.happen()
            bell.ring(DELIVERIES, b"1")
            await scene.receiver.count(1)
    finally:
        await bell.stop()

    assert len(scene.receiver.requests) == 1


async def test_without_a_bell_the_clock_wakes_a_worker(scene: Scene) -> None:
    await scene.endpoint()

    async with scene.worker():
        await asyncio.sleep(0.3)
        await scene.happen()
        await scene.receiver.count(1)

    assert len(scene.receiver.requests) == 1


# Dying and stopping


async def test_what_a_dead_worker_held_is_delivered_by_another(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=100))
    await scene.endpoint()
    await scene.happen(3)
    async with scene.db.across("work") as connection:
        assert len(await deliveries.claim(connection.fetch, 10, timedelta(seconds=0.3))) == 3

    async with scene.worker():
        await scene.until("DELIVERED")

    assert [request.attempt for request in scene.receiver.requests] == [2, 2, 2]
    assert set(scene.receiver.copies().values()) == {1}


async def test_a_lease_lasts_as_long_as_its_worker_lives(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RENEW_EVERY", timedelta(milliseconds=100))
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=50))
    await scene.endpoint()
    scene.receiver.then(Answer(delay=2))
    await scene.happen()

    async with scene.idle() as worker:
        worker._lease = timedelta(seconds=0.6)
        stop = asyncio.Event()
        running = asyncio.create_task(worker.run(stop))
        await scene.until("DELIVERED")
        stop.set()
        await running

    assert [request.attempt for request in scene.receiver.requests] == [1]


async def test_a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_nothing_comes_twice(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.always(Answer(delay=0.3))
    await scene.happen(40)

    async with scene.worker(concurrency=20):
        await scene.receiver.count(10)
    left = await scene.statuses()
    seen = len(scene.receiver.requests)
    async with scene.worker(concurrency=20):
        await scene.until("DELIVERED")

    assert left == {"DELIVERED": seen, "PENDING": 40 - seen}
    assert 10 <= seen < 40
    assert len(scene.receiver.copies()) == 40
    assert set(scene.receiver.copies().values()) == {1}
    assert {request.attempt for request in scene.receiver.requests} == {1}


async def test_what_is_not_finished_in_time_is_given_back_uncounted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FINISH_WITHIN", 0.1)
    await scene.endpoint()
    scene.receiver.always(HANG)
    await scene.happen()

    async with scene.worker():
        await scene.receiver.count(1)

    [row] = await scene.rows(
        "SELECT status, attempt_count, claim_token, due_at <= now() AS due FROM webhook_deliveries"
    )
    assert row == {"status": "PENDING", "attempt_count": 0, "claim_token": None, "due": True}
    assert await scene.attempts() == []


async def test_what_was_claimed_and_not_begun_is_given_back_uncounted(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen(5)

    async with scene.idle() as worker:
        await worker._load(await worker._claim(5, deliveries.IDLE), time.monotonic())
        await worker._drain()

    found = await scene.rows("SELECT status, attempt_count, claim_token FROM webhook_deliveries")
    assert found == [{"status": "PENDING", "attempt_count": 0, "claim_token": None}] * 5


async def test_a_frozen_worker_that_comes_back_posts_nothing(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen()

    async with scene.idle() as worker:
        claims = await worker._claim(10, deliveries.IDLE)
        await worker._load(claims, time.monotonic() - 20)
        worker._begin()
        await asyncio.sleep(0.2)

    assert scene.receiver.requests == []
    assert await scene.statuses() == {"SENDING": 1}


async def test_a_result_that_the_database_refuses_holds_up_no_other(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen(3)

    async with scene.idle() as worker:
        results = [
            Result(claim, DeliveryStatus.DELIVERED, datetime.now(UTC), 1, error=error)
            for claim, error in zip(await worker._claim(10, deliveries.IDLE), (None, "\x00", None), strict=True)
        ]
        worker._results = {result.claim: result for result in results}
        await worker._settle(results)

    assert worker._results == {}
    assert await scene.statuses() == {"DELIVERED": 2, "SENDING": 1}


async def test_a_worker_process_drains_on_sigterm_and_exits_zero(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.always(Answer(delay=0.3))
    await scene.happen(30)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio; from app.settings import Settings; from workers.pool import work;"
        " asyncio.run(work(Settings(_env_file=None), concurrency=16))",
        env={
            "PUNCHCONNECT_DATABASE_URL": scene.url,
            "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
            "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        },
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await scene.receiver.count(8)

    process.send_signal(signal.SIGTERM)
    code = await asyncio.wait_for(process.wait(), timeout=20)

    seen = len(scene.receiver.requests)
    assert code == 0
    assert await scene.statuses() == {"DELIVERED": seen, "PENDING": 30 - seen}


# The database away


async def test_a_database_that_restarts_in_the_middle_costs_no_delivery(
    tmp_path: Path, vault: Vault, cursors: Cursors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "REAP_EVERY", timedelta(milliseconds=200))
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        await migrations.upgrade(server.url)
        async with scene_in(server.url, vault, cursors) as scene:
            await scene.endpoint()
            await scene.happen(400)
            scene.receiver.always(Answer(delay=0.02))

            async with scene.worker(concurrency=10, webhook_timeout_seconds=1, webhook_lease_seconds=4):
                await scene.receiver.count(100)
                await asyncio.to_thread(server.restart, "immediate")
                await answers(scene)
                found = await scene.until("DELIVERED", timeout=60)
    finally:
        await asyncio.to_thread(server.stop, "immediate")

    assert found == {"DELIVERED": 400}
    assert len(scene.receiver.copies()) == 400
    # What was claimed and not yet written down, at most: five slots, what was claimed ahead, and results that waited.
    assert len(scene.receiver.requests) - 400 <= 30


async def test_results_wait_for_a_database_that_is_away(tmp_path: Path, vault: Vault, cursors: Cursors) -> None:
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        await migrations.upgrade(server.url)
        async with scene_in(server.url, vault, cursors) as scene:
            await scene.endpoint()
            await scene.happen(5)
            scene.receiver.always(Answer(delay=0.5))

            async with scene.worker():
                await scene.receiver.count(5)
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(1)
                await asyncio.to_thread(server.start)
                await answers(scene)
                await scene.until("DELIVERED")
                attempts = await scene.attempts()
    finally:
        await asyncio.to_thread(server.stop, "immediate")

    assert [attempt["number"] for attempt in attempts] == [1] * 5
    assert set(scene.receiver.copies().values()) == {1}


async def answers(scene: Scene) -> None:
    """Return once the database does."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ServiceUnavailable):
                await scene.statuses()
                return
            await asyncio.sleep(0.1)


# What is said about it


async def test_each_attempt_is_one_line_with_its_ids_and_no_secret(scene: Scene) -> None:
    endpoint = await scene.endpoint("/hook?token=canary")
    scene.receiver.then(Answer(500), path="/hook?token=canary")
    [event] = await scene.happen()

    with structlog.testing.capture_logs() as lines:
        async with scene.worker():
            await scene.until("DELIVERED")

    said = [line for line in lines if line["event"] == "webhook_attempt"]
    assert all(line.pop("duration_ms") >= 0 for line in said)
    shared = {
        "event": "webhook_attempt",
        "log_level": "info",
        "tenant": ids.show("ten", scene.tenant_id),
        "endpoint": ids.show("whk", endpoint.id),
        "delivery": ids.show("whd", scene.receiver.requests[0].delivery),
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


async def test_outcomes_are_counted(scene: Scene) -> None:
    await scene.endpoint()
    scene.receiver.then(Answer(500))
    await scene.happen(2)
    before = counted("pending", "delivered")

    async with scene.worker():
        await scene.until("DELIVERED")

    assert counted("pending", "delivered") == [before[0] + 1, before[1] + 2]
    assert pool.IN_FLIGHT._value.get() == 0


async def test_metrics_are_served_as_long_as_the_worker_runs(scene: Scene) -> None:
    port, stop = free_port(), asyncio.Event()

    working = asyncio.create_task(pool.work(scene.settings(), metrics_port=port, stop=stop))
    said = await asyncio.wait_for(asyncio.to_thread(scrape, port), timeout=20)
    stop.set()
    await working

    for name in ("attempts_total", "claim_seconds_count", "settle_seconds_count", "in_flight", "oldest_due_seconds"):
        assert f"punchconnect_webhook_{name}" in said
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def free_port() -> int:
    """Below those that outgoing connections take."""
    for port in range(25_000, 32_768):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("No port is free.")


def scrape(port: int) -> str:
    """Once it is there."""
    while True:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port), 5) as connection,
        ):
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return connection.makefile().read()
        time.sleep(0.05)


def counted(*outcomes: str) -> list[float]:
    return [pool.ATTEMPTS.labels(outcome)._value.get() for outcome in outcomes]


# Sending again


async def test_a_replay_is_sent_and_tells_when_it_is_done(scene: Scene) -> None:
    endpoint = await scene.endpoint()
    await scene.happen(20)
    async with scene.worker():
        await scene.until("DELIVERED")
        async with scene.db.write(scene.tenant_id) as session:
            since = datetime.now(UTC) - timedelta(hours=1)
            await replays.start(
                session, scene.tenant_id, endpoint.id, since, None, event_types=None, only_undelivered=False
            )
        async with asyncio.timeout(20):
            while not await scene.rows("SELECT 1 FROM webhook_replays WHERE status = 'COMPLETED'"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    by_event: dict[str, set[str]] = {}
    for request in scene.receiver.requests:
        by_event.setdefault(request.event_id, set()).add(str(request.delivery))
    assert len(by_event) == 20
    assert {len(delivery_ids) for delivery_ids in by_event.values()} == {2}


async def test_what_ended_long_ago_is_forgotten_with_its_attempts(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen(3)
    async with scene.worker():
        await scene.until("DELIVERED")
    await scene.change("UPDATE webhook_deliveries SET completed_at = now() - interval '91 days' WHERE position <= 2")
    await scene.happen(1)

    at_once = await sweeper.forget(scene.db, timedelta(days=90))
    # Ids tell the age as well: these were made just now, whatever else is written down.
    assert at_once == 0
    forgotten = await sweeper.forget(scene.db, timedelta(microseconds=1))

    assert forgotten == 3
    assert await scene.statuses() == {"PENDING": 1}
    assert await scene.attempts() == []

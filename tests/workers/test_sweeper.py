"""What every worker does now and then."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from app import telemetry
from app.domain import commands, deliveries
from app.domain.events import Logged
from app.errors import ServiceUnavailable
from tests.factories import make_device
from tests.workers.conftest import Scene
from workers import sweeper

OLDEST = "punchconnect_webhook_oldest_due_seconds"
KEY = """
INSERT INTO idempotency_keys (tenant_id, field, key, fingerprint, outcome, created_at)
VALUES ($1, 'deviceUpdate', $2, '', '{}', now() - $3::interval)
"""


async def test_outcomes_older_than_a_day_are_forgotten(scene: Scene) -> None:
    await scene.change(KEY, scene.tenant_id, "old", timedelta(hours=24, minutes=1))
    await scene.change(KEY, scene.tenant_id, "young", timedelta(hours=23, minutes=59))

    assert await sweeper.sweep(scene.db) == 1

    assert await scene.rows("SELECT key FROM idempotency_keys") == [{"key": "young"}]
    assert await sweeper.sweep(scene.db) == 0


async def test_more_than_one_batch_is_swept_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 2)
    for n in range(5):
        await scene.change(KEY, scene.tenant_id, str(n), timedelta(hours=25))

    assert await sweeper.sweep(scene.db) == 5


async def test_commands_whose_time_is_over_end_and_are_rung_out(scene: Scene) -> None:
    device = await make_device(scene.db, scene.tenant_id)
    async with scene.db.write(scene.tenant_id) as session:
        late = await commands.send(session, scene.tenant_id, device.id, "uploadNow", {})
        await commands.send(session, scene.tenant_id, device.id, "refreshInfo", {})
    async with scene.db.across("ingest", [scene.tenant_id]) as connection:
        await connection.execute("UPDATE device_commands SET expires_at = now() WHERE id = $1", late.id)
    rung: list[Logged] = []

    assert await sweeper.expire(scene.db, rung.extend) == 1

    found = await scene.rows("SELECT kind, status FROM device_commands ORDER BY id")
    assert found == [{"kind": "uploadNow", "status": "EXPIRED"}, {"kind": "refreshInfo", "status": "QUEUED"}]
    assert [event.type for event in rung] == ["command.completed"]
    assert await sweeper.expire(scene.db, rung.extend) == 0


FINISHED = """
UPDATE device_commands SET status = 'SUCCEEDED', number = $2, completed_at = now() - $3::interval WHERE id = $1
"""


async def test_commands_that_ended_long_ago_leave_and_the_last_one_of_a_device_stays(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 2)
    device = await make_device(scene.db, scene.tenant_id)
    other = await make_device(scene.db, scene.tenant_id)

    async def send(to: UUID) -> UUID:
        async with scene.db.write(scene.tenant_id) as session:
            return (await commands.send(session, scene.tenant_id, to, "uploadNow", {})).id

    made, lonely = [await send(device.id) for _ in range(7)], await send(other.id)
    async with scene.db.across("ingest", [scene.tenant_id]) as connection:
        for number, command_id in enumerate(made[:6]):
            days = timedelta(days=91 if number < 5 else 89)
            await connection.execute(FINISHED, command_id, 100 + number, days)
        await connection.execute(FINISHED, lonely, 100, timedelta(days=400))

    assert await sweeper.forget_commands(scene.db, timedelta(days=90)) == 5
    assert await sweeper.forget_commands(scene.db, timedelta(days=90)) == 0

    left = {row["id"] for row in await scene.rows("SELECT id FROM device_commands")}
    assert left == {*made[5:], lonely}


async def test_leases_that_ran_out_are_taken_back_and_those_that_last_are_not(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "BATCH", 2)
    await scene.endpoint()
    await scene.happen(7)
    async with scene.db.across("work") as connection:
        await deliveries.claim(connection.fetch, 5, timedelta(milliseconds=-1))
        await deliveries.claim(connection.fetch, 2, timedelta(seconds=30))
    before = sweeper.LOST_LEASES._value.get()

    assert await sweeper.reap(scene.db) == 5

    assert await scene.statuses() == {"PENDING": 5, "SENDING": 2}
    assert sweeper.LOST_LEASES._value.get() == before + 5
    assert await sweeper.reap(scene.db) == 0


async def test_how_late_the_oldest_delivery_is_can_be_seen(scene: Scene) -> None:
    await scene.endpoint()
    await scene.happen()
    await scene.change("UPDATE webhook_deliveries SET due_at = now() - interval '90 seconds'")

    await sweeper.reap(scene.db)
    late = telemetry.REGISTRY.get_sample_value(OLDEST)
    await scene.change("UPDATE webhook_deliveries SET due_at = now() + interval '90 seconds'")
    await sweeper.reap(scene.db)

    assert late is not None
    assert 90 <= late < 120
    assert telemetry.REGISTRY.get_sample_value(OLDEST) == 0
    assert telemetry.REGISTRY.get_sample_value("punchconnect_webhook_due") == 0


async def test_a_chore_goes_on_after_it_failed() -> None:
    done = asyncio.Event()
    failures: list[Exception] = [ServiceUnavailable("away"), ValueError("a mistake")]

    async def chore() -> None:
        if failures:
            raise failures.pop()
        done.set()

    task = asyncio.create_task(sweeper.every(timedelta(milliseconds=1), chore, "chore"))
    await asyncio.wait_for(done.wait(), timeout=10)
    task.cancel()

    assert failures == []
    with pytest.raises(asyncio.CancelledError):
        await task

"""Webhooks while processes die, freeze and are deployed: the rows of tests/workers/faults.py that need real ones."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial
from uuid import UUID

import httpx
import pytest
import redis

from app import ids
from app.broadcast import Bell
from app.database import driver
from app.domain import outbox
from app.domain.events import Logged
from tests import factories
from tests.journeys import oracle
from tests.journeys.rig import START, Process, Rig, until
from tests.receiver import Answer, Receiver

#: Seconds within which everything has to have arrived after the last fault, on a machine with other work.
DRAIN = 60.0


async def add_receiver(rig: Rig) -> tuple[UUID, Receiver]:
    """A tenant with one endpoint, without terminals."""
    tenant_id = (await factories.make_tenant(rig.db)).tenant_id
    receiver = await rig.add_receiver(tenant_id)
    await factories.make_endpoint(rig.db, rig.vault, tenant_id, receiver.url())
    return tenant_id, receiver


async def happen(rig: Rig, tenant_id: UUID, seconds: float, a_second: int = 40) -> list[str]:
    """Events, evenly over the time, each rung for as a server does; their ids as receivers see them."""
    happened: list[Logged] = []
    bell = Bell(rig.redis.url)
    await bell.start()
    try:
        for _ in range(round(seconds * 4)):
            batch = await factories.happen(rig.db, tenant_id, a_second // 4)
            outbox.ring(bell, rig.vault.bus_key, batch)
            happened += batch
            await asyncio.sleep(0.25)
    finally:
        await bell.stop()
    return [ids.show("evt", event.id) for event in happened]


async def rows(rig: Rig, tenant_id: UUID, query: str) -> list[tuple[object, ...]]:
    async with rig.db.read(tenant_id) as session:
        return [tuple(row) for row in await (await driver(session)).fetch(query)]


async def all_delivered(rig: Rig, tenant_id: UUID) -> None:
    """Return once the database says so."""

    async def asked() -> bool:
        return not await rows(rig, tenant_id, "SELECT 1 FROM webhook_deliveries WHERE status <> 'DELIVERED'")

    await until(asked, DRAIN, lambda: "\n".join(process.said()[-2000:] for process in rig.processes))


def came_once(receiver: Receiver, events: list[str]) -> bool:
    return Counter(request.event_id for request in receiver.requests) == Counter(events)


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.full)])
async def test_workers_that_are_killed_one_after_the_other_lose_nothing(rig: Rig, kills: int) -> None:
    await rig.staff(servers=0, workers=4)
    tenant_id, receiver = await add_receiver(rig)
    receiver.always(Answer(delay=0.02))
    happening = asyncio.create_task(happen(rig, tenant_id, 2.0 * kills))
    chance = random.Random(2)

    for _ in range(kills):
        await asyncio.sleep(2)
        victim = chance.choice(rig.workers)
        await victim.kill()
        await victim.start()
    events = await happening
    await all_delivered(rig, tenant_id)

    assert {request.event_id for request in receiver.requests} == set(events)
    # What came again was counted as an attempt of its own.
    assert len({(request.delivery, request.attempt) for request in receiver.requests}) == len(receiver.requests)


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.full)])
async def test_a_server_that_is_killed_around_its_commit_delivers_what_it_committed(rig: Rig, kills: int) -> None:
    await rig.staff(servers=2, workers=1)
    customer = await rig.add_customer(1)
    [serial] = customer.serials
    chance = random.Random(3)
    acknowledged = 0

    async def upload(server: int, n: int) -> bool:
        lines = "".join(f"{n}\t2026-03-0{day} 08:00:00\t0\t1\n" for day in range(1, 6))
        url = f"{customer.dial(rig.servers[server])}/iclock/cdata?SN={serial}&table=ATTLOG&Stamp={n}"
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=20) as terminal:
                answer = await terminal.post(url, content=lines.encode())
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    for n in range(1, kills + 1):
        victim = rig.servers[n % 2]
        sending = asyncio.create_task(upload(n % 2, n))
        await asyncio.sleep(chance.uniform(0.0, 0.06))
        await victim.kill()
        acknowledged += 5 * await sending
        # A terminal that got no answer sends it again, here to the other one: all that was acknowledged is there.
        held = await oracle.stored(rig, customer)
        assert len(held.announced) >= acknowledged
        if chance.random() < 0.5:
            assert await upload((n + 1) % 2, n)
            acknowledged = len((await oracle.stored(rig, customer)).announced)
        await victim.start()
        await victim.ready()
    await all_delivered(rig, customer.tenant_id)

    held = await oracle.stored(rig, customer)
    assert {request.event_id for request in customer.receiver.requests} == set(held.events)
    punches = await rows(rig, customer.tenant_id, "SELECT count(*), count(DISTINCT (pin, local_time)) FROM punches")
    assert punches == [(len(held.announced), len(held.announced))]


async def test_without_redis_the_clock_takes_the_place_of_the_bell(rig: Rig) -> None:
    await rig.staff(servers=0, workers=2)
    tenant_id, receiver = await add_receiver(rig)

    with_redis = await happen(rig, tenant_id, 1)
    await receiver.count(len(with_redis), DRAIN)
    with redis.Redis.from_url(rig.redis.url) as client:
        client.flushall()
    await asyncio.to_thread(rig.redis.kill)
    without = await happen(rig, tenant_id, 4)
    await receiver.count(len(with_redis + without), DRAIN)
    await asyncio.to_thread(rig.redis.start)
    after = await happen(rig, tenant_id, 1)
    await all_delivered(rig, tenant_id)

    assert came_once(receiver, with_redis + without + after)


async def test_a_rolling_restart_of_the_workers_sends_nothing_twice(rig: Rig) -> None:
    await rig.staff(servers=0, workers=3)
    tenant_id, receiver = await add_receiver(rig)
    receiver.always(Answer(delay=0.1))
    happening = asyncio.create_task(happen(rig, tenant_id, 10))

    statuses = []
    for worker in rig.workers:
        await receiver.count(len(receiver.requests) + 20)
        # Told to stop before it minds signals, it would end like any other program.
        await until(partial(_has_started, worker), START, worker.said)
        statuses.append(await worker.stop())
        await worker.start()
    events = await happening
    await all_delivered(rig, tenant_id)

    assert statuses == [0, 0, 0]
    assert came_once(receiver, events)


async def _has_started(worker: Process) -> bool:
    return "worker_started" in worker.said()


async def test_over_all_workers_an_endpoint_has_no_more_posts_under_way_than_it_may(rig: Rig) -> None:
    await rig.staff(servers=0, workers=3, webhook_endpoint_in_flight="6")
    tenant_id, receiver = await add_receiver(rig)
    receiver.always(Answer(delay=0.2))

    events = await happen(rig, tenant_id, 2, a_second=60)
    await all_delivered(rig, tenant_id)

    # One worker's share alone would be twelve.
    assert receiver.busiest == 6
    assert came_once(receiver, events)


async def test_a_worker_that_was_frozen_changes_nothing_when_it_comes_back(rig: Rig) -> None:
    await rig.staff(servers=0, workers=1)
    tenant_id, receiver = await add_receiver(rig)
    receiver.always(Answer(delay=0.5))
    await happen(rig, tenant_id, 1)
    [zombie] = rig.workers
    await receiver.count(10)

    zombie.freeze()
    await rig.add_worker()
    await all_delivered(rig, tenant_id)
    query = (
        "SELECT * FROM webhook_deliveries ORDER BY id",
        "SELECT * FROM webhook_attempts ORDER BY delivery_id, number",
    )
    before = [await rows(rig, tenant_id, each) for each in query]
    zombie.thaw()
    # Told to stop, it first ends what it had under way, and tries to write it down.
    assert await zombie.stop() == 0
    after = [await rows(rig, tenant_id, each) for each in query]

    assert before == after
    assert len(before[0]) == 40
    assert len(receiver.requests) > 40

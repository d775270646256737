"""Positions: dense, in the order of commits, under locks taken in one order; and who is rung when."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import orjson
import pytest

from app import ids
from app.broadcast import Bell
from app.database import Database
from app.domain import events, outbox
from app.domain.events import Cursors, EventType, Happening, Logged
from app.domain.tables import now
from app.vault import Vault
from tests.conftest import MakeTenant
from tests.database import held, rows, until_blocked
from tests.factories import happen


def happenings(tenant_id: UUID, n: int = 1) -> list[Happening]:
    return [Happening(tenant_id, EventType.WEBHOOK_TEST, {"n": number}, ids.new(), now()) for number in range(n)]


async def positions(db: Database, tenant_id: UUID) -> list[int]:
    return [row[0] for row in await rows(db, tenant_id, "SELECT position FROM events ORDER BY position")]


async def test_positions_follow_one_another_and_the_order_in_which_things_happened(
    db: Database, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    first, second = happenings(tenant_id, 3), happenings(tenant_id, 2)

    for batch in (first, second):
        async with db.across("ingest", [tenant_id]) as connection:
            await outbox.announce(connection, batch)

    found = await rows(db, tenant_id, "SELECT position, id FROM events ORDER BY position")
    assert found == [(place, happening.id) for place, happening in enumerate([*first, *second], start=1)]
    assert await rows(db, tenant_id, "SELECT position FROM feed_heads") == [(5,)]


async def test_many_writers_at_once_leave_no_hole_and_no_double(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    batches = await asyncio.gather(*(happen(db, tenant_id, times=1 + n % 3) for n in range(40)))

    total = sum(map(len, batches))
    assert await positions(db, tenant_id) == list(range(1, total + 1))
    for batch in batches:  # what one transaction announces stays together
        assert [event.position for event in batch] == list(range(batch[0].position, batch[0].position + len(batch)))


async def test_a_transaction_that_fails_leaves_no_hole(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with pytest.raises(ZeroDivisionError):
        async with db.across("ingest", [tenant_id]) as connection:
            await outbox.announce(connection, happenings(tenant_id, 3))
            raise ZeroDivisionError
    await happen(db, tenant_id)

    assert await positions(db, tenant_id) == [1]


async def test_a_later_position_waits_for_the_commit_of_the_earlier(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with db.across("ingest", [tenant_id]) as connection:
        await outbox.announce(connection, happenings(tenant_id))
        later = asyncio.create_task(happen(db, tenant_id))
        await until_blocked(db)
        visible = await positions(db, tenant_id)
    [event] = await later

    assert visible == []
    assert event.position == 2


async def test_one_tenants_head_does_not_hold_up_another(db: Database, make_tenant: MakeTenant) -> None:
    busy, quick = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id

    async with held(db, busy):
        [event] = await asyncio.wait_for(happen(db, quick), 5)

    assert event.position == 1


@pytest.mark.parametrize("backwards", [False, True])
async def test_heads_are_locked_in_one_order_whatever_was_asked(
    db: Database, make_tenant: MakeTenant, backwards: bool
) -> None:
    tenants = sorted([(await make_tenant()).tenant_id, (await make_tenant()).tenant_id])
    batch = [happening for tenant_id in tenants for happening in happenings(tenant_id)]
    if backwards:
        batch.reverse()

    async def announce() -> list[Logged]:
        async with db.across("ingest", tenants) as connection:
            return await outbox.announce(connection, batch)

    async with held(db, tenants[0]):
        announcing = asyncio.create_task(announce())
        await until_blocked(db)
        async with db.across("ingest", tenants) as connection:  # the second is still free: nobody waits in a circle
            free = await connection.fetch(
                "SELECT tenant_id FROM feed_heads WHERE tenant_id = $1 FOR UPDATE NOWAIT", tenants[1]
            )
    logged = await announcing

    assert [row[0] for row in free] == [tenants[1]]
    assert [(event.tenant_id, event.position) for event in logged] == [(tenant_id, 1) for tenant_id in tenants]


async def test_a_tenant_without_a_head_has_no_events(db: Database) -> None:
    stranger = ids.new()

    with pytest.raises(LookupError):
        await happen(db, stranger)


async def test_a_head_of_a_tenant_that_was_not_named_is_out_of_reach(db: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id

    with pytest.raises(LookupError):
        async with db.across("ingest", [ours]) as connection:
            await outbox.announce(connection, happenings(theirs))

    assert await rows(db, theirs, "SELECT position FROM feed_heads") == [(0,)]


async def test_what_is_stored_becomes_the_webhooks_body_with_its_own_cursor(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id

    [_, event] = await happen(db, tenant_id, times=2)

    [(stored,)] = await rows(db, tenant_id, "SELECT body FROM events WHERE position = 2")
    assert stored.encode() == event.body
    body = orjson.loads(events.webhook_body(event.body, cursors.write(tenant_id, event.position)))
    assert list(body) == ["id", "type", "timestamp", "tenant_id", "feed_cursor", "data"]
    assert body["id"] == ids.show("evt", event.id)
    assert cursors.read(tenant_id, body["feed_cursor"]) == 2


async def test_each_tenant_is_rung_on_its_own_channel_and_workers_are_woken(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    ours, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    bell = Bell(None)
    await bell.start()
    batch = [*await happen(db, ours, 2), *await happen(db, theirs)]

    async with (
        bell.listen(events.channel(ours)) as our_listener,
        bell.listen(events.channel(theirs)) as their_listener,
        bell.listen(outbox.DELIVERIES) as worker,
    ):
        outbox.ring(bell, vault.bus_key, batch)
        heard = [await asyncio.wait_for(each.heard(), 5) for each in (our_listener, their_listener, worker)]
    await bell.stop()

    assert [read(vault, ours, message) for message in heard[0].messages] == [batch[:2]]
    assert [read(vault, theirs, message) for message in heard[1].messages] == [batch[2:]]
    assert read(vault, theirs, heard[0].messages[0]) is None
    assert Counter(heard[2].messages) == {b"1": 1}


def read(vault: Vault, tenant_id: UUID, message: bytes) -> list[Logged] | None:
    found = events.read_message(vault.bus_key, tenant_id, message)
    return None if found is None else list(found.events)


def test_nothing_happened_rings_for_nobody(vault: Vault) -> None:
    outbox.ring(Bell(None), vault.bus_key, [])

"""In touch or not: one event for each change, whoever notices it, and however many do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import presence
from app.domain.bindings import Contact
from app.domain.devices import Device
from app.domain.events import Logged
from tests.database import rows
from tests.factories import TenantFixture, make_device, make_tenant
from workers import sweeper

DELAY = timedelta(seconds=10)


@pytest.fixture
async def tenant(db: Database) -> TenantFixture:
    return await make_tenant(db)


async def call(db: Database, *devices: Device, ago: timedelta = timedelta()) -> list[Logged]:
    contacts = {(device.tenant_id, device.id): Contact(datetime.now(UTC) - ago) for device in devices}
    async with db.across("ingest", list({tenant_id for tenant_id, _ in contacts})) as connection:
        return await presence.note(connection, contacts)


async def miss(db: Database, tenant_id: UUID) -> list[Logged]:
    async with db.across("ingest", [tenant_id]) as connection:
        return await presence.miss(connection, tenant_id, DELAY, 1000)


async def happened(db: Database, tenant_id: UUID) -> list[tuple[str, Any]]:
    found = await rows(db, tenant_id, "SELECT type, body FROM events ORDER BY position")
    return [(kind, orjson.loads(text)["data"]["serial_number"]) for kind, text in found]


async def test_the_first_contact_is_announced_and_the_next_ones_are_not(db: Database, tenant: TenantFixture) -> None:
    device = await make_device(db, tenant.tenant_id, online=False)

    logged = [await call(db, device) for _ in range(3)]

    assert [len(batch) for batch in logged] == [1, 0, 0]
    data = orjson.loads(logged[0][0].body)["data"]
    assert data.pop("last_seen_at").endswith("Z")
    assert data == {
        "id": ids.show("dev", device.id),
        "serial_number": device.serial_number,
        "name": device.name,
        "site_id": None,
    }
    assert await happened(db, tenant.tenant_id) == [("device.online", device.serial_number)]


async def test_several_processes_that_hear_a_terminal_at_once_announce_it_once(
    db: Database, tenant: TenantFixture
) -> None:
    devices = [await make_device(db, tenant.tenant_id, online=False) for _ in range(3)]

    await asyncio.gather(*(call(db, *order) for order in (devices, devices[::-1]) for _ in range(3)))

    assert sorted(await happened(db, tenant.tenant_id)) == sorted(
        ("device.online", device.serial_number) for device in devices
    )


async def test_a_terminal_is_missed_sixty_seconds_after_the_contact_that_it_owed(
    db: Database, tenant: TenantFixture
) -> None:
    late = await make_device(db, tenant.tenant_id)
    waited_for = await make_device(db, tenant.tenant_id)
    await call(db, late, ago=timedelta(seconds=71))
    await call(db, waited_for, ago=timedelta(seconds=60))

    await miss(db, tenant.tenant_id)
    await miss(db, tenant.tenant_id)

    assert await happened(db, tenant.tenant_id) == [("device.offline", late.serial_number)]


async def test_several_workers_that_miss_a_terminal_at_once_announce_it_once(
    db: Database, tenant: TenantFixture
) -> None:
    device = await make_device(db, tenant.tenant_id)
    await call(db, device, ago=timedelta(seconds=90))

    await asyncio.gather(*(miss(db, tenant.tenant_id) for _ in range(6)))

    assert await happened(db, tenant.tenant_id) == [("device.offline", device.serial_number)]


async def test_a_terminal_that_comes_back_is_announced_again(db: Database, tenant: TenantFixture) -> None:
    device = await make_device(db, tenant.tenant_id, online=False)

    for _ in range(2):
        await call(db, device, ago=timedelta(seconds=90))
        await miss(db, tenant.tenant_id)

    assert [kind for kind, _ in await happened(db, tenant.tenant_id)] == ["device.online", "device.offline"] * 2


async def test_a_late_note_of_an_old_contact_does_not_keep_a_terminal_online(
    db: Database, tenant: TenantFixture
) -> None:
    device = await make_device(db, tenant.tenant_id)
    await call(db, device)
    await call(db, device, ago=timedelta(seconds=300))

    await miss(db, tenant.tenant_id)

    assert await happened(db, tenant.tenant_id) == []


async def test_one_that_never_called_or_was_retired_is_missed_by_nobody(db: Database, tenant: TenantFixture) -> None:
    await make_device(db, tenant.tenant_id)
    retired = await make_device(db, tenant.tenant_id, status="RETIRED")
    await call(db, retired, ago=timedelta(seconds=300))

    await miss(db, tenant.tenant_id)

    assert await happened(db, tenant.tenant_id) == []


async def test_the_worker_misses_terminals_of_all_tenants_and_rings_for_each(db: Database) -> None:
    found = [await make_device(db, (await make_tenant(db)).tenant_id) for _ in range(2)]
    await call(db, *found, ago=timedelta(seconds=90))
    rung: list[Logged] = []

    await sweeper.miss(db, DELAY, rung.extend)

    ours = {device.tenant_id for device in found}
    assert sorted(entry.tenant_id for entry in rung if entry.tenant_id in ours) == sorted(ours)
    for device in found:
        assert await happened(db, device.tenant_id) == [("device.offline", device.serial_number)]

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.database import Database
from app.domain import devices, sites
from app.domain.sites import Site, SiteNotFound, TimeZoneUnknown
from app.errors import AppError, InvalidInput
from tests.conftest import MakeTenant
from tests.factories import make_device


async def create(db: Database, tenant_id: UUID, name: str = "Depot", zone: str = "Africa/Casablanca") -> Site:
    async with db.write(tenant_id) as session:
        return await sites.create(session, tenant_id, name, zone)


async def look(db: Database, tenant_id: UUID, site_id: UUID) -> tuple[str, str] | None:
    async with db.read(tenant_id) as session:
        site = (await sites.by_ids(session, tenant_id, [site_id])).get(site_id)
    return (site.name, site.time_zone) if site else None


async def update(db: Database, tenant_id: UUID, site_id: UUID, **changes: Any) -> None:
    async with db.write(tenant_id) as session:
        await sites.update(session, tenant_id, site_id, changes)


async def delete(db: Database, tenant_id: UUID, site_id: UUID) -> None:
    async with db.write(tenant_id) as session:
        await sites.delete(session, tenant_id, site_id)


async def test_a_site_is_created_changed_and_deleted(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    site = await create(db, tenant_id)
    made = await look(db, tenant_id, site.id)
    await update(db, tenant_id, site.id, name="مستودع")
    renamed = await look(db, tenant_id, site.id)
    await update(db, tenant_id, site.id, time_zone="Asia/Kathmandu")
    moved = await look(db, tenant_id, site.id)
    await delete(db, tenant_id, site.id)

    assert made == ("Depot", "Africa/Casablanca")
    assert renamed == ("مستودع", "Africa/Casablanca")
    assert moved == ("مستودع", "Asia/Kathmandu")
    assert await look(db, tenant_id, site.id) is None


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "africa/casablanca", "+01:00", "../etc/passwd", "localtime", "\0"]
)
async def test_a_zone_that_iana_does_not_know_is_refused(db: Database, make_tenant: MakeTenant, zone: str) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with pytest.raises(TimeZoneUnknown) as refused:
        await create(db, tenant_id, zone=zone)

    assert refused.value.path == ("input", "timeZone")


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "a\x1fb", "a\x7fb", "a\x85b", "a\u2028b", "\udfff", "x" * 201])
async def test_a_name_that_is_none_is_refused(db: Database, make_tenant: MakeTenant, name: str) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with pytest.raises(InvalidInput) as refused:
        await create(db, tenant_id, name=name)

    assert refused.value.path == ("input", "name")


@pytest.mark.parametrize("changes", [{"name": None}, {"name": "A", "time_zone": None}, {"name": "A", "time_zone": "X"}])
async def test_a_refused_change_changes_nothing(db: Database, make_tenant: MakeTenant, changes: dict[str, Any]) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await create(db, tenant_id)

    with pytest.raises(AppError):
        await update(db, tenant_id, site.id, **changes)

    assert await look(db, tenant_id, site.id) == ("Depot", "Africa/Casablanca")


async def test_a_site_with_devices_is_not_deleted(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await create(db, tenant_id)
    await make_device(db, tenant_id, site_id=site.id)

    with pytest.raises(InvalidInput) as refused:
        await delete(db, tenant_id, site.id)

    assert refused.value.message == "1 devices are at this site: move or retire them before deleting it."
    assert await look(db, tenant_id, site.id) is not None


async def test_a_retired_device_lets_go_of_its_site_and_keeps_the_zone(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await create(db, tenant_id)
    device = await make_device(db, tenant_id, site_id=site.id, time_zone=None, status="RETIRED")

    await delete(db, tenant_id, site.id)

    async with db.read(tenant_id) as session:
        left = (await devices.by_ids(session, tenant_id, [device.id]))[device.id]
    assert (left.site_id, left.time_zone) == (None, "Africa/Casablanca")


async def test_a_site_is_not_deleted_under_a_device_that_is_being_put_there(
    db: Database, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await create(db, tenant_id)

    async with db.write(tenant_id) as session:
        await devices.register(session, tenant_id, "RACE1", site_id=site.id)
        deleting = asyncio.create_task(delete(db, tenant_id, site.id))
        await asyncio.sleep(0.2)
        waited = not deleting.done()

    with pytest.raises(InvalidInput):
        await deleting
    assert waited


async def test_a_device_is_not_put_where_a_site_is_being_deleted(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await create(db, tenant_id)

    async def register() -> None:
        async with db.write(tenant_id) as session:
            await devices.register(session, tenant_id, "RACE2", site_id=site.id)

    async with db.write(tenant_id) as session:
        await sites.delete(session, tenant_id, site.id)
        registering = asyncio.create_task(register())
        await asyncio.sleep(0.2)

    with pytest.raises(SiteNotFound):
        await registering
    async with db.read(tenant_id) as session:
        assert await devices.find_serial(session, tenant_id, "RACE2") is None


async def test_another_tenants_site_is_not_found(db: Database, make_tenant: MakeTenant) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    site = await create(db, theirs)

    for site_id in (site.id, ids.new()):
        with pytest.raises(SiteNotFound):
            await update(db, mine, site_id, name="Mine")
        with pytest.raises(SiteNotFound):
            await delete(db, mine, site_id)
        with pytest.raises(SiteNotFound):
            async with db.write(mine) as session:
                await devices.register(session, mine, "X1", site_id=site_id)

    assert await look(db, theirs, site.id) == ("Depot", "Africa/Casablanca")

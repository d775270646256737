from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.database import Database, driver
from app.domain import bindings, devices, events, sites
from app.domain.devices import (
    Address,
    Device,
    DeviceNotActive,
    DeviceNotFound,
    DeviceStatus,
    SerialNumberTaken,
    TimeZoneRequired,
)
from app.domain.events import Cursors, Logged
from app.errors import AppError, InvalidInput
from tests.conftest import MakeTenant
from tests.factories import make_device


async def register(db: Database, tenant_id: UUID, serial: str = "CKJF2", **given: Any) -> Device:
    async with db.write(tenant_id) as session:
        return await devices.register(session, tenant_id, serial, **({"time_zone": "UTC"} | given))


async def look(db: Database, tenant_id: UUID, device_id: UUID) -> Device:
    async with db.read(tenant_id) as session:
        return (await devices.by_ids(session, tenant_id, [device_id]))[device_id]


async def update(db: Database, tenant_id: UUID, device_id: UUID, **changes: Any) -> Device:
    async with db.write(tenant_id) as session:
        return await devices.update(session, tenant_id, device_id, changes)


async def approve(
    db: Database, tenant_id: UUID, device_id: UUID, *, shared: bool = False, **changes: Any
) -> tuple[Device, list[Logged]]:
    async with db.write(tenant_id) as session:
        return await bindings.approve(session, tenant_id, device_id, changes, shared=shared)


async def knock(db: Database, tenant_id: UUID, serial: str, address: Address = Address.OWN) -> bindings.Knock:
    async with db.across("ingest", [tenant_id]) as connection:
        return await bindings.knock(connection, tenant_id, serial, address)


async def logged(db: Database, tenant_id: UUID) -> list[Logged]:
    async with db.read(tenant_id) as session:
        return await events.after(await driver(session), tenant_id, 0, 100)


async def make_site(db: Database, tenant_id: UUID) -> sites.Site:
    async with db.write(tenant_id) as session:
        return await sites.create(session, tenant_id, "Depot", "Africa/Casablanca")


async def test_a_registered_device_waits_for_its_first_contact(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id

    device = await register(db, tenant_id, "A-b_c.9")
    waiting = await look(db, tenant_id, device.id)
    heard = await knock(db, tenant_id, "A-b_c.9")

    assert (waiting.name, waiting.status, waiting.registered) == ("A-b_c.9", DeviceStatus.PENDING, True)
    assert heard.device is not None
    assert (await look(db, tenant_id, device.id)).status == DeviceStatus.ACTIVE


@pytest.mark.parametrize("serial", ["", "a b", "a\n", "é", "x" * 65, "a/b", "\ud800"])
async def test_a_serial_number_that_is_none_is_refused(db: Database, make_tenant: MakeTenant, serial: str) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with pytest.raises(InvalidInput) as refused:
        await register(db, tenant_id, serial)

    assert refused.value.path == ("input", "serialNumber")


async def test_a_device_needs_a_zone_of_its_own_or_of_its_site(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await make_site(db, tenant_id)

    with pytest.raises(TimeZoneRequired):
        await register(db, tenant_id, time_zone=None)
    by_site = await register(db, tenant_id, time_zone=None, site_id=site.id)

    assert (by_site.site_id, by_site.time_zone) == (site.id, None)


async def test_a_refused_registration_leaves_nothing(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    for given in ({"time_zone": None}, {"time_zone": "Mars"}, {"site_id": ids.new()}, {"name": "\x00"}):
        with pytest.raises(AppError):
            await register(db, tenant_id, **given)

    async with db.read(tenant_id) as session:
        assert await devices.find_serial(session, tenant_id, "CKJF2") is None


async def test_a_serial_number_is_taken_until_its_device_retires(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    first = await register(db, tenant_id)

    with pytest.raises(SerialNumberTaken):
        await register(db, tenant_id)
    async with db.write(tenant_id) as session:
        await devices.retire(session, tenant_id, first.id)
    second = await register(db, tenant_id)

    assert second.id != first.id


async def test_two_tenants_may_have_the_same_serial_number(db: Database, make_tenant: MakeTenant) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id

    await register(db, mine, "SAME")
    await register(db, theirs, "SAME")


async def test_of_many_registrations_at_once_one_succeeds(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    outcomes = await asyncio.gather(*(register(db, tenant_id) for _ in range(8)), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Device"] + ["SerialNumberTaken"] * 7


async def test_a_device_that_knocked_first_is_completed(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await knock(db, tenant_id, "EARLY")
    async with db.read(tenant_id) as session:
        stranger = await devices.find_serial(session, tenant_id, "EARLY")
    assert stranger is not None

    device = await register(db, tenant_id, "EARLY", name="Gate")
    completed = await look(db, tenant_id, device.id)
    heard = await knock(db, tenant_id, "EARLY")

    assert device.id == stranger.id
    assert (completed.name, completed.status, completed.registered) == ("Gate", DeviceStatus.PENDING, True)
    assert heard.device is not None


async def test_absent_is_unchanged_and_none_clears(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    site = await make_site(db, tenant_id)
    device = await register(db, tenant_id, name="Gate", site_id=site.id)

    unchanged = await update(db, tenant_id, device.id)
    zoneless = await update(db, tenant_id, device.id, time_zone=None)
    with pytest.raises(TimeZoneRequired):
        await update(db, tenant_id, device.id, name="Lost", site_id=None)
    kept = await look(db, tenant_id, device.id)
    nameless = await update(db, tenant_id, device.id, name=None)

    assert (unchanged.name, unchanged.site_id, unchanged.time_zone) == ("Gate", site.id, "UTC")
    assert (zoneless.name, zoneless.site_id, zoneless.time_zone) == ("Gate", site.id, None)
    assert (kept.name, kept.site_id) == ("Gate", site.id)
    assert nameless.name == "CKJF2"


async def test_a_stranger_is_approved_where_it_knocked(db: Database, cursors: Cursors, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await knock(db, tenant_id, "NEW1")
    async with db.read(tenant_id) as session:
        stranger = await devices.find_serial(session, tenant_id, "NEW1")
    assert stranger is not None
    site = await make_site(db, tenant_id)

    device, announced = await approve(db, tenant_id, stranger.id, name="Gate", site_id=site.id)
    heard = await knock(db, tenant_id, "NEW1")

    assert (device.status, device.bound_addresses, device.registered) == (DeviceStatus.ACTIVE, ["own"], True)
    assert [(event.position, event.type) for event in announced] == [(1, "device.bound")]
    assert announced == await logged(db, tenant_id)
    assert announced[0].data() == {
        "id": ids.show("dev", device.id),
        "serial_number": "NEW1",
        "name": "Gate",
        "site_id": ids.show("sit", site.id),
        "time_zone": "Africa/Casablanca",
    }
    assert heard.device is not None


async def test_an_approval_without_a_zone_leaves_the_stranger_waiting(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id, status="PENDING", registered=False, time_zone=None, bound_addresses=[])

    with pytest.raises(TimeZoneRequired):
        await approve(db, tenant_id, device.id, name="Gate")

    left = await look(db, tenant_id, device.id)
    assert (left.status, left.registered, left.bound_addresses) == (DeviceStatus.PENDING, False, [])
    assert await logged(db, tenant_id) == []


@pytest.mark.parametrize("status", ["ACTIVE", "SUSPENDED", "RETIRED"])
async def test_what_does_not_wait_is_not_approved(
    db: Database, cursors: Cursors, make_tenant: MakeTenant, status: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id, status=status)

    with pytest.raises(InvalidInput):
        await approve(db, tenant_id, device.id)

    assert (await look(db, tenant_id, device.id)).status == status


async def test_an_active_device_that_knocks_elsewhere_is_approved_there_too(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id, sought_address="shared")

    approved, _ = await approve(db, tenant_id, device.id, shared=True)

    assert approved.bound_addresses == ["own", "shared"]


async def test_where_a_claim_binds_an_approval_does_not(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id, status="PENDING", sought_address="shared", bound_addresses=[])

    with pytest.raises(InvalidInput):
        await approve(db, tenant_id, device.id)

    assert (await look(db, tenant_id, device.id)).bound_addresses == []


async def test_on_the_shared_address_a_serial_number_has_one_tenant(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    taken = await make_device(db, theirs, bound_addresses=["shared"])
    device = await make_device(
        db,
        mine,
        serial_number=taken.serial_number,
        status="PENDING",
        sought_address="shared",
        bound_addresses=[],
    )

    with pytest.raises(SerialNumberTaken):
        await approve(db, mine, device.id, shared=True)

    assert (await look(db, mine, device.id)).status == DeviceStatus.PENDING
    assert await logged(db, mine) == []


async def test_a_device_is_suspended_resumed_and_retired(
    db: Database, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id)
    serial = device.serial_number

    seen = []
    for verb in (devices.suspend, devices.suspend, devices.resume, devices.resume, devices.retire, devices.retire):
        async with db.write(tenant_id) as session:
            await verb(session, tenant_id, device.id)
        heard = (await knock(db, tenant_id, serial)).device if verb is not devices.retire else None
        seen.append(((await look(db, tenant_id, device.id)).status, heard is not None))

    assert seen == [
        ("SUSPENDED", False),
        ("SUSPENDED", False),
        ("ACTIVE", True),
        ("ACTIVE", True),
        ("RETIRED", False),
        ("RETIRED", False),
    ]


@pytest.mark.parametrize("status", ["PENDING", "RETIRED"])
async def test_only_an_active_device_is_suspended(db: Database, make_tenant: MakeTenant, status: str) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await make_device(db, tenant_id, status=status)

    for verb in (devices.suspend, devices.resume):
        with pytest.raises(DeviceNotActive):
            async with db.write(tenant_id) as session:
                await verb(session, tenant_id, device.id)

    assert (await look(db, tenant_id, device.id)).status == status


async def test_another_tenants_device_is_not_found(db: Database, cursors: Cursors, make_tenant: MakeTenant) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    device = await make_device(db, theirs, name="Theirs")

    for device_id in (device.id, ids.new()):
        with pytest.raises(DeviceNotFound):
            await update(db, mine, device_id, name="Mine")
        with pytest.raises(DeviceNotFound):
            await approve(db, mine, device_id)
        for verb in (devices.suspend, devices.resume, devices.retire):
            with pytest.raises(DeviceNotFound):
                async with db.write(mine) as session:
                    await verb(session, mine, device_id)

    left = await look(db, theirs, device.id)
    assert (left.name, left.status) == ("Theirs", DeviceStatus.ACTIVE)
